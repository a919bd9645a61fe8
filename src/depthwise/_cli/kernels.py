"""The kernels that ``--kernel`` knows by name, and how to write them.

A kernel is written ``NAME``, ``NAME:VALUE``, ``NAME:VALUE,VALUE`` or ``NAME:key=value,key=value``, or is the
path of a ``.npy`` file. A kernel is one function below, listed in `BUILTIN`: its name, parameters and
defaults are what ``--kernel`` accepts.

Like the convolution itself, kernels are correlated, not flipped: the Sobel kernels are positive where the
image gets brighter to the right (x) and downwards (y).
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Kernel = NDArray[np.floating]

MAX_TAPS = 1 << 24  # 4096 x 4096: past any use, and still a modest allocation


def box(size: int = 3) -> Kernel:
    """Mean of size x size pixels."""
    _check("size", size, size >= 1, "at least 1")
    _check_taps(size)
    return np.full((size, size), 1.0 / size**2)


def gaussian(sigma: float = 1.0, radius: int | None = None) -> Kernel:
    """Gaussian blur of standard deviation sigma pixels, cut off at radius (default: 4 sigma, rounded)."""
    _check("sigma", sigma, math.isfinite(sigma) and sigma > 0, "positive and finite")
    reach = int(4.0 * sigma + 0.5) if radius is None else radius
    _check("radius", reach, reach >= 0, "at least 0")
    _check_taps(2 * reach + 1)
    with np.errstate(over="ignore"):  # for a tiny sigma, far taps are exp(-inf) = 0
        line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    line /= line.sum()
    kernel: Kernel = np.outer(line, line)
    return kernel


def sharpen(amount: float = 1.0) -> Kernel:
    """The image minus amount times its Laplacian."""
    _check("amount", amount, math.isfinite(amount), "finite")
    image = np.zeros((3, 3))
    image[1, 1] = 1.0
    return image - amount * laplacian(neighbours=4)


def sobel_x(scale: float = 1.0) -> Kernel:
    """Horizontal derivative, smoothed vertically, times scale."""
    _check("scale", scale, math.isfinite(scale), "finite")
    kernel: Kernel = scale * np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])
    return kernel


def sobel_y(scale: float = 1.0) -> Kernel:
    """Vertical derivative, smoothed horizontally, times scale."""
    return np.ascontiguousarray(sobel_x(scale).T)


def laplacian(neighbours: int = 4) -> Kernel:
    """Sum of second derivatives over 4 or 8 neighbours."""
    _check("neighbours", neighbours, neighbours in (4, 8), "4 or 8")
    corner = 0.0 if neighbours == 4 else 1.0
    return np.array([[corner, 1.0, corner], [1.0, -float(neighbours), 1.0], [corner, 1.0, corner]])


BUILTIN: dict[str, Callable[..., Kernel]] = {
    function.__name__.replace("_", "-"): function
    for function in (box, gaussian, sharpen, sobel_x, sobel_y, laplacian)
}


def parse_kernel(spec: str) -> Kernel:
    """Make the kernel that `spec` describes.

    Parameters
    ----------
    spec : str
        ``NAME[:ARGUMENTS]`` of a kernel in `BUILTIN`, or the path of a ``.npy`` file with a
        [kh, kw] or [kh, kw, C, M] array of real numbers.

    Returns
    -------
    ndarray of float64, or of the file's own floating type

    Raises
    ------
    ValueError
        If the name, an argument or the file is not what is expected; says which and why.

    Examples
    --------
    >>> parse_kernel("box:2").tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    >>> parse_kernel("gaussian:sigma=2,radius=6").shape
    (13, 13)
    """
    if spec.endswith(".npy"):
        return load_kernel(Path(spec))
    name, _, arguments = spec.partition(":")
    if name not in BUILTIN:
        raise ValueError(f"kernel: expected {', '.join(BUILTIN)} or a .npy file, got {spec!r}")
    try:
        return BUILTIN[name](**_parse_arguments(name, arguments))
    except ValueError as error:
        raise ValueError(f"kernel {spec!r}: {error}") from None


def load_kernel(path: Path) -> Kernel:
    """Read a [kh, kw] or [kh, kw, C, M] kernel from a ``.npy`` file; integers become float64."""
    try:
        kernel = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"kernel: cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise ValueError(f"kernel: {path} is not a .npy file of numbers") from error
    if not isinstance(kernel, np.ndarray) or kernel.ndim not in (2, 4):
        shape = getattr(kernel, "shape", "an archive")
        raise ValueError(f"kernel: {path} must have shape [kh, kw] or [kh, kw, C, M], got {shape}")
    if kernel.dtype.kind in "biu":
        return kernel.astype(np.float64)
    if kernel.dtype.kind != "f":
        raise ValueError(f"kernel: {path} must hold real numbers, got {kernel.dtype}")
    return kernel


def _parse_arguments(name: str, text: str) -> dict[str, int | float]:
    parameters = inspect.signature(BUILTIN[name], eval_str=True).parameters
    values: dict[str, int | float] = {}
    for position, item in enumerate(text.split(",") if text else ()):
        key, equals, value = item.rpartition("=")
        if not equals:
            key = list(parameters)[position] if position < len(parameters) else ""
        if key not in parameters or key in values:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"unexpected argument {item!r}; parameters are: {known}")
        values[key] = _number(key, value, whole=parameters[key].annotation is not float)
    return values


def _number(name: str, text: str, *, whole: bool) -> int | float:
    if whole:
        _check(name, text, re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None, "an integer")
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _check_taps(side: int) -> None:
    if side * side > MAX_TAPS:
        raise ValueError(f"{side} x {side} taps are more than the {MAX_TAPS} allowed")
