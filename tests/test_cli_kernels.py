"""The kernels that `depthwise filter` knows by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from depthwise import cli, reference
from depthwise._cli.kernels import BUILTIN, parse_kernel

RAMP = np.add.outer(10.0 * np.arange(9), np.arange(9))[..., np.newaxis]  # 10 a row, 1 a column


def on_ramp(spec: str) -> np.ndarray:
    return reference.conv2d(RAMP, parse_kernel(spec), padding="VALID")


def test_help_names_every_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["filter", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in BUILTIN:
        assert f"{name}:" in shown
        assert parse_kernel(name).dtype == np.float64


@pytest.mark.parametrize(
    "spec", ["box", "box:1", "box:size=5", "gaussian", "gaussian:2", "gaussian:radius=1"]
)
def test_smoothing_keeps_the_mean_and_symmetry(spec: str) -> None:
    kernel = parse_kernel(spec)
    assert kernel.sum() == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
    np.testing.assert_array_equal(kernel, kernel.T)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("box:4", (4, 4)),
        ("gaussian", (9, 9)),
        ("gaussian:0.1", (1, 1)),
        ("gaussian:1e-300,1", (3, 3)),
        ("gaussian:2,6", (13, 13)),
        ("gaussian:radius=6,sigma=2", (13, 13)),
        ("gaussian:sigma=+2e0", (17, 17)),
    ],
)
def test_sizes_and_spellings(spec: str, shape: tuple[int, int]) -> None:
    kernel = parse_kernel(spec)
    assert kernel.shape == shape and np.isfinite(kernel).all()


def test_gaussian_follows_the_formula() -> None:
    kernel = parse_kernel("gaussian:1.5,4")
    i, j = np.mgrid[-4:5, -4:5]
    expected = np.exp(-(i**2 + j**2) / (2 * 1.5**2))
    np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=1e-13)


def test_derivatives_of_a_ramp() -> None:
    np.testing.assert_array_equal(on_ramp("sobel-x"), 8.0)  # weights of 1, 2 and 1 over two columns
    np.testing.assert_array_equal(on_ramp("sobel-y"), 80.0)
    np.testing.assert_array_equal(on_ramp("sobel-x:0.125"), 1.0)
    np.testing.assert_array_equal(on_ramp("laplacian"), 0.0)
    np.testing.assert_array_equal(on_ramp("laplacian:8"), 0.0)
    np.testing.assert_array_equal(on_ramp("sharpen:3"), RAMP[1:-1, 1:-1])


def test_laplacian_and_sharpen_of_a_point() -> None:
    assert parse_kernel("laplacian").tolist() == [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    assert parse_kernel("laplacian:neighbours=8").tolist() == [[1, 1, 1], [1, -8, 1], [1, 1, 1]]
    assert parse_kernel("sharpen:0.5").tolist() == [[0, -0.5, 0], [-0.5, 3, -0.5], [0, -0.5, 0]]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "u1", "i8", "?"])
def test_files_keep_floating_types_and_make_integers_float64(tmp_path: Path, dtype: str) -> None:
    kernel = np.array([[0, 1, 1]], dtype)
    np.save(tmp_path / "k.npy", kernel)
    loaded = parse_kernel(str(tmp_path / "k.npy"))
    assert loaded.dtype == (dtype if kernel.dtype.kind == "f" else "f8")
    np.testing.assert_array_equal(loaded, [[0, 1, 1]])
