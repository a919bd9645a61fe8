"""`depthwise demo`: two worked examples, and four filters on a photograph."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.markup import escape

from depthwise._cli.errors import CommandError, explained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    import depthwise

    Floats = NDArray[np.float32]


class Example(NamedTuple):
    """A convolution small enough to check by hand."""

    padding: Any
    expected: list[Any]


EXAMPLE_INPUT = [[1, 2], [3, 4], [5, 6]]  # height 3, width 2
EXAMPLE_FILTER = [[1, 2], [3, 4]]  # height 2, width 1, one channel, multiplier 2: a row is a tap
EXAMPLES = (
    Example("VALID", [[[[10, 14], [14, 20]], [[18, 26], [22, 32]]]]),
    Example(
        [[0, 0], [1, 0], [1, 0], [0, 0]],
        [[[[0, 0], [3, 4], [6, 8]], [[0, 0], [10, 14], [14, 20]], [[0, 0], [18, 26], [22, 32]]]],
    ),
)

RUNS = 5
REACH = 4  # the bank's kernels have (2 * REACH + 1)^2 taps
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: the brightness of red, green and blue


class Filtered(NamedTuple):
    """A photograph after the bank of filters."""

    bands: Floats  # [H, W, C, filter]
    plan: depthwise.Plan
    milliseconds: float


def check_examples() -> list[tuple[Example, tuple[int, ...], bool]]:
    """Run the worked examples; give each with the shape of its result and whether every value matches."""
    import numpy as np

    import depthwise

    x = np.array(EXAMPLE_INPUT, np.float32).reshape(1, 3, 2, 1)
    filter = np.array(EXAMPLE_FILTER, np.float32).reshape(2, 1, 1, 2)
    results = [depthwise.depthwise_conv2d(x, filter, [1, 1, 1, 1], example.padding) for example in EXAMPLES]
    return [
        (example, result.shape, np.array_equal(result, np.array(example.expected, np.float32)))
        for example, result in zip(EXAMPLES, results, strict=True)
    ]


def filter_bank(channels: int) -> Floats:
    """Blur, sharpen, Sobel x and Sobel y for every channel: [kh, kw, C, 4]."""
    import numpy as np

    from depthwise._cli import kernels

    small = (kernels.sharpen(), kernels.sobel_x(0.25), kernels.sobel_y(0.25))
    planes = [kernels.gaussian(sigma=2.0, radius=REACH), *(np.pad(k, REACH - k.shape[0] // 2) for k in small)]
    bank = np.stack(planes, axis=-1).astype(np.float32)
    return np.repeat(bank[:, :, np.newaxis], channels, axis=2)


def apply_bank(photograph: Floats) -> Filtered:
    """Filter an [H, W, C] photograph with one call of `depthwise_conv2d`; time it."""
    import depthwise

    height, width, channels = photograph.shape
    bank = filter_bank(channels)
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        result = depthwise.depthwise_conv2d(photograph[None], bank, [1, 1, 1, 1], "SAME")
        seconds.append(time.perf_counter() - start)
    plan = depthwise.plan((1, *photograph.shape), bank.shape, padding="SAME")
    return Filtered(result.reshape(height, width, channels, 4), plan, 1e3 * min(seconds))


def read_photograph(path: Path | None) -> Floats:
    """Read an 8-bit photograph as [H, W, C] values from 0 to 1; by default one that matplotlib ships."""
    import numpy as np

    from depthwise._cli.files import only, read_images

    path = path or sample_photograph()
    with explained(f"cannot read {path}"):
        pixels = only(read_images(path)).pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
        raise CommandError(
            f"{path}: expected an 8-bit grey or colour photograph, got {pixels.dtype} {pixels.shape}"
        )
    photograph: Floats = pixels.astype(np.float32) / np.float32(255)
    return photograph


def sample_photograph() -> Path:
    """The portrait of Grace Hopper (United States Navy, public domain) among matplotlib's sample data."""
    from matplotlib.cbook import get_sample_data

    return Path(get_sample_data("grace_hopper.jpg", asfileobj=False))


def write_contact_sheet(path: Path, photograph: Floats, bands: Floats) -> None:
    """Draw the photograph, the four bands and the edges that both Sobel bands make up."""
    import numpy as np

    from depthwise._cli import sheet
    from depthwise._cli.atomic import atomic_file

    weights = np.array(LUMA if photograph.shape[-1] == 3 else (1.0,), np.float32)
    blurred, sharpened, right, down = np.moveaxis(_inside(bands), -1, 0)
    right, down = right @ weights, down @ weights
    height, width, channels = photograph.shape
    tiles = [
        sheet.Tile("Photograph", f"{width} x {height} x {channels}", _inside(photograph)),
        sheet.Tile("Blur", "Gaussian, sigma 2", blurred),
        sheet.Tile("Sharpen", "minus the Laplacian", sharpened),
        sheet.Tile("Sobel x", "white: brighter to the right", sheet.signed_to_unit(right)),
        sheet.Tile("Sobel y", "white: brighter downwards", sheet.signed_to_unit(down)),
        sheet.Tile("Edges", "both Sobels; hue is direction", sheet.directions(right, down)),
    ]
    with atomic_file(path) as file:
        sheet.write_sheet(file, "Four filters, one depthwise_conv2d", "channel multiplier 4", tiles)


def _inside(pixels: Floats) -> Floats:
    """Leave out the rim that the zeros around the image darken, if something remains."""
    height, width = pixels.shape[:2]
    return pixels[REACH:-REACH, REACH:-REACH] if min(height, width) > 2 * REACH else pixels


def demo(
    image: Annotated[Path | None, typer.Argument(metavar="[IMAGE]", help="An 8-bit photograph.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PNG", help="Where the contact sheet goes.")
    ] = Path("depthwise-demo.png"),
) -> int:
    """Check two worked examples, then filter a photograph and draw a contact sheet.

    The photograph is IMAGE, or a portrait of Grace Hopper that matplotlib ships. Blur, sharpen, Sobel x and
    Sobel y are one call of depthwise_conv2d with channel multiplier 4. The exit status is 1 if an example
    does not match.

    **Examples**

    ```
    depthwise demo
    depthwise demo photo.jpg --output sheet.png
    ```
    """
    from rich.console import Console

    if output.suffix.lower() != ".png":
        raise CommandError(f"{output}: expected a file name ending in .png")
    console = Console(soft_wrap=True, highlight=False)
    if not _report_examples(console):
        return 1
    photograph = read_photograph(image)
    filtered = apply_bank(photograph)
    write_contact_sheet(output, photograph, filtered.bands)
    _report_photograph(console, photograph, filtered)
    console.print(f"Contact sheet: [bold]{escape(str(output))}[/bold]")
    return 0


def _report_examples(console: Console) -> bool:
    """Say of each worked example whether it matches; give whether all do."""
    outcomes = check_examples()
    for number, (example, shape, equal) in enumerate(outcomes, start=1):
        verdict = "[green]matches[/green]" if equal else "[red]does not match[/red]"
        padding = escape(str(example.padding).replace(" ", ""))
        console.print(f"Worked example {number}: padding {padding} gives shape {shape}, and {verdict}")
    return all(equal for _, _, equal in outcomes)


def _report_photograph(console: Console, photograph: Floats, filtered: Filtered) -> None:
    from rich.table import Table

    height, width, channels = photograph.shape
    taps, filters = 2 * REACH + 1, filtered.bands.shape[-1]
    plan = filtered.plan
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("Photograph", f"{width} x {height}, {channels} channels, float32")
    table.add_row(
        "Filters", f"blur, sharpen, Sobel x, Sobel y: {taps} x {taps}, multiplier {filters}, one call"
    )
    table.add_row("Algorithm", f"{plan.algorithm} ({plan.kernel})")
    table.add_row("ISA", plan.isa)
    table.add_row("Threads", str(plan.threads))
    table.add_row("Time", f"{filtered.milliseconds:.2f} ms, the best of {RUNS}")
    console.print()
    console.print(table)
    console.print()
