"""`vmap`: a new axis becomes part of the batch, the multiplier or the channels, so that one call does all.

Which one depends on what is mapped. Images alone, with one filter: the batch. Filters alone, on one input:
the multiplier, so that the input is read once. Both: the channels, since each example has filters of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from .. import _spec
from .roles import RESULT, Role, operand_roles, shape

Mode = Literal["batch", "multiplier", "channels"]


class Place(NamedTuple):
    """Where a new axis goes: into `axis`, between its `outer` and its `inner` part."""

    axis: int
    outer: int
    inner: int


def fold_mode(op: _spec.Op, mapped: set[Role]) -> Mode:
    """Into what the mapped axis is folded, given the operands that have it. The result always has it."""
    with_result = mapped | {RESULT[op]}
    if not with_result & {"filter", "bias"}:
        return "batch"
    return "channels" if "input" in with_result else "multiplier"


def folded_spec(spec: _spec.Spec, mode: Mode, size: int) -> _spec.Spec:
    """The one operation that stands for `size` of them."""
    return replace(spec, **{mode: getattr(spec, mode) * size})


def place(spec: _spec.Spec, mode: Mode, role: Role) -> Place | None:
    """Where the mapped axis goes in what plays this role; None where it has no part in it."""
    c, m, outputs = spec.channels, spec.multiplier, spec.channels * spec.multiplier
    places: dict[Mode, dict[Role, Place]] = {
        "batch": {"input": Place(0, 1, spec.batch), "output": Place(0, 1, spec.batch)},
        "multiplier": {
            "output": Place(spec.channel_axis, c, m),
            "filter": Place(3, 1, m),
            "bias": Place(0, c, m),
        },
        "channels": {
            "input": Place(spec.channel_axis, 1, c),
            "output": Place(spec.channel_axis, 1, outputs),
            "filter": Place(2, 1, c),
            "bias": Place(0, 1, outputs),
        },
    }
    return places[mode].get(role)


def fold(array: Any, at: Place) -> Any:
    """The leading axis of `array` folded into another one of the rest."""
    size, *rest = array.shape
    before, after = rest[: at.axis], rest[at.axis + 1 :]
    split = array.reshape(size, *before, at.outer, at.inner, *after)
    return jnp.moveaxis(split, 0, at.axis + 1).reshape(*before, at.outer * size * at.inner, *after)


def unfold(array: Any, at: Place, size: int) -> Any:
    """The inverse of `fold`."""
    before, after = array.shape[: at.axis], array.shape[at.axis + 1 :]
    split = array.reshape(*before, at.outer, size, at.inner, *after)
    return jnp.moveaxis(split, at.axis + 1, 0).reshape(size, *before, at.outer * at.inner, *after)


def map_four_d(bind: Any, op: _spec.Op, spec: _spec.Spec, operands: Any, axes: Any) -> Any:
    """`bind(spec, operands)` mapped over `axes` (None: not mapped) of 4-D operands; axis 0 of the result."""
    roles = operand_roles(op, len(operands))
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    mode = fold_mode(op, {role for role, axis in zip(roles, axes, strict=True) if axis is not None})
    folded = []
    for operand, axis, role in zip(operands, axes, roles, strict=True):
        at = place(spec, mode, role)
        if at is None:
            folded.append(operand)
            continue
        if axis is None:
            operand = jnp.broadcast_to(operand, (size, *shape(spec, role)))
        folded.append(fold(operand if axis is None else jnp.moveaxis(operand, axis, 0), at))
    result = bind(folded_spec(spec, mode, size), folded)
    at = place(spec, mode, RESULT[op])
    assert at is not None, "the result has a place in every mode that fold_mode picks"
    return unfold(result, at, size)
