"""Depthwise convolution of JAX arrays: `depthwise`'s functions under `jit`, `grad`, `vmap` and the others.

`depthwise.conv2d` and its siblings come here by themselves when they are given JAX arrays. The functions of
this module also take NumPy arrays, as `jax.numpy` does. Each is one call of XLA's foreign function interface:
compiled into the program, without Python, and spread over devices where the batch or the channels are.

>>> import jax
>>> import depthwise.jax
>>> x, filter = jax.numpy.ones((1, 4, 4, 8)), jax.numpy.ones((3, 3, 8, 1))
>>> jax.jit(depthwise.jax.conv2d)(x, filter).shape
(1, 4, 4, 8)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _config, _spec
from ._jax.primitives import bilinear, layer
from ._operations import check_no_integers, dtype_name, general_operation, tensorflow_operation
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
) -> jax.Array:
    """`depthwise.depthwise_conv2d` of JAX arrays.

    Examples
    --------
    >>> x, filter = jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 2, 1))
    >>> depthwise_conv2d(x, filter, [1, 1, 1, 1], "VALID").tolist()
    [[[[9.0, 9.0]]]]
    """
    input, filter = _array("input", input), _array("filter", filter)
    spec = _tensorflow_spec(
        "forward", input.shape, filter.shape, None, (input, filter), strides, padding, data_format, dilations
    )
    return bilinear("forward", spec, 0, input, filter)


def depthwise_conv2d_backprop_input(
    input_sizes: Any,
    filter: Any,
    out_backprop: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> jax.Array:
    """`depthwise.depthwise_conv2d_backprop_input` of JAX arrays."""
    filter, grad = _array("filter", filter), _array("out_backprop", out_backprop)
    spec = _tensorflow_spec(
        "grad_input",
        input_sizes,
        filter.shape,
        grad.shape,
        (grad, filter),
        strides,
        padding,
        data_format,
        dilations,
    )
    return bilinear("grad_input", spec, 0, grad, filter)


def depthwise_conv2d_backprop_filter(
    input: Any,
    filter_sizes: Any,
    out_backprop: Any,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> jax.Array:
    """`depthwise.depthwise_conv2d_backprop_filter` of JAX arrays."""
    input, grad = _array("input", input), _array("out_backprop", out_backprop)
    spec = _tensorflow_spec(
        "grad_filter",
        input.shape,
        filter_sizes,
        grad.shape,
        (input, grad),
        strides,
        padding,
        data_format,
        dilations,
    )
    return bilinear("grad_filter", spec, 0, input, grad)


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
) -> jax.Array:
    """`depthwise.conv2d` of JAX arrays; differentiable with respect to `x`, `filter` and `bias`.

    `out` must be None, since JAX arrays never change. The derivative of "relu" and "relu6" at their kinks
    is 0.

    Examples
    --------
    >>> x, filter = jnp.full((1, 3, 3, 1), 2.0), jnp.ones((3, 3, 1, 1))
    >>> float(jax.grad(lambda x: conv2d(x, filter, padding="VALID", activation="relu").sum())(x)[0, 1, 1, 0])
    1.0
    """
    x, filter = _array("x", x), _array("filter", filter)
    bias = None if bias is None else _array("bias", bias)
    settings = (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm)
    spec = _general_spec("forward", x.shape, filter.shape, None, (x, filter), settings, out)
    threads = _config.call_threads(num_threads)
    if bias is not None:
        _spec.check_shape("bias", bias.shape, (spec.channels * spec.multiplier,))
        _spec.common_dtype({"filter": filter.dtype.name, "bias": bias.dtype.name})
    if bias is None and activation is None:
        return bilinear("forward", spec, threads, x, filter)
    return layer(spec, threads, x, filter, bias)


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
) -> jax.Array:
    """`depthwise.conv2d_grad_input` of JAX arrays; what `jax.grad` computes by itself."""
    filter, grad = _array("filter", filter), _array("grad", grad)
    settings = (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm)
    spec = _general_spec("grad_input", x_shape, filter.shape, grad.shape, (grad, filter), settings, out)
    return bilinear("grad_input", spec, _config.call_threads(num_threads), grad, filter)


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
) -> jax.Array:
    """`depthwise.conv2d_grad_filter` of JAX arrays; what `jax.grad` computes by itself."""
    x, grad = _array("x", x), _array("grad", grad)
    settings = (stride, padding, dilation, layout, border, bias is not None, activation, dtype, algorithm)
    spec = _general_spec("grad_filter", x.shape, filter_shape, grad.shape, (x, grad), settings, out)
    return bilinear("grad_filter", spec, _config.call_threads(num_threads), x, grad)


def _array(name: str, value: Any) -> Any:
    """A JAX array, or a NumPy array made one."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return jnp.asarray(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(f"{name} must be a JAX array or a NumPy array, got {kind}")


def _tensorflow_spec(
    op: _spec.Op,
    input_shape: Any,
    filter_shape: Any,
    grad_shape: Any,
    arrays: tuple[Any, Any],
    strides: Any,
    padding: Any,
    data_format: str | None,
    dilations: Any,
) -> _spec.Spec:
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
    ).spec


def _general_spec(
    op: _spec.Op,
    x_shape: Any,
    filter_shape: Any,
    grad_shape: Any,
    arrays: tuple[Any, Any],
    settings: tuple[Any, ...],
    out: Any,
) -> _spec.Spec:
    if out is not None:
        raise TypeError(f"out must be None, since JAX arrays never change, got {type(out).__name__}")
    check_no_integers(op, (array.dtype for array in arrays))
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
    ).spec
