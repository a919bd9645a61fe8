"""Makes COUNT random malformed calls from a SEED and counts the answers; `test_malformed.py` runs it."""

import collections
import resource
import sys

import ml_dtypes
import numpy as np

import depthwise

count, seed = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
rng = np.random.default_rng(seed)


def pick(*values):
    return values[rng.integers(len(values))]


def number():
    return pick(1, 2, 3) if rng.random() < 0.6 else strange()


def strange():
    return pick(
        -(10**18),
        -1,
        0,
        1,
        1,
        1,
        2,
        3,
        7,
        65536,
        2**31,
        2**40,
        2**63,
        10**30,
        1.0,
        2.5,
        True,
        None,
        "1",
        b"1",
        float("nan"),
        float("inf"),
        1j,
        np.int8(2),
        np.float32(1),
        np.ones(2),
        [1],
        (),
        object(),
    )


def numbers(length):
    return pick(tuple, list)(number() for _ in range(length))


def shape():
    return tuple(int(n) for n in rng.integers(0, 7, pick(0, 1, 2, 3, 4, 4, 4, 4, 4, 5)))


def dtype():
    return pick(
        "f4",
        "f4",
        "f4",
        "f8",
        "f2",
        ml_dtypes.bfloat16,
        ">f4",
        "i4",
        "u1",
        "i8",
        "c8",
        "?",
        "U3",
        "M8[s]",
        object,
    )


def array():
    if rng.random() < 0.05:
        return pick(None, 1.0, "array", [], [[1.0]], object(), np.float32(1), {}, range(3))
    made = np.ones(shape(), "f4").astype(dtype())
    if made.ndim and rng.random() < 0.2:
        made = made[::-1]
    return np.ma.masked_array(made) if rng.random() < 0.03 else made


def image():
    return np.ones((1, 6, 6, 2), "f4") if rng.random() < 0.85 else array()


def filter():
    return np.ones((3, 3, 2, 1), "f4") if rng.random() < 0.85 else array()


def padding():
    if rng.random() < 0.5:
        return pick("SAME", "VALID")
    return pick(
        "SAME",
        "VALID",
        "same",
        "",
        None,
        b"SAME",
        number(),
        numbers(2),
        numbers(4),
        [numbers(2), numbers(2)],
        [numbers(2) for _ in range(4)],
        [[0, 0], numbers(2), numbers(2), [0, 0]],
    )


def sizes():
    return pick(
        (1, 6, 6, 2),
        (3, 3, 2, 1),
        numbers(4),
        numbers(3),
        shape(),
        None,
        5,
        np.array([1, 6, 6, 2]),
        np.ones(4),
    )


def strides():
    return (1, 1, 1, 1) if rng.random() < 0.5 else pick((1, 2, 2, 1), numbers(4), numbers(2), number())


def options(**makers):
    return {name: make() for name, make in makers.items() if rng.random() < 0.3}


def tensorflow():
    rest = options(
        dilations=lambda: pick(None, (1, 1), (2, 2), numbers(2), numbers(4), number()),
        data_format=lambda: pick("NHWC", "NCHW", None, "", 3, b"NHWC", []),
        name=lambda: pick(None, "x", 3),
    )
    tail = strides(), padding()
    name = pick("", "_backprop_input", "_backprop_filter")
    heads = {
        "": (image(), filter()),
        "_backprop_input": (sizes(), filter(), image()),
        "_backprop_filter": (image(), sizes(), image()),
    }
    return getattr(depthwise, "depthwise_conv2d" + name), (*heads[name], *tail), rest


def general():
    def pair():
        return pick(1, 2, number(), numbers(2), numbers(3))

    rest = options(
        stride=pair,
        dilation=pair,
        padding=padding,
        layout=lambda: pick("NHWC", "NCHW", "nhwc", None, 3),
        border=lambda: pick("constant", "reflect", "edge", "wrap", "symmetric", "mirror", None, 0),
        dtype=lambda: pick(None, "float32", "float64", "uint8", dtype(), 3),
        out=array,
        algorithm=lambda: pick("auto", "direct", "fft", "separable", "best", None, 1),
        num_threads=lambda: pick(None, 1, 2, number()),
    )
    name = pick("conv2d", "conv2d_grad_input", "conv2d_grad_filter", "plan", "Conv2D")
    if name == "conv2d":
        rest |= options(bias=array, activation=lambda: pick(None, "relu", "silu", "", 3))
    heads = {
        "conv2d": (image(), filter()),
        "conv2d_grad_input": (sizes(), filter(), image()),
        "conv2d_grad_filter": (image(), sizes(), image()),
        "plan": (sizes(), sizes()),
        "Conv2D": (filter(),),
    }
    if name in ("plan", "Conv2D"):
        rest.pop("out", None)
    return getattr(depthwise, name), heads[name], rest


outcomes = collections.Counter()
for i in range(count):
    function, arguments, keywords = pick(tensorflow, general)()
    try:
        result = function(*arguments, **keywords)
        if function is depthwise.Conv2D:
            result = result(image())
        outcomes["result"] += 1
    except (ValueError, TypeError, MemoryError) as error:
        assert str(error), (function, arguments, keywords)
        outcomes[type(error).__name__] += 1
    except BaseException:
        print("call", i, function, arguments, keywords, file=sys.stderr)
        raise
assert depthwise.conv2d(np.ones((1, 6, 6, 2), "f4"), np.ones((3, 3, 2, 1), "f4"))[0, 2, 2, 0] == 9
print(sum(outcomes.values()), dict(outcomes))
