"""The three operations on tensors, and what their results look like without computing them.

Images are logically [batch, channels, height, width], whatever their memory order, which the result keeps. A
filter is [kh, kw, channels, multiplier], or [kh, kw] for every channel. `padding` is (top, bottom, left,
right), or None for "SAME"; `num_threads` is 0 for as many as `torch.get_num_threads()` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _spec
from .._config import MAX_THREADS
from .._engine import Operation
from .._operations import general_operation
from .arrays import (
    Array,
    dtype_name,
    empty_image,
    image_shape,
    image_to_numpy,
    image_to_tensor,
    memory_layout,
    numpy_dtype,
    to_numpy,
    to_tensor,
)
from .team import join_threads

Sizes = Sequence[Any]

join_threads()


def forward(
    x: Tensor,
    filter: Tensor,
    bias: Tensor | None,
    activation: str | None,
    stride: Sizes,
    padding: Sizes | None,
    dilation: Sizes,
    border: str,
    algorithm: str,
    num_threads: int,
    out: Tensor | None = None,
) -> Tensor:
    """The convolution, with its bias and activation."""
    layout = memory_layout(x)
    operation = operation_for(
        "forward",
        image_shape(x, layout),
        tuple(filter.shape),
        None,
        (x, filter),
        layout,
        (stride, padding, dilation, border, algorithm),
        bias is not None,
        activation,
    )
    bias_array = None if bias is None else to_numpy(bias)
    arrays = image_to_numpy(x, layout), to_numpy(filter.contiguous()), bias_array
    return _image_result(operation, arrays, layout, out, num_threads)


def grad_input(
    grad: Tensor,
    filter: Tensor,
    x_shape: Sizes,
    stride: Sizes,
    padding: Sizes | None,
    dilation: Sizes,
    border: str,
    algorithm: str,
    num_threads: int,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient with respect to `x`, which lies in memory as `grad` does."""
    layout = memory_layout(grad)
    batch, channels, height, width = x_shape
    operation = operation_for(
        "grad_input",
        (batch, channels, height, width) if layout == "NCHW" else (batch, height, width, channels),
        tuple(filter.shape),
        image_shape(grad, layout),
        (grad, filter),
        layout,
        (stride, padding, dilation, border, algorithm),
    )
    arrays = image_to_numpy(grad, layout), to_numpy(filter.contiguous()), None
    return _image_result(operation, arrays, layout, out, num_threads)


def grad_filter(
    x: Tensor,
    grad: Tensor,
    filter_shape: Sizes,
    stride: Sizes,
    padding: Sizes | None,
    dilation: Sizes,
    border: str,
    algorithm: str,
    num_threads: int,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient with respect to the filter."""
    layout = memory_layout(x)
    operation = operation_for(
        "grad_filter",
        image_shape(x, layout),
        tuple(filter_shape),
        image_shape(grad, layout),
        (x, grad),
        layout,
        (stride, padding, dilation, border, algorithm),
    )
    arrays = image_to_numpy(x, layout), image_to_numpy(grad, layout)
    if out is None:
        return to_tensor(operation.run_checked(*arrays, None, None, threads(num_threads)))
    operation.run_checked(*arrays, None, to_numpy(out), threads(num_threads))
    return out


def threads(num_threads: int) -> int:
    """The limit for the engine: what the caller says, else what PyTorch was told."""
    return num_threads or min(torch.get_num_threads(), MAX_THREADS)


def fake_forward(
    x: Tensor,
    filter: Tensor,
    bias: Tensor | None,
    activation: str | None,
    stride: Sizes,
    padding: Sizes | None,
    dilation: Sizes,
    border: str,
    algorithm: str,
    num_threads: int,
) -> Tensor:
    """A tensor of the shape and memory order of `forward`'s result."""
    check_shapes(x.shape, filter.shape, (x, filter), stride, padding, dilation)
    multiplier = filter.shape[3] if filter.ndim == 4 else 1
    pads: Any = ("SAME", "SAME") if padding is None else (tuple(padding[:2]), tuple(padding[2:]))
    height, width = (
        _spec.output_size(x.shape[2 + axis], filter.shape[axis], stride[axis], dilation[axis], pads[axis])
        for axis in (0, 1)
    )
    return empty_image(x, (x.shape[0], x.shape[1] * multiplier, height, width), memory_layout(x))


def fake_grad_input(grad: Tensor, filter: Tensor, x_shape: Sizes, *rest: Any) -> Tensor:
    """A tensor of the shape and memory order of `grad_input`'s result."""
    check_shapes(x_shape, filter.shape, (grad, filter), *rest[:3])
    return empty_image(grad, tuple(x_shape), memory_layout(grad))


def fake_grad_filter(x: Tensor, grad: Tensor, filter_shape: Sizes, *rest: Any) -> Tensor:
    """A tensor of the shape of `grad_filter`'s result."""
    check_shapes(x.shape, filter_shape, (x, grad), *rest[:3])
    return x.new_empty(tuple(filter_shape))


def check_shapes(
    x_shape: Sizes,
    filter_shape: Sizes,
    tensors: tuple[Tensor, Tensor],
    stride: Sizes,
    padding: Sizes | None,
    dilation: Sizes,
) -> None:
    """Raise what `general_operation` would; sizes that are symbolic can only be checked when it runs."""
    if all(isinstance(size, int) for size in (*x_shape, *filter_shape)):
        _spec.general_spec(
            tuple(x_shape),
            tuple(filter_shape),
            _spec.common_dtype({f"operand {i}": dtype_name(t.dtype) for i, t in enumerate(tensors)}),
            stride=tuple(stride),
            padding=_padding(padding),
            dilation=tuple(dilation),
            layout="NCHW",
        )


def operation_for(
    op: _spec.Op,
    x_shape: tuple[int, ...],
    filter_shape: tuple[int, ...],
    grad_shape: tuple[int, ...] | None,
    tensors: tuple[Tensor, Tensor],
    layout: str,
    geometry: tuple[Any, ...],
    has_bias: bool = False,
    activation: str | None = None,
) -> Operation:
    """What runs for operands of these shapes, and of these two tensors' dtypes."""
    stride, padding, dilation, border, algorithm = geometry
    return general_operation(
        op,
        x_shape,
        filter_shape,
        grad_shape,
        (numpy_dtype(tensors[0]), numpy_dtype(tensors[1])),
        tuple(stride),
        _padding(padding),
        tuple(dilation),
        layout,
        border,
        has_bias,
        activation,
        None,
        algorithm,
    )


def _padding(padding: Sizes | None) -> Any:
    return "SAME" if padding is None else (tuple(padding[:2]), tuple(padding[2:]))


def _image_result(
    operation: Operation,
    arrays: tuple[Array, Array, Array | None],
    layout: str,
    out: Tensor | None,
    num_threads: int,
) -> Tensor:
    if out is None:
        return image_to_tensor(operation.run_checked(*arrays, None, threads(num_threads)), layout)
    array = to_numpy(out)
    operation.run_checked(
        *arrays, array if layout == "NCHW" else array.transpose(0, 2, 3, 1), threads(num_threads)
    )
    return out
