"""Threads: the same bits for any number of them, many callers, forks, signals and the environment."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import DTYPES, random_array, same_bits

import depthwise
from depthwise import _native

CASES = {
    "wide": ((1, 40, 40, 64), (3, 3, 64, 1), {}),
    "few rows": ((1, 7, 9, 1040), (3, 3, 1040, 1), {}),
    "batch": ((9, 13, 11, 17), (5, 5, 17, 1), {"stride": 2}),
    "few channels": ((1, 97, 83, 3), (7, 7, 3, 1), {}),
    "multiplier": ((1, 23, 29, 6), (3, 3, 6, 5), {"dilation": 2}),
    "planes": ((1, 33, 40, 37), (3, 3, 33, 1), {"layout": "NCHW"}),
    "small planes": ((2, 130, 7, 7), (5, 5, 130, 1), {"layout": "NCHW"}),
}


def run_python(code, **environment):
    """The output of Python code in a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DEPTHWISE_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**env, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def outcomes(x, filter, keywords, num_threads):
    """The results of all operations that the engine has, by name."""
    keywords = {**keywords, "num_threads": num_threads}
    y = depthwise.conv2d(x, filter, **keywords)
    calls = {
        "forward": lambda: y,
        "grad_input": lambda: depthwise.conv2d_grad_input(x.shape, filter, y, **keywords),
        "grad_filter": lambda: depthwise.conv2d_grad_filter(x, filter.shape, y, **keywords),
    }
    return {op: calls[op]() for op in sorted({row["op"] for row in _native.kernels()})}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_any_number_of_threads_gives_the_same_bits(rng, case, dtype):
    x_shape, filter_shape, keywords = CASES[case]
    x, filter = random_array(rng, x_shape, dtype), random_array(rng, filter_shape, dtype)
    expected = outcomes(x, filter, keywords, 1)
    for num_threads in range(2, 9):
        for op, result in outcomes(x, filter, keywords, num_threads).items():
            assert same_bits(result, expected[op]), (op, num_threads)


def test_runs_repeat_their_bits(rng):
    x, filter = random_array(rng, (2, 40, 40, 32), "float32"), random_array(rng, (3, 3, 32, 1), "float32")
    expected = outcomes(x, filter, {}, None)
    for _ in range(20):
        for op, result in outcomes(x, filter, {}, None).items():
            assert same_bits(result, expected[op]), op


def test_64_python_threads(rng):
    x, filter = random_array(rng, (1, 30, 30, 16), "float32"), random_array(rng, (3, 3, 16, 1), "float32")
    op = depthwise.Conv2D(filter, stride=2)
    expected = {"conv2d": depthwise.conv2d(x, filter), "Conv2D": op(x)}
    barrier = threading.Barrier(64)

    def call(index):
        barrier.wait()
        for i in range(10):
            name = "Conv2D" if (index + i) % 2 else "conv2d"
            y = op(x) if name == "Conv2D" else depthwise.conv2d(x, filter, num_threads=1 + (index + i) % 4)
            if not same_bits(y, expected[name]):
                return False
        return True

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(call, range(64)))


def test_the_lock_of_the_interpreter_is_released(rng):
    """While one thread convolves for long, another one gets to run Python."""
    x, filter = np.ones((4, 256, 256, 32), np.float32), np.ones((7, 7, 32, 1), np.float32)
    ticks, running = 0, threading.Event()

    def convolve():
        running.set()
        depthwise.conv2d(x, filter, num_threads=1)
        running.clear()

    thread = threading.Thread(target=convolve)
    thread.start()
    running.wait()
    while running.is_set():
        ticks += 1
    thread.join()
    assert ticks > 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_computes(rng):
    code = """
        import os, sys
        import numpy as np
        import depthwise

        x, w = np.random.default_rng(0).standard_normal((1, 60, 60, 64)), np.ones((3, 3, 64, 1))
        expected = depthwise.conv2d(x, w, num_threads=4)
        for generation in range(3):
            child = os.fork()
            if child == 0:
                for threads in (4, 1, 3):
                    if depthwise.conv2d(x, w, num_threads=threads).tobytes() != expected.tobytes():
                        os._exit(1)
                if generation < 2:
                    continue
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert depthwise.conv2d(x, w, num_threads=4).tobytes() == expected.tobytes()
            if generation:
                os._exit(0)
            break
        print("done")
    """
    assert run_python(code) == "done"


def test_a_child_forked_while_other_threads_compute():
    code = """
        import os, threading
        import numpy as np
        import depthwise

        x, w = np.ones((1, 64, 64, 64), np.float32), np.ones((3, 3, 64, 1), np.float32)
        expected, stop = depthwise.conv2d(x, w), threading.Event()

        def work():
            while not stop.is_set():
                depthwise.conv2d(x, w, num_threads=2)

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if (depthwise.conv2d(x, w, num_threads=2) == expected).all() else 1)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for worker in workers:
            worker.join()
        print("done")
    """
    assert run_python(code) == "done"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_processes(method, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing
            import numpy as np
            import depthwise

            def total(n):
                return float(depthwise.conv2d(np.full((1, 32, 32, 32), n, np.float32),
                                              np.ones((3, 3, 32, 1), np.float32), num_threads=2).sum())

            if __name__ == "__main__":
                expected = [total(n) for n in range(6)]
                with multiprocessing.get_context("{method}").Pool(2) as pool:
                    assert pool.map(total, range(6)) == expected
                print("done")
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "done", done.stderr


def test_keyboard_interrupt_in_a_long_call():
    """It is raised when the call returns, and the next call is well."""
    code = """
        import signal, threading, os, time
        import numpy as np
        import depthwise

        x, w = np.ones((4, 256, 256, 32), np.float32), np.ones((7, 7, 32, 1), np.float32)
        out = np.empty_like(x)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where background jobs ignore it
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        caught = False
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                depthwise.conv2d(x, w, out=out)
        except KeyboardInterrupt:
            caught = True
        assert caught
        small = depthwise.conv2d(x[:1, :8, :8], w)
        assert small[0, 4, 4, 0] == 49
        print("done")
    """
    assert hasattr(signal, "SIGINT")
    assert run_python(code) == "done"


def test_a_call_while_the_interpreter_shuts_down():
    code = """
        import atexit, threading
        import numpy as np
        import depthwise

        x, w = np.ones((1, 64, 64, 64), np.float32), np.ones((3, 3, 64, 1), np.float32)

        class Late:
            def __del__(self):
                self.call(x, w, num_threads=2)
                print("late")

        late = Late()
        late.call = depthwise.conv2d
        atexit.register(lambda: print(depthwise.conv2d(x, w, num_threads=2)[0, 5, 5, 0]))
        threading.Thread(target=lambda: [depthwise.conv2d(x, w) for _ in range(200)], daemon=True).start()
    """
    assert run_python(code).splitlines()[:1] == ["9.0"]


class TestEnvironment:
    COUNT = "import depthwise; print(depthwise.get_num_threads())"

    def test_own_variable_first(self):
        assert run_python(self.COUNT, DEPTHWISE_NUM_THREADS="3", OMP_NUM_THREADS="5") == "3"

    def test_then_that_of_openmp(self):
        assert run_python(self.COUNT, OMP_NUM_THREADS="5") == "5"
        assert run_python(self.COUNT, OMP_NUM_THREADS="4,2") == "4"

    def test_then_the_cpus(self):
        assert 1 <= int(run_python(self.COUNT)) <= len(os.sched_getaffinity(0))

    def test_affinity_counts(self):
        code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        assert run_python(code + self.COUNT) == "1"

    @pytest.mark.parametrize("value", ["", "0", "-2", "many", "1.5", "10000000000000000000000"])
    def test_nonsense_is_ignored_or_refused_clearly(self, value):
        code = f"""
            try:
                {self.COUNT}
            except (ImportError, ValueError) as error:
                assert "DEPTHWISE_NUM_THREADS" in str(error)
                print(1)
        """
        assert 1 <= int(run_python(code, DEPTHWISE_NUM_THREADS=value)) <= 1024

    def test_every_isa_can_be_forced(self):
        for isa in depthwise.show_config(mode="dict")["isas"]:
            code = """
                import numpy as np, depthwise
                from depthwise import _native
                depthwise.conv2d(np.ones((1, 9, 9, 8), np.float32), np.ones((3, 3, 8, 1), np.float32))
                print(_native.last_run()["isa"])
            """
            assert run_python(code, DEPTHWISE_ISA=isa) == isa

    def test_unknown_isa_is_refused_by_name(self):
        code = """
            try:
                import depthwise
                import numpy as np
                depthwise.conv2d(np.ones((1, 1, 1), np.float32), np.ones((1, 1), np.float32))
            except (ImportError, ValueError, RuntimeError) as error:
                print("DEPTHWISE_ISA" in str(error) and "mmx" in str(error))
        """
        assert run_python(code, DEPTHWISE_ISA="mmx") == "True"


def test_one_thread_starts_no_other():
    code = """
        import os
        import numpy as np
        import depthwise
        x, w = np.ones((1, 128, 128, 64), np.float32), np.ones((5, 5, 64, 1), np.float32)
        before = len(os.listdir("/proc/self/task"))
        depthwise.conv2d(x, w, num_threads=1)
        one = len(os.listdir("/proc/self/task")) - before
        depthwise.conv2d(x, w, num_threads=2)
        print(one, len(os.listdir("/proc/self/task")) - before <= 2)
    """
    assert run_python(code) == "0 True"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of threads")
class TestAffinity:
    CODE = """
        import os, time
        import numpy as np, depthwise
        {before}
        x, w = np.ones((1, 64, 64, 64), np.float32), np.ones((3, 3, 64, 1), np.float32)
        for _ in range(5):  # between calls the threads of the pool fall asleep
            y = depthwise.conv2d(x, w, num_threads=3)
            time.sleep(0.01)
        time.sleep(0.2)
        masks = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
        print(float(y[0, 1, 1, 0]), len(masks) >= 3, all(mask == os.sched_getaffinity(0) for mask in masks))
    """

    def test_threads_once_woken_may_run_anywhere_again(self):
        assert run_python(self.CODE.format(before="")) == "9.0 True True"

    def test_one_cpu_is_enough_for_all_threads(self):
        before = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
        assert run_python(self.CODE.format(before=before), OPENBLAS_NUM_THREADS="1") == "9.0 True True"


def test_small_problems_use_fewer_threads_than_allowed():
    assert depthwise.plan((1, 4, 4, 8), (3, 3, 8, 1), num_threads=64).threads == 1
    assert depthwise.plan((1, 224, 224, 64), (3, 3, 64, 1), num_threads=2).threads == 2
