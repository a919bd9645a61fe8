"""Depthwise convolution in Keras 3, on its TensorFlow, JAX and PyTorch backends.

`DepthwiseConv2D` is `keras.layers.DepthwiseConv2D` with this package's engine in it; `accelerate` puts it
into a model that exists.

>>> import keras
>>> import depthwise.keras
>>> layer = depthwise.keras.DepthwiseConv2D(3, padding="same", activation="relu6")
>>> layer(keras.ops.ones((1, 8, 8, 4))).shape == (1, 8, 8, 4)
True
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

from ._api import conv2d
from ._dispatch import leave_as_is

__all__ = ["Acceleration", "DepthwiseConv2D", "accelerate"]

_LAYOUTS = {"channels_last": "NHWC", "channels_first": "NCHW"}
# What the engine applies before it stores a result; other activations follow it.
_ACTIVATIONS = {
    keras.activations.linear: None,
    keras.activations.relu: "relu",
    keras.activations.relu6: "relu6",
    keras.activations.silu: "silu",
    keras.activations.hard_silu: "hard_swish",
}


class Acceleration(NamedTuple):
    """What `accelerate` did: the names of the layers that it replaced, and why it left others alone."""

    replaced: list[str]
    left: dict[str, str]


class _Native:
    """The `call` of a depthwise layer, for a subclass of the Keras layer; it adds no state of its own."""

    @property
    def supports_jit(self) -> bool:
        """Whether XLA can compile the layer. TensorFlow's XLA cannot call Python, as the adapter does."""
        return bool(keras.backend.backend() != "tensorflow")

    @supports_jit.setter
    def supports_jit(self, value: bool) -> None:
        """Keras sets it on every layer; here it follows from the backend."""

    @leave_as_is
    def call(self: Any, inputs: Any) -> Any:
        """The convolution with the bias and the activation."""
        fused = self.activation in _ACTIVATIONS
        outputs = conv2d(
            inputs,
            self._depthwise_kernel(),
            stride=self.strides,
            padding=self.padding.upper(),
            dilation=self.dilation_rate,
            layout=_LAYOUTS[self.data_format],
            bias=keras.ops.convert_to_tensor(self.bias) if self.use_bias else None,
            activation=_ACTIVATIONS[self.activation] if fused else None,
        )
        return outputs if fused else self.activation(outputs)


@keras.saving.register_keras_serializable(package="depthwise")
class DepthwiseConv2D(_Native, keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """`keras.layers.DepthwiseConv2D`, computed by this package: same arguments, weights, configuration.

    A stride and a dilation that both exceed 1 are computed too. A model that holds the layer loads wherever
    `depthwise.keras` has been imported.

    Examples
    --------
    >>> layer = DepthwiseConv2D((3, 5), strides=2, depth_multiplier=2, padding="valid")
    >>> layer(keras.ops.ones((1, 9, 9, 4))).shape == (1, 4, 3, 8)
    True
    """

    def _depthwise_kernel(self) -> Any:
        return keras.ops.convert_to_tensor(self.kernel)


@keras.saving.register_keras_serializable(package="depthwise")
class Conv2D(_Native, keras.layers.Conv2D):  # type: ignore[misc]
    """A `keras.layers.Conv2D` with a group for each input channel, which is a depthwise convolution.

    Made by `accelerate` only. Its name is Keras' own, since weights are stored under the class's name.
    """

    def _depthwise_kernel(self) -> Any:
        # Its kernel [kh, kw, 1, C*M] has the elements of [kh, kw, C, M] in the same order.
        kernel = keras.ops.convert_to_tensor(self.kernel)
        return keras.ops.reshape(kernel, (*self.kernel_size, self.groups, self.filters // self.groups))


def accelerate(model: keras.Model) -> Acceleration:
    """Let this package compute the depthwise layers of `model`, which is changed in place.

    Replaced are `keras.layers.DepthwiseConv2D`, and `keras.layers.Conv2D` with a group for each input
    channel, at any depth. Each layer stays the object that it was, with its name, its weights and its place
    in the model; only its class changes, to a subclass. So optimizers and references to it remain valid.

    Parameters
    ----------
    model : keras.Model
        A built model. If it is compiled, it stays so; its functions are traced anew when next called.

    Returns
    -------
    Acceleration
        Which layers were replaced, and which depthwise layers were left and why.

    Raises
    ------
    TypeError
        If `model` is no Keras model.
    ValueError
        If it has not been built.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.DepthwiseConv2D(3, name="blur")])
    >>> accelerate(model)
    Acceleration(replaced=['blur'], left={})
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"model must be a keras.Model, got {type(model).__module__}.{type(model).__qualname__}"
        )
    if not model.built:
        raise ValueError("model must be built: call it on an input, or model.build, first")
    done = Acceleration([], {})
    layers = list(model._flatten_layers())
    for layer in layers:
        reason = _reason_to_leave(layer)
        if reason:
            done.left[layer.name] = reason
        elif reason is None:
            layer.__class__ = DepthwiseConv2D if _is_depthwise_layer(layer) else Conv2D
            done.replaced.append(layer.name)
    for part in layers:
        if isinstance(part, keras.Model):
            _forget_traces(part)
    return done


def _is_depthwise_layer(layer: Any) -> bool:
    return isinstance(layer, keras.layers.DepthwiseConv2D)


def _reason_to_leave(layer: Any) -> str | None:
    """Why a depthwise layer cannot be replaced; "" for a layer that is none, None for one that can."""
    grouped = isinstance(layer, keras.layers.Conv2D) and layer.groups > 1
    if isinstance(layer, _Native) or not (_is_depthwise_layer(layer) or grouped):
        return ""
    if not layer.built:
        return "it has not been built"
    if grouped and layer.kernel.shape[2] != 1:
        return ""
    if type(layer) not in (keras.layers.DepthwiseConv2D, keras.layers.Conv2D):
        return f"it is a subclass, {type(layer).__qualname__}, which may compute something else"
    if getattr(layer, "lora_enabled", False):
        return "its kernel is adapted by LoRA"
    return None


def _forget_traces(model: Any) -> None:
    """Let the compiled functions be traced again, without XLA where the layers cannot be compiled by it."""
    for name in ("train_function", "test_function", "predict_function"):
        setattr(model, name, None)
    if getattr(model, "jit_compile", False) and keras.backend.backend() == "tensorflow":
        model.jit_compile = False
