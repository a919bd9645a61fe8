"""Depthwise convolution of TensorFlow tensors: eager, in a `tf.function`, under `tf.GradientTape`.

`depthwise.conv2d` and its siblings come here by themselves when they are given tensors. The functions of
this module also take NumPy arrays, as TensorFlow's do; `depthwise_conv2d` can stand in for
`tf.nn.depthwise_conv2d`.

Eager tensors are read in place and results are handed over without a copy. In a graph the engine is called by
`tf.numpy_function`, which cannot be saved with the graph nor compiled by XLA (`jit_compile=True`).

>>> import tensorflow as tf
>>> import depthwise.tensorflow
>>> x, filter = tf.ones((1, 4, 4, 8)), tf.ones((3, 3, 8, 1))
>>> depthwise.tensorflow.depthwise_conv2d(x, filter, [1, 1, 1, 1], "SAME").shape
TensorShape([1, 4, 4, 8])
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from . import _config, _spec
from ._dispatch import leave_as_is
from ._operations import dtype_name
from ._spec import plain, plain_padding, word
from ._tensorflow import Convolution

__all__ = [
    "conv2d",
    "conv2d_grad_filter",
    "conv2d_grad_input",
    "depthwise_conv2d",
    "depthwise_conv2d_backprop_filter",
    "depthwise_conv2d_backprop_input",
]


@leave_as_is
def depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    dilations: Any = None,
    name: str | None = None,
) -> tf.Tensor:
    """`depthwise.depthwise_conv2d` of tensors. In a graph, `name` is that of the result.

    Examples
    --------
    >>> x, filter = tf.ones((1, 3, 3, 2)), tf.ones((3, 3, 2, 1))
    >>> depthwise_conv2d(x, filter, [1, 1, 1, 1], "VALID").numpy().tolist()
    [[[[9.0, 9.0]]]]
    """
    input, filter = _tensor("input", input), _tensor("filter", filter)
    convolution = _tensorflow_face(strides, padding, data_format, dilations)
    return _named(name, convolution.forward(input, filter))


@leave_as_is
def depthwise_conv2d_backprop_input(
    input_sizes: Any,
    filter: Any,
    out_backprop: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: str | None = None,
) -> tf.Tensor:
    """`depthwise.depthwise_conv2d_backprop_input` of tensors; `input_sizes` may be one."""
    filter, grad = _tensor("filter", filter), _tensor("out_backprop", out_backprop)
    convolution = _tensorflow_face(strides, padding, data_format, dilations)
    return _named(name, convolution.grad_input(_sizes("input_sizes", input_sizes), filter, grad))


@leave_as_is
def depthwise_conv2d_backprop_filter(
    input: Any,
    filter_sizes: Any,
    out_backprop: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: str | None = None,
) -> tf.Tensor:
    """`depthwise.depthwise_conv2d_backprop_filter` of tensors; `filter_sizes` may be one."""
    input, grad = _tensor("input", input), _tensor("out_backprop", out_backprop)
    convolution = _tensorflow_face(strides, padding, data_format, dilations)
    return _named(name, convolution.grad_filter(input, _sizes("filter_sizes", filter_sizes), grad))


@leave_as_is
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
) -> tf.Tensor:
    """`depthwise.conv2d` of tensors; differentiable with respect to `x`, `filter` and `bias`.

    `out` must be None, since tensors never change. The derivative of "relu" and "relu6" at their kinks is 0.
    """
    x, filter = _tensor("x", x), _tensor("filter", filter)
    bias = None if bias is None else _tensor("bias", bias)
    word("activation", activation)
    settings = (stride, padding, dilation, layout, border, dtype, algorithm)
    convolution = _general_face(settings, out, num_threads)
    if bias is None and activation is None:
        return convolution.forward(x, filter)
    return convolution.layer(x, filter, bias, activation)


@leave_as_is
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
) -> tf.Tensor:
    """`depthwise.conv2d_grad_input` of tensors; what a `tf.GradientTape` computes by itself."""
    filter, grad = _tensor("filter", filter), _tensor("grad", grad)
    _no_layer(bias, activation)
    settings = (stride, padding, dilation, layout, border, dtype, algorithm)
    return _general_face(settings, out, num_threads).grad_input(_sizes("x_shape", x_shape), filter, grad)


@leave_as_is
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
) -> tf.Tensor:
    """`depthwise.conv2d_grad_filter` of tensors; what a `tf.GradientTape` computes by itself."""
    x, grad = _tensor("x", x), _tensor("grad", grad)
    _no_layer(bias, activation)
    settings = (stride, padding, dilation, layout, border, dtype, algorithm)
    return _general_face(settings, out, num_threads).grad_filter(
        x, _sizes("filter_shape", filter_shape), grad
    )


def _tensor(name: str, value: Any) -> Any:
    """A dense tensor on the CPU, or what TensorFlow reads as one."""
    if not isinstance(value, tf.Tensor):
        is_array = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)
        if not (is_array or isinstance(value, tf.Variable) or hasattr(value, "__tf_tensor__")):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"{name} must be a dense tensor or a NumPy array, got {kind}")
        value = tf.convert_to_tensor(value)
    if value.device and "CPU" not in value.device:
        raise ValueError(f"{name} must be on the CPU, got {value.device}")
    return value


def _sizes(name: str, sizes: Any) -> Any:
    """A shape as a tuple of ints, or as a tensor where only the run of a graph will tell."""
    if isinstance(sizes, tf.TensorShape):
        return tuple(sizes.as_list())
    if not isinstance(sizes, (tf.Tensor, tf.Variable)):
        return plain(name, sizes)
    sizes = tf.convert_to_tensor(sizes)
    if not sizes.dtype.is_integer:
        raise TypeError(f"{name} must be integers, got a tensor of {sizes.dtype.name}")
    static = tf.get_static_value(sizes)
    return sizes if static is None else plain(name, static)


def _tensorflow_face(strides: Any, padding: Any, data_format: Any, dilations: Any) -> Convolution:
    settings = {
        "strides": plain("strides", strides),
        "padding": plain_padding(padding),
        "data_format": word("data_format", data_format),
        "dilations": plain("dilations", dilations),
    }
    return Convolution("tensorflow", settings)


def _general_face(settings: tuple[Any, ...], out: Any, num_threads: int | None) -> Convolution:
    stride, padding, dilation, layout, border, dtype, algorithm = settings
    if out is not None:
        raise TypeError(f"out must be None, since tensors never change, got {type(out).__name__}")
    resolved = {
        "stride": plain("stride", stride),
        "padding": plain_padding(padding),
        "dilation": plain("dilation", dilation),
        "layout": word("layout", layout),
        "border": word("border", border),
        "dtype": dtype.name if isinstance(dtype, tf.DType) else dtype_name(dtype),
        "algorithm": word("algorithm", algorithm),
    }
    threads = None if num_threads is None else _config.thread_limit("num_threads", num_threads)
    return Convolution("general", resolved, threads)


def _no_layer(bias: Any, activation: Any) -> None:
    for name, value in (("bias", bias), ("activation", activation)):
        if value is not None:
            raise ValueError(f"{name} must be None in a gradient, which is that of the convolution alone")


def _named(name: Any, result: Any) -> Any:
    if word("name", name) is None or tf.executing_eagerly():
        return result
    return tf.identity(result, name=_spec.word("name", name))
