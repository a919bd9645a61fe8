"""The few statistics that the reports use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median and the quartiles over rounds, and how many rounds there were."""

    median: float
    lower: float
    upper: float
    rounds: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Summary of one sample a round.

        Raises
        ------
        ValueError
            If there are no samples.
        """
        if not samples:
            raise ValueError("samples: expected at least one, got none")
        lower, median, upper = np.percentile(samples, [25, 50, 75])
        return cls(float(median), float(lower), float(upper), len(samples))

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, relative to the median."""
        return (self.upper - self.lower) / (2 * self.median)


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of positive values; NaN if there are none."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan
