"""The same call gives the same bits: for any threads, place in a batch, cut of the image, and address."""

import numpy as np
import pytest
from helpers import DTYPES, at_address, random_array, same_bits

import depthwise

CASES = {
    "wide": ((11, 12, 64), (3, 3, 64, 1), {}),
    "power of two": ((7, 7, 256), (3, 3, 256, 1), {}),
    "odd": ((13, 11, 17), (5, 5, 17, 1), {"stride": 2}),
    "few channels": ((37, 43, 3), (7, 7, 3, 1), {}),
    "multiplier": ((23, 19, 6), (3, 3, 6, 5), {"dilation": 2}),
    "planes": ((37, 33, 40), (3, 3, 37, 1), {"layout": "NCHW"}),
    "small planes": ((70, 7, 7), (5, 5, 70, 1), {"layout": "NCHW"}),
    "phases": ((24, 21, 9), (4, 3, 9, 1), {"stride": (3, 2), "dilation": (1, 2)}),
}
OPS = ("forward", "grad_input", "grad_filter")


def run(op, x, filter, grad, keywords, **options):
    keywords = {**keywords, **options}
    if op == "forward":
        return depthwise.conv2d(x, filter, **keywords)
    if op == "grad_input":
        return depthwise.conv2d_grad_input(x.shape, filter, grad, **keywords)
    return depthwise.conv2d_grad_filter(x, filter.shape, grad, **keywords)


def operands(rng, case, dtype, batch):
    shape, filter_shape, keywords = CASES[case]
    x = random_array(rng, (batch, *shape), dtype)
    filter = random_array(rng, filter_shape, dtype)
    return x, filter, random_array(rng, depthwise.conv2d(x, filter, **keywords).shape, dtype), keywords


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_threads_and_repetition(rng, op, case, dtype):
    arguments = operands(rng, case, dtype, 2)
    expected = run(op, *arguments, num_threads=1)
    for num_threads in range(1, 9):
        for _ in range(2):
            assert same_bits(run(op, *arguments, num_threads=num_threads), expected), num_threads


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_place_in_the_batch(rng, op, case, dtype):
    """Each image of a batch has the bits that it has alone."""
    x, filter, grad, keywords = operands(rng, case, dtype, 5)
    together = run(op, x, filter, grad, keywords)
    for i in range(5):
        alone = run(op, x[i : i + 1], filter, grad[i : i + 1], keywords)
        assert same_bits(alone[0], together[i]), i


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [name for name in CASES if not CASES[name][2].get("stride")])
def test_cuts_of_the_image(rng, case, dtype):
    """Rows and columns computed from the part of the image that they see have the same bits."""
    shape, filter_shape, keywords = CASES[case]
    x, filter = random_array(rng, (1, *shape), dtype), random_array(rng, filter_shape, dtype)
    if keywords.get("layout") != "NCHW":
        x = np.moveaxis(x, -1, 1)
    keywords = {**keywords, "layout": "NCHW", "padding": "VALID"}
    whole = depthwise.conv2d(x, filter, **keywords)
    reach = x.shape[2] - whole.shape[2], x.shape[3] - whole.shape[3]
    for top, left, height, width in ((0, 0, 1, 1), (1, 1, 1, 2), (0, 1, 3, 1), (2, 0, 1, 3)):
        height, width = min(height, whole.shape[2] - top), min(width, whole.shape[3] - left)
        if height <= 0 or width <= 0:
            continue
        part = x[:, :, top : top + height + reach[0], left : left + width + reach[1]]
        cut = depthwise.conv2d(part, filter, **keywords)
        assert same_bits(cut, np.ascontiguousarray(whole[:, :, top : top + height, left : left + width]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_addresses(rng, op, case, dtype):
    """Any alignment of the arrays to 1 to 64 bytes, aligned for their elements or not."""
    x, filter, grad, keywords = operands(rng, case, dtype, 1)
    expected = run(op, x, filter, grad, keywords)
    for offset in (1, 2, 4, 8, 12, 16, 20, 32, 48, 60, 63):
        moved = (at_address(array, (offset * k) % 64) for k, array in enumerate((x, filter, grad), start=1))
        assert same_bits(run(op, *moved, keywords), expected), offset
