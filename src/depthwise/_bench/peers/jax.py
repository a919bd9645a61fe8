"""JAX on the CPU: `lax.conv_general_dilated` with a feature group for each channel, jitted."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np

from ..problem import DTYPES, OPS, Problem
from .base import Call, Peer


class Jax(Peer):
    ops = frozenset(OPS)
    dtypes = frozenset(DTYPES)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        # XLA sizes its pool by the CPUs that it may use; it has no other setting for the number of threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        os.environ["JAX_PLATFORMS"] = "cpu"
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_enable_x64", True)

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        function = self.jax.jit(getattr(self, f"_{problem.op}")(problem))
        first, second = self.jax.device_put(a), self.jax.device_put(b)
        compiled = function.lower(first, second).compile()
        return lambda: compiled(first, second).block_until_ready()

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        return np.asarray(result)

    def _forward(self, problem: Problem) -> Any:
        height, width, channels, multiplier = problem.filter_shape
        lax = self.jax.lax

        def run(x: Any, filter: Any) -> Any:
            return lax.conv_general_dilated(
                x,
                filter.reshape(height, width, 1, channels * multiplier),
                window_strides=(problem.h.stride, problem.w.stride),
                padding="SAME",
                rhs_dilation=(problem.h.dilation, problem.w.dilation),
                dimension_numbers=(problem.layout, "HWIO", problem.layout),
                feature_group_count=channels,
            )

        return run

    def _grad_input(self, problem: Problem) -> Any:
        forward = self._forward(problem)

        def run(grad: Any, filter: Any) -> Any:
            x = self.jax.ShapeDtypeStruct(problem.x_shape, grad.dtype)
            return self.jax.linear_transpose(lambda image: forward(image, filter), x)(grad)[0]

        return run

    def _grad_filter(self, problem: Problem) -> Any:
        forward = self._forward(problem)

        def run(x: Any, grad: Any) -> Any:
            filter = self.jax.ShapeDtypeStruct(problem.filter_shape, grad.dtype)
            return self.jax.linear_transpose(lambda weights: forward(x, weights), filter)(grad)[0]

        return run
