"""Measure the error of depthwise, PyTorch and TensorFlow on the same data, and print the table of the docs.

Usage: python tools/numerics.py

The error of a result is its distance from the sum in extended precision in units of u * sum |x||w|, where u
is the unit roundoff of the type that accumulates (float32 for float16 and bfloat16, whose last rounding is
allowed for first); plain sequential summation of n terms may err by n units. Each cell holds the largest
over the layers. A peer that is not installed has no column.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

import depthwise

Array = np.ndarray[Any, Any]
Operation = Callable[[Array, Array, Array], Array]

LAYERS = {"3x3": (28, 64, 3), "5x5": (14, 96, 5), "7x7": (28, 48, 7), "31x31": (20, 8, 31)}
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
KINDS = ("normal", "1e-30", "1e30", "subnormal", "cancelling")


def data(kind: str, dtype: str, layer: str) -> tuple[Array, Array]:
    """An image and a filter whose products are of the kind, rounded to the dtype."""
    size, channels, kernel = LAYERS[layer]
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, size, size, channels)), rng.standard_normal((kernel, kernel, channels, 1))
    scale = {"1e-30": 1e-15, "1e30": 1e15, "subnormal": 2.0 ** (-66 if dtype == "float32" else -520)}.get(
        kind, 1
    )
    if kind == "cancelling":
        w[: kernel // 2] = -w[: -kernel // 2 : -1] if kernel > 1 else w[:0]
        x = 1 + 1e-3 * x
    return (x * scale).astype(DTYPES[dtype]), (w * scale).astype(DTYPES[dtype])


def applies(kind: str, dtype: str) -> bool:
    """Half precision does not hold the extreme magnitudes, bfloat16 has few bits for the subnormal ones."""
    return kind in ("normal", "cancelling") or dtype in ("float32", "float64")


def error(actual: Array, exact: Array, magnitude: Array, dtype: str, terms: int) -> float:
    """The largest error in units of u * magnitude, after what is not relative to it: the last rounding to 16
    bits, and what each term may lose below the smallest number."""
    u = 2.0**-53 if dtype == "float64" else 2.0**-24
    stored = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype, 0.0)
    off = np.abs(actual.astype(np.longdouble) - exact) - stored * np.abs(exact)
    smallest = 2.0**-1074 if dtype == "float64" else 2.0**-149
    return float(np.max(np.maximum(off - terms * smallest, 0) / (u * magnitude + np.finfo(float).tiny)))


def ours() -> dict[str, Operation]:
    """The three operations of this package."""
    return {
        "forward": lambda x, w, g: depthwise.conv2d(x, w),
        "grad_input": lambda x, w, g: depthwise.conv2d_grad_input(x.shape, w, g),
        "grad_filter": lambda x, w, g: depthwise.conv2d_grad_filter(x, w.shape, g),
    }


def pytorch() -> dict[str, Operation]:
    """Those of PyTorch, which wants NCHW and [C, 1, kh, kw]."""
    torch = importlib.import_module("torch")

    def tensor(array: Array) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    def numpy(t: Any) -> Array:
        wide = t.double() if t.dtype == torch.bfloat16 else t
        return np.asarray(wide.detach().numpy())

    def run(x: Array, w: Array, g: Array, op: str) -> Array:
        a = tensor(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
        b = tensor(w).permute(2, 3, 0, 1).contiguous().requires_grad_()
        y = torch.nn.functional.conv2d(a, b, padding="same", groups=a.shape[1])
        if op == "forward":
            return numpy(y).transpose(0, 2, 3, 1)
        of_x, of_w = torch.autograd.grad(y, (a, b), tensor(g).permute(0, 3, 1, 2).contiguous())
        return numpy(of_x).transpose(0, 2, 3, 1) if op == "grad_input" else numpy(of_w).transpose(2, 3, 0, 1)

    return {op: lambda x, w, g, op=op: run(x, w, g, op) for op in ours()}


def tensorflow() -> dict[str, Operation]:
    """Those of TensorFlow."""
    tf = importlib.import_module("tensorflow")
    rest = ((1, 1, 1, 1), "SAME")
    raw = tf.raw_ops

    def backprop(name: str, **arguments: Any) -> Array:
        options = {"strides": [1, 1, 1, 1], "padding": "SAME"}
        return np.asarray(getattr(raw, name)(**arguments, **options))

    return {
        "forward": lambda x, w, g: np.asarray(tf.nn.depthwise_conv2d(x, w, *rest)),
        "grad_input": lambda x, w, g: backprop(
            "DepthwiseConv2dNativeBackpropInput", input_sizes=x.shape, filter=w, out_backprop=g
        ),
        "grad_filter": lambda x, w, g: backprop(
            "DepthwiseConv2dNativeBackpropFilter", input=x, filter_sizes=w.shape, out_backprop=g
        ),
    }


def exactly(op: str, x: Array, w: Array, g: Array) -> Array:
    """The operation's sums, tap by tap, in extended precision."""
    x, w, g = (array.astype(np.longdouble) for array in (x, w, g))
    pad, (height, width) = w.shape[0] // 2, x.shape[1:3]
    frame = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded, result = np.pad(x, frame), np.zeros_like(w if op == "grad_filter" else np.pad(x, frame))
    for u, v in np.ndindex(*w.shape[:2]):
        window = slice(None), slice(u, u + height), slice(v, v + width)
        if op == "forward":
            result[:, :height, :width] += padded[window] * w[u, v, :, 0]
        elif op == "grad_input":
            result[window] += g * w[u, v, :, 0]
        else:
            result[u, v, :, 0] = (padded[window] * g).sum((0, 1, 2))
    return {"forward": result[:, :height, :width], "grad_filter": result}.get(
        op, result[:, pad : pad + height, pad : pad + width]
    )


def largest(operations: dict[str, Operation], op: str, dtype: str, kind: str, layers: Iterable[str]) -> float:
    """The largest error of one operation over the layers."""
    worst = 0.0
    for layer in layers:
        x, w = data(kind, dtype, layer)
        g = np.random.default_rng(1).standard_normal(x.shape).astype(x.dtype)
        terms = g.size // g.shape[3] if op == "grad_filter" else w.size // w.shape[2]
        exact, magnitude = exactly(op, x, w, g), exactly(op, *map(np.abs, (x, w, g)))
        worst = max(worst, error(operations[op](x, w, g), exact, magnitude, dtype, terms))
    return worst


def main() -> None:
    """Print the table."""
    libraries: dict[str, dict[str, Operation]] = {"depthwise": ours()}
    for name, package, make in (("PyTorch", "torch", pytorch), ("TensorFlow", "tensorflow", tensorflow)):
        if importlib.util.find_spec(package):
            version = importlib.metadata.version(package).split("+")[0]
            libraries[f"{name} {version}"] = make()
    print("| operation | dtype | data | " + " | ".join(libraries) + " |")
    print("| --- | --- | --- |" + " ---: |" * len(libraries))
    for op in ours():
        for dtype in DTYPES:
            for kind in KINDS:
                if applies(kind, dtype):
                    errors = (largest(library, op, dtype, kind, LAYERS) for library in libraries.values())
                    print(f"| {op} | {dtype} | {kind} | " + " | ".join(f"{e:.3g}" for e in errors) + " |")


if __name__ == "__main__":
    main()
