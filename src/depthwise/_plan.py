"""What would run, and why: the report that `depthwise.plan` returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import _config, _engine, _native, _spec

# The bandwidth is measured at the footprint's power of two up to here, where no cache matters any more.
_LARGEST_FOOTPRINT = 2**28


@dataclass(frozen=True)
class Plan:
    """How one operation would run. `print(plan)` shows it as a report.

    Attributes
    ----------
    op : str
        "forward", "grad_input" or "grad_filter".
    x_shape, filter_shape, output_shape : tuple of int
        Of the forward operation; a gradient reads or writes arrays of the same shapes.
    dtype, x_dtype, result_dtype, layout, border : str
        `dtype` is what it is computed in.
    algorithm, kernel, tile, isa : str
        The algorithm, the kernel's name in the registry, its register tile and the instruction set.
    threads : int
        How many threads would work.
    scratch_bytes : int
        Scratch memory of each thread.
    multiply_adds : int
        Multiply-adds of the direct algorithm.
    bytes : int
        Bytes of the input, the filter and the output.
    copies : str
        What of the image is copied piece by piece, for its border or because it holds integers; or empty.
    reason : str
        Why this kernel.
    """

    op: str
    x_shape: tuple[int, ...]
    filter_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: str
    x_dtype: str
    result_dtype: str
    layout: str
    border: str
    algorithm: str
    kernel: str
    tile: str
    isa: str
    threads: int
    scratch_bytes: int
    multiply_adds: int
    bytes: int
    copies: str
    reason: str

    @property
    def compute_floor_us(self) -> float:
        """Microseconds that the multiply-adds take at this machine's measured FMA peak."""
        return 2e6 * self.multiply_adds / _fma_peak(self.isa, self.dtype, self.threads)

    @property
    def memory_floor_us(self) -> float:
        """Microseconds that the bytes take at the copy bandwidth measured at that footprint."""
        if not self.bytes:
            return 0.0
        footprint = min(1 << (self.bytes - 1).bit_length(), _LARGEST_FOOTPRINT)
        return 1e6 * self.bytes / _copy_bandwidth(footprint, self.threads)

    @property
    def floor_us(self) -> float:
        """The roofline: no direct algorithm is faster. The first use on a machine measures it."""
        return max(self.compute_floor_us, self.memory_floor_us)

    def __str__(self) -> str:
        compute, memory = self.compute_floor_us, self.memory_floor_us
        bound = "multiply-adds" if compute >= memory else "memory"
        types = {"x": self.x_dtype, "result": self.result_dtype}
        stored = "".join(f", {name} {dtype}" for name, dtype in types.items() if dtype != self.dtype)
        border = "" if self.border == "constant" else f", border {self.border}"
        rows = {
            "operation": f"{self.op}, {self.layout} {self.dtype}{stored}{border}",
            "shapes": f"x {self.x_shape}, filter {self.filter_shape}, output {self.output_shape}",
            "algorithm": f"{self.algorithm}: {self.reason}",
            "kernel": f"{self.kernel}, tile {self.tile}, {self.isa}",
            "threads": f"{self.threads}",
            "scratch": f"{self.scratch_bytes:,} bytes a thread",
            "work": f"{self.multiply_adds:,} multiply-adds, {self.bytes:,} bytes",
            "floor": f"{max(compute, memory):,.1f} us, bound by {bound} "
            f"(multiply-adds {compute:,.1f} us, memory {memory:,.1f} us)",
        }
        if self.copies:
            rows["copies"] = self.copies
        return "\n".join(f"{name:9}  {text}" for name, text in rows.items())


def plan_of(operation: _engine.Operation, num_threads: Any = None) -> Plan:
    """The report on an operation."""
    threads = _config.call_threads(num_threads)
    spec = operation.spec
    described = operation.native.describe(threads)
    return Plan(
        op=operation.op,
        x_shape=spec.input_shape,
        filter_shape=spec.filter_shape,
        output_shape=spec.output_shape,
        dtype=spec.dtype,
        x_dtype=spec.x_dtype or spec.dtype,
        result_dtype=spec.result_dtype or spec.dtype,
        border=spec.border,
        layout=spec.layout,
        algorithm=described["algorithm"],
        kernel=described["kernel"],
        tile=described["tile"],
        isa=described["isa"],
        threads=described["threads"],
        scratch_bytes=described["scratch_bytes"],
        multiply_adds=described["multiply_adds"],
        bytes=described["bytes"],
        copies=described["copies"],
        reason=described["reason"],
    )


@lru_cache(maxsize=256)
def _fma_peak(isa: str, dtype: str, threads: int) -> float:
    # float16 and bfloat16 are computed in float32.
    computed = "float64" if dtype == "float64" else "float32"
    return float(_native.measure_fma_peak(isa, _spec.DTYPES.index(computed), threads))


@lru_cache(maxsize=256)
def _copy_bandwidth(footprint: int, threads: int) -> float:
    return float(_native.measure_copy_bandwidth(footprint, threads))
