"""The definition of the operation's semantics: a readable NumPy oracle in float64.

For an image `x` of layout NHWC and a filter `[kh, kw, C, M]`, with `p` the image padded as `padding` and
`border` say::

    output[b, i, j, k*M + q] = sum over di, dj of
        filter[di, dj, k, q] * p[b, stride[0]*i + dilation[0]*di, stride[1]*j + dilation[1]*dj, k]

The sum is meant literally: padding is data like any other, so an infinite or NaN weight over a padded zero
gives NaN. The gradients are the transposes of that sum, as literally: the filter's includes the padding,
and the input's is the sum over the taps with the output's gradient, which counts as 0 beyond its borders.

Every function here takes any real dtype, computes in float64 and returns float64. It allocates the padded
image and is slow for large ones: it is for reading and for testing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _spec

Array = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]

_ACTIVATIONS: dict[str | None, Callable[[Float64Array], Float64Array]] = {
    None: lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "relu6": lambda y: np.clip(y, 0, 6),
    "silu": lambda y: y / (1 + np.exp(-y)),
    "hard_swish": lambda y: y * np.clip(y + 3, 0, 6) / 6,
}


def conv2d(
    x: npt.ArrayLike,
    filter: npt.ArrayLike,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: npt.ArrayLike | None = None,
    activation: str | None = None,
) -> Float64Array:
    """Depthwise convolution; `depthwise.conv2d` documents the arguments.

    Examples
    --------
    >>> x = np.array([[1, 2], [3, 4], [5, 6]]).reshape(1, 3, 2, 1)
    >>> filter = np.array([[1, 2], [3, 4]]).reshape(2, 1, 1, 2)
    >>> conv2d(x, filter, padding="VALID").tolist()
    [[[[10.0, 14.0], [14.0, 20.0]], [[18.0, 26.0], [22.0, 32.0]]]]
    """
    x, filter = np.asarray(x), np.asarray(filter)
    spec = _spec.general_spec(
        x.shape,
        filter.shape,
        "float64",
        stride=stride,
        padding=padding,
        dilation=dilation,
        layout=layout,
        border=border,
        activation=activation,
    )
    y = _forward(spec, _as_nhwc(x, spec), _as_filter4(filter, spec))
    if bias is not None:
        bias = np.asarray(bias)
        _spec.check_shape("bias", bias.shape, (spec.channels * spec.multiplier,))
        y = y + bias.astype(np.float64)
    with np.errstate(all="ignore"):
        return _from_nhwc(_ACTIVATIONS[activation](y), spec)


def conv2d_grad_input(
    x_shape: tuple[int, ...],
    filter: npt.ArrayLike,
    grad: npt.ArrayLike,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
) -> Float64Array:
    """Gradient of `sum(conv2d(x, filter) * grad)` with respect to `x`."""
    filter, grad = np.asarray(filter), np.asarray(grad)
    spec = _spec.general_spec(
        x_shape,
        filter.shape,
        "float64",
        stride=stride,
        padding=padding,
        dilation=dilation,
        layout=layout,
        border=border,
        names=("x_shape", "filter"),
    )
    _spec.check_shape("grad", grad.shape, spec.output_shape)
    return _from_nhwc(_grad_input(spec, _as_filter4(filter, spec), _as_nhwc(grad, spec)), spec)


def conv2d_grad_filter(
    x: npt.ArrayLike,
    filter_shape: tuple[int, ...],
    grad: npt.ArrayLike,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: str = "NHWC",
    border: str = "constant",
) -> Float64Array:
    """Gradient of `sum(conv2d(x, filter) * grad)` with respect to `filter`."""
    x, grad = np.asarray(x), np.asarray(grad)
    spec = _spec.general_spec(
        x.shape,
        filter_shape,
        "float64",
        stride=stride,
        padding=padding,
        dilation=dilation,
        layout=layout,
        border=border,
        names=("x", "filter_shape"),
    )
    _spec.check_shape("grad", grad.shape, spec.output_shape)
    gradient = _grad_filter(spec, _as_nhwc(x, spec), _as_nhwc(grad, spec))
    return gradient.sum(axis=(2, 3)) if spec.shared_filter else gradient


def depthwise_conv2d(
    input: npt.ArrayLike,
    filter: npt.ArrayLike,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    dilations: Any = None,
    name: Any = None,
) -> Float64Array:
    """TensorFlow's `tf.nn.depthwise_conv2d`."""
    x, filter = np.asarray(input), np.asarray(filter)
    spec = _spec.tensorflow_spec(
        x.shape,
        filter.shape,
        "float64",
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilations=dilations,
    )
    return _from_nhwc(_forward(spec, _as_nhwc(x, spec), filter.astype(np.float64)), spec)


def depthwise_conv2d_backprop_input(
    input_sizes: Any,
    filter: npt.ArrayLike,
    out_backprop: npt.ArrayLike,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> Float64Array:
    """TensorFlow's `tf.nn.depthwise_conv2d_backprop_input`."""
    filter, grad = np.asarray(filter), np.asarray(out_backprop)
    spec = _spec.tensorflow_spec(
        input_sizes,
        filter.shape,
        "float64",
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilations=dilations,
        names=("input_sizes", "filter"),
        backprop=True,
    )
    _spec.check_shape("out_backprop", grad.shape, spec.output_shape)
    return _from_nhwc(_grad_input(spec, filter.astype(np.float64), _as_nhwc(grad, spec)), spec)


def depthwise_conv2d_backprop_filter(
    input: npt.ArrayLike,
    filter_sizes: Any,
    out_backprop: npt.ArrayLike,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> Float64Array:
    """TensorFlow's `tf.nn.depthwise_conv2d_backprop_filter`."""
    x, grad = np.asarray(input), np.asarray(out_backprop)
    spec = _spec.tensorflow_spec(
        x.shape,
        filter_sizes,
        "float64",
        strides=strides,
        padding=padding,
        data_format=data_format,
        dilations=dilations,
        names=("input", "filter_sizes"),
        backprop=True,
    )
    _spec.check_shape("out_backprop", grad.shape, spec.output_shape)
    return _grad_filter(spec, _as_nhwc(x, spec), _as_nhwc(grad, spec))


def _forward(spec: _spec.Spec, x: Float64Array, filter: Float64Array) -> Float64Array:
    padded = _padded(x, spec)
    channels, multiplier = spec.channels, spec.multiplier
    y = np.zeros((spec.batch, spec.height.output, spec.width.output, channels, multiplier))
    with np.errstate(all="ignore"):
        for di, dj, window in _windows(spec):
            y += padded[window][..., np.newaxis] * filter[di, dj]
    return y.reshape(*y.shape[:3], channels * multiplier)


def _grad_input(spec: _spec.Spec, filter: Float64Array, grad: Float64Array) -> Float64Array:
    h, w = spec.height, spec.width
    grad = grad.reshape(*grad.shape[:3], spec.channels, spec.multiplier)
    grad = np.pad(grad, ((0, 0), (0, 1), (0, 1), (0, 0), (0, 0)))  # zeros stand for all outputs beyond
    padded = np.zeros((spec.batch, _padded_size(h), _padded_size(w), spec.channels))
    with np.errstate(all="ignore"):
        for di, dj in np.ndindex(h.kernel, w.kernel):
            (rows, i), (columns, j) = _meetings(h, di), _meetings(w, dj)
            products = grad[:, i[:, np.newaxis], j] * filter[di, dj]
            padded[:, rows[:, np.newaxis], columns] += products.sum(axis=-1)
        return _unpadded(_unpadded(padded, 1, h, spec.border), 2, w, spec.border)


def _meetings(axis: _spec.Axis, tap: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The padded pixels that a tap can meet, and for which output it does; `output` stands for none."""
    pixels = np.arange(axis.dilation * tap % axis.stride, _padded_size(axis), axis.stride)
    outputs = (pixels - axis.dilation * tap) // axis.stride
    return pixels, np.where((outputs >= 0) & (outputs < axis.output), outputs, axis.output)


def _grad_filter(spec: _spec.Spec, x: Float64Array, grad: Float64Array) -> Float64Array:
    padded = _padded(x, spec)
    grad = grad.reshape(*grad.shape[:3], spec.channels, spec.multiplier)
    gradient = np.zeros((spec.height.kernel, spec.width.kernel, spec.channels, spec.multiplier))
    with np.errstate(all="ignore"):
        for di, dj, window in _windows(spec):
            gradient[di, dj] = (padded[window][..., np.newaxis] * grad).sum(axis=(0, 1, 2))
    return gradient


def _windows(spec: _spec.Spec) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Every tap (di, dj) with the index of the padded pixels that it meets, one for each output pixel."""
    h, w = spec.height, spec.width
    for di, dj in np.ndindex(h.kernel, w.kernel):
        rows = h.stride * np.arange(h.output) + h.dilation * di
        columns = w.stride * np.arange(w.output) + w.dilation * dj
        yield di, dj, (slice(None), rows[:, np.newaxis], columns)


def _padded(x: Float64Array, spec: _spec.Spec) -> Float64Array:
    h, w = spec.height, spec.width
    pads = ((0, 0), (h.pad_before, h.pad_after), (w.pad_before, w.pad_after), (0, 0))
    # mypy: numpy.pad's overloads want a literal mode.
    return np.pad(x, pads, mode=spec.border)  # type: ignore[call-overload, no-any-return]


def _unpadded(padded: Float64Array, axis: int, size: _spec.Axis, border: str) -> Float64Array:
    """The transpose of padding: each pixel collects what its copies in the padding received."""
    pixels = np.moveaxis(padded, axis, 0)
    if border == "constant":
        collected = pixels[size.pad_before : size.pad_before + size.input]
    else:
        pads = (size.pad_before, size.pad_after)
        source = np.pad(np.arange(size.input), pads, mode=border)  # type: ignore[call-overload]
        collected = np.zeros((size.input, *pixels.shape[1:]))
        np.add.at(collected, source, pixels)
    return np.moveaxis(collected, 0, axis)


def _padded_size(axis: _spec.Axis) -> int:
    return axis.pad_before + axis.input + axis.pad_after


def _as_nhwc(image: Array, spec: _spec.Spec) -> Float64Array:
    image = image if spec.batched else image[np.newaxis]
    return np.moveaxis(image, spec.channel_axis, -1).astype(np.float64)


def _from_nhwc(image: Float64Array, spec: _spec.Spec) -> Float64Array:
    image = np.moveaxis(image, -1, spec.channel_axis)
    return np.ascontiguousarray(image if spec.batched else image[0])


def _as_filter4(filter: Array, spec: _spec.Spec) -> Float64Array:
    filter = filter.astype(np.float64)
    if not spec.shared_filter:
        return filter
    return np.broadcast_to(filter[:, :, np.newaxis, np.newaxis], (*filter.shape, spec.channels, 1))
