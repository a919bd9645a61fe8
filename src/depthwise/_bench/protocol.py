"""Messages between the benchmark and a worker process: one line of JSON, then the bytes of an array, if any.

Needs nothing but NumPy on either side, so that the two may run different versions of everything.
"""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np


def send(stream: IO[bytes], message: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Write `message`, followed by `array` in C order."""
    if array is not None:
        array = np.ascontiguousarray(array)
        message = {**message, "array": {"dtype": array.dtype.str, "shape": array.shape}}
    stream.write(json.dumps(message).encode() + b"\n")
    if array is not None:
        stream.write(array.data.cast("B") if array.size else b"")
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], np.ndarray | None]:
    """Read one message and the array that belongs to it.

    Raises
    ------
    EOFError
        If the other side is gone.
    """
    line = stream.readline()
    if not line:
        raise EOFError("the other process closed its pipe")
    message: dict[str, Any] = json.loads(line)
    header = message.pop("array", None)
    if header is None:
        return message, None
    array = np.empty(header["shape"], np.dtype(header["dtype"]))
    if array.size:
        _read_into(stream, array.reshape(-1).data.cast("B"))
    return message, array


def _read_into(stream: IO[bytes], buffer: memoryview) -> None:
    while buffer:
        count = stream.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other process closed its pipe within an array")
        buffer = buffer[count:]
