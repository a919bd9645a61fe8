"""`depthwise filter`: one kernel over images and arrays in files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from depthwise._cli.arguments import (
    AlgorithmOption,
    BorderOption,
    DilationOption,
    DTypeOption,
    Layout,
    LayoutOption,
    PaddingOption,
    Pads,
    Pair,
    SchedulerOption,
    StrideOption,
    ThreadsOption,
)
from depthwise._cli.errors import CommandError, explained
from depthwise._cli.kernels import Kernel, parse_kernel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from depthwise._cli.image import Image

KernelOption = Annotated[
    str, typer.Option("--kernel", "-k", metavar="KERNEL", help="A name with its arguments, or a .npy file.")
]


def filter_command(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", show_default=False)],
    kernel: KernelOption,
    stride: StrideOption = "1",
    padding: PaddingOption = "SAME",
    dilation: DilationOption = "1",
    border: BorderOption = "constant",
    dtype: DTypeOption = None,
    layout: LayoutOption = None,
    algorithm: AlgorithmOption = "auto",
    threads: ThreadsOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Filter images and arrays: .npy .npz .png .jpg .tif .zarr.

    The format of OUTPUT follows from its name. Several INPUTs go into the folder OUTPUT under their own
    names. Outputs are written whole or not at all.

    Every channel is filtered by itself; an alpha channel stays as it is. 8-bit integers are computed in
    float32, wider ones in float64. Images are written back in the type they came in, rounded to the nearest
    integer (ties to even) and saturated; arrays in the type they were computed in; --dtype says otherwise. So
    write .npy to keep negative values, such as half of what a Sobel kernel gives.

    **Kernels** with their parameters and defaults, given in this order or by name:

    - box:size=3

    - gaussian:sigma=1.0,radius=(4 sigma)

    - sharpen:amount=1.0

    - sobel-x:scale=1.0, sobel-y:scale=1.0

    - laplacian:neighbours=4 (or 8)

    - FILE.npy: \\[kh, kw] for every channel, or \\[kh, kw, C, M] for channel multiplier M

    They are correlated, not flipped, as depthwise_conv2d does.

    **Layout**: photographs and most TIFF files say where their channels are. Arrays do not, and are NHWC
    ([H, W], [H, W, C] or [N, H, W, C]) unless told otherwise; TIFF stacks without names must be told.

    **Larger than memory**: a .zarr array or a .tif file goes into a .zarr array by tiles, as many at a time
    as there are threads, or on the workers of a Dask cluster that see the same files. Tiles are written whole
    or not at all: what was interrupted is finished by the same command, which computes only what is missing.

    **Examples**

    ```
    depthwise filter photo.png blurred.png --kernel gaussian:2 --border symmetric
    depthwise filter photo.jpg edges.npy -k sobel-x --padding VALID
    depthwise filter scan.tif out.tif -k gaussian:sigma=2,radius=6 --stride 2
    depthwise filter features.npy out.npy -k bank.npy --layout NCHW --dilation 2
    depthwise filter photos/*.jpg sharpened/ -k sharpen:0.5
    depthwise filter slide.tif blurred.zarr -k gaussian:2 --border reflect
    depthwise filter big.zarr edges.zarr -k sobel-x --dtype float32 --scheduler tcp://host:8786
    ```
    """
    with explained():
        job = Job(parse_kernel(kernel), stride, padding, dilation, border, dtype, algorithm, threads)
    if is_store(output) or any(map(is_store, inputs)):
        filter_to_store(inputs, output, job, layout, scheduler)
        return
    if scheduler is not None:
        raise CommandError("--scheduler: only a .zarr output is computed on a cluster")
    filter_files(inputs, output, job, layout)


@dataclass(frozen=True)
class Job:
    """What is done to every image: the kernel and `depthwise.conv2d`'s keywords but for the layout.

    `dtype` is that of the result; None leaves it to the image and to the format that is written.
    """

    kernel: Kernel
    stride: Pair = 1
    padding: Pads = "SAME"
    dilation: Pair = 1
    border: str = "constant"
    dtype: str | None = None
    algorithm: str = "auto"
    num_threads: int | None = None

    def keywords(self) -> dict[str, Any]:
        """The keyword arguments for `depthwise.conv2d`, less the dtype."""
        names = ("stride", "padding", "dilation", "border", "algorithm", "num_threads")
        return {name: getattr(self, name) for name in names}


def filter_image(image: Image, job: Job, result: np.dtype[Any] | None = None) -> Image:
    """Filter every channel of an image; the result has the same layout.

    It is of dtype `result`: integers are rounded and saturated. None stands for the type it is computed in.
    """
    import numpy as np

    import depthwise
    from depthwise._cli.image import compute_dtype, is_native, to_integers

    if image.alpha is not None and result not in (None, image.alpha.dtype):
        raise ValueError(f"an alpha channel of {image.alpha.dtype} cannot follow a change to {result}")
    dtype = compute_dtype(image.pixels.dtype, result)
    native = is_native(image.pixels.dtype)
    kernel = _weights(job.kernel, dtype)
    # The engine rounds what it computes from integers; only a kernel that is not finite makes NaN of them.
    rounds = native and image.pixels.dtype.kind in "iu" and np.isfinite(kernel).all() and is_native(result)
    values = depthwise.conv2d(
        image.pixels if native else image.pixels.astype(dtype),
        kernel,
        layout=image.layout,
        dtype=result if rounds and result is not None and result.kind in "iu" else None,
        **job.keywords(),
    )
    if result is not None and values.dtype != result:
        values = to_integers(values, result) if result.kind in "iu" else values.astype(result)
    filtered = replace(image, pixels=values)
    if image.alpha is not None and filtered.size != image.size:
        raise ValueError(
            f"an alpha channel of {image.size} cannot follow a change of size to {filtered.size}"
        )
    return filtered


def _weights(kernel: Kernel, dtype: np.dtype[Any]) -> NDArray[Any]:
    import numpy as np

    with np.errstate(over="ignore"):  # a weight beyond a narrower type is infinite there
        return kernel.astype(dtype)


def filter_file(source: Path, target: Path, job: Job, layout: Layout | None = None) -> None:
    """Filter every image in `source` and write the results to `target`, whole or not at all."""
    import numpy as np

    from depthwise._cli.files import format_of, read_images, write_images

    results: dict[str, Image] = {}
    keeps_integers = format_of(target).keeps_integers
    for name, image in read_images(source, layout).items():
        with explained(str(source)):
            stored = image.pixels.dtype
            dtype = stored if keeps_integers and stored.kind in "iu" else None
            results[name] = filter_image(image, job, dtype if job.dtype is None else np.dtype(job.dtype))
    write_images(target, results)


def targets(inputs: list[Path], output: Path) -> dict[Path, Path]:
    """Where the result of each input goes: `output` itself, or the same name in that folder.

    Raises
    ------
    CommandError
        If several inputs would go to one file, a result would replace an input, or a name has no known
        ending.
    """
    from depthwise._cli.files import format_of

    into_folder = len(inputs) > 1 or output.is_dir()
    if into_folder and output.exists() and not output.is_dir():
        raise CommandError(f"{output}: expected a folder for {len(inputs)} inputs, got a file")
    plan = {source: output / source.name if into_folder else output for source in inputs}
    if len({target.resolve() for target in plan.values()}) < len(inputs):
        raise CommandError(f"{output}: several inputs have the same name")
    originals = {source.resolve() for source in inputs}
    for source, target in plan.items():
        format_of(source), format_of(target)
        if not source.is_file():
            raise CommandError(f"cannot read {source}: no such file")
        if target.resolve() in originals:
            raise CommandError(f"{target}: the output would replace an input")
    return plan


def filter_files(inputs: list[Path], output: Path, job: Job, layout: Layout | None = None) -> None:
    """Filter files one after the other; on a terminal, several get a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    plan = targets(inputs, output)
    if len(plan) > 1:
        _make_folder(output)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = len(plan) == 1 or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=len(plan))
        for source, target in plan.items():
            progress.update(task, description=escape(source.name))
            filter_file(source, target, job, layout)
            progress.advance(task)
        progress.update(task, description="filtered")
        progress.live.transient = False  # only a failure takes the bar away: its line stands alone


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot make the folder {path}: {error.strerror or error}") from error


def filter_to_store(
    inputs: list[Path], output: Path, job: Job, layout: Layout | None, scheduler: str | None
) -> None:
    """Filter one image into a zarr array, without loading it whole."""
    from depthwise._cli.store import filter_store

    if len(inputs) > 1:
        raise CommandError(f"{output}: expected one input for a .zarr, got {len(inputs)}")
    if not is_store(output):
        raise CommandError(f"{output}: expected a name ending in .zarr for the result of a .zarr")
    if not is_store(inputs[0]) and inputs[0].suffix.lower() not in (".tif", ".tiff"):
        raise CommandError(f"{inputs[0]}: expected a .zarr or a .tif for a .zarr output")
    if not inputs[0].exists():
        raise CommandError(f"cannot read {inputs[0]}: no such file")
    filter_store(inputs[0], output, job, layout, scheduler)


def is_store(path: Path) -> bool:
    """Whether the name, or what is there, is a zarr array's."""
    names = ("zarr.json", ".zarray", ".zgroup")
    return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in names)
