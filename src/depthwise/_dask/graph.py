"""The graphs of the three operations: each block is one call of the engine on the pixels that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import dask.array as da

from .. import _engine
from .._spec import Axis
from . import geometry
from .blocks import FoldUp, Round, Widened, add_up
from .geometry import Piece, Span, Window, run_of, times
from .problem import Problem

# So many shares of a filter gradient are added by one task.
_FAN_IN = 8


def forward(
    operation: _engine.Operation,
    x: da.Array,
    filter: da.Array,
    bias: da.Array | None,
    threads: int,
    chunks: tuple[Sequence[int], Sequence[int]] | None = None,
) -> da.Array:
    """The forward operation; `chunks` are the result's height and width, by default like the input's."""
    arrays = {"x": x, "filter": filter} | ({} if bias is None else {"bias": bias})
    problem = Problem(operation, arrays, threads, chunks)
    windows = []
    for i, (letter, axis) in enumerate(_image_plane(problem)):
        spans = geometry.spans(chunks[i]) if chunks else _output_spans(problem, "x", letter, axis)
        windows.append([geometry.output_window(axis, span, problem.spec.border) for span in spans])
    return _image(problem, "x", windows[0], windows[1], reads=1, gives=problem.spec.multiplier)


def grad_input(operation: _engine.Operation, grad: da.Array, filter: da.Array, threads: int) -> da.Array:
    """The gradient with respect to the input."""
    problem = Problem(operation, {"grad": grad, "filter": filter}, threads)
    spans = [
        geometry.scaled(problem.chunks("grad", letter), geometry.input_stop(axis), axis.input)
        for letter, axis in _image_plane(problem)
    ]
    if problem.spec.border != "constant":
        return _folded_image(problem, *spans)
    windows = [
        [geometry.input_window(axis, span) for span in of_axis]
        for (_, axis), of_axis in zip(_image_plane(problem), spans, strict=True)
    ]
    return _image(problem, "grad", windows[0], windows[1], reads=problem.spec.multiplier, gives=1)


def grad_filter(operation: _engine.Operation, x: da.Array, grad: da.Array, threads: int) -> da.Array:
    """The gradient with respect to the filter: the blocks' shares, added in an order that the chunks fix."""
    problem = Problem(operation, {"x": x, "grad": grad}, threads)
    spec = problem.spec
    kernel = [[(0, size)] for size in (spec.height.kernel, spec.width.kernel)]
    if problem.is_one_block():
        problem.graph[(problem.name, *(0 for _ in spec.filter_shape))] = problem.one_block()
        return problem.result([[(0, size)] for size in spec.filter_shape])
    channels = _channel_spans(problem, "x", reads=1)
    shares = [_shares(problem, channel) for channel in channels]
    if spec.shared_filter:
        _add_up(problem, (0, 0), [share for of_channels in shares for share in of_channels])
        return problem.result(kernel)
    for c, of_channels in enumerate(shares):
        _add_up(problem, (0, 0, c, 0), of_channels)
    return problem.result([*kernel, channels, [(0, spec.multiplier)]])


def _image(
    problem: Problem, role: str, rows: list[Window], columns: list[Window], reads: int, gives: int
) -> da.Array:
    """The image that these windows make; for a filter's channel, it reads `reads` channels of the image
    with this role and gives `gives`.
    """
    batches = _batch_spans(problem, role)
    channels = _channel_spans(problem, role, reads)
    n_pieces = [problem.image_pieces(role, "N", [run_of(batch)]) for batch in batches]
    row_pieces = [problem.image_pieces(role, "H", row.reads) for row in rows]
    column_pieces = [problem.image_pieces(role, "W", column.reads) for column in columns]
    blocks = list(product(*(range(len(axis)) for axis in (batches, rows, columns))))
    for c, channel in enumerate(channels):
        operands = problem.weights(channel)
        c_pieces = problem.image_pieces(role, "C", [run_of(times(channel, reads))])
        for n, i, j in blocks:
            pixels = problem.image(role, N=n_pieces[n], H=row_pieces[i], W=column_pieces[j], C=c_pieces)
            block = problem.block(batches[n], rows[i], columns[j], channel)
            problem.graph[problem.key(N=n, H=i, W=j, C=c)] = (block, pixels, *operands)
    return problem.image_result(
        N=batches,
        H=[row.result for row in rows],
        W=[column.result for column in columns],
        C=[times(channel, gives) for channel in channels],
    )


def _folded_image(problem: Problem, row_spans: list[Span], column_spans: list[Span]) -> da.Array:
    """The input gradient where the border shows pixels of the image, which collect what it was given."""
    spec = problem.spec
    batches = _batch_spans(problem, "grad")
    channels = _channel_spans(problem, "grad", spec.multiplier)
    rows = [geometry.folds(spec.height, span, spec.border) for span in row_spans]
    columns = [geometry.folds(spec.width, span, spec.border) for span in column_spans]
    blocks = product(enumerate(batches), enumerate(row_spans), enumerate(column_spans), enumerate(channels))
    for (n, batch), (i, row_span), (j, column_span), (c, channel) in blocks:
        parts = [
            _folded_part(problem, batch, row.positions, column.positions, channel)
            for row, column in product(rows[i], columns[j])
        ]
        sizes = {"N": batch, "H": row_span, "W": column_span, "C": channel}
        fold = FoldUp(
            rows=tuple(row.pixels for row in rows[i]),
            columns=tuple(column.pixels for column in columns[j]),
            shape=tuple(sizes[letter][1] - sizes[letter][0] for letter in problem.image_axes),
            row_axis=problem.image_axes["H"],
            dtype=problem.dtype,
        )
        problem.graph[problem.key(N=n, H=i, W=j, C=c)] = (fold, parts)
    return problem.image_result(N=batches, H=row_spans, W=column_spans, C=channels)


def _folded_part(
    problem: Problem, batch: Span, row: Window, column: Window, channel: Span
) -> tuple[Any, ...]:
    """The gradient at these positions of the padded image."""
    outputs = times(channel, problem.spec.multiplier)
    reads = {"N": [run_of(batch)], "H": row.reads, "W": column.reads, "C": [run_of(outputs)]}
    pieces = {letter: problem.image_pieces("grad", letter, runs) for letter, runs in reads.items()}
    block = problem.block(batch, row, column, channel)
    return Widened(block), problem.image("grad", **pieces), *problem.weights(channel)


def _shares(problem: Problem, channel: Span) -> list[tuple[Any, ...]]:
    """The tasks of the filter gradient's blocks for these channels, in row-major order of the blocks."""
    spec = problem.spec
    images = Axis(spec.batch, spec.batch, 1, 1, 1, 0, 0)
    batches = _grad_windows(problem, "N", images, "constant")
    rows, columns = (_grad_windows(problem, *plane, spec.border) for plane in _image_plane(problem))
    x_pieces = problem.image_pieces("x", "C", [run_of(channel)])
    grad_pieces = problem.image_pieces("grad", "C", [run_of(times(channel, spec.multiplier))])
    shares = []
    for (batch, n_x, n_grad), (row, h_x, h_grad), (column, w_x, w_grad) in product(batches, rows, columns):
        pixels = problem.image("x", N=n_x, H=h_x, W=w_x, C=x_pieces)
        grad = problem.image("grad", N=n_grad, H=h_grad, W=w_grad, C=grad_pieces)
        shares.append((problem.block(batch.result, row, column, channel), pixels, grad))
    return shares


def _grad_windows(
    problem: Problem, letter: str, axis: Axis, border: str
) -> list[tuple[Window, list[Piece], list[Piece]]]:
    """The windows of an axis for which the filter gradient is summed, with where they lie in `x` and `grad`.

    They are the chunks of `grad`, or where it has only one, those of `x`.
    """
    chunks = problem.chunks("grad", letter)
    if len(chunks) > 1:
        spans = geometry.split(axis.output, _stops(chunks))
    else:
        spans = _output_spans(problem, "x", letter, axis)
    windows = [geometry.output_window(axis, span, border) for span in spans]
    reads = [problem.image_pieces("x", letter, window.reads) for window in windows]
    grads = [problem.image_pieces("grad", letter, [run_of(window.result)]) for window in windows]
    return list(zip(windows, reads, grads, strict=True))


def _add_up(problem: Problem, position: tuple[int, ...], shares: list[tuple[Any, ...]]) -> None:
    """Compute the chunk at `position` from the shares: one is the result, several are added in a tree."""
    key, name, graph = (problem.name, *position), f"{problem.name}-share", problem.graph
    if len(shares) == 1:
        graph[key] = shares[0]
        return
    level = [(name, *position, 0, i) for i in range(len(shares))]
    graph.update((share, (Widened(task[0]), *task[1:])) for share, task in zip(level, shares, strict=True))
    depth = 0
    while len(level) > 1 or depth == 0:
        depth += 1
        groups = [level[i : i + _FAN_IN] for i in range(0, len(level), _FAN_IN)]
        level = [(name, *position, depth, i) for i in range(len(groups))]
        graph.update((share, (add_up, group)) for share, group in zip(level, groups, strict=True))
    graph[key] = (Round(problem.dtype), level[0])


def _image_plane(problem: Problem) -> list[tuple[str, Axis]]:
    return [("H", problem.spec.height), ("W", problem.spec.width)]


def _output_spans(problem: Problem, role: str, letter: str, axis: Axis) -> list[Span]:
    return geometry.scaled(problem.chunks(role, letter), geometry.forward_stop(axis), axis.output)


def _batch_spans(problem: Problem, role: str) -> list[Span]:
    return geometry.split(problem.spec.batch, _stops(problem.chunks(role, "N")))


def _channel_spans(problem: Problem, role: str, reads: int) -> list[Span]:
    """The filter's channels of each block: as the image is split, or the filter where the image is not."""
    spec = problem.spec
    chunks = problem.chunks(role, "C")
    if len(chunks) == 1 and "filter" in problem.sources and not spec.shared_filter:
        return geometry.split(spec.channels, _stops(problem.sources["filter"].chunks[2]))
    return geometry.scaled(chunks, lambda stop: -(-stop // max(reads, 1)), spec.channels)


def _stops(chunks: Sequence[int]) -> list[int]:
    return [stop for _, stop in geometry.spans(chunks)]
