"""The process that runs one contender: it prepares problems and times calls when it is asked to.

Started as ``python worker.py PEER THREADS`` by any interpreter that has the peer and NumPy, or as
``python worker.py --versions NAME...`` to tell which distributions that interpreter has. It loads the package
that it lies in under a name of its own, so ``depthwise`` need not be installed (nor importable) there.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PACKAGE = "depthwise_bench"


def load_package() -> None:
    """Make this folder importable as :data:`PACKAGE`, and only so: its modules must not shadow the peers."""
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


class Server:
    """Answers requests about one peer."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        self.calls: dict[str, Any] = {}

    def answer(self, do: str, **arguments: Any) -> tuple[dict[str, Any], Any]:
        """The reply to one request: a message and perhaps an array."""
        actions: dict[str, Callable[..., tuple[dict[str, Any], Any]]] = {
            "prepare": self.prepare,
            "time": self.time,
            "drop": self.drop,
        }
        return actions[do](**arguments)

    def prepare(self, key: str, problem: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Prepare a problem and return its result for the check, or why there is none."""
        what = importlib.import_module(f"{PACKAGE}.problem").Problem.from_json(problem)
        unsupported = importlib.import_module(f"{PACKAGE}.peers").UnsupportedError
        try:
            reason = self.peer.refuse(what)
            if reason is not None:
                raise unsupported(reason)
            call = self.peer.prepare(what, *what.operands())
            result = self.peer.to_numpy(call(), what)
        except unsupported as error:
            return {"unsupported": str(error)}, None
        except Exception as error:  # whatever a library raises is that contender's result, not ours to handle
            return {"failed": f"{type(error).__name__}: {error}".split("\n")[0][:300]}, None
        self.calls[key] = call
        return {"ok": True}, result.astype("float32") if result.dtype.itemsize == 2 else result

    def time(self, key: str, calls: int, warmup: int) -> tuple[dict[str, Any], Any]:
        """Seconds of `calls` calls in a row, after `warmup` calls that do not count."""
        call = self.calls[key]
        for _ in range(warmup):
            call()
        repeats = range(calls)
        start = time.perf_counter()
        for _ in repeats:
            call()
        return {"seconds": time.perf_counter() - start}, None

    def drop(self) -> tuple[dict[str, Any], Any]:
        """Forget all prepared problems."""
        self.calls.clear()
        gc.collect()
        return {"ok": True}, None


def serve(peer: Any, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests about `peer` until the other side closes the pipe."""
    protocol = importlib.import_module(f"{PACKAGE}.protocol")
    server = Server(peer)
    gc.disable()
    protocol.send(replies, {"ready": True})
    while True:
        try:
            request, _ = protocol.receive(requests)
        except EOFError:
            return
        protocol.send(replies, *server.answer(**request))


def claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Where requests come from and replies go to; what libraries print goes to standard error from now on."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, replies


def versions(names: list[str]) -> dict[str, str]:
    """Versions of the named distributions that are installed; ``tensorflow-cpu`` is tensorflow too."""
    found = {name: _version(name) or _version(f"{name}-cpu") for name in names}
    return {name: version for name, version in found.items() if version is not None}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def die_with_parent() -> None:
    """Have the kernel end this process with its parent: a stopped one would not notice the closed pipe."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    if arguments[0] == "--versions":
        print(json.dumps(versions(arguments[1:])))
        return
    die_with_parent()
    requests, replies = claim_pipes()
    load_package()
    peers = importlib.import_module(f"{PACKAGE}.peers")
    serve(peers.load_peer(arguments[0], int(arguments[1])), requests, replies)


if __name__ == "__main__":
    main(sys.argv[1:])
