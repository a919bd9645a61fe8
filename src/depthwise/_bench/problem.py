"""One problem to run: a layer with its batch, operation, layout and dtype, every size resolved.

Importable without ``depthwise``: peers run it in other environments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

OPS = ("forward", "grad_input", "grad_filter")
LAYOUTS = ("NHWC", "NCHW")
DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Axis:
    """Sizes of one spatial axis, named from the forward operation's view."""

    input: int
    output: int
    kernel: int
    stride: int
    dilation: int
    pad_before: int
    pad_after: int

    @property
    def live_taps(self) -> int:
        """Pairs of an output position and a tap that falls inside the image."""
        starts = np.arange(self.output)[:, None] * self.stride - self.pad_before
        positions = starts + np.arange(self.kernel)[None, :] * self.dilation
        return int(np.count_nonzero((positions >= 0) & (positions < self.input)))


@dataclass(frozen=True)
class Problem:
    """A depthwise convolution, or one of its gradients, with "SAME" padding."""

    op: str
    dtype: str
    layout: str
    batch: int
    channels: int
    multiplier: int
    h: Axis
    w: Axis
    seed: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Problem:
        rest = {key: value for key, value in values.items() if key not in ("h", "w")}
        return cls(h=Axis(**values["h"]), w=Axis(**values["w"]), **rest)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self._image_shape(self.h.input, self.w.input, self.channels)

    @property
    def filter_shape(self) -> tuple[int, ...]:
        return (self.h.kernel, self.w.kernel, self.channels, self.multiplier)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return self._image_shape(self.h.output, self.w.output, self.channels * self.multiplier)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of the two operands and of the result of `op`."""
        return {
            "forward": (self.x_shape, self.filter_shape, self.y_shape),
            "grad_input": (self.y_shape, self.filter_shape, self.x_shape),
            "grad_filter": (self.x_shape, self.y_shape, self.filter_shape),
        }[self.op]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the textbook sum, taps in the padding counted too."""
        return math.prod(self.y_shape) * self.h.kernel * self.w.kernel

    @property
    def live_multiply_adds(self) -> int:
        """Multiply-adds whose tap falls inside the image."""
        return self.batch * self.channels * self.multiplier * self.h.live_taps * self.w.live_taps

    @property
    def bytes(self) -> int:
        """Bytes of both operands and of the result."""
        return sum(math.prod(shape) for shape in self.shapes) * numpy_dtype(self.dtype).itemsize

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays of values in [-1, 1): the same ones in every process, transposed in the other layout.

        Each begins at a cache line, as those of PyTorch, TensorFlow and JAX do.
        """
        rng = np.random.default_rng(self.seed)
        first, second, _ = replace(self, layout="NHWC").shapes
        a, b = (self._random(rng, shape) for shape in (first, second))
        return _at_line(self._arrange(a)), _at_line(self._arrange(b) if self.op == "grad_filter" else b)

    def _random(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return (2 * rng.random(shape, np.float32) - 1).astype(numpy_dtype(self.dtype))

    def _arrange(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(to_layout(image, "NHWC", self.layout))

    def _image_shape(self, height: int, width: int, channels: int) -> tuple[int, ...]:
        if self.layout == "NHWC":
            return (self.batch, height, width, channels)
        return (self.batch, channels, height, width)


def _at_line(array: np.ndarray) -> np.ndarray:
    """A copy of the array that begins at a cache line."""
    line = 64
    room = np.empty(array.nbytes + line, np.uint8)
    start = -room.ctypes.data % line
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of that name; bfloat16 is ml_dtypes' one."""
    source: Any = import_module("ml_dtypes") if name == "bfloat16" else np
    dtype: np.dtype[Any] = np.dtype(getattr(source, name))
    return dtype


def to_layout(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """A view of a 4-D image batch in the other layout."""
    if source == target:
        return array
    return np.moveaxis(array, 3, 1) if target == "NCHW" else np.moveaxis(array, 1, 3)
