"""The search for cliffs: problems all over the space of shapes, those furthest above their floor first."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import depthwise

from .layers import Layer
from .oracle import problem_of, spot_error
from .problem import LAYOUTS, Problem
from .report import factor, microseconds, table
from .roofline import Roofline
from .timing import ContenderError, Effort, call_timer, interleave, medians

KERNELS = (
    *((k, k) for k in range(1, 12)),
    *((1, k) for k in range(2, 12)),
    *((k, 1) for k in range(2, 12)),
)
CHANNELS = (1, 2, 3, 5, 17, 64, 100, 1000)
MULTIPLIERS = (1, 2, 3, 4, 8, 16)
STRIDES = (1, 2, 3)
DILATIONS = (1, 2, 5)
SIZES = (7, 14, 28, 56, 112, 224, 512)

#: Smaller problems are dominated by the call; larger ones say nothing new and take memory and time.
LEAST_MULTIPLY_ADDS, MOST_MULTIPLY_ADDS = 10**6, 2 * 10**9
MOST_BYTES = 256 << 20

#: What counts as a cliff: more than this many times the floor.
CLIFF = 4.0

_FIRST_LOOK = Effort(burst=0.002, seconds=0.01, rounds=5)
_SECOND_LOOK = Effort(burst=0.005, seconds=0.1, rounds=15)


@dataclass(frozen=True)
class Point:
    """One problem of the sweep with our time and its floor, in seconds."""

    layer: Layer
    problem: Problem
    time: float
    floor: float
    bound: str

    @property
    def ratio(self) -> float:
        return self.time / self.floor


def points(seed: int) -> Iterator[tuple[Layer, Problem]]:
    """Every problem within the limits, in an order that `seed` gives."""
    space = list(product(SIZES, CHANNELS, KERNELS, STRIDES, DILATIONS, MULTIPLIERS, LAYOUTS))
    random.Random(seed).shuffle(space)
    for size, channels, (kernel_h, kernel_w), stride, dilation, multiplier, layout in space:
        layer = Layer(size, size, channels, kernel_h, kernel_w, stride, dilation, multiplier)
        problem = problem_of(layer, op="forward", dtype="float32", layout=layout, batch=1)
        if LEAST_MULTIPLY_ADDS <= problem.multiply_adds <= MOST_MULTIPLY_ADDS and problem.bytes <= MOST_BYTES:
            yield layer, problem


def measure(
    layer: Layer, problem: Problem, roofline: Roofline, threads: int, thorough: bool = False
) -> Point:
    """Time `depthwise.conv2d` on one problem, after checking some of its outputs.

    Raises
    ------
    ContenderError
        If an output is wrong.
    """
    x, filter = problem.operands()
    call = partial(
        depthwise.conv2d,
        x,
        filter,
        stride=layer.stride,
        dilation=layer.dilation,
        layout=problem.layout,
        num_threads=threads,
    )
    wrong = spot_error(problem, x, filter, call())
    if wrong is not None:
        raise ContenderError(f"{layer.name} {problem.layout}: {wrong}")
    times = medians(interleave({"ours": call_timer(call)}, _SECOND_LOOK if thorough else _FIRST_LOOK))
    floor = roofline.floor(problem, threads)
    return Point(layer, problem, times["ours"], floor.seconds, floor.bound)


def refine(found: list[Point], count: int, again: Callable[[Point], Point]) -> list[Point]:
    """All points, the furthest above their floor first, after the `count` worst were measured `again`."""
    ordered = sorted(found, key=lambda point: -point.ratio)
    refined = [again(point) for point in ordered[:count]] + ordered[count:]
    return sorted(refined, key=lambda point: -point.ratio)


def worst_table(found: list[Point]) -> str:
    """A Markdown table of the points, in their order."""
    rows = [
        (
            point.layer.name,
            point.problem.layout,
            factor(point.ratio),
            microseconds(point.time),
            microseconds(point.floor),
            point.bound,
        )
        for point in found
    ]
    return table(("problem", "layout", "x floor", "ours, us", "floor, us", "bound"), rows, left=2)
