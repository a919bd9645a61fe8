from collections.abc import Sequence
from typing import Any

from typing_extensions import CapsuleType


class Prepared:
    """What a plan computed from a filter."""

    @property
    def bytes(self) -> int:
        """Bytes that it keeps, at most."""

class Plan:
    """One problem, resolved to a kernel and its tasks; immutable."""

    def __init__(self, op: int, dtype: int, layout: int, batch: int, channels: int, multiplier: int, h: Sequence[int], w: Sequence[int], activation: int = 0, has_bias: bool = False, border: int = 0, input: int = 0, output: int = 0, algorithm: str = 'auto', kernel: str | None = None, isa: str | None = None) -> None: ...

    def run(self, a: object, b: object, bias: object | None = None, out: object | None = None, num_threads: int = 0, prepared: Prepared | None = None) -> Any: ...

    def run_at(self, a: int, b: int, bias: int, out: int, num_threads: int, prepared: Prepared | None = None) -> None:
        """`run` on memory at these addresses, unchecked."""

    def prepare(self, filter: object, num_threads: int = 0) -> Prepared:
        """What runs with this filter share, or None."""

    @property
    def prepared_bytes(self) -> int:
        """Bytes that prepare() keeps, at most."""

    @property
    def depends_on_filter(self) -> bool:
        """Whether the algorithm does."""

    def algorithm(self, filter: object) -> str:
        """The algorithm of a run with this filter."""

    def describe(self, num_threads: int = 0) -> dict[str, Any]: ...

class Calls:
    """Calls of one function that were made before."""

    def __init__(self) -> None: ...

    def recall(self, a: object, b: object, bias: object | None, out: object | None, settings: object) -> Any:
        """What a call like a remembered one returns, or None."""

    def remember(self, plan: object, threads: int, a: object, b: object, bias: object | None, settings: object) -> None:
        """
        Calls on arrays of these shapes and dtypes, with these settings, run this plan.
        """

def kernels() -> list[dict[str, Any]]:
    """The registry's rows, in order of priority."""

def isas() -> list[str]:
    """ISAs that run on this machine, best first."""

def compiled_isas() -> list[str]:
    """ISAs compiled in, best first."""

def set_num_threads(num_threads: int) -> None: ...

def get_num_threads() -> int: ...

def use_team(parallel: int, index: int) -> None:
    """
    Compute on another library's threads: addresses of its GOMP_parallel and omp_get_thread_num.
    """

def same_bytes(a: int, b: int, count: int) -> bool:
    """Whether the bytes at two addresses are the same."""

def config() -> dict[str, Any]: ...

def xla_handler() -> CapsuleType:
    """The engine as a handler of XLA's foreign function interface."""

def last_run() -> dict[str, Any]:
    """Kernel, ISA and threads of the calling thread's last run."""

def measure_fma_peak(isa: str | None = None, dtype: int = 2, threads: int = 1) -> float:
    """Operations a second: two for each multiply-add."""

def measure_copy_bandwidth(bytes: int, threads: int = 1) -> float:
    """
    Bytes a second, read plus written, of a copy that touches `bytes` in all.
    """
