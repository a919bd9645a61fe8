"""The demo's contact sheet: captioned tiles on a dark page."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

COLUMNS = 3
TILE_EDGE = 640  # pixels of a picture's longer side
NARROWEST = 400  # of a column, so that a caption fits below a slim picture
MARGIN, GAP, HEADER, CAPTION = 48, 32, 104, 76
PAGE, TITLE, TEXT, DIM = "#101318", "#ffffff", "#e8eaee", "#8d95a3"


class Tile(NamedTuple):
    """A picture with values from 0 to 1, [H, W], [H, W, 1] or [H, W, 3], and what stands below it."""

    title: str
    note: str
    pixels: NDArray[np.floating]


def write_sheet(file: BinaryIO, title: str, note: str, tiles: list[Tile]) -> None:
    """Draw tiles of one size, three a row, under a title, and write them as PNG."""
    pictures = [_picture(tile.pixels) for tile in tiles]
    width, height = max(pictures[0].width, NARROWEST), pictures[0].height
    rows = -(-len(tiles) // COLUMNS)
    page_width = 2 * MARGIN + COLUMNS * width + (COLUMNS - 1) * GAP
    page_height = HEADER + MARGIN // 2 + rows * (height + CAPTION)
    page = PIL.Image.new("RGB", (page_width, page_height), PAGE)
    draw = PIL.ImageDraw.Draw(page)
    _text(draw, (MARGIN, HEADER // 2), title, 34, TITLE)
    _text(draw, (page_width - MARGIN, HEADER // 2), note, 20, DIM, align="r")
    for index, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
        left = MARGIN + index % COLUMNS * (width + GAP)
        top = HEADER + index // COLUMNS * (height + CAPTION)
        page.paste(picture, (left, top))
        _text(draw, (left, top + height + 30), tile.title, 24, TEXT)
        _text(draw, (left + width, top + height + 30), tile.note, 18, DIM, align="r")
    page.save(file, "png")


def directions(right: NDArray[np.floating], down: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colour a gradient: hue is its direction, brightness its strength; [H, W] to [H, W, 3]."""
    hue = np.arctan2(down, right) / (2 * np.pi) % 1.0
    value = to_unit(np.hypot(right, down))
    saturation = np.full_like(hue, 0.75)
    hsv = np.stack([hue, saturation, value], axis=-1)
    picture = PIL.Image.frombytes("HSV", hue.shape[::-1], _bytes(hsv).tobytes())
    return np.asarray(picture.convert("RGB")) / 255.0


def to_unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale magnitudes so that all but the strongest half percent fit in 0 to 1; lift the faint ones."""
    strongest = float(np.quantile(values, 0.995)) or 1.0
    scaled: NDArray[np.floating] = np.clip(values / strongest, 0.0, 1.0) ** 0.7
    return scaled


def signed_to_unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Map 0 to mid grey, negative values to darker and positive ones to brighter."""
    scaled: NDArray[np.floating] = 0.5 + 0.5 * np.sign(values) * to_unit(np.abs(values))
    return scaled


def _picture(pixels: NDArray[np.floating]) -> PIL.Image.Image:
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    picture = PIL.Image.fromarray(_bytes(pixels[..., 0] if grey else pixels)).convert("RGB")
    scale = TILE_EDGE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, PIL.Image.Resampling.LANCZOS)


def _bytes(pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def _text(
    draw: PIL.ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, fill: str, align: str = "l"
) -> None:
    draw.text(at, text, fill, font=PIL.ImageFont.load_default(size), anchor=f"{align}m")
