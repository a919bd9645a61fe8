"""Dask arrays: whatever the chunks, the forward operation and the input gradient have the unchunked bits."""

import numpy as np
import pytest
from helpers import random_array, same_bits, sum_bound
from hypothesis import given
from hypothesis import strategies as st
from test_properties import cases

import depthwise
from depthwise import reference

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")
geometry = pytest.importorskip("depthwise._dask.geometry")

BORDERS = ("reflect", "symmetric", "edge", "wrap")


def computed(array):
    """The result, after checking that it is what the lazy array said."""
    assert isinstance(array, da.Array)
    result = array.compute(scheduler="synchronous")
    assert type(result) is np.ndarray
    assert (result.shape, result.dtype) == (array.shape, array.dtype)
    assert type(array._meta) is np.ndarray and array._meta.dtype == array.dtype
    for position in np.ndindex(array.numblocks):
        block = array.blocks[position]
        assert block.compute(scheduler="synchronous").shape == block.shape
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
def operands(draw, *shapes):
    """How each array is chunked; None stands for a NumPy array, but not everywhere."""
    found = [
        draw(st.one_of(st.none(), st.tuples(*(chunks_of(size) for size in shape))))
        if number
        else tuple(draw(chunks_of(size)) for size in shape)
        for number, shape in enumerate(shapes)
    ]
    return found


def lazy(array, chunks):
    return array if chunks is None else da.from_array(array, chunks=chunks)


@given(data=st.data(), case=cases(), activation=st.sampled_from([None, None, "relu", "silu"]))
def test_forward_has_the_unchunked_bits(data, case, activation):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    outputs = case.spec.channels * case.spec.multiplier
    bias = random_array(np.random.default_rng(case.seed + 1), (outputs,), case.dtype)
    expected = depthwise.conv2d(x, filter, bias=bias, activation=activation, **case.keywords)
    chunks = data.draw(operands(x.shape, filter.shape, bias.shape))
    arrays = [lazy(array, how) for array, how in zip((x, filter, bias), chunks, strict=True)]
    actual = depthwise.conv2d(*arrays[:2], bias=arrays[2], activation=activation, **case.keywords)
    assert same_bits(computed(actual), expected)


@given(data=st.data(), case=cases())
def test_input_gradient_has_the_unchunked_bits(data, case):
    filter, grad = case.arrays(case.filter_shape, case.spec.output_shape)
    expected = depthwise.conv2d_grad_input(case.x_shape, filter, grad, **case.keywords)
    chunks = data.draw(operands(grad.shape, filter.shape))
    arrays = [lazy(array, how) for array, how in zip((grad, filter), chunks, strict=True)]
    actual = depthwise.conv2d_grad_input(case.x_shape, arrays[1], arrays[0], **case.keywords)
    assert same_bits(computed(actual), expected)


@given(data=st.data(), case=cases(), swap=st.booleans())
def test_filter_gradient_is_within_the_bound(data, case, swap):
    x, grad = case.arrays(case.x_shape, case.spec.output_shape)
    chunks = data.draw(operands(*((grad.shape, x.shape) if swap else (x.shape, grad.shape))))
    x_chunks, grad_chunks = reversed(chunks) if swap else chunks
    lazy_x, lazy_grad = lazy(x, x_chunks), lazy(grad, grad_chunks)
    actual = computed(depthwise.conv2d_grad_filter(lazy_x, case.filter_shape, lazy_grad, **case.keywords))
    assert_filter_gradient(actual, x, case.filter_shape, grad, **case.keywords)


def assert_filter_gradient(actual, x, filter_shape, grad, **keywords):
    """`actual` is the filter gradient, as closely as NumPy's path must be."""
    from helpers import assert_within

    wide = [np.abs(array.astype(np.float64)) for array in (x, grad)]
    expected = reference.conv2d_grad_filter(x, filter_shape, grad, **keywords)
    magnitude = reference.conv2d_grad_filter(wide[0], filter_shape, wide[1], **keywords)
    terms = grad.size if len(filter_shape) == 2 else grad.size // max(filter_shape[2] * filter_shape[3], 1)
    assert_within(actual, expected, sum_bound(terms, magnitude, x.dtype.name), x.dtype.name)
