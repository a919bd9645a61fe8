"""Filtering from store to store: images larger than memory, by tiles that are written whole or not at all.

The chunks that are in the output are all the record there is of what is done: a job that was interrupted,
even killed, is finished by the same command, which computes the tiles that are missing. The output's
attributes tell what the tiles depend on, and no other job may continue it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import depthwise
from depthwise._cli.arguments import Layout
from depthwise._cli.errors import CommandError, explained
from depthwise._cli.sources import Source, open_source, zarr_module
from depthwise._cli.tiles import Task, Tile, all_tiles, make_task, open_target, output_chunks

if TYPE_CHECKING:
    from depthwise._cli.filter import Job

ATTRIBUTE = "depthwise filter"
# So many tiles for each worker are handed out at a time.
_AHEAD = 2
CONNECT_SECONDS = 10


def filter_store(
    source: Path, target: Path, job: Job, layout: Layout | None = None, scheduler: str | None = None
) -> None:
    """Filter a zarr array or a TIFF file into a zarr array, or finish what was begun.

    Raises
    ------
    CommandError
        If the source cannot be read, the job does not suit it, the target is something else, or the
        scheduler cannot be reached.
    """
    source, target = source.resolve(), target.resolve()
    opened = open_source(source, layout)
    with explained(str(source)):
        task = make_task(source, target, job, layout)
    chunks = output_chunks(task, opened)
    _begin(task, opened, task.stored(chunks))
    tiles = all_tiles(task.spec, chunks)
    array = open_target(target)
    missing = [tile for tile in tiles if not _is_done(task, array, tile)]
    with _executor(scheduler, job.num_threads) as (executor, workers):
        _run(executor, workers, task, missing, len(tiles))


def _begin(task: Task, source: Source, chunks: tuple[int, ...]) -> None:
    """Make the output, or see that what is there is this job's."""
    record = _record(task, chunks)
    target = task.target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        _check_continues(target, record)
        for leftover in target.rglob("*.partial"):
            leftover.unlink(missing_ok=True)
        return
    spec = task.spec
    batch, *image = spec.output_shape if spec.batched else (1, *spec.output_shape)
    height, width, outputs = image if spec.layout == "NHWC" else (*image[1:], image[0])
    same_axes = task.is_flat == task.is_flat_result
    try:
        zarr_module().create_array(
            target,
            shape=task.stored((batch, height, width, outputs)),
            chunks=chunks,
            dtype=task.dtype,
            attributes={ATTRIBUTE: record},
            dimension_names=source.names if same_axes else None,
        )
    except OSError as error:
        raise CommandError(f"cannot write {target}: {error.strerror or error}") from error


def _check_continues(target: Path, record: dict[str, Any]) -> None:
    try:
        found = zarr_module().open_array(target, mode="r").attrs.get(ATTRIBUTE)
    except (OSError, ValueError, TypeError, KeyError):
        found = None
    if not isinstance(found, dict):
        raise CommandError(f"{target} exists and is no result of this command; remove it or name another")
    different = [name for name in record if found.get(name) != record[name]]
    if different:
        raise CommandError(
            f"{target} was begun with another {', '.join(different)}; give the same again, remove it or name "
            "another"
        )


def _record(task: Task, chunks: tuple[int, ...]) -> dict[str, Any]:
    """What the tiles depend on, by the names that a message uses."""
    spec, kernel = task.spec, task.kernel
    axes = (spec.height, spec.width)
    return {
        "source": str(task.source),
        "source shape": list(spec.input_shape),
        "layout": spec.layout,
        "kernel": f"{kernel.dtype} {list(kernel.shape)} {hashlib.sha256(kernel.tobytes()).hexdigest()}",
        "stride": [axis.stride for axis in axes],
        "dilation": [axis.dilation for axis in axes],
        "padding": [[axis.pad_before, axis.pad_after] for axis in axes],
        "border": spec.border,
        "algorithm": spec.algorithm,
        "dtype": task.dtype.name,
        "chunks": list(chunks),
        "version of depthwise": version("depthwise"),
    }


def _is_done(task: Task, array: Any, tile: Tile) -> bool:
    key: str = array.metadata.encode_chunk_key(task.stored(tile.position))
    return (task.target / key).is_file()


def _run(executor: Executor, workers: int, task: Task, missing: list[Tile], total: int) -> None:
    """Compute the missing tiles; on a terminal, with a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    done = total - len(missing)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total, completed=done)
        try:
            for _ in _completed(executor, workers * _AHEAD, task, missing):
                done += 1
                progress.update(bar, completed=done)
        except KeyboardInterrupt:
            progress.stop()
            console.print("interrupted; the same command computes the tiles that are missing")
            raise


def _completed(executor: Executor, most: int, task: Task, tiles: list[Tile]) -> Iterator[None]:
    """Hand out the tiles, at most so many at a time, and tell of each that is done."""
    pending: set[Future[None]] = set()
    waiting = iter(tiles)
    while True:
        for tile in waiting:
            pending.add(executor.submit(task, tile))
            if len(pending) >= most:
                break
        if not pending:
            return
        finished, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            _explain(task, future)
            yield


def _explain(task: Task, future: Future[None]) -> None:
    """Raise what went wrong with a tile as one line."""
    try:
        future.result()
    except OSError as error:
        raise CommandError(f"{task.source} to {task.target}: {error.strerror or error}") from error
    except (ValueError, TypeError, MemoryError, RuntimeError) as error:
        raise CommandError(f"{task.source}: {error or 'not enough memory'}") from error


@contextmanager
def _executor(scheduler: str | None, num_threads: int | None) -> Iterator[tuple[Executor, int]]:
    """What runs tasks, and how many at a time: threads of this process, or the workers of a cluster."""
    if scheduler is not None:
        with _cluster(scheduler) as client:
            yield client.get_executor(pure=False), max(1, sum(client.nthreads().values()))
        return
    threads = num_threads or depthwise.get_num_threads()
    executor = ThreadPoolExecutor(threads)
    try:
        yield executor, threads
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _cluster(scheduler: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise CommandError("--scheduler needs the package distributed: the extra dask has it") from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError, TimeoutError) as error:
        raise CommandError(f"cannot use the scheduler at {scheduler}: {error}") from error
    try:
        yield client
    finally:
        client.close()
