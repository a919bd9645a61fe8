"""Arrays spread over a mesh of devices: shards of the batch and of the channels are computed where they are.

Other axes, and axes that do not divide evenly, are gathered first. The filter gradient adds up what the
shards of the batch contribute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from .. import _spec
from . import engine
from .roles import RESULT, Role, operand_roles

Names = tuple[str, ...]

_MOST_PROBLEMS = 1024


class Cut(NamedTuple):
    """The names of the mesh axes over which the batch and the channels are spread."""

    batch: Names = ()
    channels: Names = ()


def call(op: _spec.Op, spec: _spec.Spec, num_threads: int, *operands: Any) -> Any:
    """`engine.call`, partitioned where the operands are."""
    if 0 in (*spec.input_shape, *spec.filter_shape, *spec.output_shape):
        return engine.call(op, spec, num_threads, *operands)  # a sharding rule has no factor of size 0
    return _partitioned(op, spec, num_threads, len(operands))(*operands)


def cut_of(op: _spec.Op, spec: _spec.Spec, axes: Sequence[Any], sizes: Any) -> Cut:
    """How to cut the problem, given the mesh axes of each dimension of each operand and the axes' sizes."""
    batch: Names = ()
    channels: Names = ()
    for role, names in zip(operand_roles(op, len(axes)), axes, strict=True):
        if role in ("input", "output"):
            if spec.batched:
                batch = batch or _dividing(names[0], spec.batch, sizes)
            channel_axis = spec.channel_axis - (not spec.batched)
            channels = channels or _dividing(names[channel_axis], spec.channels, sizes)
    if spec.shared_filter or set(batch) & set(channels):
        channels = ()
    return Cut(batch, channels)


def partition_spec(spec: _spec.Spec, role: Role, cut: Cut) -> PartitionSpec:
    """How what plays this role is spread over the mesh."""
    batch, channels = (names or None for names in cut)
    if role == "bias":
        return PartitionSpec(channels)
    if role == "filter":
        return PartitionSpec(None, None) if spec.shared_filter else PartitionSpec(None, None, channels, None)
    image = (None, None, channels) if spec.layout == "NHWC" else (channels, None, None)
    return PartitionSpec(batch, *image) if spec.batched else PartitionSpec(*image)


@lru_cache(_MOST_PROBLEMS)
def _partitioned(op: _spec.Op, spec: _spec.Spec, num_threads: int, count: int) -> Any:
    roles = operand_roles(op, count)

    def compute(*operands: Any) -> Any:
        return engine.call(op, spec, num_threads, *operands)

    def shardings(mesh: Any, cut: Cut) -> tuple[NamedSharding, tuple[NamedSharding, ...]]:
        of_result, *of_operands = (
            NamedSharding(mesh, partition_spec(spec, role, cut)) for role in (RESULT[op], *roles)
        )
        return of_result, tuple(of_operands)

    def partition(mesh: Any, operands: Any, result: Any) -> Any:
        cut = cut_of(op, spec, [_mesh_axes(operand) for operand in operands], mesh.shape)
        of_result, of_operands = shardings(mesh, cut)
        local = replace(
            spec,
            batch=spec.batch // _count(cut.batch, mesh.shape),
            channels=spec.channels // _count(cut.channels, mesh.shape),
        )

        def compute_shard(*shards: Any) -> Any:
            part = engine.call(op, local, num_threads, *shards)
            return jax.lax.psum(part, cut.batch) if op == "grad_filter" and cut.batch else part

        return mesh, compute_shard, of_result, of_operands

    def infer_sharding(mesh: Any, operands: Any, result: Any) -> Any:
        cut = cut_of(op, spec, [_mesh_axes(operand) for operand in operands], mesh.shape)
        return shardings(mesh, cut)[0]

    def sharding_rule(mesh: Any, operand_types: Any, result_types: Any) -> str:
        return _sharding_rule(op, spec, roles, mesh)

    partitioned = custom_partitioning(compute)
    partitioned.def_partition(
        partition, infer_sharding_from_operands=infer_sharding, sharding_rule=sharding_rule
    )
    return partitioned


def _sharding_rule(op: _spec.Op, spec: _spec.Spec, roles: Sequence[Role], mesh: Any) -> str:
    """The rule by which XLA propagates shardings: only n (batch) and c (channels) are common factors."""
    outputs = "c" if spec.multiplier == 1 else "(c m)"
    if outputs != "c" and any(spec.channels % size for size in mesh.shape.values()):
        outputs = (
            "k"  # the product would cut an axis of the mesh in two, and JAX has no name for half an axis
        )
    nhwc = spec.layout == "NHWC"
    factors: dict[Role, str] = {
        "input": "n h w c" if nhwc else "n c h w",
        "output": f"n i j {outputs}" if nhwc else f"n {outputs} i j",
        "filter": "p q c m" if outputs == "(c m)" else "p q c o",
        "bias": outputs,
    }
    return f"{', '.join(factors[role] for role in roles)} -> {factors[RESULT[op]]}"


def _mesh_axes(operand: Any) -> list[Any]:
    """The mesh axes of each dimension of an operand."""
    spec = getattr(operand.sharding, "spec", ())
    return [*spec, *(None for _ in range(len(operand.shape) - len(spec)))]


def _dividing(names: Any, size: int, sizes: Any) -> Names:
    """The axes' names if they cut `size` into equal parts, else none."""
    if names is None or names is PartitionSpec.UNCONSTRAINED:
        return ()
    names = (names,) if isinstance(names, str) else tuple(names)
    return names if size % _count(names, sizes) == 0 else ()


def _count(names: Names, sizes: Any) -> int:
    return math.prod(sizes[name] for name in names)
