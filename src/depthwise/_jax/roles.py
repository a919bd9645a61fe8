"""What each operand of an operation is, and where its axes are."""

from __future__ import annotations

from typing import Literal

from .. import _spec

Role = Literal["input", "filter", "output", "bias"]

OPERANDS: dict[_spec.Op, tuple[Role, Role]] = {
    "forward": ("input", "filter"),
    "grad_input": ("output", "filter"),
    "grad_filter": ("input", "output"),
}
RESULT: dict[_spec.Op, Role] = {"forward": "output", "grad_input": "input", "grad_filter": "filter"}


def operand_roles(op: _spec.Op, count: int) -> tuple[Role, ...]:
    """The roles of the operands; a third one is the bias."""
    return (*OPERANDS[op], "bias")[:count]


def shape(spec: _spec.Spec, role: Role) -> _spec.Shape:
    """The shape of what plays this role."""
    shapes = {"input": spec.input_shape, "filter": spec.filter_shape, "output": spec.output_shape}
    return shapes[role] if role != "bias" else (spec.channels * spec.multiplier,)
