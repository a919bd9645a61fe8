"""What the adapters add to a NumPy call, and what PyTorch's threads and ours cost each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

import depthwise

from .overhead import SMALL
from .stats import Timing
from .timing import Effort, call_timer, interleave, medians

_EFFORT = Effort(burst=0.004, seconds=0.3, rounds=60)
_RUN_IN = 0.7

#: Sides and channels of the images on which PyTorch's convolution and ours run in turn.
_TURNS = ((14, 256), (28, 128), (56, 64))


@dataclass(frozen=True)
class Added:
    """The small call through an adapter beside the same call on NumPy arrays, in seconds."""

    name: str
    plain: Timing
    adapted: Timing

    @property
    def seconds(self) -> float:
        return self.adapted.median - self.plain.median


@dataclass(frozen=True)
class Turns:
    """PyTorch's pointwise convolution and our depthwise one: each alone, and one after the other."""

    size: int
    channels: int
    theirs: float
    ours: float
    both: float

    @property
    def slowdown(self) -> float:
        return self.both / (self.theirs + self.ours) - 1


def added() -> Iterator[Added]:
    """What each adapter whose framework is installed adds to the small call."""
    for name, prepare in _FRAMEWORKS.items():
        if find_spec(name) is not None:
            yield _added(*prepare(import_module(name)))


def turns(threads: int) -> Iterator[Turns]:
    """How much slower calls of PyTorch and of ours get by following each other, on that many threads."""
    torch: Any = import_module("torch")
    own: Any = import_module("depthwise.torch")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for size, channels in _TURNS:
                yield _turns(torch, own.conv2d, size, channels)
    finally:
        torch.set_num_threads(before)


def _turns(torch: Any, conv2d: Callable[..., Any], size: int, channels: int) -> Turns:
    x = torch.ones(1, channels, size, size).contiguous(memory_format=torch.channels_last)
    pointwise, filter = torch.ones(channels, channels, 1, 1), torch.ones(channels, 1, 3, 3)

    def theirs() -> None:
        torch.nn.functional.conv2d(x, pointwise)

    def ours() -> None:
        conv2d(x, filter, padding=1)

    def both() -> None:
        theirs()
        ours()

    calls = {"theirs": theirs, "ours": ours, "both": both}
    times = medians(interleave({name: call_timer(call) for name, call in calls.items()}, _EFFORT))
    return Turns(size, channels, **times)


def _added(name: str, x: Any, filter: Any, call: Callable[[Any, Any], object]) -> Added:
    array, array_filter = _operands()
    calls = {
        "plain": lambda: depthwise.conv2d(array, array_filter, num_threads=1),
        "adapted": lambda: call(x, filter),
    }
    _run_in(calls["adapted"])
    outcomes = interleave({key: call_timer(one) for key, one in calls.items()}, _EFFORT)
    timings = {key: Timing.of(samples) for key, samples in outcomes.items() if isinstance(samples, list)}
    return Added(name, **timings)


def _run_in(call: Callable[[], object]) -> None:
    """Call for a while: for the first half second of a framework in a process, calls take twice as long."""
    until = time.perf_counter() + _RUN_IN
    while time.perf_counter() < until:
        call()


def _operands() -> tuple[np.ndarray, np.ndarray]:
    x = np.ones((1, SMALL.height, SMALL.width, SMALL.channels), np.float32)
    return x, np.ones((SMALL.kernel_h, SMALL.kernel_w, SMALL.channels, 1), np.float32)


def _torch(torch: Any) -> tuple[str, Any, Any, Callable[[Any, Any], object]]:
    x, filter = map(torch.from_numpy, _operands())
    return "PyTorch", x, filter, lambda x, filter: depthwise.conv2d(x, filter, num_threads=1)


def _jax(jax: Any) -> tuple[str, Any, Any, Callable[[Any, Any], object]]:
    x, filter = map(jax.device_put, _operands())
    compiled = jax.jit(lambda x, filter: depthwise.conv2d(x, filter, num_threads=1))
    return "JAX under jit", x, filter, lambda x, filter: compiled(x, filter).block_until_ready()


def _tensorflow(tf: Any) -> tuple[str, Any, Any, Callable[[Any, Any], object]]:
    x, filter = map(tf.constant, _operands())
    return "TensorFlow, eager", x, filter, lambda x, filter: depthwise.conv2d(x, filter, num_threads=1)


_FRAMEWORKS: dict[str, Callable[[Any], tuple[str, Any, Any, Callable[[Any, Any], object]]]] = {
    "torch": _torch,
    "jax": _jax,
    "tensorflow": _tensorflow,
}
