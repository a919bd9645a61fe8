"""What a process lives through: many calls, many forks, little memory, interrupts, other interpreters."""

import sysconfig
import textwrap

import numpy as np
import pytest
from hypothesis import settings
from test_threads import run_python

import depthwise

THOROUGH = settings.get_current_profile_name() == "ci"


def test_many_calls_do_not_grow_the_process():
    """A thousand shapes in turn."""
    code = """
        import resource
        import numpy as np
        import depthwise

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * resource.getpagesize()

        x = np.ones((3, 40, 41, 8), np.float32)
        w = np.ones((3, 3, 8, 1), np.float32)

        def calls(count):
            for i in range(count):
                rows, columns = 1 + i % 37, 1 + i % 11
                depthwise.conv2d(x[0, :rows, :columns], w, stride=1 + i % 3)

        calls(20_000)
        before = resident()
        calls(COUNT)
        print((resident() - before) // 1024)
    """
    count = 1_000_000 if THOROUGH else 50_000
    assert int(run_python(textwrap.dedent(code).replace("COUNT", str(count)))) < 8192  # KiB


def test_many_shapes_do_not_grow_the_process():
    """Every call has a shape of its own: the caches of plans are bounded."""
    code = """
        import resource
        import numpy as np
        import depthwise

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * resource.getpagesize()

        def calls(first, count):
            for i in range(first, first + count):
                depthwise.conv2d(np.ones((1, 1, 1 + i, 1), np.float32), np.ones((1, 1, 1, 1), np.float32))

        calls(0, 6000)
        before = resident()
        calls(6000, 6000)
        print((resident() - before) // 1024)
    """
    assert int(run_python(code)) < 4096  # KiB


def test_little_memory():
    """An allocation that fails is a MemoryError, and the next call is well."""
    code = """
        import resource
        import numpy as np
        import depthwise

        x, w = np.ones((1, 64, 64, 32), np.float32), np.ones((3, 3, 32, 1), np.float32)
        depthwise.conv2d(x, w, num_threads=2)
        big = np.broadcast_to(x[:, :1, :1], (1, 1, 1, 32))
        limit = 2 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        failed = 0
        for padding in (6000, 20_000, 100_000):
            try:
                depthwise.conv2d(big, w, padding=padding)
            except MemoryError as error:
                failed += "allocate" in str(error)
            assert depthwise.conv2d(x, w, num_threads=2)[0, 5, 5, 0] == 9
        print(failed)
    """
    assert run_python(code) == "3"


def test_scratch_that_cannot_be_had():
    """The kernels' own scratch fails to allocate in the middle of a call."""
    code = """
        import resource, threading
        import numpy as np
        import depthwise

        x, w = np.ones((1, 256, 256, 64), np.float32), np.ones((7, 7, 64, 1), np.float32)
        out, outcomes = np.empty_like(x), set()
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        # Thread stacks come first; each step leaves a little more.
        for room in range(0, 40 << 20, 1 << 18):
            resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
            try:
                depthwise.conv2d(x, w, out=out, num_threads=2)
                outcomes.add("result")
            except MemoryError:
                outcomes.add("MemoryError")
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        assert depthwise.conv2d(x, w)[0, 9, 9, 0] == 49
        print("result" in outcomes, outcomes <= {"result", "MemoryError"})
    """
    assert run_python(code) == "True True"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_many_forks():
    """Fork, call, exit, while the parent's pool is warm."""
    code = """
        import os
        import numpy as np
        import depthwise

        x, w = np.ones((1, 48, 48, 32), np.float32), np.ones((3, 3, 32, 1), np.float32)
        expected = depthwise.conv2d(x, w, num_threads=2).tobytes()
        for i in range(ROUNDS):
            child = os.fork()
            if child == 0:
                os._exit(depthwise.conv2d(x, w, num_threads=1 + i % 3).tobytes() != expected)
            assert os.waitpid(child, 0)[1] == 0, i
            if i % 10 == 0:
                assert depthwise.conv2d(x, w, num_threads=2).tobytes() == expected
        print("done")
    """
    assert run_python(textwrap.dedent(code).replace("ROUNDS", "10_000" if THOROUGH else "300")) == "done"


def test_number_of_threads_changes_while_others_compute():
    code = """
        import threading
        import numpy as np
        import depthwise

        rng = np.random.default_rng(0)
        cases = []
        shapes = (((1, 60, 50, 32), 3), ((3, 30, 20, 17), 5), ((1, 200, 90, 3), 7), ((1, 14, 14, 256), 3))
        for shape, kernel in shapes:
            x = rng.standard_normal(shape, np.float32)
            w = rng.standard_normal((kernel, kernel, shape[3], 1), np.float32)
            y = depthwise.conv2d(x, w, num_threads=1)
            of_filter = depthwise.conv2d_grad_filter(x, w.shape, y, num_threads=1)
            cases.append((x, w, y, of_filter))
        stop, wrong = threading.Event(), []

        def change():
            for i in range(300):
                depthwise.set_num_threads(1 + i % 8)
            stop.set()

        def work(index):
            i = index
            while not stop.is_set() or i < index + 8:
                x, w, y, of_filter = cases[i % len(cases)]
                if depthwise.conv2d(x, w).tobytes() != y.tobytes():
                    wrong.append(i)
                if depthwise.conv2d_grad_filter(x, w.shape, y).tobytes() != of_filter.tobytes():
                    wrong.append(i)
                i += 1

        threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
        threads.append(threading.Thread(target=change))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(wrong)
    """
    assert run_python(code) == "[]"


def test_an_interrupt_does_not_wait_for_the_end():
    """A call of some seconds is left soon after the signal; how soon is printed."""
    code = """
        import os, signal, threading, time
        import numpy as np
        import depthwise

        x, w = np.ones((1, 2048, 2048, 16), np.float32), np.ones((31, 31, 16, 1), np.float32)
        out = np.zeros_like(x)
        sent = []

        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where background jobs ignore it
        threading.Timer(0.3, interrupt).start()
        start = time.monotonic()
        try:
            for _ in range(20):
                depthwise.conv2d(x, w, out=out, num_threads=2, algorithm="direct")
        except KeyboardInterrupt:
            print(round(1000 * (time.monotonic() - sent[0])))
    """
    milliseconds = int(run_python(code))
    print(f"the interrupt was raised after {milliseconds} ms")
    assert milliseconds < 2000  # a call takes longer than that


def test_another_interpreter_in_the_process():
    """It works there or is refused by an ImportError; the process goes on."""
    code = """
        import os
        try:
            import _interpreters as interpreters  # of Python 3.13
        except ImportError:
            import _xxsubinterpreters as interpreters
        import numpy as np
        import depthwise

        read, write = os.pipe()
        attempt = f'''if True:
            import os
            try:
                import numpy as np
                import depthwise
                y = depthwise.conv2d(np.ones((1, 9, 9, 8), np.float32), np.ones((3, 3, 8, 1), np.float32))
                outcome = "works" if y[0, 4, 4, 0] == 9 else "is wrong"
            except ImportError as error:
                outcome = f"is refused: {{error}}"
            os.write({write}, outcome.encode())
        '''
        for _ in range(3):
            other = interpreters.create()
            run = getattr(interpreters, "exec", interpreters.run_string)
            assert run(other, attempt) is None
            interpreters.destroy(other)
            outcome = os.read(read, 1000).decode()
            y = depthwise.conv2d(np.ones((1, 9, 9, 8), np.float32), np.ones((3, 3, 8, 1), np.float32))
            print(y[0, 4, 4, 0], outcome)
    """
    outcomes = run_python(code).splitlines()
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert outcome == "9.0 works" or outcome.startswith("9.0 is refused: "), outcomes


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is never without its lock"
)
def test_no_global_lock():
    """Where Python could do without it, importing the module turns it on, with a warning that says so."""
    assert run_python("import sys, warnings, depthwise; print(sys._is_gil_enabled())") == "True"


@pytest.mark.skipif(not THOROUGH, reason="DEPTHWISE_HYPOTHESIS_PROFILE is not ci")
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_row_of_more_than_2_to_31_bytes(layout):
    """One row of float16: every offset within it needs 64 bits when counted in bytes."""
    width, channels = (2**29 + 11, 2) if layout == "NHWC" else (2**30 + 11, 1)
    x = np.ones((1, 1, width, channels) if layout == "NHWC" else (1, channels, 1, width), np.float16)
    assert x.strides[1] > 2**31
    out = np.empty_like(x)
    y = depthwise.conv2d(x, np.ones((1, 3, channels, 1), np.float16), layout=layout, out=out)
    row = y[0, 0] if layout == "NHWC" else y[0, :, 0].T
    assert row[0, 0] == 2
    assert row[-1, -1] == 2
    assert (row[width // 2 - 5 : width // 2 + 5] == 3).all()
    assert (row[-6:-1] == 3).all()
