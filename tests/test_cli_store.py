"""`depthwise filter` into zarr arrays: the same bits for any tiles, and what was cut off is finished."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from helpers import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import depthwise
from depthwise import cli
from depthwise._cli import sources, store, tiles
from depthwise._cli.image import compute_dtype, converted
from depthwise._cli.kernels import gaussian

zarr = pytest.importorskip("zarr")

BORDERS = ("constant", "reflect", "symmetric", "edge", "wrap")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images have many tiles, and few chunks of the source are kept."""
    monkeypatch.setattr(tiles, "_ELEMENTS", 400)
    monkeypatch.setattr(tiles, "_LEAST_SIDE", 8)
    monkeypatch.setattr(tiles, "_STRIP", 2)
    monkeypatch.setattr(sources, "CACHE_BYTES", 3000)


def apply(source: Path, target: Path, *options: object) -> np.ndarray:
    """Filter with a Gaussian unless told otherwise; give the output."""
    options = options if "-k" in options else ("-k", "gaussian", *options)
    assert cli.main(["filter", str(source), str(target), *map(str, options)]) == 0
    return zarr.open_array(target, mode="r")[...]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `filter`, which must fail with one line; give that line."""

    def refused(source: Path, target: Path, *options: object) -> str:
        options = options if "-k" in options else ("-k", "gaussian", *options)
        assert cli.main(["filter", str(source), str(target), *map(str, options)]) == 2
        line = capsys.readouterr().err
        assert line.startswith("depthwise: ") and line.count("\n") == 1, line
        return line

    return refused


def random(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    generator = np.random.default_rng(7)
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    limits, native = np.iinfo(dtype), np.dtype(dtype).newbyteorder("=")
    return generator.integers(limits.min, limits.max, shape, native, endpoint=True).astype(dtype)


def save(path: Path, array: np.ndarray, chunks: tuple[int, ...], **options: Any) -> Path:
    stored = zarr.create_array(path, shape=array.shape, chunks=chunks, dtype=array.dtype, **options)
    stored[...] = array
    return path


def expected(
    pixels: np.ndarray, kernel: np.ndarray, *, dtype: Any = None, border: str = "constant", **keywords: Any
) -> np.ndarray:
    """The whole image in one call, in the output's type."""
    computed = compute_dtype(pixels.dtype, None if dtype is None else np.dtype(dtype))
    layout = keywords.get("layout", "NHWC")
    flat, axis = pixels.ndim == 2, -1 if layout == "NHWC" else 0
    x = (np.expand_dims(pixels, axis) if flat else pixels).astype(computed)
    if border != "constant":
        radius = kernel.shape[0] // 2
        first = x.ndim - 3 if layout == "NHWC" else x.ndim - 2
        x = np.pad(x, [(radius, radius) if first <= i < first + 2 else (0, 0) for i in range(x.ndim)], border)
        keywords["padding"] = "VALID"
    y = depthwise.conv2d(x, kernel.astype(computed), **keywords)
    y = y.squeeze(axis) if flat and y.shape[axis] == 1 else y
    return converted(y, np.dtype(dtype or (pixels.dtype if pixels.dtype.kind in "iu" else computed)))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f2", "f4", "f8", ">f4", ">u2"])
def test_types(tmp_path: Path, dtype: str) -> None:
    x = random((50, 41, 3), dtype)
    target = tmp_path / "y.zarr"
    got = apply(save(tmp_path / "x.zarr", x, (16, 16, 3)), target)
    assert zarr.open_array(target).chunks == (16, 16, 3)
    assert same_bits(got, expected(x, gaussian()).astype(x.dtype.newbyteorder("=")))


@settings(max_examples=60)
@given(data=st.data())
def test_whole_image_bits(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    draw, folder = data.draw, tmp_path_factory.mktemp("store")
    layout = draw(st.sampled_from(["NHWC", "NCHW"]))
    image = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    channels, multiplier = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    shape = (*image, channels) if layout == "NHWC" else (channels, *image)
    shape = draw(st.sampled_from([shape, (2, *shape)] + [image] * (channels == 1)))
    x = random(shape, draw(st.sampled_from(["u1", "f4"])))
    kernel = random((draw(st.integers(1, 7)), draw(st.integers(1, 7)), channels, multiplier), "f4") / 8
    kernel = draw(st.sampled_from([kernel, kernel[:, :, 0, 0]]))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    chunks = tuple(draw(st.integers(1, size)) for size in shape)
    np.save(folder / "k.npy", kernel)
    options = ["--layout", layout, "--stride", stride, "--dilation", dilation, "--padding", 6]
    got = apply(save(folder / "x.zarr", x, chunks), folder / "y.zarr", "-k", folder / "k.npy", *options)
    keywords = {"stride": stride, "dilation": dilation, "padding": 6, "layout": layout}
    assert same_bits(got, expected(x, kernel, **keywords))


@pytest.mark.parametrize("border", BORDERS)
def test_borders(tmp_path: Path, border: str) -> None:
    x = random((30, 11, 2), "u1")
    source = save(tmp_path / "x.zarr", x, (7, 4, 1))
    got = apply(source, tmp_path / "y.zarr", "-k", "gaussian:2", "--border", border)
    assert same_bits(got, expected(x, gaussian(2), border=border))


def test_dtype_of_the_output(tmp_path: Path) -> None:
    x = random((20, 20), "u1")
    source = save(tmp_path / "x.zarr", x, (8, 8), dimension_names=("y", "x"))
    kernel = np.array([[-3.0, 0, 1]])
    np.save(tmp_path / "k.npy", kernel)
    for dtype in ("float32", "int16", "uint8", "float64"):
        target = tmp_path / f"{dtype}.zarr"
        got = apply(source, target, "-k", tmp_path / "k.npy", "--dtype", dtype)
        assert same_bits(got, expected(x, kernel, dtype=dtype))
        assert zarr.open_array(target).metadata.dimension_names == ("y", "x")


def test_array_within_a_group(tmp_path: Path, refused: Callable[..., str]) -> None:
    x = random((20, 20), "u1")
    group = zarr.create_group(tmp_path / "x.zarr")
    group.create_array("0", shape=x.shape, chunks=(8, 8), dtype=x.dtype)[...] = x
    assert "it is a group; name one of its arrays: 0" in refused(tmp_path / "x.zarr", tmp_path / "y.zarr")
    assert same_bits(apply(tmp_path / "x.zarr" / "0", tmp_path / "y.zarr"), expected(x, gaussian()))


@pytest.mark.parametrize(
    "how",
    [
        {"tile": (16, 32), "compression": "zlib", "bigtiff": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 3, "compression": "zlib"},
        {"rowsperstrip": 5},
        {},
    ],
)
@pytest.mark.parametrize("axes", ["YXS", "YX", "CYX", "TYXS"])
def test_tiff_is_read_in_parts(tmp_path: Path, how: dict[str, Any], axes: str) -> None:
    shape = {"Y": 50, "X": 70, "S": 3, "C": 4, "T": 2}
    x = random(tuple(shape[letter] for letter in axes), "u1")
    photometric = "rgb" if "S" in axes else "minisblack"
    planar = {"planarconfig": "separate"} if "C" in axes else {}
    tifffile.imwrite(tmp_path / "x.tif", x, metadata={"axes": axes}, photometric=photometric, **planar, **how)
    sources.open_source.cache_clear()
    got = apply(tmp_path / "x.tif", tmp_path / "y.zarr", "--stride", 2)
    layout = "NCHW" if "C" in axes else "NHWC"
    assert same_bits(got, expected(x, gaussian(), stride=2, layout=layout))


def test_tiff_that_cannot_be_read_in_parts(tmp_path: Path, refused: Callable[..., str]) -> None:
    x, target = random((20, 20, 4), "u1"), tmp_path / "y.zarr"
    tifffile.imwrite(tmp_path / "alpha.tif", x, photometric="rgb", extrasamples=["unassalpha"])
    assert "opacity" in refused(tmp_path / "alpha.tif", target)
    (tmp_path / "no.tif").write_bytes(b"no image")
    assert "cannot read" in refused(tmp_path / "no.tif", target)
    assert not target.exists()


# Cut off and continued


def chunk_files(target: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (target / "c").rglob("*") if path.is_file()}


def test_interrupted_job_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x = random((64, 64), "u1")
    source, target = save(tmp_path / "x.zarr", x, (16, 16)), tmp_path / "y.zarr"
    original, calls = tiles.Task.__call__, []

    def cut_off(task: tiles.Task, tile: tiles.Tile) -> None:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(tile.position)
        original(task, tile)

    monkeypatch.setattr(tiles.Task, "__call__", cut_off)
    command = ["filter", str(source), str(target), "-k", "gaussian", "--threads", "1"]
    assert cli.main(command) == 130
    assert "interrupted; the same command computes the tiles that are missing" in capsys.readouterr().err
    before = chunk_files(target)
    assert len(before) == 5
    leftover = target / "c" / "0" / "0.1234.partial"
    leftover.write_bytes(b"half a chunk")
    calls[:] = [None] * 6
    assert same_bits(apply(source, target), expected(x, gaussian()))
    assert len(calls) == 6 + 11 and not leftover.exists()
    assert {path: chunk_files(target)[path] for path in before} == before
    calls[:] = [None] * 6
    apply(source, target)
    assert len(calls) == 6, "nothing was left to do"


def test_tiles_of_zeros_count_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "x.zarr", np.zeros((32, 32), np.uint8), (16, 16))
    assert not apply(source, tmp_path / "y.zarr").any()
    monkeypatch.setattr(tiles.Task, "__call__", None)
    apply(source, tmp_path / "y.zarr")


def test_killed_job_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_ELEMENTS", 2**18)
    x = random((3000, 2500), "u1")
    source, target = save(tmp_path / "x.zarr", x, (500, 500)), tmp_path / "y.zarr"
    kernel = random((31, 31), "f4") / 961
    np.save(tmp_path / "k.npy", kernel)
    arguments = ["filter", source, target, "-k", tmp_path / "k.npy"]
    slow = [sys.executable, "-c", SLOW, *map(str, arguments), "--threads", "1"]
    with subprocess.Popen(slow) as process:
        deadline = time.monotonic() + 60
        while not (target.exists() and len(chunk_files(target)) >= 2) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = {path: when for path, when in chunk_files(target).items() if path.suffix != ".partial"}
    assert 2 <= len(done) < 30
    assert same_bits(apply(source, target, "-k", tmp_path / "k.npy"), expected(x, kernel))
    assert {path: chunk_files(target)[path] for path in done} == done


SLOW = """
import sys, time
from depthwise import cli
from depthwise._cli import tiles
tiles._ELEMENTS, compute = 2**18, tiles.Task.__call__
tiles.Task.__call__ = lambda task, tile: (time.sleep(0.1), compute(task, tile))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["-k", "gaussian:1.5"], "kernel"),
        (["-k", "gaussian", "--border", "wrap"], "border"),
        (["-k", "gaussian", "--stride", "2"], "stride, chunks"),
        (["-k", "gaussian", "--padding", "4,4,4,5"], "padding"),
        (["-k", "gaussian", "--dtype", "float32"], "dtype"),
        (["-k", "gaussian", "--layout", "NCHW"], "layout, chunks"),
    ],
)
def test_another_job_does_not_continue(
    tmp_path: Path, refused: Callable[..., str], options: list[str], named: str
) -> None:
    x = random((32, 32), "u1")
    source, target = save(tmp_path / "x.zarr", x, (16, 8)), tmp_path / "y.zarr"
    apply(source, target)
    line = refused(source, target, *options)
    assert f"was begun with another {named}" in line or (named.endswith("chunks") and named[:6] in line)
    assert same_bits(apply(source, target), expected(x, gaussian())), "the same job does"
    shutil.copytree(source, tmp_path / "other.zarr")
    assert "another source" in refused(tmp_path / "other.zarr", target)


def test_targets_that_are_something_else(tmp_path: Path, refused: Callable[..., str]) -> None:
    x = random((32, 32), "u1")
    source = save(tmp_path / "x.zarr", x, (16, 16))
    assert "no result of this command" in refused(source, source)
    assert "no result of this command" in refused(source, save(tmp_path / "other.zarr", x, (16, 16)))
    (tmp_path / "file.zarr").write_bytes(b"a file")
    assert "no result of this command" in refused(source, tmp_path / "file.zarr")
    assert "name ending in .zarr" in refused(source, tmp_path / "y.png")
    assert "expected a .zarr or a .tif" in refused(tmp_path / "x.png", tmp_path / "y.zarr")
    assert "no such file" in refused(tmp_path / "no.zarr", tmp_path / "y.zarr")
    assert "no such file" in refused(tmp_path / "no.tif", tmp_path / "y.zarr")
    assert np.array_equal(zarr.open_array(source, mode="r")[...], x)


def test_jobs_that_do_not_suit(tmp_path: Path, refused: Callable[..., str]) -> None:
    source, target = save(tmp_path / "x.zarr", random((8, 8, 2), "u1"), (8, 8, 2)), tmp_path / "y.zarr"
    np.save(tmp_path / "k.npy", np.ones((3, 3, 5, 1)))
    assert "channels" in refused(source, target, "-k", tmp_path / "k.npy")
    assert "must fit" in refused(source, target, "-k", "box:20", "--padding", "VALID")
    complex_source = save(tmp_path / "c.zarr", np.ones((8, 8), np.complex64), (8, 8))
    assert "real numbers" in refused(complex_source, target)
    assert not target.exists()


def test_damaged_chunk_is_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    source = save(tmp_path / "x.zarr", random((32, 32), "u1"), (16, 16))
    (source / "c" / "1" / "1").write_bytes(b"damaged")
    assert str(source) in refused(source, tmp_path / "y.zarr")


# On a cluster


def test_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_ELEMENTS", 2**18)
    distributed = pytest.importorskip("distributed")
    x = random((3000, 2000), "u1")
    source = save(tmp_path / "x.zarr", x, (1000, 1000))
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        got = apply(source, tmp_path / "y.zarr", "--scheduler", cluster.scheduler_address)
    assert same_bits(got, expected(x, gaussian()))


def test_cluster_that_is_not_there(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(store, "CONNECT_SECONDS", 0.2)
    source = save(tmp_path / "x.zarr", random((8, 8), "u1"), (8, 8))
    assert "cannot use the scheduler" in refused(
        source, tmp_path / "y.zarr", "--scheduler", "tcp://127.0.0.1:9"
    )
    assert "only a .zarr" in refused(
        tmp_path / "x.npy", tmp_path / "y.npy", "--scheduler", "tcp://127.0.0.1:9"
    )
