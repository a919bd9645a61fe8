"""Runs layers: prepares every contender in its process, checks its result, and times them all in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import product

from .environments import Located
from .layers import Layer
from .oracle import Oracle, problem_of
from .problem import Problem
from .results import Entry, Row
from .roofline import Floor, Roofline
from .stats import Timing
from .timing import THOROUGH, ContenderError, Effort, Timer, interleave
from .workers import Worker, WorkerError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to measure on each layer."""

    op: str = "forward"
    dtypes: tuple[str, ...] = ("float32",)
    batches: tuple[int, ...] = (1,)
    layouts: tuple[str, ...] = ("NHWC", "NCHW")
    threads: tuple[int, ...] = (1, 2)
    effort: Effort = THOROUGH

    @property
    def rows(self) -> int:
        """Rows that one layer gives."""
        return len(self.dtypes) * len(self.batches) * len(self.threads)


class Runner:
    """Measures layers with a fixed set of peers, whose processes live as long as the runner.

    Parameters
    ----------
    located : dict
        The peers to run and their interpreters.
    roofline : Roofline
        Gives the floors.
    start : callable, optional
        Makes the worker of ``(peer, threads, python)``.
    """

    def __init__(
        self,
        located: dict[str, Located],
        roofline: Roofline,
        start: Callable[[str, int, str], Worker] = Worker,
    ) -> None:
        self._located, self._roofline, self._start = located, roofline, start
        self._workers: dict[tuple[str, int], Worker] = {}
        self._unstartable: dict[tuple[str, int], str] = {}

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def measure(self, layer: Layer, settings: Settings, progress: Progress) -> Iterator[Row]:
        """One row for each dtype, batch and number of threads."""
        for dtype, batch in product(settings.dtypes, settings.batches):
            problems = {
                layout: problem_of(layer, op=settings.op, dtype=dtype, layout=layout, batch=batch)
                for layout in settings.layouts
            }
            progress(f"{layer.name}: reference")
            oracle = Oracle(next(iter(problems.values())))
            for threads in settings.threads:
                progress(f"{layer.name}: {dtype}, batch {batch}, {threads} thread{'s' * (threads > 1)}")
                yield self._row(layer, problems, oracle, threads, settings.effort)

    def _row(
        self, layer: Layer, problems: dict[str, Problem], oracle: Oracle, threads: int, effort: Effort
    ) -> Row:
        entries: dict[tuple[str, str], Entry] = {}
        timers: dict[tuple[str, str], Timer] = {}
        for peer, (layout, problem) in product(self._located, problems.items()):
            entry, timer = self._prepare(peer, problem, oracle, threads)
            entries[peer, layout] = entry
            if timer is not None:
                timers[peer, layout] = timer
        for key, outcome in interleave(timers, effort).items():
            entries[key] = with_outcome(entries[key], outcome)
        self._tidy(threads)
        problem = next(iter(problems.values()))
        return _row(layer, problem, threads, self._roofline.floor(problem, threads), entries.values())

    def _prepare(
        self, peer: str, problem: Problem, oracle: Oracle, threads: int
    ) -> tuple[Entry, Timer | None]:
        """The contender's entry so far and, if its result is right, how to time it."""
        entry = Entry(peer, problem.layout, "failed")
        try:
            worker = self._worker(peer, threads)
            reply, result = worker.prepare(problem.layout, problem)
        except WorkerError as error:
            return replace(entry, reason=str(error)), None
        for status in ("unsupported", "failed"):
            if status in reply:
                return replace(entry, status=status, reason=reply[status]), None
        wrong = "no result" if result is None else oracle.error(result, problem.layout)
        if wrong is not None:
            return replace(entry, status="wrong", reason=wrong), None
        return entry, lambda calls, warmup: worker.time(problem.layout, calls, warmup)

    def _worker(self, peer: str, threads: int) -> Worker:
        key = (peer, threads)
        if key in self._unstartable:
            raise WorkerError(self._unstartable[key])
        if key not in self._workers:
            try:
                self._workers[key] = self._start(peer, threads, self._located[peer].python)
            except WorkerError as error:
                self._unstartable[key] = str(error)
                raise
        return self._workers[key]

    def _tidy(self, threads: int) -> None:
        """Free what was prepared; a worker that died is replaced at the next layer."""
        for peer in self._located:
            worker = self._workers.get((peer, threads))
            if worker is None:
                continue
            try:
                worker.drop()
            except WorkerError:
                worker.close()
                del self._workers[peer, threads]


@contextmanager
def running(located: dict[str, Located], roofline: Roofline) -> Iterator[Runner]:
    """A runner whose workers end with the block."""
    with ExitStack() as stack:
        runner = Runner(located, roofline)
        stack.callback(runner.close)
        yield runner


def with_outcome(entry: Entry, outcome: list[float] | ContenderError) -> Entry:
    """The entry with its timing, or with the reason why there is none."""
    if isinstance(outcome, ContenderError):
        return replace(entry, status="failed", reason=str(outcome))
    return replace(entry, status="timed", timing=Timing.of(outcome))


def _row(layer: Layer, problem: Problem, threads: int, floor: Floor, entries: Iterable[Entry]) -> Row:
    return Row(
        layer=layer.name,
        nets=dict(layer.uses),
        op=problem.op,
        dtype=problem.dtype,
        batch=problem.batch,
        threads=threads,
        multiply_adds=problem.multiply_adds,
        live_multiply_adds=problem.live_multiply_adds,
        bytes=problem.bytes,
        floor=floor.seconds,
        bound=floor.bound,
        dense_floor=max(floor.dense, floor.memory),
        entries=tuple(entries),
    )
