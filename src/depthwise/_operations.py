"""From arguments to operations: each combination is resolved and checked once, then found again by one
look-up.

The functions are cached by value, so they take what `_spec.plain`, `_spec.plain_padding` and `_spec.word`
return: hashable arguments among which no bool or float passes for an equal int.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from . import _engine, _spec

_CACHED = 4096

# Of each operation: what gives the shapes of the image and the filter, and the two arrays.
_TENSORFLOW_SHAPES: dict[_spec.Op, tuple[str, str]] = {
    "forward": ("input", "filter"),
    "grad_input": ("input_sizes", "filter"),
    "grad_filter": ("input", "filter_sizes"),
}
_TENSORFLOW_ARRAYS: dict[_spec.Op, tuple[str, str]] = {
    "forward": ("input", "filter"),
    "grad_input": ("out_backprop", "filter"),
    "grad_filter": ("input", "out_backprop"),
}
_GENERAL_SHAPES: dict[_spec.Op, tuple[str, str]] = {
    "forward": ("x", "filter"),
    "grad_input": ("x_shape", "filter"),
    "grad_filter": ("x", "filter_shape"),
}
_GENERAL_ARRAYS: dict[_spec.Op, tuple[str, str]] = {
    "forward": ("x", "filter"),
    "grad_input": ("grad", "filter"),
    "grad_filter": ("x", "grad"),
}


@lru_cache(_CACHED)
def tensorflow_operation(
    op: _spec.Op,
    input_shape: Any,
    filter_shape: Any,
    grad_shape: Any,
    dtypes: tuple[np.dtype[Any], np.dtype[Any]],
    strides: Any,
    padding: Any,
    data_format: str | None,
    dilations: Any,
) -> _engine.Operation:
    """The operation of `depthwise_conv2d` or one of its gradients; `dtypes` are those of its two arrays."""
    spec = _spec.tensorflow_spec(
        input_shape,
        filter_shape,
        _common_dtype(_TENSORFLOW_ARRAYS[op], dtypes),
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilations=dilations,
        names=_TENSORFLOW_SHAPES[op],
        backprop=op != "forward",
    )
    if grad_shape is not None:
        _spec.check_shape("out_backprop", grad_shape, spec.output_shape)
    return _engine.Operation(op, spec, has_bias=False)


@lru_cache(_CACHED)
def general_operation(
    op: _spec.Op,
    x_shape: Any,
    filter_shape: Any,
    grad_shape: Any,
    dtypes: tuple[np.dtype[Any], np.dtype[Any]],
    stride: Any,
    padding: Any,
    dilation: Any,
    layout: str | None,
    border: str | None,
    has_bias: bool,
    activation: str | None,
    dtype: str | None,
    algorithm: str | None,
) -> _engine.Operation:
    """The operation of `conv2d` or one of its gradients; `dtypes` are those of its two arrays."""
    operand_dtype = _operand_dtype(op, dtypes)
    x_dtype = dtypes[0].name if op != "grad_input" and dtypes[0].name in _spec.INTEGERS else None
    result_dtype = dtype if op == "forward" and x_dtype and dtype in _spec.INTEGERS else None
    check_dtype(None if result_dtype else dtype, operand_dtype)
    if op != "forward":
        check_no_epilogue(has_bias, activation)
    spec = _spec.general_spec(
        x_shape,
        filter_shape,
        operand_dtype,
        stride=stride,
        padding=padding,
        dilation=dilation,
        layout=layout,
        border=border,
        activation=activation,
        algorithm=algorithm,
        names=_GENERAL_SHAPES[op],
    )
    if grad_shape is not None:
        _spec.check_shape("grad", grad_shape, spec.output_shape)
    return _engine.Operation(op, replace(spec, x_dtype=x_dtype, result_dtype=result_dtype), has_bias)


def numpy_dtype(name: str, value: Any) -> np.dtype[Any]:
    """Whatever NumPy takes for a dtype, or the name of one that this package knows."""
    if isinstance(value, str) and value in _engine.NUMPY_DTYPES:
        return _engine.NUMPY_DTYPES[value]
    try:
        if value is not None:  # which NumPy would take for float64
            dtype: np.dtype[Any] = np.dtype(value)
            return dtype
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name} must be a dtype, got {type(value).__name__} {value!r}")


def dtype_name(dtype: Any) -> str | None:
    """The name of the dtype that a caller asks for; None passes."""
    return None if dtype is None else str(numpy_dtype("dtype", dtype).name)


def check_dtype(dtype: str | None, operand_dtype: str) -> None:
    """Raise unless the dtype that a caller asks for is the operands'."""
    if dtype not in (None, operand_dtype):
        raise ValueError(f"dtype must be None or that of the arrays, {operand_dtype}, got {dtype}")


def check_no_integers(op: _spec.Op, dtypes: Iterable[np.dtype[Any]]) -> None:
    """Raise for an image of integers, which only NumPy's functions take."""
    for name, dtype in zip(_GENERAL_ARRAYS[op], dtypes, strict=False):
        if dtype.name in _spec.INTEGERS:
            _spec.common_dtype({name: dtype.name})


def check_no_epilogue(has_bias: bool, activation: Any) -> None:
    """Raise if the caller of a gradient asks for a bias or an activation."""
    if has_bias or activation is not None:
        argument = "bias" if has_bias else "activation"
        raise ValueError(f"{argument} must be None in a gradient, which is that of the convolution alone")


def _operand_dtype(op: _spec.Op, dtypes: tuple[np.dtype[Any], np.dtype[Any]]) -> str:
    """What to compute in; an image `x` may be of integers."""
    names, (first, second) = _GENERAL_ARRAYS[op], dtypes
    if op == "grad_input":
        return _common_dtype(names, dtypes)
    return _spec.image_dtypes(names[0], first.name, names[1], second.name)


def _common_dtype(names: tuple[str, str], dtypes: tuple[np.dtype[Any], np.dtype[Any]]) -> str:
    return _spec.common_dtype({name: dtype.name for name, dtype in zip(names, dtypes, strict=True)})
