"""A run as Markdown: the summary against peers and roofline, the worst layers, and the full table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .peers import OURS, PEERS
from .results import HEADLINE, PREPARED, Entry, Group, Row, Run
from .stats import Timing, geometric_mean

#: Below this floor, overheads of a call hide what the kernel does (seconds).
ROOFLINE_FROM = 10e-6

#: Layers with at least this floor are worth a second thread (seconds).
THREADS_FROM = 50e-6

#: Types are compared on layers with at least this float32 floor (seconds).
TYPES_FROM = 20e-6

#: Layers in each list of the worst.
WORST = 12


@dataclass(frozen=True)
class Summary:
    """All layers of one group, as factors and fractions; NaN where nothing was measured."""

    layers: int
    same_layout: float
    any_layout: float
    prepared: float  # against the best peer of any layout, with a filter that was prepared as theirs are
    slower: int
    roofline: float
    roofline_worst: float

    @classmethod
    def of(cls, rows: Iterable[Row], group: Group) -> Summary:
        """The summary of those of `rows` that are of `group`."""
        rows = group.rows(rows)
        layout = group.layout
        against_all = measured(row.speedup(layout, None) for row in rows)
        fractions = measured(row.roofline(layout) for row in rows if row.floor >= ROOFLINE_FROM)
        return cls(
            layers=len(measured(row.median(HEADLINE, layout) for row in rows)),
            same_layout=geometric_mean(measured(row.speedup(layout, layout) for row in rows)),
            any_layout=geometric_mean(against_all),
            prepared=geometric_mean(measured(row.speedup(layout, None, PREPARED) for row in rows)),
            slower=sum(ratio < 1 for ratio in against_all),
            roofline=geometric_mean(fractions),
            roofline_worst=min(fractions, default=float("nan")),
        )


def markdown(run: Run) -> str:
    """The whole report."""
    parts = (machine_section, _summaries, _by_net, _threads, _types, _closest, _furthest)
    sections = [part(run) for part in parts]
    sections += [_layers(run, group) for group in Group.all(run.rows)]
    sections.append(broken_section(run))
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    rule = [":---" if column < left else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def microseconds(seconds: float | None) -> str:
    """Three significant digits, never an exponent."""
    if seconds is None:
        return "-"
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def factor(value: float | None) -> str:
    """``2.51x``, or a dash for what was not measured."""
    return "-" if value is None or value != value else f"{value:.2f}x"


def percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.0f}%"


def with_spread(timing: Timing | None) -> str:
    """The median and half the distance of the quartiles."""
    return "-" if timing is None else f"{microseconds(timing.median)} ±{100 * timing.spread:.0f}%"


def machine_section(run: Run) -> str:
    """Where and what the run was."""
    lines = [f"- {name}: {value}" for name, value in run.machine.items()]
    versions = {contender_title(name): value for name, value in run.versions.items()}
    for name, values in (("versions", versions), ("options", run.options)):
        lines.append(f"- {name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    return "\n".join(lines)


def _summaries(run: Run) -> str:
    groups = Group.all(run.rows)
    prepares = any(row.median(PREPARED, group.layout) for group in groups for row in group.rows(run.rows))
    header = (
        "group",
        "layers",
        "x best peer, same layout",
        "x best peer, any layout",
        *([f"{contender_title(PREPARED)} x any layout"] if prepares else []),
        "slower than a peer",
        f"of roofline (floor > {ROOFLINE_FROM * 1e6:.0f} us)",
        "worst",
    )
    rows = []
    for group in groups:
        summary = Summary.of(run.rows, group)
        prepared = (summary.prepared,) if prepares else ()
        factors = map(factor, (summary.same_layout, summary.any_layout, *prepared))
        roofline = (percent(summary.roofline), percent(summary.roofline_worst))
        rows.append((str(group), str(summary.layers), *factors, str(summary.slower), *roofline))
    return "## Summary\n\nGeometric means over the layers.\n\n" + table(header, rows)


def _by_net(run: Run) -> str:
    """Geometric mean against the best peer of any layout, for each network."""
    columns = Group.all(run.rows)
    rows = []
    for net in dict.fromkeys(net for row in run.rows for net in row.nets):
        chosen = [row for row in run.rows if net in row.nets]
        means = [Summary.of(chosen, group).any_layout for group in columns]
        rows.append((net, str(len({row.layer for row in chosen})), *map(factor, means)))
    header = ("network", "layers", *map(str, columns))
    return "## Against the best peer of any layout, by network\n\n" + table(header, rows) if rows else ""


def _threads(run: Run) -> str:
    """How much faster more threads are than one."""
    several = [group for group in Group.all(run.rows) if group.threads > 1]
    pairs = [(group, replace(group, threads=1)) for group in several]
    title = f"## Threads\n\nLayers with a floor above {THREADS_FROM * 1e6:.0f} us on one thread.\n\n"
    return _compared(run, pairs, title, "x one thread", THREADS_FROM)


def _types(run: Run) -> str:
    """The other types against float32."""
    others = [group for group in Group.all(run.rows) if group.dtype != "float32"]
    pairs = [(group, replace(group, dtype="float32")) for group in others]
    title = f"## Types\n\nLayers with a float32 floor above {TYPES_FROM * 1e6:.0f} us.\n\n"
    return _compared(run, pairs, title, "x float32", TYPES_FROM)


def _compared(
    run: Run, pairs: Iterable[tuple[Group, Group]], title: str, name: str, least_floor: float
) -> str:
    """How much faster ours is in the first group of each pair than in the second, on the same layers."""
    rows = []
    for group, base in pairs:
        before = {row.layer: row for row in base.rows(run.rows) if row.floor >= least_floor}
        after = {row.layer: row for row in group.rows(run.rows) if row.layer in before}
        gains = {layer: _gain(before[layer], row, group.layout) for layer, row in after.items()}
        known = {layer: gain for layer, gain in gains.items() if gain is not None}
        if known:
            worst = min(known, key=lambda layer: known[layer])
            cells = (factor(geometric_mean(known.values())), factor(known[worst]), worst)
            rows.append((str(group), str(len(known)), *cells))
    return title + table(("group", "layers", name, "worst", "at"), rows) if rows else ""


def _gain(before: Row, after: Row, layout: str) -> float | None:
    old, new = before.median(HEADLINE, layout), after.median(HEADLINE, layout)
    return None if old is None or new is None else old / new


def _closest(run: Run) -> str:
    """The layers on which a peer comes closest to ours."""
    cells = [
        (row.layer, str(group), factor(value), *_ours_and_best(row, group.layout))
        for value, row, group in _lowest(run, lambda row, group: row.speedup(group.layout, None))
    ]
    header = ("layer", "group", "x best peer", "ours, us", "best peer, us", "which")
    return "## Closest peers\n\n" + table(header, cells, left=2) if cells else ""


def _furthest(run: Run) -> str:
    """The layers that are furthest from the roofline."""
    cells = [
        (row.layer, str(group), percent(value), row.bound, microseconds(row.floor))
        for value, row, group in _lowest(run, _roofline_if_large)
    ]
    header = ("layer", "group", "of roofline", "bound", "floor, us")
    return "## Furthest from the roofline\n\n" + table(header, cells, left=2) if cells else ""


def _roofline_if_large(row: Row, group: Group) -> float | None:
    return row.roofline(group.layout) if row.floor >= ROOFLINE_FROM else None


def _lowest(run: Run, value: Callable[[Row, Group], float | None]) -> list[tuple[float, Row, Group]]:
    """The rows of the lowest values."""
    pairs = [(row, group) for group in Group.all(run.rows) for row in group.rows(run.rows)]
    valued = [(value(row, group), row, group) for row, group in pairs]
    known = [(number, row, group) for number, row, group in valued if number is not None]
    return sorted(known, key=lambda item: item[0])[:WORST]


def _ours_and_best(row: Row, layout: str) -> tuple[str, str, str]:
    best = row.best_peer()
    assert best is not None
    entry, timing = best
    return microseconds(row.median(HEADLINE, layout)), microseconds(timing.median), _contender(entry)


def _layers(run: Run, group: Group) -> str:
    """Every layer of one group with all its contenders, in microseconds."""
    rows, layout = group.rows(run.rows), group.layout
    peers = [peer for peer in PEERS if any(row.median(peer, layout) is not None for row in rows)]
    header = ["layer", "floor", "dense floor", "roofline", "x same", "x any", *map(contender_title, peers)]
    cells = [[*_ratios(row, layout), *time_cells(row, layout, peers)] for row in rows]
    note = "Microseconds, median ±half the distance of the quartiles; the best peer in bold."
    return f"## {group}\n\n{note}\n\n{table(header, cells)}"


def _ratios(row: Row, layout: str) -> list[str]:
    floors = [microseconds(row.floor), microseconds(row.dense_floor), percent(row.roofline(layout))]
    return [row.layer, *floors, factor(row.speedup(layout, layout)), factor(row.speedup(layout, None))]


def time_cells(row: Row, layout: str, peers: Sequence[str]) -> Iterator[str]:
    """The times of the named contenders, the best peer's in bold."""
    entries = {entry.peer: entry for entry in row.entries if entry.layout == layout}
    best = min((timing.median for _, timing in row.peers(layout)), default=None)
    for peer in peers:
        entry = entries.get(peer)
        text = with_spread(entry.timing) if entry is not None else "-"
        if entry is not None and entry.status in ("wrong", "failed"):
            text = entry.status
        is_best = entry is not None and entry.timing is not None and entry.timing.median == best
        yield f"**{text}**" if is_best and peer not in OURS else text


def broken_section(run: Run) -> str:
    """Contenders that gave a wrong result or failed; empty if there are none."""
    broken = [
        (row.layer, str(row.threads), _contender(entry), entry.status, entry.reason)
        for row in run.rows
        for entry in row.entries
        if entry.status in ("wrong", "failed")
    ]
    if not broken:
        return ""
    header = ("layer", "threads", "contender", "status", "reason")
    return "## Wrong or failed\n\n" + table(header, broken, left=5)


def measured(values: Iterable[float | None]) -> list[float]:
    """Those that were measured."""
    return [value for value in values if value is not None]


def contender_title(peer: str) -> str:
    """How a contender is named; a function of an image library is a name by itself."""
    return PEERS[peer].title if peer in PEERS else peer


def _contender(entry: Entry) -> str:
    return f"{contender_title(entry.peer)} {entry.layout}"
