"""Every row of the kernel registry, on every ISA that this machine has and in every dtype.

The rows come from the registry itself, so a new kernel is tested without being listed here. Each must be what
"auto" takes for some problem, and when forced onto a problem that it accepts give the generic row's bits, or
keep its algorithm's error bound.
"""

import itertools
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from helpers import (
    DTYPES,
    assert_forward,
    assert_within,
    at_address,
    random_array,
    same_bits,
    sum_bound,
    transform_bound,
)

import depthwise
from depthwise import _native, _spec, reference

OPS = _spec.OPS
GENERIC = "generic"
VECTOR_BYTES = {"sse2": 16, "neon": 16, "avx2": 32, "avx512": 64}
ALGORITHM = {(row["op"], row["name"]): row["algorithm"] for row in _native.kernels()}


def problems():
    """Shapes that between them every kernel is made for: (x of NHWC, filter, keywords)."""
    sizes = [(1, 1), (3, 5), (7, 7), (14, 13), (5, 40), (33, 29)]
    channels = [1, 2, 3, 4, 5, 8, 13, 16, 17, 32, 67]
    for (h, w), c, kernel in itertools.product(sizes, channels, (1, 3, 5, 7, 9)):
        yield (1, h, w, c), (kernel, kernel, c, 1), {}
    for (h, w), c, (stride, dilation) in itertools.product(
        sizes, channels, [((2, 2), (1, 1)), ((3, 3), (1, 1)), ((1, 1), (2, 2)), ((2, 1), (1, 3))]
    ):
        yield (2, h, w, c), (3, 3, c, 1), {"stride": stride, "dilation": dilation}
    for (h, w), c, m in itertools.product(sizes, (1, 3, 8, 17), (2, 3, 4, 8, 16)):
        yield (1, h, w, c), (3, 3, c, m), {}
    yield (1, 14, 14, 512), (3, 3, 512, 1), {}
    yield (1, 7, 7, 1024), (3, 3, 1024, 1), {}
    yield (1, 56, 56, 32), (31, 31, 32, 1), {}
    yield (1, 40, 300, 3), (3, 3, 3, 1), {}
    yield (8, 14, 14, 64), (7, 7, 64, 1), {}
    yield (1, 1, 5, 1), (1, 3, 1, 1), {"dilation": (1, 2**20)}
    yield (1, 1, 2**19, 1), (1, 3, 1, 1), {"dilation": (1, 2**18)}  # no row of taps fits into scratch


def spec_of(x_shape, filter_shape, keywords, layout, dtype):
    shape = x_shape if layout == "NHWC" else (x_shape[0], x_shape[3], *x_shape[1:3])
    return _spec.general_spec(shape, filter_shape, dtype, layout=layout, **keywords)


@cache
def specs(layout, dtype):
    return [spec_of(*problem, layout, dtype) for problem in problems()]


def rows():
    """(op, name) of every row but the separable ones, which take filters of rank 1: test_separable.py."""
    return sorted({(row["op"], row["name"]) for row in _native.kernels() if row["algorithm"] != "separable"})


def plan(spec, op, kernel=None, isa=None):
    return _native.Plan(*spec.native_arguments(op), kernel, isa)


@cache
def accepted(op, name, isa, dtype):
    """A few problems of each kind that the kernel takes, smallest first."""
    found = []
    for layout in _spec.LAYOUTS:
        taken = []
        for spec in specs(layout, dtype):
            try:
                plan(spec, op, name, isa)
            except ValueError:
                continue
            taken.append(spec)
        found += taken[:: max(1, len(taken) // 12)]
    return found


def operands(rng, spec, op):
    shapes = {
        "forward": ("input", "filter"),
        "grad_input": ("output", "filter"),
        "grad_filter": ("input", "output"),
    }
    return [random_array(rng, getattr(spec, f"{name}_shape"), spec.dtype) for name in shapes[op]]


def transforms(op, name):
    return ALGORITHM[op, name] == "fft"


def assert_right(result, spec, op, a, b, name):
    """Within the bound of the kernel's algorithm."""
    h, w = spec.height, spec.width
    keywords = {
        "stride": (h.stride, w.stride),
        "dilation": (h.dilation, w.dilation),
        "layout": spec.layout,
    }
    transformed = transform_bound(op, a, b, spec) if transforms(op, name) else None
    if op == "forward":
        assert_forward(result, a, b, transformed=transformed, **keywords)
        return
    magnitudes = [np.abs(array.astype(np.float64)) for array in (a, b)]
    if op == "grad_input":
        calls = [
            reference.conv2d_grad_input(spec.input_shape, f, g, **keywords)
            for g, f in ((a, b), tuple(magnitudes))
        ]
        terms = h.kernel * w.kernel * spec.multiplier
    else:
        calls = [
            reference.conv2d_grad_filter(x, spec.filter_shape, g, **keywords)
            for x, g in ((a, b), tuple(magnitudes))
        ]
        terms = spec.batch * h.output * w.output
    bound = sum_bound(terms, calls[1], spec.dtype) if transformed is None else transformed
    assert_within(result, calls[0], bound, spec.dtype)


def test_the_registry_has_rows():
    assert ("forward", GENERIC) in rows()
    assert _native.isas()
    assert set(_native.isas()) <= set(_native.compiled_isas())


@pytest.mark.parametrize(("op", "name"), rows())
def test_auto_reaches_every_row(rng, op, name):
    """For some problem and dtype "auto" takes this row, says so, and runs it."""
    for dtype, layout in itertools.product(DTYPES, _spec.LAYOUTS):
        for spec in specs(layout, dtype):
            chosen = plan(spec, op)
            told = chosen.describe(1)
            if told["kernel"] != name:
                continue
            a, b = operands(rng, spec, op)
            result = chosen.run(a, b, None, None, 1)
            ran = _native.last_run()
            assert (ran["kernel"], ran["isa"], ran["threads"]) == (name, told["isa"], 1)
            assert told["isa"] in _native.isas()
            assert_right(result, spec, op, a, b, name)
            return
    pytest.fail(f"no problem here makes 'auto' take {name} for {op}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize(("op", "name"), rows())
def test_forced_row_gives_the_bits_of_the_generic_one(rng, op, name, isa, dtype):
    taken = accepted(op, name, isa, dtype)
    if not taken:
        pytest.skip(f"{name} takes no problem of {dtype} on {isa}")
    for spec in taken:
        a, b = operands(rng, spec, op)
        result = plan(spec, op, name, isa).run(a, b, None, None, 1)
        ran = _native.last_run()
        assert (ran["kernel"], ran["isa"]) == (name, isa)
        if op == "grad_filter" or transforms(op, name):  # no sum in the order of the taps
            assert_right(result, spec, op, a, b, name)
        else:
            assert same_bits(result, plan(spec, op, GENERIC, isa).run(a, b, None, None, 1)), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize(
    "name", ["nhwc_direct", "nhwc_direct_multiplier", "nchw_transposed", "nhwc_fft", "nchw_fft"]
)
def test_filters_that_were_prepared_give_the_same_bits(rng, name, isa, dtype):
    """Whatever the threads; of a filter that is not finite the direct kernels keep nothing."""
    kept = 0
    for spec in accepted("forward", name, isa, dtype):
        a, b = operands(rng, spec, "forward")
        spoilt = b.copy()
        spoilt[0, 0, 0, 0] = np.inf
        for filter, threads in itertools.product((b, spoilt), (1, 8)):
            chosen = plan(spec, "forward", name, isa)
            prepared = chosen.prepare(filter, threads)
            if prepared is None:
                continue
            result = chosen.run(a, filter, None, None, threads, prepared)
            assert same_bits(result, chosen.run(a, filter, None, None, threads)), spec
            if not transforms("forward", name):
                assert (prepared.bytes == 0) == (filter is spoilt), spec
            kept += prepared.bytes
    assert kept > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", _spec.LAYOUTS)
def test_groups_of_taps_of_the_filter_gradient(rng, layout, dtype):
    """Kernels of any number of rows and columns over images that cut them on every side, several or one."""
    names = [name for op, name in rows() if op == "grad_filter" and not transforms(op, name)]
    kernels = list(itertools.product((1, 2, 3, 4, 5, 7, 8, 9), (1, 2, 3, 5, 6, 7, 8), (1, 2)))
    others = itertools.cycle([(3, 7, 9), (1, 9, 14), (9, 5, 4)])
    cases = [(kernel, image) for kernel in kernels for image in ((1, 6, 7), next(others))]
    for (height, width, stride), image in cases:
        spec = spec_of((*image, 18), (height, width, 18, 1), {"stride": stride}, layout, dtype)
        a, b = operands(rng, spec, "grad_filter")
        for name, isa in itertools.product(names, _native.isas()):
            try:
                chosen = plan(spec, "grad_filter", name, isa)
            except ValueError:
                continue
            assert_right(chosen.run(a, b, None, None, 1), spec, "grad_filter", a, b, name)


def leaves_taps_out(layout, dtype):
    """Problems of kernels some of whose taps no output has over the image."""
    cases = [
        ((1, 7, 9, 16), (9, 5, 16, 1), {"dilation": (5, 4)}),
        ((2, 6, 5, 3), (13, 15, 3, 1), {}),
        ((1, 5, 7, 8), (11, 9, 8, 2), {"dilation": (2, 3)}),
        ((1, 9, 4, 16), (7, 11, 16, 1), {"stride": (2, 3), "dilation": (4, 1)}),
        ((1, 4, 37, 32), (9, 3, 32, 1), {"dilation": (1, 40)}),
    ]
    return [spec_of(*case, layout, dtype) for case in cases]


@pytest.mark.filterwarnings("ignore:invalid value")  # infinity times 0
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "name"), [row for row in rows() if row[0] != "grad_filter"])
def test_taps_that_no_output_has_over_the_image(rng, op, name, dtype):
    """They make no difference while they are finite; an infinite one times the padding is NaN."""
    taken = 0
    for spec in itertools.chain.from_iterable(leaves_taps_out(layout, dtype) for layout in _spec.LAYOUTS):
        try:
            chosen = plan(spec, op, name)
        except ValueError:
            continue
        taken += 1
        a, b = operands(rng, spec, op)
        result = chosen.run(a, b, None, None, 1)
        assert_right(result, spec, op, a, b, name)
        for tap in ((0, 0), (b.shape[0] // 2, -1)):
            spoiled = b.copy()
            spoiled[(*tap, 1, 0)] = np.inf
            assert_right(chosen.run(a, spoiled, None, None, 1), spec, op, a, spoiled, name)
    assert taken


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_few_channels_of_every_width_have_the_bits_of_the_generic_row(rng, op, isa, dtype):
    """Rows that end anywhere in a tile, and those whose step looks like that of neighbouring pixels."""
    channels = (1, 2, 3, 4, 5, 7)
    cases = [((1, 11, w, c), (k, k, c, 1), {}) for w in range(9, 80, 3) for c in channels for k in (3, 5)]
    cases += [
        ((1, 16, 61, c), (3, 3, c, 1), {"stride": s, "dilation": d})
        for c, s, d in itertools.product(channels, (1, 2, 3), (1, 2))
    ]
    cases += [((1, 9, w, 3), (7, taps, 3, 1), {}) for w in range(20, 60, 5) for taps in (7, 17)]
    cases += [
        ((1, 39, 57, c), (3, 3, c, m), {"stride": m, "dilation": m}) for c, m in ((2, 2), (3, 2), (1, 3))
    ]
    cases += [
        ((1, 6, w, c), (3, 3, c, m), {"stride": s})
        for w, (c, m), s in itertools.product((9, 31, 58), ((1, 2), (1, 3), (1, 5), (2, 2), (3, 2)), (1, 2))
    ]
    # Taps that reach over the right end of many vectors.
    cases += [
        ((1, 9, 190, c), (3, 3, c, 1), {"dilation": (1, 30), "padding": ((1, 1), (0, 60))}) for c in (1, 3, 5)
    ]
    lanes = VECTOR_BYTES[isa] // DTYPES[dtype].itemsize
    for x_shape, filter_shape, keywords in cases:
        pixel = filter_shape[2] * (filter_shape[3] if op == "forward" else 1)
        if pixel // math.gcd(pixel, lanes) % 2 == 0:  # pixels of two vectors have rows of their own
            continue
        spec = _spec.general_spec(x_shape, filter_shape, dtype, **keywords)
        a, b = operands(rng, spec, op)
        expected = plan(spec, op, GENERIC, isa).run(a, b, None, None, 1)
        assert same_bits(plan(spec, op, "nhwc_few_channels", isa).run(a, b, None, None, 1), expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
def test_planes_of_every_width_under_a_stride_have_the_bits_of_the_generic_row(rng, isa, dtype):
    """Rows that begin in any phase, and end anywhere in a vector of triples."""
    for w, taps, before, stride in itertools.product(range(9, 100, 7), (2, 3, 7), (0, 1, 2), (2, 3, 4)):
        spec = _spec.general_spec(
            (1, 2, 7, w),
            (3, taps, 2, 1),
            dtype,
            layout="NCHW",
            stride=(1, stride),
            padding=((1, 1), (before, 3)),
        )
        a, b = operands(rng, spec, "forward")
        expected = plan(spec, "forward", GENERIC, isa).run(a, b, None, None, 1)
        assert same_bits(plan(spec, "forward", "nchw_planes", isa).run(a, b, None, None, 1), expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
def test_rows_of_more_taps_than_pixels_have_the_bits_of_the_generic_row(rng, isa, dtype):
    """Tiles whose outputs have taps on every pixel of the row, on all but a few, or on some."""
    for w, name in itertools.product((1, 5, 7, 8, 13, 14, 17, 28), ("nhwc_direct", "nchw_transposed")):
        layout = name[:4].upper()
        for taps in {w, w + 2, 2 * w - 1, 2 * w + 4}:
            spec = spec_of((1, 3, w, 19), (3, taps, 19, 1), {}, layout, dtype)
            a, b = operands(rng, spec, "forward")
            try:
                chosen = plan(spec, "forward", name, isa)
            except ValueError:
                continue
            expected = plan(spec, "forward", GENERIC, isa).run(a, b, None, None, 1)
            assert same_bits(chosen.run(a, b, None, None, 1), expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("multiplier", [2, 3, 5, 16, 17])
def test_multipliers_of_planes_have_the_bits_of_the_generic_row(rng, multiplier, isa, dtype):
    """Lines of results that repeat a line of source channels, whole or not; tasks that begin within one."""
    settings = [{}, {"stride": (2, 3)}, {"dilation": (2, 1)}, {"stride": (1, 2), "dilation": (3, 1)}]
    for channels, keywords in itertools.product((1, 3, 16, 37), settings):
        spec = spec_of((2, 9, 11, channels), (3, 5, channels, multiplier), keywords, "NCHW", dtype)
        a, b = operands(rng, spec, "forward")
        b[0, 0, 0, 0] = np.inf if channels == 3 else 1  # a line whose taps on zeros make NaN
        expected = plan(spec, "forward", GENERIC, isa).run(a, b, None, None, 1)
        chosen = plan(spec, "forward", "nchw_transposed", isa)
        for threads in (1, 3):
            assert same_bits(chosen.run(a, b, None, None, threads), expected), spec


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_batches_beyond_the_caches_have_the_bits_of_their_images(rng, op, isa, dtype):
    """Arrays of more than 16 MiB: results are written past the caches where whole lines allow it."""
    cases = [
        ((113, 112, 96), 3, {}),
        ((90, 91, 144), 5, {"dilation": 2}),
        ((113, 112, 96), 3, {"stride": 2}),
        ((64, 65, 128), 3, {}),
        ((65, 66, 128), 3, {"stride": 2}),
        ((33, 35, 264), 3, {}),
        ((33, 35, 256), 3, {"stride": 2}),
        ((80, 81, 48), 3, {"multiplier": 4}),
        ((400, 401, 3), 3, {}),
        ((32, 113, 112), 3, {"layout": "NCHW"}),
        ((32, 113, 107), 3, {"layout": "NCHW"}),
        ((3, 400, 1072), 3, {"layout": "NCHW", "padding": "VALID"}),
        ((16, 225, 224), 3, {"layout": "NCHW", "stride": 2}),
    ]
    ran = set()
    for image, kernel, keywords in cases:
        channels = image[0] if "layout" in keywords else image[2]
        filter_shape = kernel, kernel, channels, keywords.get("multiplier", 1)
        batch = 1 + (16 << 20) // (int(np.prod(image)) * DTYPES[dtype].itemsize)
        options = {key: value for key, value in keywords.items() if key != "multiplier"}
        one, many = (_spec.general_spec((n, *image), filter_shape, dtype, **options) for n in (1, batch))
        a, b = operands(rng, many, op)
        result = plan(many, op, None, isa).run(a, b, None, None, 2)
        name = _native.last_run()["kernel"]
        ran.add(name)
        for i in range(batch):
            expected = plan(one, op, name, isa).run(a[i : i + 1], b, None, None, 1)
            assert same_bits(result[i : i + 1], expected), many
    assert {"nhwc_direct", "nhwc_few_channels", "nchw_planes"} <= ran


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("channels", [32, 64, 128, 256, 512])
def test_pixels_that_evict_each_other_have_the_bits_of_the_generic_row(rng, channels, isa, dtype):
    """Rows of few pixels and many, under tiles of whole lines or from copies, whatever padding cuts."""
    sizes = itertools.product((1, 2, 3, 4, 5, 6, 8, 9, 13), (1, 2, 3), (0, 1, 2), (None, "relu"))
    for width, stride, pad, activation in sizes:
        if width + 2 * pad < 3:
            continue
        keywords = {"stride": stride, "padding": pad, "activation": activation}
        spec = _spec.general_spec((1, 5, width, channels), (3, 3, channels, 1), dtype, **keywords)
        x, filter = operands(rng, spec, "forward")
        bias = random_array(rng, (channels,), dtype) if activation else None
        arguments = spec.native_arguments("forward", has_bias=bias is not None)
        expected = _native.Plan(*arguments, GENERIC, isa).run(x, filter, bias, None, 1)
        result = _native.Plan(*arguments, "nhwc_direct", isa).run(x, filter, bias, None, 1)
        assert same_bits(result, expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize(
    ("kernel", "channels", "multiplier"),
    [
        ("nhwc_direct", 16, 1),
        ("nhwc_direct", 28, 1),
        ("nhwc_direct", 64, 1),
        ("nhwc_direct", 256, 1),
        ("nhwc_direct_multiplier", 16, 3),
    ],
)
def test_pairs_of_rows_have_the_bits_of_the_generic_row(rng, kernel, channels, multiplier, isa, dtype):
    """Rows of several tiles, an even number and not, with padding that cuts tiles on every side."""
    sizes = itertools.product((9, 10, 12, 17, 27), (2, 3, 4, 7), (1, 2), (0, 1, 2), (None, "relu"))
    for width, height, stride, pad, activation in sizes:
        keywords = {"stride": stride, "padding": pad, "activation": activation}
        if min(height + 2 * pad, width) < 3:
            continue
        image, filter_shape = (1, height, width * stride, channels), (3, 3, channels, multiplier)
        spec = _spec.general_spec(image, filter_shape, dtype, **keywords)
        x, filter = operands(rng, spec, "forward")
        bias = random_array(rng, (channels * multiplier,), dtype) if activation else None
        arguments = spec.native_arguments("forward", has_bias=bias is not None)
        expected = _native.Plan(*arguments, GENERIC, isa).run(x, filter, bias, None, 1)
        result = _native.Plan(*arguments, kernel, isa).run(x, filter, bias, None, 1)
        assert same_bits(result, expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("taps", [4, 5, 7, 9])
@pytest.mark.parametrize(("kernel", "multiplier"), [("nhwc_direct", 1), ("nhwc_direct_multiplier", 2)])
def test_pairs_of_rows_of_large_kernels_have_the_bits_of_the_generic_row(
    rng, kernel, multiplier, taps, isa, dtype
):
    """Fewer rows and columns than taps and more, under tiles of every width, cut on all sides."""
    sizes = itertools.product((4, 5, 7, 8, 12, 18), (1, 2, 3, 9), (1, 2, 3), (0, taps // 2, taps - 1))
    for width, height, stride, pad in sizes:
        if min(height, width) + 2 * pad < taps:
            continue
        for channels, filter_rows in ((20, taps), (20, 3), (64, taps)):
            image = 1, height, width * stride, channels
            filter_shape = filter_rows, taps, channels, multiplier
            spec = _spec.general_spec(image, filter_shape, dtype, stride=stride, padding=pad)
            x, filter = operands(rng, spec, "forward")
            expected = plan(spec, "forward", GENERIC, isa).run(x, filter, None, None, 1)
            result = plan(spec, "forward", kernel, isa).run(x, filter, None, None, 1)
            assert same_bits(result, expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize(
    ("kernel", "channels", "multiplier"),
    [("nhwc_direct", 20, 1), ("nhwc_direct", 64, 1), ("nhwc_direct_multiplier", 16, 2)],
)
def test_residues_of_columns_have_the_bits_of_the_generic_row(rng, kernel, channels, multiplier, isa, dtype):
    """Dilated columns whose residues share a task, many of a few pixels and not, whatever the border."""
    cases = itertools.product(
        ((9, 2), (8, 5), (10, 19)), (1, 2), ("constant", "reflect"), (None, "relu"), (False, True)
    )
    for dilation, stride, border, activation, bad in cases:
        keywords = {"dilation": dilation, "stride": stride, "border": border, "activation": activation}
        image, filter_shape = (2, 23, 26, channels), (3, 3, channels, multiplier)
        spec = _spec.general_spec(image, filter_shape, dtype, padding=(9, 7), **keywords)
        x, filter = operands(rng, spec, "forward")
        if bad:
            filter[0, 2, channels // 2, 0] = np.inf
        bias = random_array(rng, (channels * multiplier,), dtype) if activation else None
        arguments = spec.native_arguments("forward", has_bias=bias is not None)
        expected = _native.Plan(*arguments, GENERIC, isa).run(x, filter, bias, None, 1)
        for threads in (1, 3):
            result = _native.Plan(*arguments, kernel, isa).run(x, filter, bias, None, threads)
            assert same_bits(result, expected), spec


@pytest.mark.parametrize("op", ["forward", "grad_input"])
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("dtype", DTYPES)
def test_classes_of_rows_of_planes_have_the_bits_of_the_generic_row(rng, op, isa, dtype):
    """Dilated rows whose classes share a task, of as many rows and not, whatever the border."""
    cases = itertools.product(
        ((2, 2), (3, 1), (25, 2)), (1, 2), ("constant", "reflect"), (3, 5), (False, True)
    )
    for dilation, stride, border, taps, bad in cases:
        keywords = {"dilation": dilation, "stride": stride, "border": border, "layout": "NCHW"}
        image, filter_shape = (2, 19, 23, 26), (taps, taps, 19, 1)
        spec = _spec.general_spec(image, filter_shape, dtype, padding=(50, 7), **keywords)
        a, b = operands(rng, spec, op)
        if bad:
            b[0, 2, 11, 0] = np.inf
        expected = plan(spec, op, GENERIC, isa).run(a, b, None, None, 1)
        for threads in (1, 3):
            result = plan(spec, op, "nchw_planes", isa).run(a, b, None, None, threads)
            assert same_bits(result, expected), spec


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", _native.isas())
def test_strips_of_planes_have_the_bits_of_the_generic_row(rng, taps, stride, dtype, isa):
    """Planes of a few vectors a row, and of fewer or more rows than taps, with every kind of edge."""
    sizes = ((1, 8), (2, 17), (7, 13), (16, 31), (33, 33), (9, 41), (70, 40), (5, 90))
    cases = itertools.product((None, "relu"), ("SAME", "VALID", (9, 20)), (1, 2, 9), sizes)
    for activation, padding, dilation, (height, width) in itertools.islice(cases, stride - 1, None, 2):
        span = dilation * (taps - 1) + 1
        if padding == "VALID":
            height, width = height * stride + span, width * stride + span
        elif padding != "SAME":
            height, width = max(height, span), max(width, span)
        image, filter_shape = (2, 19, height * stride, width * stride), (taps, taps, 19, 1)
        keywords = {"stride": stride, "dilation": dilation, "layout": "NCHW", "activation": activation}
        spec = _spec.general_spec(image, filter_shape, dtype, padding=padding, **keywords)
        x, filter = operands(rng, spec, "forward")
        bias = random_array(rng, (19,), dtype) if activation else None
        arguments = spec.native_arguments("forward", has_bias=bias is not None)
        expected = _native.Plan(*arguments, GENERIC, isa).run(x, filter, bias, None, 1)
        for threads in (1, 3):
            result = _native.Plan(*arguments, "nchw_planes", isa).run(x, filter, bias, None, threads)
            assert same_bits(result, expected), spec


@pytest.mark.parametrize("op", ["forward", "grad_input"])
@pytest.mark.parametrize("isa", _native.isas())
def test_tasks_of_few_threads_have_the_bits_of_many(rng, op, isa):
    """One thread takes all channels at once; more threads than such tasks share them out."""
    for height, channels, stride in itertools.product((5, 19), (200, 203), (1, 2)):
        image, filter_shape = (1, height, 40, channels), (3, 3, channels, 1)
        spec = _spec.general_spec(image, filter_shape, "float32", stride=stride, padding="SAME")
        a, b = operands(rng, spec, op)
        expected = plan(spec, op, GENERIC, isa).run(a, b, None, None, 1)
        for threads in (1, 2, 3, 8):
            result = plan(spec, op, "nhwc_direct", isa).run(a, b, None, None, threads)
            assert same_bits(result, expected), (spec, threads)


@pytest.mark.parametrize(
    ("height", "threads", "tasks", "rows"),
    [(7, 1, 1, 7), (7, 2, 2, 4), (8, 3, 3, 3), (7, 4, 4, 2), (14, 2, 2, 7), (27, 2, 4, 7), (56, 2, 8, 7)],
)
def test_threads_share_out_rows(height, threads, tasks, rows):
    """All channels to each, so that no two write to the same lines of the cache."""
    spec = _spec.general_spec((1, height, 28, 576), (3, 3, 576, 1), "float32", padding="SAME")
    described = plan(spec, "forward", "nhwc_direct", "").describe(threads)
    assert described["threads"] == threads
    assert (described["tasks"], described["tile"].split(" x ")[0]) == (tasks, f"{rows} rows")


@pytest.mark.parametrize(("height", "threads"), [(3, 2), (7, 3)])
def test_rows_that_would_leave_a_thread_waiting_are_not_shared_out(height, threads):
    spec = _spec.general_spec((1, height, 200, 576), (3, 3, 576, 1), "float32", padding="SAME")
    described = plan(spec, "forward", "nhwc_direct", "").describe(threads)
    assert described["tasks"] >= threads and described["tile"].startswith(f"{height} rows")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_images_that_begin_anywhere_have_the_bits_of_the_generic_row(rng, op, isa, dtype):
    """Vectors may begin where the result's lines do: of all channels in one task, and of some in several."""
    size = DTYPES[dtype].itemsize
    sizes = itertools.product((192, 204, 208, 296, 520, 1112), (2, 21), (1, 2), (3, 5))
    for channels, height, stride, kernel in sizes:
        image, filter_shape = (1, height, 18, channels), (kernel, kernel, channels, 1)
        spec = _spec.general_spec(image, filter_shape, dtype, stride=stride, padding="SAME")
        a, b = operands(rng, spec, op)
        bias = random_array(rng, (channels,), dtype) if op == "forward" and stride == 1 else None
        arguments = spec.native_arguments(op, has_bias=bias is not None)
        expected = _native.Plan(*arguments, GENERIC, isa).run(a, b, bias, None, 1)
        chosen = _native.Plan(*arguments, "nhwc_direct", isa)
        filters = (None, chosen.prepare(b)) if op == "forward" else (None,)
        for offset, threads, kept in itertools.product((0, size, 16, 48, 64 - size), (1, 8), filters):
            result = chosen.run(at_address(a, offset), b, bias, None, threads, kept)
            assert same_bits(result, expected), (spec, offset, threads)
            out = at_address(np.full_like(expected, np.nan), offset)
            assert same_bits(chosen.run(a, b, bias, out, threads, kept), expected), (spec, offset, threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kernel", [3, 5])
def test_filters_are_packed_once_for_every_place_where_memory_may_begin(rng, kernel, isa, dtype):
    spec = _spec.general_spec((1, 7, 9, 328), (kernel, kernel, 328, 1), dtype, padding="SAME")
    x, filter = operands(rng, spec, "forward")
    chosen = plan(spec, "forward", "nhwc_direct", isa)
    expected, kept = chosen.run(x, filter), chosen.prepare(filter)
    for offset in (0, 16, 32, 48):
        image, out = at_address(x, offset), at_address(np.empty_like(expected), offset)
        assert same_bits(chosen.run(image, filter, None, out, 1, kept), expected), offset
        assert same_bits(chosen.run(image, np.zeros_like(filter), None, out, 2, kept), expected), offset
    assert kept.bytes == chosen.prepared_bytes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("channels", [72, 136, 264])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("rows", [21, 23])
def test_images_beyond_the_second_level_cache_have_the_bits_of_the_generic_row(
    rng, rows, stride, channels, isa, dtype
):
    """Tiles may be narrower there, and taller: of fours, which leave one row over, or three."""
    columns = (9 << 20) // (rows * channels * DTYPES[dtype].itemsize)
    spec = _spec.general_spec(
        (1, rows, columns, channels), (3, 3, channels, 1), dtype, stride=stride, padding="SAME"
    )
    a, b = operands(rng, spec, "forward")
    expected = plan(spec, "forward", GENERIC, isa).run(a, b, None, None, 2)
    assert same_bits(plan(spec, "forward", "nhwc_direct", isa).run(a, b, None, None, 2), expected)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_results_lie_as_the_image_does_where_vectors_of_whole_lines_fit_both(rng, op, isa):
    spec = _spec.general_spec((1, 7, 9, 208), (3, 3, 208, 1), "float32", padding="SAME")
    a, b = operands(rng, spec, op)
    for offset in (0, 16, 60):
        a = at_address(a, offset)
        address = plan(spec, op, "nhwc_direct", isa).run(a, b, None, None, 1).ctypes.data
        assert address % 64 == (offset if isa == "avx512" else 0)
        assert (a.ctypes.data // 64 - address // 64) % 64 == 4  # clear of what is read next


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_narrow_vectors_are_taken_where_nobody_asks_for_an_isa(rng, monkeypatch, op, dtype):
    """They have the bits of the ISA that is asked for."""
    best = _native.isas()[0]
    narrow = "avx2" if best == "avx512" and "avx2" in _native.isas() else best
    lanes = 32 // DTYPES[dtype].itemsize
    planes = _spec.general_spec((2, 5, 21, 20), (3, 3, 5, 1), dtype, layout="NCHW", padding="SAME")
    pixels = _spec.general_spec((2, 20, 21, lanes + 1), (3, 3, lanes + 1, 1), dtype, padding="SAME")
    lines = _spec.general_spec((2, 20, 21, 2 * lanes), (3, 3, 2 * lanes, 1), dtype, padding="SAME")
    for spec, expected in ((planes, narrow), (pixels, narrow), (lines, best)):
        a, b = operands(rng, spec, op)
        free, wide = plan(spec, op), plan(spec, op, None, best)
        assert (free.describe(1)["isa"], wide.describe(1)["isa"]) == (expected, best)
        assert same_bits(free.run(a, b, None, None, 1), wide.run(a, b, None, None, 1))
    monkeypatch.setenv("DEPTHWISE_ISA", best)
    assert plan(pixels, op).describe(1)["isa"] == best


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("channels", [20, 32, 36, 64])
def test_taps_that_evict_each_other_have_the_bits_of_the_generic_row(rng, channels, isa, dtype):
    """Dilated rows whose neighbours under the taps lie as far apart, of lines that are whole and not."""
    for dilation, stride in itertools.product((4, 8, 32), (1, 2)):
        keywords = {"stride": stride, "dilation": dilation, "padding": dilation}
        spec = _spec.general_spec((1, 9, 99, channels), (3, 3, channels, 1), dtype, **keywords)
        a, b = operands(rng, spec, "forward")
        expected = plan(spec, "forward", GENERIC, isa).run(a, b, None, None, 1)
        assert same_bits(plan(spec, "forward", "nhwc_direct", isa).run(a, b, None, None, 1), expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_planes_of_every_width_have_the_bits_of_the_generic_row(rng, kernel, stride, isa, dtype):
    """Rows that end anywhere in a vector, and taps that reach past the vector behind theirs."""
    for width, dilation, pad in itertools.product(range(kernel, 70, 3), (1, 2), (0, kernel // 2)):
        keywords = {"stride": stride, "dilation": dilation, "padding": pad, "layout": "NCHW"}
        if width + 2 * pad <= dilation * (kernel - 1):
            continue
        spec = _spec.general_spec((1, 2, 17, width), (kernel, kernel, 2, 1), dtype, **keywords)
        a, b = operands(rng, spec, "forward")
        expected = plan(spec, "forward", GENERIC, isa).run(a, b, None, None, 1)
        assert same_bits(plan(spec, "forward", "nchw_planes", isa).run(a, b, None, None, 1), expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("gap", [9, 40, 120])
def test_taps_far_apart_have_the_bits_of_the_generic_row(rng, gap, isa, dtype):
    """Which reach over one end or both, of several vectors of a row or of all."""
    for before, after in ((0, gap), (gap, 0), (gap, gap), (0, 2 * gap), (2 * gap, 2 * gap)):
        keywords = {"dilation": (1, gap), "padding": ((1, 2), (before, after)), "layout": "NCHW"}
        spec = _spec.general_spec((1, 2, 30, 260), (3, 3, 2, 1), dtype, **keywords)
        a, b = operands(rng, spec, "forward")
        expected = plan(spec, "forward", GENERIC, isa).run(a, b, None, None, 1)
        assert same_bits(plan(spec, "forward", "nchw_planes", isa).run(a, b, None, None, 1), expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("activation", [None, "relu6"])
def test_narrow_planes_end_where_they_should(rng, activation, isa, dtype):
    """A few lanes or vectors a row, tall ones, more planes than lanes, and a weight that is not finite."""
    sizes = itertools.product((*range(1, 20), 37, 70), (7, 9, 700), (1, 2), (False, True))
    for columns, rows, stride, bad in sizes:
        keywords = {"padding": 1, "layout": "NCHW", "stride": stride}
        spec = _spec.general_spec((1, 9, rows * stride, columns * stride), (3, 3, 9, 1), dtype, **keywords)
        x, filter = operands(rng, spec, "forward")
        if bad:
            filter[0, 1, 4, 0] = np.inf
        bias = random_array(rng, (9,), dtype)
        arguments = replace(spec, activation=activation).native_arguments("forward", has_bias=True)
        expected = _native.Plan(*arguments, GENERIC, isa).run(x, filter, bias, None, 1)
        for threads in (1, 2):
            result = _native.Plan(*arguments, "nchw_planes", isa).run(x, filter, bias, None, threads)
            assert same_bits(result, expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7, (3, 5), (7, 3)])
def test_phases_of_strided_gradients_give_the_bits_of_the_generic_row(rng, isa, dtype, kernel):
    """Every pad, rows shorter and longer than tiles, parts of vectors, and a weight that is not finite."""
    filter_size = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    sizes, strides = [(3, 4), (5, 15), (6, 16), (9, 33)], [(2, 2), (1, 2), (2, 1), (3, 2), (2, 4), (4, 3)]
    for (h, w), pad, stride in itertools.product(sizes, range(max(filter_size)), strides):
        channels = int(rng.integers(16, 45))
        x_shape, filter_shape = (2, h, w, channels), (*filter_size, channels, 1)
        try:
            spec = _spec.general_spec(x_shape, filter_shape, dtype, stride=stride, padding=pad)
        except ValueError:  # no result
            continue
        a, b = operands(rng, spec, "grad_input")
        if rng.integers(4) == 0:
            b[0, -1, 0, 0] = np.inf
        try:
            chosen = plan(spec, "grad_input", "nhwc_direct", isa)
        except ValueError:
            continue
        expected = plan(spec, "grad_input", GENERIC, isa).run(a, b, None, None, 1)
        for threads in (1, 2):
            assert same_bits(chosen.run(a, b, None, None, threads), expected), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("op", sorted({op for op, _ in rows()}))
def test_generic_row_is_right_on_every_isa(rng, op, isa, dtype):
    for layout in _spec.LAYOUTS:
        for spec in specs(layout, dtype)[::40]:
            a, b = operands(rng, spec, op)
            assert_right(plan(spec, op, GENERIC, isa).run(a, b, None, None, 1), spec, op, a, b, GENERIC)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "relu", "relu6", "silu", "hard_swish"])
@pytest.mark.parametrize("name", [name for op, name in rows() if op == "forward"])
def test_bias_and_activation_of_every_forward_row(rng, name, activation, dtype):
    for spec in accepted("forward", name, None, dtype)[::6]:
        with_activation = replace(spec, activation=activation)
        x, filter = operands(rng, spec, "forward")
        bias = random_array(rng, (spec.channels * spec.multiplier,), dtype)
        arguments = with_activation.native_arguments("forward", has_bias=True)
        result = _native.Plan(*arguments, name, None).run(x, filter, bias, None, 1)
        if transforms("forward", name):
            keywords = {"stride": (spec.height.stride, spec.width.stride), "layout": spec.layout}
            keywords["dilation"] = (spec.height.dilation, spec.width.dilation)
            transformed = transform_bound("forward", x, filter, spec)
            assert_forward(
                result, x, filter, bias=bias, activation=activation, transformed=transformed, **keywords
            )
        else:
            generic = _native.Plan(*arguments, GENERIC, None).run(x, filter, bias, None, 1)
            assert same_bits(result, generic), spec


def test_an_algorithm_takes_only_its_own_rows():
    assert set(ALGORITHM.values()) <= set(_spec.ALGORITHMS) - {"auto"}
    for op, spec in itertools.product(OPS, specs("NHWC", "float32")[::50]):
        for algorithm in sorted(set(ALGORITHM.values())):
            try:
                described = plan(replace(spec, algorithm=algorithm), op).describe(1)
            except ValueError as error:
                assert str(error).startswith(f'algorithm "{algorithm}" does not compute')
                continue
            assert described["algorithm"] == ALGORITHM[op, described["kernel"]] == algorithm


def test_empty_problems_need_no_algorithm():
    for algorithm in _spec.ALGORITHMS:
        spec = _spec.general_spec((0, 4, 4, 8), (3, 3, 8, 1), "float32", algorithm=algorithm)
        assert plan(spec, "forward").describe(1)["kernel"] == GENERIC


def test_an_algorithm_without_a_kernel_is_refused():
    with pytest.raises(ValueError, match='algorithm "separable" does not compute this problem'):
        depthwise.conv2d_grad_filter(
            np.ones((1, 4, 4, 8)), (3, 3, 8, 1), np.ones((1, 4, 4, 8)), algorithm="separable"
        )


def test_unknown_rows_and_isas_are_refused():
    spec = _spec.general_spec((1, 4, 4, 8), (3, 3, 8, 1), "float32")
    with pytest.raises(ValueError, match="no such kernel"):
        plan(spec, "forward", "no such kernel")
    with pytest.raises(ValueError, match="no such isa"):
        plan(spec, "forward", None, "no such isa")


def test_native_plans_check_their_operands():
    spec = _spec.general_spec((1, 4, 4, 8), (3, 3, 8, 1), "float32")
    native = plan(spec, "forward")
    x, filter = np.ones((1, 4, 4, 8), np.float32), np.ones((3, 3, 8, 1), np.float32)
    for a, b in ((x[:, :3], filter), (x, filter[:2]), (x[0], filter), (x.astype("f8"), filter), (filter, x)):
        with pytest.raises((TypeError, ValueError)):
            native.run(a, b, None, None, 1)
    for out in (np.ones((1, 4, 4, 7), np.float32), np.ones((1, 4, 4, 8))):
        with pytest.raises((TypeError, ValueError)):
            native.run(x, filter, None, out, 1)
