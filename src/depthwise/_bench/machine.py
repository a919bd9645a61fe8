"""What the numbers of a run depend on: the processor, the system, how the library is configured."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

from depthwise import _native

from .roofline import Roofline


def describe(roofline: Roofline, threads: tuple[int, ...]) -> dict[str, Any]:
    """The machine, in the order in which a report shows it."""
    peaks = {count: roofline.peak("float32", count) / 1e9 for count in threads}
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} CPUs",
        "instruction set": _native.isas()[0],
        "measured peak, float32": ", ".join(f"{peak:.0f} GFLOP/s on {n}" for n, peak in peaks.items()),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
        "date": datetime.date.today().isoformat(),
    }


def bandwidths(roofline: Roofline) -> str:
    """The copy bandwidth at the smallest and the largest footprint of a run, by number of threads."""
    ends = []
    for threads in sorted({threads for _, threads in roofline.bandwidths}):
        footprints = sorted(size for size, count in roofline.bandwidths if count == threads)
        for footprint in dict.fromkeys((footprints[0], footprints[-1])):
            rate = roofline.bandwidths[footprint, threads] / 1e9
            ends.append(f"{rate:.0f} GB/s at {footprint / 2**20:.2g} MiB on {threads}")
    return ", ".join(ends)


def _processor() -> str:
    """The processor's name, by the kernel where it tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
