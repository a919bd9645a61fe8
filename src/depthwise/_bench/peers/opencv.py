"""OpenCV's `filter2D`, plane by plane: each channel has a kernel of its own, which it takes no other way.

NHWC images of up to four channels are split and merged as its users do; wider ones it does not interleave.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..problem import Problem
from .base import Call, Peer, UnsupportedError

MAX_INTERLEAVED = 4


class OpenCV(Peer):
    dtypes = frozenset({"float32", "float64"})

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.cv2: Any = import_module("cv2")
        self.cv2.setNumThreads(threads)

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        _require_filter2d(problem)
        kernels = np.ascontiguousarray(b.transpose(2, 3, 0, 1))
        out = np.zeros(problem.y_shape, a.dtype)
        if problem.layout == "NCHW":
            return self._planes(problem, a, kernels, out)
        if problem.channels * problem.multiplier == 1:
            return self._planes(problem, np.moveaxis(a, 3, 1), kernels, out)
        return self._interleaved(problem, a, kernels, out)

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        array: np.ndarray = result
        return array

    def _planes(self, problem: Problem, x: np.ndarray, kernels: np.ndarray, out: np.ndarray) -> Call:
        filter2d, border, multiplier = self.cv2.filter2D, self.cv2.BORDER_CONSTANT, problem.multiplier
        targets = out if problem.layout == "NCHW" else np.moveaxis(out, 3, 1)
        jobs = [
            (x[n, k], kernels[k, q], targets[n, k * multiplier + q])
            for n in range(problem.batch)
            for k in range(problem.channels)
            for q in range(multiplier)
        ]

        def call() -> Any:
            for plane, kernel, target in jobs:
                filter2d(plane, -1, kernel, dst=target, borderType=border)
            return out

        return call

    def _interleaved(self, problem: Problem, x: np.ndarray, kernels: np.ndarray, out: np.ndarray) -> Call:
        if problem.channels * problem.multiplier > MAX_INTERLEAVED:
            raise UnsupportedError(f"interleaved images have at most {MAX_INTERLEAVED} channels")
        cv2, filter2d, border = self.cv2, self.cv2.filter2D, self.cv2.BORDER_CONSTANT

        def call() -> Any:
            for image, target in zip(x, out, strict=True):
                results = [
                    filter2d(plane, -1, kernel, borderType=border)
                    for plane, bank in zip(cv2.split(image), kernels, strict=True)
                    for kernel in bank
                ]
                cv2.merge(results, dst=target)
            return out

        return call


def _require_filter2d(problem: Problem) -> None:
    for axis in (problem.h, problem.w):
        if axis.stride != 1 or axis.dilation != 1:
            raise UnsupportedError("filter2D has no stride and no dilation")
        if axis.kernel % 2 == 0:
            raise UnsupportedError("an even kernel's anchor differs from SAME padding")
