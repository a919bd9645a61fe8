"""PNG and JPEG, through Pillow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from depthwise._cli.arguments import Layout
from depthwise._cli.image import Image, from_array

_PLAIN = {"1": "L", "P": "RGB", "PA": "RGBA", "I": "I;16", "I;16B": "I;16"}
_MODES = ("L", "LA", "RGB", "RGBA", "I;16")


def read(path: Path, layout: Layout | None, formats: tuple[str, ...] = ("PNG", "JPEG")) -> Image:
    """Read a grey, colour or palette image, turned upright; alpha is kept aside."""
    if layout == "NCHW":
        raise ValueError("its layout is NHWC, not NCHW")
    _refuse_deep_colour(path)
    with PIL.Image.open(path, formats=formats) as picture:
        upright = PIL.ImageOps.exif_transpose(picture)
        mode = _mode(upright)
        pixels = np.asarray(upright.convert(mode) if mode != upright.mode else upright)
        profile = picture.info.get("icc_profile")
    if mode in ("LA", "RGBA"):
        return Image(pixels[..., :-1], alpha=pixels[..., -1], icc_profile=profile)
    return replace(from_array(pixels, "NHWC"), icc_profile=profile)


def write_png(file: BinaryIO, image: Image) -> None:
    """Write 8-bit grey, colour, either with alpha, or 16-bit grey."""
    array = _photo_array(image, ".png")
    channels = array.shape[2] if array.ndim == 3 else 1
    most = {"uint8": 4, "uint16": 1}.get(array.dtype.name, 0)
    if channels > most:
        raise ValueError(f".png holds uint8 with 1 to 4 channels or uint16 with 1, not {_describe(array)}")
    PIL.Image.fromarray(array).save(file, "png", icc_profile=image.icc_profile)


def write_jpeg(file: BinaryIO, image: Image) -> None:
    """Write 8-bit grey or colour at quality 95, colour at full resolution."""
    array = _photo_array(image, ".jpg")
    if array.dtype != np.uint8 or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f".jpg holds uint8 with 1 or 3 channels, not {_describe(array)}")
    PIL.Image.fromarray(array).save(file, "jpeg", quality=95, subsampling=0, icc_profile=image.icc_profile)


def _mode(picture: PIL.Image.Image) -> str:
    mode = _PLAIN.get(picture.mode, picture.mode)
    if mode == "RGB" and "transparency" in picture.info:
        mode = "RGBA"
    if mode not in _MODES:
        raise ValueError(f"its colour mode {picture.mode} is none of grey, RGB and palette; convert it first")
    return mode


def _refuse_deep_colour(path: Path) -> None:
    """Pillow reads 16-bit colour at 8 bits without a word; the header tells before it does."""
    with path.open("rb") as file:
        header = file.read(26)
    if header[:8] == b"\x89PNG\r\n\x1a\n" and len(header) == 26 and header[24] == 16 and header[25] != 0:
        raise ValueError("it has 16 bits a channel and colour, which cannot be read in full; use .tif")


def _photo_array(image: Image, suffix: str) -> NDArray[Any]:
    array = image.stored()
    if array.ndim == 3 and image.layout == "NCHW":
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"{suffix} holds one image of at least one pixel, not shape {array.shape}")
    return np.ascontiguousarray(array)


def _describe(array: NDArray[Any]) -> str:
    channels = array.shape[2] if array.ndim == 3 else 1
    return f"{array.dtype} with {channels}"
