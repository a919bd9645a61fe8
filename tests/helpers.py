"""Data in every shape of memory, and comparisons that assert the accuracy which the package promises.

The bounds: with `n` the number of terms of a sum, `S` the sum of their magnitudes and `u` the unit roundoff
of the type that accumulates (float32 for float16 and bfloat16), plain sequential summation errs by at most
`n*u / (1 - n*u) * S`. A result must be what some number within twice that of the float64 reference rounds
to; so float16 and bfloat16 results, which are rounded once at the end, must be correctly rounded up to the
error of the float32 sum.
"""

import ml_dtypes
import numpy as np
import pytest

import depthwise
from depthwise import _native, _spec, reference

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
# (border, algorithm) of problems whose gradient of the input the algorithm computes, too.
ALGORITHM_CASES = [
    (border, algorithm)
    for border in ("constant", *_spec.BORDERS[1:])
    for algorithm in _spec.ALGORITHMS
    if algorithm != "separable" or border == "constant"
]
MEMORY_FORMS = (
    "contiguous",
    "read-only",
    "fortran",
    "every other channel",
    "reversed",
    "offset",
    "big-endian",
    "unaligned",
    "broadcast",
)
# The activations' largest slopes magnify the error of the sum; evaluating them adds a few roundings.
_SLOPES = {None: 1.0, "relu": 1.0, "relu6": 1.0, "silu": 1.1, "hard_swish": 1.5}
_ROUNDINGS = {None: 0, "relu": 0, "relu6": 0, "silu": 8, "hard_swish": 4}


def require(op):
    """Skip, visibly, what needs an operation for which this engine has no kernel."""
    if op not in {row["op"] for row in _native.kernels()}:
        pytest.skip(f"the engine has no kernel for {op}")


def refused(argument):
    """The call inside must raise a TypeError or ValueError that names the argument."""
    return pytest.raises((TypeError, ValueError), match=argument)


def random_array(rng, shape, dtype):
    """Normally distributed numbers, rounded to the dtype."""
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def at_address(array, offset):
    """A copy of the array whose first byte lies `offset` bytes past a multiple of 64."""
    room = np.empty(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def in_memory(array, form):
    """An array of another memory layout with the values of `array` ("broadcast" repeats the first item)."""
    if form == "contiguous":
        return np.ascontiguousarray(array)
    if form == "read-only":
        array = array.copy()
        array.flags.writeable = False
        return array
    if form == "fortran":
        return np.asfortranarray(array)
    if form == "every other channel":
        wide = np.full((*array.shape[:-1], 2 * array.shape[-1]), _filler(array.dtype), array.dtype)
        wide[..., 1::2] = array
        return wide[..., 1::2]
    if form == "reversed":
        return np.ascontiguousarray(np.flip(array))[(slice(None, None, -1),) * array.ndim]
    if form == "offset":
        framed = np.full([n + 2 for n in array.shape], _filler(array.dtype), array.dtype)
        inside = framed[(slice(1, -1),) * array.ndim]
        inside[...] = array
        return inside
    if form == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if form == "unaligned":
        odd = np.ndarray(array.shape, array.dtype, np.empty(array.nbytes + 1, np.uint8), offset=1)
        odd[...] = array
        return odd
    assert form == "broadcast", form
    return np.broadcast_to(array[:1].copy(), array.shape)


def _filler(dtype):
    """What would show in a result that read beside the array."""
    return np.iinfo(dtype).max if dtype.kind in "iu" else np.nan


def assert_within(actual, expected, bound, dtype):
    """`actual` is what numbers within `bound` of the float64 `expected` round to; others are equal."""
    dtype = DTYPES[dtype]
    assert type(actual) is np.ndarray
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite].astype(np.float64), expected[~finite])
    with np.errstate(over="ignore"):
        low = _rounded(expected[finite] - bound[finite], dtype)
        high = _rounded(expected[finite] + bound[finite], dtype)
    got = actual[finite].astype(np.float64)
    wrong = ~((low <= got) & (got <= high))
    if wrong.any():
        worst = np.flatnonzero(wrong)[np.argmax(np.abs(got - expected[finite])[wrong])]
        raise AssertionError(
            f"{wrong.sum()} of {got.size} elements are out of bounds; the worst is {got[worst]!r}, "
            f"expected {expected[finite][worst]!r} within {bound[finite][worst]:.3g}"
        )


def check_conv2d(x, filter, *, bias=None, activation=None, out=None, num_threads=None, **keywords):
    """Run `depthwise.conv2d` and compare with the reference; returns the result."""
    settings = {**keywords, "bias": bias, "activation": activation}
    actual = depthwise.conv2d(x, filter, out=out, num_threads=num_threads, **settings)
    assert_forward(actual, x, filter, **settings)
    return actual


def assert_forward(actual, x, filter, *, bias=None, activation=None, transformed=None, **keywords):
    """`actual` is `conv2d(x, filter, ...)`, within the bound of sums, or of `transformed` sums."""
    dtype = filter.dtype.name
    keywords = _semantics(keywords)
    expected = reference.conv2d(x, filter, bias=bias, activation=activation, **keywords)
    magnitudes = [None if array is None else _magnitude(array) for array in (x, filter, bias)]
    magnitude = reference.conv2d(*magnitudes[:2], bias=magnitudes[2], **keywords)
    terms = filter.shape[0] * filter.shape[1] + (bias is not None)
    if transformed is None:
        bound = sum_bound(terms, magnitude, dtype)
    else:
        bound = transformed + sum_bound(2, magnitude, dtype)  # the bias is added
    bound = _SLOPES[activation] * bound
    if activation is not None:
        bound = bound + _ROUNDINGS[activation] * _roundoff(dtype) * np.abs(expected)
    assert_within(actual, expected, bound, dtype)


def check_grad_input(x_shape, filter, grad, *, num_threads=None, **keywords):
    """Run `depthwise.conv2d_grad_input` and compare with the reference; returns the result."""
    require("grad_input")
    actual = depthwise.conv2d_grad_input(x_shape, filter, grad, num_threads=num_threads, **keywords)
    keywords = _semantics(keywords)
    expected = reference.conv2d_grad_input(x_shape, filter, grad, **keywords)
    magnitude = reference.conv2d_grad_input(x_shape, _magnitude(filter), _magnitude(grad), **keywords)
    terms = filter.shape[0] * filter.shape[1] * (filter.shape[3] if filter.ndim == 4 else 1)
    if keywords.get("border", "constant") != "constant":  # then padding adds to its pixels
        terms += _padded_sizes(x_shape, filter.shape, keywords)
    dtype = filter.dtype.name
    assert_within(actual, expected, sum_bound(terms, magnitude, dtype), dtype)
    return actual


def check_grad_filter(x, filter_shape, grad, *, num_threads=None, **keywords):
    """Run `depthwise.conv2d_grad_filter` and compare with the reference; returns the result."""
    require("grad_filter")
    actual = depthwise.conv2d_grad_filter(x, filter_shape, grad, num_threads=num_threads, **keywords)
    keywords = _semantics(keywords)
    expected = reference.conv2d_grad_filter(x, filter_shape, grad, **keywords)
    magnitude = reference.conv2d_grad_filter(_magnitude(x), filter_shape, _magnitude(grad), **keywords)
    terms = grad.size if len(filter_shape) == 2 else grad.size // max(filter_shape[2] * filter_shape[3], 1)
    dtype = grad.dtype.name
    assert_within(actual, expected, sum_bound(terms, magnitude, dtype), dtype)
    return actual


def sum_bound(terms, magnitude, dtype):
    """Twice the error bound of sequential summation, and what underflows on the way."""
    relative = terms * _roundoff(dtype)
    smallest = np.finfo(np.float64 if dtype == "float64" else np.float32).smallest_subnormal
    return 2 * relative / (1 - relative) * magnitude + 2 * terms * float(smallest)


def numpy_padded(x, spec, border):
    """`x` with the padding that `spec` asks for, by `numpy.pad`."""
    first = (1 if spec.layout == "NHWC" else 2) - (not spec.batched)
    pads = [(0, 0)] * x.ndim
    for i, axis in enumerate((spec.height, spec.width)):
        pads[first + i] = (axis.pad_before, axis.pad_after)
    return np.pad(x, pads, mode=border)


def transform_bound(op, a, b, spec):
    """The documented error bound of Fourier transforms, for each channel of the result.

    `a` and `b` are the operands of `op`, the engine's: 4-D, with a filter for each channel.
    """
    plane = (1, 2) if spec.layout == "NHWC" else (2, 3)

    def norms(image, multiplier):
        squares = (image.astype(np.float64) ** 2).sum(plane)
        return np.sqrt(squares).reshape(spec.batch, spec.channels, multiplier)

    if op == "grad_filter":
        products = (norms(a, 1) * norms(b, spec.multiplier)).sum(0)
        return 64 * _roundoff(spec.dtype) * np.broadcast_to(products, spec.filter_shape)
    filter_norms = np.sqrt((b.astype(np.float64) ** 2).sum((0, 1)))
    products = norms(a, 1 if op == "forward" else spec.multiplier) * filter_norms
    if op == "grad_input":
        products = products.sum(2, keepdims=True)
    bound = 64 * _roundoff(spec.dtype) * products.reshape(spec.batch, products.shape[1] * products.shape[2])
    shape = (spec.batch, 1, 1, bound.shape[1])
    if spec.layout == "NCHW":
        shape = (spec.batch, bound.shape[1], 1, 1)
    return np.broadcast_to(bound.reshape(shape), spec.result_shape(op))


def _semantics(keywords):
    """The keywords that the reference knows: those that say what is computed, not how."""
    return {name: value for name, value in keywords.items() if name != "algorithm"}


def same_bits(a, b):
    """Whether two arrays of one dtype are equal byte by byte, so that NaNs and signs of zero count."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _padded_sizes(x_shape, filter_shape, keywords):
    """Height and width of the padded image, added up."""
    spec = _spec.general_spec(x_shape, filter_shape, "float32", **keywords)
    return sum(a.pad_before + a.input + a.pad_after for a in (spec.height, spec.width))


def _magnitude(array):
    return np.abs(array.astype(np.float64))


def _roundoff(dtype):
    return 2.0**-53 if dtype == "float64" else 2.0**-24


def _rounded(values, dtype):
    """float64 values as the dtype would hold them, by way of float32 where the engine accumulates in it."""
    if dtype.itemsize == 2:
        values = values.astype(np.float32)
    return values.astype(dtype).astype(np.float64)


def algorithm_problem(rng, keywords):
    """x, filter and gradient to which every algorithm applies, and the three results for NumPy arrays.

    There is no separable gradient of the filter: "auto" chooses for it.
    """
    shape = (2, 20, 17, 5) if keywords["layout"] == "NHWC" else (2, 5, 20, 17)
    x, grad = (random_array(rng, shape, "float32") for _ in range(2))
    rows, columns = random_array(rng, (9, 1, 5, 1), "float32"), random_array(rng, (1, 7, 5, 1), "float32")
    filter = rows * columns
    y = depthwise.conv2d(x, filter, **keywords)
    of_x = depthwise.conv2d_grad_input(x.shape, filter, grad, **keywords)
    if keywords["algorithm"] == "separable":
        keywords = {**keywords, "algorithm": "auto"}
    return x, filter, grad, y, of_x, depthwise.conv2d_grad_filter(x, filter.shape, grad, **keywords)
