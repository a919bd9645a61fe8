"""What the commands share on the terminal: a progress bar, lists in options, errors of one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .timing import ContenderError

console = Console()


class Bar:
    """A progress bar on standard error that says what happens now.

    It is drawn by `say` and `advance` alone: a thread that redraws it would take time from what is measured.
    """

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total, title=title)

    def say(self, what: str) -> None:
        """Show what happens now."""
        self._progress.update(self._task, description=what, refresh=True)

    def advance(self) -> None:
        """Count one step as done."""
        self._progress.update(self._task, advance=1, refresh=True)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Bar]:
    """A bar of `total` steps that goes away with the block."""
    columns = (
        TextColumn("{task.fields[title]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, auto_refresh=False) as progress:
        yield Bar(progress, title, total)


@contextmanager
def bad_arguments() -> Iterator[None]:
    """Turn a ValueError into one line and exit status 2."""
    try:
        yield
    except ValueError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def wrong_results() -> Iterator[None]:
    """Turn a wrong result into one line and exit status 1."""
    try:
        yield
    except ContenderError as error:
        typer.echo(f"Error: wrong result: {error}", err=True)
        raise typer.Exit(1) from None


def comma_list(name: str, text: str, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """The parts of a comma-separated option, each a different one of `known` if that is given.

    Raises
    ------
    ValueError
        If there is none or one that is not `known`.
    """
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if known is not None and not (parts and set(parts) <= set(known)):
        raise ValueError(f"{name}: expected some of {', '.join(known)}, got {text!r}")
    return parts


def one_of(name: str, text: str, known: Sequence[str]) -> str:
    """`text` if it is one of `known`.

    Raises
    ------
    ValueError
        If it is not.
    """
    if text not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {text!r}")
    return text


def positive_list(name: str, text: str) -> tuple[int, ...]:
    """The positive integers of a comma-separated option, none of an absurd size."""
    parts = comma_list(name, text)
    if not parts or not all(part.isdecimal() and len(part) < 7 and int(part) > 0 for part in parts):
        raise ValueError(
            f"{name}: expected positive integers below a million, separated by commas, got {text!r}"
        )
    return tuple(map(int, parts))
