"""Borders and images of integers: numpy.pad and scipy.ndimage are the oracles.

A border changes what the sum reads, not how it adds up, so a result must have the bits of the same sum over
the image that numpy.pad gives; and an integer is exact in the type that computes it, so its result has the
bits of the converted image's.
"""

import dataclasses
import threading

import numpy as np
import pytest
from helpers import (
    DTYPES,
    check_conv2d,
    check_grad_filter,
    check_grad_input,
    in_memory,
    numpy_padded,
    random_array,
    refused,
    same_bits,
)
from hypothesis import given
from hypothesis import strategies as st
from test_properties import cases

import depthwise
from depthwise import _native, _spec, reference

BORDERS = ("reflect", "symmetric", "edge", "wrap")
INTEGERS = ("uint8", "int16", "uint16")
# scipy.ndimage's names.
NDIMAGE = {
    "mirror": "reflect",
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "nearest": "edge",
    "grid-wrap": "wrap",
    "grid-constant": "constant",
}


def integers(rng, shape, dtype):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


def by_numpy_pad(x, filter, border, **keywords):
    """The same convolution of the image that numpy.pad gives, in the filter's dtype."""
    spec = _spec.general_spec(x.shape, filter.shape, filter.dtype.name, border=border, **keywords)
    padded = numpy_padded(x, spec, border).astype(filter.dtype)
    return depthwise.conv2d(padded, filter, **{**keywords, "padding": "VALID"})


def rounded(values, dtype):
    limits = np.iinfo(dtype)
    return np.clip(np.rint(np.nan_to_num(values, nan=0.0)), limits.min, limits.max).astype(dtype)


@given(case=cases(), num_threads=st.sampled_from([1, 2, 3]))
def test_numpy_pad_and_valid_give_the_same_bits(case, num_threads):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    actual = depthwise.conv2d(x, filter, num_threads=num_threads, **case.keywords)
    keywords = {name: value for name, value in case.keywords.items() if name != "border"}
    if 0 in (*case.size, *case.kernel):  # of which "SAME" and "VALID" have ideas of their own
        assert not actual.any()
        return
    assert same_bits(actual, by_numpy_pad(x, filter, case.keywords["border"], **keywords))


@given(
    case=cases(),
    x_dtype=st.sampled_from(INTEGERS),
    result=st.sampled_from((None, *INTEGERS)),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_integers_give_the_bits_of_the_converted_image(case, x_dtype, result, dtype):
    rng = np.random.default_rng(case.seed)
    x = in_memory(integers(rng, case.x_shape, x_dtype), case.forms[0])
    filter = in_memory(random_array(rng, case.filter_shape, dtype), case.forms[1])
    bias = random_array(rng, (case.spec.channels * case.spec.multiplier,), dtype)
    actual = depthwise.conv2d(x, filter, bias=bias, activation="relu", dtype=result, **case.keywords)
    converted = depthwise.conv2d(x.astype(dtype), filter, bias=bias, activation="relu", **case.keywords)
    assert same_bits(actual, converted if result is None else rounded(converted, result))
    grad = random_array(rng, case.spec.output_shape, dtype)
    check_grad_filter(x, case.filter_shape, grad, **case.keywords)


@pytest.mark.parametrize("mode", NDIMAGE)
@pytest.mark.parametrize("kernel", [(3, 3), (4, 7), (13, 2), (1, 31)])
def test_scipy_ndimage(rng, mode, kernel):
    ndimage = pytest.importorskip("scipy.ndimage")
    image, weights = rng.standard_normal((9, 14)), rng.standard_normal(kernel)
    # ndimage's kernel hangs over by size // 2 before, and by the rest after.
    pads = tuple((k // 2, k - 1 - k // 2) for k in kernel)
    actual = depthwise.conv2d(image[..., np.newaxis], weights, padding=pads, border=NDIMAGE[mode])[..., 0]
    np.testing.assert_allclose(actual, ndimage.correlate(image, weights, mode=mode), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("mode", ["mirror", "reflect", "nearest", "grid-wrap"])
def test_scipy_ndimage_on_integers(rng, dtype, mode):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = integers(rng, (31, 40), dtype)
    weights = np.full((5, 5), 1 / 32)
    actual = depthwise.conv2d(image[..., np.newaxis], weights, border=NDIMAGE[mode], dtype=dtype)[..., 0]
    expected = ndimage.correlate(image.astype(np.float64), weights, mode=mode)
    np.testing.assert_array_equal(actual, rounded(expected, dtype))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(
    ("size", "pads"),
    [
        ((1, 1), ((3, 4), (5, 2))),
        ((2, 3), ((9, 11), (10, 8))),
        ((5, 40), ((23, 0), (0, 90))),
        ((1, 6), ((0, 7), (6, 0))),
    ],
)
def test_pads_larger_than_the_image(rng, border, layout, size, pads):
    for channels, dtype in ((1, "float32"), (3, "float64"), (20, "float16")):
        shape = (2, *size, channels) if layout == "NHWC" else (2, channels, *size)
        x, filter = random_array(rng, shape, dtype), random_array(rng, (3, 2, channels, 2), dtype)
        keywords = {"padding": pads, "layout": layout}
        y = check_conv2d(x, filter, border=border, **keywords)
        assert same_bits(y, by_numpy_pad(x, filter, border, **keywords))
        grad = random_array(rng, y.shape, dtype)
        check_grad_input(shape, filter, grad, border=border, **keywords)
        check_grad_filter(x, filter.shape, grad, border=border, **keywords)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("pad", [1000, 2**21])
def test_pixels_that_are_shown_very_often(border, pad):
    """Some are shown in too many places to list; sums of ones count them."""
    for size in (2, 5):
        shown = np.pad(np.arange(size), pad, mode=border)
        counts = np.bincount(shown[:-1], minlength=size) + np.bincount(shown[1:], minlength=size)
        ones = np.ones((1, 1, len(shown) - 1, 1), np.float32)
        keywords = {"padding": ((0, 0), (pad, pad)), "border": border}
        result = depthwise.conv2d_grad_input(
            (1, 1, size, 1), np.ones((1, 2, 1, 1), np.float32), ones, **keywords
        )
        assert np.array_equal(result[0, 0, :, 0], counts)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    ("shape", "filter_shape", "keywords"),
    [
        ((1, 60, 70, 3), (7, 7, 3, 1), {}),
        ((2, 40, 44, 64), (5, 5, 64, 1), {}),
        ((1, 33, 35, 20), (3, 3, 20, 4), {"stride": 2}),
        ((1, 50, 20, 130), (3, 5, 130, 1), {"dilation": (4, 2)}),
        ((1, 3, 90, 80), (5, 5, 3, 1), {"layout": "NCHW"}),
        ((2, 40, 9, 11), (5, 3, 40, 2), {"layout": "NCHW", "stride": (1, 3), "dilation": (2, 1)}),
        ((1, 300, 8, 2), (31, 31, 2, 1), {}),
        ((1, 24, 24, 2000), (3, 3, 2000, 1), {}),
    ],
)
class TestEveryKind:
    """Problems that between them reach every kernel, with whole tiles, frames, and channels in blocks."""

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_forward(self, rng, border, shape, filter_shape, keywords, dtype):
        x, filter = random_array(rng, shape, dtype), random_array(rng, filter_shape, dtype)
        actual = depthwise.conv2d(x, filter, border=border, **keywords)
        assert same_bits(actual, by_numpy_pad(x, filter, border, **keywords))

    def test_gradients_do_not_depend_on_the_threads(self, rng, border, shape, filter_shape, keywords):
        x, filter = random_array(rng, shape, "float32"), random_array(rng, filter_shape, "float32")
        keywords = {**keywords, "border": border}
        y = depthwise.conv2d(x, filter, num_threads=1, **keywords)
        grad = random_array(rng, y.shape, "float32")
        by_one = [
            y,
            check_grad_input(shape, filter, grad, num_threads=1, **keywords),
            check_grad_filter(x, filter_shape, grad, num_threads=1, **keywords),
        ]
        for threads in (2, 3, 7):
            by_several = [
                depthwise.conv2d(x, filter, num_threads=threads, **keywords),
                depthwise.conv2d_grad_input(shape, filter, grad, num_threads=threads, **keywords),
                depthwise.conv2d_grad_filter(x, filter_shape, grad, num_threads=threads, **keywords),
            ]
            assert all(map(same_bits, by_one, by_several))

    def test_every_kernel_and_isa(self, rng, border, shape, filter_shape, keywords):
        spec = _spec.general_spec(shape, filter_shape, "float32", border=border, **keywords)
        arrays = {
            "forward": (spec.input_shape, spec.filter_shape),
            "grad_input": (spec.output_shape, spec.filter_shape),
        }
        for op, shapes in arrays.items():
            a, b = (random_array(rng, each, "float32") for each in shapes)
            for isa in _native.isas():
                results = {"direct": [], "fft": []}
                for algorithm, plan in self.plans(spec, op, isa):
                    results[algorithm].append(plan.run(a, b, None, None, 2))
                first, *others = results["direct"]
                assert others
                assert all(same_bits(first, result) for result in others)
                # The norms of all channels, and of the pixels that the border shows again.
                bound = 256 * 2.0**-24 * float(np.linalg.norm(a) * np.linalg.norm(b))
                assert len(results["fft"]) == 1
                np.testing.assert_allclose(results["fft"][0], first, rtol=0, atol=bound)

    @staticmethod
    def plans(spec, op, isa):
        """A plan with each kernel that takes the problem, the generic one too, and its algorithm."""
        for row in _native.kernels():
            if row["algorithm"] == "separable":
                continue
            if row["op"] != op:
                continue
            try:
                yield row["algorithm"], _native.Plan(*spec.native_arguments(op), row["name"], isa)
            except ValueError:
                continue


@pytest.mark.parametrize("border", ("constant", *BORDERS))
@pytest.mark.parametrize(("x_dtype", "result"), [(None, None), ("uint8", "int16"), ("uint16", None)])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_the_generic_kernel_needs_no_tiles(rng, border, x_dtype, result, layout):
    shape = (2, 9, 11, 5) if layout == "NHWC" else (2, 5, 9, 11)
    spec = _spec.general_spec(shape, (3, 4, 5, 2), "float32", border=border, layout=layout, stride=(2, 1))
    spec = dataclasses.replace(spec, x_dtype=x_dtype, result_dtype=result)
    x = random_array(rng, shape, "float32") if x_dtype is None else integers(rng, shape, x_dtype)
    filter, grad = (random_array(rng, each, "float32") for each in (spec.filter_shape, spec.output_shape))
    plans = {
        op: _native.Plan(*dataclasses.replace(spec, result_dtype=dtype).native_arguments(op), "generic", None)
        for op, dtype in (("forward", result), ("grad_filter", None))
    }
    assert all(
        plan.describe()["kernel"] == "generic" and not plan.describe()["copies"] for plan in plans.values()
    )
    keywords = {"border": border, "layout": layout, "stride": (2, 1)}
    expected = depthwise.conv2d(x, filter, dtype=result, **keywords)
    assert same_bits(plans["forward"].run(x, filter, None, None, 1), expected)
    expected = reference.conv2d_grad_filter(x, filter.shape, grad, **keywords)
    actual = plans["grad_filter"].run(x, grad, None, None, 1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("border", BORDERS)
def test_rows_that_no_scratch_holds(rng, border):
    reach = 150_000
    x, filter = rng.standard_normal((1, 2, 8, 1)), rng.standard_normal((1, 2 * reach + 1, 1, 1))
    assert depthwise.plan(x.shape, filter.shape, border=border, x_dtype="float64").kernel == "generic"
    actual = depthwise.conv2d(x, filter, border=border)
    padded = np.pad(x[0, ..., 0], ((0, 0), (reach, reach)), mode=border)
    expected = [[row[j : j + 2 * reach + 1] @ filter.ravel() for j in range(8)] for row in padded]
    np.testing.assert_allclose(actual[0, ..., 0], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_nan_and_infinity(rng, border, dtype):
    x, filter = random_array(rng, (1, 12, 13, 5), dtype), random_array(rng, (3, 5, 5, 2), dtype)
    x[0, 0, 0, 0], x[0, 11, 5, 1], x[0, 4, 12, 2] = np.nan, np.inf, -np.inf
    y = check_conv2d(x, filter, border=border)
    assert same_bits(y, by_numpy_pad(x, filter, border))
    grad = random_array(rng, y.shape, dtype)
    check_grad_filter(x, filter.shape, grad, border=border)
    grad[0, 0, 3, 0], grad[0, 6, 0, 3] = np.inf, np.nan
    check_grad_input(x.shape, filter, grad, border=border)
    filter[0, 0, 0, 0], filter[1, 2, 1, 1] = np.inf, np.nan
    check_conv2d(x, filter, border=border)


def test_rounding_and_saturation():
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for factor in (0.5, 1.5, -1.0, 300.0, np.nan, np.inf, -np.inf):
        for dtype in INTEGERS:
            filter = np.full((1, 1), factor, np.float32)
            with np.errstate(invalid="ignore"):
                expected = rounded(x * np.float32(factor), dtype)
            np.testing.assert_array_equal(depthwise.conv2d(x, filter, dtype=dtype), expected)


def test_prepared_operators_take_borders_and_integers(rng):
    x, filter = integers(rng, (20, 30, 3), "uint8"), random_array(rng, (5, 5), "float32")
    bias = random_array(rng, (3,), "float32")
    blur = depthwise.Conv2D(filter, border="reflect", dtype="uint8", bias=bias)
    expected = depthwise.conv2d(x, filter, border="reflect", dtype="uint8", bias=bias)
    assert same_bits(blur(x), expected)
    out = np.empty_like(expected)
    assert blur(x, out=out) is out
    assert same_bits(out, expected)


def test_out_of_integers(rng):
    x, filter = integers(rng, (9, 9, 3), "uint8"), random_array(rng, (3, 3), "float32")
    out = np.empty((9, 9, 3), np.uint8)
    assert depthwise.conv2d(x, filter, dtype=np.uint8, out=out) is out
    with refused("out must have dtype"):
        depthwise.conv2d(x, filter, dtype="int16", out=out)
    with refused("out must not overlap"):
        depthwise.conv2d(x, filter, dtype="uint8", out=x)


class TestRefused:
    @pytest.mark.parametrize("border", BORDERS)
    @pytest.mark.parametrize("shape", [(0, 5, 2), (5, 0, 2)])
    def test_an_empty_axis_with_padding(self, border, shape):
        x, filter = np.zeros(shape, np.float32), np.zeros((1, 1, 2, 1), np.float32)
        with pytest.raises(ValueError, match="empty axis"):
            np.pad(x, ((1, 1), (1, 1), (0, 0)), mode=border)
        with refused("border"):
            depthwise.conv2d(x, filter, padding=1, border=border)
        assert depthwise.conv2d(x, filter, padding=0, border=border).shape == shape
        empty = np.zeros((5, 5, 0), np.float32)
        assert depthwise.conv2d(empty, filter[:, :, :0], padding=1, border=border).shape == (7, 7, 0)

    @pytest.mark.parametrize("border", ["reflection", "mirror", "nearest", "", None, 3, b"wrap"])
    def test_other_borders(self, border):
        with refused("border must be"):
            depthwise.conv2d(np.zeros((4, 4, 1), np.float32), np.zeros((3, 3), np.float32), border=border)

    def test_padding_that_no_array_holds(self):
        x, filter = np.zeros((4, 4, 1), np.float32), np.zeros((1, 1), np.float32)
        with refused("padding must give"):
            depthwise.conv2d(x, filter, padding=2**30, stride=2**30, border="wrap")
        y = depthwise.conv2d(x, filter, padding=((2**30, 0), (0, 0)), stride=2**30, border="wrap")
        assert y.shape == (2, 1, 1)

    @pytest.mark.parametrize("filter_dtype", ["float16", "bfloat16", "uint8", "int32"])
    def test_filters_of_integer_images(self, filter_dtype):
        x, filter = (
            np.zeros((4, 4, 1), np.uint8),
            np.zeros((3, 3)).astype(DTYPES.get(filter_dtype, filter_dtype)),
        )
        with refused("filter must have dtype float32 or float64 where x has uint8"):
            depthwise.conv2d(x, filter)
        with refused("grad must have dtype"):
            depthwise.conv2d_grad_filter(x, (3, 3), np.zeros((4, 4, 1)).astype(filter.dtype))

    @pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "float16", "float64", "bool"])
    def test_results(self, dtype):
        with refused("dtype must be"):
            depthwise.conv2d(np.zeros((4, 4, 1), np.uint8), np.zeros((3, 3), np.float32), dtype=dtype)

    def test_results_of_floats_and_gradients(self):
        x, filter = np.zeros((4, 4, 1), np.float32), np.zeros((3, 3), np.float32)
        with refused("dtype must be"):
            depthwise.conv2d(x, filter, dtype="uint8")
        with refused("dtype must be"):
            depthwise.conv2d_grad_input(x.shape, filter, x, dtype="uint8")
        with refused("dtype must be"):
            depthwise.conv2d_grad_filter(x.astype(np.uint8), (3, 3), x, dtype="uint8")
        with refused("dtype must be"):
            depthwise.Conv2D(filter.astype(np.float16), dtype="uint8")


def test_the_plan_tells_what_is_copied():
    report = depthwise.plan((1, 512, 512, 3), (5, 5), x_dtype="uint8", dtype="uint8", border="reflect")
    assert (report.dtype, report.x_dtype, report.result_dtype) == ("float32", "uint8", "uint8")
    assert report.bytes == 2 * 512 * 512 * 3 + 4 * 25 * 3
    assert "tiles" in report.copies
    assert "border reflect" in str(report) and report.copies in str(report)
    assert depthwise.plan((1, 512, 512, 3), (5, 5)).copies == ""
    assert depthwise.plan((1, 512, 512, 3), (5, 5), padding="VALID", border="wrap").copies == ""


@pytest.mark.parametrize("x_shape", [(1, 2048, 2048, 3), (1, 64, 700, 900), (1, 300, 300, 256)])
@pytest.mark.parametrize("kernel", [3, 31])
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_filter"])
@pytest.mark.parametrize("border", ["reflect", "wrap"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("algorithm", ["auto", "direct"])
def test_scratch_is_bounded(x_shape, kernel, op, border, layout, algorithm):
    channels = x_shape[3 if layout == "NHWC" else 1]
    filter_shape = (kernel, kernel, channels, 1)
    report = depthwise.plan(x_shape, filter_shape, op=op, border=border, layout=layout, algorithm=algorithm)
    looks_up = report.algorithm == "fft" and op == "forward"  # as it loads its tiles
    assert report.scratch_bytes <= 2**20
    assert bool(report.copies) != looks_up
    assert report.kernel != "generic"


def test_threads_of_python_share_a_plan(rng):
    x, filter = random_array(rng, (1, 64, 64, 8), "float32"), random_array(rng, (5, 5, 8, 1), "float32")
    expected = depthwise.conv2d(x, filter, border="symmetric")
    results = [None] * 8

    def work(i):
        results[i] = depthwise.conv2d(x, filter, border="symmetric")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_bits(expected, result) for result in results)


@pytest.mark.parametrize("border", BORDERS)
def test_reference_takes_integers(rng, border):
    x, filter = integers(rng, (7, 8, 2), "int16"), random_array(rng, (3, 3), "float64")
    expected = reference.conv2d(x, filter, border=border)
    np.testing.assert_allclose(depthwise.conv2d(x, filter, border=border), expected, rtol=1e-12)


class TestAdapters:
    """Borders reach the engine through every framework; integers are NumPy's alone."""

    def test_torch(self, rng):
        torch = pytest.importorskip("torch")
        x, filter = random_array(rng, (1, 9, 10, 3), "float32"), random_array(rng, (3, 5, 3, 2), "float32")
        tensors = torch.from_numpy(x).requires_grad_(), torch.from_numpy(filter).requires_grad_()
        y = depthwise.conv2d(*tensors, border="reflect")
        assert same_bits(y.detach().numpy(), depthwise.conv2d(x, filter, border="reflect"))
        grad = random_array(rng, y.shape, "float32")
        y.backward(torch.from_numpy(grad))
        expected = depthwise.conv2d_grad_input(x.shape, filter, grad, border="reflect")
        np.testing.assert_allclose(tensors[0].grad.numpy(), expected, rtol=1e-5, atol=1e-5)
        expected = depthwise.conv2d_grad_filter(x, filter.shape, grad, border="reflect")
        np.testing.assert_allclose(tensors[1].grad.numpy(), expected, rtol=1e-5, atol=1e-4)
        with refused("x must have dtype"):
            depthwise.conv2d(torch.zeros((1, 9, 10, 3), dtype=torch.uint8), tensors[1])

    def test_jax(self, rng):
        jax = pytest.importorskip("jax")
        x, filter = random_array(rng, (1, 9, 10, 3), "float32"), random_array(rng, (3, 5, 3, 2), "float32")
        arrays = jax.numpy.asarray(x), jax.numpy.asarray(filter)
        y = jax.jit(lambda x, w: depthwise.conv2d(x, w, border="wrap"))(*arrays)
        assert same_bits(np.asarray(y), depthwise.conv2d(x, filter, border="wrap"))
        gradient = jax.grad(lambda x, w: depthwise.conv2d(x, w, border="wrap").sum(), argnums=(0, 1))(*arrays)
        ones = np.ones(y.shape, np.float32)
        expected = depthwise.conv2d_grad_input(x.shape, filter, ones, border="wrap")
        np.testing.assert_allclose(gradient[0], expected, rtol=1e-5, atol=1e-5)
        expected = depthwise.conv2d_grad_filter(x, filter.shape, ones, border="wrap")
        np.testing.assert_allclose(gradient[1], expected, rtol=1e-5, atol=1e-4)
        with refused("x must have dtype"):
            depthwise.conv2d(jax.numpy.zeros((1, 9, 10, 3), "uint8"), arrays[1])
