"""Images through filters, side by side: a prepared operator of ours, and the functions of image libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

import depthwise
from depthwise._cli.kernels import gaussian

from .image_peers import Library, Task
from .oracle import TOLERANCE, mismatch, spot_error
from .peers.base import Call
from .problem import Axis, Problem
from .results import PREPARED, Entry, Row
from .roofline import Roofline
from .runner import with_outcome
from .timing import Effort, call_timer, interleave

LAYOUT = "NHWC"

#: By how much a uint8 result may differ from ours. OpenCV's Gaussian has weights of 8 bits after the point.
STEPS = {"cv2.GaussianBlur": 2}

THOROUGH = Effort(burst=0.01, seconds=0.5, rounds=25, least_rounds=5)
QUICK = Effort(burst=0.005, seconds=0.15, rounds=15, least_rounds=5)

_QUICK_SIZE = 512

#: Outputs of ours that are compared with the definition of the operation.
_POINTS = 64


@dataclass(frozen=True)
class Picture:
    """A square image of random pixels, and a square kernel: "Gaussian" or "random"."""

    size: int
    channels: int
    kernel: str
    taps: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.size}x{self.size}x{self.channels} {self.kernel} {self.taps}"

    @property
    def multiply_adds(self) -> int:
        """Those of the plain two-dimensional sum."""
        return self.size**2 * self.channels * self.taps**2

    def task(self) -> Task:
        """The pixels and the taps: the same ones every time."""
        rng = np.random.default_rng(0)
        shape = (self.size, self.size, self.channels)
        x = (
            rng.random(shape, np.float32)
            if self.dtype == "float32"
            else rng.integers(0, 256, shape, np.uint8)
        )
        if self.kernel == "random":
            return Task(x, rng.standard_normal((self.taps, self.taps), np.float32) / self.taps)
        sigma = 0.3 * ((self.taps - 1) / 2 - 1) + 0.8  # what OpenCV takes for a kernel of that size
        return Task(x, gaussian(sigma, self.taps // 2).astype(np.float32), sigma)


PICTURES = (
    *(
        Picture(size, 3, "Gaussian", taps, dtype)
        for dtype in ("float32", "uint8")
        for size in (512, 2048)
        for taps in (5, 21, 65)
    ),
    Picture(512, 64, "Gaussian", 9),
    Picture(2048, 3, "random", 31),
)


def quick_pictures() -> tuple[Picture, ...]:
    """The small ones."""
    return tuple(picture for picture in PICTURES if picture.size == _QUICK_SIZE)


def measure(
    picture: Picture, threads: int, libraries: Sequence[Library], roofline: Roofline, effort: Effort
) -> Row:
    """Check every result, then time in turn those that are right."""
    task = picture.task()
    with ExitStack() as stack:
        for library in libraries:
            stack.enter_context(library.on_threads(threads))
        entries, calls = _checked(task, threads, libraries)
        outcomes = interleave({name: call_timer(call) for name, call in calls.items()}, effort)
    entries = [with_outcome(one, outcomes[one.peer]) if one.peer in outcomes else one for one in entries]
    return _row(picture, task, threads, roofline, entries)


def _checked(task: Task, threads: int, libraries: Sequence[Library]) -> tuple[list[Entry], dict[str, Call]]:
    """An entry of every contender, ours first, and the calls of those whose results are right.

    Ours is compared with the definition, and the others with ours; if ours is wrong there are no others.
    """
    ours = _operator(task, threads)
    expected = ours()
    wrong = _wrong_ours(task, expected)
    if wrong is not None:
        return [Entry(PREPARED, LAYOUT, "wrong", wrong)], {}
    entries, right = [Entry(PREPARED, LAYOUT, "timed")], {PREPARED: ours}
    for name, call in ((name, call) for library in libraries for name, call in library.calls(task).items()):
        entries.append(_entry(name, call, expected))
        if entries[-1].status == "timed":
            right[name] = call
    return entries, right


def _operator(task: Task, threads: int) -> Call:
    operator = depthwise.Conv2D(task.kernel, border="reflect", dtype=task.x.dtype.name, num_threads=threads)
    out = np.empty_like(task.x)
    return lambda: operator(task.x, out=out)


def _entry(name: str, call: Call, expected: np.ndarray) -> Entry:
    """Whether the contender can be timed: the result of one call is compared with ours."""
    try:
        result = call()
    except Exception as error:  # whatever a library raises is that contender's result, not ours to handle
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        return Entry(name, LAYOUT, "failed", reason)
    scale = float(np.abs(expected).max(initial=0))
    allowed = STEPS.get(name, 1) if expected.dtype == np.uint8 else TOLERANCE["float32"] * scale
    wrong = mismatch(result, expected, allowed, scale)
    return Entry(name, LAYOUT, "timed") if wrong is None else Entry(name, LAYOUT, "wrong", wrong)


def _wrong_ours(task: Task, y: np.ndarray) -> str | None:
    """What is wrong with our result at some outputs, by the sum over an image that `numpy.pad` reflected."""
    taps, channels = task.kernel.shape[0], task.x.shape[2]
    reach = taps // 2
    padded = np.pad(task.x, ((reach, reach), (reach, reach), (0, 0)), "reflect")
    h, w = (Axis(size + 2 * reach, size, taps, 1, 1, 0, 0) for size in task.x.shape[:2])
    problem = Problem("forward", "float32", LAYOUT, 1, channels, 1, h, w)
    filter = np.broadcast_to(task.kernel[:, :, None, None], problem.filter_shape)
    rounding = 0.5 if y.dtype == np.uint8 else 0.0
    return spot_error(problem, padded[None], filter, y[None], _POINTS, rounding)


def _row(picture: Picture, task: Task, threads: int, roofline: Roofline, entries: Sequence[Entry]) -> Row:
    """The floor is that of reading the image and writing the result: how few sums would do is not known."""
    footprint = 2 * math.prod(task.x.shape) * task.x.itemsize
    memory = footprint / roofline.bandwidth(footprint, threads)
    return Row(
        layer=picture.name,
        nets={},
        op="forward",
        dtype=picture.dtype,
        batch=1,
        threads=threads,
        multiply_adds=picture.multiply_adds,
        live_multiply_adds=picture.multiply_adds,
        bytes=footprint,
        floor=memory,
        bound="memory",
        dense_floor=max(memory, 2 * picture.multiply_adds / roofline.peak("float32", threads)),
        entries=tuple(entries),
    )
