"""The public functions of `depthwise` for tensors: the same signatures, checks and bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import _spec
from .._config import call_threads, thread_limit
from .._engine import Operation
from .._operations import (
    check_dtype,
    check_no_epilogue,
    dtype_name,
    general_operation,
    tensorflow_operation,
)
from .._spec import plain, plain_padding, word
from . import arrays, operators
from .arrays import check_tensor, numpy_dtype, to_numpy, to_tensor
from .kernels import threads

# Stride, padding, dilation, border, algorithm, number of threads: what all operators take at their end.
Geometry = tuple[Any, ...]

# Results of at most this many elements are allocated by PyTorch. Beyond, what a call costs does not count,
# and NumPy asks for huge pages and says better what could not be allocated.
_SMALL = 1 << 18


def depthwise_conv2d(
    input: Tensor,
    filter: Tensor,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    dilations: Any = None,
    name: Any = None,
) -> Tensor:
    """`depthwise.depthwise_conv2d` for tensors."""
    tensors = input, filter
    if _is_plain(("input", "filter"), tensors):
        operation = _tensorflow_operation(
            "forward",
            (input.shape, filter.shape, None),
            (input, filter),
            (strides, padding, data_format, dilations),
        )
        if _is_direct(tensors, input):
            return _run_directly(operation, input, filter)
    layout, geometry = _tensorflow("forward", strides, padding, data_format, dilations)
    result = operators.forward(_to_nchw(input, layout), filter, None, None, *geometry)
    return _from_nchw(result, layout, batched=True)


def depthwise_conv2d_backprop_input(
    input_sizes: Any,
    filter: Tensor,
    out_backprop: Tensor,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> Tensor:
    """`depthwise.depthwise_conv2d_backprop_input` for tensors."""
    tensors = filter, out_backprop
    if _is_plain(("filter", "out_backprop"), tensors):
        input_sizes = plain("input_sizes", input_sizes)
        operation = _tensorflow_operation(
            "grad_input",
            (input_sizes, filter.shape, out_backprop.shape),
            (out_backprop, filter),
            (strides, padding, data_format, dilations),
        )
        if _is_direct(tensors, out_backprop):
            return _run_directly(operation, out_backprop, filter)
    layout, geometry = _tensorflow("grad_input", strides, padding, data_format, dilations)
    grad = _to_nchw(out_backprop, layout)
    result = operators.grad_input(grad, filter, _nchw_shape(input_sizes, layout), *geometry)
    return _from_nchw(result, layout, batched=True)


def depthwise_conv2d_backprop_filter(
    input: Tensor,
    filter_sizes: Any,
    out_backprop: Tensor,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> Tensor:
    """`depthwise.depthwise_conv2d_backprop_filter` for tensors."""
    tensors = input, out_backprop
    if _is_plain(("input", "out_backprop"), tensors):
        filter_sizes = plain("filter_sizes", filter_sizes)
        operation = _tensorflow_operation(
            "grad_filter",
            (input.shape, filter_sizes, out_backprop.shape),
            (input, out_backprop),
            (strides, padding, data_format, dilations),
        )
        if _is_direct(tensors, input, out_backprop) and _lies_in(operation.spec.layout, input):
            return _run_directly(operation, input, out_backprop)
    layout, geometry = _tensorflow("grad_filter", strides, padding, data_format, dilations)
    x, grad = _to_nchw(input, layout), _to_nchw(out_backprop, layout)
    return operators.grad_filter(x, grad, tuple(filter_sizes), *geometry)


def conv2d(
    x: Tensor,
    filter: Tensor,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: Tensor | None = None,
    activation: str | None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: Tensor | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """`depthwise.conv2d` for tensors."""
    tensors = x, filter, bias, out
    dtype = _dtype_name(dtype)
    if _is_plain(("x", "filter", "bias", "out"), tensors):
        operation = _general_operation(
            "forward",
            (x.shape, filter.shape, None),
            (x, filter),
            (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm),
        )
        if _is_direct(tensors, x):
            return _run_directly(operation, x, filter, bias, out, num_threads)
    check_dtype(dtype, arrays.dtype_name(filter.dtype))
    geometry = _general(stride, padding, dilation, layout, border, activation, algorithm, num_threads)
    operands = _to_nchw(x, layout), filter, bias, activation, *geometry
    return _run_image(operators.forward, operands, layout, x.ndim == 4, out)


def conv2d_grad_input(
    x_shape: Any,
    filter: Tensor,
    grad: Tensor,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: None = None,
    activation: None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: Tensor | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """`depthwise.conv2d_grad_input` for tensors."""
    tensors = filter, grad, out
    dtype = _dtype_name(dtype)
    if _is_plain(("filter", "grad", "out"), tensors):
        x_shape = plain("x_shape", x_shape)
        operation = _general_operation(
            "grad_input",
            (x_shape, filter.shape, grad.shape),
            (grad, filter),
            (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm),
        )
        if _is_direct(tensors, grad):
            return _run_directly(operation, grad, filter, None, out, num_threads)
    check_dtype(dtype, arrays.dtype_name(filter.dtype))
    check_no_epilogue(bias is not None, activation)
    geometry = _general(stride, padding, dilation, layout, border, None, algorithm, num_threads)
    operands = _to_nchw(grad, layout), filter, _nchw_shape(x_shape, layout), *geometry
    return _run_image(operators.grad_input, operands, layout, grad.ndim == 4, out)


def conv2d_grad_filter(
    x: Tensor,
    filter_shape: Any,
    grad: Tensor,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: None = None,
    activation: None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: Tensor | None = None,
    num_threads: int | None = None,
) -> Tensor:
    """`depthwise.conv2d_grad_filter` for tensors."""
    tensors = x, grad, out
    dtype = _dtype_name(dtype)
    if _is_plain(("x", "grad", "out"), tensors):
        filter_shape = plain("filter_shape", filter_shape)
        operation = _general_operation(
            "grad_filter",
            (x.shape, filter_shape, grad.shape),
            (x, grad),
            (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm),
        )
        if _is_direct(tensors, x, grad) and _lies_in(layout, x):
            return _run_directly(operation, x, grad, None, out, num_threads)
    check_dtype(dtype, arrays.dtype_name(x.dtype))
    check_no_epilogue(bias is not None, activation)
    geometry = _general(stride, padding, dilation, layout, border, None, algorithm, num_threads)
    operands = _to_nchw(x, layout), _to_nchw(grad, layout), tuple(filter_shape), *geometry
    return _run(operators.grad_filter, operands, out, lambda tensor: tensor)


# ---- calls that nothing watches ----------------------------------------------------------------------------


def _is_plain(names: tuple[str, ...], tensors: tuple[Any, ...]) -> bool:
    """Check the tensors; tell whether this is an ordinary eager call, whose shapes are plain numbers."""
    for position, tensor in enumerate(tensors):
        if tensor is not None:
            check_tensor(names[position], tensor)
    return not torch.compiler.is_compiling() and operators.is_plain_call(tensors)


def _is_direct(tensors: tuple[Any, ...], *images: Tensor) -> bool:
    """Whether an ordinary call needs nothing beyond the engine: no derivative, no other memory order."""
    for image in images:
        if not image.is_contiguous():
            return False
    return not operators.needs_grad(tensors)


def _lies_in(layout: str, x: Tensor) -> bool:
    """Whether the derivative of an ordinary call would read `x` in this layout, too.

    Only the bits of the filter's gradient tell, and only where a tensor is contiguous in both layouts.
    """
    return arrays.memory_layout(x, layout) == layout


def _run_directly(
    operation: Operation,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    num_threads: Any = None,
) -> Tensor:
    limit = threads(0) if num_threads is None else thread_limit("num_threads", num_threads)
    if bias is None and out is None:
        result = _run_at_addresses(operation, a, b, limit)
        if result is not None:
            return result
    bias_array = None if bias is None else to_numpy(bias)
    if out is None:
        return to_tensor(operation.run_checked(to_numpy(a), to_numpy(b), bias_array, None, limit))
    operation.run_checked(to_numpy(a), to_numpy(b), bias_array, to_numpy(out), limit)
    torch.autograd.graph.increment_version(out)
    return out


def _run_at_addresses(operation: Operation, a: Tensor, b: Tensor, limit: int) -> Tensor | None:
    """The result without a NumPy array for any of the tensors, which cost as much as a small convolution.

    None where the tensors, of which an ordinary call has made sure that they are of the CPU's memory, do not
    lie as the engine reads them unchecked; `a` is contiguous.
    """
    run, address, other = operation.at_addresses, a.data_ptr(), b.data_ptr()
    shape, strides = operation.result_shape, operation.result_strides
    if run is None or shape[0] * strides[0] > _SMALL or not b.is_contiguous():
        return None
    if (address | other) & (a.element_size() - 1) or a.is_neg() or b.is_neg():
        return None
    result = a.new_empty_strided(shape, strides)
    run(address, other, 0, result.data_ptr(), limit)
    return result


def _tensorflow_operation(
    op: _spec.Op, shapes: tuple[Any, Any, Any], operands: tuple[Tensor, Tensor], arguments: tuple[Any, ...]
) -> Operation:
    """The operation that the function runs for NumPy arrays of these shapes and dtypes."""
    strides, padding, data_format, dilations = arguments
    return tensorflow_operation(
        op,
        *shapes,
        (numpy_dtype(operands[0]), numpy_dtype(operands[1])),
        plain("strides", strides),
        plain_padding(padding),
        word("data_format", data_format),
        plain("dilations", dilations),
    )


def _general_operation(
    op: _spec.Op, shapes: tuple[Any, Any, Any], operands: tuple[Tensor, Tensor], arguments: tuple[Any, ...]
) -> Operation:
    """The operation that the function runs for NumPy arrays of these shapes and dtypes."""
    stride, padding, dilation, layout, border, has_bias, activation, dtype, algorithm = arguments
    return general_operation(
        op,
        *shapes,
        (numpy_dtype(operands[0]), numpy_dtype(operands[1])),
        plain("stride", stride),
        plain_padding(padding),
        plain("dilation", dilation),
        word("layout", layout),
        word("border", border),
        has_bias,
        word("activation", activation),
        dtype,
        word("algorithm", algorithm),
    )


# ---- arguments ---------------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result
def _general(
    stride: Any,
    padding: Any,
    dilation: Any,
    layout: Any,
    border: Any,
    activation: Any,
    algorithm: Any,
    num_threads: Any,
) -> Geometry:
    """The arguments of `conv2d` as the operators take them."""
    settings = _general_settings(
        plain("stride", stride),
        plain_padding(padding),
        plain("dilation", dilation),
        word("layout", layout),
        word("border", border),
        word("activation", activation),
        word("algorithm", algorithm),
    )
    return _geometry(settings, border, algorithm, num_threads)


@lru_cache
def _general_settings(*arguments: Any) -> dict[str, Any]:
    names = ("stride", "padding", "dilation", "layout", "border", "activation", "algorithm")
    return _spec.general_settings(**dict(zip(names, arguments, strict=True)))


@torch.compiler.assume_constant_result
def _tensorflow(
    op: _spec.Op, strides: Any, padding: Any, data_format: Any, dilations: Any
) -> tuple[str, Geometry]:
    """The layout, and the arguments of `depthwise_conv2d` as the operators take them."""
    settings = _spec.tensorflow_settings(
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilations=dilations,
        backprop=op != "forward",
    )
    return settings["layout"], _geometry(settings, "constant", "auto", None)


def _geometry(settings: dict[str, Any], border: str, algorithm: str, num_threads: Any) -> Geometry:
    vertical, horizontal = settings["padding"]
    padding = None if isinstance(vertical, str) else (*vertical, *horizontal)
    limit = call_threads(num_threads)
    return settings["stride"], padding, settings["dilation"], border, algorithm, limit


def _dtype_name(dtype: Any) -> str | None:
    if dtype is None:
        return None
    return arrays.dtype_name(dtype) if isinstance(dtype, torch.dtype) else dtype_name(dtype)


# ---- layouts and out ---------------------------------------------------------------------------------------


def _to_nchw(image: Tensor, layout: str) -> Tensor:
    """A [batch, channels, height, width] view."""
    if image.ndim == 3:
        image = image.unsqueeze(0)
    return image if layout == "NCHW" else image.permute(0, 3, 1, 2)


def _from_nchw(image: Tensor, layout: str, batched: bool) -> Tensor:
    if layout == "NHWC":
        image = image.permute(0, 2, 3, 1)
    return image if batched else image.squeeze(0)


def _nchw_shape(shape: Any, layout: str) -> tuple[Any, ...]:
    shape = shape if len(shape) == 4 else (1, *shape)
    return tuple(shape[axis] for axis in (0, 3, 1, 2)) if layout == "NHWC" else tuple(shape)


def _run_image(
    operator: operators.Operator,
    operands: tuple[Any, ...],
    layout: str,
    batched: bool,
    out: Tensor | None,
) -> Tensor:
    """Run an operator whose result is an image, seen in the caller's layout."""
    if out is None:
        return _from_nchw(operator(*operands), layout, batched)
    if isinstance(out, torch.Tensor) and out.ndim != (4 if batched else 3):
        raise ValueError(f"out must have {4 if batched else 3} dimensions, got shape {tuple(out.shape)}")
    _run(operator, operands, out, lambda tensor: _to_nchw(tensor, layout))
    return out


def _run(
    operator: operators.Operator,
    operands: tuple[Any, ...],
    out: Tensor | None,
    seen: Callable[[Tensor], Tensor],
) -> Tensor:
    """Run an operator, into `seen(out)` if there is one."""
    if out is None:
        return operator(*operands)
    tensors = [operand for operand in (*operands, out) if isinstance(operand, torch.Tensor)]
    if operators.needs_grad(tensors):
        raise ValueError(
            "out must be None where a tensor requires grad: what is written into it has no derivative"
        )
    if torch.compiler.is_compiling() or not operators.is_plain_call(tensors):
        return _copied_into(out, operator(*operands), seen)
    operator.kernel(*operands, out=seen(out))
    torch.autograd.graph.increment_version(out)
    return out


def _copied_into(out: Tensor, result: Tensor, seen: Callable[[Tensor], Tensor]) -> Tensor:
    """`out` with the values of `result`: what a tracer or a transform can follow."""
    _spec.check_shape("out", seen(out).shape, result.shape)
    if out.dtype != result.dtype:
        raise ValueError(f"out must have dtype {result.dtype}, got {out.dtype}")
    seen(out).copy_(result)
    return out
