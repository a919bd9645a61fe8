"""Arrays whose memory broke other depthwise convolutions: where it ends, how it is laid out, and `out`."""

import mmap
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers import (
    DTYPES,
    MEMORY_FORMS,
    assert_forward,
    check_conv2d,
    check_grad_filter,
    check_grad_input,
    in_memory,
    random_array,
    refused,
)

import depthwise


def image(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def general(x=None, filter=None, **keywords):
    """`conv2d` on an image (1, 6, 6, 2) and a filter (3, 3, 2, 1), unless other ones are given."""
    x = image(1, 6, 6, 2) if x is None else x
    return depthwise.conv2d(x, image(3, 3, 2, 1) if filter is None else filter, **keywords)


GUARDED = """
    import ctypes, mmap, sys
    import numpy as np
    import depthwise
    from depthwise import reference

    page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)

    def guarded(array, at_end):
        \"\"\"The array between two pages that must not be touched, against the one or the other.\"\"\"
        pages = -(-array.nbytes // page)
        area = mmap.mmap(-1, (pages + 2) * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(area))
        for guard in (base, base + (pages + 1) * page):
            assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
        offset = page + (pages * page - array.nbytes if at_end else 0)
        inside = np.ndarray(array.shape, array.dtype, area, offset)
        inside[...] = array
        return inside

    rng = np.random.default_rng(0)
    for layout in ("NHWC", "NCHW"):
        for channels in (1, 2, 3, 4, 5, 8, 9, 17, 67):
            for width in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33):
                for multiplier, stride, kernel in ((1, 1, 3), (1, 2, 3), (2, 1, 3), (1, 1, 5), (3, 2, 1)):
                    shape = (1, 3, width, channels) if layout == "NHWC" else (1, channels, 3, width)
                    x = rng.standard_normal(shape).astype(DTYPE)
                    w = rng.standard_normal((kernel, kernel, channels, multiplier)).astype(DTYPE)
                    keywords = dict(stride=stride, layout=layout, num_threads=1)
                    y = depthwise.conv2d(x, w, **keywords)
                    for end in (True, False):
                        a, b, out = guarded(x, end), guarded(w, end), guarded(np.zeros_like(y), end)
                        depthwise.conv2d(a, b, out=out, **keywords)
                        assert out.tobytes() == y.tobytes()
    print("untouched")
"""


class TestProtectedPages:
    @pytest.mark.parametrize("dtype", ["np.float32", "np.float64", "np.float16", "'bfloat16'"])
    def test_nothing_outside_the_arrays_is_read_or_written(self, dtype):
        assert mmap.PAGESIZE
        dtype = "__import__('ml_dtypes').bfloat16" if "b" in dtype else dtype
        code = textwrap.dedent(GUARDED).replace("DTYPE", dtype)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "untouched\n"


class TestMemoryForms:
    @pytest.mark.parametrize("form", MEMORY_FORMS)
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
    def test_of_the_operands(self, rng, form, dtype, layout):
        shape = (2, 6, 5, 8) if layout == "NHWC" else (2, 8, 6, 5)
        x = in_memory(random_array(rng, shape, dtype), form)
        filter = in_memory(random_array(rng, (3, 3, 8, 1), dtype), form)
        y = in_memory(check_conv2d(x, filter, layout=layout), form)
        check_grad_input(x.shape, filter, y, layout=layout)
        check_grad_filter(x, filter.shape, y, layout=layout)

    def test_odd_strides_of_single_elements(self, rng):
        x = random_array(rng, (1, 5, 1, 4), "float32")
        odd = np.lib.stride_tricks.as_strided(x, x.shape, (12345 * 4, x.strides[1], 7 * 4, 4))
        check_conv2d(odd, random_array(rng, (3, 3, 4, 1), "float32"))

    def test_memory_mapped(self, rng, tmp_path):
        x = random_array(rng, (1, 5, 5, 4), "float32")
        np.save(tmp_path / "x.npy", x)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        filter = random_array(rng, (3, 3, 4, 1), "float32")
        assert_forward(depthwise.conv2d(mapped, filter), x, filter)


class TestOutput:
    @pytest.mark.parametrize("shape", [(1, 6, 6, 1), (6, 6, 2), (1, 6, 6, 2, 1), (2, 6, 6, 2), ()])
    def test_shape(self, shape):
        with refused("out must have shape"):
            general(out=image(*shape))

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.int32])
    def test_dtype(self, dtype):
        out = np.full((1, 6, 6, 2), 7, dtype)
        with refused("out must have dtype"):
            general(out=out)
        assert (out == 7).all()

    def test_read_only(self):
        out = np.broadcast_to(np.float32(7), (1, 6, 6, 2)).copy()
        out.flags.writeable = False
        with refused("out must be writeable"):
            general(out=out)

    @pytest.mark.parametrize("what", ["x", "filter", "bias"])
    def test_overlap(self, what):
        buffer = np.ones(200, np.float32)
        operands = {"x": (1, 6, 6, 2), "filter": (3, 3, 2, 1), "bias": (2,)}
        arrays = {name: image(*shape) for name, shape in operands.items()}
        size = arrays[what].size
        arrays[what] = buffer[70 : 70 + size].reshape(operands[what])
        with refused("out must not overlap"):
            general(**arrays, out=buffer[:72].reshape(1, 6, 6, 2))
        assert (buffer == 1).all()

    def test_in_place(self):
        x = image(1, 6, 6, 2)
        with refused("out must not overlap"):
            general(x, out=x)
        with refused("out must not overlap"):
            general(x, out=x[:, ::-1])
        assert (x == 1).all()

    def test_elements_that_share_memory(self):
        out = np.lib.stride_tricks.as_strided(np.zeros(2, np.float32), (1, 6, 6, 2), (0, 0, 0, 4))
        with refused("out must not be broadcast"):
            general(out=out)

    @pytest.mark.parametrize("out", [[], 1.0, "out", np.ma.ones((1, 6, 6, 2), np.float32)])
    def test_no_array(self, out):
        with pytest.raises(TypeError, match="out must be a NumPy array"):
            general(out=out)

    def test_is_left_alone_by_errors(self):
        out = np.full((1, 6, 6, 2), 7, np.float32)
        for wrong in ({"num_threads": 0}, {"bias": image(5)}, {"stride": 0}, {"activation": "tanh"}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                general(out=out, **wrong)
        assert (out == 7).all()
