"""Inputs that broke other depthwise convolutions, on every entry point: NumPy and each framework installed.

Each row names what broke others, and has calls. A call gives an error that names the argument, or, where the
contract defines one, the right answer. `test_bad_inputs.py` and `test_bad_arrays.py` go deeper for NumPy.
"""

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers import DTYPES, assert_within, sum_bound

import depthwise
from depthwise import cli, reference

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

# The same rows for the command line: arguments, and what its one line must name, or None where it answers.
# `filter` works on the files of `desk`: x.npy [8, 9, 2], k.npy [3, 3], and others named after what they hold.
PLAN, FILTER = "explain --input 1x6x6x2 --filter 3x3x2x1", "filter x.npy y.npy --kernel"
COMMANDS = {
    "input channels, batch, height, width or a filter dimension of 0": {
        "explain --input 0x6x6x2 --filter 3x3x2x1": None,
        "explain --input 1x6x6x0 --filter 3x3x0x3": None,
        "explain --input 1x0x6x2 --filter 3x3x2x1": None,
        "explain --input 1x6x6x2 --filter 0x1x2x1": None,
        "explain --input 1x6x6x2 --filter 3x3x2x0": None,
        "explain --input 1x6x6x2 --filter 0x1x5x0": "filter",
        "filter none.npy y.npy --kernel box": None,
        "filter x.npy y.npy --kernel none.npy": "none.npy",
    },
    "stride 0, negative, huge, a float, a bool, an array": {
        **{
            f"{PLAN} --stride {bad}": "stride"
            for bad in (0, -1, -(10**18), "1.0", "True", "1x1x1", "[1]", "")
        },
        **{f"{FILTER} box --stride {bad}": "stride" for bad in (0, -1, "2.5", "nan", "2x")},
        **{f"{FILTER} box --stride {good}": None for good in (65536, 65537, 10**18)},
    },
    "dilation 0, negative, huge, dilations of length 1, 3, 5, float": {
        **{f"{PLAN} --dilation {bad}": "dilation" for bad in (0, -1, "1x1x1", "1.0", 10**30, 2**62)},
        **{f"{FILTER} box --dilation {bad}": "dilation" for bad in (0, -1, "2.5")},
        f"{FILTER} box --dilation {10**12}": None,
    },
    "stride 2 with dilation 2": {f"{FILTER} box --stride 2 --dilation 2": None},
    "input of rank 0, 1, 3, 5; filter of rank 1, 3, 5": {
        **{f"explain --input {bad} --filter 3x3": "--input" for bad in ("6", "6x6", "1x1x6x6x2", "")},
        **{f"explain --input 1x6x6x2 --filter {bad}": "--filter" for bad in ("3", "3x3x2", "3x3x2x1x1", "")},
        **{f"filter {name} y.npy --kernel box": name for name in ("rank0.npy", "rank1.npy", "rank5.npy")},
        **{f"{FILTER} {name}": name for name in ("rank0.npy", "rank1.npy", "x.npy", "rank5.npy")},
    },
    "explicit padding: negative, huge, at batch or channel, not 4 rows of 2, a float, no known word": {
        f"{command} --padding {bad}": "padding"
        for command in (PLAN, f"{FILTER} box")
        for bad in (-1, "1,-1", "1,2,3", "1,2,3,4,5", "1.0", "same_", "FULL", "b'SAME'", "None", "")
    },
    "VALID one larger than the image and two larger; explicit padding smaller than the kernel": {
        "explain --input 1x5x5x2 --filter 6x6x2x1 --padding VALID": None,
        "explain --input 1x5x5x2 --filter 7x7x2x1 --padding VALID": "filter",
        "explain --input 1x2x2x2 --filter 7x7x2x1 --padding 3,2,3,2": None,
        f"{FILTER} box:9 --padding VALID": None,
        f"{FILTER} box:10 --padding VALID": "filter",
    },
    "effective kernel past 2^31 or 2^63, output size overflow": {
        f"{PLAN} --padding VALID --dilation {2**31}x1": "filter",
        f"{PLAN} --dilation {2**63}x1": "dilation",
        f"{PLAN} --padding {2**62}": "padding|large",
        f"{FILTER} box --padding {10**13}": "large",
        f"{FILTER} box --padding {10**6}": "allocate",
    },
    "dtypes that are not floats": {
        **{f"{PLAN} --dtype {bad}": "dtype" for bad in ("int32", "bool", "complex64", "object", "")},
        **{f"filter {name}.npy y.npy --kernel box": name for name in ("complex", "text", "objects")},
        "filter bool.npy y.npy --kernel box": None,  # zeros and ones
        **{f"{FILTER} {name}.npy": name for name in ("complex", "text", "objects")},
    },
    "NaN, infinities and subnormals": {
        f"filter special.npy y.npy --kernel {k}": None for k in ("box", "k.npy")
    },
    "data_format and layout of no known name": {
        f"{command} --layout {bad}": "layout"
        for command in (PLAN, f"{FILTER} box")
        for bad in ("NHCW", "HWC", "3", "None", "")
    },
    "num_threads 0, negative, huge": {
        f"{command} --threads {bad}": "threads"
        for command in (PLAN, f"{FILTER} box")
        for bad in (0, -1, 10**9, 10**30, "1.5", "two")
    },
}
NOT_ON_THE_COMMAND_LINE = {
    "strides of length 0, 2, 3, 5, an int, batch or channel not 1, None": "--stride is N or HxW",
    "input_sizes, filter_sizes: scalar, 3, 5 or 13 entries, negative, huge, not matching, empty": "no sizes",
    "out_backprop: empty, wrong batch, channels or size": "no gradients",
    "float16, bfloat16: output width 1, stride 2, all ones": "files are computed in float32 or float64",
    "channels 67, M 2, stride 13, padding 14; kernel 125, padding 63, stride 2": "has no shapes of its own",
    "name of any type": "no names",
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


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with the files that the rows of the command line name."""
    monkeypatch.chdir(tmp_path)
    image = np.arange(144, dtype=np.float32).reshape(8, 9, 2)
    files = {
        "x": image,
        "k": np.full((3, 3), 1 / 9, np.float32),
        "none": image[:0],
        "special": with_values(np.nan, np.inf, -np.inf, 1e-42)((8, 9, 2)).astype(np.float32),
        "complex": image.astype(complex),
        "bool": image > 3,
        "text": image.astype(str),
        "objects": np.array([[None, 1]], object),
        **{f"rank{n}": np.ones((2,) * n, np.float32) for n in (0, 1, 5)},
    }
    for name, array in files.items():
        np.save(f"{name}.npy", array)
    return tmp_path


def test_the_command_line_has_every_row():
    assert not set(COMMANDS) & set(NOT_ON_THE_COMMAND_LINE)
    assert set(COMMANDS) | set(NOT_ON_THE_COMMAND_LINE) == set(ROWS)


@pytest.mark.parametrize("row", COMMANDS)
def test_row_of_the_command_line(row, desk, capfd):
    before = sorted(desk.iterdir())
    for command, error in COMMANDS[row].items():
        words = command.split(" ")
        status, (_, err) = cli.main(words), capfd.readouterr()
        if error is None:
            assert (status, err) == (0, ""), command
            if words[0] == "filter":
                check_file(words)
        else:
            assert status == 2 and err.count("\n") == 1 and re.search(error, err), (command, err)
            assert sorted(desk.iterdir()) == before, command


def check_file(words):
    """y.npy is what the reference gives for the command, and is taken away."""
    options = dict(zip(words[5::2], words[6::2], strict=True))
    x, y, kernel = np.load(words[1]).astype(np.float64), np.load("y.npy"), words[4]
    size = int(kernel.partition(":")[2] or 3)
    filter = np.full((size, size), 1 / size**2)
    # Steps beyond the image are all alike.
    steps = {name: min(int(options.get(f"--{name}", 1)), 99) for name in ("stride", "dilation")}
    expected = reference.conv2d(x, filter, padding=options.get("--padding", "SAME"), **steps)
    finite = np.where(np.isfinite(x), np.abs(x), 0)
    most = finite.max(initial=0) * size**2
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6 * most)
    Path("y.npy").unlink()
