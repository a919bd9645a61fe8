"""The command line: ``depthwise demo``, ``filter``, ``explain``, ``info``, ``bench``.

This module only registers the commands and turns errors into one line and an exit status. A command is a
function with its options in a module of its own, listed in `COMMANDS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from depthwise._cli.demo import demo
from depthwise._cli.errors import CommandError
from depthwise._cli.filter import filter_command
from depthwise._cli.report import explain, info


def bench(context: typer.Context) -> int:
    """Measure against other libraries."""  # in the list of commands; its own help is the benchmark's
    from depthwise._bench.cli import app as bench_app

    return bench_app(args=context.args, prog_name="depthwise bench", standalone_mode=False) or 0


COMMANDS: dict[str, Callable[..., int | None]] = {
    "demo": demo,
    "filter": filter_command,
    "explain": explain,
    "info": info,
}

app = typer.Typer(
    add_completion=False, rich_markup_mode="markdown", context_settings={"max_content_width": 110}
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
# The benchmark has options and commands of its own, imported when it is called.
app.command(
    "bench",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(bench)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"depthwise {version('depthwise')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Depthwise 2-D convolution for images and arrays.

    **Examples**

    ```
    depthwise demo
    depthwise filter photo.jpg blurred.jpg --kernel gaussian:2
    depthwise explain --input 1x56x56x96 --filter 7x7x96x1
    ```
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the program's name; by default that of this process.

    Returns
    -------
    int
        The exit status: 0 if all went well, 1 if the demo's examples do not match, 2 with one line on
        stderr if the arguments or files are not what they should be, 130 if interrupted.
    """
    try:
        status = app(args=arguments, prog_name="depthwise", standalone_mode=False)
    except (CommandError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        print("depthwise:", " ".join(message.split()), file=sys.stderr)
        return 2
    except MemoryError as error:
        print("depthwise: not enough memory:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0
