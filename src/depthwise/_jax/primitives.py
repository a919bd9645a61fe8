"""The primitives: what they return, how they are differentiated, mapped and compiled.

The convolution and its two gradients are each linear in both operands, and the transposes of any one are the
other two. So one primitive with three values of `op` is closed under differentiation: forward and reverse
mode of any order need no further rule. A second primitive adds the bias and the activation in the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from .. import _engine, _spec
from . import partitioning
from .batching import map_four_d
from .roles import RESULT, operand_roles, shape

_MOST_PROGRAMS = 4096

_bilinear_p = Primitive("depthwise_conv2d")
_layer_p = Primitive("depthwise_conv2d_layer")


def bilinear(op: _spec.Op, spec: _spec.Spec, num_threads: int, a: Any, b: Any) -> Any:
    """The convolution, or one of its gradients, of operands that fit `spec`."""
    return _bind(_bilinear_p, op, spec, num_threads, a, b)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def layer(spec: _spec.Spec, num_threads: int, x: Any, filter: Any, bias: Any) -> Any:
    """The convolution with `bias`, unless it is None, and the activation of `spec`."""
    operands = (x, filter) if bias is None else (x, filter, bias)
    return _bind(_layer_p, "forward", spec, num_threads, *operands)


@partial(layer.defjvp, symbolic_zeros=True)
def _layer_jvp(spec: _spec.Spec, num_threads: int, primals: Any, tangents: Any) -> Any:
    x, filter, bias = primals
    y = layer(spec, num_threads, x, filter, bias)
    linear = replace(spec, activation=None)
    moves: list[Any] = []
    x_dot, filter_dot, bias_dot = tangents
    if _moves(x_dot):
        moves.append(bilinear("forward", linear, num_threads, x_dot, filter))
    if _moves(filter_dot):
        moves.append(bilinear("forward", _of_filter(linear), num_threads, x, filter_dot))
    if bias is not None and _moves(bias_dot):
        moves.append(_along_channels(spec, bias_dot))
    if not moves:
        return y, jnp.zeros_like(y)
    z_dot = sum(moves[1:], start=moves[0])
    z_dot = jnp.broadcast_to(z_dot, y.shape)
    if spec.activation is None:
        return y, z_dot
    return y, _slope(spec, num_threads, y, primals) * z_dot


def _moves(tangent: Any) -> bool:
    return not isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _along_channels(spec: _spec.Spec, bias: Any) -> Any:
    """The bias in a shape that broadcasts against the output."""
    return bias if spec.layout == "NHWC" else bias[:, jnp.newaxis, jnp.newaxis]


def _slope(spec: _spec.Spec, num_threads: int, y: Any, primals: Any) -> Any:
    """The activation's derivative; 0 at the kinks of relu and relu6."""
    if spec.activation == "relu":
        return (y > 0).astype(y.dtype)
    if spec.activation == "relu6":
        return ((y > 0) & (y < 6)).astype(y.dtype)
    z = layer(replace(spec, activation=None), num_threads, *primals)
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    if spec.activation == "silu":
        sigmoid = jax.nn.sigmoid(z)
        slope = sigmoid * (1 + z * (1 - sigmoid))
    else:
        assert spec.activation == "hard_swish", spec.activation
        slope = jnp.where(jnp.abs(z) < 3, (2 * z + 3) / 6, (z > 0).astype(z.dtype))
    return slope.astype(y.dtype)


# ---- programs and shapes -----------------------------------------------------------------------------------


def _bind(primitive: Any, op: _spec.Op, spec: _spec.Spec, num_threads: int, *operands: Any) -> Any:
    program = _program(op, spec, num_threads, len(operands))
    return primitive.bind(
        *_varying_alike(*operands), op=op, spec=spec, num_threads=num_threads, program=program
    )


@lru_cache(_MOST_PROGRAMS)
def _program(op: _spec.Op, spec: _spec.Spec, num_threads: int, count: int) -> Any:
    """What the primitive is compiled to.

    It is a parameter of the primitive, so that JAX finds the partitioned call in it: only then does it tell
    the devices to the compiler.
    """
    dtype = _engine.NUMPY_DTYPES[spec.dtype]
    operands = [jax.ShapeDtypeStruct(shape(spec, role), dtype) for role in operand_roles(op, count)]
    return jax.make_jaxpr(lambda *operands: _in_four_d(partitioning.call, op, spec, num_threads, operands))(
        *operands
    )


def _abstract(*operands: Any, op: _spec.Op, spec: _spec.Spec, **_: Any) -> Any:
    first = operands[0]
    changes = {"shape": spec.result_shape(op), "weak_type": False}
    if hasattr(first, "sharding"):
        mesh = first.sharding.mesh
        axes = [tuple(operand.sharding.spec) for operand in operands]
        cut = partitioning.cut_of(op, spec, axes, mesh.shape)
        changes["sharding"] = first.sharding.update(spec=partitioning.partition_spec(spec, RESULT[op], cut))
    return first.update(**changes)


def _varying_alike(*operands: Any) -> Any:
    """Inside `shard_map`, operands that vary over the same axes of the mesh, as every primitive wants them.

    The cast is what sums the gradient of a replicated filter over the shards.
    """
    axes = [_varying_axes(operand) for operand in operands]
    union = frozenset[Any]().union(*axes)
    return [x if have == union else _vary(x, union - have) for x, have in zip(operands, axes, strict=True)]


def _varying_axes(operand: Any) -> frozenset[Any]:
    aval = jax.typeof(operand)
    manual = getattr(aval, "manual_axis_type", None)
    axes: frozenset[Any] = getattr(aval, "vma", frozenset()) if manual is None else manual.varying
    return axes


def _vary(operand: Any, axes: frozenset[Any]) -> Any:
    names = tuple(sorted(axes, key=str))
    return (
        jax.lax.pcast(operand, names, to="varying")
        if hasattr(jax.lax, "pcast")
        else jax.lax.pvary(operand, names)
    )


# ---- on 4-D operands ---------------------------------------------------------------------------------------


def _in_four_d(
    bind: Callable[..., Any], op: _spec.Op, spec: _spec.Spec, num_threads: int, operands: Any
) -> Any:
    """Compute by `bind`, which takes only 4-D images and a filter for each channel."""
    if op == "grad_filter" and spec.shared_filter:
        folded = spec.channels_as_batch()
        views = [_channels_into_batch(spec, operand) for operand in operands]
        return bind(op, folded, num_threads, *views).reshape(spec.filter_shape)
    four_d = spec.four_dimensional()
    views = [
        _filter_view(spec, operand)
        if role == "filter"
        else _image_view(spec, operand)
        if role != "bias"
        else operand
        for role, operand in zip(operand_roles(op, len(operands)), operands, strict=True)
    ]
    return bind(op, four_d, num_threads, *views).reshape(spec.result_shape(op))


def _image_view(spec: _spec.Spec, image: Any) -> Any:
    return image if spec.batched else image[jnp.newaxis]


def _filter_view(spec: _spec.Spec, filter: Any) -> Any:
    if not spec.shared_filter:
        return filter
    return jnp.broadcast_to(filter[:, :, jnp.newaxis, jnp.newaxis], spec.four_dimensional().filter_shape)


def _channels_into_batch(spec: _spec.Spec, image: Any) -> Any:
    planes = jnp.moveaxis(_image_view(spec, image), spec.channel_axis, 1)
    batch, channels, height, width = planes.shape
    return jnp.moveaxis(planes.reshape(batch * channels, 1, height, width), 1, spec.channel_axis)


# ---- rules -------------------------------------------------------------------------------------------------


def _transpose_first(
    cotangent: Any, a: Any, b: Any, *, op: _spec.Op, spec: _spec.Spec, num_threads: int, **_: Any
) -> Any:
    if op == "grad_filter":
        return bilinear("grad_input", spec, num_threads, b, cotangent)
    return bilinear("grad_input" if op == "forward" else "forward", spec, num_threads, cotangent, b)


def _transpose_second(
    cotangent: Any, a: Any, b: Any, *, op: _spec.Op, spec: _spec.Spec, num_threads: int, **_: Any
) -> Any:
    spec = _of_filter(spec)
    if op == "grad_input":
        return bilinear("grad_filter", spec, num_threads, cotangent, a)
    return bilinear("grad_filter" if op == "forward" else "forward", spec, num_threads, a, cotangent)


def _jvp_first(
    tangent: Any, a: Any, b: Any, *, op: _spec.Op, spec: _spec.Spec, num_threads: int, **_: Any
) -> Any:
    return bilinear(op, spec, num_threads, tangent, b)


def _jvp_second(
    tangent: Any, a: Any, b: Any, *, op: _spec.Op, spec: _spec.Spec, num_threads: int, **_: Any
) -> Any:
    return bilinear(op, _of_filter(spec), num_threads, a, tangent)


def _of_filter(spec: _spec.Spec) -> _spec.Spec:
    """The problem where something else takes the filter's place, or its gradient is computed."""
    return replace(spec, algorithm=_spec.algorithm_of_derivative(spec.algorithm))


def _batch(
    primitive: Any, operands: Any, axes: Any, *, op: _spec.Op, spec: _spec.Spec, num_threads: int, **_: Any
) -> tuple[Any, int]:
    bind = partial(_bind, primitive)
    if spec.batched and not spec.shared_filter:
        folded = map_four_d(
            lambda spec, operands: bind(op, spec, num_threads, *operands), op, spec, operands, axes
        )
        return folded, 0
    in_four_d = partial(_in_four_d, bind, op, spec, num_threads)
    return jax.vmap(lambda *operands: in_four_d(operands), in_axes=tuple(axes))(*operands), 0


def _lower(*operands: Any, program: Any, **_: Any) -> Any:
    return jaxpr_as_fun(program)(*operands)[0]


@lru_cache(_MOST_PROGRAMS)
def _compiled(primitive: Any, op: _spec.Op, spec: _spec.Spec, num_threads: int, program: Any) -> Any:
    return jax.jit(partial(primitive.bind, op=op, spec=spec, num_threads=num_threads, program=program))


def _define(primitive: Any) -> None:
    def run(*operands: Any, **parameters: Any) -> Any:
        with jax.disable_jit(False):  # a primitive is compiled whatever the user wants to step through
            return _compiled(primitive, **parameters)(*operands)

    primitive.def_impl(run)
    primitive.def_abstract_eval(_abstract)
    batching.primitive_batchers[primitive] = partial(_batch, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(_lower, multiple_results=False), platform="cpu")


_define(_bilinear_p)
_define(_layer_p)
ad.defbilinear(_bilinear_p, _transpose_first, _transpose_second)
ad.defjvp(_bilinear_p, _jvp_first, _jvp_second)
