"""Times several contenders side by side, short bursts of calls in turn, so that drift hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from .stats import Timing

#: ``timer(calls, warmup)`` runs `warmup` calls untimed, then `calls`, and returns the seconds of one call.
Timer = Callable[[int, int], float]

Key = TypeVar("Key")

#: A call that takes longer than this finds its data evicted anyway: it needs no warm-up before every burst.
_SLOW = 0.02

#: A contender that has used this many times its share of the time gets no more rounds, however few it had.
_PATIENCE = 4


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    burst : float
        Seconds of calls in a row that make one sample.
    seconds : float
        Time for one contender, after which it gets no more rounds.
    rounds, least_rounds : int
        Samples at most and at least.
    """

    burst: float = 0.004
    seconds: float = 0.15
    rounds: int = 25
    least_rounds: int = 3


THOROUGH = Effort()
QUICK = Effort(burst=0.003, seconds=0.06, rounds=15)


class ContenderError(Exception):
    """A contender could not go on."""


def interleave(timers: Mapping[Key, Timer], effort: Effort) -> dict[Key, list[float] | ContenderError]:
    """Seconds of one call in each round, for each contender; or the error by which it dropped out.

    The contender that begins changes from round to round.
    """
    series = {key: _Series(timer, effort) for key, timer in timers.items()}
    for number in range(-1, effort.rounds):
        order = [one for one in series.values() if not one.done]
        start = number % max(len(order), 1)
        for one in order[start:] + order[:start]:
            one.step()
    return {key: one.error or one.samples for key, one in series.items()}


def medians(outcomes: Mapping[Key, list[float] | ContenderError]) -> dict[Key, float]:
    """Median seconds of each contender that finished."""
    return {key: Timing.of(samples).median for key, samples in outcomes.items() if isinstance(samples, list)}


def call_timer(call: Callable[[], object]) -> Timer:
    """A timer of something that runs in this process."""

    def timer(calls: int, warmup: int) -> float:
        for _ in range(warmup):
            call()
        repeats = range(calls)
        start = time.perf_counter()
        for _ in repeats:
            call()
        return (time.perf_counter() - start) / calls

    return timer


class _Series:
    """One contender's samples so far; its first step finds out how many calls make one."""

    def __init__(self, timer: Timer, effort: Effort) -> None:
        self._timer, self._effort = timer, effort
        self._calls = self._warmup = 0
        self._spent = 0.0
        self.samples: list[float] = []
        self.error: ContenderError | None = None

    @property
    def done(self) -> bool:
        enough = len(self.samples) >= self._effort.least_rounds and self._spent >= self._effort.seconds
        return enough or self._spent >= _PATIENCE * self._effort.seconds or self.error is not None

    def step(self) -> None:
        try:
            if self._calls:
                self._sample()
            else:
                self._try_out()
        except ContenderError as error:
            self.error = error

    def _try_out(self) -> None:
        seconds = self._timer(1, 0)
        if seconds < self._effort.burst / 4:
            seconds = self._timer(max(1, int(self._effort.burst / 4 / max(seconds, 1e-7))), 1)
        self._calls = max(1, round(self._effort.burst / max(seconds, 1e-8)))
        self._warmup = int(seconds < _SLOW)

    def _sample(self) -> None:
        seconds = self._timer(self._calls, self._warmup)
        self.samples.append(seconds)
        self._spent += seconds * (self._calls + self._warmup)
