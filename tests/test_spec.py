"""Argument parsing and shapes, against brute force and against facts stated by TensorFlow's documentation."""

import dataclasses
import itertools

import numpy as np
import pytest

from depthwise import _spec


def spec(h=7, w=9, kernel=(3, 3), *, c=2, m=1, **keywords):
    return _spec.general_spec((1, h, w, c), (*kernel, c, m), "float32", **keywords)


def tensorflow(h=7, w=9, kernel=(3, 3), strides=(1, 1, 1, 1), padding="SAME", **keywords):
    return _spec.tensorflow_spec(
        (1, h, w, 2), (*kernel, 2, 1), "float32", strides=strides, padding=padding, **keywords
    )


def positions_that_fit(size, kernel, stride, dilation, before, after):
    """How often a dilated kernel fits into the padded axis when it moves by `stride`."""
    return len(range(-before, size + after - (kernel - 1) * dilation, stride))


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_explicit_output_counts_the_positions_that_fit(stride, dilation):
    for size, kernel, before, after in itertools.product(range(12), range(1, 5), (0, 1, 3), (0, 2)):
        missing = (kernel - 1) * dilation + 1 - (size + before + after)
        if missing >= 2 * stride:
            continue
        axis = spec(
            size,
            kernel=(kernel, 1),
            stride=(stride, 1),
            dilation=(dilation, 1),
            padding=((before, after), (0, 0)),
        ).height
        fits = positions_that_fit(size, kernel, stride, dilation, before, after)
        assert axis.output == fits, (size, kernel, before, after)
        assert (axis.pad_before, axis.pad_after) == (before, after)


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_same_covers_every_start_and_pads_evenly(stride, dilation):
    for size, kernel in itertools.product(range(1, 12), range(1, 6)):
        axis = spec(
            size, kernel=(kernel, 1), stride=(stride, 1), dilation=(dilation, 1), padding="SAME"
        ).height
        reach = (kernel - 1) * dilation + 1
        assert axis.output == len(range(0, size, stride))
        assert axis.pad_after - axis.pad_before in (0, 1)
        last_tap = (axis.output - 1) * stride + reach
        padded = axis.pad_before + size + axis.pad_after
        assert padded == max(last_tap, size)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "output"),
    [(1, 6, 3, 0), (5, 6, 1, 0), (4, 6, 3, 0), (5, 5, 1, 1), (6, 3, 2, 2), (7, 3, 2, 3), (0, 1, 1, 0)],
)
def test_valid_truncates_toward_zero(size, kernel, stride, output):
    assert spec(size, kernel=(kernel, 1), stride=stride, padding="VALID").height.output == output


@pytest.mark.parametrize(("size", "kernel", "stride"), [(4, 6, 1), (0, 2 + 1, 1), (1, 7, 3), (0, 6 + 1, 3)])
def test_valid_kernel_past_the_image_is_an_error(size, kernel, stride):
    with pytest.raises(ValueError, match="must fit into the padded input"):
        spec(size, kernel=(kernel, 1), stride=stride, padding="VALID")


def test_same_of_even_kernel_pads_more_after():
    axis = spec(4, kernel=(2, 1)).height
    assert (axis.pad_before, axis.pad_after) == (0, 1)


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_padding_spellings_agree(kernel):
    pair = spec(kernel=(kernel, kernel), padding=((1, 1), (2, 2)))
    assert spec(kernel=(kernel, kernel), padding=(1, 2)) == pair
    assert spec(kernel=(kernel, kernel), padding=[[1, 1], np.array([2, 2])]) == pair
    assert spec(kernel=(kernel, kernel), padding=np.array([1, 2], np.uint8)) == pair
    assert spec(padding=0) == spec(padding="VALID") == spec(padding=((0, 0), (0, 0)))


def test_integers_of_numpy_are_integers():
    assert spec(stride=np.int8(2), dilation=(np.uint64(1), 2)) == spec(stride=2, dilation=(1, 2))
    assert tensorflow(strides=np.array([1, 2, 3, 1])) == tensorflow(strides=[1, 2, 3, 1])


def test_layouts_resolve_to_the_same_axes():
    nhwc = tensorflow(strides=[1, 2, 3, 1], padding=[[0, 0], [1, 2], [3, 4], [0, 0]], data_format="NHWC")
    nchw = _spec.tensorflow_spec(
        (1, 2, 7, 9),
        (3, 3, 2, 1),
        "float32",
        strides=[1, 1, 2, 3],
        padding=[[0, 0], [0, 0], [1, 2], [3, 4]],
        data_format="NCHW",
    )
    assert (nhwc.height, nhwc.width) == (nchw.height, nchw.width)
    assert nhwc.output_shape == (1, 4, 5, 2)
    assert nchw.output_shape == (1, 2, 4, 5)


def test_backprop_takes_dilations_of_four():
    assert tensorflow(dilations=[1, 2, 3, 1], backprop=True) == tensorflow(dilations=[2, 3])
    with pytest.raises(ValueError, match="dilations must have 2 entries"):
        tensorflow(dilations=[1, 2, 3, 1])
    with pytest.raises(ValueError, match="dilations must be 1 at batch and channel"):
        tensorflow(dilations=[2, 1, 1, 1], backprop=True)


def test_shapes_follow_the_rank_that_was_given():
    unbatched = _spec.general_spec((7, 9, 4), (3, 3), "float32", stride=2)
    assert (unbatched.input_shape, unbatched.filter_shape) == ((7, 9, 4), (3, 3))
    assert unbatched.output_shape == (4, 5, 4)
    assert unbatched.result_shape("grad_input") == (7, 9, 4)
    assert unbatched.result_shape("grad_filter") == (3, 3)
    planar = _spec.general_spec((4, 7, 9), (3, 3, 4, 3), "float32", layout="NCHW")
    assert planar.output_shape == (12, 7, 9)


def test_zero_size_kernel_keeps_the_formula():
    assert spec(5, kernel=(0, 1), padding="VALID").height.output == 6
    assert spec(5, kernel=(0, 1), padding="SAME").height.output == 5


def test_huge_but_defined_sizes():
    assert spec(7, stride=10**18).output_shape == (1, 1, 1, 2)
    assert spec(7, kernel=(1, 1), dilation=10**18).output_shape == (1, 7, 9, 2)
    assert spec(7, dilation=2**45).output_shape == (1, 7, 9, 2)
    assert spec(7, padding=((2**45, 0), (0, 0)), stride=(2**45, 1)).height.output == 2


@pytest.mark.parametrize(
    "keywords",
    [
        {"dilation": 2**62, "kernel": (3, 3)},
        {"dilation": 10**18, "kernel": (2, 2)},
        {"dilation": 2**61, "kernel": (4, 4)},
        {"padding": 2**62},
        {"padding": 10**18},
        {"kernel": (2**31, 2**31)},
        {"h": 2**40, "w": 2**40},
    ],
)
def test_sizes_beyond_the_engine_are_errors(keywords):
    with pytest.raises(ValueError, match="too large"):
        spec(**keywords)


def test_spec_is_frozen_and_hashable():
    with pytest.raises(AttributeError):
        spec().batch = 2
    assert len({spec(), spec(), spec(stride=2)}) == 2


def test_native_arguments():
    arguments = _spec.general_spec((2, 7, 9, 4), (3, 5, 4, 6), "bfloat16", stride=(1, 2)).native_arguments(
        "grad_input", has_bias=True
    )
    height, width = (7, 7, 3, 1, 1, 1), (9, 5, 5, 2, 1, 2)
    assert arguments == (1, 1, 0, 2, 4, 6, height, width, 0, True, 0, 0, 0, "auto")


def test_native_arguments_of_a_border_and_of_integers():
    spec = _spec.general_spec((7, 9, 4), (3, 5), "float32", border="edge")
    spec = dataclasses.replace(spec, x_dtype="uint8", result_dtype="uint16")
    assert spec.native_arguments("forward")[-4:] == (3, 1, 3, "auto")


@pytest.mark.parametrize("value", [True, 1.0, 1.5, "1", None, (), (1,), (1, 2, 3), [True, 1], [[1, 2]], b"1"])
def test_stride_of_the_wrong_kind_names_itself(value):
    with pytest.raises((TypeError, ValueError), match="stride"):
        spec(stride=value)


def test_errors_shorten_what_they_show():
    with pytest.raises(ValueError, match="stride must be a short sequence") as error:
        spec(stride=np.ones(10**6, int))
    assert len(str(error.value)) < 200
