"""The whole contract on random cases: layout, stride, dilation, padding, multiplier, dtype and memory.

Every example draws from the full cross-product and is compared with the float64 reference. A failure prints
the case and a blob that replays it; DEPTHWISE_HYPOTHESIS_PROFILE=ci runs 5,000 examples of each test.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from helpers import (
    DTYPES,
    MEMORY_FORMS,
    check_conv2d,
    check_grad_filter,
    check_grad_input,
    in_memory,
    random_array,
    require,
    same_bits,
)
from hypothesis import given
from hypothesis import strategies as st

import depthwise
from depthwise import _spec

# Around multiples of every vector width, with few channels and none.
CHANNELS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 40, 64, 67)
# Multiply-adds of a case; the reference takes some milliseconds for the largest.
MOST_WORK = 300_000


@dataclass(frozen=True)
class Case:
    """One call of `conv2d`, less the data, which `seed` gives."""

    batch: int | None
    size: tuple[int, int]
    channels: int
    multiplier: int | None
    kernel: tuple[int, int]
    keywords: dict
    dtype: str
    forms: tuple[str, str]
    seed: int

    @property
    def x_shape(self):
        image = (*self.size, self.channels)
        if self.keywords["layout"] == "NCHW":
            image = (self.channels, *self.size)
        return image if self.batch is None else (self.batch, *image)

    @property
    def filter_shape(self):
        return self.kernel if self.multiplier is None else (*self.kernel, self.channels, self.multiplier)

    @property
    def spec(self):
        return _spec.general_spec(self.x_shape, self.filter_shape, self.dtype, **self.keywords)

    @property
    def work(self):
        output, taps = self.spec.output_shape, self.kernel[0] * self.kernel[1]
        return int(np.prod(output)) * max(taps, 1) + int(np.prod(self.x_shape))

    def arrays(self, *shapes):
        """Random operands of these shapes in the case's memory forms."""
        rng = np.random.default_rng(self.seed)
        return [
            in_memory(random_array(rng, shape, self.dtype), form)
            for shape, form in zip(shapes, self.forms, strict=True)
        ]


def axis_pair(values):
    return st.tuples(values, values)


PADDINGS = st.one_of(
    st.sampled_from(["SAME", "VALID"]),
    st.integers(0, 4),
    axis_pair(st.integers(0, 5)),
    axis_pair(axis_pair(st.integers(0, 9))),
)


@st.composite
def cases(draw):
    """Cases that have an output; it may be empty."""
    dilation = draw(st.one_of(st.just((1, 1)), axis_pair(st.integers(1, 4))))
    case = Case(
        batch=draw(st.sampled_from([None, 0, 1, 1, 2, 3])),
        size=draw(st.one_of(axis_pair(st.integers(0, 8)), axis_pair(st.integers(1, 40)))),
        channels=draw(st.sampled_from(CHANNELS)),
        multiplier=draw(st.one_of(st.just(1), st.integers(0, 16), st.none())),
        kernel=draw(st.one_of(axis_pair(st.sampled_from([1, 3, 5, 7])), axis_pair(st.integers(0, 12)))),
        keywords={
            "stride": draw(st.one_of(st.just((1, 1)), axis_pair(st.integers(1, 5)))),
            "padding": draw(PADDINGS),
            "dilation": dilation,
            "layout": draw(st.sampled_from(["NHWC", "NCHW"])),
            "border": draw(st.sampled_from(["constant", *_spec.BORDERS])),
        },
        dtype=draw(st.sampled_from(sorted(DTYPES))),
        forms=draw(st.tuples(st.sampled_from(MEMORY_FORMS), st.sampled_from(MEMORY_FORMS))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    return fitted(case)


def fitted(case):
    """The case, changed where its filter does not fit or it would take long: no draw is thrown away."""
    changes = dict(case.__dict__)
    try:
        too_much = case.work > MOST_WORK
    except ValueError:
        changes["keywords"] = {**case.keywords, "padding": "SAME", "border": "constant"}
        return fitted(Case(**changes))
    if not too_much:
        return case
    if case.channels > 9:
        return fitted(Case(**{**changes, "channels": case.channels % 8 + 1}))
    if case.multiplier is not None and case.multiplier > 2:
        return fitted(Case(**{**changes, "multiplier": 2}))
    halved = "size" if max(case.size) > 1 else "kernel"  # wide padding around an image of nothing
    return fitted(Case(**{**changes, halved: tuple(n // 2 for n in getattr(case, halved))}))


@given(
    case=cases(),
    bias=st.booleans(),
    activation=st.sampled_from([None, None, "relu", "relu6", "silu", "hard_swish"]),
    num_threads=st.sampled_from([None, 1, 2, 3]),
)
def test_forward(case, bias, activation, num_threads):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    outputs = case.spec.channels * case.spec.multiplier
    values = random_array(np.random.default_rng(case.seed + 1), (outputs,), case.dtype) if bias else None
    check_conv2d(x, filter, bias=values, activation=activation, num_threads=num_threads, **case.keywords)


@given(case=cases(), num_threads=st.sampled_from([None, 1, 2, 3]))
def test_grad_input(case, num_threads):
    filter, grad = case.arrays(case.filter_shape, case.spec.output_shape)
    check_grad_input(case.x_shape, filter, grad, num_threads=num_threads, **case.keywords)


@given(case=cases(), num_threads=st.sampled_from([None, 1, 2, 3]))
def test_grad_filter(case, num_threads):
    x, grad = case.arrays(case.x_shape, case.spec.output_shape)
    check_grad_filter(x, case.filter_shape, grad, num_threads=num_threads, **case.keywords)


def inner_products(case, op):
    """<conv(x, w), g>, the same by a gradient, and the sum of the magnitudes of its terms."""
    require(op)
    rng = np.random.default_rng(case.seed)
    x = random_array(rng, case.x_shape, "float64")
    filter = random_array(rng, case.filter_shape, "float64")
    y = depthwise.conv2d(x, filter, **case.keywords)
    grad = random_array(rng, y.shape, "float64")
    if op == "grad_input":
        by_gradient = np.vdot(x, depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords))
    else:
        by_gradient = np.vdot(filter, depthwise.conv2d_grad_filter(x, filter.shape, grad, **case.keywords))
    magnitude = np.vdot(depthwise.conv2d(np.abs(x), np.abs(filter), **case.keywords), np.abs(grad))
    return np.vdot(y, grad), by_gradient, magnitude


@pytest.mark.parametrize("op", ["grad_input", "grad_filter"])
@given(case=cases())
def test_gradients_are_the_transposes_of_the_forward_operation(case, op):
    expected, actual, magnitude = inner_products(case, op)
    assert actual == pytest.approx(expected, rel=0, abs=1e-12 * magnitude)


@given(case=cases(), use_list=st.booleans())
def test_tensorflow_face_gives_the_same_bits(case, use_list):
    if case.batch is None or case.multiplier is None:
        case = Case(**{**case.__dict__, "batch": 1, "multiplier": 1})
    case = Case(**{**case.__dict__, "keywords": {**case.keywords, "border": "constant"}})
    (sh, sw), dilation, layout = (case.keywords[name] for name in ("stride", "dilation", "layout"))
    if max(sh, sw) > 1:
        dilation = (1, 1)
    height, width = case.spec.height, case.spec.width
    rows = [[height.pad_before, height.pad_after], [width.pad_before, width.pad_after]]
    zeros = [[0, 0]]
    explicit = zeros + rows + zeros if layout == "NHWC" else zeros + zeros + rows
    strides = (1, sh, sw, 1) if layout == "NHWC" else (1, 1, sh, sw)
    if use_list:
        strides, dilation = list(strides), list(dilation)
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    face = depthwise.depthwise_conv2d(x, filter, strides, explicit, layout, dilation)
    general = depthwise.conv2d(
        x, filter, stride=(sh, sw), dilation=tuple(dilation), padding=tuple(map(tuple, rows)), layout=layout
    )
    assert same_bits(face, general)


@given(case=cases(), position=st.integers(0, 2))
def test_position_in_the_batch_does_not_matter(case, position):
    case = Case(**{**case.__dict__, "batch": 3})
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    together = depthwise.conv2d(x, filter, **case.keywords)
    alone = depthwise.conv2d(x[position : position + 1], filter, **case.keywords)
    assert same_bits(together[position], alone[0])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_filter_gradient_of_a_large_batch_keeps_its_accuracy(layout):
    """Over 800,000 terms a plain float32 sum loses three digits; sums in pairs, or compensated, lose none."""
    require("grad_filter")
    shape = (64, 112, 112, 32) if layout == "NHWC" else (64, 32, 112, 112)
    rng = np.random.default_rng(5)
    x, grad = (1 + rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    actual = depthwise.conv2d_grad_filter(x, (3, 3, 32, 1), grad, layout=layout, num_threads=1)
    assert same_bits(
        actual, depthwise.conv2d_grad_filter(x, (3, 3, 32, 1), grad, layout=layout, num_threads=2)
    )
    axes = "nhwc" if layout == "NHWC" else "nchw"
    for tap in (0, 1):  # the one above on the left, and the middle
        read = slice(None, 111 + tap), slice(1 - tap, None)
        xs, gs = (
            (a[:, s, s] if layout == "NHWC" else a[:, :, s, s]).astype(np.float64)
            for a, s in zip((x, grad), read, strict=True)
        )
        expected = np.einsum(f"{axes},{axes}->c", xs, gs)
        magnitude = np.einsum(f"{axes},{axes}->c", np.abs(xs), np.abs(gs))
        assert np.all(np.abs(actual[tap, tap, :, 0] - expected) <= 8 * 2.0**-24 * magnitude)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [2, 24])
def test_filter_gradient_where_only_padding_meets_what_is_not_finite(layout, channels):
    """The corner of the output reads zeros alone; against infinity they give NaN in every tap."""
    shape = (1, 5, 5, channels) if layout == "NHWC" else (1, channels, 5, 5)
    rng = np.random.default_rng(6)
    x, filter = rng.standard_normal(shape), np.ones((3, 3, channels, 1))
    grad = np.ones_like(depthwise.conv2d(x, filter, padding=3, layout=layout))
    grad[(0, 0, 0, 1) if layout == "NHWC" else (0, 1, 0, 0)] = np.inf
    check_grad_filter(x, filter.shape, grad, padding=3, layout=layout)
    result = depthwise.conv2d_grad_filter(x, filter.shape, grad, padding=3, layout=layout)
    assert np.isnan(result[:, :, 1]).all()
    assert np.isfinite(result[:, :, 0]).all()
