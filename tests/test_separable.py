"""Filters of rank 1: when they are taken, the error bound, and the same bits for any split of the work."""

import itertools

import numpy as np
import pytest
from helpers import DTYPES, random_array, same_bits

import depthwise
from depthwise import _native, reference

# Sums of columns, sums of rows, what the factors lack, and the result's own rounding.
EXTRA_TERMS = 20
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 0.0, "float64": 0.0}


def rank_one(rng, shape, dtype, *, shared=False):
    """Small integers, whose products are exact in every dtype."""
    kh, kw, c, m = shape
    planes = (1, 1) if shared else (c, m)
    column, row = rng.integers(-3, 4, (kh, 1, *planes)), rng.integers(-3, 4, (1, kw, *planes))
    return np.broadcast_to(column * row, shape).astype(random_array(rng, (1,), dtype).dtype)


def assert_within_bound(result, x, filter, expected, magnitude):
    eps = np.finfo(np.float64 if x.dtype == np.float64 else np.float32).eps
    terms = filter.shape[0] + filter.shape[1] + EXTRA_TERMS
    bound = (
        terms * eps * magnitude + ROUNDING[x.dtype.name] * np.abs(expected) + 1e-7 * (x.dtype.itemsize == 2)
    )
    assert (np.abs(result.astype(np.float64) - expected) <= bound + 1e-300).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 7), (21, 4), (9, 18)])
def test_results_are_within_the_stated_bound(rng, kernel, shared, layout, dtype):
    cases = itertools.product((3, 17), ((1, 1), (2, 3)), ((1, 1), (3, 2)))
    for channels, stride, dilation in cases:
        for multiplier in (1, 2):
            shape = (2, 19, 45, channels) if layout == "NHWC" else (2, channels, 19, 45)
            x = random_array(rng, shape, dtype)
            filter = rank_one(rng, (*kernel, channels, multiplier), dtype, shared=shared)
            keywords = {"stride": stride, "dilation": dilation, "layout": layout}
            result = depthwise.conv2d(x, filter, algorithm="separable", num_threads=1, **keywords)
            assert _native.last_run()["kernel"] == "separable"
            magnitudes = (np.abs(a.astype(np.float64)) for a in (x, filter))
            expected = reference.conv2d(x, filter, **keywords)
            assert_within_bound(result, x, filter, expected, reference.conv2d(*magnitudes, **keywords))
            split = depthwise.conv2d(x[1:], filter, algorithm="separable", num_threads=2, **keywords)
            assert same_bits(split, result[1:])


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_the_input(rng, stride):
    x_shape, filter = (2, 33, 40, 5), rank_one(rng, (7, 9, 5, 1), "float32")
    grad = random_array(
        rng, reference.conv2d(np.zeros(x_shape, "f4"), filter, stride=stride).shape, "float32"
    )
    result = depthwise.conv2d_grad_input(x_shape, filter, grad, stride=stride, algorithm="separable")
    assert _native.last_run()["kernel"] == "separable"
    expected = reference.conv2d_grad_input(x_shape, filter, grad, stride=stride)
    magnitude = reference.conv2d_grad_input(x_shape, np.abs(filter), np.abs(grad), stride=stride)
    assert_within_bound(result, grad, filter, expected, magnitude)


def factored(rng, kernel, channels, dtype, *, shared):
    """Products of random factors of one axis: of rank 1 in every dtype, and sums whose order shows."""
    along, planes = int(kernel[1] > 1), (1, 1) if shared else (channels, 1)
    shape = [1, 1, *planes]
    shape[along] = kernel[along]
    return np.broadcast_to(random_array(rng, shape, dtype), (*kernel, channels, 1)).copy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kernel", [(2, 3), (3, 5), (2, 7), (3, 12), (5, 21), (9, 1)])
def test_channels_have_the_same_bits_alone(rng, kernel, shared, layout, dtype):
    """However many channels a unit of work has, taps are added in one order."""
    axis = layout.index("C")
    shape = [1, 11, 21, 24] if axis == 3 else [1, 24, 11, 21]
    filter, x = factored(rng, kernel, 24, dtype, shared=shared), random_array(rng, shape, dtype)
    keywords = {"layout": layout, "algorithm": "separable"}

    def both(x, filter):
        return (
            depthwise.conv2d(x, filter, **keywords),
            depthwise.conv2d_grad_input(x.shape, filter, x, **keywords),
        )

    whole = both(x, filter)
    assert _native.last_run()["kernel"] == "separable"
    for width in (1, 2, 3, 5, 8, 16):
        for first in range(0, 24, 7):
            channels = slice(first, first + width)
            at = (*[slice(None)] * axis, channels)
            part = both(np.ascontiguousarray(x[at]), np.ascontiguousarray(filter[:, :, channels]))
            for alone, among in zip(part, whole, strict=True):
                assert same_bits(alone, among[at]), (channels, keywords)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("taps", [2, 7, 16, 17, 32, 41])
def test_long_rows_of_few_channels(rng, taps, channels):
    """Tiles of rows load, and shift, more than their taps read: of what lies beyond, nothing may show."""
    column, row = rng.integers(-3, 4, (3, 1)), rng.integers(-1, 2, taps)
    column[1], row[0] = 3, 1  # so that the factors, too, are integers
    filter = np.broadcast_to((column * row)[:, :, None, None], (3, taps, channels, 1)).astype("float32")
    x = rng.integers(0, 200, (1, 11, 400 // channels, channels)).astype("float32")
    x[:, 9:] = np.nan
    x[:, :, -1] = np.inf
    expected = reference.conv2d(x[:, :9, :-1], filter, padding="VALID")
    height, width = expected.shape[1:3]
    for dtype in (None, "uint8"):
        image = x if dtype is None else np.nan_to_num(x, posinf=0).astype(dtype)
        result = depthwise.conv2d(image, filter, padding="VALID", dtype=dtype, algorithm="separable")
        assert _native.last_run()["kernel"] == "separable"
        sums = expected if dtype is None else expected.clip(0, 255)
        np.testing.assert_array_equal(result[:, :height, :width], sums)  # sums of small integers are exact


@pytest.mark.parametrize("border", ["constant", "reflect", "symmetric", "edge", "wrap"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_integers_and_borders(rng, border, dtype):
    filter = rank_one(rng, (9, 7, 3, 1), "float32")
    x = rng.integers(0, 200, (1, 40, 51, 3)).astype(dtype)
    results = [
        depthwise.conv2d(x, filter, border=border, dtype=dtype, algorithm=algorithm)
        for algorithm in ("direct", "separable")
    ]
    assert _native.last_run()["kernel"] == "separable"
    assert np.array_equal(*results)  # sums of small integers are exact


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_sums_are_rounded_and_saturated(rng, channels, dtype):
    """NaN gives 0; whatever is too large for the integers, or for any of 32 bits, their ends."""
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max, (1, 24, 70, channels), dtype=dtype, endpoint=True)
    rows = ([0.25, 0.25, 0.5], [-3, 2, 1.5], [1e9, -1e9, 1], [1e38, 1e38, 3e38], [3e38, -3e38, 3e38])
    finite = []
    for row in rows:
        filter = np.float32([1, 0.5, 0.25])[:, None] * np.float32(row)
        sums, result = (
            depthwise.conv2d(x, filter, algorithm="separable", dtype=kind) for kind in ("float32", dtype)
        )
        assert _native.last_run()["kernel"] == "separable"
        nearest = np.rint(np.where(np.isnan(sums), 0, sums)).clip(limits.min, limits.max)
        np.testing.assert_array_equal(result, nearest.astype(dtype))
        finite.append(not np.isnan(sums).any() and not np.isinf(sums).any())
    assert finite == [True, True, True, False, False]
    assert np.isnan(sums).any()


def test_auto_takes_the_factors_where_they_pay_and_direct_never(rng):
    x = random_array(rng, (1, 128, 128, 3), "float32")
    filter = rank_one(rng, (9, 9, 3, 1), "float32")
    for algorithm, separable in (("auto", True), ("direct", False)):
        depthwise.conv2d(x, filter, algorithm=algorithm)
        assert (_native.last_run()["kernel"] == "separable") == separable
    full = random_array(rng, (9, 9, 3, 1), "float32")
    depthwise.conv2d(x, full)
    assert _native.last_run()["kernel"] != "separable"


@pytest.mark.parametrize(
    ("shape", "taps", "keywords", "pays"),
    [
        ((1, 512, 512, 3), 5, {}, True),
        ((1, 512, 512, 3), 3, {}, True),
        ((1, 512, 512, 3), 3, {"border": "reflect"}, True),
        ((1, 64, 64, 3), 3, {}, False),
        ((1, 512, 512, 3), 3, {"dilation": 2}, False),
        ((1, 112, 112, 32), 3, {}, False),
        ((1, 512, 512, 64), 3, {}, True),
        ((1, 3, 512, 512), 3, {"layout": "NCHW"}, True),
        ((1, 512, 512, 3), 5, {"stride": 2}, False),
        ((1, 28, 28, 240), 7, {}, True),
        ((32, 14, 14, 480), 7, {}, False),
        ((1, 480, 14, 14), 7, {"layout": "NCHW"}, False),
        ((1, 3, 224, 224), 5, {"layout": "NCHW"}, True),
    ],
)
def test_auto_looks_for_factors_where_two_passes_are_faster(shape, taps, keywords, pays):
    """Planes of few pixels, and 3x3 taps of many channels, take less time in one pass."""
    channels = shape[1] if keywords.get("layout") == "NCHW" else shape[3]
    plan = depthwise.plan(shape, (taps, taps, channels, 1), padding="SAME", **keywords)
    assert ("separable instead" in plan.reason) == pays


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("height", "width", "channels", "kh", "kw"),
    [(2, 3, 256, 8, 11), (14, 14, 80, 7, 7), (40, 41, 24, 7, 7), (120, 118, 3, 5, 5), (9, 60, 16, 19, 5)],
)
def test_auto_decides_alike_whatever_the_image_is_to_its_result(rng, height, width, channels, kh, kw, layout):
    """Integers, and borders made by numpy.pad, beside images whose kernels reach over them."""
    shape = (1, height, width, channels) if layout == "NHWC" else (1, channels, height, width)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    filter = rank_one(rng, (kh, kw, channels, 1), "float32")
    spatial = [((taps - 1) // 2, taps - 1 - (taps - 1) // 2) for taps in (kh, kw)]
    pads = [(0, 0), *spatial, (0, 0)] if layout == "NHWC" else [(0, 0), (0, 0), *spatial]
    calls = [
        (image, {"padding": "SAME"}),
        (image.astype("float32"), {"padding": "SAME"}),
        (np.pad(image, pads).astype("float32"), {"padding": "VALID"}),
    ]
    factored = set()
    results = []
    for x, keywords in calls:
        results.append(depthwise.conv2d(x, filter, layout=layout, **keywords))
        factored.add(_native.last_run()["kernel"] == "separable")
    assert len(factored) == 1
    for result in results[1:]:
        assert same_bits(result, results[0])


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_other_filters_are_refused(rng, value):
    filter = np.ones((3, 3, 2, 2), np.float32)
    filter[1, 1, 1, 0] = value
    x = random_array(rng, (1, 8, 8, 2), "float32")
    with pytest.raises(ValueError, match=r"rank 1 .*plane \[:, :, 1, 0\] differs .* by up to"):
        depthwise.conv2d(x, filter, algorithm="separable")


class TestPreparedOperator:
    @staticmethod
    def kept_by(filter, x):
        """The operation of an operator that has been called, and what it keeps for the filter."""
        op = depthwise.Conv2D(filter)
        assert same_bits(op(x), depthwise.conv2d(x, filter))
        ((operation, _, _, prepared),) = op._prepared.values()
        return operation, prepared

    def test_keeps_the_factors(self, rng):
        """What is kept stands for the filter: a run with another one still uses the first one's factors."""
        x = random_array(rng, (1, 64, 64, 3), "float32")
        filter = rank_one(rng, (9, 11, 3, 1), "float32")
        operation, prepared = self.kept_by(filter, x)
        assert prepared.bytes == (9 + 11) * 3 * 4 <= operation.prepared_bytes
        other = random_array(rng, filter.shape, "float32")
        result = operation.native.run(x, other, prepared=prepared)
        assert _native.last_run()["kernel"] == "separable"
        assert same_bits(result, depthwise.conv2d(x, filter))

    def test_keeps_that_there_are_none(self, rng):
        x = random_array(rng, (1, 64, 64, 3), "float32")
        operation, prepared = self.kept_by(random_array(rng, (9, 9, 3, 1), "float32"), x)
        operation.native.run(x, rank_one(rng, (9, 9, 3, 1), "float32"), prepared=prepared)
        assert _native.last_run()["kernel"] != "separable"

    def test_refuses_other_filters_in_every_call(self, rng):
        op = depthwise.Conv2D(random_array(rng, (9, 9, 3, 1), "float32"), algorithm="separable")
        for _ in range(2):
            with pytest.raises(ValueError, match=r"rank 1 .*plane \[:, :, 0, 0\] differs"):
                op(np.zeros((1, 20, 20, 3), np.float32))
