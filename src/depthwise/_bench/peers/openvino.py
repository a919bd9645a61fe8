"""OpenVINO: a compiled one-layer model in latency mode on shared tensors; NHWC by its preprocessor."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..problem import Problem
from .base import Call, Peer, oihw_filter


class OpenVino(Peer):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.openvino: Any = import_module("openvino")
        self.settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.core = self.openvino.Core()

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        request = self.core.compile_model(
            self._model(problem, b), "CPU", self.settings
        ).create_infer_request()
        output = np.zeros(problem.y_shape, a.dtype)
        operands = a, output  # the tensors do not keep the arrays alive; the call does
        request.set_input_tensor(self.openvino.Tensor(a, shared_memory=True))
        request.set_output_tensor(self.openvino.Tensor(output, shared_memory=True))

        def call() -> Any:
            request.infer()
            return operands[1]

        return call

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        array: np.ndarray = result
        return array

    def _model(self, problem: Problem, filter: np.ndarray) -> Any:
        ops = self.openvino.opset13
        batch, channels = problem.batch, problem.channels
        x = ops.parameter([batch, channels, problem.h.input, problem.w.input], filter.dtype)
        kernels = oihw_filter(problem, filter)
        weights = ops.constant(kernels.reshape(channels, problem.multiplier, 1, *kernels.shape[2:]))
        y = ops.group_convolution(
            x,
            weights,
            [problem.h.stride, problem.w.stride],
            [problem.h.pad_before, problem.w.pad_before],
            [problem.h.pad_after, problem.w.pad_after],
            [problem.h.dilation, problem.w.dilation],
        )
        model = self.openvino.Model([y], [x])
        return model if problem.layout == "NCHW" else self._take_nhwc(model)

    def _take_nhwc(self, model: Any) -> Any:
        layout = self.openvino.Layout
        steps = self.openvino.preprocess.PrePostProcessor(model)
        for port in (steps.input(), steps.output()):
            port.tensor().set_layout(layout("NHWC"))
            port.model().set_layout(layout("NCHW"))
        return steps.build()
