"""An image filtered tile by tile: a tile is one chunk of the output, and needs nothing but the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depthwise import _engine, _spec
from depthwise._cli.arguments import Layout
from depthwise._cli.image import compute_dtype, converted
from depthwise._cli.sources import Source, open_source, zarr_module
from depthwise._dask import geometry
from depthwise._dask.blocks import block_of
from depthwise._dask.geometry import Span, Window, run_of, times

if TYPE_CHECKING:
    from depthwise._cli.filter import Job

# Elements of a tile, about: so many that halos are a small part of what is read.
_ELEMENTS = 2**22
_LEAST_SIDE = 64
# Tiles are done in strips of so many columns: what a row of a strip reads is kept for the next row.
_STRIP = 8


class Tile(NamedTuple):
    """One chunk of the output: its position along N, H, W and C, and what it is computed from."""

    position: tuple[int, int, int, int]
    batch: Span
    rows: Window
    columns: Window
    channels: Span


@dataclass(frozen=True)
class Task:
    """What is done for every tile. It can be sent to another process that sees the same files."""

    source: Path
    layout: Layout | None
    target: Path
    spec: _spec.Spec
    kernel: NDArray[Any]
    is_flat: bool
    dtype: np.dtype[Any]

    def __call__(self, tile: Tile) -> None:
        """Read, filter and write one tile."""
        runs = ([run_of(tile.batch)], tile.rows.reads, tile.columns.reads, [run_of(tile.channels)])
        pixels = open_source(self.source, self.layout).gather(_stored(runs, self.spec, self.is_flat))
        if self.is_flat:
            pixels = np.expand_dims(pixels, self._channel_axis)
        kernel = self.kernel if self.spec.shared_filter else self.kernel[:, :, slice(*tile.channels)]
        if self.spec.x_dtype is None:
            pixels = pixels.astype(kernel.dtype, copy=False)
        result = block_of("forward", self.spec, tile[1:], threads=1)(pixels, kernel)
        if result.dtype != self.dtype:
            result = converted(result, self.dtype)
        if self.is_flat_result:
            result = result.squeeze(self._channel_axis)
        open_target(self.target)[self._place(tile)] = result

    @property
    def is_flat_result(self) -> bool:
        """Whether the output has no channel axis."""
        return self.is_flat and self.spec.multiplier == 1

    def stored(self, of_axes: tuple[Any, Any, Any, Any]) -> tuple[Any, ...]:
        """What belongs to the output's axes, in their order, of things given for N, H, W and C."""
        return tuple(_stored(of_axes, self.spec, self.is_flat_result))

    @property
    def _channel_axis(self) -> int:
        return -1 if self.spec.layout == "NHWC" else -3

    def _place(self, tile: Tile) -> tuple[slice, ...]:
        channels = times(tile.channels, self.spec.multiplier)
        spans = self.stored((tile.batch, tile.rows.result, tile.columns.result, channels))
        return tuple(slice(*span) for span in spans)


def make_task(source: Path, target: Path, job: Job, layout: Layout | None) -> Task:
    """The task for a job; ValueError if it does not suit the source."""
    outline = open_source(source, layout).outline
    stored = outline.pixels.dtype.newbyteorder("=")
    wanted = None if job.dtype is None else np.dtype(job.dtype)
    computed = compute_dtype(stored, wanted)
    with np.errstate(over="ignore"):  # a weight beyond a narrower type is infinite there
        kernel = np.ascontiguousarray(job.kernel.astype(computed))
    spec = _spec.general_spec(
        outline.pixels.shape,
        kernel.shape,
        computed.name,
        stride=job.stride,
        padding=job.padding,
        dilation=job.dilation,
        layout=outline.layout,
        border=job.border,
        algorithm=job.algorithm,
    )
    dtype = wanted or (stored if stored.kind in "iu" else computed)
    spec = _with_integers(spec, stored, dtype, bool(np.isfinite(kernel).all()))
    algorithm = _engine.Operation("forward", spec, has_bias=False).algorithm(kernel)
    return Task(source, layout, target, replace(spec, algorithm=algorithm), kernel, outline.flat, dtype)


def _with_integers(
    spec: _spec.Spec, stored: np.dtype[Any], dtype: np.dtype[Any], is_finite: bool
) -> _spec.Spec:
    """The spec that reads and rounds integers by itself where the engine knows them.

    Only a kernel that is not finite makes NaN of integers, which the engine would round to 0.
    """
    if stored.name not in _spec.INTEGERS:
        return spec
    rounds = is_finite and dtype.name in _spec.INTEGERS
    return replace(spec, x_dtype=stored.name, result_dtype=dtype.name if rounds else None)


def output_chunks(task: Task, source: Source) -> tuple[int, int, int, int]:
    """The output's chunks along N, H, W and C: the source's after the stride, or some, or a part of one."""
    spec = task.spec
    chunk = dict(zip(_stored(tuple("NHWC"), spec, task.is_flat), source.chunks, strict=True))
    channels = chunk.get("C", 1)
    side = max(_LEAST_SIDE, int((_ELEMENTS / max(1, channels * spec.multiplier)) ** 0.5))
    height, width = _side(chunk["H"], spec.height, side), _side(chunk["W"], spec.width, side)
    return 1, height, width, max(1, channels * spec.multiplier)


def all_tiles(spec: _spec.Spec, chunks: tuple[int, int, int, int]) -> list[Tile]:
    """The output's chunks, in the order in which they are best computed."""
    batches = _even_spans(spec.batch, chunks[0])
    rows, columns = (
        [geometry.output_window(axis, span, spec.border) for span in _even_spans(axis.output, step)]
        for axis, step in ((spec.height, chunks[1]), (spec.width, chunks[2]))
    )
    channels = _even_spans(spec.channels, max(1, chunks[3] // spec.multiplier)) if spec.multiplier else []
    positions = product(*(range(len(axis)) for axis in (batches, rows, columns, channels)))
    ordered = sorted(positions, key=lambda at: (at[0], at[3], at[2] // _STRIP, at[1], at[2]))
    return [Tile((n, i, j, c), batches[n], rows[i], columns[j], channels[c]) for n, i, j, c in ordered]


@lru_cache(2)
def open_target(path: Path) -> Any:
    """The output, to write chunks into. A chunk of zeros is written too: its file says that it is done."""
    return zarr_module().open_array(path, mode="r+").with_config({"write_empty_chunks": True})


def _stored(of_axes: Sequence[Any], spec: _spec.Spec, is_flat: bool) -> list[Any]:
    """Things given for N, H, W and C, in the order of a stored image's axes."""
    n, h, w, c = of_axes
    channels = [] if is_flat else [c]
    image = [h, w, *channels] if spec.layout == "NHWC" else [*channels, h, w]
    return [n, *image] if spec.batched else image


def _side(chunk: int, axis: _spec.Axis, wanted: int) -> int:
    side = -(-chunk // axis.stride)
    while 2 * side <= wanted:
        side *= 2
    while side > 2 * wanted:
        side = -(-side // 2)
    return max(1, min(side, axis.output))


def _even_spans(size: int, step: int) -> list[Span]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]
