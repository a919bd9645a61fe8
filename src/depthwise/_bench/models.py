"""Whole networks in PyTorch, end to end: as they are, accelerated, and with layers fused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from depthwise.torch import accelerate

from .networks import NETWORKS
from .report import factor, table
from .stats import Timing
from .timing import ContenderError, Effort, Timer, call_timer, interleave

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

VERSION: str = torch.__version__

#: What is done with a model: its batch, and the variants of it that are timed.
TASKS = {
    "inference": (1, ("PyTorch", "accelerated", "fused")),
    "training step": (8, ("PyTorch", "accelerated")),
}

_TOLERATED = 1e-4
_EFFORT = Effort(burst=0.02, seconds=2.5, rounds=25, least_rounds=5)


@dataclass(frozen=True)
class Measured:
    """One network and task; `times` maps (variant, memory format) to timings."""

    network: str
    task: str
    times: dict[tuple[str, str], Timing]

    def best(self, variant: str) -> float | None:
        """Median seconds in the memory format that suits the variant best."""
        medians = [timing.median for (name, _), timing in self.times.items() if name == variant]
        return min(medians, default=None)

    def speedup(self, variant: str) -> float | None:
        """How many times faster than PyTorch's own, each in its best memory format."""
        ours, theirs = self.best(variant), self.best("PyTorch")
        return None if ours is None or theirs is None else theirs / ours


def measure(network: str, task: str, threads: int, size: int = 224, effort: Effort = _EFFORT) -> Measured:
    """Time all variants of a network in turn, after their results were compared.

    Raises
    ------
    ContenderError
        If a variant's result differs from that of PyTorch's own.
    """
    batch, variants = TASKS[task]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        calls = {
            (variant, name): _call(network, task, variant, memory_format, batch, size)
            for name, memory_format in FORMATS.items()
            for variant in variants
        }
        results = {key: (call(), call()) for key, call in calls.items()}  # the second loss tells of gradients
        for key, result in results.items():
            _check(key, torch.stack(result), torch.stack(results["PyTorch", "contiguous"]))
        timers: dict[tuple[str, str], Timer] = {key: call_timer(call) for key, call in calls.items()}
        outcomes = interleave(timers, effort)
    finally:
        torch.set_num_threads(before)
    return Measured(
        network, task, {k: Timing.of(samples) for k, samples in outcomes.items() if isinstance(samples, list)}
    )


def _call(
    network: str, task: str, variant: str, memory_format: torch.memory_format, batch: int, size: int
) -> Callable[[], torch.Tensor]:
    """The task on a model of its own; all models have the same weights and see the same images."""
    torch.manual_seed(0)
    model = NETWORKS[network]().to(memory_format=memory_format)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=memory_format)
    if variant != "PyTorch":
        accelerate(model, fuse=variant == "fused")
    return _inference(model, images) if task == "inference" else _training_step(model, images)


def _inference(model: Any, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    model.eval()

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return model(images)

    return call


def _training_step(model: Any, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    labels = torch.arange(len(images))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def call() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


def _check(key: tuple[str, str], result: torch.Tensor, expected: torch.Tensor) -> None:
    error = float((result - expected).abs().max() / expected.abs().max())
    if not error <= _TOLERATED:
        raise ContenderError(f"{' '.join(key)} differs from PyTorch's result by {error:.2g} of its maximum")


def models_table(measured: Iterable[Measured]) -> str:
    """A Markdown table: milliseconds of each variant and format, and the speedups."""
    columns = [(variant, name) for variant in TASKS["inference"][1] for name in FORMATS]
    rows = [
        (
            one.network,
            f"{one.task}, batch {TASKS[one.task][0]}",
            *(_milliseconds(one.times.get(column)) for column in columns),
            factor(one.speedup("accelerated")),
            factor(one.speedup("fused")),
        )
        for one in measured
    ]
    titles = [f"{variant}, {name}, ms" for variant, name in columns]
    header = ("network", "task", *titles, "accelerated is faster", "fused is faster")
    return table(header, rows, left=2)


def _milliseconds(timing: Timing | None) -> str:
    return "-" if timing is None else f"{timing.median * 1e3:.2f} ± {100 * timing.spread:.0f}%"
