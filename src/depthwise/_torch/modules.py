"""What takes the place of a model's layers: the same modules, of a class that computes differently."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import operators
from .arrays import check_tensor
from .functional import filter_of, geometry

#: The activations that the engine applies before it stores a result.
ACTIVATIONS: dict[type, str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hard_swish",
}


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
        members = (self.convolution, self.norm, self.activation)
        return not any(member is not None and member.training for member in members)

    @property
    def activation_name(self) -> str | None:
        return None if self.activation is None else ACTIVATIONS[ORIGINALS[type(self.activation)]]

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """The filter and the bias with the normalisation folded into them."""
        sources = self._sources()
        if torch.compiler.is_compiling() or operators.needs_grad(sources):
            return self._folded()
        if any(source is not None and source.is_inference() for source in sources):
            return self._folded()
        versions = [None if source is None else (source.data_ptr(), source._version) for source in sources]
        if self._cached is None or self._cached[0] != versions:
            with torch.no_grad():
                filter, bias = self._folded()
                self._cached = versions, filter.contiguous(), bias
        return self._cached[1], self._cached[2]

    def _sources(self) -> tuple[Tensor | None, ...]:
        convolution, norm = self.convolution, self.norm
        if norm is None:
            return convolution.weight, convolution.bias
        # An update of the running statistics counts as a version of the number of updates alone.
        statistics = norm.running_mean, norm.running_var, norm.num_batches_tracked
        return convolution.weight, convolution.bias, norm.weight, norm.bias, *statistics

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
        return filter_of(weight, self.convolution.in_channels), bias

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}


# PyTorch's names of what lies outside the image, and the engine's.
_BORDERS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `torch.nn.Conv2d` that runs on the engine; `accelerate` makes it from a given one."""

    _fusion: Fusion | None = None

    def forward(self, input: Tensor) -> Tensor:
        check_tensor("input", input)
        fusion = self._fusion
        if fusion is not None and fusion.is_active:
            (filter, bias), activation = fusion.operands(), fusion.activation_name
        else:
            filter, bias, activation = filter_of(self.weight, self.in_channels), self.bias, None
        image = input if input.ndim == 4 else input.unsqueeze(0)
        strides, pads, dilations = geometry(self.stride, self.padding, self.dilation)
        border = _BORDERS[self.padding_mode]
        if border != "constant":
            left, right, top, bottom = self._reversed_padding_repeated_twice
            pads = top, bottom, left, right
        rest = strides, pads, dilations, border, "auto", 0
        result = operators.forward(image, filter, bias, activation, *rest)
        return result if input.ndim == 4 else result.squeeze(0)


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
ORIGINALS: dict[type, type] = {replacement: original for original, replacement in REPLACEMENTS.items()}


def replace(module: nn.Module, fusion: Fusion | None) -> None:
    """Give a module its replacement's class; parameters, hooks and references to it stay."""
    module.__class__ = REPLACEMENTS[type(module)]
    if fusion is not None:
        module._fusion = fusion


def put_back(module: nn.Module) -> bool:
    """Undo `replace`; tell whether there was anything to undo."""
    original = ORIGINALS.get(type(module))
    if original is None:
        return False
    module.__class__ = original
    module.__dict__.pop("_fusion", None)
    return True
