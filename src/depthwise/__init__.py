"""Depthwise 2-D convolution: TensorFlow's contract, every layout and dtype, fast on CPUs.

>>> import numpy as np
>>> import depthwise
>>> x = np.ones((1, 4, 4, 8), np.float32)
>>> filter = np.ones((3, 3, 8, 1), np.float32)
>>> depthwise.depthwise_conv2d(x, filter, strides=[1, 1, 1, 1], padding="SAME").shape
(1, 4, 4, 8)
"""

from typing import Any

from . import reference
from ._api import (
    conv2d,
    conv2d_grad_filter,
    conv2d_grad_input,
    depthwise_conv2d,
    depthwise_conv2d_backprop_filter,
    depthwise_conv2d_backprop_input,
    plan,
)
from ._config import get_num_threads, set_num_threads, show_config
from ._conv2d import Conv2D
from ._plan import Plan

__all__ = [
    "Conv2D",
    "Plan",
    "conv2d",
    "conv2d_grad_filter",
    "conv2d_grad_input",
    "depthwise_conv2d",
    "depthwise_conv2d_backprop_filter",
    "depthwise_conv2d_backprop_input",
    "get_num_threads",
    "plan",
    "reference",
    "set_num_threads",
    "show_config",
]


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # on demand: it takes longer to import than the rest

    return version("depthwise")
