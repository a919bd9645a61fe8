"""This library, called as users call it and as a prepared operator."""

from __future__ import annotations

from typing import Any

import numpy as np

import depthwise

from ..problem import DTYPES, OPS, Problem
from .base import Call as TimedCall
from .base import Peer


class Call(Peer):
    """`depthwise.conv2d` and its gradients: one plain call, the output newly allocated each time."""

    ops = frozenset(OPS)
    dtypes = frozenset(DTYPES)

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> TimedCall:
        keywords = _keywords(problem, self.threads)
        if problem.op == "forward":
            return lambda: depthwise.conv2d(a, b, **keywords)
        if problem.op == "grad_input":
            return lambda: depthwise.conv2d_grad_input(problem.x_shape, b, a, **keywords)
        return lambda: depthwise.conv2d_grad_filter(a, problem.filter_shape, b, **keywords)

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        return np.asarray(result)


class Prepared(Call):
    """`depthwise.Conv2D` with an output that the caller keeps."""

    ops = frozenset({"forward"})

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> TimedCall:
        operator = depthwise.Conv2D(b, **_keywords(problem, self.threads))
        out = operator(a)
        return lambda: operator(a, out=out)


def _keywords(problem: Problem, threads: int) -> dict[str, Any]:
    return {
        "stride": (problem.h.stride, problem.w.stride),
        "padding": "SAME",
        "dilation": (problem.h.dilation, problem.w.dilation),
        "layout": problem.layout,
        "num_threads": threads,
    }
