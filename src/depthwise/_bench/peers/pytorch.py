"""PyTorch's eager convolution: channels_last tensors for NHWC, contiguous ones for NCHW."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import Any

import numpy as np

from ..problem import DTYPES, OPS, Problem, to_layout
from .base import Call, Peer, oihw_filter, symmetric_padding


class PyTorch(Peer):
    ops = frozenset(OPS)
    dtypes = frozenset(DTYPES)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)
        ExitStack().enter_context(self.torch.inference_mode())

    def prepare(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        if problem.op == "forward":
            return self._forward(problem, a, b)
        return self._gradient(problem, a, b)

    def _forward(self, problem: Problem, x: np.ndarray, filter: np.ndarray) -> Call:
        x, padding = symmetric_padding(problem, x)
        image, weight = self._image(problem, x), self._weight(problem, filter)
        stride, dilation = _steps(problem)
        conv2d = self.torch.nn.functional.conv2d
        return lambda: conv2d(image, weight, None, stride, padding, dilation, problem.channels)

    def _gradient(self, problem: Problem, a: np.ndarray, b: np.ndarray) -> Call:
        wants_input = problem.op == "grad_input"
        x = np.zeros(problem.x_shape, a.dtype) if wants_input else a
        grad, filter = (a, b) if wants_input else (b, np.zeros(problem.filter_shape, a.dtype))
        x, padding = symmetric_padding(problem, x)
        tensors = self._image(problem, grad), self._image(problem, x), self._weight(problem, filter)
        stride, dilation = _steps(problem)
        mask = [wants_input, not wants_input, False]
        backward = self.torch.ops.aten.convolution_backward
        rest = (None, stride, padding, dilation, False, (0, 0), problem.channels, mask)
        return lambda: backward(*tensors, *rest)[0 if wants_input else 1]

    def to_numpy(self, result: Any, problem: Problem) -> np.ndarray:
        if problem.dtype in ("float16", "bfloat16"):
            result = result.float()
        array: np.ndarray = result.numpy()
        if problem.op == "grad_filter":
            height, width, channels, multiplier = problem.filter_shape
            kernels = array.reshape(channels, multiplier, height, width)
            return np.moveaxis(kernels, (2, 3), (0, 1))
        array = to_layout(array, "NCHW", problem.layout)
        return array if problem.op == "forward" else _crop(array, problem)

    def _tensor(self, array: np.ndarray) -> Any:
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def _image(self, problem: Problem, array: np.ndarray) -> Any:
        tensor = self._tensor(array)
        return tensor.permute(0, 3, 1, 2) if problem.layout == "NHWC" else tensor

    def _weight(self, problem: Problem, filter: np.ndarray) -> Any:
        weight = self._tensor(oihw_filter(problem, filter))
        return weight.to(memory_format=self.torch.channels_last) if problem.layout == "NHWC" else weight


def _steps(problem: Problem) -> tuple[tuple[int, int], tuple[int, int]]:
    return (problem.h.stride, problem.w.stride), (problem.h.dilation, problem.w.dilation)


def _crop(array: np.ndarray, problem: Problem) -> np.ndarray:
    """The gradient without the rows and columns that `symmetric_padding` put into the image."""
    starts = [axis.pad_before - min(axis.pad_before, axis.pad_after) for axis in (problem.h, problem.w)]
    rows = slice(starts[0], starts[0] + problem.h.input)
    columns = slice(starts[1], starts[1] + problem.w.input)
    return array[:, rows, columns] if problem.layout == "NHWC" else array[:, :, rows, columns]
