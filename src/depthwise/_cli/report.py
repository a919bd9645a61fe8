"""`depthwise info` and `depthwise explain`: what is here, and what would run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from depthwise._cli.arguments import (
    DilationOption,
    LayoutOption,
    PaddingOption,
    StrideOption,
    ThreadsOption,
    parse_filter_shape,
    parse_input_shape,
)
from depthwise._cli.errors import explained

InputOption = Annotated[
    Any,
    typer.Option(
        "--input",
        parser=parse_input_shape,
        metavar="NxHxWxC",
        help="Shape of the input, in the layout's order.",
    ),
]
FilterOption = Annotated[
    Any,
    typer.Option(
        "--filter",
        parser=parse_filter_shape,
        metavar="KHxKWxCxM",
        help="Shape of the filter; KHxKW for one kernel on every channel.",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype", metavar="DTYPE", help="float16, bfloat16, float32 or float64: of input, filter and output."
    ),
]
OpOption = Annotated[
    Any, typer.Option("--op", metavar="OP", help="What to plan: forward, grad_input or grad_filter.")
]


def info() -> None:
    """Show the version, instruction sets, threads and build of this installation.

    **Examples**

    ```
    depthwise info
    ```
    """
    from importlib.metadata import version

    from rich.console import Console
    from rich.table import Table

    import depthwise

    config = depthwise.show_config(mode="dict")
    assert config is not None  # which it is for the other mode
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in {"version": version("depthwise"), **config}.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        table.add_row(name.replace("_", " "), shown)
    Console(soft_wrap=True, markup=False, highlight=False).print(table)


def explain(
    input: InputOption,
    filter: FilterOption,
    stride: StrideOption = "1",
    padding: PaddingOption = "SAME",
    dilation: DilationOption = "1",
    layout: LayoutOption = "NHWC",
    dtype: DtypeOption = "float32",
    op: OpOption = "forward",
    threads: ThreadsOption = None,
) -> None:
    """Show what would run for these shapes, and why: algorithm, tile, ISA, threads, memory, work and time.

    **Examples**

    ```
    depthwise explain --input 1x56x56x96 --filter 7x7x96x1
    depthwise explain --input 1x3x512x512 --filter 5x5 --layout NCHW --stride 2 --threads 1
    ```
    """
    import depthwise

    with explained():
        plan = depthwise.plan(
            input,
            filter,
            stride=stride,
            padding=padding,
            dilation=dilation,
            layout=layout,
            x_dtype=dtype,
            op=op,
            num_threads=threads,
        )
    typer.echo(str(plan))
