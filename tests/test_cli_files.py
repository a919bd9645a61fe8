"""`depthwise filter` on each kind of file, against the reference; files appear whole or not at all."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from depthwise import cli, reference
from depthwise._cli import files
from depthwise._cli.image import to_integers
from depthwise._cli.kernels import gaussian, sobel_x

GAUSSIAN = gaussian(sigma=1.0)


def apply(source: Path, target: Path, *options: object) -> None:
    """Filter with a Gaussian unless told otherwise; assert that it succeeds."""
    options = options if "-k" in options else ("-k", "gaussian", *options)
    assert cli.main(["filter", str(source), str(target), *map(str, options)]) == 0


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `filter`, which must fail with one line and leave no output; give that line."""

    def refused(source: Path, target: Path, *options: object) -> str:
        options = options if "-k" in options else ("-k", "gaussian", *options)
        assert cli.main(["filter", str(source), str(target), *map(str, options)]) == 2
        line = capsys.readouterr().err
        assert line.startswith("depthwise: ") and line.count("\n") == 1, line
        assert not target.exists() and not list(target.parent.glob(".*"))
        return line

    return refused


def random(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    generator = np.random.default_rng(7)
    if np.dtype(dtype).kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def expected_image(pixels: np.ndarray, kernel: np.ndarray = GAUSSIAN, **options: Any) -> np.ndarray:
    """The reference's result for an [H, W] or [H, W, C] image, rounded and saturated as its type needs."""
    x = pixels if pixels.ndim > 2 else pixels[..., np.newaxis]
    y = reference.conv2d(x, kernel, **options)
    y = y if pixels.ndim > 2 else y[..., 0]
    if pixels.dtype.kind == "f":
        return y
    limits = np.iinfo(pixels.dtype)
    return np.clip(np.rint(y), limits.min, limits.max)


def assert_image(got: np.ndarray, pixels: np.ndarray, **options: Any) -> None:
    """Assert type and values; an integer may be one off where float32 lands on the other side of a half."""
    expected = expected_image(pixels, **options)
    assert got.dtype == pixels.dtype and got.shape == expected.shape
    difference = np.abs(got.astype(np.float64) - expected)
    if pixels.dtype.kind == "f":
        assert difference.max() <= 20 * np.finfo(pixels.dtype).eps
    else:
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


# .npy and .npz


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3), (2, 9, 11, 5)])
def test_npy_keeps_floating_types(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    x = random(shape, dtype)
    np.save(tmp_path / "x.npy", x)
    apply(tmp_path / "x.npy", tmp_path / "y.npy")
    y = np.load(tmp_path / "y.npy")
    assert y.dtype == x.dtype.newbyteorder("=") and y.shape == x.shape
    np.testing.assert_allclose(y, expected_image(x), atol=20 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [("u1", "f4"), ("i1", "f4"), ("?", "f4"), ("u2", "f8"), ("i2", "f8"), ("i4", "f8"), ("i8", "f8")],
)
def test_npy_of_integers_becomes_floating(tmp_path: Path, dtype: str, computed: str) -> None:
    x = random((6, 7, 2), dtype) if dtype != "?" else random((6, 7, 2), "u1") > 127
    np.save(tmp_path / "x.npy", x)
    apply(tmp_path / "x.npy", tmp_path / "y.npy", "-k", "sobel-x")
    y = np.load(tmp_path / "y.npy")
    assert y.dtype == computed and y.min() < 0
    expected = reference.conv2d(x, sobel_x())
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_npy_takes_every_option(tmp_path: Path) -> None:
    x, bank = random((2, 3, 12, 13), "f4"), random((3, 2, 3, 4), "f8")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "bank.npy", bank)
    options = (
        "--layout",
        "nchw",
        "--stride",
        "2x1",
        "--dilation",
        "1x2",
        "--padding",
        "1,2,0,3",
        "--threads",
        1,
    )
    apply(tmp_path / "x.npy", tmp_path / "y.npy", "-k", tmp_path / "bank.npy", *options)
    expected = reference.conv2d(
        x, bank, stride=(2, 1), dilation=(1, 2), padding=((1, 2), (0, 3)), layout="NCHW"
    )
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-4)


def test_two_axes_with_a_multiplier_get_a_channel_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", random((5, 6), "f4"))
    np.save(tmp_path / "bank.npy", random((3, 3, 1, 2), "f4"))
    for layout, shape in (("NHWC", (5, 6, 2)), ("NCHW", (2, 5, 6))):
        apply(tmp_path / "x.npy", tmp_path / "y.npy", "-k", tmp_path / "bank.npy", "--layout", layout)
        assert np.load(tmp_path / "y.npy").shape == shape


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 4, 0), (0, 4, 4, 3)])
def test_npy_of_empty_sizes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, "f4"))
    apply(tmp_path / "x.npy", tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").shape == shape


def test_a_kernel_without_taps_gives_zeros(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 5, 3), "f4"))
    np.save(tmp_path / "k.npy", np.ones((0, 1, 3, 2)))
    apply(tmp_path / "x.npy", tmp_path / "y.npy", "-k", tmp_path / "k.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.zeros((4, 5, 6), "f4"))


def test_valid_with_a_kernel_one_larger_is_empty_and_two_larger_refused(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 4, 1), "f4"))
    apply(tmp_path / "x.npy", tmp_path / "y.npy", "-k", "box:5", "--padding", "VALID")
    assert np.load(tmp_path / "y.npy").shape == (0, 0, 1)
    refused(tmp_path / "x.npy", tmp_path / "z.npy", "-k", "box:6", "--padding", "VALID")


def test_nan_and_infinity_go_through_arrays(tmp_path: Path) -> None:
    x = np.array([[1, np.nan, 2, 3, np.inf]], "f4")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "k.npy", np.array([[1.0, 1.0]]))
    apply(tmp_path / "x.npy", tmp_path / "y.npy", "-k", tmp_path / "k.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[np.nan, np.nan, 5, np.inf, np.inf]])


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.0),
        np.ones(4),
        np.ones((1, 2, 3, 4, 5)),
        np.ones((2, 2), complex),
        np.ones((2, 2), np.longdouble),
        np.array([["a"]]),
        np.zeros((2, 2), "datetime64[s]"),
        np.zeros((2, 2), [("a", "f4")]),
        np.array([[None]], object),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_another_kind_are_refused(
    tmp_path: Path, refused: Callable[..., str], array: np.ndarray
) -> None:
    np.save(tmp_path / "x.npy", array)
    assert "x.npy" in refused(tmp_path / "x.npy", tmp_path / "y.npy")


def test_npz_keeps_its_arrays_and_names(tmp_path: Path) -> None:
    arrays = {
        "left": random((5, 6), "f4"),
        "file": random((3, 4, 2), "f8"),
        "allow_pickle": random((4, 4), "f4"),
    }
    with (tmp_path / "x.npz").open("wb") as file:
        _save_npz(file, arrays)
    apply(tmp_path / "x.npz", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as filtered:
        assert set(filtered.files) == set(arrays)
        for name, x in arrays.items():
            np.testing.assert_allclose(filtered[name], expected_image(x), atol=1e-5)


def test_npz_of_several_goes_only_into_npz(tmp_path: Path, refused: Callable[..., str]) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((3, 3)), b=np.ones((3, 3)))
    assert "a, b" in refused(tmp_path / "x.npz", tmp_path / "y.npy")
    np.savez(tmp_path / "one.npz", only=np.ones((3, 3)))
    apply(tmp_path / "one.npz", tmp_path / "y.npy", "-k", "box:1")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 1.0)


# .png and .jpg


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 11), "u1"), ((9, 11, 3), "u1"), ((9, 11), "u2"), ((300, 200, 3), "u1")]
)
def test_png(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    pixels = random(shape, dtype)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    apply(tmp_path / "x.png", tmp_path / "y.png", "--stride", "2")
    assert_image(np.asarray(Image.open(tmp_path / "y.png")), pixels, stride=2)


@pytest.mark.parametrize("channels", [2, 4])
def test_png_keeps_alpha(tmp_path: Path, refused: Callable[..., str], channels: int) -> None:
    pixels = random((9, 11, channels), "u1")
    Image.fromarray(pixels).save(tmp_path / "x.png")
    apply(tmp_path / "x.png", tmp_path / "y.png")
    filtered = np.asarray(Image.open(tmp_path / "y.png"))
    np.testing.assert_array_equal(filtered[..., -1], pixels[..., -1])
    assert_image(filtered[..., :-1], pixels[..., :-1])
    assert "alpha" in refused(tmp_path / "x.png", tmp_path / "z.png", "--stride", "2")


def test_integers_saturate(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).save(tmp_path / "x.png")
    np.save(tmp_path / "k.npy", np.array([[-1.0, 0.0, 2.0]]))
    apply(tmp_path / "x.png", tmp_path / "y.png", "-k", tmp_path / "k.npy")
    assert np.asarray(Image.open(tmp_path / "y.png")).tolist() == [[255, 0, 0]]


def test_palette_and_bilevel_images_are_expanded(tmp_path: Path) -> None:
    colours = Image.fromarray(random((8, 8, 3), "u1")).quantize(16)
    colours.save(tmp_path / "p.png")
    apply(tmp_path / "p.png", tmp_path / "y.png", "-k", "box:1")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "y.png")), np.asarray(colours.convert("RGB"))
    )
    Image.fromarray(np.eye(4) > 0).save(tmp_path / "b.png")
    apply(tmp_path / "b.png", tmp_path / "y.png", "-k", "box:1")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "y.png")), 255 * np.eye(4))


def test_colour_profile_goes_along(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(random((8, 8, 3), "u1")).save(tmp_path / "x.png", icc_profile=profile)
    for source, target in (("x.png", "y.jpg"), ("y.jpg", "z.tif"), ("z.tif", "w.png")):
        apply(tmp_path / source, tmp_path / target, "-k", "box:1")
    assert Image.open(tmp_path / "w.png").info["icc_profile"] == profile


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(tmp_path: Path, mode: str) -> None:
    ramp = np.add.outer(np.arange(40), 3 * np.arange(50)).astype(np.uint8)
    Image.fromarray(ramp).convert(mode).save(tmp_path / "x.jpg", quality=95)
    decoded = np.asarray(Image.open(tmp_path / "x.jpg"))
    apply(tmp_path / "x.jpg", tmp_path / "y.JPEG")
    filtered = np.asarray(Image.open(tmp_path / "y.JPEG"))
    assert filtered.shape == decoded.shape
    assert np.abs(filtered - expected_image(decoded)).mean() < 2  # JPEG is lossy


@pytest.mark.parametrize("border", ["constant", "reflect", "symmetric", "edge", "wrap"])
@pytest.mark.parametrize(
    ("name", "dtype"), [("x.png", "u1"), ("x.png", "u2"), ("x.tif", "i2"), ("x.npy", "f4")]
)
def test_borders(tmp_path: Path, border: str, name: str, dtype: str) -> None:
    pixels = random((20, 31), dtype)
    source, target = tmp_path / name, tmp_path / f"y{Path(name).suffix}"
    if name.endswith("png"):
        Image.fromarray(pixels).save(source)
    else:
        tifffile.imwrite(source, pixels) if name.endswith("tif") else np.save(source, pixels)
    apply(source, target, "--border", border)
    got = (
        np.load(target) if name.endswith("npy") else tifffile.imread(target) if name.endswith("tif") else None
    )
    with Image.open(target) if got is None else contextlib.nullcontext() as image:
        got = np.asarray(image) if got is None else got
    assert_image(got.astype(pixels.dtype), pixels, border=border)


def test_the_dtype_of_the_result(tmp_path: Path, refused: Callable[..., str]) -> None:
    pixels = random((2, 20, 31, 3), "u1")
    np.save(tmp_path / "x.npy", pixels)
    for dtype in ("uint8", "int16", "uint16", "float32", "float64"):
        apply(tmp_path / "x.npy", tmp_path / "y.npy", "--dtype", dtype, "-k", "sobel-x")
        got, exact = np.load(tmp_path / "y.npy"), reference.conv2d(pixels, sobel_x())
        limits = np.iinfo(dtype) if "int" in dtype else None
        expected = exact if limits is None else np.clip(np.rint(exact), limits.min, limits.max)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected)  # a Sobel kernel of integers is exact
    np.save(tmp_path / "f.npy", pixels.astype(np.float32))
    apply(tmp_path / "f.npy", tmp_path / "y.npy", "--dtype", "uint8", "-k", "sobel-x")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.clip(np.rint(exact), 0, 255))
    assert "--dtype" in refused(tmp_path / "x.npy", tmp_path / "z.npy", "--dtype", "int8")
    assert "--border" in refused(tmp_path / "x.npy", tmp_path / "z.npy", "--border", "mirror")
    Image.fromarray(random((5, 5, 4), "u1")).save(tmp_path / "alpha.png")
    assert "alpha" in refused(tmp_path / "alpha.png", tmp_path / "z.png", "--dtype", "uint16")


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to see it
    Image.new("RGB", (20, 10)).save(tmp_path / "x.jpg", exif=exif)
    apply(tmp_path / "x.jpg", tmp_path / "y.jpg")
    with Image.open(tmp_path / "y.jpg") as upright:
        assert upright.size == (10, 20) and 0x0112 not in upright.getexif()


def test_what_photographs_cannot_hold_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    np.save(tmp_path / "float.npy", random((5, 5, 3), "f4"))
    np.save(tmp_path / "many.npy", random((5, 5, 7), "u1"))
    np.save(tmp_path / "batch.npy", random((2, 5, 5, 3), "u1"))
    np.save(tmp_path / "deep.npy", random((5, 5, 3), "u2"))
    for name in ("float", "many", "batch", "deep"):
        for suffix in (".png", ".jpg"):
            refused(tmp_path / f"{name}.npy", tmp_path / f"y{suffix}")
    Image.fromarray(random((5, 5), "u1")).save(tmp_path / "x.png")
    refused(tmp_path / "x.png", tmp_path / "y.png", "-k", "box:6", "--padding", "VALID")
    assert "NHWC" in refused(tmp_path / "x.png", tmp_path / "y.png", "--layout", "NCHW")
    np.save(tmp_path / "k.npy", np.array([[np.nan]]))
    assert "NaN" in refused(tmp_path / "x.png", tmp_path / "y.png", "-k", tmp_path / "k.npy")
    Image.new("CMYK", (5, 5)).save(tmp_path / "x.jpg")
    assert "CMYK" in refused(tmp_path / "x.jpg", tmp_path / "y.jpg")


def test_deep_colour_png_is_refused_rather_than_cut_to_8_bits(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "x.png").write_bytes(_png_header(depth=16, colour=2))
    assert "16 bits" in refused(tmp_path / "x.png", tmp_path / "y.png")


def test_integer_arrays_become_pictures(tmp_path: Path) -> None:
    pixels = random((3, 9, 11), "u1")
    np.save(tmp_path / "x.npy", pixels)
    apply(tmp_path / "x.npy", tmp_path / "y.png", "--layout", "NCHW")
    assert_image(np.asarray(Image.open(tmp_path / "y.png")), pixels.transpose(1, 2, 0))


# .tif


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3), (9, 11, 8)])
def test_tiff_keeps_type_and_channels(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    pixels = random(shape, dtype)
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack", planarconfig=_contiguous(pixels))
    apply(tmp_path / "x.tif", tmp_path / "y.tif")
    assert_image(tifffile.imread(tmp_path / "y.tif"), pixels)
    assert _axes(tmp_path / "y.tif") == ("YX" if len(shape) == 2 else "YXS")


def test_tiff_with_planes_stays_planar(tmp_path: Path) -> None:
    pixels = random((8, 9, 11), "u2")
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack", planarconfig="separate")
    apply(tmp_path / "x.tif", tmp_path / "y.tiff")
    apply(tmp_path / "y.tiff", tmp_path / "z.tiff", "-k", "box:1")  # what is written can be read
    filtered = tifffile.imread(tmp_path / "z.tiff")
    assert_image(filtered.transpose(1, 2, 0), pixels.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("TYX", (4, 9, 11)), ("ZYXS", (4, 9, 11, 3)), ("TCYX", (4, 2, 9, 11)), ("CYX", (5, 9, 11))],
)
def test_tiff_stacks_keep_their_named_axes(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    pixels = random(shape, "u2")
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack", metadata={"axes": axes})
    assert _axes(tmp_path / "x.tif") == axes
    apply(tmp_path / "x.tif", tmp_path / "y.tif")
    assert _axes(tmp_path / "y.tif") == axes
    planes = (
        pixels.reshape(-1, 9, 11) if axes.endswith("X") else np.moveaxis(pixels, -1, 1).reshape(-1, 9, 11)
    )
    filtered = tifffile.imread(tmp_path / "y.tif")
    assert filtered.shape == shape
    filtered = filtered if axes.endswith("X") else np.moveaxis(filtered, -1, 1)
    assert_image(filtered.reshape(-1, 9, 11).transpose(1, 2, 0), planes.transpose(1, 2, 0))


def test_tiff_without_named_channels_asks_for_the_layout(tmp_path: Path, refused: Callable[..., str]) -> None:
    pixels = random((6, 9, 11), "u2")
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack")
    assert "--layout" in refused(tmp_path / "x.tif", tmp_path / "y.tif")
    apply(tmp_path / "x.tif", tmp_path / "y.tif", "--layout", "NHWC")
    assert_image(tifffile.imread(tmp_path / "y.tif"), pixels)
    apply(tmp_path / "x.tif", tmp_path / "z.tif", "--layout", "NCHW")
    assert_image(tifffile.imread(tmp_path / "z.tif").transpose(1, 2, 0), pixels.transpose(1, 2, 0))


def test_tiff_layout_must_not_contradict_the_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    tifffile.imwrite(tmp_path / "x.tif", random((9, 11, 3), "u1"), photometric="rgb")
    assert "NHWC" in refused(tmp_path / "x.tif", tmp_path / "y.tif", "--layout", "NCHW")


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("stack", [(), (3,)])
def test_tiff_keeps_alpha(tmp_path: Path, planes: str, stack: tuple[int, ...]) -> None:
    pixels = random((*stack, 9, 11, 4), "u2")
    stored = pixels if planes == "contig" else np.moveaxis(pixels, -1, -3)
    axes = "T" * len(stack) + ("YXS" if planes == "contig" else "SYX")
    tags = {"photometric": "rgb", "planarconfig": planes, "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "x.tif", stored, **tags, metadata={"axes": axes})
    apply(tmp_path / "x.tif", tmp_path / "y.tif")
    apply(tmp_path / "y.tif", tmp_path / "z.tif", "-k", "box:1")
    filtered = tifffile.imread(tmp_path / "z.tif")
    np.testing.assert_array_equal(filtered[..., 3], pixels[..., 3])
    for got, given_pixels in zip(filtered.reshape(-1, 9, 11, 4), pixels.reshape(-1, 9, 11, 4), strict=True):
        assert_image(got[..., :3], given_pixels[..., :3])


def test_tiff_of_a_bank_has_all_its_channels(tmp_path: Path) -> None:
    pixels, bank = random((9, 11, 3), "u2"), np.abs(random((3, 3, 3, 4), "f8")) / 9
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb")
    np.save(tmp_path / "bank.npy", bank)
    apply(tmp_path / "x.tif", tmp_path / "y.tif", "-k", tmp_path / "bank.npy")
    assert_image(tifffile.imread(tmp_path / "y.tif"), pixels, kernel=bank)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_jpeg"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    Image.fromarray(random((40, 40, 3), "u1")).save(tmp_path / "x.tif", compression=compression)
    apply(tmp_path / "x.tif", tmp_path / "y.tif")
    assert_image(tifffile.imread(tmp_path / "y.tif"), np.asarray(Image.open(tmp_path / "x.tif")))


def test_tiff_of_palette_or_several_sizes_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    Image.fromarray(random((8, 8, 3), "u1")).quantize(16).save(tmp_path / "p.tif")
    assert "palette" in refused(tmp_path / "p.tif", tmp_path / "y.tif")
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        writer.write(np.zeros((4, 4), "u1"))
        writer.write(np.zeros((5, 5), "u1"))
    assert "different" in refused(tmp_path / "s.tif", tmp_path / "y.tif")


# damage, and outputs that are whole or not there


@pytest.mark.parametrize("suffix", files.FORMATS)
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"no image at all", b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\xff"]
)
def test_files_of_something_else_are_refused(
    tmp_path: Path, refused: Callable[..., str], suffix: str, content: bytes
) -> None:
    source = tmp_path / f"x{suffix}"
    source.write_bytes(content)
    assert source.name in refused(source, tmp_path / f"y{suffix}")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".jpg", ".tif"])
def test_truncated_files_are_refused(tmp_path: Path, refused: Callable[..., str], suffix: str) -> None:
    source = tmp_path / f"x{suffix}"
    files.write_images(source, {files.SINGLE: files.from_array(random((64, 64, 3), "u1"), "NHWC")})
    whole = source.read_bytes()
    for length in (1, 20, len(whole) // 3, len(whole) * 2 // 3):
        source.write_bytes(whole[:length])
        assert source.name in refused(source, tmp_path / f"y{suffix}")


@pytest.mark.parametrize("suffix", files.FORMATS)
def test_failure_while_writing_leaves_the_old_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    source, target = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}"
    image = files.from_array(random((8, 8, 3), "u1"), "NHWC")
    files.write_images(source, {files.SINGLE: image})
    target.write_bytes(b"old")
    row = files.FORMATS[suffix]

    def fails_midway(file: Any, content: dict[str, Any]) -> None:
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(files.FORMATS, suffix, row._replace(write=fails_midway))
    assert cli.main(["filter", str(source), str(target), "-k", "box"]) == 2
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, target.name]


def test_interrupt_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_file(tmp_path / "y.npy") as file:
        file.write(b"half of")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_output_is_replaced_through_links_and_keeps_ordinary_permissions(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 3)))
    (tmp_path / "real.npy").write_bytes(b"old")
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    apply(tmp_path / "x.npy", tmp_path / "link.npy", "-k", "box:1")
    assert (tmp_path / "link.npy").is_symlink()
    np.testing.assert_array_equal(np.load(tmp_path / "real.npy"), 1.0)
    (tmp_path / "plain").touch()
    assert (tmp_path / "real.npy").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_folder_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 3)))
    assert "nowhere" in refused(tmp_path / "x.npy", tmp_path / "nowhere" / "y.npy")


@pytest.mark.parametrize("name", ["x.gif", "x", "x.npy.gz", ".png"])
def test_unknown_endings_are_refused(tmp_path: Path, refused: Callable[..., str], name: str) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 3)))
    assert ".npy .npz .png" in refused(tmp_path / "a.npy", tmp_path / name)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).touch()
    assert ".npy .npz .png" in refused(tmp_path / "in" / name, tmp_path / "y.npy")


def test_a_damaged_tiff_gives_one_line_in_a_process_of_its_own(tmp_path: Path) -> None:
    """tifffile logs, which pytest hides: only a process of its own shows what a user would see."""
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((64, 64), "u1"))
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:200])
    script = "import sys; from depthwise.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "filter", "x.tif", "y.tif", "-k", "box"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "x.tif" in done.stderr, done


@given(st.lists(st.floats(-(2.0**40), 2.0**40), min_size=1), st.sampled_from(["u1", "i1", "u2", "i4"]))
def test_rounding_and_saturation(values: list[float], dtype: str) -> None:
    limits = np.iinfo(dtype)
    expected = [min(max(round(value), limits.min), limits.max) for value in values]  # half to even, too
    assert to_integers(np.array(values), np.dtype(dtype)).tolist() == expected
    assert to_integers(np.array([-np.inf, np.inf]), np.dtype(dtype)).tolist() == [limits.min, limits.max]


def _axes(path: Path) -> str:
    with tifffile.TiffFile(path) as file:
        return str(file.series[0].axes)


def _contiguous(pixels: np.ndarray) -> str | None:
    return "contig" if pixels.ndim == 3 else None


def _png_header(depth: int, colour: int) -> bytes:
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", 2, 2, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def _save_npz(file: Any, arrays: dict[str, np.ndarray]) -> None:
    """As numpy.savez does, which takes no array named as one of its own arguments."""
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array)
