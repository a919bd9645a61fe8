"""What takes the place of a model's layers: the same modules, of a class that computes differently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import operators
from .arrays import check_tensor
from .functional import filter_of, geometry
from .prepared import Packed, Prepared

#: The activations that the engine applies before it stores a result.
ACTIVATIONS: dict[type, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hard_swish",
}


def _parameter(module: nn.Module, name: str) -> Tensor | None:
    """The module's attribute; looked up where it usually is, since a module's own look-up takes longer."""
    parameter = module._parameters.get(name)
    found: Tensor | None = getattr(module, name) if parameter is None else parameter
    return found


@dataclass
class Fusion:
    """A convolution with what follows it, done in one pass while all of it is in eval mode.

    It is shared by the modules that it joins, and is no module itself, so it adds nothing to a `state_dict`.
    """

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d | None
    activation: nn.Module | None
    _cached: tuple[Any, ...] | None = field(default=None, repr=False)

    @property
    def is_active(self) -> bool:
        """Whether the convolution does the others' work, too."""
        norm, activation = self.norm, self.activation
        return not (
            self.convolution.training
            or (norm is not None and norm.training)
            or (activation is not None and activation.training)
        )

    @property
    def activation_name(self) -> str | None:
        return None if self.activation is None else ACTIVATIONS[ORIGINALS[type(self.activation)]]

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias with the normalisation folded into them.

        They are kept as long as nothing that they come from has changed; then they are the same objects.
        """
        sources = self._sources()
        if torch.compiler.is_compiling() or operators.needs_grad(sources):
            return self._folded()
        try:
            versions = [None if one is None else (one.data_ptr(), one._version) for one in sources]
        except RuntimeError:  # tensors made in inference mode have no version
            return self._folded()
        if self._cached is None or self._cached[0] != versions:
            with torch.inference_mode(False), torch.no_grad():
                self._cached = versions, *self._folded()
        return self._cached[1], self._cached[2]

    def _sources(self) -> tuple[Tensor | None, ...]:
        convolution, norm = self.convolution, self.norm
        of_convolution = _parameter(convolution, "weight"), _parameter(convolution, "bias")
        if norm is None:
            return of_convolution
        # An update of the running statistics counts as a version of the number of updates alone.
        buffers = norm._buffers
        statistics = buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"]
        return *of_convolution, _parameter(norm, "weight"), _parameter(norm, "bias"), *statistics

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        weight, bias, norm = self.convolution.weight, self.convolution.bias, self.norm
        if norm is not None:
            assert norm.running_mean is not None and norm.running_var is not None
            scale = torch.rsqrt(norm.running_var + norm.eps)
            if norm.weight is not None:
                scale = scale * norm.weight
            bias = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
            if norm.bias is not None:
                bias = bias + norm.bias
            weight, bias = weight * scale.to(weight.dtype)[:, None, None, None], bias.to(weight.dtype)
        return weight, bias

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}


# PyTorch's names of what lies outside the image, and the engine's.
_BORDERS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `torch.nn.Conv2d` that runs on the engine; `accelerate` makes it from a given one."""

    _fusion: Fusion | None = None
    _packed: Packed | None = None

    def forward(self, input: Tensor) -> Tensor:
        fusion = self._fusion
        if fusion is not None and fusion.is_active:
            (weight, bias), activation = fusion.operands(), fusion.activation_name
        else:
            weight, bias, activation = _parameter(self, "weight"), _parameter(self, "bias"), None
            assert weight is not None
        if not torch.compiler.is_compiling() and not torch.is_grad_enabled():
            result = self._run_prepared(input, weight, bias, activation)
            if result is not None:
                return result
        check_tensor("input", input)
        image = input if input.ndim == 4 else input.unsqueeze(0)
        filter, rest = filter_of(weight, self.in_channels), self._geometry()
        result = operators.forward(image, filter, bias, activation, *rest, 0)
        return result if input.ndim == 4 else result.squeeze(0)

    def _run_prepared(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None
    ) -> Tensor | None:
        """The result if nothing watches the call and it can be run on what was kept, else None."""
        if not operators.is_plain_call((input, weight, bias)):
            return None
        packed, fusion = self._packed, self._fusion
        settings = activation, self.stride, self.padding, self.dilation, self.padding_mode, self.in_channels
        if packed is None or packed.settings != settings or not packed.fits(weight):
            if not Packed.is_possible(weight):
                return None
            filter = filter_of(weight.detach(), self.in_channels).contiguous()
            is_constant = fusion is not None and fusion.norm is not None and fusion.is_active
            packed = Packed(weight, Prepared(filter, activation, self._geometry()), settings, is_constant)
            self._packed = packed
        return packed.prepared(input, bias)

    def _geometry(self) -> tuple[Any, ...]:
        """What the operators take after the activation, but for the number of threads."""
        strides, pads, dilations = geometry(self.stride, self.padding, self.dilation)
        border = _BORDERS[self.padding_mode]
        if border != "constant":
            left, right, top, bottom = self._reversed_padding_repeated_twice
            pads = top, bottom, left, right
        return strides, pads, dilations, border, "auto"


# What is applied to the fresh result of another convolution, in place where nothing needs it as it was.
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": nn.functional.relu,
    "relu6": nn.functional.relu6,
    "silu": nn.functional.silu,
    "hard_swish": nn.functional.hardswish,
}


class FoldedConv2d(nn.Conv2d):
    """Any other `torch.nn.Conv2d`, PyTorch's own, with the normalisation after it folded into its weight."""

    _fusion: Fusion | None = None

    def forward(self, input: Tensor) -> Tensor:
        fusion = self._fusion
        if fusion is None or not fusion.is_active:
            return super().forward(input)
        result, activation = self._conv_forward(input, *fusion.operands()), fusion.activation_name
        if activation is None:
            return result
        return _FUNCTIONS[activation](result, inplace=not torch.is_grad_enabled())


class _Joined:
    """A module whose work the convolution before it does while their fusion is active."""

    _fusion: Fusion | None = None

    def forward(self, input: Tensor) -> Tensor:
        fusion = self._fusion
        if fusion is not None and fusion.is_active:
            return input
        return super().forward(input)  # type: ignore[misc]


def _joined(kind: type) -> type:
    name = f"Joined{kind.__name__}"
    return type(
        name, (_Joined, kind), {"__module__": __name__, "__qualname__": name, "__doc__": kind.__doc__}
    )


JoinedBatchNorm2d = _joined(nn.BatchNorm2d)
JoinedReLU = _joined(nn.ReLU)
JoinedReLU6 = _joined(nn.ReLU6)
JoinedSiLU = _joined(nn.SiLU)
JoinedHardswish = _joined(nn.Hardswish)

#: Each class of a model's modules, and the one that takes its place.
REPLACEMENTS: dict[type, type] = {
    nn.Conv2d: DepthwiseConv2d,
    nn.BatchNorm2d: JoinedBatchNorm2d,
    nn.ReLU: JoinedReLU,
    nn.ReLU6: JoinedReLU6,
    nn.SiLU: JoinedSiLU,
    nn.Hardswish: JoinedHardswish,
}
ORIGINALS: dict[type, type] = {
    **{replacement: original for original, replacement in REPLACEMENTS.items()},
    FoldedConv2d: nn.Conv2d,
}


def replace(module: nn.Module, fusion: Fusion | None, kind: type | None = None) -> None:
    """Give a module its replacement's class, or `kind`; parameters, hooks and references to it stay."""
    module.__class__ = REPLACEMENTS[type(module)] if kind is None else kind
    if fusion is not None:
        module._fusion = fusion


def put_back(module: nn.Module) -> bool:
    """Undo `replace`; tell whether there was anything to undo."""
    original = ORIGINALS.get(type(module))
    if original is None:
        return False
    module.__class__ = original
    for name in ("_fusion", "_packed"):
        module.__dict__.pop(name, None)
    return True
