"""The cost of a small call, reported beside `numpy.add` on the same array."""

import timeit

import numpy as np
import pytest

import depthwise

LIMIT = 5e-6
PREPARED_LIMIT = 2e-6
#: What `numpy.add` takes on machines that the limits are meant for; elsewhere all of Python takes longer.
ADDITION = 0.5e-6


@pytest.fixture(scope="module")
def calls():
    x, filter = np.ones((1, 4, 4, 8), np.float32), np.ones((3, 3, 8, 1), np.float32)
    out = np.empty_like(x)
    prepared = depthwise.Conv2D(filter, num_threads=1)
    return {
        "numpy.add": (lambda: np.add(x, x), None),
        "depthwise_conv2d": (lambda: depthwise.depthwise_conv2d(x, filter, [1, 1, 1, 1], "SAME"), LIMIT),
        "conv2d": (lambda: depthwise.conv2d(x, filter), LIMIT),
        "conv2d with out": (lambda: depthwise.conv2d(x, filter, out=out, num_threads=1), LIMIT),
        "Conv2D with out": (lambda: prepared(x, out=out), PREPARED_LIMIT),
    }


@pytest.mark.parametrize(
    "name", ["numpy.add", "depthwise_conv2d", "conv2d", "conv2d with out", "Conv2D with out"]
)
@pytest.mark.benchmark(group="a call on 1x4x4x8 with a 3x3 filter", min_rounds=200, warmup=True)
def test_a_small_call_is_cheap(benchmark, calls, name):
    call, limit = calls[name]
    benchmark(call)
    if limit is not None and benchmark.stats is not None:
        # The fastest round: what else runs on the machine can only add to it.
        assert benchmark.stats.stats.min <= limit * max(1, addition() / ADDITION)


def addition():
    x = np.ones((1, 4, 4, 8), np.float32)
    return min(timeit.repeat(lambda: np.add(x, x), number=100, repeat=200)) / 100
