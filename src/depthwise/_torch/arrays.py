"""Tensors as NumPy arrays and back, sharing their memory, and the tensors that cannot be read so."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import _spec
from .._engine import NUMPY_DTYPES

Array = np.ndarray[Any, Any]

_BFLOAT16 = NUMPY_DTYPES["bfloat16"]
_TENSOR_DTYPES = {getattr(torch, name): dtype for name, dtype in NUMPY_DTYPES.items()}


def check_tensor(name: str, tensor: Any) -> None:
    """Raise unless it is a dense tensor in the CPU's memory, of a dtype that the engine computes in."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if (
        tensor.is_cpu
        and tensor.dtype in _TENSOR_DTYPES
        and tensor.layout is torch.strided
        and not tensor.is_nested
    ):
        return
    if tensor.is_nested:
        raise ValueError(f"{name} must be a dense tensor, got a nested one")
    if tensor.is_quantized:
        raise ValueError(f"{name} must not be quantised, got {tensor.dtype}; dequantize() it first")
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if not tensor.is_cpu:
        raise ValueError(f"{name} must be on the device cpu, got {tensor.device}")
    _spec.common_dtype({name: dtype_name(tensor.dtype)})


def dtype_name(dtype: torch.dtype) -> str:
    """The name that NumPy would give this dtype, as in `_spec.DTYPES`."""
    return str(dtype).removeprefix("torch.")


def numpy_dtype(tensor: torch.Tensor) -> np.dtype[Any]:
    """The dtype of `to_numpy(tensor)`."""
    dtype = _TENSOR_DTYPES.get(tensor.dtype)
    return np.dtype(dtype_name(tensor.dtype)) if dtype is None else dtype


def to_numpy(tensor: torch.Tensor) -> Array:
    """The tensor's memory as an array."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:  # which NumPy's side of the exchange does not know
        return tensor.view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def to_tensor(array: Array) -> torch.Tensor:
    """The array's memory as a tensor."""
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def memory_layout(image: torch.Tensor, layout: str = "NCHW") -> str:
    """The engine's layout in which this image, whose axes `layout` names, is read: in place where it can be.

    "NHWC" where the channels of a pixel lie side by side and pixels at least that far apart, else "NCHW".
    Where both fit (one channel, one pixel), the strides still tell how the tensor was made.
    """
    channels, columns = (-3, -1) if layout == "NCHW" else (-1, -2)
    side_by_side = image.stride(channels) == 1 and image.stride(columns) >= image.shape[channels]
    return "NHWC" if side_by_side else "NCHW"


def image_shape(image: torch.Tensor, layout: str) -> tuple[int, ...]:
    """The shape of `image_to_numpy(image, layout)`."""
    if layout == "NCHW":
        return tuple(image.shape)
    batch, channels, height, width = image.shape
    return batch, height, width, channels


def image_to_numpy(image: torch.Tensor, layout: str) -> Array:
    """The [batch, channels, height, width] tensor as an array in this layout; copied if it lies otherwise."""
    if layout == "NCHW":
        return to_numpy(image.contiguous())
    return to_numpy(image.contiguous(memory_format=torch.channels_last)).transpose(0, 2, 3, 1)


def image_to_tensor(array: Array, layout: str) -> torch.Tensor:
    """An image in this layout as a [batch, channels, height, width] tensor over the same memory."""
    return to_tensor(array if layout == "NCHW" else array.transpose(0, 3, 1, 2))


def empty_image(like: torch.Tensor, shape: tuple[int, ...], layout: str) -> torch.Tensor:
    """A tensor of the [batch, channels, height, width] shape that lies in memory as this layout says."""
    if layout == "NCHW":
        return like.new_empty(shape)
    batch, channels, height, width = shape
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)
