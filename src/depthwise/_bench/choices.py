"""Whether the chooser chose well: every kernel that applies to a layer is timed beside the choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from depthwise import _native

from .layers import Layer
from .oracle import native_plan, problem_of
from .report import factor, microseconds, table
from .timing import Effort, call_timer, interleave, medians

#: Instruction sets whose kernels are timed: the best one here and the next, which the chooser may take, too.
_ISAS = 2

#: The choice is off when the best alternative takes less than this fraction of its time.
TOLERATED = 1 / 1.10


@dataclass(frozen=True)
class Choice:
    """All alternatives on one layer; `times` are seconds by kernel, `wrong` those whose bits differ."""

    layer: Layer
    layout: str
    threads: int
    chosen: str
    times: dict[str, float]
    wrong: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        return min(self.times, key=lambda name: self.times[name])

    @property
    def loss(self) -> float:
        """Time of the choice over time of the best."""
        return self.times[self.chosen] / self.times[self.best]

    def ordered(self) -> list[tuple[str, float]]:
        """Kernels and their seconds, fastest first."""
        return sorted(self.times.items(), key=lambda item: item[1])

    @property
    def is_off(self) -> bool:
        return self.loss * TOLERATED > 1


def examine(
    layer: Layer, *, op: str, dtype: str, layout: str, batch: int, threads: int, effort: Effort
) -> Choice:
    """Time the chosen kernel and every other one that takes the layer."""
    plan_of = partial(native_plan, layer, op=op, dtype=dtype, layout=layout, batch=batch)
    a, b = problem_of(layer, op=op, dtype=dtype, layout=layout, batch=batch).operands()
    calls = {name: partial(plan.run, a, b, None, None, threads) for name, plan in _plans(plan_of).items()}
    chosen = next(iter(calls))
    expected = calls[chosen]()
    wrong = tuple(name for name, call in calls.items() if not _same_bits(call(), expected))
    timers = {name: call_timer(call) for name, call in calls.items() if name not in wrong}
    return Choice(layer, layout, threads, chosen, medians(interleave(timers, effort)), wrong)


def _plans(plan_of: Callable[..., _native.Plan]) -> dict[str, _native.Plan]:
    """A plan for every kernel that applies, by its name, the chosen one first."""
    chosen = plan_of()
    plans = {_name(chosen): chosen}
    rows = [
        row for row in _native.kernels() if row["algorithm"] != "separable"
    ]  # the filter is not of rank 1
    names = dict.fromkeys(row["name"] for row in rows)
    for isa, name in product(_native.isas()[:_ISAS], names):
        with suppress(ValueError):  # of a kernel that does not take this problem
            plan = plan_of(kernel=name, isa=isa)
            plans.setdefault(_name(plan), plan)
    return plans


def _name(plan: _native.Plan) -> str:
    """The plan's kernel, and its instruction set unless that is the best one here."""
    told = plan.describe()
    kernel: str = told["kernel"]
    return kernel if told["isa"] == _native.isas()[0] else f"{kernel} {told['isa']}"


def _same_bits(result: np.ndarray, expected: np.ndarray) -> bool:
    return result.shape == expected.shape and result.tobytes() == expected.tobytes()


def choices_table(choices: Iterable[Choice]) -> str:
    """A Markdown table of the choices, the largest loss first."""
    rows = [
        (
            choice.layer.name,
            choice.layout,
            str(choice.threads),
            choice.chosen,
            choice.best,
            factor(choice.loss),
            ", ".join(f"{name} {microseconds(time)}" for name, time in choice.ordered()),
            ", ".join(choice.wrong),
        )
        for choice in sorted(choices, key=lambda choice: -choice.loss)
    ]
    header = ("layer", "layout", "threads", "chosen", "best", "loss", "all, us", "wrong bits")
    return table(header, rows, left=8)
