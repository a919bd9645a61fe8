"""Operations on NumPy arrays: a resolved `Spec` with its native plan, and what surrounds a run of it."""

from __future__ import annotations

from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from numpy import ndarray

from . import _config, _native, _spec

Array = npt.NDArray[Any]

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(getattr(ml_dtypes if name == "bfloat16" else np, name)) for name in _spec.DTYPES
}
_RESULT_DTYPES = {**NUMPY_DTYPES, **{name: np.dtype(name) for name in _spec.INTEGERS}}


class Operation:
    """One operation for one set of shapes and arguments; `run` takes the arrays.

    Immutable, so that threads may share it. The two operands are (x, filter) for "forward", (grad, filter)
    for "grad_input" and (x, grad) for "grad_filter", of the spec's shapes and dtypes. `dtype` is the
    result's. `at_addresses` is `run` on contiguous memory that the caller answers for, where there is some
    and it needs no other view.
    """

    __slots__ = (
        "_compute",
        "_four_d",
        "_is_folded",
        "_is_four_d",
        "at_addresses",
        "dtype",
        "filter_dtype",
        "native",
        "op",
        "prepared_bytes",
        "result_shape",
        "result_strides",
        "spec",
    )

    def __init__(self, op: _spec.Op, spec: _spec.Spec, has_bias: bool) -> None:
        self.op = op
        self.spec = spec
        self.dtype = _RESULT_DTYPES[spec.result_dtype or spec.dtype]
        self.filter_dtype = NUMPY_DTYPES[spec.dtype]
        self.result_shape = spec.result_shape(op)
        self.result_strides = _contiguous_strides(self.result_shape)
        self._is_folded = op == "grad_filter" and spec.shared_filter
        self._four_d = spec.channels_as_batch() if self._is_folded else spec.four_dimensional()
        self.native = _native.Plan(*self._four_d.native_arguments(op, has_bias), None, None)
        self.prepared_bytes = self.native.prepared_bytes
        self._is_four_d = self._four_d == spec
        self._compute = self.native.run if self._is_four_d else self._run_on_views
        sizes = *spec.input_shape, *spec.filter_shape, *spec.output_shape
        self.at_addresses = self.native.run_at if self._is_four_d and 0 not in sizes else None

    @property
    def depends_on_filter(self) -> bool:
        """Whether the algorithm depends on the values of the filter."""
        return self.native.depends_on_filter

    def algorithm(self, filter: Array | None = None) -> str:
        """The algorithm that a run takes; with this filter, where it depends on the filter."""
        if filter is None or not self.depends_on_filter:
            return str(self.native.describe(1)["algorithm"])
        return self.native.algorithm(self._filter_view(filter))

    def run(
        self, a: Array, b: Array, bias: Array | None = None, out: Array | None = None, num_threads: Any = None
    ) -> Any:
        """The result, in a new array or in `out`, after checking what the shapes do not tell."""
        return self.run_checked(a, b, bias, out, _config.call_threads(num_threads))

    def run_and_remember(
        self,
        calls: _native.Calls,
        settings: tuple[Any, ...],
        a: Array,
        b: Array,
        bias: Array | None = None,
        out: Array | None = None,
        num_threads: Any = None,
    ) -> Any:
        """`run`, after which `calls` recalls it for equal settings, which tell of the threads, too."""
        threads = _config.call_threads(num_threads)
        result = self.run_checked(a, b, bias, out, threads)
        if self._is_four_d:
            calls.remember(self.native, threads, a, b, bias, settings)
        return result

    def run_checked(self, a: Array, b: Array, bias: Array | None, out: Array | None, threads: int) -> Any:
        """`run` with a number of threads that is known to be within bounds; 0 is the default."""
        return self.execute(a, b, None if bias is None else self.checked_bias(bias), out, threads)

    def execute(
        self,
        a: Array,
        b: Array,
        bias: Array | None,
        out: Array | None,
        threads: int,
        prepared: _native.Prepared | None = None,
    ) -> Any:
        """`run_checked` with a checked bias, and what `prepare` made of the filter `b`."""
        if out is None:
            return self._run_new(a, b, bias, threads, prepared)
        if type(out) is ndarray:
            try:
                self._compute(a, b, bias, out, threads, prepared)
                return out
            except ValueError:  # of its shape, dtype or layout, or of extents that overlap
                pass
        self._check_out(out, (a, b) if bias is None else (a, b, bias))
        out[...] = self._run_new(a, b, bias, threads, prepared)
        return out

    def prepare(self, filter: Array, threads: int) -> _native.Prepared | None:
        """What runs with this filter have in common, worth keeping; None when there is nothing."""
        return self.native.prepare(self._filter_view(filter), threads)

    def _run_new(
        self, a: Array, b: Array, bias: Array | None, threads: int, prepared: _native.Prepared | None
    ) -> Array:
        try:
            return self._compute(a, b, bias, None, threads, prepared)
        except MemoryError as error:
            shape = self.result_shape
            raise MemoryError(f"cannot allocate the result, {self.dtype} of shape {shape}") from error

    def _check_out(self, out: Array, operands: tuple[Array, ...]) -> None:
        if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
            raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
        if out.shape != self.result_shape:
            raise ValueError(f"out must have shape {self.result_shape}, got {out.shape}")
        if out.dtype != self.dtype:
            raise ValueError(f"out must have dtype {self.dtype} in native byte order, got {out.dtype!r}")
        if not out.flags.writeable:
            raise ValueError("out must be writeable, got a read-only array")
        if any(stride == 0 and size > 1 for stride, size in zip(out.strides, out.shape, strict=True)):
            raise ValueError("out must not be broadcast: some of its elements share their memory")
        if any(_may_share_elements(out, operand) for operand in operands):
            raise ValueError("out must not overlap the arrays that the result is computed from")

    def checked_bias(self, bias: Array) -> Array:
        """`bias` as the engine wants it, if its shape and dtype are right."""
        shape = (self.spec.channels * self.spec.multiplier,)
        if bias.shape != shape:
            raise ValueError(f"bias must have shape {shape}, got {bias.shape}")
        dtype = self.filter_dtype
        if bias.dtype != dtype and bias.dtype.newbyteorder("=") != dtype:
            raise ValueError(f"bias must have dtype {dtype} like the filter, got {bias.dtype}")
        return np.require(bias, dtype, ("C", "A"))

    def _run_on_views(
        self,
        a: Array,
        b: Array,
        bias: Array | None,
        out: Array | None,
        threads: int,
        prepared: _native.Prepared | None,
    ) -> Array:
        """Run on 4-D views of 3-D images and of a `[kh, kw]` filter."""
        b_view = self._image_view(b) if self.op == "grad_filter" else self._filter_view(b)
        if out is not None:
            if out.shape != self.result_shape or not out.flags.c_contiguous:
                raise ValueError("out must be a C-contiguous array of the result's shape")
            out = out.reshape(self._four_d.result_shape(self.op))
        result: Array = self.native.run(self._image_view(a), b_view, bias, out, threads, prepared)
        return result.reshape(self.result_shape)

    def _image_view(self, image: Array) -> Array:
        image = image if self.spec.batched else image[np.newaxis]
        if not self._is_folded:
            return image
        planes = np.moveaxis(image, self.spec.channel_axis, 1)
        batch, channels, height, width = planes.shape
        return np.moveaxis(planes.reshape(batch * channels, 1, height, width), 1, self.spec.channel_axis)

    def _filter_view(self, filter: Array) -> Array:
        if not self.spec.shared_filter:
            return filter
        return np.broadcast_to(filter[:, :, np.newaxis, np.newaxis], self._four_d.filter_shape)


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of an array in C order, in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _may_share_elements(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]  # any int is fine
    except np.exceptions.TooHardError:
        return True
