"""TIFF with any number of channels and of 8 to 64 bits, through tifffile."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from depthwise._cli import photos
from depthwise._cli.arguments import Layout
from depthwise._cli.image import Image, from_array

# tifffile logs what it makes of odd files; without a handler that would be lines on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# tifffile's axis letters: Y, X; S samples or C channels; Q unknown, I a plain run of pages; others a stack.
_AXES = re.compile(r"(?P<stack>[^CSYX]?)(?P<before>[CS]?)YX(?P<after>[CS]?)")
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)

_PLANES = {"NHWC": "contig", "NCHW": "separate"}


def read(path: Path, layout: Layout | None) -> Image:
    """Read the image, or the stack of images of one shape, that a TIFF file holds."""
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ValueError(f"expected images of one shape, got {len(file.series)} different ones")
        series = file.series[0]
        page = series.keyframe
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise ValueError("its pixels are palette indices; convert it to RGB first")
        try:
            pixels = series.asarray()
        except ValueError:  # a compression that tifffile leaves to others; Pillow knows those of photographs
            if len(file.pages) != 1 or page.bitspersample != 8:
                raise
            return photos.read(path, layout, formats=("TIFF",))
        image = _arrange(pixels, series.axes, layout)
        image = replace(image, icc_profile=page.iccprofile or None)
        has_alpha = bool(page.extrasamples) and page.extrasamples[-1] in _ALPHA
    return _with_alpha_aside(image) if has_alpha and not image.flat else image


def outline(file: tifffile.TiffFile, layout: Layout | None) -> Image:
    """What `read` would give, with pixels that are not read and take no memory.

    Raises
    ------
    ValueError
        If `read` would do more than read: set an alpha channel aside, or see colours in palette indices.
    """
    if len(file.series) != 1:
        raise ValueError(f"expected images of one shape, got {len(file.series)} different ones")
    series = file.series[0]
    if series.keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE:
        raise ValueError("its pixels are palette indices; convert it to RGB first")
    if series.keyframe.extrasamples and series.keyframe.extrasamples[-1] in _ALPHA:
        raise ValueError("its last channel is opacity, which would be filtered; take it out first")
    return _arrange(np.broadcast_to(np.empty((), series.dtype), series.shape), series.axes, layout)


def write(file: BinaryIO, image: Image) -> None:
    """Write so that `read` gives the same image: axes are named, colour is marked as such."""
    array = image.stored()
    if array.size == 0:
        raise ValueError(f".tif holds at least one pixel, not shape {array.shape}")
    if array.dtype.kind not in "uif" or (array.dtype.kind != "f" and array.dtype.itemsize > 4):
        raise ValueError(f".tif holds integers of up to 32 bits and floats, not {array.dtype}")
    axes = _axes(image, array.ndim)
    with tifffile.TiffWriter(file, bigtiff=array.nbytes > 2**32 - 2**25) as writer:
        writer.write(
            array,
            photometric="rgb" if _is_colour(image) else "minisblack",
            planarconfig=_PLANES[image.layout] if "C" in axes or "S" in axes else None,
            extrasamples=["unassalpha"] if image.alpha is not None else None,
            iccprofile=image.icc_profile,
            metadata={"axes": axes},
        )


def _arrange(array: NDArray[Any], axes: str, layout: Layout | None) -> Image:
    named = _AXES.fullmatch(axes)
    unnamed = named is None or (named["stack"] in ("Q", "I") and not named["before"] + named["after"])
    if unnamed and layout is None:
        raise ValueError(
            f"its axes {axes} {array.shape} do not tell the channels; give --layout NHWC or NCHW"
        )
    if unnamed:
        return from_array(array, layout or "NHWC")
    assert named is not None
    return _arrange_named(array, named, layout)


def _arrange_named(array: NDArray[Any], axes: re.Match[str], layout: Layout | None) -> Image:
    stack, before, after = axes["stack"], axes["before"], axes["after"]
    if before and after:  # samples within channels: one of the two is the batch
        if stack:
            raise ValueError(f"its axes {axes[0]} {array.shape} are more than a batch of images has")
        stack, before = before, ""
    if not before and not after:
        return Image(array[..., np.newaxis], "NHWC", flat=True, stack=stack or "T")
    found: Layout = "NCHW" if before else "NHWC"
    if layout not in (None, found):
        raise ValueError(f"its layout is {found}, not {layout}")
    return Image(array, found, stack=stack or "T")


def _with_alpha_aside(image: Image) -> Image:
    pixels = image.pixels if image.layout == "NHWC" else np.moveaxis(image.pixels, -3, -1)
    return replace(image, pixels=pixels[..., :-1], layout="NHWC", alpha=pixels[..., -1])


def _axes(image: Image, ndim: int) -> str:
    flat = image.flat and image.pixels.shape[image.channel_axis] == 1
    axes = "YX" if flat else "YXS" if image.layout == "NHWC" else "CYX"
    return image.stack + axes if ndim > len(axes) else axes


def _is_colour(image: Image) -> bool:
    return image.layout == "NHWC" and image.pixels.shape[-1] == 3 and image.pixels.dtype in ("u1", "u2")
