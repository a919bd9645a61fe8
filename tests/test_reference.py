"""The reference against facts that do not come from it: worked examples, plain loops, NumPy, finite
differences."""

import itertools

import numpy as np
import pytest

from depthwise import reference

BORDERS = ("constant", "reflect", "symmetric", "edge", "wrap")


def loops(x, filter, *, stride=(1, 1), dilation=(1, 1), pads=((0, 0), (0, 0))):
    """VALID on the padded NHWC image, one multiplication at a time."""
    (top, bottom), (left, right) = pads
    batch, height, width, channels = x.shape
    kh, kw, _, multiplier = filter.shape
    out_h = (height + top + bottom - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    out_w = (width + left + right - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    y = np.zeros((batch, out_h, out_w, channels * multiplier))
    for b, i, j, k, q in itertools.product(*map(range, (batch, out_h, out_w, channels, multiplier))):
        for di, dj in itertools.product(range(kh), range(kw)):
            row = stride[0] * i + dilation[0] * di - top
            column = stride[1] * j + dilation[1] * dj - left
            if 0 <= row < height and 0 <= column < width:
                y[b, i, j, k * multiplier + q] += filter[di, dj, k, q] * x[b, row, column, k]
    return y


def test_worked_examples():
    x = np.array([[1, 2], [3, 4], [5, 6]], np.float32).reshape(1, 3, 2, 1)
    filter = np.array([[1, 2], [3, 4]], np.float32).reshape(2, 1, 1, 2)
    valid = reference.depthwise_conv2d(x, filter, [1, 1, 1, 1], "VALID")
    np.testing.assert_array_equal(valid, [[[[10, 14], [14, 20]], [[18, 26], [22, 32]]]])
    padded = reference.depthwise_conv2d(x, filter, [1, 1, 1, 1], [[0, 0], [1, 0], [1, 0], [0, 0]])
    expected = [[[0, 0], [3, 4], [6, 8]], [[0, 0], [10, 14], [14, 20]], [[0, 0], [18, 26], [22, 32]]]
    np.testing.assert_array_equal(padded, [expected])


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (3, 2)])
@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((2, 1), (0, 3))])
def test_equals_plain_loops(rng, stride, dilation, pads):
    x = rng.standard_normal((2, 8, 7, 3))
    filter = rng.standard_normal((3, 2, 3, 2))
    expected = loops(x, filter, stride=stride, dilation=dilation, pads=pads)
    actual = reference.conv2d(x, filter, stride=stride, dilation=dilation, padding=pads)
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13)


def test_one_axis_is_numpy_correlate(rng):
    signal, kernel = rng.standard_normal(20), rng.standard_normal(5)
    actual = reference.conv2d(signal.reshape(1, 20, 1), kernel.reshape(1, 5), padding="SAME").ravel()
    np.testing.assert_allclose(actual, np.correlate(signal, kernel, "same"), rtol=1e-13)


@pytest.mark.parametrize("border", BORDERS)
def test_border_is_numpy_pad_and_valid(rng, border):
    x, filter = rng.standard_normal((1, 5, 6, 2)), rng.standard_normal((3, 3, 2, 1))
    padded = np.pad(x, ((0, 0), (4, 1), (2, 3), (0, 0)), mode=border)
    actual = reference.conv2d(x, filter, padding=((4, 1), (2, 3)), border=border)
    np.testing.assert_allclose(actual, loops(padded, filter), rtol=1e-13, atol=1e-13)


def test_layouts_and_ranks_agree(rng):
    x, filter = rng.standard_normal((2, 6, 5, 3)), rng.standard_normal((3, 3, 3, 2))
    y = reference.conv2d(x, filter, stride=2)
    planar = reference.conv2d(np.moveaxis(x, -1, 1), filter, stride=2, layout="NCHW")
    np.testing.assert_array_equal(np.moveaxis(planar, 1, -1), y)
    np.testing.assert_array_equal(reference.conv2d(x[1], filter, stride=2), y[1])
    kernel = filter[:, :, 0, 0]
    each = np.broadcast_to(kernel[:, :, None, None], (3, 3, 3, 1))
    np.testing.assert_array_equal(reference.conv2d(x, kernel), reference.conv2d(x, each))


def test_bias_and_activations(rng):
    x, filter, bias = rng.standard_normal((1, 4, 4, 2)), rng.standard_normal((2, 2, 2, 2)), np.arange(4.0)
    y = reference.conv2d(x, filter) + bias
    expected = {
        "relu": np.where(y > 0, y, 0),
        "relu6": np.where(y > 6, 6, np.where(y > 0, y, 0)),
        "silu": y * 0.5 * (1 + np.tanh(y / 2)),
        "hard_swish": np.where(y < -3, 0, np.where(y > 3, y, y * (y + 3) / 6)),
    }
    for activation, value in expected.items():
        actual = reference.conv2d(x, filter, bias=bias, activation=activation)
        np.testing.assert_allclose(actual, value, rtol=1e-12, atol=1e-15, err_msg=activation)


def test_padding_is_multiplied():
    x, filter = np.ones((1, 1, 2, 1)), np.array([[1.0, np.inf]]).reshape(1, 2, 1, 1)
    y = reference.conv2d(x, filter, padding="SAME").ravel()
    assert y[0] == np.inf
    assert np.isnan(y[1])


def test_empty_sizes_and_empty_kernels():
    assert reference.conv2d(np.ones((0, 4, 4, 3)), np.ones((3, 3, 3, 2))).shape == (0, 4, 4, 6)
    assert reference.conv2d(np.ones((1, 4, 4, 3)), np.ones((3, 3, 3, 0))).shape == (1, 4, 4, 0)
    no_taps = reference.conv2d(np.ones((1, 2, 2, 1)), np.ones((0, 1, 1, 1)))
    np.testing.assert_array_equal(no_taps, np.zeros((1, 2, 2, 1)))
    no_rows = reference.conv2d(np.ones((1, 0, 2, 1)), np.ones((2, 1, 1, 1)), padding=(1, 0))
    np.testing.assert_array_equal(no_rows, np.zeros((1, 1, 2, 1)))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_gradients_are_finite_differences(rng, border, layout):
    shape = (2, 4, 5, 2) if layout == "NHWC" else (2, 2, 4, 5)
    keywords = {
        "stride": (2, 1),
        "dilation": (1, 2),
        "padding": ((2, 1), (3, 2)),
        "border": border,
        "layout": layout,
    }
    x, filter = rng.standard_normal(shape), rng.standard_normal((3, 2, 2, 2))
    grad = rng.standard_normal(reference.conv2d(x, filter, **keywords).shape)

    def loss(x, filter):
        return np.sum(reference.conv2d(x, filter, **keywords) * grad)

    by_x = differences(lambda moved: loss(moved, filter), x)
    by_filter = differences(lambda moved: loss(x, moved), filter)
    np.testing.assert_allclose(
        reference.conv2d_grad_input(shape, filter, grad, **keywords), by_x, atol=1e-8, rtol=1e-8
    )
    np.testing.assert_allclose(
        reference.conv2d_grad_filter(x, filter.shape, grad, **keywords), by_filter, atol=1e-8, rtol=1e-8
    )


def differences(function, at):
    """Central differences; exact up to rounding for functions that are linear."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1.0
        gradient[index] = (function(at + step) - function(at - step)) / 2
    return gradient


def test_shared_filter_gradient_sums_over_channels(rng):
    x, grad = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((2, 5, 6, 3))
    each = reference.conv2d_grad_filter(x, (3, 3, 3, 1), grad)
    np.testing.assert_allclose(reference.conv2d_grad_filter(x, (3, 3), grad), each.sum((2, 3)), rtol=1e-13)


def test_tensorflow_faces_agree_with_the_general_ones(rng):
    x, filter = rng.standard_normal((1, 2, 6, 7)), rng.standard_normal((3, 2, 2, 3))
    face = {"strides": [1, 1, 2, 3], "padding": "SAME", "data_format": "NCHW"}
    general = {"stride": (2, 3), "layout": "NCHW"}
    y = reference.depthwise_conv2d(x, filter, **face)
    np.testing.assert_array_equal(y, reference.conv2d(x, filter, **general))
    np.testing.assert_array_equal(
        reference.depthwise_conv2d_backprop_input(x.shape, filter, y, **face),
        reference.conv2d_grad_input(x.shape, filter, y, **general),
    )
    np.testing.assert_array_equal(
        reference.depthwise_conv2d_backprop_filter(x, filter.shape, y, **face),
        reference.conv2d_grad_filter(x, filter.shape, y, **general),
    )


def test_gradient_of_the_input_multiplies_the_zeros_around_the_output():
    """A NaN weight reaches every pixel that one of its taps could be applied to."""
    filter = np.array([[np.nan, 1.0, 1.0]])
    seen = np.isnan(reference.conv2d_grad_input((1, 5, 1), filter, np.ones((1, 3, 1)), padding="VALID"))
    assert seen.ravel().tolist() == [True] * 5
    strided = np.isnan(
        reference.conv2d_grad_input((1, 5, 1), filter, np.ones((1, 2, 1)), stride=2, padding=0)
    )
    assert strided.ravel().tolist() == [True, False, True, False, True]
