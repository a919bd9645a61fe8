"""A run of `depthwise bench --images` as Markdown: the summary, then every picture with all contenders."""

from __future__ import annotations

from collections.abc import Sequence

from .image_peers import LIBRARIES
from .images import LAYOUT, STEPS
from .oracle import TOLERANCE
from .report import (
    broken_section,
    contender_title,
    factor,
    machine_section,
    measured,
    microseconds,
    table,
    time_cells,
)
from .results import PREPARED, Group, Row, Run
from .stats import geometric_mean

#: Names of functions begin with these; the best of any library comes first.
_COLUMNS = {"x best peer": "", **{f"x {one.title}": one.prefix for one in LIBRARIES.values()}}


def markdown(run: Run) -> str:
    """The whole report."""
    groups = Group.all(run.rows)
    parts = [machine_section(run), _summary(run, groups), *(_pictures(run, group) for group in groups)]
    parts.append(broken_section(run))
    return "\n\n".join(part for part in parts if part) + "\n"


def speedup(row: Row, prefix: str = "") -> float | None:
    """How many times faster ours is than the best function of a library, or of all of them."""
    ours = row.median(PREPARED, LAYOUT)
    times = [timing.median for entry, timing in row.peers(LAYOUT) if entry.peer.startswith(prefix)]
    return None if ours is None or not times else min(times) / ours


def _summary(run: Run, groups: Sequence[Group]) -> str:
    rows = [(str(group), *_summary_cells(group.rows(run.rows))) for group in groups]
    header = ("group", "pictures", *_COLUMNS, "slower than a peer", "closest to a peer", "at")
    return f"## Summary\n\n{_notes()}\n\nGeometric means over the pictures.\n\n{table(header, rows)}"


def _summary_cells(rows: Sequence[Row]) -> tuple[str, ...]:
    means = [geometric_mean(measured(speedup(row, prefix) for row in rows)) for prefix in _COLUMNS.values()]
    ratios = {row.layer: ratio for row in rows if (ratio := speedup(row)) is not None}
    lowest = min(ratios, key=lambda name: ratios[name], default=None)
    slower = sum(ratio < 1 for ratio in ratios.values())
    closest = ("-", "-") if lowest is None else (factor(ratios[lowest]), lowest)
    return str(len(rows)), *map(factor, means), str(slower), *closest


def _notes() -> str:
    steps = ", ".join(f"{name} {count}" for name, count in STEPS.items())
    lines = (
        'Border "reflect"; the result has the type of the image and goes into an array that exists.',
        f"Ours was compared with the definition at single outputs, every other result with ours as a whole: "
        f"float32 within {TOLERANCE['float32']:g} of the largest magnitude, uint8 within 1 ({steps}).",
        "OpenCV may use the threads of the group; SciPy has one.",
    )
    return "\n".join(f"- {line}" for line in lines)


def _pictures(run: Run, group: Group) -> str:
    """Every picture of one group, in microseconds."""
    rows = group.rows(run.rows)
    timed = [entry.peer for row in rows for entry, _ in row.peers(LAYOUT)]
    contenders = [PREPARED, *dict.fromkeys(timed)]
    cells = [
        (
            row.layer,
            microseconds(row.floor),
            *(factor(speedup(row, prefix)) for prefix in _COLUMNS.values()),
            *time_cells(row, LAYOUT, contenders),
        )
        for row in rows
    ]
    header = ("picture", "memory floor", *_COLUMNS, *map(contender_title, contenders))
    note = "Microseconds, median ±half the distance of the quartiles; the best peer in bold."
    return f"## {group}\n\n{note}\n\n{table(header, cells)}"
