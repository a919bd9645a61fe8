"""Memory: scratch within its bound, no copy of contiguous operands, and data beyond 2^31 elements."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers import DTYPES
from hypothesis import settings

import depthwise

THOROUGH = settings.get_current_profile_name() == "ci"
MIB = 2**20
# What malloc and the threads' stacks may touch in a call, besides its operands, its result and scratch.
ALLOWANCE = 3 * MIB

PEAK = """
    import ctypes
    import json
    import numpy as np
    import depthwise

    def resident(field):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(field + ":")) * 1024

    def reset_peak():
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")

    def map_code():
        # What the process runs for the first time is mapped then, up to megabytes of the library at a time.
        with open("/proc/self/maps") as maps:
            for line in maps:
                if line.rstrip().endswith(depthwise._native.__file__):
                    begin, end = (int(address, 16) for address in line.split()[0].split("-"))
                    ctypes.string_at(begin, end - begin)

    def peak_of(call):
        call()  # once before, so that threads and code are there
        reset_peak()
        before = resident("VmRSS")
        call()
        return resident("VmHWM") - before
"""


def peaks(code):
    """The dictionary of extra bytes that the code, which follows PEAK, leaves in `found`."""
    source = textwrap.dedent(PEAK) + "found = {}\n" + textwrap.dedent(code) + "print(json.dumps(found))\n"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def can_measure():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return Path("/proc/self/status").exists()


measured = pytest.mark.skipif(not can_measure(), reason="the kernel does not tell peak memory")


def test_the_memory_of_a_large_result_serves_the_next_once_nothing_refers_to_it():
    x, filter = np.ones((1, 3000, 1000, 3), np.float32), np.full((1, 1, 3, 1), 2, np.float32)

    def address(array):
        return array.__array_interface__["data"][0]

    first = depthwise.conv2d(x, filter)
    second = depthwise.conv2d(x, filter * 2)
    assert not np.shares_memory(first, second)
    corner = first[0, :1, :1]
    free = address(first)
    del first
    third = depthwise.conv2d(x, filter * 3)
    assert corner.tolist() == [[[2, 2, 2]]]
    del corner
    fourth = depthwise.conv2d(x[:, :2950], filter * 4)
    assert address(fourth) == free
    for result, value in ((second, 4), (third, 6), (fourth, 8)):
        assert result.min() == result.max() == value


@measured
def test_memory_of_results_that_are_gone_is_bounded():
    found = peaks(
        """
        filter = np.ones((1, 1, 16, 1), np.float32)
        x = np.ones((1, 1024, 1024, 16), np.float32)
        depthwise.conv2d(x[:, :8], filter)
        before = resident("VmRSS")
        for rows in (520, 1024, 600, 1000, 640, 560):
            depthwise.conv2d(x[:, :rows], filter)
        found["kept"] = resident("VmRSS") - before
        """
    )
    assert found["kept"] <= 64 * MIB + ALLOWANCE


@measured
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_large_image_needs_only_scratch(layout):
    """4096 x 4096 x 8: the image has 512 MiB, scratch is at most 1 MiB a thread."""
    found = peaks(
        f"""
        shape = (1, 4096, 4096, 8) if "{layout}" == "NHWC" else (1, 8, 4096, 4096)
        x, w, out = np.ones(shape, np.float32), np.ones((3, 3, 8, 1), np.float32), np.empty(shape, np.float32)
        for threads in (1, 2):
            found[threads] = peak_of(
                lambda: depthwise.conv2d(x, w, layout="{layout}", out=out, num_threads=threads)
            )
        assert out.reshape(-1)[10**7] == 9
        """
    )
    for threads, extra in found.items():
        assert extra <= int(threads) * MIB + ALLOWANCE, found


@measured
@pytest.mark.parametrize("dtype", DTYPES)
def test_contiguous_operands_are_not_copied(dtype):
    """In both layouts and all operations; each operand has 16 MiB or more."""
    found = peaks(
        f"""
        import ml_dtypes
        dtype = ml_dtypes.bfloat16 if "{dtype}" == "bfloat16" else "{dtype}"
        for layout, shape in (("NHWC", (1, 512, 512, 64)), ("NCHW", (1, 64, 512, 512))):
            x, w, out = np.ones(shape, dtype), np.ones((3, 3, 64, 1), dtype), np.empty(shape, dtype)
            x.flags.writeable = False
            keywords = dict(layout=layout, num_threads=1)
            calls = {{
                "forward": lambda: depthwise.conv2d(x, w, out=out, **keywords),
                "grad_input": lambda: depthwise.conv2d_grad_input(shape, w, x, out=out, **keywords),
                "grad_filter": lambda: depthwise.conv2d_grad_filter(x, w.shape, x, **keywords),
            }}
            for name in sorted({{row["op"] for row in depthwise._native.kernels()}}):
                found[f"{{layout}} {{name}}"] = peak_of(calls[name])
        """
    )
    for name, extra in found.items():
        assert extra <= MIB + ALLOWANCE, (name, extra)


# Algorithm, layout, image, filter, and options: pixels, few channels, borders, planes, tiles of transforms
# that fit into a cache and tiles that fill the bound.
SCRATCH = [
    ("direct", "NHWC", (1, 256, 256, 128), (3, 3, 128, 1), {}),
    ("direct", "NHWC", (1, 700, 700, 3), (7, 7, 3, 8), {}),
    ("direct", "NHWC", (1, 200, 200, 64), (31, 31, 64, 1), {"border": "reflect"}),
    ("direct", "NCHW", (2, 64, 256, 256), (5, 5, 64, 1), {"stride": 2}),
    ("direct", "NCHW", (1, 4000, 14, 14), (3, 3, 4000, 1), {}),
    ("fft", "NHWC", (1, 256, 256, 64), (31, 31, 64, 1), {}),
    ("fft", "NCHW", (1, 8, 1024, 1024), (255, 255, 8, 1), {}),
    ("separable", "NHWC", (1, 1024, 1024, 16), (21, 21, 16, 1), {}),
    ("separable", "NCHW", (1, 8, 1024, 1024), (65, 65, 8, 1), {}),
]
OPS = ("forward", "grad_input", "grad_filter")


def rows_of_scratch():
    """Every row with every operation; without much time, with one."""
    for i, (row, (j, op)) in enumerate(itertools.product(SCRATCH, enumerate(OPS))):
        if (THOROUGH or (i // len(OPS) + j) % len(OPS) == 0) and (row[0], op) != ("separable", "grad_filter"):
            yield pytest.param(op, *row, id=f"{op}-{row[0]}-{row[1]}-{row[3][0]}x{row[3][1]}")


@measured
@pytest.mark.parametrize(
    ("op", "algorithm", "layout", "shape", "filter_shape", "options"), list(rows_of_scratch())
)
def test_peak_memory_of_an_algorithm(op, algorithm, layout, shape, filter_shape, options):
    """The first such call of a process that has its threads and its code: no scratch is kept from before."""
    options = {**options, "layout": layout, "algorithm": algorithm, "num_threads": 2}
    plan = depthwise.plan(shape, filter_shape, op=op, **options)
    output = depthwise.plan(shape, filter_shape, **options).output_shape
    found = peaks(f"""
        x, w, grad = (np.ones(shape, np.float32) for shape in ({shape}, {filter_shape}, {output}))
        out = {{"forward": grad, "grad_input": x, "grad_filter": w}}["{op}"].copy()
        calls = {{
            "forward": lambda: depthwise.conv2d(x, w, out=out, **{options}),
            "grad_input": lambda: depthwise.conv2d_grad_input(x.shape, w, grad, out=out, **{options}),
            "grad_filter": lambda: depthwise.conv2d_grad_filter(x, w.shape, grad, out=out, **{options}),
        }}
        depthwise.conv2d(np.ones((1, 300, 300, 4), np.float32), np.ones((3, 3), np.float32), num_threads=2)
        map_code()
        reset_peak()
        before = resident("VmRSS")
        calls["{op}"]()
        found["peak"] = resident("VmHWM") - before
        found["threads"] = depthwise._native.last_run()["threads"]
    """)
    print(
        f"\n| {op} | {algorithm} | {layout} | {shape} | {filter_shape} "
        f"| {plan.scratch_bytes / MIB:.2f} | {found['peak'] / MIB:.1f} |"
    )
    assert found["threads"] == 2
    assert plan.scratch_bytes <= (64 if algorithm == "fft" else 1) * MIB
    spectra = 64 * MIB if algorithm == "fft" else 0
    sums = 16 * 4 * int(np.prod(filter_shape)) if op == "grad_filter" else 0  # of at most 16 tasks a channel
    assert found["peak"] <= 2 * plan.scratch_bytes + spectra + sums + ALLOWANCE, (found, plan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("op", ["forward", "grad_input"])
def test_plans_keep_the_bound_on_scratch(dtype, layout, op):
    for size, channels, kernel, multiplier, stride, dilation in (
        (7, 1024, 7, 1, 1, 1),
        (14, 512, 3, 1, 2, 1),
        (33, 960, 3, 1, 1, 2),
        (56, 128, 31, 1, 1, 1),
        (512, 3, 65, 1, 1, 1),
        (2048, 2000, 5, 1, 1, 1),
        (10**6, 1, 9, 1, 1, 1),
        (28, 128, 3, 16, 1, 4),
    ):
        shape = (1, size, size, channels) if layout == "NHWC" else (1, channels, size, size)
        plan = depthwise.plan(
            shape,
            (kernel, kernel, channels, multiplier),
            op=op,
            x_dtype=dtype,
            layout=layout,
            stride=stride,
            dilation=dilation,
        )
        assert 0 <= plan.scratch_bytes <= (64 * MIB if plan.algorithm == "fft" else MIB), plan


@pytest.mark.skipif(
    os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 20 * 2**30, reason="needs 20 GiB of memory"
)
@pytest.mark.skipif(not os.environ.get("DEPTHWISE_TEST_HUGE"), reason="DEPTHWISE_TEST_HUGE is not set")
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_more_than_2_to_31_elements(layout):
    shape = (1, 2, 2**15, 2**15 + 8) if layout == "NCHW" else (1, 2**15, 2**15 + 8, 2)
    x = np.ones(shape, np.float16)
    assert x.size > 2**31
    y = depthwise.conv2d(x, np.ones((3, 3, 2, 1), np.float16), layout=layout)
    last = y[0, -1, -8:] if layout == "NCHW" else y[0, -8:, :, -1]
    assert last[1, 5] == 9
    assert last[-1, -1] == 4
    assert int((y == 9).sum()) == 2 * (2**15 - 2) * (2**15 + 6)


@measured
@pytest.mark.parametrize(
    ("x_dtype", "result"), [("float32", "float32"), ("uint8", "uint8"), ("uint16", "float32")]
)
def test_borders_and_integers_make_no_copy_of_the_image(x_dtype, result):
    found = peaks(f"""
        x = np.ones((1, 2000, 2000, 3), "{x_dtype}")
        filter, out = np.ones((9, 9), np.float32), np.zeros(x.shape, "{result}")
        keywords = dict(border="reflect", dtype="{result}", num_threads=2)
        found["peak"] = peak_of(lambda: depthwise.conv2d(x, filter, out=out, **keywords))
        assert out[0, 1000, 1000, 0] == out[0, 0, 0, 2] == 81
    """)
    assert found["peak"] <= 2 * MIB + ALLOWANCE
