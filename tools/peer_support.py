"""Print the README's table of what TensorFlow, PyTorch and JAX support on a CPU, by running each row.

Every row is one small problem, given to each framework that is installed through the framework's own
function and compared with `depthwise.reference`. A cell says "yes", "refused" (the framework raised),
"wrong shape" or "wrong values"; "-" stands for a framework that is not installed here.

Usage: python tools/peer_support.py
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow's own kernels, whatever the CPU
os.environ.setdefault("JAX_ENABLE_X64", "1")

import numpy as np
from ml_dtypes import bfloat16

from depthwise import reference

Padding = str | tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """One row of the table: a problem that a framework either solves or does not."""

    title: str
    shape: tuple[int, int, int, int] = (2, 9, 10, 4)  # always NHWC; `layout` says how the framework gets it
    kernel: tuple[int, int] = (3, 3)
    multiplier: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: Padding = "SAME"
    layout: str = "NHWC"
    dtype: type = np.float32
    gradients: bool = False  # not the result, but its gradients with respect to both arrays
    ones: bool = False  # all-ones data, whose sums are exact when accumulated in float32
    view: Callable[[np.ndarray], np.ndarray] = np.asarray  # how the input lies in memory

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        filter_shape = (*self.kernel, self.shape[3], self.multiplier)
        draw = np.ones if self.ones else rng.standard_normal
        return draw(self.shape).astype(self.dtype), draw(filter_shape).astype(self.dtype)

    def upstream(self, shape: tuple[int, ...]) -> np.ndarray:
        """What the gradients are multiplied by: an array of the result's shape."""
        draw = np.ones if self.ones else np.random.default_rng(1).standard_normal
        return draw(shape).astype(self.dtype)

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `depthwise.conv2d`."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def exact(self) -> np.ndarray:
        x, w = self.arrays()
        y = reference.conv2d(x, w, **self.options)
        if not self.gradients:
            return y
        grad = self.upstream(y.shape)
        return joined(
            reference.conv2d_grad_input(x.shape, w, grad, **self.options),
            reference.conv2d_grad_filter(x, w.shape, grad, **self.options),
        )


def joined(*arrays: Any) -> np.ndarray:
    """Two gradients as one array."""
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])


def reversed_view(x: np.ndarray) -> np.ndarray:
    """Equal to `x`, stored back to front."""
    return np.ascontiguousarray(x[:, ::-1])[:, ::-1]


def big_endian(x: np.ndarray) -> np.ndarray:
    """Equal to `x`, stored in big-endian byte order."""
    return x.astype(x.dtype.newbyteorder(">"))


CASES = [
    Case("layout NHWC"),
    Case("layout NCHW", layout="NCHW"),
    Case("channel multiplier 3", multiplier=3),
    Case("unequal strides", stride=(2, 1), padding="VALID"),
    Case("unequal dilations", dilation=(2, 1)),
    Case("stride and dilation both above 1", stride=(2, 2), dilation=(2, 2), padding="VALID"),
    Case('"SAME" with stride 2', stride=(2, 2)),
    Case("padding that differs from side to side", padding=((1, 0), (2, 1))),
    Case("kernel larger than the image", shape=(1, 3, 3, 4), kernel=(7, 7)),
    Case("float64", dtype=np.float64),
    Case("float16 summed in float32", (1, 64, 64, 4), (64, 64), padding="VALID", dtype=np.float16, ones=True),
    Case("bfloat16 summed in float32", (1, 16, 32, 4), (16, 32), padding="VALID", dtype=bfloat16, ones=True),
    Case("gradients", gradients=True),
    Case("gradients, stride 2", gradients=True, stride=(2, 2), padding="VALID"),
    Case("gradients, unequal dilations", gradients=True, dilation=(2, 1)),
    Case("gradients, unequal strides", gradients=True, stride=(2, 1), padding="VALID"),
    Case(
        "gradients in float16 summed in float32",
        (1, 66, 66, 4),
        padding="VALID",
        dtype=np.float16,
        gradients=True,
        ones=True,
    ),
    Case("batch of 0", shape=(0, 9, 10, 4)),
    Case("0 channels", shape=(2, 9, 10, 0)),
    Case('empty result of "VALID"', shape=(1, 3, 3, 4), kernel=(4, 4), padding="VALID"),
    Case("NumPy view with negative steps", view=reversed_view),
    Case("big-endian NumPy array", view=big_endian),
]


def to_layout(x: np.ndarray, layout: str) -> np.ndarray:
    return x if layout == "NHWC" else x.transpose(0, 3, 1, 2)


def from_layout(y: np.ndarray, layout: str) -> np.ndarray:
    return y if layout == "NHWC" else y.transpose(0, 2, 3, 1)


def run_depthwise(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    import depthwise

    x = case.view(np.ascontiguousarray(to_layout(x, case.layout)))
    y = depthwise.conv2d(x, w, layout=case.layout, **case.options)
    if not case.gradients:
        return from_layout(y, case.layout)
    grad = case.upstream(y.shape)
    return joined(
        depthwise.conv2d_grad_input(x.shape, w, grad, **case.options),
        depthwise.conv2d_grad_filter(x, w.shape, grad, **case.options),
    )


def run_tensorflow(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    x = case.view(np.ascontiguousarray(to_layout(x, case.layout)))
    nhwc = case.layout == "NHWC"
    strides = [1, *case.stride, 1] if nhwc else [1, 1, *case.stride]
    padding = case.padding
    if not isinstance(padding, str):
        rows = [list(pair) for pair in padding]
        padding = [[0, 0], *rows, [0, 0]] if nhwc else [[0, 0], [0, 0], *rows]
    if case.gradients:
        x, w = tf.constant(x), tf.constant(w)
    with warnings.catch_warnings(), tf.GradientTape() as tape:
        warnings.simplefilter("ignore")
        tape.watch([one for one in (x, w) if case.gradients])
        y = tf.nn.depthwise_conv2d(x, w, strides, padding, case.layout, case.dilation)
    if case.gradients:
        return joined(*tape.gradient(y, [x, w], tf.constant(case.upstream(y.shape))))
    return from_layout(y.numpy(), case.layout)


def run_torch(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    import torch

    def tensor(a: np.ndarray) -> torch.Tensor:
        # torch knows no ml_dtypes; every bfloat16 is a float32
        return (
            torch.from_numpy(a.astype(np.float32)).bfloat16() if a.dtype == bfloat16 else torch.from_numpy(a)
        )

    kh, kw, channels, multiplier = w.shape
    leaves = [tensor(array).requires_grad_(case.gradients) for array in (case.view(x), w)]
    image = leaves[0].permute(0, 3, 1, 2)  # NHWC memory is torch's channels_last
    image = image.contiguous() if case.layout == "NCHW" else image
    weight = leaves[1].permute(2, 3, 0, 1).reshape(channels * multiplier, 1, kh, kw)
    padding = case.padding
    if not isinstance(padding, str):
        if any(before != after for before, after in padding):
            raise ValueError("conv2d takes one number for both sides")
        padding = tuple(before for before, _ in padding)
    options = {"stride": case.stride, "dilation": case.dilation, "groups": channels}
    padding = padding.lower() if isinstance(padding, str) else padding
    y = torch.nn.functional.conv2d(image, weight, padding=padding, **options).permute(0, 2, 3, 1)
    if case.gradients:
        return joined(*torch.autograd.grad(y, leaves, tensor(case.upstream(tuple(y.shape)))))
    return y.double().numpy()


def run_jax(case: Case, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    import jax

    def convolve(x: Any, w: Any) -> Any:
        kh, kw, channels, multiplier = w.shape
        return jax.lax.conv_general_dilated(
            x,
            w.reshape(kh, kw, 1, channels * multiplier),
            case.stride,
            case.padding,
            rhs_dilation=case.dilation,
            dimension_numbers=(case.layout, "HWIO", case.layout),
            feature_group_count=channels,
        )

    x = case.view(np.ascontiguousarray(to_layout(x, case.layout)))
    if case.gradients:
        y, pull_back = jax.vjp(convolve, x, w)
        return joined(*pull_back(jax.numpy.asarray(case.upstream(y.shape))))
    return from_layout(np.asarray(convolve(x, w)), case.layout)


PEERS = {"depthwise": run_depthwise, "tensorflow": run_tensorflow, "torch": run_torch, "jax": run_jax}


def cell(case: Case, run: Callable[[Case, np.ndarray, np.ndarray], np.ndarray]) -> str:
    """What one framework makes of one problem."""
    x, w = case.arrays()
    exact = case.exact()
    try:
        y = run(case, x, w)
    except Exception:  # each framework raises types of its own; any of them is a refusal
        return "refused"
    if y.shape != exact.shape:
        return "wrong shape"
    close = np.allclose(y.astype(np.float64), exact, rtol=1e-5, atol=1e-5)
    return "yes" if close else "wrong values"


def column(name: str) -> list[str]:
    """The heading and the cells of one framework."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        return [name, *("-" for _ in CASES)]
    return [f"{name} {module.__version__}", *(cell(case, PEERS[name]) for case in CASES)]


def main() -> None:
    rows = list(zip(["", *(case.title for case in CASES)], *(column(name) for name in PEERS), strict=True))
    for index, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if index == 0:
            print("|" + " --- |" * len(row))


if __name__ == "__main__":
    main()
