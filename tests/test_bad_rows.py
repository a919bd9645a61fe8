"""Inputs that broke other depthwise convolutions, on every entry point: NumPy and each framework installed.

Each row names what broke others, and has calls. A call gives an error that names the argument, or, where the
contract defines one, the right answer. `test_bad_inputs.py` and `test_bad_arrays.py` go deeper for NumPy.
"""

import importlib
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
from helpers import DTYPES, assert_within, sum_bound

import depthwise
from depthwise import reference

ONES = (1, 1, 1, 1)
HUGE = 1879048192


@dataclass(frozen=True)
class Call:
    """A call on arrays of ones of these shapes, and the argument that its error names (None: an answer)."""

    function: str
    arguments: tuple
    error: str | None = None
    keywords: dict = field(default_factory=dict)
    dtype: str = "float32"
    values: object = None  # makes an array of a shape; ones by default
    answer: float | None = None  # the value of every element, where the reference would take too long


@dataclass(frozen=True)
class Array:
    """Stands for an array of this shape."""

    shape: tuple


def forward(x=(1, 6, 6, 2), filter=(3, 3, 2, 1), strides=ONES, padding="SAME", error=None, **rest):
    special = [rest.pop("dtype", "float32"), rest.pop("values", None), rest.pop("answer", None)]
    return Call("depthwise_conv2d", (Array(x), Array(filter), strides, padding), error, rest, *special)


def grad_input(
    sizes=(1, 6, 6, 2),
    filter=(3, 3, 2, 1),
    grad=(1, 6, 6, 2),
    strides=ONES,
    padding="SAME",
    error=None,
    **rest,
):
    return Call(
        "depthwise_conv2d_backprop_input", (sizes, Array(filter), Array(grad), strides, padding), error, rest
    )


def grad_filter(
    x=(1, 6, 6, 2), sizes=(3, 3, 2, 1), grad=(1, 6, 6, 2), strides=ONES, padding="SAME", error=None, **rest
):
    return Call(
        "depthwise_conv2d_backprop_filter", (Array(x), sizes, Array(grad), strides, padding), error, rest
    )


def general(x=(1, 6, 6, 2), filter=(3, 3, 2, 1), error=None, **keywords):
    dtype, values = keywords.pop("dtype", "float32"), keywords.pop("values", None)
    return Call("conv2d", (Array(x), Array(filter)), error, keywords, dtype, values)


def each(error, *variants, **keywords):
    """The three functions of TensorFlow's face with the same wrong arguments."""
    return [make(**variant, **keywords, error=error) for variant in variants or ({},) for make in FACES]


FACES = (forward, grad_input, grad_filter)


def with_values(*special):
    """Makes arrays of ones in whose middle these values stand."""

    def make(shape):
        array = np.ones(shape)
        array.reshape(-1)[array.size // 2 : array.size // 2 + len(special)] = special
        return array

    return make


BAD_STRIDES = (0, -1, -(10**18), 1.0, 2.5, True, None, "1", [1], np.ones(2))
BAD_PADDINGS = (
    [[0, 0], [-1, 0], [0, 0], [0, 0]],
    [[1, 0], [0, 0], [0, 0], [0, 0]],
    [[0, 0], [0, 0], [0, 0], [0, 1]],
    [[0, 0], [1, 1], [1, 1]],
    [[0, 0], [1, 1], [1, 1], [0, 0], [0, 0]],
    [[0], [1], [1], [0]],
    [[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]],
    [[0, 0], [1], [1, 1], [0, 0]],
    [[0, 0], [1.0, 0], [0, 0], [0, 0]],
    "same ",
    "FULL",
    b"SAME",
    None,
    7,
)
BAD_SIZES = (
    5,
    (1, 6, 6),
    (1, 6, 6, 2, 1),
    (1,) * 13,
    (1, -6, 6, 2),
    (HUGE,) * 4,
    (2**40, 2**40, 2, 1),
    np.empty(0),
)

ROWS = {
    "input channels, batch, height, width or a filter dimension of 0": [
        forward((0, 6, 6, 2)),
        forward((1, 6, 6, 0), (3, 3, 0, 3)),
        forward((1, 0, 6, 2)),
        forward((1, 6, 0, 2)),
        forward((1, 6, 6, 2), (0, 1, 2, 1)),
        forward((1, 6, 6, 2), (3, 3, 2, 0)),
        forward((1, 6, 6, 2), (0, 1, 5, 0), error="filter"),
        grad_input((0, 6, 6, 2), grad=(0, 6, 6, 2)),
        grad_filter((0, 6, 6, 2), grad=(0, 6, 6, 2)),
        grad_filter(sizes=(3, 3, 2, 0), grad=(1, 6, 6, 0)),
    ],
    "stride 0, negative, huge, a float, a bool, an array": [
        *(call for bad in BAD_STRIDES for call in each(r"strides\[1\]", {"strides": (1, bad, 1, 1)})),
        *(general(stride=bad, error="stride") for bad in (*BAD_STRIDES, (1, 2, 3))),
        *(forward(strides=(1, good, good, 1)) for good in (65536, 65537, 10**18, np.int64(2))),
        *(general(stride=good) for good in (65537, 2**32 + 1, np.uint64(2**60))),
    ],
    "strides of length 0, 2, 3, 5, an int, batch or channel not 1, None": each(
        "strides",
        *({"strides": bad} for bad in ((), (1, 1), (1, 1, 1), (1,) * 5, 1, (2, 1, 1, 1), (1, 1, 1, 2), None)),
    ),
    "dilation 0, negative, huge, dilations of length 1, 3, 5, float": [
        *each(
            "dilations",
            *({"dilations": bad} for bad in ((0, 1), (1, -1), (1,), (1, 1, 1), (1,) * 5, (1.0, 1), 3, "2")),
        ),
        forward(dilations=(10**12, 10**12), answer=1.0),
        forward(dilations=(10**30, 1), error="dilation"),
        general(dilation=0, error="dilation"),
    ],
    "stride 2 with dilation 2": [
        *each("dilations", {"strides": (1, 2, 2, 1), "dilations": (2, 2)}),
        general(stride=2, dilation=2),
        general((2, 9, 8, 3), (3, 3, 3, 2), stride=(2, 3), dilation=(3, 2)),
    ],
    "input of rank 0, 1, 3, 5; filter of rank 1, 3, 5": [
        *(forward(shape, error="input") for shape in ((), (6,), (6, 6, 2), (1, 1, 6, 6, 2))),
        *(forward(filter=shape, error="filter") for shape in ((), (3,), (3, 3, 2), (3, 3, 2, 1, 1))),
        *(general(shape, error="x") for shape in ((), (6,), (6, 6), (1, 1, 6, 6, 2))),
        *(grad_input(grad=shape, error="out_backprop") for shape in ((), (6, 6, 2))),
    ],
    "input_sizes, filter_sizes: scalar, 3, 5 or 13 entries, negative, huge, not matching, empty": [
        *(grad_input(sizes, error="input_sizes") for sizes in (*BAD_SIZES, (1, 6, 6, 3))),
        *(grad_filter(sizes=sizes, error="filter_sizes") for sizes in (*BAD_SIZES, (3, 3, 3, 1))),
    ],
    "out_backprop: empty, wrong batch, channels or size": [
        *(
            make(grad=shape, error="out_backprop")
            for shape in ((0, 6, 6, 2), (2, 6, 6, 2), (1, 6, 6, 4), (1, 5, 6, 2))
            for make in (grad_input, grad_filter)
        ),
        grad_filter(
            (1, 1, 1, 2), (1, 1, 1, 1), (1, 1, 1, 1), (1, 66, 49, 1), error="filter_sizes|out_backprop"
        ),
    ],
    "explicit padding: negative, huge, at batch or channel, not 4 rows of 2, a float, no known word": [
        *each("padding", *({"padding": bad} for bad in BAD_PADDINGS)),
        general(padding=((1, 2), (0, 3))),
        general(padding=-1, error="padding"),
    ],
    "VALID one larger than the image and two larger; explicit padding smaller than the kernel": [
        forward((1, 5, 5, 2), (6, 6, 2, 1), padding="VALID"),
        forward((1, 5, 5, 2), (7, 7, 2, 1), padding="VALID", error="filter"),
        forward((1, 2, 2, 2), (7, 7, 2, 1), padding=[[0, 0], [3, 2], [3, 2], [0, 0]]),
    ],
    "effective kernel past 2^31 or 2^63, output size overflow": [
        forward(padding="VALID", dilations=(2**31, 1), error="filter|dilation"),
        forward(dilations=(2**63, 1), error="dilation"),
        general(padding=((2**62, 2**62), (2**62, 2**62)), error="padding|large|elements"),
    ],
    "dtypes that are not floats": [
        forward(dtype=dtype, error="dtype|float") for dtype in ("int32", "bool", "complex64")
    ],
    "float16, bfloat16: output width 1, stride 2, all ones": [
        *(forward((1, 5, width, 2), dtype=dtype) for dtype in ("float16", "bfloat16") for width in (1, 2, 3)),
        *(
            forward((1, 2, 2, 1), (2, 2, 1, 1), strides=strides, padding="VALID", dtype=dtype)
            for dtype in ("float16", "bfloat16")
            for strides in (ONES, (1, 2, 2, 1))
        ),
    ],
    "NaN, infinities and subnormals": [
        forward(values=with_values(value)) for value in (np.nan, np.inf, -np.inf, 1e-42)
    ],
    "channels 67, M 2, stride 13, padding 14; kernel 125, padding 63, stride 2": [
        general((1, 30, 31, 67), (3, 3, 67, 2), stride=13, padding=14),
        general((1, 9, 9, 2), (125, 125, 2, 1), stride=2, padding=63),
    ],
    "data_format and layout of no known name": [
        *each("data_format", *({"data_format": bad} for bad in ("NHCW", "nhwc", "", 3, b"NHWC", True))),
        forward(data_format=None),
        general(layout="nhwc", error="layout"),
        general(layout=None, error="layout"),
    ],
    "name of any type": [forward(name=name) for name in (None, "conv", "")],
    "num_threads 0, negative, huge": [
        general(num_threads=bad, error="num_threads") for bad in (0, -1, 10**9, 1.0, True, "2")
    ],
}

MODULES = {"numpy": "numpy", "torch": "torch", "jax": "jax", "tensorflow": "tensorflow", "dask": "dask.array"}


def installed(entry):
    """The module, or a visible skip."""
    return pytest.importorskip(MODULES[entry], reason=f"{entry} is not installed")


def to_entry(entry, array):
    """The array in the entry point's own kind, or a skip where it has no such dtype."""
    module = installed(entry)
    try:
        if entry == "torch":
            if array.dtype == ml_dtypes.bfloat16:
                return module.from_numpy(array.view(np.int16)).view(module.bfloat16)
            return module.from_numpy(array)
        if entry == "jax":
            return module.numpy.asarray(array)
        if entry == "tensorflow":
            return module.convert_to_tensor(array)
        return module.from_array(array) if entry == "dask" else array
    except TypeError as error:
        pytest.skip(f"{entry} has no such array: {error}")


def to_numpy(entry, result):
    if entry == "torch" and result.dtype == installed(entry).bfloat16:
        return result.view(installed(entry).int16).numpy().view(ml_dtypes.bfloat16)
    return np.asarray(result.compute() if entry == "dask" else result)


def arrays_of(call):
    """The call's arguments with NumPy arrays."""
    dtype = DTYPES.get(call.dtype) or np.dtype(call.dtype)
    make = call.values or np.ones
    return [make(a.shape).astype(dtype) if isinstance(a, Array) else a for a in call.arguments]


def check_answer(call, result):
    """The result is the reference's, within the bound that the package promises."""
    if call.answer is not None:
        np.testing.assert_array_equal(result, call.answer)
        return
    arguments = arrays_of(call)
    keywords = {name: value for name, value in call.keywords.items() if name not in ("name", "num_threads")}
    expected = getattr(reference, call.function)(*arguments, **keywords)
    operands = [a for a in arguments if isinstance(a, np.ndarray) and a.ndim == 4]
    terms = int(np.prod(operands[1].shape[:2])) if call.function != FACES[2]().function else operands[1].size
    magnitude = np.where(np.isfinite(expected), np.abs(expected), 0)  # of ones: the sum of magnitudes
    assert_within(result, expected, sum_bound(terms, magnitude, call.dtype), call.dtype)


@pytest.mark.parametrize("entry", MODULES)
@pytest.mark.parametrize("row", ROWS)
def test_row(row, entry):
    installed(entry)
    for call in ROWS[row]:
        arguments = [
            to_entry(entry, a) if isinstance(a, np.ndarray) and a.ndim != 1 else a for a in arrays_of(call)
        ]
        function = getattr(depthwise, call.function)
        if call.error is None:
            check_answer(call, to_numpy(entry, function(*arguments, **call.keywords)))
        else:
            with pytest.raises((TypeError, ValueError), match=call.error):
                to_numpy(entry, function(*arguments, **call.keywords))


@pytest.mark.parametrize("entry", [name for name in MODULES if name != "numpy"])
def test_arrays_of_two_frameworks(entry):
    """NumPy beside a framework is one thing or the other, but two frameworks are refused."""
    module = importlib.import_module(MODULES["numpy"]) if installed(entry) else None
    other = next(
        (name for name in MODULES if name not in ("numpy", "dask", entry) and importlib.util.find_spec(name)),
        None,
    )
    if other is None:
        pytest.skip("only one framework is installed")
    x = to_entry(entry, module.ones((1, 6, 6, 2), np.float32))
    filter = to_entry(other, module.ones((3, 3, 2, 1), np.float32))
    with pytest.raises((TypeError, ValueError), match=r"filter|framework|arrays"):
        depthwise.depthwise_conv2d(x, filter, ONES, "SAME")
