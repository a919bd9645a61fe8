"""Errors that end a command with one line on stderr and exit status 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """The command cannot do what was asked; the message is the one line to show."""


@contextmanager
def explained(what: str = "") -> Iterator[None]:
    """Turn a refusal of the library into a `CommandError`.

    Parameters
    ----------
    what : str
        What was being done or with which file; put before the library's own message.

    Raises
    ------
    CommandError
        In place of a ValueError, TypeError or MemoryError raised inside the block.
    """
    try:
        yield
    except (ValueError, TypeError, MemoryError) as error:
        reason = str(error) or "not enough memory"
        raise CommandError(f"{what}: {reason}" if what else reason) from error
