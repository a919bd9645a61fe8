"""Libraries that filter images, run in this process: OpenCV and `scipy.ndimage`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from .peers.base import Call


@dataclass(frozen=True)
class Task:
    """An image, a kernel for each of its channels, and the border "reflect"; the result has the image's type.

    Attributes
    ----------
    x : array of shape (height, width, channels)
        float32 or uint8.
    kernel : array of shape (taps, taps)
        float32.
    sigma : float or None
        Of the Gaussian that `kernel` is; None for any other kernel.
    """

    x: np.ndarray
    kernel: np.ndarray
    sigma: float | None = None

    @property
    def line(self) -> np.ndarray:
        """The column (and row) of a Gaussian kernel, whose sum is 1."""
        line: np.ndarray = self.kernel.sum(axis=0, dtype=np.float64).astype(np.float32)
        return line


class Library(ABC):
    """An image library: how many threads it uses, and its functions that do a task.

    Attributes
    ----------
    title, module : str
        Its name in reports, and what is imported.
    prefix : str
        How the names of its functions begin.
    """

    title: str
    module: str
    prefix: str

    def __init__(self) -> None:
        self.version: str = import_module(self.module).__version__

    @contextmanager
    def on_threads(self, count: int) -> Iterator[None]:
        """Use that many threads within the block, if the library has any."""
        yield

    @abstractmethod
    def calls(self, task: Task) -> dict[str, Call]:
        """The functions that do `task`, each into an array that it keeps, which it returns."""


class OpenCV(Library):
    """What OpenCV offers for the kernel; its BORDER_REFLECT_101 is "reflect"."""

    title, module, prefix = "OpenCV", "cv2", "cv2."

    def __init__(self) -> None:
        super().__init__()
        self.cv2: Any = import_module(self.module)

    @contextmanager
    def on_threads(self, count: int) -> Iterator[None]:
        before = self.cv2.getNumThreads()
        self.cv2.setNumThreads(count)
        try:
            yield
        finally:
            self.cv2.setNumThreads(before)

    def calls(self, task: Task) -> dict[str, Call]:
        cv2, line, size = self.cv2, task.line, task.kernel.shape
        arguments: dict[str, tuple[Any, ...]] = {"filter2D": (-1, task.kernel)}
        if task.sigma is not None:
            arguments = {"sepFilter2D": (-1, line, line), "GaussianBlur": (size, task.sigma)}
        return {
            self.prefix + name: partial(
                getattr(cv2, name),
                task.x,
                *rest,
                dst=np.empty_like(task.x),
                borderType=cv2.BORDER_REFLECT_101,
            )
            for name, rest in arguments.items()
        }


class SciPy(Library):
    """`scipy.ndimage` down the columns, then along the rows; its "mirror" is "reflect". It has no threads.

    Kernels that are no Gaussian are left out: one call takes it tens of seconds.
    """

    title, module, prefix = "SciPy", "scipy", "scipy."

    def calls(self, task: Task) -> dict[str, Call]:
        if task.sigma is None:
            return {}
        correlate1d: Any = import_module("scipy.ndimage").correlate1d
        x, line = task.x, task.line
        between, out = np.empty(x.shape, np.float32), np.empty_like(x)

        def call() -> np.ndarray:
            correlate1d(x, line, axis=0, output=between, mode="mirror")
            correlate1d(between, line, axis=1, output=out, mode="mirror")
            return out

        return {self.prefix + "ndimage.correlate1d": call}


LIBRARIES: Mapping[str, type[Library]] = {"opencv": OpenCV, "scipy": SciPy}


def installed() -> list[str]:
    """Those of :data:`LIBRARIES` that this interpreter has."""
    return [name for name, library in LIBRARIES.items() if find_spec(library.module) is not None]
