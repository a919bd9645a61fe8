"""An image in memory: pixels, and what its file said about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthwise._cli.arguments import Layout
from depthwise._spec import DTYPES, INTEGERS


@dataclass(frozen=True)
class Image:
    """Pixels with the layout they have.

    Attributes
    ----------
    pixels : ndarray
        [H, W, C] or [N, H, W, C] for layout "NHWC"; [C, H, W] or [N, C, H, W] for "NCHW".
    layout : str
        "NHWC" or "NCHW".
    flat : bool
        The file has no channel axis: one channel is written without it.
    alpha : ndarray or None
        [H, W] or [N, H, W] opacity of an NHWC image. It is not filtered: the edges of a picture are not
        edges of its transparency.
    icc_profile : bytes or None
        The colour profile, which goes to the output as it is.
    stack : str
        TIFF's letter for the batch axis: T for time, Z for depth, and so on.
    """

    pixels: NDArray[Any]
    layout: Layout = "NHWC"
    flat: bool = False
    alpha: NDArray[Any] | None = None
    icc_profile: bytes | None = None
    stack: str = "T"

    @property
    def channel_axis(self) -> int:
        """Which axis of `pixels` holds the channels."""
        return -1 if self.layout == "NHWC" else -3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.pixels.shape[-3:-1] if self.layout == "NHWC" else self.pixels.shape[-2:]
        return height, width

    def stored(self) -> NDArray[Any]:
        """The array as a file holds it: alpha as the last channel, no channel axis if flat."""
        if self.alpha is not None:
            return np.concatenate([self.pixels, self.alpha[..., np.newaxis]], axis=-1)
        if self.flat and self.pixels.shape[self.channel_axis] == 1:
            return self.pixels.squeeze(self.channel_axis)
        return self.pixels


def from_array(array: NDArray[Any], layout: Layout) -> Image:
    """Wrap a [H, W], 3-D or 4-D array of real numbers; raise ValueError for any other."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"expected real numbers of at most 64 bits, got {array.dtype}")
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"expected 2, 3 or 4 axes, got shape {array.shape}")
    if array.ndim == 2:
        return Image(np.expand_dims(array, -1 if layout == "NHWC" else 0), layout, flat=True)
    return Image(array, layout)


def is_native(dtype: np.dtype[Any] | None) -> bool:
    """Whether the engine reads this dtype."""
    return dtype is not None and dtype.name in (*DTYPES, *INTEGERS)


def compute_dtype(dtype: np.dtype[Any], result: np.dtype[Any] | None = None) -> np.dtype[Any]:
    """The floating type to filter `dtype` in: its own, or one that holds its integers exactly."""
    if dtype.kind == "f":
        native: np.dtype[Any] = dtype.newbyteorder("=")
        return native
    return np.dtype(np.float32 if dtype.itemsize == 1 and result != np.float64 else np.float64)


def to_integers(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round to the nearest integer, ties to even, and saturate at the range of `dtype`.

    Raises
    ------
    ValueError
        If a value is NaN.
    """
    if np.isnan(values).any():
        raise ValueError(f"the result has NaN, which {dtype} cannot hold; write .npy")
    limits = np.iinfo(dtype)
    integers: NDArray[Any] = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return integers


def converted(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values in a type of integers, as `to_integers` makes them, or of floats."""
    if dtype.kind in "iu":
        return to_integers(values, dtype)
    with np.errstate(over="ignore"):  # what is too large for a narrower type is infinite there
        return values.astype(dtype, copy=False)
