"""Convolution by Fourier transforms: its bound, its bits, and what is not finite."""

import itertools

import numpy as np
import pytest
from helpers import (
    DTYPES,
    assert_forward,
    assert_within,
    in_memory,
    random_array,
    same_bits,
    transform_bound,
)
from hypothesis import given
from hypothesis import strategies as st
from test_properties import cases

import depthwise
from depthwise import reference

MIB = 2**20


def four_dimensional(case, array, image):
    """The operand as the engine sees it."""
    if image:
        return array if case.batch is not None else array[np.newaxis]
    shape = (*case.kernel, case.channels, 1 if case.multiplier is None else case.multiplier)
    return np.broadcast_to(array[:, :, np.newaxis, np.newaxis], shape) if array.ndim == 2 else array


def bound_of(case, op, a, b):
    a, b = four_dimensional(case, a, True), four_dimensional(case, b, op == "grad_filter")
    bound = transform_bound(op, a, b, case.spec.four_dimensional())
    shape = case.spec.result_shape(op)
    if op == "grad_filter" and case.multiplier is None:
        return bound.sum((2, 3))
    return bound.reshape(shape)


@given(
    case=cases(),
    bias=st.booleans(),
    activation=st.sampled_from([None, "relu", "silu"]),
    num_threads=st.sampled_from([1, 2, 3]),
)
def test_forward_keeps_its_bound(case, bias, activation, num_threads):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    outputs = case.spec.channels * case.spec.multiplier
    values = random_array(np.random.default_rng(case.seed + 1), (outputs,), case.dtype) if bias else None
    settings = {**case.keywords, "bias": values, "activation": activation}
    y = depthwise.conv2d(x, filter, algorithm="fft", num_threads=num_threads, **settings)
    assert_forward(y, x, filter, transformed=bound_of(case, "forward", x, filter), **settings)


@given(case=cases(), num_threads=st.sampled_from([1, 2, 3]))
def test_grad_input_keeps_its_bound(case, num_threads):
    filter, grad = case.arrays(case.filter_shape, case.spec.output_shape)
    settings = {"algorithm": "fft", "num_threads": num_threads}
    actual = depthwise.conv2d_grad_input(case.x_shape, filter, grad, **settings, **case.keywords)
    expected = reference.conv2d_grad_input(case.x_shape, filter, grad, **case.keywords)
    assert_within(actual, expected, bound_of(case, "grad_input", grad, filter), case.dtype)


@given(case=cases(), num_threads=st.sampled_from([1, 2, 3]))
def test_grad_filter_keeps_its_bound(case, num_threads):
    x, grad = case.arrays(case.x_shape, case.spec.output_shape)
    settings = {"algorithm": "fft", "num_threads": num_threads}
    actual = depthwise.conv2d_grad_filter(x, case.filter_shape, grad, **settings, **case.keywords)
    expected = reference.conv2d_grad_filter(x, case.filter_shape, grad, **case.keywords)
    assert_within(actual, expected, bound_of(case, "grad_filter", x, grad), case.dtype)


# Large enough for several tiles, in one direction or both; the last has several parts of a filter gradient.
LARGE = {
    "one tile": ((2, 56, 56, 20), (31, 31, 20, 1), {}),
    "tiles": ((1, 150, 170, 5), (15, 9, 5, 1), {"padding": ((3, 9), (1, 0))}),
    "a strip": ((1, 60, 400, 3), (51, 5, 3, 1), {}),
    "dilated": ((2, 90, 80, 4), (9, 11, 4, 1), {"dilation": (3, 2)}),
    "strided": ((1, 100, 90, 6), (17, 17, 6, 1), {"stride": (2, 3)}),
    "multiplier": ((3, 40, 40, 3), (13, 13, 3, 5), {"layout": "NCHW"}),
    "beyond the image": ((1, 9, 11, 17), (27, 31, 17, 1), {}),
    "long rows": ((1, 150, 70, 20), (5, 51, 20, 1), {}),
    "long columns": ((2, 70, 60, 20), (51, 5, 20, 1), {}),
    "long, strided": ((1, 90, 100, 17), (31, 4, 17, 1), {"stride": (2, 3), "dilation": (1, 2)}),
    "long, multiplier": ((1, 40, 50, 5), (3, 33, 5, 3), {}),
    "long, planes": ((1, 45, 60, 20), (4, 41, 20, 1), {"layout": "NCHW"}),
    "long, few channels": ((1, 60, 400, 3), (3, 65, 3, 1), {"padding": "VALID"}),
}


def operands(rng, name, dtype):
    """Input, filter, gradient and keywords of a large problem."""
    x_shape, filter_shape, keywords = LARGE[name]
    if keywords.get("layout") == "NCHW":
        x_shape = (x_shape[0], x_shape[3], *x_shape[1:3])
    output_shape = depthwise.plan(x_shape, filter_shape, **keywords).output_shape
    x, filter, grad = (random_array(rng, shape, dtype) for shape in (x_shape, filter_shape, output_shape))
    return x, filter, grad, keywords


def results(x, filter, grad, **keywords):
    return {
        "forward": depthwise.conv2d(x, filter, **keywords),
        "grad_input": depthwise.conv2d_grad_input(x.shape, filter, grad, **keywords),
        "grad_filter": depthwise.conv2d_grad_filter(x, filter.shape, grad, **keywords),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LARGE)
def test_tiles_keep_the_bound(rng, name, dtype):
    x, filter, grad, keywords = operands(rng, name, dtype)
    exact = {
        "forward": reference.conv2d(x, filter, **keywords),
        "grad_input": reference.conv2d_grad_input(x.shape, filter, grad, **keywords),
        "grad_filter": reference.conv2d_grad_filter(x, filter.shape, grad, **keywords),
    }
    spec = depthwise._spec.general_spec(x.shape, filter.shape, dtype, **keywords)
    pairs = {"forward": (x, filter), "grad_input": (grad, filter), "grad_filter": (x, grad)}
    for op, actual in results(x, filter, grad, algorithm="fft", **keywords).items():
        assert depthwise._native.last_run()["kernel"].endswith("fft")
        assert_within(actual, exact[op], transform_bound(op, *pairs[op], spec), dtype)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", range(1, 9))
def test_tiles_that_share_the_lanes_keep_the_bound(rng, channels, layout):
    """Rows of as many tiles as the lanes have room for, of fewer, and cut by the image's ends."""
    for width, taps in itertools.product((40, 173, 700), (9, 31)):
        shape = (1, 12, width, channels) if layout == "NHWC" else (1, channels, 12, width)
        x, filter = (random_array(rng, s, "float32") for s in (shape, (7, taps, channels, 1)))
        spec = depthwise._spec.general_spec(x.shape, filter.shape, "float32", layout=layout)
        actual = depthwise.conv2d(x, filter, layout=layout, algorithm="fft")
        exact = reference.conv2d(x, filter, layout=layout)
        assert_within(actual, exact, transform_bound("forward", x, filter, spec), "float32")


# (side, channels, filter, keywords): groups of tiles, single tiles, borders beyond the image's size.
BORDERED = {
    "tiles in the lanes": ((150, 170), 3, (31, 31), {}),
    "whole lines": ((70, 90), 17, (15, 21), {"stride": (2, 1)}),
    "far outside": ((9, 12), 3, (31, 51), {}),
    "long rows": ((60, 70), 17, (3, 41), {}),
    "long columns": ((60, 70), 17, (41, 3), {}),
    "dilated": ((60, 61), 2, (13, 11), {"dilation": (2, 3)}),
    "planes": ((40, 150), 4, (21, 9), {"layout": "NCHW"}),
}


@pytest.mark.parametrize("border", ["reflect", "symmetric", "edge", "wrap"])
@pytest.mark.parametrize("name", BORDERED)
def test_tiles_show_the_border(rng, name, border):
    size, channels, taps, keywords = BORDERED[name]
    planes = keywords.get("layout") == "NCHW"
    x_shape = (2, channels, *size) if planes else (2, *size, channels)
    x, filter = random_array(rng, x_shape, "float32"), random_array(rng, (*taps, channels, 1), "float32")
    dilation = keywords.get("dilation", (1, 1))
    pads = [((n - 1) * d // 2,) * 2 for n, d in zip(taps, dilation, strict=True)]
    shown = np.pad(x, [(0, 0), (0, 0), *pads] if planes else [(0, 0), *pads, (0, 0)], border)
    settings = {**keywords, "padding": pads, "border": border, "algorithm": "fft"}
    result = depthwise.conv2d(x, filter, num_threads=1, **settings)
    assert depthwise._native.last_run()["kernel"].endswith("fft")
    spec = depthwise._spec.general_spec(shown.shape, filter.shape, "float32", padding="VALID", **keywords)
    expected = reference.conv2d(shown, filter, padding="VALID", **keywords)
    assert_within(result, expected, transform_bound("forward", shown, filter, spec), "float32")
    for num_threads in (2, 3):
        assert same_bits(depthwise.conv2d(x, filter, num_threads=num_threads, **settings), result)


@pytest.mark.parametrize("border", ["reflect", "wrap"])
def test_what_is_not_finite_stays_where_the_border_shows_it(rng, border):
    x, filter = random_array(rng, (1, 150, 170, 3), "float32"), random_array(rng, (31, 31), "float32")
    x[0, [2, 149, 70], [3, 80, 169], [0, 2, 1]] = np.inf, np.nan, -np.inf
    found = depthwise.conv2d(x, filter, border=border, algorithm="fft")
    expected = depthwise.conv2d(x, filter, border=border, algorithm="direct")
    assert (~np.isfinite(expected)).any()
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    infinite = np.isinf(expected)
    assert np.array_equal(np.isinf(found), infinite)
    assert np.array_equal(found[infinite], expected[infinite])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LARGE)
def test_any_number_of_threads_gives_the_same_bits(rng, name, dtype):
    x, filter, grad, keywords = operands(rng, name, dtype)
    expected = results(x, filter, grad, algorithm="fft", num_threads=1, **keywords)
    for num_threads in (2, 3, 7):
        found = results(x, filter, grad, algorithm="fft", num_threads=num_threads, **keywords)
        for op, result in found.items():
            assert same_bits(result, expected[op]), (op, num_threads)


@pytest.mark.parametrize("name", LARGE)
def test_position_in_the_batch_does_not_matter(rng, name):
    x, filter, _, keywords = operands(rng, name, "float32")
    together = depthwise.conv2d(np.concatenate([x, -x]), filter, algorithm="fft", **keywords)
    assert same_bits(together[: len(x)], depthwise.conv2d(x, filter, algorithm="fft", **keywords))
    assert same_bits(together[len(x) :], -together[: len(x)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("which", ["x", "filter"])
@pytest.mark.parametrize(
    "name",
    ["one tile", "tiles", "dilated", "multiplier", "beyond the image", *(n for n in LARGE if "long" in n)],
)
def test_what_is_not_finite_stays_where_the_sum_puts_it(rng, name, which, value):
    """Sums that are not finite are what direct summation gives; the others are near it."""
    x, filter, grad, keywords = operands(rng, name, "float32")
    clean = results(x, filter, grad, algorithm="fft", **keywords)
    array = x if which == "x" else filter
    array[tuple(n // 3 for n in array.shape)] = value
    direct = results(x, filter, grad, algorithm="direct", **keywords)
    with np.errstate(invalid="ignore", over="ignore"):
        for op, found in results(x, filter, grad, algorithm="fft", **keywords).items():
            infinite = ~np.isfinite(direct[op])
            np.testing.assert_array_equal(found[infinite], direct[op][infinite])
            near = np.isclose(found, direct[op], rtol=1e-3, atol=1e-3) | (np.abs(direct[op]) > 1e30)
            assert (near | infinite).all(), op
            assert np.isfinite(clean[op]).all()


def test_an_infinite_weight_that_meets_padding_only_still_counts(rng):
    x, filter = random_array(rng, (1, 6, 6, 3), "float32"), random_array(rng, (31, 31, 3, 1), "float32")
    filter[0, 0, 1, 0] = np.inf
    y = depthwise.conv2d(x, filter, algorithm="fft")
    assert np.isnan(y[..., 1]).all()
    assert np.isfinite(y[..., [0, 2]]).all()


@pytest.mark.parametrize("tap", [(0, 0), (0, 2), (30, 1), (30, 4)])
@pytest.mark.parametrize("turned", [False, True])
def test_an_infinite_weight_of_a_long_kernel_that_meets_padding_only_still_counts(rng, tap, turned):
    x, filter = random_array(rng, (1, 6, 30, 20), "float32"), random_array(rng, (31, 5, 20, 1), "float32")
    filter[(*tap, 7, 0)] = np.inf
    if turned:
        x, filter = (np.ascontiguousarray(a.swapaxes(axis, axis + 1)) for a, axis in ((x, 1), (filter, 0)))
    y = depthwise.conv2d(x, filter, algorithm="fft")
    expected = depthwise.conv2d(x, filter, algorithm="direct")
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    assert np.isnan(y[..., 7]).any()
    assert np.isfinite(y[..., np.arange(20) != 7]).all()


def test_tiny_weights_keep_their_precision(rng):
    """Nothing on the way is scaled into the subnormal numbers."""
    x, filter = random_array(rng, (1, 50, 50, 4), "float32"), random_array(rng, (21, 21, 4, 1), "float32")
    y = depthwise.conv2d(x, filter, algorithm="fft")
    small = depthwise.conv2d(x, filter * np.float32(2.0**-115), algorithm="fft")
    assert same_bits(small * np.float32(2.0**115), y)


def test_auto_never_transforms_float64():
    for size, kernel in itertools.product((28, 56, 224), (13, 31, 51)):
        for op in depthwise._spec.OPS:
            plan = depthwise.plan((1, size, size, 64), (kernel, kernel, 64, 1), op=op, x_dtype="float64")
            assert plan.algorithm == "direct"


def test_auto_transforms_large_kernels_and_says_why():
    report = depthwise.plan((1, 56, 56, 128), (31, 31, 128, 1))
    assert report.algorithm == "fft"
    assert "algorithm  fft: the kernel is large" in str(report)
    assert depthwise.plan((1, 56, 56, 128), (3, 3, 128, 1)).algorithm == "direct"
    for kernel, direction in (((5, 51), "rows"), ((51, 5), "columns")):
        for op in ("forward", "grad_input"):
            plan = depthwise.plan((1, 56, 56, 128), (*kernel, 128, 1), op=op)
            assert plan.algorithm == "fft"
            assert plan.reason.startswith(f"the kernel is long: transforms along its {direction}")
    assert depthwise.plan((1, 56, 56, 128), (31, 31, 128, 1), algorithm="direct").algorithm == "direct"


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_filter"])
@pytest.mark.parametrize("kernel", [5, 31, 65, 257, 1001])
def test_scratch_is_bounded(layout, op, kernel):
    for size, channels, dtype in itertools.product((28, 2048), (3, 128), ("float32", "float64")):
        shape = (1, size, size, channels) if layout == "NHWC" else (1, channels, size, size)
        try:
            plan = depthwise.plan(
                shape, (kernel, kernel, channels, 1), op=op, x_dtype=dtype, layout=layout, algorithm="fft"
            )
        except ValueError as error:
            assert kernel > 257, error
            continue
        assert 0 < plan.scratch_bytes <= 64 * MIB


class TestPreparedOperator:
    def test_gives_the_same_bits(self, rng):
        for name, dtype in itertools.product(LARGE, DTYPES):
            x, filter, _, keywords = operands(rng, name, dtype)
            op = depthwise.Conv2D(filter, algorithm="fft", **keywords)
            expected = depthwise.conv2d(x, filter, algorithm="fft", **keywords)
            assert same_bits(op(x), expected)
            assert same_bits(op(x), expected)
            assert same_bits(op(in_memory(x, "reversed")), expected)

    def test_keeps_a_bounded_number_of_bytes(self, rng):
        op = depthwise.Conv2D(random_array(rng, (33, 33, 64, 1), "float32"), algorithm="fft")
        kept = []
        for size in range(40, 160, 4):
            op(np.zeros((1, size, size, 64), np.float32))
            kept.append(sum(prepared[3].bytes for prepared in op._prepared.values()))
        assert max(kept) > 8 * MIB
        assert max(kept) <= 64 * MIB

    def test_refuses_what_another_plan_prepared(self, rng):
        spec = depthwise._spec.general_spec((1, 40, 40, 8), (9, 9, 8, 1), "float32", algorithm="fft")
        first, second = (depthwise._native.Plan(*spec.native_arguments("forward")) for _ in range(2))
        x, filter = (random_array(rng, shape, "float32") for shape in ((1, 40, 40, 8), (9, 9, 8, 1)))
        prepared = first.prepare(filter)
        assert prepared.bytes == first.prepared_bytes > 0
        assert same_bits(first.run(x, filter, prepared=prepared), first.run(x, filter))
        with pytest.raises(ValueError, match="another plan"):
            second.run(x, filter, prepared=prepared)
