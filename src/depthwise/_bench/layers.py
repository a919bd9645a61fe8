"""The layers to time: read from ``layers.toml``, duplicates merged, chosen by network and by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LAYERS_FILE = Path(__file__).with_name("layers.toml")

_NAME = re.compile(r"(\d+)x(\d+)x(\d+) (\d+)x(\d+)(?: s(\d+))?(?: d(\d+))?(?: m(\d+))?")

#: One layer for each regime: large and small planes, strides, 3x3 to 7x7, dilation, few channels, multiplier.
QUICK = (
    "112x112x32 3x3",
    "56x56x144 3x3 s2",
    "28x28x240 5x5",
    "14x14x512 3x3",
    "7x7x1024 3x3",
    "14x14x672 5x5",
    "14x14x672 5x5 s2",
    "56x56x96 7x7",
    "7x7x768 7x7",
    "33x33x960 3x3 d2",
    "512x512x3 3x3",
    "28x28x128 3x3 m2",
    "7x7x1024 13x13",
)


@dataclass(frozen=True)
class Layer:
    """One depthwise layer with "SAME" padding.

    Attributes
    ----------
    height, width, channels : int
        The image's shape, without the batch axis.
    kernel_h, kernel_w, stride, dilation, multiplier : int
        The filter has shape ``[kernel_h, kernel_w, channels, multiplier]``.
    uses : tuple of (str, int)
        The networks it occurs in, and how often in each.
    """

    height: int
    width: int
    channels: int
    kernel_h: int
    kernel_w: int
    stride: int = 1
    dilation: int = 1
    multiplier: int = 1
    uses: tuple[tuple[str, int], ...] = field(default=(), kw_only=True)

    @property
    def name(self) -> str:
        """Short and unique: ``56x56x144 3x3 s2``; s(tride), d(ilation), m(ultiplier) when not 1."""
        parts = [f"{self.height}x{self.width}x{self.channels}", f"{self.kernel_h}x{self.kernel_w}"]
        extras = (("s", self.stride), ("d", self.dilation), ("m", self.multiplier))
        return " ".join(parts + [f"{letter}{value}" for letter, value in extras if value != 1])

    @property
    def nets(self) -> tuple[str, ...]:
        return tuple(net for net, _ in self.uses)


def load_layers(path: Path = LAYERS_FILE) -> list[Layer]:
    """Every distinct layer of the file, in the file's order, with the networks that use it."""
    with path.open("rb") as file:
        return merge_layers(parse_layers(tomllib.load(file)))


def parse_layers(tables: Mapping[str, Any]) -> list[Layer]:
    """Layers of the parsed TOML tables, one for each row.

    Raises
    ------
    ValueError
        If a row is not nine positive integers.
    """
    layers = []
    for net, table in tables.items():
        for row in table["layers"]:
            if len(row) != 9 or not all(isinstance(entry, int) and entry > 0 for entry in row):
                raise ValueError(f"layers of {net}: a row must be 9 positive integers, got {row}")
            layers.append(Layer(*row[:8], uses=((net, row[8]),)))
    return layers


def merge_layers(layers: Iterable[Layer]) -> list[Layer]:
    """One layer for each shape; its uses are those of all layers of that shape, summed for each network."""
    uses: dict[Layer, dict[str, int]] = {}
    for layer in layers:
        counts = uses.setdefault(replace(layer, uses=()), {})
        for net, count in layer.uses:
            counts[net] = counts.get(net, 0) + count
    return [replace(shape, uses=tuple(counts.items())) for shape, counts in uses.items()]


def select_layers(
    layers: Sequence[Layer], nets: Sequence[str] = (), patterns: Sequence[str] = ()
) -> list[Layer]:
    """Layers of networks whose name begins with one of `nets` and whose own name matches one of `patterns`.

    A pattern is a full name, a shell pattern (``14x14x* 5x5*``) or a part of a name that is not a full one
    (``7x7 s2``); no patterns match all. The full name of a layer that no network has (``2048x2048x32 3x3``)
    adds that layer.

    Raises
    ------
    ValueError
        If a network or a pattern matches nothing at all.
    """
    layers = [*layers, *_unlisted(layers, patterns)]
    known = sorted({net for layer in layers for net in layer.nets})
    for net in nets:
        if not any(name.startswith(net) for name in known):
            raise ValueError(f"nets: no network begins with {net!r}; known: {', '.join(known)}")
    for pattern in patterns:
        if not any(_matches(layer.name, pattern) for layer in layers):
            raise ValueError(f"layers: nothing matches {pattern!r}; a name looks like {layers[0].name!r}")
    return [
        layer
        for layer in layers
        if (not nets or not layer.nets or any(name.startswith(net) for name in layer.nets for net in nets))
        and (not patterns or any(_matches(layer.name, pattern) for pattern in patterns))
    ]


def parse_name(name: str) -> Layer | None:
    """The layer of which this is the name, or None."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    numbers = [int(group or 1) for group in match.groups()]
    return Layer(*numbers[:8])


def quick_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The representative subset :data:`QUICK`."""
    by_name = {layer.name: layer for layer in layers}
    return [by_name[name] for name in QUICK if name in by_name]


def _unlisted(layers: Sequence[Layer], patterns: Sequence[str]) -> list[Layer]:
    names = [layer.name for layer in layers]
    unmatched = (pattern for pattern in patterns if not any(_matches(name, pattern) for name in names))
    return [layer for layer in map(parse_name, unmatched) if layer is not None]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or (pattern in name and parse_name(pattern) is None)
