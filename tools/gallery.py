"""Draw the pictures of docs/gallery.md: one photograph through filters of `depthwise.conv2d`.

    python tools/gallery.py [FOLDER]

The photograph is the portrait of Grace Hopper (United States Navy, public domain) that matplotlib ships.
FOLDER is docs/gallery unless given. Needs the extra cli.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

import depthwise
from depthwise._cli.demo import LUMA, read_photograph
from depthwise._cli.kernels import gaussian, sobel_x, sobel_y

Picture = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 420  # of a picture, in pixels
QUALITY = 86


def filtered(picture: Picture, kernel: NDArray[np.floating]) -> Picture:
    """Every channel with the same kernel; the rim sees the picture mirrored."""
    (top, left), size = np.array(kernel.shape) // 2, kernel.shape
    around = ((top, size[0] - 1 - top), (left, size[1] - 1 - left))
    result: Picture = depthwise.conv2d(picture, kernel.astype(np.float32), padding=around, border="reflect")
    return result


def original(photograph: Picture) -> Picture:
    """The photograph as it is."""
    return photograph


def blur(photograph: Picture) -> Picture:
    """A Gaussian of sigma 4: 33 x 33 taps."""
    return filtered(photograph, gaussian(4.0))


def unsharp(photograph: Picture) -> Picture:
    """What the blur takes away, added once more and a half."""
    return photograph + 1.5 * (photograph - filtered(photograph, gaussian(2.0)))


def edges(photograph: Picture) -> Picture:
    """The length of the gradient, from both Sobel kernels."""
    grey = grey_of(photograph)
    length = np.hypot(filtered(grey, sobel_x(0.25)), filtered(grey, sobel_y(0.25)))
    return 1.0 - np.sqrt(length / np.quantile(length, 0.995))


def difference_of_gaussians(photograph: Picture) -> Picture:
    """A fine Gaussian less a coarse one: 0 is grey, what is brighter than its surroundings is white."""
    grey = grey_of(photograph)
    difference = filtered(grey, gaussian(1.0)) - filtered(grey, gaussian(2.5))
    return 0.5 + 0.5 * difference / np.quantile(np.abs(difference), 0.99)


def bokeh(photograph: Picture) -> Picture:
    """A lens out of focus: a disc 31 pixels across, averaging light instead of stored values."""
    light = photograph**2.2
    return filtered(light + 4.0 * light**6, disc(31)) ** (1 / 2.2)


def disc(size: int) -> NDArray[np.floating]:
    """A round aperture with a smooth rim, of sum 1."""
    radius = size / 2
    y, x = np.mgrid[:size, :size] + 0.5 - radius
    aperture = np.clip(radius - np.hypot(y, x), 0.0, 1.0)
    kernel: NDArray[np.floating] = aperture / aperture.sum()
    return kernel


def grey_of(photograph: Picture) -> Picture:
    """Its brightness, [H, W, 1]."""
    return photograph @ np.array(LUMA, np.float32)[:, np.newaxis]


PICTURES: tuple[Callable[[Picture], Picture], ...] = (
    original,
    blur,
    unsharp,
    edges,
    difference_of_gaussians,
    bokeh,
)


def save(path: Path, picture: Picture) -> None:
    """Write values from 0 to 1 as JPEG, `WIDTH` pixels wide."""
    pixels = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    image = PIL.Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    size = (WIDTH, round(image.height * WIDTH / image.width))
    image.resize(size, PIL.Image.Resampling.LANCZOS).save(path, "jpeg", quality=QUALITY, optimize=True)


def main(folder: Path) -> None:
    """Draw every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    photograph = read_photograph(None)
    for draw in PICTURES:
        path = folder / f"{draw.__name__}.jpg"
        save(path, draw(photograph))
        print(f"{path}  {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "gallery")
