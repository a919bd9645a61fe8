"""Problems and their right answers: everything here asks the library's own semantics and reference."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

import numpy as np

from depthwise import _native, _spec, reference

from .layers import Layer
from .problem import Axis, Problem, to_layout

#: The largest error that still counts as right, relative to the largest magnitude of the result. It catches
#: another operation, not another rounding: the library's accuracy is the tests' business.
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 1e-4, "float64": 1e-11}


def spec_of(layer: Layer, *, dtype: str, layout: str, batch: int) -> _spec.Spec:
    """The layer as the library resolves it."""
    image = (layer.height, layer.width, layer.channels)
    shape = (batch, *image) if layout == "NHWC" else (batch, image[2], *image[:2])
    return _spec.general_spec(
        shape,
        (layer.kernel_h, layer.kernel_w, layer.channels, layer.multiplier),
        dtype,
        stride=layer.stride,
        dilation=layer.dilation,
        layout=layout,
    )


def problem_of(layer: Layer, *, op: str, dtype: str, layout: str, batch: int) -> Problem:
    """The layer as a problem, its padding and output sizes resolved by the library."""
    spec = spec_of(layer, dtype=dtype, layout=layout, batch=batch)
    h, w = Axis(**asdict(spec.height)), Axis(**asdict(spec.width))
    return Problem(op, dtype, layout, batch, layer.channels, layer.multiplier, h, w)


def native_plan(
    layer: Layer,
    *,
    op: str,
    dtype: str,
    layout: str,
    batch: int,
    kernel: str | None = None,
    isa: str | None = None,
) -> _native.Plan:
    """The engine's own plan of the layer, with the chosen kernel and instruction set or those to force.

    Raises
    ------
    ValueError
        If the forced kernel does not take the layer.
    """
    spec = spec_of(layer, dtype=dtype, layout=layout, batch=batch)
    return _native.Plan(*spec.native_arguments(cast("_spec.Op", op)), kernel, isa)


class Oracle:
    """Checks results of one problem, in either layout, against the float64 reference."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.expected = _reference(problem)
        self.scale = float(np.abs(self.expected).max(initial=0.0))

    def error(self, result: np.ndarray, layout: str) -> str | None:
        """What is wrong with `result`, an array in `layout`, or None if nothing is."""
        expected = self.expected
        if self.problem.op != "grad_filter":
            expected = to_layout(expected, self.problem.layout, layout)
        return mismatch(result, expected, TOLERANCE[self.problem.dtype] * self.scale, self.scale)


def mismatch(result: np.ndarray, expected: np.ndarray, allowed: float, scale: float) -> str | None:
    """What is wrong with `result`, whose values reach `scale`: another shape, or an error above `allowed`."""
    if result.shape != expected.shape:
        return f"shape {result.shape} instead of {expected.shape}"
    difference = float(np.abs(result.astype(np.float64) - expected).max(initial=0.0))
    if difference <= allowed:
        return None
    return f"differs by {difference:.3g} where values reach {scale:.3g}"


def spot_error(
    problem: Problem,
    x: np.ndarray,
    filter: np.ndarray,
    y: np.ndarray,
    points: int = 16,
    rounding: float = 0.0,
) -> str | None:
    """What is wrong with the forward result `y` at some random outputs and at two corners, or None.

    The values of `y` may be off by `rounding` besides.
    """
    if y.shape != problem.y_shape:
        return f"shape {y.shape} instead of {problem.y_shape}"
    x, y = (to_layout(array, problem.layout, "NHWC") for array in (x, y))
    random = np.random.default_rng(problem.seed)
    places = [tuple(int(random.integers(0, size)) for size in y.shape) for _ in range(points)]
    places += [(0, 0, 0, 0), tuple(size - 1 for size in y.shape)]
    for place in places:
        expected, scale = _output_at(problem, x, filter, *place)
        if not abs(float(y[place]) - expected) <= TOLERANCE[problem.dtype] * scale + rounding:
            return f"{float(y[place]):.6g} instead of {expected:.6g} at {place} of NHWC"
    return None


def _output_at(
    problem: Problem, x: np.ndarray, filter: np.ndarray, n: int, i: int, j: int, channel: int
) -> tuple[float, float]:
    """One output of the NHWC image `x`, and the sum of the magnitudes of its terms."""
    k, q = divmod(channel, problem.multiplier)
    rows, row_taps = _live(problem.h, i)
    columns, column_taps = _live(problem.w, j)
    window = x[n, rows[:, None], columns, k].astype(np.float64)
    terms = window * filter[row_taps[:, None], column_taps, k, q].astype(np.float64)
    return float(terms.sum()), float(np.abs(terms).sum())


def _live(axis: Axis, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that the output at `position` meets inside the image, and the taps that meet them."""
    taps = np.arange(axis.kernel)
    pixels = position * axis.stride - axis.pad_before + taps * axis.dilation
    inside = (pixels >= 0) & (pixels < axis.input)
    return pixels[inside], taps[inside]


def _reference(problem: Problem) -> np.ndarray:
    a, b = problem.operands()
    keywords: dict[str, Any] = {
        "stride": (problem.h.stride, problem.w.stride),
        "dilation": (problem.h.dilation, problem.w.dilation),
        "layout": problem.layout,
    }
    if problem.op == "forward":
        return reference.conv2d(a, b, **keywords)
    if problem.op == "grad_input":
        return reference.conv2d_grad_input(problem.x_shape, b, a, **keywords)
    return reference.conv2d_grad_filter(a, problem.filter_shape, b, **keywords)
