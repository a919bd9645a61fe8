"""A run as a picture: how far every contender is from the roofline, and how far ours is ahead."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from .peers import OURS, PEERS
from .report import ROOFLINE_FROM, Summary, factor, percent
from .results import HEADLINE, Group, Row, Run

OUR_COLOR = "#d6336c"
PEER_COLORS = {
    "torch": "#e8590c",
    "tensorflow": "#f2b705",
    "litert": "#5c940d",
    "onnxruntime": "#1c7ed6",
    "openvino": "#7048e8",
    "jax": "#0b9a8d",
    "opencv": "#868e96",
}
FLOOR_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
SPEEDUP_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100)
INK, FAINT = "#212529", "#dee2e6"


def plot(run: Run, path: Path) -> None:
    """Write the picture of `run`: one row of two panels for each group."""
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    chosen = Group.all(run.rows)
    if not chosen:
        raise ValueError("plot: the run has no timed layer")
    with pyplot.rc_context(_style()):
        figure, axes = pyplot.subplots(
            len(chosen), 2, figsize=(14, 4.1 * len(chosen)), squeeze=False, width_ratios=(3, 2)
        )
        for group, (left, right) in zip(chosen, axes, strict=True):
            _roofline_panel(left, group.rows(run.rows), group)
            _speedup_panel(right, group.rows(run.rows), group)
        _legend(figure, run)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / (4.1 * len(chosen))))
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def _style() -> dict[str, Any]:
    return {
        "font.size": 10,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.axisbelow": True,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.facecolor": "white",
    }


def _roofline_panel(axes: Any, rows: list[Row], group: Group) -> None:
    """Each contender's fraction of the roofline over the floor; up is fast."""
    for peer, color in PEER_COLORS.items():
        points = _points(rows, peer, group.layout)
        if points:
            axes.scatter(*zip(*points, strict=True), s=20, color=color, alpha=0.7, linewidths=0)
    ours = zip(*_points(rows, HEADLINE, group.layout), strict=True)
    axes.scatter(*ours, s=44, marker="D", color=OUR_COLOR, edgecolor="white", linewidth=0.6, zorder=3)
    axes.axhline(1, color=INK, linewidth=1)
    axes.axvspan(1e-3, ROOFLINE_FROM * 1e6, color=FAINT, alpha=0.35, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="floor of the layer, us", ylabel="fraction of the roofline")
    axes.set(xlim=_limits(rows), ylim=(0.003, 1.3))
    axes.set_xticks([tick for tick in FLOOR_TICKS if _limits(rows)[0] <= tick <= _limits(rows)[1]])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color=FAINT, linewidth=0.6)
    summary = Summary.of(rows, group)
    mean = percent(summary.roofline)
    axes.set_title(f"{group}: {mean} of the roofline, geometric mean")


def _points(rows: list[Row], peer: str, layout: str) -> list[tuple[float, float]]:
    """The floor in microseconds and the fraction of the roofline, where that contender was timed."""
    times = ((row.floor, row.median(peer, layout)) for row in rows)
    return [(floor * 1e6, floor / time) for floor, time in times if time is not None]


def _limits(rows: list[Row]) -> tuple[float, float]:
    floors = [row.floor * 1e6 for row in rows]
    return min(floors) / 1.3, max(floors) * 1.3


def _speedup_panel(axes: Any, rows: list[Row], group: Group) -> None:
    """How many times faster ours is than the best peer of any layout, layers sorted."""
    found = [(ratio, row) for row in rows if (ratio := row.speedup(group.layout, None)) is not None]
    if not found:
        axes.set_visible(False)
        return
    found.sort(key=lambda item: item[0])
    positions = range(len(found))
    colors = [PEER_COLORS[best[0].peer] for _, row in found if (best := row.best_peer()) is not None]
    axes.bar(positions, [ratio - 1 for ratio, _ in found], bottom=1, color=colors, width=0.86)
    axes.axhline(1, color=INK, linewidth=1)
    axes.set(yscale="log", xlim=(-0.7, len(found) - 0.3), xticks=[])
    axes.set_ylabel("times faster than the best peer")
    low, high = min(found[0][0], 1) / 1.05, max(found[-1][0], 1) * 1.05
    axes.set_ylim(low, high)
    axes.set_yticks([tick for tick in SPEEDUP_TICKS if low <= tick <= high])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_xlabel(f"{len(found)} layers, sorted; the color is the best peer's")
    mean = Summary.of(rows, group).any_layout
    axes.set_title(f"{factor(mean)} the best peer, geometric mean")


def _legend(figure: Any, run: Run) -> None:
    lines: Any = import_module("matplotlib.lines")
    timed = {entry.peer for row in run.rows for entry in row.entries if entry.timing is not None}
    handles = [_handle(lines, PEERS[OURS[0]].title, OUR_COLOR, "D")]
    colors = {peer: color for peer, color in PEER_COLORS.items() if peer in timed}
    handles += [_handle(lines, PEERS[peer].title, color, "o") for peer, color in colors.items()]
    handles.append(lines.Line2D([], [], color=INK, linewidth=1, label="roofline / equal"))
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False)


def _handle(lines: Any, label: str, color: str, marker: str) -> Any:
    return lines.Line2D([], [], color=color, marker=marker, linestyle="", markersize=7, label=label)
