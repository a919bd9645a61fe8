"""The signature of `torch.nn.functional.conv2d`, for depthwise convolutions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import _spec
from . import operators
from .arrays import check_tensor


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int | None = None,
) -> Tensor:
    """`torch.nn.functional.conv2d` where every channel is a group of its own.

    Parameters
    ----------
    input : tensor of shape (batch, channels, height, width) or (channels, height, width)
        float16, bfloat16, float32 or float64, on the CPU. Contiguous and `channels_last` tensors are read in
        place, and the result has the input's memory format.
    weight : tensor of shape (channels * M, 1, kernel height, kernel width)
        Of the input's dtype. Output channel ``k * M + q`` is input channel ``k`` filtered by
        ``weight[k * M + q, 0]``.
    bias : tensor of shape (channels * M,), optional
    stride, dilation : int or (height, width) pair
    padding : int, (height, width) pair, "valid" or "same"
        "same" needs stride 1, as in PyTorch.
    groups : int, optional
        The number of channels; any other number is an error.

    Returns
    -------
    tensor of shape (batch, channels * M, out height, out width), or without the batch

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type, value, shape or dtype, or the convolution is not depthwise.

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(6.0).reshape(1, 2, 1, 3)
    >>> weight = torch.tensor([[[[1.0, 10.0]]], [[[2.0, 0.0]]]])
    >>> conv2d(x, weight, groups=2).tolist()
    [[[[10.0, 21.0]], [[6.0, 8.0]]]]
    """
    check_tensor("input", input)
    check_tensor("weight", weight)
    if bias is not None:
        check_tensor("bias", bias)
    if input.ndim not in (3, 4):
        raise ValueError(f"input must have 3 or 4 dimensions, got {input.ndim}: {tuple(input.shape)}")
    channels = input.shape[-3]
    _check_depthwise(channels, weight, bias, groups)
    _check_dtypes(input, weight, bias)
    strides, pads, dilations = geometry(stride, padding, dilation)
    _check_fits(input, weight, pads, dilations)
    image = input if input.ndim == 4 else input.unsqueeze(0)
    rest = strides, pads, dilations, "constant", "auto", 0
    result = operators.forward(image, filter_of(weight, channels), bias, None, *rest)
    return result if input.ndim == 4 else result.squeeze(0)


def filter_of(weight: Tensor, channels: int) -> Tensor:
    """PyTorch's [channels * M, 1, kh, kw] weight as a [kh, kw, channels, M] filter over the same memory."""
    if weight.shape[0] == channels:
        return weight.permute(2, 3, 0, 1)
    return weight.reshape(channels, -1, *weight.shape[2:]).permute(2, 3, 0, 1)


def geometry(stride: Any, padding: Any, dilation: Any) -> tuple[Any, Any, Any]:
    """(stride, padding, dilation) of PyTorch's convolution as the operators take them."""
    if torch.compiler.is_compiling():
        return _constant_geometry(stride, padding, dilation)
    plain = _spec.plain
    return _geometry(plain("stride", stride), _spec.plain_padding(padding), plain("dilation", dilation))


@lru_cache
def _geometry(stride: Any, padding: Any, dilation: Any) -> tuple[Any, Any, Any]:
    strides, dilations = _pair("stride", stride), _pair("dilation", dilation)
    if isinstance(padding, str):
        if _spec.one_of("padding", padding, ("valid", "same")) == "valid":
            return strides, (0, 0, 0, 0), dilations
        if strides != (1, 1):
            raise ValueError(f"padding must not be 'same' where stride is not 1, got stride {strides}")
        return strides, None, dilations
    vertical, horizontal = _pair("padding", padding, minimum=0)
    return strides, (vertical, vertical, horizontal, horizontal), dilations


@torch.compiler.assume_constant_result
def _constant_geometry(*arguments: Any) -> tuple[Any, Any, Any]:
    return _geometry.__wrapped__(*arguments)


def _pair(name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    value = _spec.plain(name, value)
    numbers = value if isinstance(value, tuple) else (value, value)
    if len(numbers) == 1:  # PyTorch repeats it
        numbers *= 2
    if len(numbers) != 2:
        raise ValueError(f"{name} must be an int or a (height, width) pair, got {len(numbers)} entries")
    height, width = (_spec.integer(name, number, minimum) for number in numbers)
    return height, width


def _check_depthwise(channels: int, weight: Tensor, bias: Tensor | None, groups: Any) -> None:
    if groups is not None and groups != channels:
        raise ValueError(
            f"groups must be {channels}, the number of input channels, to be depthwise, got {groups}"
        )
    if weight.ndim != 4 or weight.shape[1] != 1:
        raise ValueError(f"weight must have shape (channels * M, 1, kh, kw), got {tuple(weight.shape)}")
    if channels == 0 or weight.shape[0] % channels:
        raise ValueError(
            f"weight must have a multiple of the input's {channels} channels, got {weight.shape[0]} in shape "
            f"{tuple(weight.shape)}"
        )
    if bias is not None and (bias.ndim != 1 or bias.shape[0] != weight.shape[0]):
        raise ValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(bias.shape)}")


def _check_dtypes(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if torch.is_autocast_enabled("cpu"):
        return  # which makes them equal
    if input.dtype != weight.dtype or (bias is not None and bias.dtype != weight.dtype):
        bias_text = "" if bias is None else f", bias {bias.dtype}"
        raise ValueError(
            f"input, weight and bias must have the same dtype, got input {input.dtype}, "
            f"weight {weight.dtype}{bias_text}"
        )


def _check_fits(input: Tensor, weight: Tensor, pads: Any, dilations: tuple[int, int]) -> None:
    """PyTorch has no empty results: the filter must fit into the padded image."""
    if pads is None:
        return
    for name, axis, before in (("height", 0, pads[0]), ("width", 1, pads[2])):
        span = (weight.shape[2 + axis] - 1) * dilations[axis] + 1
        if span > input.shape[axis - 2] + 2 * before:
            raise ValueError(
                f"weight must fit into the padded input: it spans {span} pixels of {name}, "
                f"the input has {input.shape[axis - 2]} and the padding adds {2 * before}"
            )
