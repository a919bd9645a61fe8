"""Reading and writing files of images and arrays: one row a format.

A reader gives every array of the file by name; a writer fills an open file. Writing goes through
`atomic_file`, so a file appears whole or not at all.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL.Image
import tifffile

from depthwise._cli import photos, tiff
from depthwise._cli.arguments import Layout
from depthwise._cli.atomic import atomic_file
from depthwise._cli.errors import CommandError
from depthwise._cli.image import Image, from_array

SINGLE = "arr_0"  # the name of a file's only image: NumPy's own for the first array of an .npz

_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,  # Pillow's word for a broken PNG
    EOFError,
    KeyError,
    IndexError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tifffile.TiffFileError,
    PIL.Image.DecompressionBombError,
)


class Format(NamedTuple):
    """How one kind of file is read and written."""

    read: Callable[[Path, Layout | None], dict[str, Image]]
    write: Callable[[BinaryIO, dict[str, Image]], None]
    keeps_integers: bool
    """Whether results go back to the input's integer type, rounded, or stay floating."""


def format_of(path: Path) -> Format:
    """The row of `FORMATS` for a file name; CommandError if there is none."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        known = " ".join(FORMATS)
        raise CommandError(f"{path}: expected a file name ending in one of {known}") from None


def read_images(path: Path, layout: Layout | None = None) -> dict[str, Image]:
    """Read every image of a file.

    Parameters
    ----------
    path : Path
        A file with one of the endings in `FORMATS`.
    layout : {"NHWC", "NCHW"}, optional
        Where arrays that do not say so themselves have their channels: "NHWC" unless given. Must not
        contradict a file that does say so.

    Raises
    ------
    CommandError
        If the file cannot be read, is damaged, or holds something else.
    """
    reader = format_of(path).read
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of metadata that does not matter here
            return reader(path, layout)
    except _UNREADABLE as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "not enough memory"
        raise CommandError(f"cannot read {path}: {reason}") from error


def write_images(path: Path, images: dict[str, Image]) -> None:
    """Write images to a file, whole or not at all; CommandError if the format cannot hold them."""
    writer = format_of(path).write
    with atomic_file(path) as file:
        try:
            writer(file, images)
        except (ValueError, TypeError, struct.error) as error:
            raise CommandError(f"cannot write {path}: {error}") from error


def _read_npy(path: Path, layout: Layout | None) -> dict[str, Image]:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive; name it .npz")
    return {SINGLE: from_array(array, layout or "NHWC")}


def _read_npz(path: Path, layout: Layout | None) -> dict[str, Image]:
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError("it is a single array; name it .npy")
    with archive:
        if not archive.files:
            raise ValueError("it holds no array")
        return {name: from_array(archive[name], layout or "NHWC") for name in archive.files}


def _write_npy(file: BinaryIO, images: dict[str, Image]) -> None:
    np.save(file, only(images).stored(), allow_pickle=False)


def _write_npz(file: BinaryIO, images: dict[str, Image]) -> None:
    # numpy.savez takes names as keywords, and so none that is also a name of its own arguments.
    with zipfile.ZipFile(file, "w") as archive:
        for name, image in images.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, image.stored(), allow_pickle=False)


def only(images: dict[str, Image]) -> Image:
    """The one image there is; ValueError if there are several."""
    if len(images) != 1:
        raise ValueError(f"it holds one image, and there are {len(images)}: {', '.join(images)}")
    return next(iter(images.values()))


def _one(read: Callable[[Path, Layout | None], Image]) -> Callable[[Path, Layout | None], dict[str, Image]]:
    return lambda path, layout: {SINGLE: read(path, layout)}


_NPY = Format(_read_npy, _write_npy, keeps_integers=False)
_NPZ = Format(_read_npz, _write_npz, keeps_integers=False)
_PNG = Format(
    _one(photos.read), lambda file, images: photos.write_png(file, only(images)), keeps_integers=True
)
_JPEG = Format(
    _one(photos.read), lambda file, images: photos.write_jpeg(file, only(images)), keeps_integers=True
)
_TIFF = Format(_one(tiff.read), lambda file, images: tiff.write(file, only(images)), keeps_integers=True)

FORMATS: dict[str, Format] = {
    ".npy": _NPY,
    ".npz": _NPZ,
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
