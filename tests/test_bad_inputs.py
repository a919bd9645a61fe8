"""Inputs that broke other depthwise convolutions; each class is one row of them.

Each gives an error that names the argument, or the right answer where one is defined.
"""

import numpy as np
import pytest
from helpers import (
    DTYPES,
    check_conv2d,
    check_grad_filter,
    check_grad_input,
    random_array,
    refused,
    require,
)

import depthwise

ONES = (1, 1, 1, 1)
HUGE = 1879048192


def image(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def tf(x=None, filter=None, strides=ONES, padding="SAME", **keywords):
    """`depthwise_conv2d` on an image (1, 6, 6, 2) and a filter (3, 3, 2, 1), unless other ones are given."""
    x = image(1, 6, 6, 2) if x is None else x
    filter = image(3, 3, 2, 1) if filter is None else filter
    return depthwise.depthwise_conv2d(x, filter, strides, padding, **keywords)


def tf_grad_input(input_sizes=(1, 6, 6, 2), filter=None, grad=None, strides=ONES, padding="SAME", **keywords):
    filter = image(3, 3, 2, 1) if filter is None else filter
    grad = image(1, 6, 6, 2) if grad is None else grad
    return depthwise.depthwise_conv2d_backprop_input(input_sizes, filter, grad, strides, padding, **keywords)


def tf_grad_filter(x=None, filter_sizes=(3, 3, 2, 1), grad=None, strides=ONES, padding="SAME", **keywords):
    x = image(1, 6, 6, 2) if x is None else x
    grad = image(1, 6, 6, 2) if grad is None else grad
    return depthwise.depthwise_conv2d_backprop_filter(x, filter_sizes, grad, strides, padding, **keywords)


def general(x=None, filter=None, **keywords):
    x = image(1, 6, 6, 2) if x is None else x
    return depthwise.conv2d(x, image(3, 3, 2, 1) if filter is None else filter, **keywords)


TENSORFLOW = pytest.mark.parametrize("function", [tf, tf_grad_input, tf_grad_filter])


class TestZeroSizes:
    @pytest.mark.parametrize(
        ("x", "filter", "y"),
        [
            ((0, 6, 6, 2), (3, 3, 2, 3), (0, 6, 6, 6)),
            ((1, 6, 6, 0), (3, 3, 0, 3), (1, 6, 6, 0)),
            ((1, 6, 6, 2), (3, 3, 2, 0), (1, 6, 6, 0)),
            ((1, 0, 6, 2), (3, 3, 2, 1), (1, 0, 6, 2)),
            ((1, 6, 0, 2), (3, 3, 2, 1), (1, 6, 0, 2)),
            ((1, 6, 6, 2), (0, 1, 2, 1), (1, 6, 6, 2)),
            ((1, 6, 6, 2), (1, 0, 2, 1), (1, 6, 6, 2)),
            ((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)),
        ],
    )
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_same_gives_an_empty_or_zero_result(self, x, filter, y, dtype):
        result = tf(image(*x, dtype=DTYPES[dtype]), image(*filter, dtype=DTYPES[dtype]))
        assert result.shape == y
        assert result.dtype == DTYPES[dtype]
        assert not result.astype(np.float64).any()
        grad = image(*y, dtype=DTYPES[dtype])
        check_grad_input(x, image(*filter, dtype=DTYPES[dtype]), grad)
        check_grad_filter(image(*x, dtype=DTYPES[dtype]), filter, grad)

    def test_padding_makes_pixels_of_an_empty_image(self):
        np.testing.assert_array_equal(general(image(1, 0, 3, 2), padding=2), np.zeros((1, 2, 5, 2)))

    def test_filter_with_zero_channels_does_not_fit_an_image_that_has_some(self):
        with refused("filter must have as many channels"):
            tf(filter=image(0, 1, 5, 0))

    def test_valid_needs_an_image(self):
        with refused("the filter must fit"):
            tf(image(1, 0, 6, 2), padding="VALID")


class TestStrideValues:
    @TENSORFLOW
    @pytest.mark.parametrize(
        "stride", [0, -1, -(10**18), 10**30, 1.0, 2.5, True, None, "1", b"1", [1], np.ones(2)]
    )
    def test_refused(self, function, stride):
        with refused(r"strides\[1\]"):
            function(strides=[1, stride, 1, 1])
        with refused(r"strides\[2\]"):
            function(strides=[1, 1, stride, 1])

    @pytest.mark.parametrize(
        "stride", [0, -1, -(10**18), 10**30, 1.0, True, None, "1", [1], [1, 2, 3], np.ones(2)]
    )
    def test_refused_by_conv2d(self, stride):
        with refused("stride"):
            general(stride=stride)

    @pytest.mark.parametrize("stride", [65536, 65537, 2**32 + 1, 10**18, np.int64(2**40), np.uint64(2**60)])
    def test_large_ones_leave_one_pixel(self, stride):
        y = tf(strides=[1, stride, stride, 1], padding="VALID")
        np.testing.assert_array_equal(y, np.full((1, 1, 1, 2), 9))
        check_conv2d(image(1, 6, 6, 2), image(3, 3, 2, 1), stride=stride)
        check_grad_input((1, 6, 6, 2), image(3, 3, 2, 1), image(1, 1, 1, 2), stride=stride)
        check_grad_filter(image(1, 6, 6, 2), (3, 3, 2, 1), image(1, 1, 1, 2), stride=stride)

    def test_numpy_integers_count(self):
        assert tf(strides=np.array([1, 2, 2, 1], np.uint8)).shape == (1, 3, 3, 2)
        assert general(stride=np.int16(2)).shape == (1, 3, 3, 2)


class TestStrideLengths:
    @TENSORFLOW
    @pytest.mark.parametrize(
        "strides",
        [(), (1, 1), (1, 1, 1), (1,) * 5, 1, None, "SAME", {1: 1}, {1, 2}, (2, 1, 1, 1), (1, 1, 1, 2)],
    )
    def test_refused(self, function, strides):
        with refused("strides"):
            function(strides=strides)

    @TENSORFLOW
    def test_batch_and_channel_depend_on_the_format(self, function):
        with refused("strides must be 1 at batch and channel of NCHW"):
            function(strides=(1, 2, 1, 1), data_format="NCHW")


class TestDilations:
    @TENSORFLOW
    @pytest.mark.parametrize(
        "dilations", [0, 1, [0, 1], [1, -1], [1], [1, 1, 1], [1] * 5, [1.0, 1], [True, 1], "1"]
    )
    def test_refused(self, function, dilations):
        with refused("dilations"):
            function(dilations=dilations)

    @pytest.mark.parametrize("function", [tf_grad_input, tf_grad_filter])
    def test_four_entries_need_ones_outside(self, function):
        with refused("dilations must be 1 at batch and channel"):
            function(dilations=[1, 1, 1, 2])

    def test_huge_ones_meet_only_the_centre(self):
        huge = [2**40, 2**46]
        np.testing.assert_array_equal(tf(dilations=huge), np.ones((1, 6, 6, 2)))
        np.testing.assert_array_equal(tf_grad_input(dilations=huge), np.ones((1, 6, 6, 2)))
        require("grad_filter")
        gradient = tf_grad_filter(dilations=huge)
        assert gradient[1, 1].tolist() == [[36], [36]]
        assert gradient.sum() == 72

    @pytest.mark.parametrize("dilation", [10**18, 2**62, 10**30])
    def test_overflowing_ones(self, dilation):
        with refused("dilation|too large"):
            general(dilation=dilation)


class TestStrideWithDilation:
    @TENSORFLOW
    @pytest.mark.parametrize("strides", [(1, 2, 2, 1), (1, 1, 2, 1)])
    def test_tensorflow_face_refuses(self, function, strides):
        with refused("strides and dilations"):
            function(strides=strides, dilations=[2, 2])

    def test_conv2d_computes_it(self, rng):
        x, filter = random_array(rng, (1, 7, 7, 3), "float32"), random_array(rng, (3, 3, 3, 2), "float32")
        y = check_conv2d(x, filter, stride=2, dilation=2, padding="VALID")
        assert y.shape == (1, 2, 2, 6)


class TestRanks:
    @pytest.mark.parametrize("shape", [(), (6,), (6, 6, 2), (1, 1, 6, 6, 2)])
    def test_input(self, shape):
        for function in (tf, tf_grad_filter):
            with refused("input must have 4 dimensions"):
                function(image(*shape))

    @pytest.mark.parametrize("shape", [(), (6,), (6, 6), (1, 1, 6, 6, 2)])
    def test_x(self, shape):
        with refused("x must have 4 dimensions"):
            general(image(*shape))

    @pytest.mark.parametrize("shape", [(), (3,), (3, 3, 2), (3, 3, 2, 1, 1)])
    def test_filter(self, shape):
        for function in (tf, tf_grad_input, general):
            with refused("filter must have 4 dimensions"):
                function(filter=image(*shape))

    @pytest.mark.parametrize("nothing", [[], (), [[]], None, 1.0, "image"])
    def test_no_array(self, nothing):
        with refused("input must be"):
            depthwise.depthwise_conv2d(nothing, image(3, 3, 2, 1), ONES, "SAME")
        with refused("filter must be"):
            depthwise.depthwise_conv2d(image(1, 6, 6, 2), nothing, ONES, "SAME")
        with refused("out_backprop must be"):
            depthwise.depthwise_conv2d_backprop_input((1, 6, 6, 2), image(3, 3, 2, 1), nothing, ONES, "SAME")


class TestSizes:
    @pytest.mark.parametrize(
        "sizes",
        [
            6,
            (),
            (6, 6, 2),
            (1, 6, 6, 2, 1),
            (1,) * 13,
            (1, -6, 6, 2),
            (HUGE,) * 4,
            (2**31, 2**31, 2**31, 2),
            (1, 6, 6, 3),
            (2, 6, 6, 2),
            (1, 7, 6, 2),
            (1.0, 6, 6, 2),
            (True, 6, 6, 2),
            np.array([]),
            np.zeros((1, 4), int),
            np.zeros(10**6, int),
            None,
            "1662",
        ],
    )
    def test_input_sizes(self, sizes):
        with refused("input_sizes|out_backprop must have shape"):
            tf_grad_input(sizes)
        with refused("x_shape|grad must have shape"):
            depthwise.conv2d_grad_input(sizes, image(3, 3, 2, 1), image(1, 6, 6, 2))

    @pytest.mark.parametrize(
        "sizes",
        [
            3,
            (),
            (3, 3, 2),
            (3, 3, 2, 1, 1),
            (1,) * 13,
            (3, -3, 2, 1),
            (HUGE,) * 4,
            (2**31, 2**31, 2, 2**31),
            (3, 3, 3, 1),
            (3, 3, 2, 2),
            (3.0, 3, 2, 1),
            np.array([]),
            np.zeros((1, 4), int),
            None,
        ],
    )
    def test_filter_sizes(self, sizes):
        with refused("filter_sizes|out_backprop must have shape"):
            tf_grad_filter(filter_sizes=sizes)
        with refused("filter_shape|grad must have shape"):
            depthwise.conv2d_grad_filter(image(1, 6, 6, 2), sizes, image(1, 6, 6, 2))

    def test_arrays_of_integers_count(self):
        assert tf_grad_input(np.array([1, 6, 6, 2], np.int32)).shape == (1, 6, 6, 2)
        require("grad_filter")
        assert tf_grad_filter(filter_sizes=np.array([3, 3, 2, 1])).shape == (3, 3, 2, 1)


class TestOutBackprop:
    @pytest.mark.parametrize("shape", [(0, 6, 6, 2), (2, 6, 6, 2), (1, 6, 6, 4), (1, 5, 6, 2), (6, 6, 2), ()])
    def test_of_another_shape(self, shape):
        for function in (tf_grad_input, tf_grad_filter):
            with refused("out_backprop must have shape"):
                function(grad=image(*shape))

    def test_channel_count_of_an_advisory(self):
        with refused("must have as many channels|out_backprop"):
            tf_grad_filter(image(1, 1, 1, 2), (1, 1, 1, 1), image(1, 1, 1, 1), (1, 66, 49, 1), "VALID")

    def test_of_another_dtype(self):
        for function, other in ((tf_grad_input, "filter"), (tf_grad_filter, "input")):
            with refused(f"{other}.*float32|out_backprop.*float32"):
                function(grad=image(1, 6, 6, 2, dtype=np.float64))


class TestExplicitPadding:
    @TENSORFLOW
    @pytest.mark.parametrize(
        "padding",
        [
            [[0, 0], [-1, 0], [0, 0], [0, 0]],
            [[1, 0], [0, 0], [0, 0], [0, 0]],
            [[0, 0], [0, 0], [0, 0], [0, 1]],
            [[0, 0], [0, 0], [0, 0]],
            [[0, 0]] * 5,
            [[0], [0], [0], [0]],
            [[0, 0, 0]] * 4,
            [[0, 0], [0], [0, 0], [0, 0]],
            [[0, 0], [0.0, 0], [0, 0], [0, 0]],
            [[0, 0], [True, 0], [0, 0], [0, 0]],
            [[0, 0], 0, [0, 0], [0, 0]],
            [[0, 0], [[0], 0], [0, 0], [0, 0]],
            [],
            "same ",
            "same",
            "FULL",
            "EXPLICIT",
            "",
            b"SAME",
            None,
            7,
            1.5,
            {},
        ],
    )
    def test_refused(self, function, padding):
        with refused("padding"):
            function(padding=padding)

    def test_a_list_within_itself(self):
        endless = []
        endless.append(endless)
        with refused("padding"):
            tf(padding=[endless] * 4)
        with refused("padding"):
            general(padding=endless)

    @pytest.mark.parametrize(
        "padding", [-1, (0, -1), ((0, 0), (0, -1)), (1, 2, 3), 1.5, None, b"SAME", ((1, 2), 3)]
    )
    def test_refused_by_conv2d(self, padding):
        with refused("padding"):
            general(padding=padding)

    def test_too_much_to_address(self):
        with refused("too large"):
            tf(padding=[[0, 0], [10**18, 0], [0, 0], [0, 0]])

    def test_too_much_to_allocate(self):
        with pytest.raises(MemoryError, match=r"cannot allocate the result, float32 of shape \(1, 10{12}4, "):
            tf(padding=[[0, 0], [10**13, 0], [0, 0], [0, 0]])


class TestKernelAgainstImage:
    def test_one_larger_is_empty_and_two_larger_an_error(self):
        assert tf(image(1, 2, 6, 2), padding="VALID").shape == (1, 0, 4, 2)
        with refused("the filter must fit"):
            tf(image(1, 1, 6, 2), padding="VALID")

    def test_explicit_padding_smaller_than_the_kernel(self, rng):
        x, filter = random_array(rng, (1, 3, 3, 2), "float32"), random_array(rng, (9, 9, 2, 1), "float32")
        for pads in (((6, 1), (1, 6)), ((3, 3), (3, 3)), ((0, 6), (6, 0))):
            y = check_conv2d(x, filter, padding=pads)
            check_grad_input(x.shape, filter, y, padding=pads)
            check_grad_filter(x, filter.shape, y, padding=pads)


class TestOverflow:
    @pytest.mark.parametrize("dilation", [2**31, 2**62 - 1, 2**62, 2**63, 2**64])
    def test_effective_kernel(self, dilation):
        with refused("must fit|too large|dilation must be at most"):
            general(dilation=dilation, padding="VALID")

    def test_output(self):
        with refused("the output is too large"):
            general(padding=2**40)
        with refused("too large"):
            depthwise.plan((1, 2**40, 2**40, 1), (3, 3, 1, 1))


class TestDtypes:
    @pytest.mark.parametrize(
        "dtype", ["i1", "i4", "u1", "c8", "O", "U1", "?", "M8[s]", "m8[s]", "f4,f4", "V4", "g"]
    )
    def test_refused(self, dtype):
        array = np.zeros((1, 6, 6, 2), dtype)
        with refused("input must have dtype"):
            tf(array, np.zeros((3, 3, 2, 1), dtype))
        # An image may hold integers, its filter and its gradient may not.
        with refused("filter must have dtype" if dtype == "u1" else "x must have dtype"):
            general(array, np.zeros((3, 3, 2, 1), dtype))
        with refused("grad must have dtype" if dtype == "u1" else "x must have dtype"):
            depthwise.conv2d_grad_filter(array, (3, 3, 2, 1), array)
        with refused("grad must have dtype"):
            depthwise.conv2d_grad_input(array.shape, np.zeros((3, 3, 2, 1), dtype), array)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_two_of_them(self, dtype):
        with refused(f"input and filter must have the same dtype, got float32 and {dtype}"):
            tf(filter=image(3, 3, 2, 1, dtype=DTYPES[dtype]))

    @pytest.mark.parametrize("dtype", ["float64", "uint8", int, "nonsense", 3.5, object()])
    def test_of_the_result(self, dtype):
        with refused("dtype must be"):
            general(dtype=dtype)
        assert general(dtype=np.float32).dtype == np.float32

    def test_of_a_bias(self):
        with refused("bias must have dtype"):
            general(bias=np.ones(2))
        with refused("bias must have shape"):
            general(bias=image(3))
        with refused("bias must be"):
            general(bias=[1.0, 2.0])


class TestHalfPrecision:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("width", [1, 2, 3])
    @pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
    def test_narrow_outputs(self, rng, dtype, width, layout):
        for channels in (1, 3, 8, 17):
            shape = (1, 9, width, channels) if layout == "NHWC" else (1, channels, 9, width)
            x, filter = random_array(rng, shape, dtype), random_array(rng, (3, 3, channels, 1), dtype)
            check_conv2d(x, filter, layout=layout)
            check_conv2d(x, filter, layout=layout, stride=2)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_all_ones(self, dtype):
        ones = DTYPES[dtype].type(1)
        x = np.full((1, 2, 2, 1), ones)
        assert tf(x, np.full((2, 2, 1, 1), ones), padding="VALID").tolist() == [[[[4]]]]

    @pytest.mark.parametrize(("dtype", "most"), [("float16", 65504.0), ("bfloat16", 3.3895313892515355e38)])
    def test_sums_beyond_the_range_are_infinite(self, dtype, most):
        x = np.full((1, 1, 2, 1), most).astype(DTYPES[dtype])
        y = general(x, np.ones((1, 2), DTYPES[dtype]), padding="VALID")
        assert np.isposinf(y.astype(np.float64)).all()


@pytest.mark.parametrize("dtype", DTYPES)
class TestSpecialValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
    @pytest.mark.parametrize("channels", [1, 3, 8, 13])
    def test_reach_exactly_the_pixels_that_see_them(self, rng, dtype, value, layout, channels):
        shape = (1, 7, 6, channels) if layout == "NHWC" else (1, channels, 7, 6)
        x, filter = random_array(rng, shape, dtype), random_array(rng, (3, 3, channels, 1), dtype)
        x.flat[x.size // 2] = value
        check_conv2d(x, filter, layout=layout)
        check_conv2d(x, filter, layout=layout, stride=2, dilation=2)
        x.flat[-1] = value
        check_conv2d(x, filter, layout=layout)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_in_the_filter_multiply_the_padding(self, rng, dtype, value):
        x, filter = random_array(rng, (1, 6, 6, 8), dtype), random_array(rng, (3, 3, 8, 1), dtype)
        filter[0, 0, 1, 0] = value
        y = check_conv2d(x, filter)
        assert np.isnan(y[0, 0, 0, 1].astype(np.float64))
        check_grad_input(x.shape, filter, np.ones_like(y))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_in_the_gradient(self, rng, dtype, value):
        x, filter = random_array(rng, (1, 6, 6, 8), dtype), random_array(rng, (3, 3, 8, 1), dtype)
        grad = random_array(rng, (1, 6, 6, 8), dtype)
        grad[0, 0, 3, 2] = value
        check_grad_input(x.shape, filter, grad)
        check_grad_filter(x, filter.shape, grad)

    def test_subnormals_are_not_flushed(self, dtype):
        smallest = np.finfo(DTYPES[dtype] if dtype != "bfloat16" else np.float32)
        tiny = 2.0**-130 if dtype == "bfloat16" else float(smallest.smallest_subnormal)
        x = np.full((1, 4, 4, 8), tiny).astype(DTYPES[dtype])
        y = check_conv2d(x, np.ones((3, 3, 8, 1), DTYPES[dtype]))
        assert float(y[0, 1, 1, 0]) == 9 * float(x[0, 0, 0, 0])


class TestShapesThatCrashed:
    def test_many_channels_with_large_stride_and_padding(self, rng):
        x = random_array(rng, (1, 9, 9, 67), "float32")
        filter = random_array(rng, (3, 3, 67, 2), "float32")
        y = check_conv2d(x, filter, stride=13, padding=14)
        check_grad_input(x.shape, filter, y, stride=13, padding=14)
        check_grad_filter(x, filter.shape, y, stride=13, padding=14)

    def test_large_kernel_with_half_padding_and_stride(self, rng):
        x, filter = (
            random_array(rng, (1, 20, 20, 3), "float32"),
            random_array(rng, (125, 125, 3, 1), "float32"),
        )
        keywords = {"stride": 2, "padding": 63, "algorithm": "direct"}
        y = check_conv2d(x, filter, **keywords)
        back = check_grad_input(x.shape, filter, y, **keywords)
        check_grad_filter(x, filter.shape, y, **keywords)
        # The reference takes seconds for the input gradient; other layouts have its bits.
        planes, y_planes = (np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in (x, y))
        keywords["layout"] = "NCHW"
        assert np.array_equal(check_conv2d(planes, filter, **keywords), y_planes)
        check_grad_filter(planes, filter.shape, y_planes, **keywords)
        back_planes = depthwise.conv2d_grad_input(planes.shape, filter, y_planes, **keywords)
        assert np.array_equal(np.moveaxis(back_planes, 1, -1), back)


class TestDataFormat:
    @TENSORFLOW
    @pytest.mark.parametrize("data_format", ["NHCW", "nhwc", "", "NHWC ", 3, b"NHWC", True, [], ["NHWC"]])
    def test_refused(self, function, data_format):
        with refused("data_format must be"):
            function(data_format=data_format)

    @TENSORFLOW
    def test_none_is_nhwc(self, function):
        require({tf: "forward", tf_grad_input: "grad_input", tf_grad_filter: "grad_filter"}[function])
        np.testing.assert_array_equal(function(data_format=None), function(data_format="NHWC"))

    @pytest.mark.parametrize("layout", ["nhwc", "HWC", None, 3, []])
    def test_layout(self, layout):
        with refused("layout must be"):
            general(layout=layout)


class TestWords:
    @pytest.mark.parametrize("name", ["border", "activation", "algorithm"])
    @pytest.mark.parametrize("value", ["", "Relu", "CONSTANT", 3, 1.5, [], {}, b"relu"])
    def test_refused(self, name, value):
        with refused(f"{name} must be"):
            general(**{name: value})

    @pytest.mark.parametrize("wrong", [{"bias": image(2)}, {"activation": "relu"}])
    def test_gradients_are_of_the_convolution_alone(self, wrong):
        (name,) = wrong
        with refused(f"{name} must be None in a gradient"):
            depthwise.conv2d_grad_input((1, 6, 6, 2), image(3, 3, 2, 1), image(1, 6, 6, 2), **wrong)
        with refused(f"{name} must be None in a gradient"):
            depthwise.conv2d_grad_filter(image(1, 6, 6, 2), (3, 3, 2, 1), image(1, 6, 6, 2), **wrong)


class TestNumThreads:
    @pytest.mark.parametrize("n", [0, -1, 10**9, 2**64, 1.0, True, "2", [2], np.array([1])])
    def test_refused(self, n):
        with refused("num_threads must be"):
            general(num_threads=n)
        with refused("n must be"):
            depthwise.set_num_threads(n)
        with refused("num_threads must be"):
            depthwise.plan((1, 6, 6, 2), (3, 3, 2, 1), num_threads=n)

    def test_none_is_no_number(self):
        with refused("n must be"):
            depthwise.set_num_threads(None)
