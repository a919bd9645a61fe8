"""The public functions: thin faces that find the operation for their arguments and run it."""

from __future__ import annotations

from typing import Any

from numpy import ndarray

from . import _plan, _spec
from ._dispatch import as_plain_array, leave_as_is, redirect
from ._native import Calls
from ._operations import dtype_name, general_operation, numpy_dtype, tensorflow_operation
from ._spec import plain, plain_padding, word

# An array of NumPy or of a library that has an adapter; results are of the kind that was given.
Array = Any
IntPair = int | tuple[int, int]
Padding = str | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]

# The plans that the calls of each function came to: a call whose arguments are like an earlier one's goes
# there at once, and the rest of the function is for all others.
_DEPTHWISE_CONV2D = Calls()
_DEPTHWISE_CONV2D_BACKPROP_INPUT = Calls()
_DEPTHWISE_CONV2D_BACKPROP_FILTER = Calls()
_CONV2D = Calls()
_CONV2D_GRAD_INPUT = Calls()
_CONV2D_GRAD_FILTER = Calls()


@leave_as_is
def depthwise_conv2d(
    input: Array,
    filter: Array,
    strides: Any,
    padding: Any,
    data_format: str | None = None,
    dilations: Any = None,
    name: Any = None,
) -> Array:
    """Depthwise convolution with the contract of `tf.nn.depthwise_conv2d`.

    ``output[b, i, j, k*M + q] = sum over di, dj of filter[di, dj, k, q] * input[b, strides[1]*i +
    dilations[0]*di - pad_top, strides[2]*j + dilations[1]*dj - pad_left, k]``, where the input counts as 0
    outside the image. Every channel `k` is convolved with its own `M` kernels.

    Parameters
    ----------
    input : array of shape (batch, height, width, channels), or (batch, channels, height, width) for "NCHW"
        float16, bfloat16, float32 or float64.
    filter : array of shape (kernel height, kernel width, channels, multiplier M)
        Of the input's dtype.
    strides : four ints
        In data_format's order; 1 at batch and channel. Height and width may differ.
    padding : "SAME", "VALID" or four [before, after] rows
        Explicit rows are in data_format's order, with zeros at batch and channel.
    data_format : "NHWC" or "NCHW", optional
        None means "NHWC".
    dilations : two ints, optional
        Of height and width. Where one exceeds 1, the strides must be 1; `conv2d` has no such limit.
    name : optional
        Ignored.

    Returns
    -------
    array of shape (batch, out height, out width, channels * M), or (batch, channels * M, ...) for "NCHW"
        A new array of the input's kind and dtype. "SAME" gives ``ceil(size / stride)`` pixels, the others
        ``(padded size - ((kernel - 1) * dilation + 1) + stride) / stride``, truncated toward zero.

    Raises
    ------
    TypeError
        If an argument is of the wrong type, or the arrays are not of one library.
    ValueError
        If an argument has a wrong value, shape or dtype; the message names it.

    References
    ----------
    The formulas are TensorFlow's: https://www.tensorflow.org/api_docs/python/tf/nn/depthwise_conv2d

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1, 2], [3, 4], [5, 6]], np.float32).reshape(1, 3, 2, 1)
    >>> filter = np.array([[1, 2], [3, 4]], np.float32).reshape(2, 1, 1, 2)
    >>> depthwise_conv2d(x, filter, strides=[1, 1, 1, 1], padding="VALID").tolist()
    [[[[10.0, 14.0], [14.0, 20.0]], [[18.0, 26.0], [22.0, 32.0]]]]
    """
    if type(input) is not ndarray or type(filter) is not ndarray:
        return redirect(depthwise_conv2d, locals(), "input", "filter")
    given = strides, padding, data_format, dilations
    result = _DEPTHWISE_CONV2D.recall(input, filter, None, None, given)
    if result is not None:
        return result
    operation = tensorflow_operation(
        "forward",
        input.shape,
        filter.shape,
        None,
        (input.dtype, filter.dtype),
        plain("strides", strides),
        plain_padding(padding),
        word("data_format", data_format),
        plain("dilations", dilations),
    )
    return operation.run_and_remember(_DEPTHWISE_CONV2D, given, input, filter)


@leave_as_is
def depthwise_conv2d_backprop_input(
    input_sizes: Any,
    filter: Array,
    out_backprop: Array,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> Array:
    """Gradient of `depthwise_conv2d` with respect to its input; `tf.nn.depthwise_conv2d_backprop_input`.

    Parameters
    ----------
    input_sizes : four ints
        The shape of the input, and of the result.
    filter, strides, padding, data_format, name
        As in `depthwise_conv2d`.
    out_backprop : array
        The gradient with respect to the output, of the output's shape and the filter's dtype.
    dilations : two or four ints, optional
        Two for height and width, or four in data_format's order with 1 at batch and channel.

    Returns
    -------
    array of shape `input_sizes`
        A new array of the filter's kind and dtype.

    Raises
    ------
    TypeError, ValueError
        As `depthwise_conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> filter = np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
    >>> grad = np.array([1, 10], np.float32).reshape(1, 1, 2, 1)
    >>> depthwise_conv2d_backprop_input([1, 1, 4, 1], filter, grad, [1, 1, 1, 1], "VALID").ravel().tolist()
    [1.0, 12.0, 23.0, 30.0]
    """
    if type(filter) is not ndarray or type(out_backprop) is not ndarray:
        return redirect(depthwise_conv2d_backprop_input, locals(), "filter", "out_backprop")
    given = input_sizes, strides, padding, data_format, dilations
    result = _DEPTHWISE_CONV2D_BACKPROP_INPUT.recall(out_backprop, filter, None, None, given)
    if result is not None:
        return result
    operation = tensorflow_operation(
        "grad_input",
        plain("input_sizes", input_sizes),
        filter.shape,
        out_backprop.shape,
        (out_backprop.dtype, filter.dtype),
        plain("strides", strides),
        plain_padding(padding),
        word("data_format", data_format),
        plain("dilations", dilations),
    )
    return operation.run_and_remember(_DEPTHWISE_CONV2D_BACKPROP_INPUT, given, out_backprop, filter)


@leave_as_is
def depthwise_conv2d_backprop_filter(
    input: Array,
    filter_sizes: Any,
    out_backprop: Array,
    strides: Any,
    padding: Any,
    data_format: str | None = "NHWC",
    dilations: Any = None,
    name: Any = None,
) -> Array:
    """Gradient of `depthwise_conv2d` with respect to its filter; `tf.nn.depthwise_conv2d_backprop_filter`.

    Parameters
    ----------
    input, strides, padding, data_format, name
        As in `depthwise_conv2d`.
    filter_sizes : four ints
        The shape of the filter, and of the result.
    out_backprop : array
        The gradient with respect to the output, of the output's shape and the input's dtype.
    dilations : two or four ints, optional
        Two for height and width, or four in data_format's order with 1 at batch and channel.

    Returns
    -------
    array of shape `filter_sizes`
        A new array of the input's kind and dtype.

    Raises
    ------
    TypeError, ValueError
        As `depthwise_conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 4, 1)
    >>> grad = np.array([1, 10], np.float32).reshape(1, 1, 2, 1)
    >>> depthwise_conv2d_backprop_filter(x, [1, 3, 1, 1], grad, [1, 1, 1, 1], "VALID").ravel().tolist()
    [21.0, 32.0, 43.0]
    """
    if type(input) is not ndarray or type(out_backprop) is not ndarray:
        return redirect(depthwise_conv2d_backprop_filter, locals(), "input", "out_backprop")
    given = filter_sizes, strides, padding, data_format, dilations
    result = _DEPTHWISE_CONV2D_BACKPROP_FILTER.recall(input, out_backprop, None, None, given)
    if result is not None:
        return result
    operation = tensorflow_operation(
        "grad_filter",
        input.shape,
        plain("filter_sizes", filter_sizes),
        out_backprop.shape,
        (input.dtype, out_backprop.dtype),
        plain("strides", strides),
        plain_padding(padding),
        word("data_format", data_format),
        plain("dilations", dilations),
    )
    return operation.run_and_remember(_DEPTHWISE_CONV2D_BACKPROP_FILTER, given, input, out_backprop)


@leave_as_is
def conv2d(
    x: Array,
    filter: Array,
    *,
    stride: IntPair = 1,
    padding: Padding = "SAME",
    dilation: IntPair = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: Array | None = None,
    activation: str | None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Depthwise convolution: everything that the engine can do.

    ``y[b, i, j, k*M + q] = activation(bias[k*M + q] + sum over di, dj of filter[di, dj, k, q] * x[b,
    stride[0]*i + dilation[0]*di - top, stride[1]*j + dilation[1]*dj - left, k])``, where `border` says what
    `x` is outside the image. `depthwise.reference.conv2d` computes the same in plain NumPy.

    Parameters
    ----------
    x : array of shape (batch, height, width, channels), or (batch, channels, height, width) for "NCHW"
        float16, bfloat16, float32 or float64; or, of NumPy, an image of uint8, int16 or uint16, which is
        computed in the filter's dtype. The batch axis may be left out, of the result then too.
    filter : array of shape (kernel height, kernel width, channels, multiplier M)
        Of the dtype of `x`; float32 or float64 for an image of integers. A filter [kernel height, kernel
        width] serves every channel.
    stride, dilation : int or (height, width) pair
        In any combination.
    padding : "SAME", "VALID", int, (height, width) pair, or ((top, bottom), (left, right))
        "SAME" gives ceil(size / stride) pixels, with the larger half of the padding at the bottom and right.
    layout : "NHWC" or "NCHW"
    border : "constant", "reflect", "symmetric", "edge" or "wrap"
        What lies outside the image, as `numpy.pad` names it: zeros, or the image itself, mirrored about its
        edge pixels or its edges, its last pixels, or repeated. Any padding will do, beyond the image's size
        too.
    bias : array of shape (channels * M,), optional
        Of the filter's dtype; added before the activation.
    activation : None, "relu", "relu6", "silu" or "hard_swish"
    dtype : dtype, optional
        Of the result: the filter's, or, for an image of integers, also uint8, int16 or uint16. Then the
        result is rounded to the nearest integer (ties to even) and saturated; NaN gives 0.
    algorithm : "auto", "direct", "fft" or "separable"
        "auto" takes the fastest. The others force one, which is a ValueError where it does not apply.
    out : array, optional
        Where to write the result: of its shape and dtype, writeable, and apart from the operands.
    num_threads : int, optional
        At most this many threads; None means `get_num_threads()`. The bits do not depend on it.

    Returns
    -------
    array
        `out`, or a new array of the kind of `x`: (batch, out height, out width, channels * M), or
        (batch, channels * M, out height, out width) for "NCHW".

    Raises
    ------
    TypeError
        If an argument is of the wrong type, or the arrays are not of one library.
    ValueError
        If an argument has a wrong value, shape or dtype; the message names it.
    MemoryError
        If the result cannot be allocated.

    Examples
    --------
    A 3x3 box filter on an image without batch axis:

    >>> import numpy as np
    >>> image = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    >>> conv2d(image, np.ones((3, 3), np.float32))[..., 0].tolist()
    [[10.0, 18.0, 24.0, 18.0], [27.0, 45.0, 54.0, 39.0], [26.0, 42.0, 48.0, 34.0]]

    A blur of an 8-bit photograph, whose edges are mirrored, as 8-bit again:

    >>> photo = np.array([[0, 10, 200], [50, 255, 100]], np.uint8)[:, :, np.newaxis]
    >>> conv2d(photo, np.full((3, 3), 1 / 9, np.float32), border="symmetric", dtype="uint8")[..., 0].tolist()
    [[42, 92, 142], [80, 113, 147]]
    """
    if type(x) is not ndarray or type(filter) is not ndarray:
        return redirect(conv2d, locals(), "x", "filter", optional="bias")
    given = stride, padding, dilation, layout, border, activation, dtype, algorithm, num_threads
    result = _CONV2D.recall(x, filter, bias, out, given)
    if result is not None:
        return result
    operation = general_operation(
        "forward",
        x.shape,
        filter.shape,
        None,
        (x.dtype, filter.dtype),
        plain("stride", stride),
        plain_padding(padding),
        plain("dilation", dilation),
        word("layout", layout),
        word("border", border),
        bias is not None,
        word("activation", activation),
        dtype_name(dtype),
        word("algorithm", algorithm),
    )
    plain_bias = None if bias is None else as_plain_array("bias", bias)
    return operation.run_and_remember(_CONV2D, given, x, filter, plain_bias, out, num_threads)


@leave_as_is
def conv2d_grad_input(
    x_shape: Any,
    filter: Array,
    grad: Array,
    *,
    stride: IntPair = 1,
    padding: Padding = "SAME",
    dilation: IntPair = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: None = None,
    activation: None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Gradient of `sum(conv2d(x, filter) * grad)` with respect to `x`.

    Parameters
    ----------
    x_shape : three or four ints
        The shape of `x`, and of the result.
    filter : array
        As in `conv2d`.
    grad : array of the shape that `conv2d` returns
        Of the filter's dtype.
    bias, activation : None
        Taken for the sake of equal keywords. The gradient is that of the sum alone: through an activation,
        `grad` has to be multiplied by its derivative first.
    stride, padding, dilation, layout, border, dtype, algorithm, out, num_threads
        As in `conv2d`.

    Returns
    -------
    array of shape `x_shape`
        `out`, or a new array of the filter's kind and dtype.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> filter = np.array([[1, 2, 3]], np.float32)
    >>> grad = np.array([1, 10], np.float32).reshape(1, 2, 1)
    >>> conv2d_grad_input((1, 4, 1), filter, grad, padding="VALID").ravel().tolist()
    [1.0, 12.0, 23.0, 30.0]
    """
    if type(filter) is not ndarray or type(grad) is not ndarray:
        return redirect(conv2d_grad_input, locals(), "filter", "grad")
    given = x_shape, stride, padding, dilation, layout, border, activation, dtype, algorithm, num_threads
    result = _CONV2D_GRAD_INPUT.recall(grad, filter, bias, out, given)
    if result is not None:
        return result
    operation = general_operation(
        "grad_input",
        plain("x_shape", x_shape),
        filter.shape,
        grad.shape,
        (grad.dtype, filter.dtype),
        plain("stride", stride),
        plain_padding(padding),
        plain("dilation", dilation),
        word("layout", layout),
        word("border", border),
        bias is not None,
        word("activation", activation),
        dtype_name(dtype),
        word("algorithm", algorithm),
    )
    return operation.run_and_remember(_CONV2D_GRAD_INPUT, given, grad, filter, None, out, num_threads)


@leave_as_is
def conv2d_grad_filter(
    x: Array,
    filter_shape: Any,
    grad: Array,
    *,
    stride: IntPair = 1,
    padding: Padding = "SAME",
    dilation: IntPair = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: None = None,
    activation: None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Gradient of `sum(conv2d(x, filter) * grad)` with respect to `filter`.

    Parameters
    ----------
    x : array
        As in `conv2d`; also an image of integers.
    filter_shape : two or four ints
        The shape of the filter, and of the result. With two, one kernel serves every channel and collects the
        gradients of all.
    grad : array of the shape that `conv2d` returns
        Of the dtype of `x`; float32 or float64 for an image of integers.
    bias, activation : None
        Taken for the sake of equal keywords; see `conv2d_grad_input`.
    stride, padding, dilation, layout, border, dtype, algorithm, out, num_threads
        As in `conv2d`.

    Returns
    -------
    array of shape `filter_shape`
        `out`, or a new array of the kind of `x` and the dtype of `grad`.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `conv2d` does.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1, 2, 3, 4], np.float32).reshape(1, 4, 1)
    >>> grad = np.array([1, 10], np.float32).reshape(1, 2, 1)
    >>> conv2d_grad_filter(x, (1, 3), grad, padding="VALID").tolist()
    [[21.0, 32.0, 43.0]]
    """
    if type(x) is not ndarray or type(grad) is not ndarray:
        return redirect(conv2d_grad_filter, locals(), "x", "grad")
    given = filter_shape, stride, padding, dilation, layout, border, activation, dtype, algorithm, num_threads
    result = _CONV2D_GRAD_FILTER.recall(x, grad, bias, out, given)
    if result is not None:
        return result
    operation = general_operation(
        "grad_filter",
        x.shape,
        plain("filter_shape", filter_shape),
        grad.shape,
        (x.dtype, grad.dtype),
        plain("stride", stride),
        plain_padding(padding),
        plain("dilation", dilation),
        word("layout", layout),
        word("border", border),
        bias is not None,
        word("activation", activation),
        dtype_name(dtype),
        word("algorithm", algorithm),
    )
    return operation.run_and_remember(_CONV2D_GRAD_FILTER, given, x, grad, None, out, num_threads)


def plan(
    x_shape: Any,
    filter_shape: Any,
    *,
    op: _spec.Op = "forward",
    x_dtype: Any = None,
    stride: IntPair = 1,
    padding: Padding = "SAME",
    dilation: IntPair = 1,
    layout: str = "NHWC",
    border: str = "constant",
    bias: bool = False,
    activation: str | None = None,
    dtype: Any = None,
    algorithm: str = "auto",
    num_threads: int | None = None,
) -> _plan.Plan:
    """What `conv2d` or one of its gradients would run for these shapes, and why; no data is needed.

    Parameters
    ----------
    x_shape, filter_shape : ints
        The shapes of `x` and `filter` in `conv2d`.
    op : "forward", "grad_input" or "grad_filter"
    x_dtype : dtype, optional
        Of `x` and the filter; by default that of the result, or float32. The filter of an image of integers
        is float32 unless the result is float64.
    bias : bool
        Whether there is one.
    stride, padding, dilation, layout, border, activation, dtype, algorithm, num_threads
        As in `conv2d`.

    Returns
    -------
    Plan
        Its fields can be read; `print` shows them as a report, with the roofline's floor for this machine.

    Raises
    ------
    TypeError, ValueError
        As `conv2d` does.

    Examples
    --------
    >>> report = plan((1, 56, 56, 144), (3, 3, 144, 1), stride=2)
    >>> report.output_shape, report.multiply_adds
    ((1, 28, 28, 144), 1016064)
    """
    image, kernel = plain("x_shape", x_shape), plain("filter_shape", filter_shape)
    result_dtype = dtype_name(dtype)
    operands = numpy_dtype("x_dtype", result_dtype or "float32" if x_dtype is None else x_dtype)
    others = operands
    if op != "grad_input" and operands.name in _spec.INTEGERS:
        others = numpy_dtype("dtype", "float64" if result_dtype == "float64" else "float32")
    operation = general_operation(
        _spec.one_of("op", op, _spec.OPS),
        image,
        kernel,
        None,
        (operands, others),
        plain("stride", stride),
        plain_padding(padding),
        plain("dilation", dilation),
        word("layout", layout),
        word("border", border),
        bool(bias),
        word("activation", activation),
        result_dtype,
        word("algorithm", algorithm),
    )
    return _plan.plan_of(operation, num_threads)
