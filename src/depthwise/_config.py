"""Threads and configuration of the native engine."""

from __future__ import annotations

from typing import Any, Literal

from . import _native, _spec

# More than any machine's CPUs; a mistyped count must not start a million threads.
MAX_THREADS = 1024


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use when it does not say.

    The initial value is `DEPTHWISE_NUM_THREADS`, else `OMP_NUM_THREADS`, else the number of CPUs that this
    process may use. Results have the same bits for any number of threads.

    Parameters
    ----------
    n : int
        1 to 1024; 1 means that the calling thread does all the work. Small problems use fewer threads.

    Raises
    ------
    TypeError, ValueError
        If `n` is no integer, or out of range.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    _native.set_num_threads(thread_limit("n", n))


def get_num_threads() -> int:
    """The number of threads that a call may use when it does not say; see `set_num_threads`."""
    return int(_native.get_num_threads())


def show_config(mode: Literal["stdout", "dict"] = "stdout") -> dict[str, Any] | None:
    """Print, or return, what the engine found on this machine and how it was built.

    Parameters
    ----------
    mode : {"stdout", "dict"}
        "stdout" prints a table and returns None; "dict" returns the same as a dictionary.

    Raises
    ------
    ValueError
        If `mode` is neither.

    Examples
    --------
    >>> show_config(mode="dict")["num_threads"] == get_num_threads()
    True
    """
    _spec.one_of("mode", mode, ("stdout", "dict"))
    config: dict[str, Any] = _native.config()
    built = hasattr(_native, "xla_handler")
    config["jax"] = "XLA FFI handler" if built else "pure_callback: the XLA FFI handler was not built"
    if mode == "dict":
        return config
    width = max(map(len, config))
    for name, value in config.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        print(f"{name:{width}}  {shown}")
    return None


def call_threads(num_threads: Any) -> int:
    """The argument of a call, checked; 0, which stands for the default, where it is None."""
    return 0 if num_threads is None else thread_limit("num_threads", num_threads)


def thread_limit(name: str, value: Any) -> int:
    """A number of threads given by the caller, checked."""
    if type(value) is int and 1 <= value <= MAX_THREADS:
        return value
    return _spec.integer(name, value, minimum=1, maximum=MAX_THREADS)
