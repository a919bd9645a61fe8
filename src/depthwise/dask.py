"""Depthwise convolution of dask arrays: lazy, block by block, whatever the chunks.

`depthwise.conv2d` and its siblings come here by themselves when one of their arrays is a dask array; the
others may be NumPy arrays. Nothing is computed until the result is. Each chunk of the result is one call of
the engine on the pixels that it needs, which come from as many chunks as they lie in, so that chunks may be
of any size, along every axis. Tasks use one thread each, since the scheduler runs many of them, unless
`num_threads` says otherwise.

>>> import dask.array as da
>>> import numpy as np
>>> import depthwise
>>> x = da.ones((1, 1000, 1000, 3), dtype=np.float32, chunks=(1, 400, 300, 3))
>>> y = depthwise.conv2d(x, np.ones((5, 5), np.float32), stride=2)
>>> y.chunks
((1,), (200, 200, 100), (150, 150, 150, 50), (3,))
>>> float(y[0, 0, 1, 2].compute())
20.0
"""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np

from . import _config, _engine, _spec
from ._dask import graph
from ._dispatch import as_plain_array
from ._operations import dtype_name, general_operation, tensorflow_operation
from ._spec import plain, plain_padding, word

__all__ = [
    "conv2d",
    "conv2d_grad_filter",
    "conv2d_grad_input",
    "depthwise_conv2d",
    "depthwise_conv2d_backprop_filter",
    "depthwise_conv2d_backprop_input",
]


def depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    dilations: Any = None,
    name: Any = None,
) -> da.Array:
    """`depthwise.depthwise_conv2d` of dask arrays.

    Examples
    --------
    >>> x = da.ones((1, 3, 3, 2), dtype=np.float32, chunks=2)
    >>> depthwise_conv2d(x, np.ones((3, 3, 2, 1), np.float32), [1, 1, 1, 1], "VALID").compute().tolist()
    [[[[9.0, 9.0]]]]
    """
    input, filter = _array("input", input), _array("filter", filter)
    settings = (strides, padding, data_format, dilations)
    operation = _tensorflow_operation("forward", input.shape, filter.shape, None, (input, filter), settings)
    return graph.forward(operation, input, filter, None, 1)


def depthwise_conv2d_backprop_input(
    input_sizes: Any,
    filter: Any,
    out_backprop: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> da.Array:
    """`depthwise.depthwise_conv2d_backprop_input` of dask arrays."""
    filter, grad = _array("filter", filter), _array("out_backprop", out_backprop)
    settings = (strides, padding, data_format, dilations)
    operation = _tensorflow_operation(
        "grad_input", input_sizes, filter.shape, grad.shape, (grad, filter), settings
    )
    return graph.grad_input(operation, grad, filter, 1)


def depthwise_conv2d_backprop_filter(
    input: Any,
    filter_sizes: Any,
    out_backprop: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> da.Array:
    """`depthwise.depthwise_conv2d_backprop_filter` of dask arrays; see `conv2d_grad_filter`."""
    input, grad = _array("input", input), _array("out_backprop", out_backprop)
    settings = (strides, padding, data_format, dilations)
    operation = _tensorflow_operation(
        "grad_filter", input.shape, filter_sizes, grad.shape, (input, grad), settings
    )
    return graph.grad_filter(operation, input, grad, 1)


def conv2d(
    x: Any,
    filter: Any,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: Any = None,
    activation: str | None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: None = None,
    num_threads: int | None = None,
) -> da.Array:
    """`depthwise.conv2d` of dask arrays; `out` must be None, and `num_threads` is that of one task.

    Examples
    --------
    >>> x = da.arange(12, dtype=np.float32).reshape(3, 4, 1).rechunk((2, 1, 1))
    >>> conv2d(x, np.ones((3, 3), np.float32))[..., 0].compute().tolist()
    [[10.0, 18.0, 24.0, 18.0], [27.0, 45.0, 54.0, 39.0], [26.0, 42.0, 48.0, 34.0]]
    """
    x, filter = _array("x", x), _array("filter", filter)
    bias = None if bias is None else _array("bias", bias)
    settings = (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm)
    operation = _general_operation("forward", x.shape, filter.shape, None, (x, filter), settings, out)
    if bias is not None:
        _spec.check_shape("bias", bias.shape, (operation.spec.channels * operation.spec.multiplier,))
        _spec.common_dtype({"filter": filter.dtype.name, "bias": bias.dtype.name})
    return graph.forward(operation, x, filter, bias, _threads(num_threads))


def conv2d_grad_input(
    x_shape: Any,
    filter: Any,
    grad: Any,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: None = None,
    activation: None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: None = None,
    num_threads: int | None = None,
) -> da.Array:
    """`depthwise.conv2d_grad_input` of dask arrays, with chunks that match those of `grad`."""
    filter, grad = _array("filter", filter), _array("grad", grad)
    settings = (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm)
    operation = _general_operation(
        "grad_input", x_shape, filter.shape, grad.shape, (grad, filter), settings, out
    )
    return graph.grad_input(operation, grad, filter, _threads(num_threads))


def conv2d_grad_filter(
    x: Any,
    filter_shape: Any,
    grad: Any,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: None = None,
    activation: None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: None = None,
    num_threads: int | None = None,
) -> da.Array:
    """`depthwise.conv2d_grad_filter` of dask arrays.

    The sum runs over blocks, so it depends on the chunks in its last bits, within the engine's bound; with
    one block it has the bits of the unchunked gradient. The same chunks give the same bits.
    """
    x, grad = _array("x", x), _array("grad", grad)
    settings = (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm)
    operation = _general_operation("grad_filter", x.shape, filter_shape, grad.shape, (x, grad), settings, out)
    return graph.grad_filter(operation, x, grad, _threads(num_threads))


def _array(name: str, value: Any) -> da.Array:
    """A dask array of known shape, or a NumPy array made one with a single chunk."""
    if not isinstance(value, da.Array):
        if isinstance(value, np.ndarray):
            return da.from_array(as_plain_array(name, value), chunks=-1)
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name} must be a dask array or a NumPy array, got {kind}")
    as_plain_array(f"{name}'s chunks", value._meta)
    if any(math.isnan(size) for chunks in value.chunks for size in chunks):
        raise ValueError(
            f"{name} must have known chunk sizes, got shape {value.shape}; call its compute_chunk_sizes()"
        )
    return value


def _tensorflow_operation(
    op: _spec.Op,
    input_shape: Any,
    filter_shape: Any,
    grad_shape: Any,
    arrays: tuple[da.Array, da.Array],
    settings: tuple[Any, ...],
) -> _engine.Operation:
    strides, padding, data_format, dilations = settings
    return tensorflow_operation(
        op,
        plain("input_sizes", input_shape),
        plain("filter_sizes", filter_shape),
        grad_shape,
        (arrays[0].dtype, arrays[1].dtype),
        plain("strides", strides),
        plain_padding(padding),
        word("data_format", data_format),
        plain("dilations", dilations),
    )


def _general_operation(
    op: _spec.Op,
    x_shape: Any,
    filter_shape: Any,
    grad_shape: Any,
    arrays: tuple[da.Array, da.Array],
    settings: tuple[Any, ...],
    out: Any,
) -> _engine.Operation:
    if out is not None:
        raise TypeError(f"out must be None, since dask arrays are lazy, got {type(out).__name__}")
    stride, padding, dilation, layout, border, has_bias, activation, dtype, algorithm = settings
    return general_operation(
        op,
        plain("x_shape", x_shape),
        plain("filter_shape", filter_shape),
        grad_shape,
        (arrays[0].dtype, arrays[1].dtype),
        plain("stride", stride),
        plain_padding(padding),
        plain("dilation", dilation),
        word("layout", layout),
        word("border", border),
        has_bias,
        word("activation", activation),
        dtype_name(dtype),
        word("algorithm", algorithm),
    )


def _threads(num_threads: int | None) -> int:
    return 1 if num_threads is None else _config.thread_limit("num_threads", num_threads)
