"""The prepared operator."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from . import _config, _engine, _native, _spec
from ._dispatch import adapter, array_kind, as_plain_array
from ._operations import dtype_name, general_operation
from ._spec import plain, plain_padding, word

Array = npt.NDArray[Any]

# A prepared operator sees few shapes; one that sees more than this forgets them and starts again.
_MOST_SHAPES = 256
# Bytes of packed, transformed and factored filters that it may keep; what is larger is found anew every time.
_MOST_PREPARED_BYTES = 64 * 2**20

# For images of one shape and dtype: the operation, and its operands besides the image.
Preparation = tuple[_engine.Operation, Array, Array | None, _native.Prepared | None]


class Conv2D:
    """A depthwise convolution prepared for many images: `op(x)` is `conv2d(x, filter, ...)`, bit for bit.

    The operator copies its arrays and never changes afterwards: threads may share it, and it can be pickled.
    It keeps, at most 64 MiB of them, the filter's factors where each plane is of rank 1, its weights in the
    order in which the kernels read them, or for large kernels its Fourier transforms: what other calls find
    out each time. An `x` of dask gives a lazy result, as in `conv2d`.

    Parameters
    ----------
    filter : array of shape (kernel height, kernel width, channels, M), or (kernel height, kernel width)
        float16, bfloat16, float32 or float64. With two dimensions it serves every channel of any image.
    stride, padding, dilation, layout, border, bias, activation, dtype, algorithm, num_threads
        As in `conv2d`.

    Raises
    ------
    TypeError, ValueError
        As `conv2d` does, for what does not depend on the image.

    Examples
    --------
    >>> import numpy as np
    >>> blur = Conv2D(np.full((3, 3), 1 / 9, np.float32))
    >>> blur(np.ones((1, 5, 5, 2), np.float32))[0, 2, 2].round(5).tolist()
    [1.0, 1.0]
    """

    __slots__ = ("_arguments", "_bias", "_filter", "_num_threads", "_prepared")

    _arguments: dict[str, Any]
    _bias: Array | None
    _filter: Array
    _num_threads: int
    _prepared: dict[tuple[Any, ...], Preparation]

    def __init__(
        self,
        filter: Array,
        *,
        stride: Any = 1,
        padding: Any = "SAME",
        dilation: Any = 1,
        layout: str = "NHWC",
        border: str = "constant",
        bias: Array | None = None,
        activation: str | None = None,
        dtype: Any = None,
        algorithm: str = "auto",
        num_threads: int | None = None,
    ) -> None:
        settings = {
            "stride": plain("stride", stride),
            "padding": plain_padding(padding),
            "dilation": plain("dilation", dilation),
            "layout": word("layout", layout),
            "border": word("border", border),
            "activation": word("activation", activation),
            "algorithm": word("algorithm", algorithm),
        }
        _spec.general_settings(**settings)
        threads = _config.call_threads(num_threads)
        set_once = super().__setattr__
        set_once("_filter", _private_copy("filter", filter))
        set_once("_bias", None if bias is None else _private_copy("bias", bias))
        set_once("_num_threads", threads)
        set_once("_arguments", {**settings, "dtype": dtype_name(dtype)})
        set_once("_prepared", {})
        self._check_arrays()

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """Convolve `x`, into `out` if given. Shapes, dtypes and errors are those of `conv2d`."""
        if type(x) is not ndarray:
            other: Array = self._call_other(x, out)
            return other
        prepared = self._prepared.get((x.shape, x.dtype))
        if prepared is None:
            prepared = self._prepare(x.shape, x.dtype)
        operation, filter, bias, kept = prepared
        result: Array = operation.execute(x, filter, bias, out, self._num_threads, kept)
        return result

    def _call_other(self, x: Any, out: Array | None) -> Any:
        """The lazy result of a dask array, or that of a subclass of NumPy's; other arrays are refused."""
        if array_kind("x", x) != "dask":
            return self(as_plain_array("x", x), out)
        settings = {**self._arguments, "bias": self._bias, "num_threads": self._num_threads or None}
        return adapter("dask").conv2d(x, self._filter, out=out, **settings)

    @property
    def filter(self) -> Array:
        """The filter; read-only."""
        return self._filter

    @property
    def bias(self) -> Array | None:
        """The bias, or None; read-only."""
        return self._bias

    def _prepare(self, x_shape: _spec.Shape, x_dtype: np.dtype[Any]) -> Preparation:
        filter = self._filter
        operation = self._operation(x_shape, filter.shape, x_dtype)
        if operation.spec.shared_filter:
            four_d = operation.spec.four_dimensional().filter_shape
            filter = np.ascontiguousarray(np.broadcast_to(filter[:, :, np.newaxis, np.newaxis], four_d))
            operation = self._operation(x_shape, four_d, x_dtype)
        bias = None if self._bias is None else operation.checked_bias(self._bias)
        size, others = operation.prepared_bytes, self._prepared.copy().values()
        if len(others) >= _MOST_SHAPES or size + sum(map(_bytes_kept, others)) > _MOST_PREPARED_BYTES:
            self._prepared.clear()
        worth_keeping = 0 < size <= _MOST_PREPARED_BYTES
        kept = operation.prepare(filter, self._num_threads) if worth_keeping else None
        prepared = operation, filter, bias, kept
        self._prepared[x_shape, x_dtype] = prepared
        return prepared

    def _operation(
        self, x_shape: _spec.Shape, filter_shape: _spec.Shape, x_dtype: np.dtype[Any]
    ) -> _engine.Operation:
        dtypes = (x_dtype, self._filter.dtype)
        has_bias = self._bias is not None
        return general_operation(
            "forward", x_shape, filter_shape, None, dtypes, has_bias=has_bias, **self._arguments
        )

    def _check_arrays(self) -> None:
        """Refuse at once a filter and a bias that would fit no image."""
        dtypes = {"filter": self._filter.dtype.name}
        if self._bias is not None:
            dtypes["bias"] = self._bias.dtype.name
        filter_dtype, dtype = _spec.common_dtype(dtypes), self._arguments["dtype"]
        integers = _spec.INTEGERS if filter_dtype in _spec.INTEGER_FILTERS else ()
        if dtype not in (None, filter_dtype, *integers):
            raise ValueError(f"dtype must be None or that of the filter, {filter_dtype}, got {dtype}")
        shape = _spec.general_filter_shape("filter", self._filter.shape)
        if self._bias is not None and len(shape) == 4:
            _spec.check_shape("bias", self._bias.shape, (shape[2] * shape[3],))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items() if value is not None)
        bias = "" if self._bias is None else ", with bias"
        return f"Conv2D(filter {self._filter.dtype} {self._filter.shape}{bias}, {given})"

    def __reduce__(self) -> tuple[Any, ...]:
        keywords = {**self._arguments, "bias": self._bias, "num_threads": self._num_threads or None}
        return _rebuilt, (self._filter, keywords)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"Conv2D is immutable: cannot set {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Conv2D is immutable: cannot delete {name}")


def _bytes_kept(preparation: Preparation) -> int:
    return 0 if preparation[3] is None else preparation[3].bytes


def _rebuilt(filter: Array, keywords: dict[str, Any]) -> Conv2D:
    return Conv2D(filter, **keywords)


def _private_copy(name: str, array: Any) -> Array:
    """A read-only copy in C order and native byte order."""
    plain_array = as_plain_array(name, array)
    copy = np.array(plain_array, dtype=plain_array.dtype.newbyteorder("="), order="C")
    copy.flags.writeable = False
    return copy
