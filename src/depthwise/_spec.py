"""The one home of the operation's semantics: what arguments mean, which are refused, and every output shape.

TensorFlow's contract (`tensorflow_spec`) and the general one (`general_spec`) both resolve to one frozen
`Spec`, which holds two resolved `Axis` and builds the arguments of the native plan. Nothing here needs an
array: shapes and dtype names are enough, so that framework adapters infer shapes with the same code that
checks NumPy calls. Sizes are Python ints throughout, so no product or sum can overflow before it has been
checked.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

LAYOUTS = ("NHWC", "NCHW")
DTYPES = ("float16", "bfloat16", "float32", "float64")
BORDERS = ("constant", "reflect", "symmetric", "edge", "wrap")
ACTIVATIONS = (None, "relu", "relu6", "silu", "hard_swish")
ALGORITHMS = ("auto", "direct", "fft", "separable")
# Integers that an image may be stored as, and what they are computed in.
INTEGERS = ("uint8", "int16", "uint16")
INTEGER_FILTERS = ("float32", "float64")
OPS = ("forward", "grad_input", "grad_filter")

# The engine's bound on elements of an array and positions of an axis, which leaves its int64 some room.
_LARGEST = 2**48
_LARGEST_INT = 2**62
# Pixels of an image with a border that is not constant: the gradient visits every one of them.
_LARGEST_PADDED = 2**36
# No argument has more entries than this; a longer one is refused before it is read.
_LONGEST = 32
# A sequence of up to as many plain integers is passed at once.
_FEW = 4

Op = Literal["forward", "grad_input", "grad_filter"]
T = TypeVar("T")
Shape = tuple[int, ...]
NativeAxis = tuple[int, int, int, int, int, int]
NativeArguments = tuple[int, int, int, int, int, int, NativeAxis, NativeAxis, int, bool, int, int, int, str]
Pad = Literal["SAME"] | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Axis:
    """Height or width, resolved. `input` and `output` are named from the forward operation's view."""

    input: int
    output: int
    kernel: int
    stride: int
    dilation: int
    pad_before: int
    pad_after: int

    @property
    def native(self) -> NativeAxis:
        """The six numbers from which the engine knows this axis."""
        return self.input, self.output, self.kernel, self.stride, self.dilation, self.pad_before


@dataclass(frozen=True, slots=True)
class Spec:
    """A depthwise convolution, resolved and checked: everything but the data.

    `batched` is False for a 3-D `x`; `shared_filter` is True for a `[kh, kw]` filter that serves every
    channel. The shapes below are those that the caller sees. `dtype` is the filter's, in which everything is
    computed; `x_dtype` and `result_dtype` name the integers of an image that is stored otherwise.
    """

    batch: int
    channels: int
    multiplier: int
    height: Axis
    width: Axis
    layout: str
    dtype: str
    border: str = "constant"
    activation: str | None = None
    algorithm: str = "auto"
    batched: bool = True
    shared_filter: bool = False
    x_dtype: str | None = None
    result_dtype: str | None = None

    @property
    def input_shape(self) -> Shape:
        return self._image_shape(self.height.input, self.width.input, self.channels)

    @property
    def filter_shape(self) -> Shape:
        kernel = (self.height.kernel, self.width.kernel)
        return kernel if self.shared_filter else (*kernel, self.channels, self.multiplier)

    @property
    def output_shape(self) -> Shape:
        return self._image_shape(self.height.output, self.width.output, self.channels * self.multiplier)

    @property
    def channel_axis(self) -> int:
        """The channels' position in a 4-D image of this layout."""
        return self.layout.index("C")

    def result_shape(self, op: Op) -> Shape:
        """The shape of what `op` returns."""
        shapes = {
            "forward": self.output_shape,
            "grad_input": self.input_shape,
            "grad_filter": self.filter_shape,
        }
        return shapes[op]

    def four_dimensional(self) -> Spec:
        """The same operation on a 4-D image with a filter for each channel, as the engine knows it."""
        return replace(self, batched=True, shared_filter=False)

    def channels_as_batch(self) -> Spec:
        """The gradient of a shared filter is that of one channel whose batch is every (image, channel)."""
        return replace(self.four_dimensional(), batch=self.batch * self.channels, channels=1)

    def native_arguments(self, op: Op, has_bias: bool = False) -> NativeArguments:
        """The arguments of `_native.Plan`, less the kernel and the ISA to force."""
        return (
            OPS.index(op),
            DTYPES.index(self.dtype),
            LAYOUTS.index(self.layout),
            self.batch,
            self.channels,
            self.multiplier,
            self.height.native,
            self.width.native,
            ACTIVATIONS.index(self.activation),
            has_bias,
            BORDERS.index(self.border),
            _storage(self.x_dtype),
            _storage(self.result_dtype),
            self.algorithm,
        )

    def _image_shape(self, height: int, width: int, channels: int) -> Shape:
        image = (height, width, channels) if self.layout == "NHWC" else (channels, height, width)
        return (self.batch, *image) if self.batched else image


def algorithm_of_derivative(algorithm: str) -> str:
    """What is forced where something else takes the filter's place, or the filter's gradient is computed.

    "separable" holds for the values of the filter that it was asked for, and has no filter gradient.
    """
    return "auto" if algorithm == "separable" else algorithm


def tensorflow_spec(
    input_shape: Any,
    filter_shape: Any,
    dtype: str,
    *,
    strides: Any,
    padding: Any,
    data_format: Any = None,
    dilations: Any = None,
    names: tuple[str, str] = ("input", "filter"),
    backprop: bool = False,
) -> Spec:
    """Resolve the arguments of `depthwise_conv2d`, or of its two gradients (`backprop`)."""
    settings = tensorflow_settings(
        strides=strides, padding=padding, data_format=data_format, dilations=dilations, backprop=backprop
    )
    image = _sizes(names[0], input_shape, {4: "[batch, height, width, channels] in data_format's order"})
    kernel = _sizes(names[1], filter_shape, {4: "[height, width, in_channels, channel_multiplier]"})
    return _resolve(
        image,
        kernel,
        dtype,
        settings["layout"],
        settings["stride"],
        settings["dilation"],
        settings["padding"],
        names,
    )


def tensorflow_settings(
    *, strides: Any, padding: Any, data_format: Any, dilations: Any, backprop: bool
) -> dict[str, Any]:
    """The arguments of `tensorflow_spec` that no shape enters into, checked, by the names of `conv2d`."""
    layout = "NHWC" if data_format is None else one_of("data_format", data_format, LAYOUTS)
    stride = _per_axis("strides", strides, layout, (4,))
    lengths = (2, 4) if backprop else (2,)
    dilation = (1, 1) if dilations is None else _per_axis("dilations", dilations, layout, lengths)
    if max(stride) > 1 and max(dilation) > 1:
        raise ValueError(
            f"strides and dilations must not both exceed 1, got strides {stride} and dilations {dilation} "
            "(height, width); depthwise.conv2d computes this"
        )
    return {
        "stride": stride,
        "padding": _tensorflow_pads(padding, layout),
        "dilation": dilation,
        "layout": layout,
    }


def general_spec(
    x_shape: Any,
    filter_shape: Any,
    dtype: str,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    layout: Any = "NHWC",
    border: Any = "constant",
    activation: Any = None,
    algorithm: Any = "auto",
    names: tuple[str, str] = ("x", "filter"),
) -> Spec:
    """Resolve the arguments of `conv2d` and its gradients."""
    settings = general_settings(
        stride=stride,
        padding=padding,
        dilation=dilation,
        layout=layout,
        border=border,
        activation=activation,
        algorithm=algorithm,
    )
    ranks = {4: f"{layout}, batch first", 3: f"{layout[1:]}, without the batch axis"}
    image = _sizes(names[0], x_shape, ranks)
    kernel = general_filter_shape(names[1], filter_shape)
    spec = _resolve(
        image, kernel, dtype, layout, settings["stride"], settings["dilation"], settings["padding"], names
    )
    if border != "constant":
        _check_border(border, spec)
    return replace(spec, border=border, activation=activation, algorithm=algorithm)


def general_settings(
    *, stride: Any, padding: Any, dilation: Any, layout: Any, border: Any, activation: Any, algorithm: Any
) -> dict[str, Any]:
    """The arguments of `general_spec` that no shape enters into, checked and in full."""
    return {
        "stride": _pair("stride", stride, minimum=1),
        "padding": _general_pads(padding),
        "dilation": _pair("dilation", dilation, minimum=1),
        "layout": one_of("layout", layout, LAYOUTS),
        "border": one_of("border", border, BORDERS),
        "activation": one_of("activation", activation, ACTIVATIONS),
        "algorithm": one_of("algorithm", algorithm, ALGORITHMS),
    }


def general_filter_shape(name: str, shape: Any) -> Shape:
    """The shape of a filter for each channel, or of one that serves every channel."""
    return _sizes(name, shape, {4: "[kh, kw, channels, multiplier]", 2: "[kh, kw] for every channel"})


def plain(name: str, value: Any, depth: int = 2) -> Any:
    """`value` with Python ints for integers and tuples for sequences, nested at most `depth` deep; None
    passes.

    What comes back is hashable and equal only to what means the same: bools and floats, which compare equal
    to ints, are refused here. So it is fit for the key of a cache.
    """
    kind = type(value)
    if kind is int or value is None:
        return value
    if (kind is tuple or kind is list) and 0 < len(value) <= _FEW:
        for item in value:
            if type(item) is not int:
                break
        else:
            return tuple(value)
    if not _is_sequence(value):
        return integer(
            name, value, expected="an integer" if depth < 2 else "an integer or a sequence of integers"
        )
    if depth == 0:
        raise TypeError(f"{name} must be an integer, got {_shown(value)}")
    if len(value) > _LONGEST:
        raise ValueError(f"{name} must be a short sequence of integers, got {len(value)} entries")
    items = value if isinstance(value, (list, tuple)) else value.tolist()
    return tuple(plain(f"{name}[{i}]", item, depth - 1) for i, item in enumerate(items))


def plain_padding(padding: Any) -> Any:
    """`plain` for padding, which may be a string."""
    if type(padding) is str:
        return padding
    if isinstance(padding, str):
        return str(padding)
    if padding is None or isinstance(padding, (bytes, float)):
        raise TypeError(f"padding must be 'SAME', 'VALID' or integers, got {_shown(padding)}")
    return plain("padding", padding)


def word(name: str, value: Any) -> str | None:
    """`value` when it is a string or None."""
    if type(value) is str or value is None:
        return value
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{name} must be a string, got {_shown(value)}")


def common_dtype(dtypes: Mapping[str, str]) -> str:
    """The one dtype that all arguments have; `dtypes` maps argument names to dtype names."""
    if len(set(dtypes.values())) > 1:
        names, got = _listed(list(dtypes)), _listed(list(dtypes.values()))
        raise ValueError(f"{names} must have the same dtype, got {got}")
    name, dtype = next(iter(dtypes.items()))
    if dtype not in DTYPES:
        raise ValueError(f"{name} must have dtype {_listed(DTYPES, 'or')}, got {dtype}")
    return dtype


def image_dtypes(x_name: str, x: str, filter_name: str, filter: str) -> str:
    """The dtype to compute in, that of the filter (or gradient); an image may also be of integers."""
    if x not in INTEGERS:
        return common_dtype({x_name: x, filter_name: filter})
    if filter not in INTEGER_FILTERS:
        raise ValueError(
            f"{filter_name} must have dtype {_listed(INTEGER_FILTERS, 'or')} where {x_name} has {x}, "
            f"got {filter}"
        )
    return filter


def check_shape(name: str, shape: Sequence[int], expected: Sequence[int]) -> None:
    """Raise unless the argument `name` has exactly the `expected` shape."""
    if tuple(shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(shape)}")


def one_of(name: str, value: Any, choices: Sequence[str | None]) -> Any:
    """`value` when it is one of `choices`, which match exactly."""
    if word(name, value) not in choices:
        raise ValueError(f"{name} must be {_listed([repr(c) for c in choices], 'or')}, got {_shown(value)}")
    return value


def integer(
    name: str,
    value: Any,
    minimum: int | None = None,
    maximum: int = _LARGEST_INT,
    expected: str = "an integer",
) -> int:
    """`value` as an int within bounds: Python's or NumPy's, but no bool and no float."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} must be {expected}, got {_shown(value)}")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {number}")
    return number


def _resolve(
    image: Shape,
    kernel: Shape,
    dtype: str,
    layout: str,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[Pad, Pad],
    names: tuple[str, str],
) -> Spec:
    batched = len(image) == 4
    batch = image[0] if batched else 1
    height, width, channels = _hwc(image[-3:], layout)
    shared = len(kernel) == 2
    kh, kw, filter_channels, multiplier = (*kernel, channels, 1) if shared else kernel
    if filter_channels != channels:
        raise ValueError(
            f"{names[1]} must have as many channels as {names[0]}, {channels}, "
            f"got {filter_channels} in shape {kernel} for {names[0]} of shape {image}"
        )
    spec = Spec(
        batch=batch,
        channels=channels,
        multiplier=multiplier,
        height=_axis("height", height, kh, stride[0], dilation[0], pads[0]),
        width=_axis("width", width, kw, stride[1], dilation[1], pads[1]),
        layout=layout,
        dtype=dtype,
        batched=batched,
        shared_filter=shared,
    )
    for name, shape in ((names[0], image), (names[1], kernel), ("the output", spec.output_shape)):
        _check_addressable(name, shape)
    return spec


def _storage(dtype: str | None) -> int:
    """What the engine knows an image's dtype by: 0 is that of the filter."""
    return 0 if dtype is None else 1 + INTEGERS.index(dtype)


def _check_border(border: str, spec: Spec) -> None:
    """Raise where there is nothing to show outside an image, or more than any array holds."""
    for name, axis in (("height", spec.height), ("width", spec.width)):
        if axis.input == 0 and axis.pad_before + axis.pad_after > 0:
            raise ValueError(
                f"border {border!r} must have pixels to show, got an image of {name} 0 with padding "
                f"({axis.pad_before}, {axis.pad_after})"
            )
    if math.prod(a.pad_before + a.input + a.pad_after for a in (spec.height, spec.width)) > _LARGEST_PADDED:
        raise ValueError(
            f"padding must give an image of at most 2**36 pixels for border {border!r}, got "
            f"{spec.height.pad_before + spec.height.input + spec.height.pad_after} x "
            f"{spec.width.pad_before + spec.width.input + spec.width.pad_after}"
        )


def _axis(name: str, size: int, kernel: int, stride: int, dilation: int, pads: Pad) -> Axis:
    """One axis with its output size, by TensorFlow's formulas."""
    span = (kernel - 1) * dilation + 1
    output = output_size(size, kernel, stride, dilation, pads)
    if isinstance(pads, str):
        total = max((output - 1) * stride + span - size, 0)
        before, after = total // 2, total - total // 2
    else:
        before, after = pads
    if output < 0:
        raise ValueError(
            f"the filter must fit into the padded input: {kernel} taps with dilation {dilation} span {span} "
            f"pixels of {name}, but the input has {size} and the padding adds {before + after}"
        )
    last = output * stride if output > 1 else 0  # a single output makes no step
    if max(size + before + after, kernel, span + dilation if kernel > 1 else 0, last) > _LARGEST:
        raise ValueError(
            f"the {name} is too large to compute: {size} pixels, padding ({before}, {after}), {kernel} taps, "
            f"dilation {dilation} and stride {stride} reach beyond 2**48"
        )
    return Axis(size, output, kernel, stride, dilation, before, after)


def output_size(size: Any, kernel: Any, stride: int, dilation: int, pads: Pad) -> Any:
    """Pixels of the output along one axis; negative where the filter does not fit.

    It is plain arithmetic, so `size` and `kernel` may be the symbolic integers of a tracing framework.
    """
    if isinstance(pads, str):
        return -(-size // stride)
    return _truncated_quotient(size + sum(pads) - ((kernel - 1) * dilation + 1) + stride, stride)


def _truncated_quotient(numerator: Any, denominator: int) -> Any:
    """Division that truncates toward zero, as C does, for a positive denominator."""
    return -(-numerator // denominator) if numerator < 0 else numerator // denominator


def _check_addressable(name: str, shape: Shape) -> None:
    # NumPy leaves zeros out of this product too: (0, 2**60, 2**60) is no array of it.
    elements = math.prod(n for n in shape if n)
    if elements > _LARGEST:
        raise ValueError(f"{name} is too large: shape {shape} has {elements} elements")


def _sizes(name: str, shape: Any, ranks: Mapping[int, str]) -> Shape:
    """A shape with one of the allowed ranks, which map to the meaning of the dimensions."""
    sizes = _integers(name, shape, minimum=0)
    if len(sizes) not in ranks:
        allowed = _listed([f"{rank} dimensions ({meaning})" for rank, meaning in ranks.items()], "or")
        raise ValueError(f"{name} must have {allowed}, got {len(sizes)}: {_shown(sizes)}")
    return sizes


def _integers(name: str, value: Any, minimum: int) -> Shape:
    """A sequence of integers."""
    items = plain(name, value)
    if not isinstance(items, tuple):
        raise TypeError(f"{name} must be a sequence of integers, got {_shown(value)}")
    return tuple(integer(f"{name}[{i}]", item, minimum) for i, item in enumerate(items))


def _per_axis(name: str, value: Any, layout: str, lengths: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of numbers given for these two axes, or for all four in the layout's order."""
    numbers = _integers(name, value, minimum=1)
    if len(numbers) not in lengths:
        allowed = _listed([str(n) for n in lengths], "or")
        raise ValueError(f"{name} must have {allowed} entries, got {len(numbers)}: {_shown(value)}")
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    height, width, channel = _hwc(numbers[1:], layout)
    if numbers[0] != 1 or channel != 1:
        raise ValueError(f"{name} must be 1 at batch and channel of {layout}, got {_shown(value)}")
    return height, width


def _tensorflow_pads(padding: Any, layout: str) -> tuple[Pad, Pad]:
    padding = plain_padding(padding)
    if isinstance(padding, str):
        return _named_pads(padding)
    rows = _pad_rows(padding, 4, "'SAME', 'VALID' or four [before, after] rows")
    top_bottom, left_right, channel = _hwc(rows[1:], layout)
    if any(rows[0]) or any(channel):
        raise ValueError(f"padding must be 0 at batch and channel of {layout}, got {_shown(padding)}")
    return top_bottom, left_right


def _general_pads(padding: Any) -> tuple[Pad, Pad]:
    padding = plain_padding(padding)
    if isinstance(padding, str):
        return _named_pads(padding)
    if isinstance(padding, int):
        padding = (padding, padding)
    if len(padding) == 2 and all(isinstance(item, int) for item in padding):
        padding = tuple((item, item) for item in padding)
    rows = _pad_rows(padding, 2, "'SAME', 'VALID', an int, a pair, or ((top, bottom), (left, right))")
    return rows[0], rows[1]


def _named_pads(padding: str) -> tuple[Pad, Pad]:
    same = one_of("padding", padding, ("SAME", "VALID")) == "SAME"
    return ("SAME", "SAME") if same else ((0, 0), (0, 0))


def _pad_rows(padding: Any, count: int, expected: str) -> list[tuple[int, int]]:
    """`count` rows of [before, after]."""
    if not isinstance(padding, tuple):
        raise TypeError(f"padding must be {expected}, got {_shown(padding)}")
    if len(padding) != count:
        raise ValueError(f"padding must be {expected}, got {len(padding)} entries: {_shown(padding)}")
    rows = []
    for i, row in enumerate(padding):
        numbers = _integers(f"padding[{i}]", row, minimum=0)
        if len(numbers) != 2:
            raise ValueError(f"padding[{i}] must have 2 entries, got {len(numbers)}: {_shown(row)}")
        rows.append((numbers[0], numbers[1]))
    return rows


def _pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    """An integer for both axes, or a (height, width) pair."""
    value = plain(name, value)
    if not isinstance(value, tuple):
        both = integer(name, value, minimum)
        return both, both
    numbers = _integers(name, value, minimum)
    if len(numbers) != 2:
        raise ValueError(f"{name} must be an int or a (height, width) pair, got {len(numbers)} entries")
    return numbers[0], numbers[1]


def _is_sequence(value: Any) -> bool:
    """Whether it is a list, a tuple or an array with dimensions."""
    return isinstance(value, (list, tuple)) or bool(getattr(value, "ndim", 0))


def _hwc(of_axes: Sequence[T], layout: str) -> tuple[T, T, T]:
    """(height, width, channels) of three things in the layout's order."""
    a, b, c = of_axes
    return (a, b, c) if layout == "NHWC" else (b, c, a)


def _listed(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _shown(value: Any) -> str:
    """`value` for an error message, shortened: a caller may have passed a huge array."""
    return f"{type(value).__name__} {reprlib.repr(value)}"
