"""One operation on chunked arrays, and the graph that is being built for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from .. import _engine
from . import geometry
from .blocks import Assemble, Block, Choose, Take, block_of
from .geometry import Piece, Run, Span, Window, run_of, times

Graph = dict[Any, Any]


class Source:
    """An array whose parts the tasks of a graph take; a part that several blocks need is taken once."""

    def __init__(self, array: da.Array, part_name: str, graph: Graph) -> None:
        self._name = array.name
        self._part_name = part_name
        self._graph = graph
        self.chunks = array.chunks
        self._spans = [geometry.spans(chunks) for chunks in array.chunks]

    def pieces(self, axis: int, runs: Sequence[Run]) -> list[Piece]:
        """The pieces of chunks in which `runs` of an axis lie."""
        return geometry.pieces(self._spans[axis], runs)

    def everything(self) -> list[list[Piece]]:
        """The pieces of each axis that make the whole array."""
        sizes = (sum(chunks) for chunks in self.chunks)
        return [self.pieces(axis, [run_of((0, size))]) for axis, size in enumerate(sizes)]

    def gather(self, of_axes: Sequence[list[Piece]]) -> Any:
        """A task, or a key, for the array of these pieces of each axis."""
        keys = [self._key(pieces) for pieces in product(*of_axes)]
        if len(keys) == 1:
            return keys[0]
        return Assemble(tuple(tuple(piece.run.length for piece in pieces) for pieces in of_axes)), keys

    def _key(self, pieces: tuple[Piece, ...]) -> Any:
        chunk = tuple(piece.chunk for piece in pieces)
        runs = tuple(piece.run for piece in pieces)
        whole = (run_of((0, sizes[i])) for sizes, i in zip(self.chunks, chunk, strict=True))
        if runs == tuple(whole):
            return (self._name, *chunk)
        key = (self._part_name, *chunk, *(number for run in runs for number in run))
        self._graph.setdefault(key, (Take(runs), (self._name, *chunk)))
        return key


class Problem:
    """A resolved operation on dask arrays, which are known by the roles that they play in it.

    The algorithm is chosen once, for the whole problem: the chunks do not change what is computed. Where it
    depends on the values of the filter, a task of the graph chooses.
    """

    def __init__(
        self, operation: _engine.Operation, arrays: dict[str, da.Array], threads: int, *chunks: Any
    ) -> None:
        self.op = operation.op
        self.dtype = operation.dtype
        self.spec = replace(operation.spec, algorithm=operation.algorithm())
        self.graph: Graph = {}
        self._threads = threads
        self._arrays = list(arrays.values())
        names = {role: array.name for role, array in arrays.items()}
        token = tokenize(self.op, self.spec, names, threads, chunks)
        self.name = f"depthwise-{self.op.replace('_', '-')}-{token}"
        self.sources = {
            role: Source(array, f"depthwise-part-{role}-{token}", self.graph)
            for role, array in arrays.items()
        }
        self._algorithm: str | None = None  # the key of the task that chooses
        if operation.depends_on_filter:
            self._algorithm = f"depthwise-algorithm-{token}"
            choose = Choose(self.op, operation.spec, "bias" in arrays)
            self.graph[self._algorithm] = (choose, self._whole("filter"))

    @property
    def image_axes(self) -> dict[str, int]:
        """The position of each of an image's axes, by its letter."""
        letters = self.spec.layout if self.spec.batched else self.spec.layout[1:]
        return {letter: position for position, letter in enumerate(letters)}

    def chunks(self, role: str, letter: str) -> tuple[int, ...]:
        """The chunks of an image's axis; of a batch that is not there, one."""
        position = self.image_axes.get(letter)
        return (1,) if position is None else tuple(self.sources[role].chunks[position])

    def image_pieces(self, role: str, letter: str, runs: Sequence[Run]) -> list[Piece]:
        """Where the pixels of these runs of an image's axis lie."""
        position = self.image_axes.get(letter)
        return [] if position is None else self.sources[role].pieces(position, runs)

    def image(self, role: str, **pieces: list[Piece]) -> Any:
        """A task for the part of an image that these pieces of N, H, W and C make."""
        return self.sources[role].gather([pieces[letter] for letter in self.image_axes])

    def weights(self, channels: Span) -> list[Any]:
        """Tasks for the filter, the bias of these channels if there is one, and the algorithm if need be."""
        source, spec = self.sources["filter"], self.spec
        runs = [run_of((0, size)) for size in spec.filter_shape]
        if not spec.shared_filter:
            runs[2] = run_of(channels)
        weights = [source.gather([source.pieces(axis, [run]) for axis, run in enumerate(runs)])]
        if "bias" in self.sources:
            source = self.sources["bias"]
            weights.append(source.gather([source.pieces(0, [run_of(times(channels, spec.multiplier))])]))
        if self._algorithm is not None:
            weights += [None, self._algorithm][len(weights) - 1 :]
        return weights

    def block(self, batch: Span, height: Window, width: Window, channels: Span) -> Block:
        """The engine's operation for one block."""
        return block_of(self.op, self.spec, (batch, height, width, channels), self._threads)

    def is_one_block(self) -> bool:
        """Whether no operand is chunked: then the engine's own call computes it all, border included."""
        return all(len(chunks) == 1 for source in self.sources.values() for chunks in source.chunks)

    def one_block(self) -> tuple[Any, ...]:
        """The task of an operation whose operands are not chunked."""
        return (Block(self.op, self.spec, self._threads), *map(self._whole, self.sources))

    def _whole(self, role: str) -> Any:
        source = self.sources[role]
        return source.gather(source.everything())

    def key(self, **position: int) -> tuple[Any, ...]:
        """The key of an image's chunk at this position along N, H, W and C."""
        return (self.name, *(position[letter] for letter in self.image_axes))

    def image_result(self, **of_axes: Sequence[Span]) -> da.Array:
        """The image whose chunks the graph computes; the spans are those of its axes."""
        return self.result([of_axes[letter] for letter in self.image_axes])

    def result(self, of_axes: Sequence[Sequence[Span]]) -> da.Array:
        """The array whose chunks the graph computes."""
        chunks = tuple(tuple(stop - start for start, stop in spans) for spans in of_axes)
        graph = HighLevelGraph.from_collections(self.name, self.graph, dependencies=self._arrays)
        return da.Array(graph, self.name, chunks, meta=np.empty((0,) * len(chunks), self.dtype))
