"""The operators `torch.ops.depthwise.*`: registered with PyTorch, differentiable, batched, autocast.

Each of the three operations is bilinear, and the derivatives of each are expressed by the other two: so they
are closed under differentiation, to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _spec
from . import kernels

Save = Callable[[Any, Sequence[Any], Tensor], None]
Backward = Callable[..., Any]
Batched = Callable[..., tuple[Tensor, int]]

_GEOMETRY = "int[] stride, int[]? padding, int[] dilation, str border, str algorithm, int num_threads"
_SCHEMAS = {
    "conv2d": f"(Tensor x, Tensor filter, Tensor? bias, str? activation, {_GEOMETRY}) -> Tensor",
    "conv2d_grad_input": f"(Tensor grad, Tensor filter, SymInt[] x_shape, {_GEOMETRY}) -> Tensor",
    "conv2d_grad_filter": f"(Tensor x, Tensor grad, SymInt[] filter_shape, {_GEOMETRY}) -> Tensor",
}
_LIBRARY = torch.library.Library("depthwise", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)


class Operator:
    """One operation: registered with PyTorch's dispatcher, and called without it where nothing is lost.

    The dispatcher costs several times what a small convolution does, so a call on ordinary tensors goes
    straight to the kernel. Everything that watches or transforms operators gets the registered one.

    Parameters
    ----------
    name : str
        A key of the schemas.
    kernel, fake : callable
        What computes the result, and what tells its shape and memory order.
    save, backward : callable
        `save(ctx, inputs, output)` and `backward(ctx, grad)` as `torch.library.register_autograd` wants them.
    jvp : callable
        `jvp(ctx, *tangents)` as `torch.autograd.Function` wants it.
    batched : callable
        The rule for `torch.vmap`, as `torch.library.register_vmap` wants it.
    """

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Tensor],
        fake: Callable[..., Tensor],
        save: Save,
        backward: Backward,
        jvp: Backward,
        batched: Batched,
    ) -> None:
        qualified = f"depthwise::{name}"
        _LIBRARY.define(name + _SCHEMAS[name], tags=_TAGS)
        self.kernel = kernel
        self.registered = getattr(torch.ops.depthwise, name).default
        self._tensors = _SCHEMAS[name].count("Tensor") - 1  # the first arguments; the last one is the result
        self._function = _plain_function(name, kernel, save, backward)
        self._transformable = _transformable_function(name, self, save, backward, jvp, batched)
        _LIBRARY.impl(name, kernel, "CPU")
        _LIBRARY.impl(name, self._autocast, "AutocastCPU")
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        torch.library.register_autograd(qualified, backward, setup_context=save, lib=_LIBRARY)
        if hasattr(torch.library, "register_vmap"):  # PyTorch 2.5; before that, vmap refuses the operator
            torch.library.register_vmap(qualified, batched, lib=_LIBRARY)

    def __call__(self, *arguments: Any) -> Tensor:
        """The result for the schema's arguments."""
        tensors = arguments[: self._tensors]
        if torch.compiler.is_compiling():
            return self.registered(*arguments)
        if is_plain_call(tensors):
            return self._function.apply(*arguments) if needs_grad(tensors) else self.kernel(*arguments)
        if _functorch_is_active() or _in_forward_mode():
            return self._transformable.apply(*arguments)
        return self.registered(*arguments)

    def _autocast(self, *arguments: Any) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return self.registered(*(_lowered(argument, dtype) for argument in arguments))


def is_plain_call(tensors: Iterable[Any]) -> bool:
    """Whether all are ordinary tensors and nothing but autograd watches or transforms the operators."""
    for tensor in tensors:
        if tensor is not None and type(tensor) not in _ORDINARY:
            return False
    return not (
        _dispatch_modes()
        or _functorch_is_active()
        or _in_forward_mode()
        or torch.is_autocast_enabled("cpu")
        or _tracing_state()
        or _profiler_enabled()
    )


def _in_forward_mode() -> bool:
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


_ORDINARY = frozenset((torch.Tensor, torch.nn.Parameter))
_dispatch_modes = torch._C._len_torch_dispatch_stack
_functorch_is_active = torch._C._are_functorch_transforms_active
_tracing_state = torch._C._get_tracing_state
_profiler_enabled = torch._C._autograd._profiler_enabled


def needs_grad(tensors: Iterable[Any]) -> bool:
    """Whether autograd has to record what is computed from these tensors, some of which may be None."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def _lowered(argument: Any, dtype: torch.dtype) -> Any:
    """As PyTorch's autocast does: float64 stays."""
    is_tensor = isinstance(argument, torch.Tensor)
    return argument.to(dtype) if is_tensor and argument.dtype is not torch.float64 else argument


def _plain_function(name: str, kernel: Callable[..., Tensor], save: Save, backward: Backward) -> Any:
    """The derivative for ordinary calls, in the style of `autograd.Function` that costs least."""

    def compute(ctx: Any, *inputs: Any) -> Tensor:
        output = kernel(*inputs)
        save(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(compute), "backward": staticmethod(backward)}
    return type(f"Depthwise_{name}", (torch.autograd.Function,), methods)


def _transformable_function(
    name: str, operator: Operator, save: Save, backward: Backward, jvp: Backward, batched: Batched
) -> Any:
    """The same for `torch.func` and for forward mode, any of which may be nested in any other."""

    def save_both(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
        save(ctx, inputs, output)
        ctx.save_for_forward(*ctx.to_save)

    methods = {
        "forward": staticmethod(lambda *inputs: operator(*inputs)),
        "setup_context": staticmethod(save_both),
        "backward": staticmethod(backward),
        "jvp": staticmethod(jvp),
        "vmap": staticmethod(batched),
    }
    return type(f"Depthwise_{name}_transformable", (torch.autograd.Function,), methods)


# ---- derivatives -------------------------------------------------------------------------------------------


def _save_forward(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    x, filter, bias, ctx.activation, *ctx.geometry = inputs
    ctx.output_shape = output.shape
    from_output = ctx.activation in _SLOPES_FROM_OUTPUT
    ctx.save_for_backward(x, filter, bias, output if from_output else None)


def _backward_forward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, filter, bias, output = ctx.saved_tensors
    slope = _slope(ctx, x, filter, bias, output)
    if slope is not None:
        grad = grad * slope
    needs_x, needs_filter, needs_bias = ctx.needs_input_grad[:3]
    return (
        grad_input(grad, filter, x.shape, *ctx.geometry) if needs_x else None,
        grad_filter(x, grad, filter.shape, *_of_filter(ctx.geometry)) if needs_filter else None,
        grad.sum((0, 2, 3)) if needs_bias else None,
        *(None,) * (1 + len(ctx.geometry)),
    )


def _jvp_forward(ctx: Any, dx: Any, dfilter: Any, dbias: Any, *_: None) -> Tensor:
    x, filter, bias, output = ctx.saved_tensors
    tangent = _sum(
        None if dx is None else forward(dx, filter, None, None, *ctx.geometry),
        None if dfilter is None else forward(x, dfilter, None, None, *_of_filter(ctx.geometry)),
        None if dbias is None else dbias[:, None, None].expand(ctx.output_shape),
    )
    slope = _slope(ctx, x, filter, bias, output)
    return tangent if slope is None else tangent * slope


def _save_pair(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    first, second, ctx.shape, *ctx.geometry = inputs
    ctx.save_for_backward(first, second)


def _backward_grad_input(ctx: Any, grad_x: Tensor) -> tuple[Any, ...]:
    grad, filter = ctx.saved_tensors
    return (
        forward(grad_x, filter, None, None, *ctx.geometry) if ctx.needs_input_grad[0] else None,
        grad_filter(grad_x, grad, filter.shape, *_of_filter(ctx.geometry))
        if ctx.needs_input_grad[1]
        else None,
        *(None,) * (1 + len(ctx.geometry)),
    )


def _jvp_grad_input(ctx: Any, dgrad: Any, dfilter: Any, *_: None) -> Any:
    grad, filter = ctx.saved_tensors
    return _sum(
        None if dgrad is None else grad_input(dgrad, filter, ctx.shape, *ctx.geometry),
        None if dfilter is None else grad_input(grad, dfilter, ctx.shape, *_of_filter(ctx.geometry)),
    )


def _backward_grad_filter(ctx: Any, grad_f: Tensor) -> tuple[Any, ...]:
    x, grad = ctx.saved_tensors
    return (
        grad_input(grad, grad_f, x.shape, *ctx.geometry) if ctx.needs_input_grad[0] else None,
        forward(x, grad_f, None, None, *ctx.geometry) if ctx.needs_input_grad[1] else None,
        *(None,) * (1 + len(ctx.geometry)),
    )


def _jvp_grad_filter(ctx: Any, dx: Any, dgrad: Any, *_: None) -> Any:
    x, grad = ctx.saved_tensors
    return _sum(
        None if dx is None else grad_filter(dx, grad, ctx.shape, *ctx.geometry),
        None if dgrad is None else grad_filter(x, dgrad, ctx.shape, *ctx.geometry),
    )


def _of_filter(geometry: Sequence[Any]) -> tuple[Any, ...]:
    """The geometry where something else takes the filter's place, or its gradient is computed."""
    stride, padding, dilation, border, algorithm, num_threads = geometry
    return stride, padding, dilation, border, _spec.algorithm_of_derivative(algorithm), num_threads


def _sum(*terms: Tensor | None) -> Any:
    """The sum of those that are there, of which there is one at least."""
    first, *others = (term for term in terms if term is not None)
    return sum(others, first)


def _slope(ctx: Any, x: Tensor, filter: Tensor, bias: Tensor | None, output: Tensor | None) -> Any:
    """The activation's derivative, where it was applied."""
    if ctx.activation in _SLOPES_FROM_OUTPUT:
        return _SLOPES_FROM_OUTPUT[ctx.activation](output)
    if ctx.activation in _SLOPES_FROM_SUM:  # and the sum was not stored
        return _SLOPES_FROM_SUM[ctx.activation](forward(x, filter, bias, None, *ctx.geometry))
    return None


def _silu_slope(z: Tensor) -> Tensor:
    gate = torch.sigmoid(z)
    return gate * (1 + z * (1 - gate))


def _hard_swish_slope(z: Tensor) -> Tensor:
    return torch.where((z > -3) & (z < 3), z / 3 + 0.5, (z >= 3).to(z.dtype))


_SLOPES_FROM_OUTPUT: dict[str | None, Callable[[Tensor], Tensor]] = {
    "relu": lambda y: y > 0,
    "relu6": lambda y: (y > 0) & (y < 6),
}
_SLOPES_FROM_SUM: dict[str | None, Callable[[Tensor], Tensor]] = {
    "silu": _silu_slope,
    "hard_swish": _hard_swish_slope,
}


# ---- vmap --------------------------------------------------------------------------------------------------
#
# Where the filter is the same for all, the new axis joins the batch. Otherwise it joins the channels, each of
# which has a filter of its own anyway.


def _batched_forward(
    info: Any, dims: Sequence[Any], x: Tensor, filter: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, int]:
    x_dim, filter_dim, bias_dim = dims[:3]
    size = info.batch_size
    if filter_dim is None and bias_dim is None:
        y = forward(_join(x, x_dim, size, 0), filter, bias, *rest)
        return _split(y, 0, size), 0
    channels = x.shape[1] if x_dim is None else x.movedim(x_dim, 0).shape[2]
    filter = _join_filter(filter, filter_dim, size, channels)
    joined_bias = None if bias is None else _join(bias, bias_dim, size, 0)
    y = forward(_join(x, x_dim, size, 1), filter, joined_bias, *rest)
    return _split(y, 1, size), 1


def _batched_grad_input(
    info: Any, dims: Sequence[Any], grad: Tensor, filter: Tensor, x_shape: Sequence[int], *rest: Any
) -> tuple[Tensor, int]:
    grad_dim, filter_dim = dims[:2]
    size, (batch, channels, height, width) = info.batch_size, x_shape
    if filter_dim is None:
        joined_shape = (size * batch, channels, height, width)
        return _split(grad_input(_join(grad, grad_dim, size, 0), filter, joined_shape, *rest), 0, size), 0
    filter = _join_filter(filter, filter_dim, size, channels)
    joined_shape = (batch, size * channels, height, width)
    return _split(grad_input(_join(grad, grad_dim, size, 1), filter, joined_shape, *rest), 1, size), 1


def _batched_grad_filter(
    info: Any, dims: Sequence[Any], x: Tensor, grad: Tensor, filter_shape: Sequence[int], *rest: Any
) -> tuple[Tensor, int]:
    x_dim, grad_dim = dims[:2]
    size = info.batch_size
    channels = x.shape[1] if x_dim is None else x.movedim(x_dim, 0).shape[2]
    kh, kw, multiplier = filter_shape[0], filter_shape[1], filter_shape[3] if len(filter_shape) == 4 else 1
    joined_shape = (kh, kw, size * channels, multiplier)
    joined = grad_filter(_join(x, x_dim, size, 1), _join(grad, grad_dim, size, 1), joined_shape, *rest)
    result = _split(joined, 2, size)
    return (result, 2) if len(filter_shape) == 4 else (result.sum((3, 4)), 2)


def _join(tensor: Tensor, dim: int | None, size: int, axis: int) -> Tensor:
    """`tensor` with its axis `dim`, or a new one over which it repeats, merged into `axis` of the rest."""
    if dim is None:
        tensor = tensor.unsqueeze(axis)
        tensor = tensor.expand(*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
    else:
        tensor = tensor.movedim(dim, axis)
    return tensor.flatten(axis, axis + 1)


def _join_filter(filter: Tensor, dim: int | None, size: int, channels: int) -> Tensor:
    """The filters of all, side by side in the channels."""
    if filter.ndim == (2 if dim is None else 3):  # one for all channels
        filter = filter if dim is None else filter.movedim(dim, 0)
        filter = filter[..., None, None].expand(*filter.shape, channels, 1)
        dim = None if dim is None else 0
    return _join(filter, dim, size, 2)


def _split(tensor: Tensor, axis: int, size: int) -> Tensor:
    """The inverse of `_join`: `axis` split into (`size`, rest)."""
    rest = tensor.shape[axis] // size
    return tensor.reshape(*tensor.shape[:axis], size, rest, *tensor.shape[axis + 1 :])


forward = Operator(
    "conv2d",
    kernels.forward,
    kernels.fake_forward,
    _save_forward,
    _backward_forward,
    _jvp_forward,
    _batched_forward,
)
grad_input = Operator(
    "conv2d_grad_input",
    kernels.grad_input,
    kernels.fake_grad_input,
    _save_pair,
    _backward_grad_input,
    _jvp_grad_input,
    _batched_grad_input,
)
grad_filter = Operator(
    "conv2d_grad_filter",
    kernels.grad_filter,
    kernels.fake_grad_filter,
    _save_pair,
    _backward_grad_filter,
    _jvp_grad_filter,
    _batched_grad_filter,
)
