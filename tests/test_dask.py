"""Dask arrays: whatever the chunks, the forward operation and the input gradient have the unchunked bits."""

import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers import DTYPES, assert_forward, assert_within, random_array, refused, same_bits, sum_bound
from hypothesis import given
from hypothesis import strategies as st
from test_fft import bound_of
from test_properties import cases

import depthwise
from depthwise import _native, reference

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")


def computed(array):
    """The result, after checking that it and each of its blocks are what the lazy array said.

    As `array.compute(scheduler="synchronous")`, but the blocks are seen on the way.
    """
    assert isinstance(array, da.Array)
    keys = array.__dask_keys__()
    blocks = dask.local.get_sync(array.__dask_optimize__(array.__dask_graph__(), keys), keys)
    finalize, arguments = array.__dask_postcompute__()
    result = finalize(blocks, *arguments)
    assert type(result) is np.ndarray
    assert (result.shape, result.dtype) == (array.shape, array.dtype)
    assert type(array._meta) is np.ndarray
    assert array._meta.dtype == array.dtype
    for position in np.ndindex(array.numblocks):
        block = blocks
        for i in position:
            block = block[i]
        assert block.shape == tuple(sizes[i] for sizes, i in zip(array.chunks, position, strict=True))
        assert block.dtype == array.dtype
    return result


@st.composite
def chunks_of(draw, size):
    """Ragged chunks of an axis, some of one pixel, some of none."""
    kind = draw(st.sampled_from(["whole", "even", "ragged"]))
    if kind == "whole" or size == 0:
        return (size,)
    if kind == "even":
        width = draw(st.integers(max(1, size // 8), size))
        return tuple(min(width, size - start) for start in range(0, size, width))
    inside = draw(st.lists(st.integers(0, size), max_size=5))
    stops = sorted([*inside, size])
    return tuple(stop - start for start, stop in zip([0, *stops], stops, strict=False))


@st.composite
def operands(draw, first, *shapes):
    """How each array is chunked; None, for any but the first, stands for a NumPy array."""
    chunks = [tuple(draw(chunks_of(size)) for size in first)]
    lazy_or_not = (st.one_of(st.none(), st.tuples(*map(chunks_of, shape))) for shape in shapes)
    return [*chunks, *map(draw, lazy_or_not)]


def lazy(array, chunks):
    return array if chunks is None else da.from_array(array, chunks=chunks)


def keeps_bits(chunked, whole, keeps_bound):
    """Whether chunks give the bits of the whole, whose Fourier transforms they take with the same bound only.

    Where "auto" takes these, `keeps_bound` checks the result, and the direct sums have to keep their bits.
    """
    expected = whole()
    if _native.last_run()["kernel"].endswith("fft"):
        keeps_bound(computed(chunked()))
        chunked, expected = partial(chunked, algorithm="direct"), whole(algorithm="direct")
    return same_bits(computed(chunked()), expected)


def keeps_forward_bits(case, lazy_x, lazy_filter, x, filter, *, bias=(None, None), **settings):
    settings |= case.keywords
    return keeps_bits(
        partial(depthwise.conv2d, lazy_x, lazy_filter, bias=bias[0], **settings),
        partial(depthwise.conv2d, x, filter, bias=bias[1], **settings),
        lambda y: assert_forward(
            y, x, filter, bias=bias[1], transformed=bound_of(case, "forward", x, filter), **settings
        ),
    )


def keeps_gradient_bits(case, lazy_filter, lazy_grad, filter, grad):
    exact = partial(reference.conv2d_grad_input, case.x_shape, filter, grad, **case.keywords)
    return keeps_bits(
        partial(depthwise.conv2d_grad_input, case.x_shape, lazy_filter, lazy_grad, **case.keywords),
        partial(depthwise.conv2d_grad_input, case.x_shape, filter, grad, **case.keywords),
        lambda dx: assert_within(dx, exact(), bound_of(case, "grad_input", grad, filter), case.dtype),
    )


@given(data=st.data(), case=cases(), activation=st.sampled_from([None, None, "relu", "silu"]))
def test_forward_has_the_unchunked_bits(data, case, activation):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    outputs = case.spec.channels * case.spec.multiplier
    bias = random_array(np.random.default_rng(case.seed + 1), (outputs,), case.dtype)
    chunks = data.draw(operands(x.shape, filter.shape, bias.shape))
    arrays = [lazy(array, how) for array, how in zip((x, filter, bias), chunks, strict=True)]
    settings = {"bias": (arrays[2], bias), "activation": activation}
    assert keeps_forward_bits(case, *arrays[:2], x, filter, **settings)


@given(data=st.data(), case=cases())
def test_input_gradient_has_the_unchunked_bits(data, case):
    filter, grad = case.arrays(case.filter_shape, case.spec.output_shape)
    chunks = data.draw(operands(grad.shape, filter.shape))
    arrays = [lazy(array, how) for array, how in zip((grad, filter), chunks, strict=True)]
    assert keeps_gradient_bits(case, arrays[1], arrays[0], filter, grad)


@given(data=st.data(), case=cases(), swap=st.booleans())
def test_filter_gradient_is_within_the_bound(data, case, swap):
    x, grad = case.arrays(case.x_shape, case.spec.output_shape)
    chunks = data.draw(operands(*((grad.shape, x.shape) if swap else (x.shape, grad.shape))))
    x_chunks, grad_chunks = reversed(chunks) if swap else chunks
    lazy_x, lazy_grad = lazy(x, x_chunks), lazy(grad, grad_chunks)
    actual = computed(depthwise.conv2d_grad_filter(lazy_x, case.filter_shape, lazy_grad, **case.keywords))
    assert_filter_gradient(actual, x, case.filter_shape, grad, **case.keywords)


@st.composite
def bordered_cases(draw):
    """Small images with pads that may be larger than they are."""
    case = draw(cases())
    pads = st.tuples(st.integers(0, 9), st.integers(0, 9))
    size = st.integers(1, 12)
    keywords = {
        **case.keywords,
        "border": draw(st.sampled_from(["reflect", "symmetric", "edge", "wrap"])),
        "padding": draw(st.one_of(st.just("SAME"), st.tuples(pads, pads))),
    }
    case = replace(case, size=(draw(size), draw(size)), channels=case.channels % 5, keywords=keywords)
    try:
        _ = case.spec
    except ValueError:  # the filter does not fit
        case = replace(case, keywords={**keywords, "padding": "SAME"})
    return case


@given(data=st.data(), case=bordered_cases())
def test_borders_have_the_unchunked_bits(data, case):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    (chunks,) = data.draw(operands(x.shape))
    assert keeps_forward_bits(case, da.from_array(x, chunks=chunks), filter, x, filter)


@given(data=st.data(), case=bordered_cases())
def test_input_gradients_of_borders_have_the_unchunked_bits(data, case):
    filter, grad = case.arrays(case.filter_shape, case.spec.output_shape)
    chunks = data.draw(operands(grad.shape, filter.shape))
    arrays = [lazy(array, how) for array, how in zip((grad, filter), chunks, strict=True)]
    assert keeps_gradient_bits(case, arrays[1], arrays[0], filter, grad)


@given(data=st.data(), case=bordered_cases())
def test_filter_gradients_of_borders_are_within_the_bound(data, case):
    x, grad = case.arrays(case.x_shape, case.spec.output_shape)
    (chunks,) = data.draw(operands(x.shape))
    lazy_x = da.from_array(x, chunks=chunks)
    actual = computed(depthwise.conv2d_grad_filter(lazy_x, case.filter_shape, grad, **case.keywords))
    assert_filter_gradient(actual, x, case.filter_shape, grad, **case.keywords)
    if all(len(sizes) == 1 for sizes in chunks):
        expected = depthwise.conv2d_grad_filter(x, case.filter_shape, grad, **case.keywords)
        assert same_bits(actual, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
@pytest.mark.parametrize("result", [None, "uint8", "int16"])
def test_images_of_integers(rng, dtype, result):
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max, (40, 50, 3), dtype, endpoint=True)
    filter = random_array(rng, (5, 4, 3, 2), "float32")
    keywords = {"stride": (1, 2), "border": "reflect", "dtype": result}
    actual = depthwise.conv2d(da.from_array(x, chunks=(9, 7, 2)), filter, **keywords)
    assert same_bits(computed(actual), depthwise.conv2d(x, filter, **keywords))


def assert_filter_gradient(actual, x, filter_shape, grad, **keywords):
    """`actual` is the filter gradient, as closely as NumPy's path must be."""
    wide = [np.abs(array.astype(np.float64)) for array in (x, grad)]
    expected = reference.conv2d_grad_filter(x, filter_shape, grad, **keywords)
    magnitude = reference.conv2d_grad_filter(wide[0], filter_shape, wide[1], **keywords)
    terms = grad.size if len(filter_shape) == 2 else grad.size // max(filter_shape[2] * filter_shape[3], 1)
    assert_within(actual, expected, sum_bound(terms, magnitude, x.dtype.name), x.dtype.name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_filter_gradient_of_one_block_has_the_unchunked_bits(rng, dtype):
    x, grad = random_array(rng, (2, 9, 11, 6), dtype), random_array(rng, (2, 5, 6, 12), dtype)
    expected = depthwise.conv2d_grad_filter(x, (3, 4, 6, 2), grad, stride=2)
    actual = depthwise.conv2d_grad_filter(da.from_array(x, chunks=-1), (3, 4, 6, 2), grad, stride=2)
    assert same_bits(computed(actual), expected)


def test_filter_gradient_of_many_blocks(rng):
    x, grad = random_array(rng, (3, 40, 40, 2), "float32"), random_array(rng, (3, 40, 40, 2), "float32")
    lazy_x, lazy_grad = da.from_array(x, chunks=(1, 4, 5, 1)), da.from_array(grad, chunks=(2, 3, 7, 2))
    actual = depthwise.conv2d_grad_filter(lazy_x, (3, 3), lazy_grad)
    assert_filter_gradient(computed(actual), x, (3, 3), grad)
    assert same_bits(computed(actual), actual.compute(scheduler="threads"))


def test_filter_gradient_too_large_for_its_type_is_infinite():
    x = da.full((1, 4, 64, 1), 60000, dtype=np.float16, chunks=(1, 4, 16, 1))
    gradient = depthwise.conv2d_grad_filter(x, (1, 1, 1, 1), x.map_blocks(np.sign))
    assert computed(gradient).tolist() == [[[[np.inf]]]]


@given(data=st.data(), case=cases())
def test_tensorflow_faces(data, case):
    case = replace(case, keywords={**case.keywords, "border": "constant"})
    if case.batch is None or case.multiplier is None:
        case = replace(case, batch=2, multiplier=2)
    if max(case.keywords["stride"]) > 1 and max(case.keywords["dilation"]) > 1:
        case = replace(case, keywords={**case.keywords, "dilation": (1, 1), "padding": "SAME"})
    rows = [[axis.pad_before, axis.pad_after] for axis in (case.spec.height, case.spec.width)]
    case = replace(case, keywords={**case.keywords, "padding": tuple(map(tuple, rows))})
    zeros, layout = [[0, 0]], case.keywords["layout"]
    padding = zeros + rows + zeros if layout == "NHWC" else zeros + zeros + rows
    height, width = case.keywords["stride"]
    strides = [1, height, width, 1] if layout == "NHWC" else [1, 1, height, width]
    rest = (strides, padding, layout, case.keywords["dilation"])
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    grad = random_array(np.random.default_rng(case.seed + 1), case.spec.output_shape, case.dtype)
    chunks = data.draw(operands(x.shape, grad.shape))
    lazy_x, lazy_grad = da.from_array(x, chunks=chunks[0]), lazy(grad, chunks[1])
    forward = depthwise.depthwise_conv2d(lazy_x, filter, *rest)
    assert same_bits(computed(forward), computed(depthwise.conv2d(lazy_x, filter, **case.keywords)))
    assert same_bits(
        depthwise.depthwise_conv2d(x, filter, *rest), depthwise.conv2d(x, filter, **case.keywords)
    )
    assert keeps_forward_bits(case, lazy_x, filter, x, filter)
    lazy_filter = da.from_array(filter, chunks=2)
    backward = depthwise.depthwise_conv2d_backprop_input(x.shape, lazy_filter, lazy_grad, *rest)
    general = depthwise.conv2d_grad_input(x.shape, lazy_filter, lazy_grad, **case.keywords)
    assert same_bits(computed(backward), computed(general))
    assert same_bits(
        depthwise.depthwise_conv2d_backprop_input(x.shape, filter, grad, *rest),
        depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords),
    )
    assert keeps_gradient_bits(case, lazy_filter, lazy_grad, filter, grad)
    gradient = computed(depthwise.depthwise_conv2d_backprop_filter(lazy_x, filter.shape, lazy_grad, *rest))
    assert_filter_gradient(gradient, x, filter.shape, grad, **case.keywords)


@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
def test_chunks_mirror_the_input(stride):
    x = da.zeros((2, 30, 31, 6), dtype=np.float32, chunks=(1, (10, 1, 7, 12), 8, (4, 2)))
    filter = np.zeros((3, 3, 6, 2), np.float32)
    y = depthwise.conv2d(x, filter, stride=stride)
    heights = {1: (10, 1, 7, 12), 2: (5, 1, 3, 6), (3, 1): (4, 2, 4)}
    widths = {1: (8, 8, 8, 7), 2: (4, 4, 4, 4), (3, 1): (8, 8, 8, 7)}
    assert y.chunks == ((1, 1), heights[stride], widths[stride], (8, 4))
    back = depthwise.conv2d_grad_input(x.shape, filter, y, stride=stride)
    assert back.shape == x.shape
    if stride == 1:
        assert back.chunks == x.chunks


def test_infinities_and_nans(rng):
    x, filter = random_array(rng, (1, 20, 20, 3), "float32"), random_array(rng, (5, 5, 3, 1), "float32")
    x[0, ::7, ::5] = np.inf
    filter[0, 0, 0], filter[4, 2, 1] = np.nan, np.inf
    lazy_x = da.from_array(x, chunks=(1, 3, 4, 2))
    assert same_bits(computed(depthwise.conv2d(lazy_x, filter)), depthwise.conv2d(x, filter))
    expected = depthwise.conv2d_grad_input(x.shape, filter, x)
    assert same_bits(computed(depthwise.conv2d_grad_input(x.shape, filter, lazy_x)), expected)


def test_names_are_deterministic(rng):
    filter = random_array(rng, (3, 3, 2, 1), "float32")

    def name(**keywords):
        x = da.ones((1, 8, 8, 2), dtype=np.float32, chunks=4)
        return depthwise.conv2d(x, keywords.pop("filter", filter), **keywords).name

    assert name() == name()
    others = [name(stride=2), name(padding="VALID"), name(num_threads=2), name(filter=filter + 1)]
    others += [name(activation="relu"), name(bias=filter[0, 0, :, 0]), name(filter=filter[:, :, 0, 0])]
    assert len({name(), *others}) == len(others) + 1


def test_tasks_use_one_thread_unless_told(rng):
    x = da.from_array(random_array(rng, (1, 300, 300, 32), "float32"), chunks=-1)
    filter = random_array(rng, (5, 5, 32, 1), "float32")

    def threads_of(y):
        y.compute(scheduler="synchronous")
        return depthwise._native.last_run()["threads"]

    assert threads_of(depthwise.conv2d(x, filter)) == 1
    assert threads_of(depthwise.conv2d(x, filter, num_threads=2)) == 2


def test_few_chunks_are_in_memory_at_a_time():
    """Of 256 chunks of 256 KiB, some rows of 16: a halo that is kept does not keep its chunk."""
    x = da.random.default_rng(0).random((4096, 4096, 1), dtype=np.float32, chunks=(256, 256, 1))
    y = depthwise.conv2d(x, np.ones((9, 9), np.float32))
    sums = y.map_blocks(lambda block: block.sum(keepdims=True), dtype=np.float32, chunks=(1, 1, 1))
    tracemalloc.start()
    try:
        sums.compute(scheduler="synchronous")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 2


def test_graph_is_small_and_pickles():
    x = da.zeros((1, 100, 100, 4), dtype=np.float32, chunks=(1, 10, 10, 4))
    y = depthwise.conv2d(x, np.ones((3, 3), np.float32))
    # A block with neighbours on all sides needs 8 halos; each is taken once.
    assert len(y.__dask_graph__().layers[y.name]) <= 100 * 9
    assert pickle.loads(pickle.dumps(y)).compute(scheduler="synchronous").sum() == 0


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers(rng, scheduler):
    x, filter = random_array(rng, (2, 50, 60, 8), "float32"), random_array(rng, (7, 7, 8, 1), "float32")
    y = depthwise.conv2d(da.from_array(x, chunks=(1, 9, 8, 3)), filter, dilation=2, layout="NHWC")
    assert same_bits(y.compute(scheduler=scheduler), depthwise.conv2d(x, filter, dilation=2))


def unknown_chunks():
    x = da.ones((8, 8, 8, 2), dtype=np.float32, chunks=2)
    return x[x[:, 0, 0, 0] > 0]


def masked_chunks():
    return da.ma.masked_less(da.ones((1, 8, 8, 2), dtype=np.float32, chunks=2), 0)


FILTER = np.ones((3, 3, 2, 1), np.float32)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("x", lambda x: depthwise.conv2d(unknown_chunks(), FILTER)),
        ("x", lambda x: depthwise.conv2d(masked_chunks(), FILTER)),
        ("x", lambda x: depthwise.conv2d(x[0, 0], FILTER)),
        ("x", lambda x: depthwise.conv2d(dask.delayed(1), FILTER)),
        ("x", lambda x: depthwise.conv2d([1.0], da.from_array(FILTER))),
        ("filter", lambda x: depthwise.conv2d(x, FILTER.astype(np.float64))),
        ("filter", lambda x: depthwise.conv2d(x, da.ones((3, 3, 3, 1), dtype=np.float32))),
        ("filter", lambda x: depthwise.conv2d(x, FILTER.tolist())),
        ("filter", lambda x: depthwise.conv2d(x, np.ma.masked_less(FILTER, 0))),
        ("stride", lambda x: depthwise.conv2d(x, FILTER, stride=0)),
        ("padding", lambda x: depthwise.conv2d(x, FILTER, padding="FULL")),
        ("bias", lambda x: depthwise.conv2d(x, FILTER, bias=np.ones(3, np.float32))),
        ("bias", lambda x: depthwise.conv2d(x, FILTER, bias=da.ones(2))),
        ("out", lambda x: depthwise.conv2d(x, FILTER, out=np.empty(x.shape, np.float32))),
        ("out", lambda x: depthwise.conv2d(np.ones((1, 4, 4, 2), np.float32), FILTER, out=x)),
        ("num_threads", lambda x: depthwise.conv2d(x, FILTER, num_threads=0)),
        ("dtype", lambda x: depthwise.conv2d(x, FILTER, dtype="float64")),
        ("grad", lambda x: depthwise.conv2d_grad_input((1, 9, 8, 2), FILTER, x)),
        ("out", lambda x: depthwise.conv2d_grad_input((1, 8, 8, 2), FILTER, x, out=x)),
        ("bias", lambda x: depthwise.conv2d_grad_filter(x, (3, 3), x, bias=FILTER)),
        ("out_backprop", lambda x: depthwise.depthwise_conv2d_backprop_filter(
            x, (3, 3, 2, 1), x[:, 1:], [1, 1, 1, 1], "SAME")),
        ("input_sizes", lambda x: depthwise.depthwise_conv2d_backprop_input(
            [1, 8, 8], FILTER, x, [1, 1, 1, 1], "SAME")),
        ("strides", lambda x: depthwise.depthwise_conv2d(x, FILTER, [2, 1, 1, 1], "SAME")),
    ],
)  # fmt: skip
def test_refused(argument, call):
    with refused(rf"\b{argument}\b"):
        call(da.ones((1, 8, 8, 2), dtype=np.float32, chunks=(1, 3, 3, 1)))


def test_numpy_calls_do_not_import_dask():
    code = "import sys, numpy as np, depthwise; x = np.ones((4, 4, 1), 'f'); depthwise.conv2d(x, x[..., 0])"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'dask' not in sys.modules"], check=True)


def test_a_prepared_operator_takes_dask_arrays(rng):
    x, filter = random_array(rng, (1, 40, 50, 3), "float32"), random_array(rng, (5, 5, 3, 1), "float32")
    bias = random_array(rng, (3,), "float32")
    op = depthwise.Conv2D(filter, bias=bias, border="reflect", activation="relu", stride=2, num_threads=1)
    assert same_bits(computed(op(da.from_array(x, chunks=(1, 13, 17, 2)))), op(x))
    with pytest.raises(TypeError, match="out must be None"):
        op(da.from_array(x), out=np.empty((1, 20, 25, 3), np.float32))
