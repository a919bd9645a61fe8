"""One axis of a chunked problem: how the result is split, and what each block of it reads.

Everything is in whole pixels of one axis. A block of the result is again a convolution, of the pixels that
it reads: `_spec.Axis` describes it, with padding only where the block reaches over an edge of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from .._spec import Axis

Span = tuple[int, int]  # [start, stop)


class Run(NamedTuple):
    """Pixels in the order in which they are read: `start`, `start + step`, and so on, `length` of them."""

    start: int
    step: int
    length: int


class Piece(NamedTuple):
    """A run within one chunk, counted from the chunk's start."""

    chunk: int
    run: Run


class Window(NamedTuple):
    """What one block of a result is, along one axis."""

    result: Span
    reads: list[Run]
    axis: Axis


def run_of(span: Span) -> Run:
    """All of a span."""
    return Run(span[0], 1, span[1] - span[0])


def times(span: Span, factor: int) -> Span:
    """The outputs that belong to these channels."""
    return span[0] * factor, span[1] * factor


def spans(chunks: Sequence[int]) -> list[Span]:
    """Where each chunk starts and stops."""
    return list(pairwise(accumulate(chunks, initial=0)))


def split(size: int, stops: Sequence[int]) -> list[Span]:
    """[0, size) split at `stops`, which ascend but may repeat or lie outside; one empty span if size is 0."""
    inside = sorted({stop for stop in stops if 0 < stop < size})
    return list(pairwise([0, *inside, size]))


def scaled(chunks: Sequence[int], move: Callable[[int], int], size: int) -> list[Span]:
    """[0, size) split where `move` puts the ends of `chunks`."""
    return split(size, [move(stop) for _, stop in spans(chunks)])


def forward_stop(axis: Axis) -> Callable[[int], int]:
    """From the end of an input chunk to that of the outputs whose first step lies in it."""
    return lambda stop: -(-stop // axis.stride)


def input_stop(axis: Axis) -> Callable[[int], int]:
    """From the end of an output chunk to that of the input chunk from which it comes."""
    return lambda stop: stop * axis.stride


def output_window(axis: Axis, result: Span, border: str = "constant") -> Window:
    """The outputs `result`, of the forward operation or for the filter gradient, and the pixels they read."""
    start, stop = result
    reach = (axis.kernel - 1) * axis.dilation
    first = start * axis.stride - axis.pad_before
    last = max((stop - 1) * axis.stride - axis.pad_before + reach, first - 1)
    if stop <= start:
        last = first - 1
    if border != "constant":
        count = last + 1 - first
        local = replace(axis, input=count, output=stop - start, pad_before=0, pad_after=0)
        return Window(result, border_runs(axis.input, first, count, border), local)
    low, high = (min(max(edge, 0), axis.input) for edge in (first, last + 1))
    local = replace(
        axis,
        input=high - low,
        output=stop - start,
        pad_before=max(low - first, 0),
        pad_after=max(last + 1 - high, 0),
    )
    return Window(result, [Run(low, 1, high - low)], local)


def input_window(axis: Axis, result: Span) -> Window:
    """The input pixels `result` of the input gradient, and the outputs whose gradients reach them."""
    start, stop = result
    reach = max(axis.kernel - 1, 0) * axis.dilation
    first = -((reach - start - axis.pad_before) // axis.stride)  # rounded up
    # A stride beyond the kernel: start no later than the first pixel, so that the local padding is none.
    first = min(first, (start + axis.pad_before) // axis.stride)
    last = (stop - 1 + axis.pad_before) // axis.stride
    low, high = (min(max(edge, 0), axis.output) for edge in (first, last + 1))
    high = max(low, high)
    local = replace(
        axis,
        input=stop - start,
        output=high - low,
        pad_before=axis.pad_before + start - low * axis.stride,
    )
    return Window(result, [Run(low, 1, high - low)], local)


class Fold(NamedTuple):
    """Positions of a padded axis, as a window of the input gradient, and the pixels of a block they show."""

    positions: Window
    pixels: Run


def folds(axis: Axis, result: Span, border: str) -> list[Fold]:
    """What the border adds up to the input pixels `result` of the input gradient, in ascending positions.

    The gradient with respect to the padded image is computed at each position and added to the pixel that
    the border shows there.
    """
    position, end = -axis.pad_before, axis.input
    if axis.output > 0 and axis.kernel > 0:
        last = (axis.output - 1) * axis.stride + (axis.kernel - 1) * axis.dilation - axis.pad_before
        end = max(end, last + 1)
    padded = replace(axis, input=end - position, pad_before=0, pad_after=0)
    found = []
    for run in border_runs(axis.input, position, end - position, border):
        skipped, part = _within(run, result)
        if part.length > 0:
            start = position + axis.pad_before + skipped
            found.append(Fold(input_window(padded, (start, start + part.length)), part))
        position += run.length
    return found


def _within(run: Run, span: Span) -> tuple[int, Run]:
    """How many pixels of the run come before the first within the span, and those within, from its start."""
    start, stop = span
    if run.step == 0:
        inside = start <= run.start < stop
        return 0, Run(run.start - start, 0, run.length if inside else 0)
    if run.step > 0:
        first, last = max(0, start - run.start), min(run.length, stop - run.start)
    else:
        first, last = max(0, run.start - (stop - 1)), min(run.length, run.start - start + 1)
    return first, Run(run.start + run.step * first - start, run.step, max(0, last - first))


def border_runs(size: int, first: int, count: int, border: str) -> list[Run]:
    """The pixels at the positions `first` and on, where those outside [0, size) are `numpy.pad`'s."""
    runs: list[Run] = []
    position, stop = first, first + count
    while position < stop:
        run = _run_from(size, position, border)
        runs.append(run._replace(length=min(run.length, stop - position)))
        position += runs[-1].length
    return runs or [Run(0, 1, 0)]


def _run_from(size: int, position: int, border: str) -> Run:
    """The longest run that begins at `position`."""
    if border == "wrap":
        at = position % size
        return Run(at, 1, size - at)
    if border == "edge" or size == 1:
        if position < 0:
            return Run(0, 0, -position)
        if position < size:
            return Run(position, 1, size - position)
        return Run(size - 1, 0, 1 << 62)
    period = 2 * size if border == "symmetric" else 2 * size - 2
    at = position % period
    if at < size:
        return Run(at, 1, size - at)
    return Run(period - at - (border == "symmetric"), -1, period - at)


def pieces(chunk_spans: Sequence[Span], runs: Sequence[Run]) -> list[Piece]:
    """The runs, split at the edges of chunks; one empty piece if there is nothing to read."""
    found = [piece for run in runs for piece in _pieces_of(chunk_spans, run)]
    return found or [Piece(0, Run(0, 1, 0))]


def _pieces_of(chunk_spans: Sequence[Span], run: Run) -> Iterator[Piece]:
    position, left = run.start, run.length
    ordered = list(enumerate(chunk_spans))
    for chunk, (start, stop) in reversed(ordered) if run.step < 0 else ordered:
        if left > 0 and start <= position < stop:
            room = {1: stop - position, -1: position + 1 - start, 0: left}[run.step]
            count = min(left, room)
            yield Piece(chunk, Run(position - start, run.step, count))
            position += run.step * count
            left -= count
