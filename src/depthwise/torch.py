"""Depthwise convolution for PyTorch.

The functions of `depthwise` take tensors. This module adds what PyTorch users know: `conv2d` with the
signature of `torch.nn.functional.conv2d`, and `accelerate`, which makes the depthwise layers of a model run
on the engine. The operators are `torch.ops.depthwise.conv2d`, `conv2d_grad_input` and `conv2d_grad_filter`.
"""

from ._torch.accelerate import Entry, Report, accelerate, restore
from ._torch.functional import conv2d

__all__ = ["Entry", "Report", "accelerate", "conv2d", "restore"]
