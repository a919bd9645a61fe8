"""TensorFlow on the CPU: `tf.nn.depthwise_conv2d`, eager or as a concrete function, whichever is faster."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..problem import DTYPES, OPS, Problem
from .base import Call, Peer, UnsupportedError, fastest


class TensorFlow(Peer):
    ops = frozenset(OPS)
    layouts = frozenset({"NHWC"})
    dtypes = frozenset(DTYPES)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.tf: Any = import_module("tensorflow")
        self.tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(1)

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        if problem.h.stride != problem.w.stride:
            raise UnsupportedError("unequal strides are not offered")
        first, second = self.tf.constant(a), self.tf.constant(b)
        operation = getattr(self, f"_{problem.op}")

        def run(first: Any, second: Any) -> Any:
            return operation(problem, first, second)

        compiled = self.tf.function(run, autograph=False).get_concrete_function(first, second)
        calls: list[Call] = [lambda: compiled(first, second)]
        if problem.op == "forward" or not _dilated(problem):
            calls.append(lambda: run(first, second))
        return fastest(calls)

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        array: np.ndarray = result.numpy()
        return array

    def _forward(self, problem: Problem, x: Any, filter: Any) -> Any:
        dilations = (problem.h.dilation, problem.w.dilation)
        return self.tf.nn.depthwise_conv2d(x, filter, _strides(problem), "SAME", dilations=dilations)

    def _grad_input(self, problem: Problem, grad: Any, filter: Any) -> Any:
        if _dilated(problem):
            x = self.tf.zeros(problem.x_shape, grad.dtype)
            return self.tf.gradients(self._forward(problem, x, filter), x, grad)[0]
        backprop = self.tf.nn.depthwise_conv2d_backprop_input
        return backprop(problem.x_shape, filter, grad, _strides(problem), "SAME")

    def _grad_filter(self, problem: Problem, x: Any, grad: Any) -> Any:
        if _dilated(problem):
            filter = self.tf.zeros(problem.filter_shape, grad.dtype)
            return self.tf.gradients(self._forward(problem, x, filter), filter, grad)[0]
        backprop = self.tf.nn.depthwise_conv2d_backprop_filter
        return backprop(x, problem.filter_shape, grad, _strides(problem), "SAME")


def _dilated(problem: Problem) -> bool:
    """Whether TensorFlow's backprop functions refuse the problem on the CPU; its autodiff does it."""
    return problem.h.dilation > 1 or problem.w.dilation > 1


def _strides(problem: Problem) -> list[int]:
    return [1, problem.h.stride, problem.w.stride, 1]
