"""Contenders as the benchmark sees them: one process each, stopped whenever it is not its turn."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from . import protocol
from .problem import Problem
from .timing import ContenderError

WORKER = Path(__file__).with_name("worker.py")

#: Seconds after which a worker counts as hung: loading a framework or compiling a layer takes a few.
TIMEOUT = 300.0


class WorkerError(ContenderError):
    """The process ended, hung or could not start; the message says what it last printed."""


class Worker:
    """A process that runs one peer with a fixed number of threads.

    Between requests the process is stopped (SIGSTOP): whatever its thread pools do while they wait for work,
    they take no time from the contender whose turn it is, and each library keeps its own best waiting policy.

    Parameters
    ----------
    peer : str
        A key of `peers.PEERS`.
    threads : int
        Threads that it may use.
    python : str
        The interpreter that has the peer.
    command : list of str, optional
        What to run instead of the worker script.
    """

    def __init__(self, peer: str, threads: int, python: str, command: list[str] | None = None) -> None:
        self.peer, self.threads = peer, threads
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command or [python, str(WORKER), peer, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(python, threads),
        )
        try:
            self._receive()
        except WorkerError:
            self.close()
            raise

    def prepare(self, key: str, problem: Problem) -> tuple[dict[str, Any], np.ndarray | None]:
        """Prepare `problem` under the name `key`; the reply tells ok, unsupported or failed."""
        return self._request({"do": "prepare", "key": key, "problem": problem.to_json()})

    def time(self, key: str, calls: int, warmup: int = 1) -> float:
        """Seconds of one call, over `calls` calls in a row."""
        reply, _ = self._request({"do": "time", "key": key, "calls": calls, "warmup": warmup})
        return float(reply["seconds"]) / calls

    def drop(self) -> None:
        """Free all prepared problems."""
        self._request({"do": "drop"})

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, message: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            protocol.send(self._process.stdin, message)
        except BrokenPipeError:
            raise self._error("ended") from None
        return self._receive()

    def _receive(self) -> tuple[dict[str, Any], np.ndarray | None]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(TIMEOUT):
                self._process.kill()
                raise self._error(f"did not answer within {TIMEOUT:.0f} s")
        try:
            reply = protocol.receive(self._process.stdout)
        except EOFError:
            raise self._error("ended") from None
        self._process.send_signal(signal.SIGSTOP)
        return reply

    def _error(self, what: str) -> WorkerError:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()[:300]}" if lines else ""
        return WorkerError(f"{self.peer}: the worker process {what} (exit status {status}){said}")


def _environment(python: str, threads: int) -> dict[str, str]:
    """The worker's environment: thread counts for libraries that read them at start, and no chatter.

    Another interpreter does not get this one's module path.
    """
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DEPTHWISE_NUM_THREADS")
    hidden = () if python == sys.executable else ("PYTHONPATH", "PYTHONHOME")
    return {
        **{name: value for name, value in os.environ.items() if name not in hidden},
        **dict.fromkeys(variables, str(threads)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
