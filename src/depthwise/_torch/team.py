"""The engine on PyTorch's threads."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from .. import _native

_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC, among the flags of Linux's /proc/self/stat


def join_threads() -> bool:
    """Let the engine compute on the OpenMP threads that PyTorch has; tell whether that could be done.

    Otherwise the threads of either library that still wait for work, spinning, take the CPUs from the other's
    whenever a model goes from a layer of one to a layer of the other.
    """
    library = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        if _may_lack_threads():
            return False
        linked = ctypes.CDLL(str(library))  # and what it is linked with: the OpenMP that it runs on
        entries = linked.GOMP_parallel, linked.omp_get_thread_num
    except (OSError, AttributeError):  # another system, or another OpenMP
        return False
    parallel, index = (ctypes.cast(entry, ctypes.c_void_p).value or 0 for entry in entries)
    _native.use_team(parallel, index)
    return True


def _may_lack_threads() -> bool:
    """Whether this is a forked process, in which OpenMP would wait for threads that its parent had."""
    status = Path("/proc/self/stat").read_text()
    flags = status.rpartition(")")[2].split()[6]
    return bool(int(flags) & _FORKED_WITHOUT_EXEC)
