"""Dask arrays on a cluster of worker processes, one of which is killed while it computes."""

import os
import signal
import time

import numpy as np
import pytest
from helpers import DTYPES, random_array, same_bits

import depthwise

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client():
    """Three worker processes of one thread each."""
    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_operations(rng, client, dtype):
    x, filter = random_array(rng, (2, 40, 30, 6), dtype), random_array(rng, (5, 3, 6, 2), dtype)
    grad = random_array(rng, (2, 20, 30, 12), dtype)
    lazy_x, lazy_grad = da.from_array(x, chunks=(1, 7, 9, 4)), da.from_array(grad, chunks=(2, 6, 30, 5))
    keywords = {"stride": (2, 1), "dilation": (1, 2)}
    forward, backward, gradient = client.gather(
        client.compute(
            [
                depthwise.conv2d(lazy_x, da.from_array(filter, chunks=2), activation="silu", **keywords),
                depthwise.conv2d_grad_input(x.shape, filter, lazy_grad, **keywords),
                depthwise.conv2d_grad_filter(lazy_x, filter.shape, lazy_grad, **keywords),
            ]
        )
    )
    assert same_bits(forward, depthwise.conv2d(x, filter, activation="silu", **keywords))
    assert same_bits(backward, depthwise.conv2d_grad_input(x.shape, filter, grad, **keywords))
    again = depthwise.conv2d_grad_filter(lazy_x, filter.shape, lazy_grad, **keywords)
    assert same_bits(gradient, again.compute(scheduler="synchronous"))


def slow_copy(block, folder):
    """A chunk that takes its time; every start leaves a file with the worker's process id."""
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.05)
    return block.copy()


def test_same_bits_after_a_worker_is_killed(rng, client, tmp_path):
    x, filter = random_array(rng, (1, 160, 160, 8), "float32"), random_array(rng, (7, 7, 8, 1), "float32")
    chunked = da.from_array(x, chunks=(1, 20, 20, 8))
    source = chunked.map_blocks(slow_copy, tmp_path, meta=x[:0])  # else it would be tried out in this process
    before = set(client.run(os.getpid).values())
    future = client.compute(depthwise.conv2d(source, filter))
    deadline = time.monotonic() + 60
    while len(started := sorted(tmp_path.iterdir())) < 16 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 16 <= len(started) < source.npartitions, "some chunks were read, and some were not"
    victim = int(started[-1].name.partition("-")[0])
    assert victim in before
    os.kill(victim, signal.SIGKILL)
    assert same_bits(future.result(timeout=120), depthwise.conv2d(x, filter))
    assert len(list(tmp_path.iterdir())) > source.npartitions, "what the worker held was computed again"
    client.wait_for_workers(3, timeout=60)
    assert victim not in set(client.run(os.getpid).values())
    assert np.isfinite(depthwise.conv2d(source, filter).sum().compute())
