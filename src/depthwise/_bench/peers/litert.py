"""LiteRT (TensorFlow Lite) with its XNNPACK delegate: a converted model, `invoke` timed on bound tensors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..problem import Problem
from .base import Call, Peer, UnsupportedError


class LiteRT(Peer):
    layouts = frozenset({"NHWC"})

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.tf: Any = import_module("tensorflow")
        self.interpreter: Any = import_module("ai_edge_litert.interpreter")

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        if problem.h.stride != problem.w.stride:
            raise UnsupportedError("unequal strides are not offered")
        model = self._convert(problem, b)
        interpreter = self.interpreter.Interpreter(model_content=model, num_threads=self.threads)
        interpreter.allocate_tensors()
        image = interpreter.get_input_details()[0]["index"]
        output = interpreter.get_output_details()[0]["index"]
        interpreter.set_tensor(image, a)

        def call() -> Any:
            interpreter.invoke()
            return interpreter, output

        return call

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        interpreter, index = result
        array: np.ndarray = interpreter.get_tensor(index)
        return array

    def _convert(self, problem: Problem, filter: np.ndarray) -> bytes:
        tf = self.tf
        strides = [1, problem.h.stride, problem.w.stride, 1]
        dilations = (problem.h.dilation, problem.w.dilation)

        def layer(x: Any) -> Any:
            return tf.nn.depthwise_conv2d(x, filter, strides, "SAME", dilations=dilations)

        function = tf.function(layer, autograph=False)
        concrete = function.get_concrete_function(tf.TensorSpec(problem.x_shape, filter.dtype))
        model: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
        return model
