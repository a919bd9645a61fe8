"""How sizes, pads and shapes are written on the command line, and the options that commands share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import typer

Layout = Literal["NHWC", "NCHW"]
Pair = int | tuple[int, int]
Pads = str | int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]

_INTEGERS = re.compile(r"[+-]?[0-9]{1,19}(?:[x,][+-]?[0-9]{1,19})*")


def _integers(text: str, counts: tuple[int, ...], expected: str) -> tuple[int, ...]:
    if _INTEGERS.fullmatch(text):
        values = tuple(int(part) for part in re.split("[x,]", text))
        if len(values) in counts:
            return values
    raise typer.BadParameter(f"expected {expected}, got {text!r}")


def parse_pair(text: str) -> Pair:
    """Parse ``N`` or ``HxW``."""
    values = _integers(text, (1, 2), "an integer N or two, HxW")
    return values[0] if len(values) == 1 else (values[0], values[1])


def parse_padding(text: str) -> Pads:
    """Parse ``SAME``, ``VALID``, ``N``, ``H,W`` or ``top,bottom,left,right``."""
    if text.upper() in ("SAME", "VALID"):
        return text.upper()
    values = _integers(text, (1, 2, 4), "SAME, VALID, N, H,W or top,bottom,left,right")
    if len(values) == 4:
        return (values[0], values[1]), (values[2], values[3])
    return values[0] if len(values) == 1 else (values[0], values[1])


def parse_input_shape(text: str) -> tuple[int, ...]:
    """Parse ``NxHxWxC``, or three sizes without the batch."""
    return _integers(text, (3, 4), "three or four sizes such as 1x56x56x96")


def parse_filter_shape(text: str) -> tuple[int, ...]:
    """Parse ``KHxKWxCxM``, or ``KHxKW`` for one kernel on every channel."""
    return _integers(text, (2, 4), "two or four sizes such as 7x7x96x1")


def parse_layout(text: str) -> Layout:
    """Parse ``NHWC`` or ``NCHW``."""
    if text.upper() == "NHWC":
        return "NHWC"
    if text.upper() == "NCHW":
        return "NCHW"
    raise typer.BadParameter(f"expected NHWC or NCHW, got {text!r}")


def parse_border(text: str) -> str:
    """Parse the name of a border."""
    from depthwise._spec import BORDERS

    return _name(text, BORDERS)


def parse_dtype(text: str) -> str:
    """Parse the name of a dtype that results may have."""
    from depthwise._spec import INTEGER_FILTERS, INTEGERS

    return _name(text, (*INTEGERS, *INTEGER_FILTERS))


def parse_algorithm(text: str) -> str:
    """Parse the name of an algorithm."""
    from depthwise._spec import ALGORITHMS

    return _name(text, ALGORITHMS)


def _name(text: str, names: tuple[str, ...]) -> str:
    if text.lower() in names:
        return text.lower()
    raise typer.BadParameter(f"expected {', '.join(names[:-1])} or {names[-1]}, got {text!r}")


# Typer takes no union for an option's type: Any stands for what the parser returns.
StrideOption = Annotated[
    Any, typer.Option("--stride", parser=parse_pair, metavar="STRIDE", help="Step between outputs: N or HxW.")
]
PaddingOption = Annotated[
    Any,
    typer.Option(
        "--padding",
        parser=parse_padding,
        metavar="PADDING",
        help="Pixels around the image: SAME keeps its size at stride 1, VALID adds none; or pixels N (all "
        "sides), H,W (rows and columns) or top,bottom,left,right.",
    ),
]
DilationOption = Annotated[
    Any,
    typer.Option(
        "--dilation", parser=parse_pair, metavar="DILATION", help="Step between filter taps: N or HxW."
    ),
]
BorderOption = Annotated[
    Any,
    typer.Option(
        "--border",
        parser=parse_border,
        metavar="BORDER",
        help="What lies around the image, as numpy.pad names it: constant (zeros), reflect, symmetric, edge "
        "or wrap.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="Threads to use; by default as `depthwise info` shows."),
]
DTypeOption = Annotated[
    Any,
    typer.Option(
        "--dtype",
        parser=parse_dtype,
        metavar="DTYPE",
        help="Of the result: uint8, int16 or uint16, rounded and saturated, or float32 or float64.",
    ),
]
LayoutOption = Annotated[
    Any,
    typer.Option(
        "--layout", parser=parse_layout, metavar="LAYOUT", help="NHWC or NCHW: where the channels are."
    ),
]
AlgorithmOption = Annotated[
    Any,
    typer.Option(
        "--algorithm",
        parser=parse_algorithm,
        metavar="ALGORITHM",
        help="Force an algorithm: direct, fft or separable; auto takes the fastest.",
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Compute a .zarr on the workers of this Dask scheduler, such as tcp://host:8786.",
    ),
]
