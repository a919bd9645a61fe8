"""A layer in eval mode, where its calls differ in the image alone: what they share is kept.

An ordinary call resolves its arguments, packs the filter and passes three libraries' arrays around; on the
small images at the end of a network that takes several times as long as the convolution.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _native
from . import kernels
from .arrays import image_shape, memory_layout, to_numpy

# A layer sees few shapes; one that sees more than this forgets them and starts again.
_MOST_PROBLEMS = 256
# Bytes of packed, transformed and factored filters that it may keep.
_MOST_PREPARED_BYTES = 64 * 2**20


class Problem(NamedTuple):
    """What calls with images of one shape, memory order and dtype have in common."""

    run: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kept: _native.Prepared | None  # of the filter


class Prepared:
    """The convolution with one filter, a contiguous [kh, kw, channels, M] tensor that never changes.

    Calls must not need derivatives, nor be watched or transformed by PyTorch. Copies and pickles are None.
    """

    __slots__ = ("_address", "_arguments", "_misaligned", "_problems", "filter")

    def __init__(self, filter: Tensor, activation: str | None, geometry: tuple[Any, ...]) -> None:
        self.filter = filter
        self._address = filter.data_ptr()
        self._arguments = activation, geometry
        self._misaligned = filter.element_size() - 1
        self._problems: dict[tuple[Any, ...], Problem] = {}

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """The result; None where the ordinary way has to be taken, if only to raise the right error."""
        if not _is_readable(x) or not (bias is None or _is_readable(bias)):
            return None
        key = x.shape, x.stride(), x.dtype, None if bias is None else (bias.shape, bias.stride(), bias.dtype)
        problem = self._problems.get(key)
        if problem is None:
            problem = self._problem(x, bias)
            if problem is None:
                return None
            self._remember(key, problem)
        address, bias_address = x.data_ptr(), 0 if bias is None else bias.data_ptr()
        if (address | bias_address) & self._misaligned:
            return None
        y = x.new_empty_strided(problem.shape, problem.strides)  # wherever PyTorch's default device is
        limit = kernels.threads(0)
        problem.run(address, self._address, bias_address, y.data_ptr(), limit, problem.kept)
        return y

    def _problem(self, x: Tensor, bias: Tensor | None) -> Problem | None:
        """What will be the same next time, if an image like this is read in place."""
        activation, geometry = self._arguments
        if x.ndim != 4 or 0 in x.shape or 0 in self.filter.shape or x.dtype != self.filter.dtype:
            return None
        if bias is not None and not (bias.is_contiguous() and bias.dtype == x.dtype):
            return None
        layout = memory_layout(x)
        memory_format = torch.channels_last if layout == "NHWC" else torch.contiguous_format
        if not x.is_contiguous(memory_format=memory_format):
            return None
        operation = kernels.operation_for(
            "forward",
            image_shape(x, layout),
            tuple(self.filter.shape),
            None,
            (x, self.filter),
            layout,
            geometry,
            bias is not None,
            activation,
        )
        shape, strides = _in_nchw(operation.result_shape, layout)
        if 0 in shape or (bias is not None and tuple(bias.shape) != shape[1:2]):
            return None
        worth_keeping = 0 < operation.prepared_bytes <= _MOST_PREPARED_BYTES
        kept = operation.prepare(to_numpy(self.filter), kernels.threads(0)) if worth_keeping else None
        return Problem(operation.native.run_at, shape, strides, kept)

    def _remember(self, key: tuple[Any, ...], problem: Problem) -> None:
        sizes = [one.kept.bytes for one in self._problems.copy().values() if one.kept is not None]
        size = 0 if problem.kept is None else problem.kept.bytes
        if len(self._problems) >= _MOST_PROBLEMS or size + sum(sizes) > _MOST_PREPARED_BYTES:
            self._problems = {}
        self._problems[key] = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return _forgotten, ()


class Packed:
    """The filter that lies in a layer's weight, repacked when the weight's bytes have changed.

    PyTorch's version counter would tell of most changes, though not of those through ``.data``. A constant
    weight is a tensor that nobody else has.
    """

    __slots__ = ("_constant", "_copy", "_form", "prepared", "settings")

    def __init__(
        self, weight: Tensor, prepared: Prepared, settings: tuple[Any, ...], is_constant: bool
    ) -> None:
        self.settings = settings
        self._constant = weight if is_constant else None
        self._copy = weight.detach().clone()
        self._form = weight.shape, weight.stride(), weight.dtype
        self.prepared = prepared

    @staticmethod
    def is_possible(weight: Tensor) -> bool:
        """Whether the weight lies in memory without gaps, so that its bytes can be compared."""
        span = (
            sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True)) + 1
        )
        return _is_readable(weight) and span == math.prod(weight.shape)

    def fits(self, weight: Tensor) -> bool:
        """Whether the weight is still what was packed."""
        return weight is self._constant or (
            _is_readable(weight)
            and (weight.shape, weight.stride(), weight.dtype) == self._form
            and _native.same_bytes(weight.data_ptr(), self._copy.data_ptr(), self._copy.nbytes)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _forgotten, ()


def _is_readable(tensor: Tensor) -> bool:
    """Whether the tensor's elements lie where `data_ptr` says, in the CPU's memory."""
    return tensor.is_cpu and tensor.layout is torch.strided and not tensor.is_neg() and not tensor.is_nested


def _in_nchw(shape: tuple[int, ...], layout: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides, as [batch, channels, height, width], of an image that is contiguous in `layout`."""
    if layout == "NCHW":
        batch, channels, height, width = shape
        return shape, (channels * height * width, height * width, width, 1)
    batch, height, width, channels = shape
    strides = (height * width * channels, 1, width * channels, channels)
    return (batch, channels, height, width), strides


def _forgotten() -> None:
    """What a copy or a pickle has in place of what was kept."""
