"""The engine under TensorFlow: on eager tensors in place, in graphs by `tf.numpy_function`; gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from . import _engine, _spec
from ._operations import check_no_integers, general_operation, tensorflow_operation

try:
    from tensorflow.python.eager.record import could_possibly_record
except ImportError:  # no public function tells it; without this one, every eager call is prepared for a tape

    def could_possibly_record() -> bool:
        return True


# TensorFlow's kernels need the alignment of the widest vector; it ends the process where a tensor lacks it.
_ALIGNMENT = 64
_BFLOAT16 = _engine.NUMPY_DTYPES["bfloat16"]
# Stand for sizes that a graph does not know, (batch, others): what both lead to does not depend on them.
_UNKNOWN_SIZES = ((1, 2**14), (2, 2**15))

_RESOLVERS: dict[str, Callable[..., _engine.Operation]] = {
    "tensorflow": tensorflow_operation,
    "general": general_operation,
}


@dataclass(frozen=True)
class Convolution:
    """A convolution of tensors and its two gradients, which are each other's derivatives.

    `face` says whose arguments the `settings` are: those of `depthwise_conv2d` ("tensorflow") or of `conv2d`.
    """

    face: str
    settings: dict[str, Any]
    num_threads: int | None = None

    def forward(self, x: Any, filter: Any) -> Any:
        """The convolution."""

        def gradient(grad: Any) -> Any:
            return self._gradients(x, filter, grad)

        return self._differentiable("forward", gradient, x, filter)

    def grad_input(self, sizes: Any, filter: Any, grad: Any) -> Any:
        """Its gradient with respect to an input of shape `sizes`, ints or a tensor of them."""

        def gradient(cotangent: Any) -> Any:
            return (
                self.forward(cotangent, filter),
                self._of_filter().grad_filter(cotangent, _shape(filter), grad),
            )

        return self._differentiable("grad_input", gradient, grad, filter, sizes)

    def grad_filter(self, x: Any, sizes: Any, grad: Any) -> Any:
        """Its gradient with respect to a filter of shape `sizes`, ints or a tensor of them."""

        def gradient(cotangent: Any) -> Any:
            return (
                self.grad_input(_shape(x), cotangent, grad),
                self.forward(x, cotangent),
            )

        return self._differentiable("grad_filter", gradient, x, grad, sizes)

    def layer(self, x: Any, filter: Any, bias: Any, activation: str | None) -> Any:
        """The convolution with a bias, unless it is None, and an activation."""
        operands = (x, filter) if bias is None else (x, filter, bias)

        def compute(*values: Any) -> Any:
            y = self._run("forward", values, None, activation)

            def gradient(grad: Any) -> Any:
                grad = grad * self._slope(activation, y, operands)
                of_bias = () if bias is None else (self._bias_gradient(grad),)
                return (*self._gradients(x, filter, grad), *of_bias)

            return y, gradient

        return tf.custom_gradient(compute)(*operands) if _may_record() else compute(*operands)[0]

    def _gradients(self, x: Any, filter: Any, grad: Any) -> tuple[Any, Any]:
        of_x = self.grad_input(_shape(x), filter, grad)
        of_filter = self._of_filter().grad_filter(x, _shape(filter), grad)
        if not tf.executing_eagerly():
            of_x.set_shape(x.shape)
            of_filter.set_shape(filter.shape)
        return of_x, of_filter

    def _of_filter(self) -> Convolution:
        """The same where something else takes the filter's place, or its gradient is computed."""
        if "algorithm" not in self.settings:
            return self
        algorithm = _spec.algorithm_of_derivative(self.settings["algorithm"])
        return replace(self, settings={**self.settings, "algorithm": algorithm})

    def _differentiable(self, op: _spec.Op, gradient: Any, a: Any, b: Any, sizes: Any = None) -> Any:
        if not _may_record():
            return self._run(op, (a, b), sizes)
        return tf.custom_gradient(lambda a, b: (self._run(op, (a, b), sizes), gradient))(a, b)

    def _run(self, op: _spec.Op, operands: Any, sizes: Any, activation: str | None = None) -> Any:
        if tf.executing_eagerly():
            arrays = [np.asarray(operand) for operand in operands]
            return _as_tensor(self._compute(op, arrays, sizes, activation, _aligned_empty))
        return self._in_graph(op, operands, sizes, activation)

    def _compute(
        self, op: _spec.Op, arrays: Any, sizes: Any, activation: str | None, empty: Any = None
    ) -> Any:
        shapes = _shapes(op, [array.shape for array in arrays], sizes)
        operation = self._operation(op, shapes, tuple(array.dtype for array in arrays), activation)
        out = None if empty is None else empty(operation.result_shape, operation.dtype)
        a, b, *bias = arrays
        return operation.run(a, b, bias[0] if bias else None, out, self.num_threads)

    def _operation(self, op: _spec.Op, shapes: Any, dtypes: Any, activation: str | None) -> _engine.Operation:
        if self.face == "general":
            check_no_integers(op, dtypes[:2])
        layer = {"has_bias": len(dtypes) == 3, "activation": activation} if self.face == "general" else {}
        return _RESOLVERS[self.face](op, *shapes, dtypes[:2], **self.settings, **layer)

    def _in_graph(self, op: _spec.Op, operands: Any, sizes: Any, activation: str | None) -> Any:
        count = len(operands)

        def compute(*values: Any) -> Any:
            given = values[count] if len(values) > count else sizes
            given = tuple(given.tolist()) if isinstance(given, np.ndarray) else given
            return self._compute(op, values[:count], given, activation)

        shape = self._static_shape(op, operands, sizes, activation)
        inputs = [*operands, sizes] if isinstance(sizes, tf.Tensor) else list(operands)
        result = tf.numpy_function(compute, inputs, operands[0].dtype, stateful=False)
        result.set_shape(shape)
        return result

    def _static_shape(self, op: _spec.Op, operands: Any, sizes: Any, activation: str | None) -> Any:
        """What a graph can know of the result's shape; arguments that no size can save are refused here."""
        if isinstance(sizes, tf.Tensor) or any(operand.shape.rank is None for operand in operands):
            return tf.TensorShape(None)
        shapes = [tuple(operand.shape.as_list()) for operand in operands]
        dtypes = tuple(np.dtype(operand.dtype.as_numpy_dtype) for operand in operands)
        x_shape, filter_shape, grad_shape = _shapes(op, shapes, sizes)
        channels = x_shape[self._channel_axis() :][:1]
        if None in (*filter_shape, *(grad_shape or ()), *channels):
            return tf.TensorShape(None)
        results = []
        for batch, size in _UNKNOWN_SIZES:
            filled = tuple((size if i else batch) if n is None else n for i, n in enumerate(x_shape))
            operation = self._operation(op, (filled, filter_shape, grad_shape), dtypes, activation)
            results.append(operation.result_shape)
        for bias in operands[2:]:
            _check_bias(operation.spec, bias)
        return tf.TensorShape([a if a == b else None for a, b in zip(*results, strict=True)])

    def _channel_axis(self) -> int:
        layout = self.settings["layout" if self.face == "general" else "data_format"]
        return -3 if layout == "NCHW" else -1

    def _slope(self, activation: str | None, y: Any, operands: Any) -> Any:
        """The activation's derivative; 0 at the kinks of relu and relu6."""
        if activation is None:
            return tf.ones((), y.dtype)
        if activation in ("relu", "relu6"):
            return tf.cast((y > 0) & (y < (np.inf if activation == "relu" else 6)), y.dtype)
        x, filter, *bias = operands
        z = self.layer(x, filter, bias[0] if bias else None, None)
        z = z if z.dtype == tf.float64 else tf.cast(z, tf.float32)
        if activation == "silu":
            sigmoid = tf.sigmoid(z)
            return tf.cast(sigmoid * (1 + z * (1 - sigmoid)), y.dtype)
        assert activation == "hard_swish", activation
        return tf.cast(tf.where(tf.abs(z) < 3, (2 * z + 3) / 6, tf.cast(z > 0, z.dtype)), y.dtype)

    def _bias_gradient(self, grad: Any) -> Any:
        axes = [*range(len(grad.shape))]
        del axes[self._channel_axis()]
        wide = grad if grad.dtype == tf.float64 else tf.cast(grad, tf.float32)
        return tf.cast(tf.reduce_sum(wide, axes), grad.dtype)


def _may_record() -> bool:
    """Whether a gradient may be asked for; preparing for it takes far longer than a small convolution."""
    return not tf.executing_eagerly() or could_possibly_record()


def _shape(tensor: Any) -> Any:
    """The tensor's shape as ints, or where a graph does not know it, as a tensor."""
    return tuple(tensor.shape) if tensor.shape.is_fully_defined() else tf.shape(tensor, tf.int64)


def _shapes(op: _spec.Op, operands: Any, sizes: Any) -> tuple[Any, Any, Any]:
    """The shapes of the image, the filter, and the output's gradient, if that is an operand."""
    if op == "grad_input":
        return sizes, operands[1], operands[0]
    if op == "grad_filter":
        return operands[0], sizes, operands[1]
    return operands[0], operands[1], None


def _check_bias(spec: _spec.Spec, bias: Any) -> None:
    if bias.shape.is_fully_defined():
        _spec.check_shape("bias", bias.shape, (spec.channels * spec.multiplier,))
    _spec.common_dtype({"filter": spec.dtype, "bias": bias.dtype.name})


def _aligned_empty(shape: _spec.Shape, dtype: np.dtype[Any]) -> Any:
    """A new array that TensorFlow can take over."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _as_tensor(array: Any) -> Any:
    """A tensor of the memory of `array`, which must not change any more."""
    if array.size == 0:
        return tf.zeros(array.shape, tf.as_dtype(array.dtype))
    if array.dtype == _BFLOAT16:  # which NumPy's exchange of memory does not know
        return tf.bitcast(_as_tensor(array.view(np.uint16)), tf.bfloat16)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
