"""What a call costs beside its arithmetic: the small problem in every way to call it, and the thread pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import depthwise

from .layers import Layer
from .oracle import native_plan, problem_of
from .stats import Timing
from .timing import Effort, call_timer, interleave, medians

#: 1x4x4x8 with a 3x3 filter: so small that arithmetic does not count.
SMALL = Layer(4, 4, 8, 3, 3)

_CASE: dict[str, Any] = {"op": "forward", "dtype": "float32", "layout": "NHWC", "batch": 1}

_EFFORT = Effort(burst=0.002, seconds=0.2, rounds=60)


@dataclass(frozen=True)
class Dispatch:
    """A layer on one and on two threads, in seconds."""

    layer: Layer
    single: float
    double: float

    @property
    def cost(self) -> float:
        """What two threads take beyond half of what one takes: dispatch, waiting and imbalance together."""
        return self.double - self.single / 2


def call_overhead() -> dict[str, Timing]:
    """Times of the small call, one thread, beside `numpy.add` on the same array."""
    x, filter = problem_of(SMALL, **_CASE).operands()
    out = np.empty_like(x)
    operator = depthwise.Conv2D(filter, num_threads=1)
    plan = native_plan(SMALL, **_CASE)
    calls: dict[str, Callable[[], object]] = {
        "numpy.add(x, x)": lambda: np.add(x, x),
        "depthwise.conv2d(x, filter)": lambda: depthwise.conv2d(x, filter, num_threads=1),
        "depthwise.conv2d(x, filter, out=out)": lambda: depthwise.conv2d(x, filter, out=out, num_threads=1),
        "depthwise.depthwise_conv2d(x, filter, ...)": lambda: depthwise.depthwise_conv2d(
            x, filter, (1, 1, 1, 1), "SAME"
        ),
        "Conv2D(filter)(x)": lambda: operator(x),
        "Conv2D(filter)(x, out=out)": lambda: operator(x, out=out),
        "the native plan alone": lambda: plan.run(x, filter, None, out, 1),
    }
    outcomes = interleave({name: call_timer(call) for name, call in calls.items()}, _EFFORT)
    return {name: Timing.of(samples) for name, samples in outcomes.items() if isinstance(samples, list)}


def pool_dispatch() -> list[Dispatch]:
    """The smallest layers of a few sizes that the plan gives to two threads, on one and on two."""
    found = []
    for channels in (64, 256, 1024):
        layer = _smallest_shared(channels)
        if layer is not None:
            found.append(_dispatch(layer))
    return found


def _smallest_shared(channels: int) -> Layer | None:
    """The smallest square 3x3 layer of that many channels on which the plan uses two threads."""
    for size in range(4, 128):
        layer = Layer(size, size, channels, 3, 3)
        if native_plan(layer, **_CASE).describe(2)["threads"] == 2:
            return layer
    return None


def _dispatch(layer: Layer) -> Dispatch:
    x, filter = problem_of(layer, **_CASE).operands()
    out = np.empty(x.shape, x.dtype)
    operators = {n: depthwise.Conv2D(filter, num_threads=n) for n in (1, 2)}
    timers = {n: call_timer(partial(operator, x, out=out)) for n, operator in operators.items()}
    times = medians(interleave(timers, _EFFORT))
    return Dispatch(layer, times[1], times[2])
