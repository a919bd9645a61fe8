"""What a run measured, as plain records that go to JSON and come back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .peers import OURS
from .stats import Timing

HEADLINE = OURS[0]
#: Our other contender: `depthwise.Conv2D`, prepared as the filters of some peers are.
PREPARED = OURS[1]


@dataclass(frozen=True)
class Group:
    """Rows that compare like with like: one type, batch, layout and number of threads."""

    dtype: str
    batch: int
    layout: str
    threads: int

    def __str__(self) -> str:
        parts = [self.layout, f"{self.threads} thread{'s' * (self.threads > 1)}"]
        if self.dtype != "float32":
            parts.append(self.dtype)
        if self.batch != 1:
            parts.append(f"batch {self.batch}")
        return ", ".join(parts)

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """Those of `rows` that are of this group."""
        key = (self.dtype, self.batch, self.threads)
        return [row for row in rows if (row.dtype, row.batch, row.threads) == key]

    @staticmethod
    def all(rows: Iterable[Row]) -> list[Group]:
        """The groups in which ours was timed: float32 first, by batch and threads, NHWC first."""
        found = {
            Group(row.dtype, row.batch, entry.layout, row.threads): None
            for row in rows
            for entry in row.entries
            if entry.peer in OURS and entry.timing is not None
        }
        return sorted(found, key=Group._order)

    def _order(self) -> tuple[Any, ...]:
        return self.dtype != "float32", self.dtype, self.batch, self.threads, self.layout != "NHWC"


@dataclass(frozen=True)
class Entry:
    """One contender on one problem.

    `status` is "timed", "wrong" (another result, so not timed), "unsupported" or "failed"; `reason` says why.
    """

    peer: str
    layout: str
    status: str
    reason: str = ""
    timing: Timing | None = None

    @property
    def is_broken_ours(self) -> bool:
        """Whether this is one of ours with a wrong result or none."""
        return self.peer in OURS and self.status in ("wrong", "failed")


@dataclass(frozen=True)
class Row:
    """One layer with one number of threads: its floor and all contenders. Times are in seconds."""

    layer: str
    nets: dict[str, int]
    op: str
    dtype: str
    batch: int
    threads: int
    multiply_adds: int
    live_multiply_adds: int
    bytes: int
    floor: float
    bound: str
    dense_floor: float
    entries: tuple[Entry, ...]

    def median(self, peer: str, layout: str) -> float | None:
        """Seconds of that contender, or None if it was not timed."""
        for entry in self.entries:
            if (entry.peer, entry.layout) == (peer, layout) and entry.timing is not None:
                return entry.timing.median
        return None

    def peers(self, layout: str | None = None) -> Iterator[tuple[Entry, Timing]]:
        """Timed contenders that are not ours, of one layout or of any."""
        for entry in self.entries:
            if entry.timing is not None and entry.peer not in OURS and layout in (None, entry.layout):
                yield entry, entry.timing

    def best_peer(self, layout: str | None = None) -> tuple[Entry, Timing] | None:
        """The fastest of `peers`."""
        return min(self.peers(layout), key=lambda item: item[1].median, default=None)

    def speedup(self, layout: str, of_layout: str | None, ours: str = HEADLINE) -> float | None:
        """How many times faster `ours`, the plain call, is than the best peer of `of_layout` (None: any)."""
        median, best = self.median(ours, layout), self.best_peer(of_layout)
        return None if median is None or best is None else best[1].median / median

    def roofline(self, layout: str) -> float | None:
        """The floor as a fraction of our plain call's time."""
        ours = self.median(HEADLINE, layout)
        return None if ours is None else self.floor / ours


@dataclass
class Run:
    """Everything of one run: where and what, and the rows."""

    machine: dict[str, Any]
    versions: dict[str, str]
    options: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what `save` wrote."""
        values = json.loads(path.read_text())
        rows = [_row(row) for row in values.pop("rows")]
        return cls(**values, rows=rows)


def _row(values: dict[str, Any]) -> Row:
    return Row(**{**values, "entries": tuple(_entry(entry) for entry in values["entries"])})


def _entry(values: dict[str, Any]) -> Entry:
    timing = values["timing"]
    return Entry(**{**values, "timing": None if timing is None else Timing(**timing)})
