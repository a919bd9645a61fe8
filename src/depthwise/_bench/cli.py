"""``depthwise bench``: the command and its subcommands."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from . import environments, machine
from .console import bad_arguments, comma_list, console, one_of, positive_list, progress_bar, wrong_results
from .image_peers import LIBRARIES, Library, installed
from .image_report import markdown as image_markdown
from .layers import Layer, load_layers, quick_layers, select_layers
from .peers import OURS, PEERS
from .problem import DTYPES, LAYOUTS, OPS, Problem
from .report import markdown, microseconds, percent, table, with_spread
from .results import PREPARED, Run
from .roofline import Roofline
from .runner import Settings, running
from .timing import QUICK, Effort

app = typer.Typer(invoke_without_command=True, add_completion=False, rich_markup_mode="markdown")

BOTH_LAYOUTS = ",".join(LAYOUTS)

Nets = Annotated[str, typer.Option(help="Networks of layers.toml, by the beginning of their names.")]
Layers = Annotated[str, typer.Option(help="Layers by pattern or part of the name, or any '56x56x96 7x7 s2'.")]
Layouts = Annotated[str, typer.Option(help="NHWC, NCHW or both.")]
Threads = Annotated[str, typer.Option(help="Numbers of threads.")]
Op = Annotated[str, typer.Option(help=f"Operation: {', '.join(OPS)}.")]
Quick = Annotated[bool, typer.Option("--quick", help="A representative subset, in under three minutes.")]
Python = Annotated[list[Path] | None, typer.Option(help="Interpreter that has peers; may be repeated.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the report here.")]
PlotFile = Annotated[Path | None, typer.Option(help="Write the plot here (.png, .svg, .pdf).")]


@app.callback()
def bench(
    context: typer.Context,
    nets: Nets = "",
    layers: Layers = "",
    quick: Quick = False,
    op: Op = "forward",
    dtypes: Annotated[str, typer.Option(help=f"Types: {', '.join(DTYPES)}.")] = "float32",
    layouts: Layouts = BOTH_LAYOUTS,
    threads: Threads = "1,2",
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1",
    peers: Annotated[str, typer.Option(help="Peers to run: all, none, or names.")] = "all",
    peer_python: Python = None,
    models: Annotated[bool, typer.Option("--models", help="Time whole networks in PyTorch instead.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Time filters of images instead.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the measurements here.")] = None,
    report: MarkdownFile = None,
    plot: PlotFile = None,
) -> None:
    """Time layers of published networks: ours and other libraries side by side, in one run.

    Every result is checked before it is timed. Lists are separated by commas.

    **Examples**

    ```
    depthwise bench --quick
    depthwise bench --nets mobilenet_v2_224 --threads 1,2 --json run.json --plot run.png
    depthwise bench --layers "56x56x96 7x7 s2" --peers torch,onnxruntime
    depthwise bench --images --threads 1,2
    ```
    """
    if context.invoked_subcommand is not None:
        return
    if images:
        _images(context, threads, peers, quick, json, report)
        return
    if models:
        with bad_arguments():
            count = max(positive_list("threads", threads))
        _models(count)
        return
    with bad_arguments():
        chosen = _choose(nets, layers, quick)
        settings = Settings(
            op=one_of("op", op, OPS),
            dtypes=comma_list("dtypes", dtypes, DTYPES),
            batches=positive_list("batch", batch),
            layouts=comma_list("layouts", layouts, LAYOUTS),
            threads=positive_list("threads", threads),
            effort=QUICK if quick else Effort(),
        )
        _writable(json, report, plot)
        located = _locate(peers, peer_python or [])
    options = {**context.params, "peers": ",".join(located), "peer_python": None}
    run = _measure(chosen, settings, located, {key: value for key, value in options.items() if value})
    with bad_arguments():
        _deliver(run, json, report, plot)
    _fail_if_ours_is_broken(run)


@app.command()
def setup(
    folder: Annotated[Path | None, typer.Argument(help="Where to; the default is found by itself.")] = None,
    index_url: Annotated[str, typer.Option(help="Package index for pip.")] = "",
    constraint: Annotated[Path | None, typer.Option(help="Constraints for pip: versions to take.")] = None,
) -> None:
    """Create the environments that hold the peers, with pip.

    **Examples**

    ```
    depthwise bench setup
    depthwise bench setup peers/ --constraint versions.txt
    ```
    """
    target = folder or environments.default_folder()
    arguments = ["--index-url", index_url] if index_url else []
    arguments += ["--constraint", str(constraint)] if constraint else []
    pythons = environments.create(target, arguments)
    console.print("Created:", *pythons, sep="\n  ")
    if folder is not None:
        console.print(f"Name them with --peer-python or {environments.VARIABLE}.")


@app.command("report")
def render(
    measurements: Annotated[Path, typer.Argument(help="A file that --json wrote.")],
    report: MarkdownFile = None,
    plot: PlotFile = None,
) -> None:
    """Render the report and the plot of an earlier run again.

    **Examples**

    ```
    depthwise bench report run.json --markdown run.md --plot run.png
    ```
    """
    with bad_arguments():
        try:
            run = Run.load(measurements)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"measurements: expected a file that --json wrote: {error!r}") from None
        _writable(report, plot)
        if plot is not None and _of_images(run):
            raise ValueError("plot: a run of --images has none")
    _deliver(run, None, report, plot)


@app.command()
def sweep(
    samples: Annotated[int, typer.Option(min=1, help="How many problems to draw.")] = 1000,
    full: Annotated[bool, typer.Option("--full", help="All problems: takes hours.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads.")] = 1,
    worst: Annotated[int, typer.Option(min=1, help="How many of the worst to print.")] = 20,
) -> None:
    """Look for cliffs: time problems from all over the space of shapes against their floors.

    **Examples**

    ```
    depthwise bench sweep --samples 200 --threads 2
    ```
    """
    from . import sweep as sweeping

    roofline = Roofline()
    space = list(sweeping.points(seed) if full else islice(sweeping.points(seed), samples))
    with progress_bar("sweep", len(space) + 2 * worst) as bar:

        def measure(layer: Layer, problem: Problem, thorough: bool) -> sweeping.Point:
            bar.say(f"{layer.name} {problem.layout}")
            point = sweeping.measure(layer, problem, roofline, threads, thorough)
            bar.advance()
            return point

        with wrong_results():
            found = [measure(layer, problem, False) for layer, problem in space]
            found = sweeping.refine(found, 2 * worst, lambda point: measure(point.layer, point.problem, True))
    _print(sweeping.worst_table(found[:worst]))
    above = sum(point.ratio > sweeping.CLIFF for point in found)
    limit = f"{sweeping.CLIFF:g} times the floor"
    typer.echo(f"Of {len(space)} problems (seed {seed}), {above} take more than {limit}.")


@app.command()
def choices(
    nets: Nets = "",
    layers: Layers = "",
    quick: Quick = False,
    op: Op = "forward",
    dtype: Annotated[str, typer.Option(help="Type.")] = "float32",
    layouts: Layouts = BOTH_LAYOUTS,
    threads: Threads = "1",
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 1,
    everything: Annotated[bool, typer.Option("--all", help="Print where it is not off, too.")] = False,
) -> None:
    """Time every kernel that applies to a layer; tell where the chosen one is more than 10% off the best.

    **Examples**

    ```
    depthwise bench choices --quick
    depthwise bench choices --nets convnext --layouts NHWC --all
    ```
    """
    from . import choices as choosing

    with bad_arguments():
        chosen = _choose(nets, layers, quick)
        one_of("op", op, OPS), one_of("dtype", dtype, DTYPES)
        cases = [
            (layer, layout, count)
            for layer in chosen
            for layout in comma_list("layouts", layouts, LAYOUTS)
            for count in positive_list("threads", threads)
        ]
    found = []
    with progress_bar("choices", len(cases)) as bar:
        for layer, layout, count in cases:
            bar.say(f"{layer.name} {layout}")
            found.append(
                choosing.examine(
                    layer, op=op, dtype=dtype, layout=layout, batch=batch, threads=count, effort=QUICK
                )
            )
            bar.advance()
    shown = [choice for choice in found if everything or choice.is_off or choice.wrong]
    if shown:
        _print(choosing.choices_table(shown))
    off = sum(choice.is_off for choice in found)
    typer.echo(f"The choice is more than 10% off the best in {off} of {len(found)} cases.")


@app.command()
def overhead() -> None:
    """What a call costs beside its arithmetic, and what the adapters and the thread pool add.

    **Examples**

    ```
    depthwise bench overhead
    ```
    """
    from . import adapters
    from . import overhead as costs

    calls = costs.call_overhead()
    rows = [(f"`{name}`", with_spread(timing)) for name, timing in calls.items()]
    _print(f"1x4x4x8, 3x3, one thread\n\n{table(('call', 'us'), rows)}")
    dispatch = [
        (d.layer.name, microseconds(d.single), microseconds(d.double), microseconds(d.cost))
        for d in costs.pool_dispatch()
    ]
    header = ("layer", "1 thread, us", "2 threads, us", "beyond half of one, us")
    _print(f"The smallest layers that run on two threads\n\n{table(header, dispatch)}")
    added = [
        (one.name, with_spread(one.adapted), with_spread(one.plain), microseconds(one.seconds))
        for one in adapters.added()
    ]
    if added:
        header = ("adapter", "call, us", "on NumPy arrays, us", "added, us")
        _print(f"1x4x4x8, 3x3, through the adapters, one thread\n\n{table(header, added)}")
    if find_spec("torch") is not None:
        _print(f"PyTorch's pointwise convolution and ours in turn, two threads\n\n{_turns_table()}")


def _turns_table() -> str:
    from . import adapters

    header = ("image", "PyTorch alone, us", "ours alone, us", "in turn, us", "slower by")
    rows = [
        (
            f"{one.size}x{one.size}x{one.channels}",
            *(microseconds(seconds) for seconds in (one.theirs, one.ours, one.both)),
            percent(one.slowdown),
        )
        for one in adapters.turns(2)
    ]
    return table(header, rows)


def _models(threads: int) -> None:
    """Time the networks end to end on that many threads."""
    try:
        from . import models as networks
        from .networks import NETWORKS
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        typer.echo("Error: models: PyTorch is not installed; pip install 'depthwise[torch]'", err=True)
        raise typer.Exit(2) from None

    cases = [(network, task) for task in networks.TASKS for network in NETWORKS]
    measured = []
    with progress_bar("models", len(cases)) as bar, wrong_results():
        for network, task in cases:
            bar.say(f"{network}: {task}")
            measured.append(networks.measure(network, task, threads))
            bar.advance()
    _print(f"PyTorch {networks.VERSION}, 224x224, {threads} threads\n\n{networks.models_table(measured)}")


def _images(
    context: typer.Context, threads: str, peers: str, quick: bool, json: Path | None, report: Path | None
) -> None:
    """Time filters of images beside the image libraries of this interpreter."""
    from . import images as filtering

    taken = {"images", "threads", "peers", "quick", "json", "report"}
    with bad_arguments():
        _nothing_else(context, "--images", taken)
        counts = positive_list("threads", threads)
        _writable(json, report)
        libraries = _image_libraries(peers)
    pictures = filtering.quick_pictures() if quick else filtering.PICTURES
    effort = filtering.QUICK if quick else filtering.THOROUGH
    roofline = Roofline()
    versions = {one.title: one.version for one in libraries}
    shown = {name: str(context.params[name]) for name in sorted(taken) if context.params[name]}
    run = Run(machine.describe(roofline, counts), versions, shown)
    cases = [(picture, count) for picture in pictures for count in counts]
    with progress_bar("images", len(cases)) as bar:
        for picture, count in cases:
            bar.say(f"{picture.name}: {picture.dtype}, {count} thread{'s' * (count > 1)}")
            run.rows.append(filtering.measure(picture, count, libraries, roofline, effort))
            bar.advance()
    run.machine["copy bandwidth"] = machine.bandwidths(roofline)
    _deliver(run, json, report, None)
    _fail_if_ours_is_broken(run)


def _image_libraries(peers: str) -> list[Library]:
    """The image libraries that were asked for; "all" takes those that this interpreter has."""
    found = installed()
    if peers in ("all", "none"):
        missing = [name for name in LIBRARIES if name not in found]
        if missing and peers == "all":
            typer.echo(f"Left out: {', '.join(LIBRARIES[name].title for name in missing)}", err=True)
        asked = found if peers == "all" else []
    else:
        asked = list(comma_list("peers", peers, tuple(LIBRARIES)))
        missing = [name for name in asked if name not in found]
        if missing:
            raise ValueError(f"peers: this interpreter does not have {', '.join(missing)}")
    return [LIBRARIES[name]() for name in asked]


def _nothing_else(context: typer.Context, mode: str, taken: Collection[str]) -> None:
    """Refuse options that were given and that `mode` does not take.

    Raises
    ------
    ValueError
        If there is one.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in taken and source is not None and source.name != "DEFAULT":
            raise ValueError(f"{mode}: does not go with {parameter.opts[0]}")


def _choose(nets: str, layers: str, quick: bool) -> list[Layer]:
    everything = load_layers()
    base = quick_layers(everything) if quick else everything
    return select_layers(base, comma_list("nets", nets), comma_list("layers", layers))


def _locate(peers: str, pythons: list[Path]) -> dict[str, environments.Located]:
    """Ours and the peers that were asked for; "all" takes those that are installed anywhere."""
    others = [name for name in PEERS if name not in OURS]
    asked = others if peers == "all" else [] if peers == "none" else comma_list("peers", peers, others)
    interpreters = environments.interpreters([str(python) for python in pythons])
    located = environments.locate([*OURS, *asked], interpreters)
    missing = [PEERS[name].title for name in asked if name not in located]
    if missing and peers != "all":
        raise ValueError(f"peers: no interpreter has {', '.join(missing)}; 'depthwise bench setup' gets them")
    if missing:
        typer.echo(f"Left out: {', '.join(missing)} ('depthwise bench setup' gets them)", err=True)
    return located


def _writable(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: the folder does not exist")


def _measure(
    layers: list[Layer],
    settings: Settings,
    located: dict[str, environments.Located],
    options: dict[str, object],
) -> Run:
    roofline = Roofline()
    versions = {name: place.version for name, place in located.items() if name != PREPARED}
    shown = {name: str(value) for name, value in options.items()}
    run = Run(machine.describe(roofline, settings.threads), versions, shown)
    total = len(layers) * settings.rows
    with progress_bar("bench", total) as bar, running(located, roofline) as runner:
        for layer in layers:
            for row in runner.measure(layer, settings, bar.say):
                run.rows.append(row)
                bar.advance()
    run.machine["copy bandwidth"] = machine.bandwidths(roofline)
    return run


def _fail_if_ours_is_broken(run: Run) -> None:
    broken = sorted({row.layer for row in run.rows for entry in row.entries if entry.is_broken_ours})
    if broken:
        typer.echo(f"Error: depthwise itself gave no right result on {', '.join(broken)}", err=True)
        raise typer.Exit(1)


def _of_images(run: Run) -> bool:
    return "images" in run.options


def _deliver(run: Run, json: Path | None, report: Path | None, plot: Path | None) -> None:
    """Write what was asked for; without a report file, print the report."""
    if json is not None:
        run.save(json)
    text = image_markdown(run) if _of_images(run) else markdown(run)
    if report is not None:
        report.write_text(text)
    else:
        _print(text)
    if plot is not None:
        from .plot import plot as draw

        draw(run, plot)


def _print(text: str) -> None:
    """Markdown, rendered on a terminal that is wide enough for tables and as it is elsewhere."""
    if console.is_terminal and shutil.get_terminal_size().columns >= 120:
        console.print(Markdown(text))
    else:
        typer.echo(text)
