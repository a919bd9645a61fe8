"""Floating point: every magnitude, subnormals, and the environment left as it was found."""

import ctypes
import platform

import numpy as np
import pytest
from helpers import DTYPES, check_conv2d, check_grad_filter, check_grad_input, random_array

import depthwise

LAYOUTS = ("NHWC", "NCHW")
# Powers of two; with the smallest, products are subnormal, and with the largest, sums nearly overflow.
SCALES = {
    "float16": (-6, 0, 4),
    "bfloat16": (-45, 0, 40),
    "float32": (-62, -45, 0, 40),
    "float64": (-340, 0, 330),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_magnitude(rng, dtype, layout):
    """Products that fall among the subnormals are summed as exactly as others."""
    shape = (2, 9, 10, 20) if layout == "NHWC" else (2, 20, 9, 10)
    for scale in SCALES[dtype]:
        x = (random_array(rng, shape, "float64") * 2.0**scale).astype(DTYPES[dtype])
        w = (random_array(rng, (3, 3, 20, 1), "float64") * 2.0**scale).astype(DTYPES[dtype])
        y = check_conv2d(x, w, layout=layout)
        check_grad_input(x.shape, w, y, layout=layout)
        check_grad_filter(x, w.shape, y, layout=layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cancellation(rng, dtype):
    """Terms that cancel leave an error of the size of the terms' own, not more."""
    x = random_array(rng, (1, 20, 20, 8), dtype)
    x[:, 1::2] = -x[:, ::2]
    w = np.ones((2, 1, 8, 1), DTYPES[dtype])
    y = check_conv2d(x, w, padding="VALID")
    assert not y[:, ::2].astype(np.float64).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_subnormals_are_kept(dtype, layout):
    tiny = (
        np.finfo(DTYPES[dtype]).smallest_subnormal if dtype != "bfloat16" else DTYPES[dtype].type(2.0**-133)
    )
    x = np.full((1, 9, 33, 5) if layout == "NHWC" else (1, 5, 9, 33), tiny)
    y = depthwise.conv2d(x, np.ones((3, 3, 5, 1), x.dtype), layout=layout, padding="VALID")
    assert (y.astype(np.float64) == 9 * float(tiny)).all()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the x86-64 control word")
def test_the_environment_is_left_as_found():
    """Rounding mode, masks and flush-to-zero of the calling thread are those of before the call."""
    libc = ctypes.CDLL(None)
    environment = (ctypes.c_uint8 * 64)()  # fenv_t, whose last word is MXCSR

    def control():
        assert libc.fegetenv(environment) == 0
        return bytes(environment)[:2], int.from_bytes(bytes(environment)[28:32], "little") & ~0x3F

    before = control()
    for dtype in DTYPES:
        x = np.full((1, 20, 20, 16), 1e-3).astype(DTYPES[dtype])
        for activation in (None, "silu"):
            depthwise.conv2d(x, np.ones((3, 3, 16, 1), x.dtype), activation=activation, num_threads=2)
    assert control() == before
