"""PyTorch's threads and processes: its number of threads, its OpenMP, Python's threads, forks and workers."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import depthwise  # noqa: E402
import depthwise.torch as dt  # noqa: E402
from depthwise import _native  # noqa: E402


def test_set_num_threads_of_pytorch_is_honoured():
    x, filter = torch.ones(1, 128, 128, 64), torch.ones(3, 3, 64, 1)
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for call in (
                lambda: depthwise.conv2d(x, filter),
                lambda: depthwise.depthwise_conv2d(x, filter, [1, 1, 1, 1], "SAME"),
                lambda: dt.conv2d(x.permute(0, 3, 1, 2), filter.permute(2, 3, 0, 1)),
            ):
                call()
                assert _native.last_run()["threads"] == count
        depthwise.conv2d(x, filter, num_threads=1)
        assert _native.last_run()["threads"] == 1
    finally:
        torch.set_num_threads(before)


def python(code):
    """What a fresh interpreter prints for this code."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads cannot be counted here")
def test_the_threads_of_pytorch_are_used():
    """Two libraries whose threads wait for work side by side would take the CPUs from each other."""
    if depthwise.show_config("dict")["threads"] == "a pool of its own":
        pytest.skip("PyTorch does not run on an OpenMP with GNU's entry points")
    before, after, ran = python(
        """
        import os, torch, depthwise
        torch.set_num_threads(2)
        torch.ones(600, 600) @ torch.ones(600, 600)
        torch.ones(1000, 1000).exp()
        x, w = torch.ones(1, 100, 100, 64), torch.ones(3, 3, 64, 1)
        before = len(os.listdir("/proc/self/task"))
        depthwise.conv2d(x, w)
        ran = depthwise._native.last_run()["threads"]
        print(before, len(os.listdir("/proc/self/task")), ran)
        """
    )
    assert before == after
    assert ran == "2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_that_meets_tensors_first():
    """Its parent's OpenMP threads are gone, which OpenMP does not know: it needs a pool of its own."""
    assert python(
        """
        import os, numpy as np, torch
        torch.set_num_threads(2)
        torch.ones(1000, 1000).exp().sum()  # OpenMP's threads are there
        child = os.fork()
        if child == 0:
            import depthwise
            x, w = np.ones((1, 100, 100, 64), np.float32), np.ones((3, 3, 64, 1), np.float32)
            depthwise.conv2d(torch.from_numpy(x), torch.from_numpy(w))
            depthwise.conv2d(x, w, num_threads=2)
            os._exit(0 if depthwise._native.last_run()["threads"] == 2 else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    ) == ["0"]


def test_many_python_threads():
    x, weight = torch.randn(2, 8, 20, 20), torch.randn(8, 1, 3, 3)
    expected = dt.conv2d(x, weight)
    wrong = []

    def work():
        leaf = weight.clone().requires_grad_()
        for _ in range(20):
            y = dt.conv2d(x, leaf)
            y.sum().backward()
            if not torch.equal(y, expected):
                wrong.append(y)

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


class Images(torch.utils.data.Dataset):
    """Images that are filtered where they are loaded."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return depthwise.conv2d(torch.randn(64, 64, 16, generator=generator), torch.ones(5, 5))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers(start):
    depthwise.conv2d(torch.ones(1, 128, 128, 64), torch.ones(3, 3, 64, 1))  # both pools are warm
    loader = torch.utils.data.DataLoader(
        Images(), 2, num_workers=2, multiprocessing_context=start, timeout=120
    )
    batches = torch.cat(list(loader))
    assert torch.equal(batches, torch.stack([Images()[i] for i in range(6)]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes():
    assert python(
        """
        import os, torch, depthwise
        x, w = torch.ones(1, 100, 100, 64), torch.ones(3, 3, 64, 1)
        torch.ones(600, 600) @ torch.ones(600, 600)
        expected = depthwise.conv2d(x, w)
        child = os.fork()
        if child == 0:  # PyTorch's own pool does not survive a fork, so NumPy compares
            os._exit(0 if (depthwise.conv2d(x, w).numpy() == expected.numpy()).all() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    ) == ["0"]
