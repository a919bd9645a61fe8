"""ONNX Runtime: a one-layer model, all graph optimisations, input and output bound beforehand."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..problem import Problem
from .base import Call, Peer, oihw_filter


class OnnxRuntime(Peer):
    layouts = frozenset({"NCHW"})
    dtypes = frozenset({"float16", "float32"})

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.onnx: Any = import_module("onnx")
        self.runtime: Any = import_module("onnxruntime")
        self.runtime.set_default_logger_severity(3)

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self.runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = self.runtime.InferenceSession(
            self._model(problem, b), options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        output = self.runtime.OrtValue.ortvalue_from_numpy(np.zeros(problem.y_shape, a.dtype))
        binding.bind_ortvalue_input("x", self.runtime.OrtValue.ortvalue_from_numpy(a))
        binding.bind_ortvalue_output("y", output)

        def call() -> Any:
            session.run_with_iobinding(binding)
            return output

        return call

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        array: np.ndarray = result.numpy()
        return array

    def _model(self, problem: Problem, filter: np.ndarray) -> bytes:
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(filter.dtype)
        node = helper.make_node(
            "Conv",
            ["x", "w"],
            ["y"],
            group=problem.channels,
            kernel_shape=[problem.h.kernel, problem.w.kernel],
            strides=[problem.h.stride, problem.w.stride],
            dilations=[problem.h.dilation, problem.w.dilation],
            pads=[problem.h.pad_before, problem.w.pad_before, problem.h.pad_after, problem.w.pad_after],
        )
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", kind, problem.x_shape)],
            [helper.make_tensor_value_info("y", kind, problem.y_shape)],
            [self.onnx.numpy_helper.from_array(oihw_filter(problem, filter), "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        content: bytes = model.SerializeToString()
        return content
