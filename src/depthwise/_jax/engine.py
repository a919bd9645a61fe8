"""The native engine as a call in XLA's programs, through its foreign function interface if that was built."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .. import _engine, _native, _spec

_TARGET = "depthwise_conv2d"
_HAS_HANDLER = hasattr(_native, "xla_handler")

if _HAS_HANDLER:
    jax.ffi.register_ffi_target(_TARGET, _native.xla_handler(), platform="cpu")


def call(op: _spec.Op, spec: _spec.Spec, num_threads: int, *operands: Any) -> Any:
    """The result of `op` on 4-D operands and perhaps a bias; `num_threads` 0 is the current default."""
    result = jax.ShapeDtypeStruct(spec.result_shape(op), _engine.NUMPY_DTYPES[spec.dtype])
    if not _HAS_HANDLER:
        return jax.pure_callback(_on_numpy(op, spec, num_threads, len(operands) == 3), result, *operands)
    *arguments, algorithm = spec.native_arguments(op, has_bias=len(operands) == 3)
    numbers: Any = [*arguments, num_threads]
    run = jax.ffi.ffi_call(_TARGET, result)
    return run(*operands, numbers=np.hstack(numbers, dtype=np.int64), algorithm=algorithm)


def _on_numpy(op: _spec.Op, spec: _spec.Spec, num_threads: int, has_bias: bool) -> Any:
    operation = _engine.Operation(op, spec, has_bias)

    def run(*operands: Any) -> Any:
        a, b, *bias = map(np.asarray, operands)
        return operation.run(a, b, bias[0] if bias else None, num_threads=num_threads or None)

    return run
