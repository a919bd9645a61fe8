"""The least time that a problem can take on this machine, from what the machine is measured to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from depthwise import _native

from .problem import Problem

#: The native measurement takes the type that is computed in: both half types compute in float32.
_COMPUTE_DTYPE = {"float16": 2, "bfloat16": 2, "float32": 2, "float64": 3}

#: Each limit is measured this often and the best counts: a limit is what the machine can do.
_TRIES = 3


@dataclass(frozen=True)
class Floor:
    """Seconds that a problem takes at least.

    Attributes
    ----------
    compute : float
        Multiply-adds of taps inside the image, at the measured peak.
    memory : float
        Bytes of operands and result, at the bandwidth of a copy with that footprint.
    dense : float
        Multiply-adds with the taps in the padding counted too, at the measured peak; for comparison only.
    """

    compute: float
    memory: float
    dense: float

    @property
    def seconds(self) -> float:
        """The roofline: the larger of `compute` and `memory`."""
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        return "compute" if self.compute >= self.memory else "memory"


class Roofline:
    """Measures peaks and bandwidths once each and turns them into floors.

    Parameters
    ----------
    peak : callable
        ``peak(dtype_code, threads)``: fused multiply-adds a second, two operations each.
    bandwidth : callable
        ``bandwidth(bytes, threads)``: bytes read plus bytes written a second, of a copy whose source and
        destination are `bytes` together.
    """

    def __init__(
        self,
        peak: Callable[[int, int], float] | None = None,
        bandwidth: Callable[[int, int], float] | None = None,
    ) -> None:
        self._measure_peak = peak or (lambda dtype, threads: _native.measure_fma_peak(None, dtype, threads))
        self._measure_bandwidth = bandwidth or _native.measure_copy_bandwidth
        self.peaks: dict[tuple[int, int], float] = {}
        self.bandwidths: dict[tuple[int, int], float] = {}

    def floor(self, problem: Problem, threads: int) -> Floor:
        """The floor of `problem` on `threads` threads."""
        peak = self.peak(problem.dtype, threads)
        return Floor(
            compute=2 * problem.live_multiply_adds / peak,
            memory=problem.bytes / self.bandwidth(problem.bytes, threads),
            dense=2 * problem.multiply_adds / peak,
        )

    def peak(self, dtype: str, threads: int) -> float:
        """Operations a second."""
        key = (_COMPUTE_DTYPE[dtype], threads)
        if key not in self.peaks:
            self.peaks[key] = max(self._measure_peak(*key) for _ in range(_TRIES))
        return self.peaks[key]

    def bandwidth(self, footprint: int, threads: int) -> float:
        """Bytes a second at the quarter octave that is nearest to `footprint`."""
        key = (round(2 ** (round(4 * math.log2(max(footprint, 1024))) / 4)), threads)
        if key not in self.bandwidths:
            self.bandwidths[key] = max(self._measure_bandwidth(*key) for _ in range(_TRIES))
        return self.bandwidths[key]
