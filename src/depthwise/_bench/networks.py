"""Three published networks with depthwise layers, defined in PyTorch with random weights.

Widths, depths and kernels are those of the papers: MobileNetV2 (Sandler et al. 2018), EfficientNet-B0 (Tan
and Le 2019) and ConvNeXt-T (Liu et al. 2022). Stochastic depth and dropout are left out: two runs agree.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, activation: type[nn.Module] | None
) -> nn.Sequential:
    """A convolution without bias, its normalisation, and perhaps an activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    tail = [] if activation is None else [activation()]
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *tail)


class SqueezeExcitation(nn.Module):
    """Channels weighed by what the whole image says about them."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(nn.functional.silu(self.reduce(mean))))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; MobileNetV2's block and EfficientNet's."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        activation: type[nn.Module],
        squeeze: bool,
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.is_residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *([conv_norm(inputs, hidden, 1, 1, 1, activation)] if expansion > 1 else []),
            conv_norm(hidden, hidden, kernel, stride, hidden, activation),
            *([SqueezeExcitation(hidden, max(1, inputs // 4))] if squeeze else []),
            conv_norm(hidden, outputs, 1, 1, 1, None),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.is_residual else y


class ConvNeXtBlock(nn.Module):
    """A 7x7 depthwise convolution, and a perceptron at every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.perceptron(y)).permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _inverted(
    stem: int,
    rows: list[tuple[int, int, int, int, int]],
    activation: type[nn.Module],
    squeeze: bool,
) -> nn.Sequential:
    """A network of inverted residuals; a row is (expansion, channels, depth, stride, kernel)."""
    layers: list[nn.Module] = [conv_norm(3, stem, 3, 2, 1, activation)]
    channels = stem
    for expansion, outputs, depth, stride, kernel in rows:
        for i in range(depth):
            step = stride if i == 0 else 1
            layers.append(InvertedResidual(channels, outputs, kernel, step, expansion, activation, squeeze))
            channels = outputs
    layers += [conv_norm(channels, 1280, 1, 1, 1, activation), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2, width 1.0."""
    rows = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    ]
    return _inverted(32, rows, nn.ReLU6, False)


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0."""
    rows = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    return _inverted(32, rows, nn.SiLU, True)


def convnext_t() -> nn.Module:
    """ConvNeXt-T."""
    layers: list[nn.Module] = []
    before = 3
    for channels, depth in ((96, 3), (192, 3), (384, 9), (768, 3)):
        size = 4 if before == 3 else 2
        norms: list[nn.Module] = [] if before == 3 else [ChannelNorm(before, eps=1e-6)]
        layers += [*norms, nn.Conv2d(before, channels, size, size)]
        layers += [ChannelNorm(channels, eps=1e-6)] if before == 3 else []
        layers += [ConvNeXtBlock(channels) for _ in range(depth)]
        before = channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(768, eps=1e-6), nn.Linear(768, 1000)]
    return nn.Sequential(*layers, *head)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV2": mobilenet_v2,
    "EfficientNet-B0": efficientnet_b0,
    "ConvNeXt-T": convnext_t,
}
