"""What every contender provides."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..problem import Axis, Problem

#: Does the whole operation once and returns something that holds its result.
Call = Callable[[], Any]


class UnsupportedError(Exception):
    """The library cannot run this problem; the message says why."""


class Peer(ABC):
    """A library that runs depthwise convolutions, in a process that it has to itself.

    Parameters
    ----------
    threads : int
        How many threads it may use, fixed for the life of the process.
    """

    #: What it can run; anything else is reported as unsupported without trying.
    ops: frozenset[str] = frozenset({"forward"})
    layouts: frozenset[str] = frozenset({"NHWC", "NCHW"})
    dtypes: frozenset[str] = frozenset({"float32"})

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @abstractmethod
    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        """Do everything that a user does once (build, compile, pack) and return the call to time.

        `a` and `b` are the operands in `problem`'s layout. The arrays that the call reads are in the form in
        which a user of the library would hold them, so converting them is not timed.

        Raises
        ------
        UnsupportedError
            If the library cannot run `problem`.
        """

    @abstractmethod
    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        """The result of a call as an array in `problem`'s layout and shape."""

    def refuse(self, problem: Problem) -> str | None:
        """Why `problem` is outside what the library offers, or None."""
        for what, value, known in (
            ("operation", problem.op, self.ops),
            ("layout", problem.layout, self.layouts),
            ("dtype", problem.dtype, self.dtypes),
        ):
            if value not in known:
                return f"{what} {value} is not offered"
        return None


def fastest(calls: Iterable[Call], seconds: float = 0.02) -> Call:
    """The call with the smallest time of several tries: the library at its best setting."""
    return min(calls, key=lambda call: _shortest(call, seconds))


def _shortest(call: Call, seconds: float) -> float:
    call()
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def symmetric_padding(problem: Problem, x: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """`x` and the equal padding on both sides that makes a library without unequal padding do `problem`.

    What "SAME" adds to one side only (at even sizes with a stride) is put into the image beforehand: the
    library is not charged for it.
    """
    pads = tuple(min(axis.pad_before, axis.pad_after) for axis in (problem.h, problem.w))
    rest = [_surplus(axis, pad) for axis, pad in zip((problem.h, problem.w), pads, strict=True)]
    if any(before or after for before, after in rest):
        widths = [(0, 0), *rest, (0, 0)] if problem.layout == "NHWC" else [(0, 0), (0, 0), *rest]
        x = np.pad(x, widths)
    return x, (pads[0], pads[1])


def _surplus(axis: Axis, pad: int) -> tuple[int, int]:
    return axis.pad_before - pad, axis.pad_after - pad


def oihw_filter(problem: Problem, filter: np.ndarray) -> np.ndarray:
    """``[kh, kw, C, M]`` as the ``[C*M, 1, kh, kw]`` of grouped convolutions, contiguous."""
    height, width, channels, multiplier = problem.filter_shape
    return np.ascontiguousarray(filter.transpose(2, 3, 0, 1)).reshape(channels * multiplier, 1, height, width)
