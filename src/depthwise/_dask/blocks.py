"""What the tasks of a graph do, on NumPy arrays in whatever worker runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _engine, _spec
from .._dispatch import as_plain_array
from .geometry import Run, Span, Window

Array = npt.NDArray[Any]

HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Take:
    """Takes one run of pixels an axis; a copy, so that a halo does not keep its whole chunk in memory."""

    runs: tuple[Run, ...]

    def __call__(self, chunk: Array) -> Array:
        """The part of a chunk."""
        return self.view(chunk).copy()

    def view(self, chunk: Array) -> Array:
        """The part, in the memory of the chunk."""
        for axis, run in enumerate(self.runs):
            if run.step == 0:
                one = chunk[self._index(axis, Run(run.start, 1, 1))]
                chunk = np.broadcast_to(one, (*one.shape[:axis], run.length, *one.shape[axis + 1 :]))
            else:
                chunk = chunk[self._index(axis, run)]
        return chunk

    def _index(self, axis: int, run: Run) -> tuple[slice, ...]:
        stop = run.start + run.step * run.length
        index = [slice(None)] * len(self.runs)
        index[axis] = slice(run.start, stop if stop >= 0 else None, run.step)
        return tuple(index)


@dataclass(frozen=True)
class Assemble:
    """Puts parts together: `sizes` are their lengths along each axis; the last axis runs fastest."""

    sizes: tuple[tuple[int, ...], ...]

    def __call__(self, parts: Sequence[Array]) -> Array:
        """The whole."""
        if len(parts) == 1:
            return parts[0]
        whole = np.empty([sum(lengths) for lengths in self.sizes], parts[0].dtype)
        places = product(*(pairwise(accumulate(lengths, initial=0)) for lengths in self.sizes))
        for part, place in zip(parts, places, strict=True):
            whole[tuple(slice(*span) for span in place)] = part
        return whole


@dataclass(frozen=True)
class Block:
    """One operation of the engine on the arrays of one block."""

    op: _spec.Op
    spec: _spec.Spec
    threads: int

    def __call__(self, a: Array, b: Array, bias: Array | None = None, algorithm: str | None = None) -> Array:
        """The block of the result, by this algorithm where the filter decides it."""
        a, b = as_plain_array("the first array's chunk", a), as_plain_array("the second array's chunk", b)
        bias = None if bias is None else as_plain_array("bias", bias)
        spec = self.spec if algorithm is None else replace(self.spec, algorithm=algorithm)
        run = _operation(self.op, spec, bias is not None).run
        result: Array = run(a, b, bias, None, self.threads)
        return result


@dataclass(frozen=True)
class Choose:
    """The algorithm of the whole problem, for every block of it: blocks must not change what is computed."""

    op: _spec.Op
    spec: _spec.Spec
    has_bias: bool

    def __call__(self, filter: Array) -> str:
        """The name of the algorithm for this filter."""
        return _operation(self.op, self.spec, self.has_bias).algorithm(filter)


def block_of(
    op: _spec.Op, spec: _spec.Spec, region: tuple[Span, Window, Window, Span], threads: int
) -> Block:
    """The operation for the block of `spec` that has these images, rows, columns and channels.

    What the border shows is among the pixels that its windows read.
    """
    batch, rows, columns, channels = region
    local = replace(
        spec,
        batch=batch[1] - batch[0],
        channels=channels[1] - channels[0],
        height=rows.axis,
        width=columns.axis,
        border="constant",
    )
    return Block(op, local, threads)


@dataclass(frozen=True)
class Widened:
    """A block that is one part of a sum: half precision is widened first, and only the sum is rounded."""

    block: Block

    def __call__(self, a: Array, b: Array, bias: None = None, algorithm: str | None = None) -> Array:
        """The block, in the type that accumulates; such a block has no bias."""
        spec = self.block.spec
        if spec.dtype not in HALVES:
            return self.block(a, b, bias, algorithm)
        wide = replace(self.block, spec=replace(spec, dtype="float32"))
        return wide(a.astype(np.float32), b.astype(np.float32), bias, algorithm)


@dataclass(frozen=True)
class FoldUp:
    """Adds gradients at positions of the padded image to the pixels that its border shows there.

    For each run of rows there is a part for each run of columns. A pixel's positions are added up as the
    engine does it: first the columns of each row, then the rows, in ascending order.
    """

    rows: tuple[Run, ...]
    columns: tuple[Run, ...]
    shape: tuple[int, ...]
    row_axis: int
    dtype: np.dtype[Any]

    def __call__(self, parts: Sequence[Array]) -> Array:
        """The block of the input gradient."""
        wide = np.dtype(np.float32) if self.dtype.itemsize == 2 else self.dtype
        total, left = np.zeros(self.shape, wide), iter(parts)
        with np.errstate(over="ignore", invalid="ignore"):
            for row in self.rows:
                shape = (*self.shape[: self.row_axis], row.length, *self.shape[self.row_axis + 1 :])
                sums = np.zeros(shape, wide)
                for column in self.columns:
                    _add(sums, next(left), column, self.row_axis + 1)
                _add(total, sums, row, self.row_axis)
            return total.astype(self.dtype, copy=False)


def _add(total: Array, part: Array, run: Run, axis: int) -> None:
    """Add the pixels of `part` along an axis to those of `total` that the run goes through."""
    total, part = np.moveaxis(total, axis, 0), np.moveaxis(part, axis, 0)
    if run.step == 0:
        for pixel in part:
            total[run.start] += pixel
        return
    stop = run.start + run.step * run.length
    total[run.start : stop if stop >= 0 else None : run.step] += part


def add_up(shares: Sequence[Array]) -> Array:
    """Their sum in float64, from first to last."""
    total = shares[0].astype(np.float64)
    for share in shares[1:]:
        total += share
    return total


@dataclass(frozen=True)
class Round:
    """Rounds a sum to the type of the result."""

    dtype: np.dtype[Any]

    def __call__(self, total: Array) -> Array:
        """The sum, rounded; what is too large becomes infinite, as a sum in that type would."""
        with np.errstate(over="ignore"):
            return total.astype(self.dtype)


@lru_cache(4096)
def _operation(op: _spec.Op, spec: _spec.Spec, has_bias: bool) -> _engine.Operation:
    return _engine.Operation(op, spec, has_bias)
