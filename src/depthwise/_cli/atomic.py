"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from depthwise._cli.errors import CommandError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` when the block ends without an exception.

    The bytes go to a hidden file in the same folder, so that the last step is one rename on one file
    system. If the block raises, or is interrupted, that file is removed and `path` stays what it was.

    Parameters
    ----------
    path : Path
        Where the file is to appear. A symbolic link is followed.

    Raises
    ------
    CommandError
        If the folder is missing or cannot be written to, or the disk is full.
    """
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where a part of the path is a file, even this fails
            partial.unlink(missing_ok=True)
