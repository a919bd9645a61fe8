"""Images that are read in parts: zarr arrays, and TIFF files by tiles or from mapped memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from depthwise._cli import tiff
from depthwise._cli.arguments import Layout
from depthwise._cli.errors import CommandError
from depthwise._cli.image import Image, from_array
from depthwise._dask import geometry
from depthwise._dask.blocks import Assemble, Take

Chunk = tuple[int, ...]

# Neighbouring tiles read the same chunks of the source; so many bytes of them are kept.
CACHE_BYTES = 192 * 2**20
_MAPPED_SIDE = 1024  # of the parts in which mapped memory is read


class Source:
    """An array whose chunks are read when they are needed, and kept for a while. Threads may share it.

    Attributes
    ----------
    outline : Image
        Shape, type and layout; its pixels are not the source's.
    chunks : tuple of int
        The shape of a chunk of the stored array, which has no channel axis if the image is flat.
    names : tuple of str, or None
        Of the stored array's axes.
    """

    def __init__(
        self, array: Any, chunks: tuple[int, ...], outline: Image, names: tuple[str | None, ...] | None = None
    ) -> None:
        self.outline = outline
        self.chunks = chunks
        self.names = names
        self._array = array
        self._spans = [
            [(start, min(start + step, size)) for start in range(0, size, step)] or [(0, 0)]
            for size, step in zip(array.shape, chunks, strict=True)
        ]
        self._lock = Lock()
        self._kept: OrderedDict[Chunk, Future[NDArray[Any]]] = OrderedDict()
        self._most = max(1, CACHE_BYTES // max(1, int(np.prod(chunks)) * array.dtype.itemsize))

    def gather(self, of_axes: Sequence[Sequence[geometry.Run]]) -> NDArray[Any]:
        """The pixels at these runs of each axis of the stored array."""
        pieces = [geometry.pieces(spans, runs) for spans, runs in zip(self._spans, of_axes, strict=True)]
        parts = [
            Take(tuple(piece.run for piece in place)).view(self._chunk(tuple(piece.chunk for piece in place)))
            for place in product(*pieces)
        ]
        return Assemble(tuple(tuple(piece.run.length for piece in of_axis) for of_axis in pieces))(parts)

    def _chunk(self, chunk: Chunk) -> NDArray[Any]:
        with self._lock:
            kept = self._kept.get(chunk)
            is_new = kept is None
            if kept is None:
                kept = self._kept[chunk] = Future()
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(chunk)
        if is_new:
            self._read(chunk, kept)
        return kept.result()

    def _read(self, chunk: Chunk, into: Future[NDArray[Any]]) -> None:
        place = tuple(slice(*spans[i]) for spans, i in zip(self._spans, chunk, strict=True))
        try:
            into.set_result(np.asarray(self._array[place]))
        except BaseException as error:
            with self._lock:
                self._kept.pop(chunk, None)
            into.set_exception(error)


@lru_cache(2)
def open_source(path: Path, layout: Layout | None) -> Source:
    """Open an image to be read in parts; CommandError if it cannot be."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return _open_tiff(path, layout)
        return _open_zarr(path, layout)
    except (OSError, ValueError, TypeError, KeyError, tifffile.TiffFileError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CommandError(f"cannot read {path}: {reason}") from error


def zarr_module() -> Any:
    """The module, or a CommandError that tells how to get it."""
    try:
        import zarr
    except ImportError as error:
        raise CommandError("zarr is not installed; it needs Python 3.11: pip install 'zarr>=3.1'") from error
    return zarr


def _open_zarr(path: Path, layout: Layout | None) -> Source:
    zarr = zarr_module()
    try:
        found = zarr.open(path, mode="r")
    except FileNotFoundError as error:
        raise ValueError("no zarr array is there") from error
    if not isinstance(found, zarr.Array):
        arrays = ", ".join(sorted(name for name, _ in found.arrays())) or "none"
        raise ValueError(f"it is a group; name one of its arrays: {arrays}")
    outline = from_array(_outline(found), layout or "NHWC")
    names = getattr(found.metadata, "dimension_names", None)
    return Source(found, found.chunks, outline, names)


def _open_tiff(path: Path, layout: Layout | None) -> Source:
    file = tifffile.TiffFile(path)  # stays open as long as the source
    outline = tiff.outline(file, layout)
    try:
        array: Any = tifffile.memmap(path, mode="r")
    except ValueError:  # compressed, or in tiles
        array = zarr_module().open(file.series[0].aszarr(level=0), mode="r")
        return Source(array, array.chunks, outline)
    chunks = [min(size, _MAPPED_SIDE) for size in array.shape]
    if not outline.flat:
        at = outline.channel_axis
        chunks[at] = array.shape[at]
    return Source(array, tuple(max(1, size) for size in chunks), outline)


def _outline(array: Any) -> NDArray[Any]:
    return np.broadcast_to(np.empty((), array.dtype), array.shape)
