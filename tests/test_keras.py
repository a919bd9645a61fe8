"""Keras 3 on one of its backends: KERAS_BACKEND, or the first that is installed (see conftest.py)."""

import os

import numpy as np
import pytest
from helpers import random_array

pytest.importorskip(os.environ["KERAS_BACKEND"], reason="no backend of Keras is installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")

import depthwise  # noqa: E402
import depthwise.keras  # noqa: E402
from depthwise._dispatch import ADAPTERS  # noqa: E402

BACKEND = keras.backend.backend()
if BACKEND not in ADAPTERS:
    pytest.skip(f"this version has no adapter for {BACKEND}", allow_module_level=True)
pytestmark = [pytest.mark.usefixtures("jax_with_float64")] if BACKEND == "jax" else []
FORMATS = ["channels_last"] if BACKEND == "tensorflow" else ["channels_last", "channels_first"]


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def assert_close(actual, expected, rtol=1e-4):
    """Equal to `rtol` of the largest element, of which there is one."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max()
    assert largest > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * largest)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 5), "strides": 2, "padding": "same"},
        {"kernel_size": 3, "dilation_rate": 2, "depth_multiplier": 3, "use_bias": False},
        {"kernel_size": 3, "activation": "relu6", "padding": "same", "depth_multiplier": 2},
        {"kernel_size": 3, "activation": "silu"},
        {"kernel_size": 3, "activation": "hard_silu"},
        {"kernel_size": 3, "activation": "tanh"},
    ],
)
def test_layer_is_that_of_keras(rng, arguments, data_format):
    ours = depthwise.keras.DepthwiseConv2D(**arguments, data_format=data_format, bias_initializer="normal")
    theirs = keras.layers.DepthwiseConv2D(**arguments, data_format=data_format)
    x = random_array(rng, (2, 9, 10, 4) if data_format == "channels_last" else (2, 4, 9, 10), "float32")
    y = ours(x)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    assert_close(numpy(y), numpy(theirs(x)), 1e-5)
    assert [w.path.split("/")[1:] for w in ours.weights] == [w.path.split("/")[1:] for w in theirs.weights]
    config = theirs.get_config()
    assert {**ours.get_config(), "name": None, "bias_initializer": None} == {
        **config, "name": None, "bias_initializer": None
    }  # fmt: skip
    assert ours.compute_output_shape(x.shape) == tuple(y.shape)


def test_layer_has_numpys_bits(rng):
    layer = depthwise.keras.DepthwiseConv2D(3, strides=2, activation="relu", bias_initializer="normal")
    x = random_array(rng, (2, 9, 10, 4), "float32")
    y = numpy(layer(x))
    filter, bias = layer.get_weights()
    expected = depthwise.conv2d(x, filter, bias=bias, activation="relu", stride=2, padding="VALID")
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16", "float64"])
def test_other_precisions(rng, policy):
    layer = depthwise.keras.DepthwiseConv2D(3, dtype=policy)
    x = random_array(rng, (1, 6, 6, 4), "float64")
    y = layer(keras.ops.convert_to_tensor(x, layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    filter = numpy(keras.ops.cast(layer.kernel, "float32"))
    expected = depthwise.conv2d(x.astype(np.float32), filter, padding="VALID")
    assert_close(numpy(keras.ops.cast(y, "float32")), expected, 2e-2)


def test_stride_with_dilation(rng):
    layer = depthwise.keras.DepthwiseConv2D(3, strides=2, dilation_rate=2, use_bias=False)
    x = random_array(rng, (1, 9, 9, 4), "float32")
    y = layer(x)
    np.testing.assert_array_equal(
        numpy(y), depthwise.conv2d(x, layer.get_weights()[0], stride=2, dilation=2, padding="VALID")
    )


def small_model():
    """A model with depthwise layers at its top, in a nested model, and as a grouped convolution."""
    block = keras.Sequential(
        [
            keras.layers.DepthwiseConv2D(3, padding="same", name="nested"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(8, 1, activation="relu"),
        ],
        name="block",
    )
    inputs = keras.Input((12, 12, 4))
    y = keras.layers.DepthwiseConv2D(5, strides=2, depth_multiplier=2, activation="relu", name="first")(
        inputs
    )
    y = block(y)
    y = keras.layers.Conv2D(16, 3, groups=8, padding="same", name="grouped")(y)
    y = keras.layers.Conv2D(8, 3, groups=4, name="not_depthwise")(y)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(y)))


def test_accelerate_replaces_every_depthwise_layer(rng):
    model, x = small_model(), random_array(rng, (2, 12, 12, 4), "float32")
    before, weights = numpy(model(x)), model.get_weights()
    layer = model.get_layer("first")
    done = depthwise.keras.accelerate(model)
    assert sorted(done.replaced) == ["first", "grouped", "nested"]
    assert done.left == {}
    assert model.get_layer("first") is layer
    assert isinstance(layer, depthwise.keras.DepthwiseConv2D)
    assert_close(numpy(model(x)), before)
    for new, old in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(new, old)
    assert depthwise.keras.accelerate(model) == depthwise.keras.Acceleration([], {})


def test_accelerate_runs_this_packages_code(rng, monkeypatch):
    model, x = small_model(), random_array(rng, (2, 12, 12, 4), "float32")
    model(x)
    depthwise.keras.accelerate(model)
    calls, conv2d = [], depthwise.keras.conv2d
    monkeypatch.setattr(depthwise.keras, "conv2d", lambda *a, **k: calls.append(k) or conv2d(*a, **k))
    model(x)
    assert len(calls) == 3


def test_accelerate_leaves_subclasses_and_tells(rng):
    class Scaled(keras.layers.DepthwiseConv2D):
        def call(self, inputs):
            return 2 * super().call(inputs)

    model = keras.Sequential([keras.Input((8, 8, 4)), Scaled(3, name="scaled")])
    done = depthwise.keras.accelerate(model)
    assert done.replaced == []
    assert "subclass" in done.left["scaled"]


def test_accelerate_refuses_what_is_no_built_model():
    with pytest.raises(TypeError, match=r"model must be a keras.Model"):
        depthwise.keras.accelerate(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="model must be built"):
        depthwise.keras.accelerate(keras.Sequential([keras.layers.DepthwiseConv2D(3)]))


def trained(accelerated, steps=20):
    """The losses of a training run from one seed."""
    keras.utils.set_random_seed(7)
    model = small_model()
    rng = np.random.default_rng(7)
    x, y = random_array(rng, (32, 12, 12, 4), "float32"), rng.integers(0, 3, 32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss)
    if accelerated:
        assert depthwise.keras.accelerate(model).replaced
    return [model.train_on_batch(x, y) for _ in range(steps)]


def test_training_follows_the_same_losses():
    theirs = trained(False)
    assert theirs[-1] < theirs[0]
    np.testing.assert_allclose(trained(True), theirs, rtol=1e-3)


def test_a_compiled_and_traced_model_changes(rng):
    model, x = small_model(), random_array(rng, (4, 12, 12, 4), "float32")
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    before = model.predict(x, verbose=0)
    depthwise.keras.accelerate(model)
    assert_close(model.predict(x, verbose=0), before)
    model.fit(x, np.zeros((4, 3)), batch_size=2, verbose=0)


@pytest.mark.parametrize("suffix", ["keras", "weights.h5"])
def test_models_are_saved_and_loaded(rng, tmp_path, suffix):
    model, x = small_model(), random_array(rng, (2, 12, 12, 4), "float32")
    before = numpy(model(x))
    path = tmp_path / f"model.{suffix}"
    if suffix == "keras":
        depthwise.keras.accelerate(model)
        model.save(path)
        loaded = keras.saving.load_model(path)
        assert isinstance(loaded.get_layer("first"), depthwise.keras.DepthwiseConv2D)
    else:  # weights of Keras' own layers fit those that replace them
        model.save_weights(path)
        loaded = small_model()
        depthwise.keras.accelerate(loaded)
        loaded.load_weights(path)
    assert_close(numpy(loaded(x)), before)


def test_a_layer_is_rebuilt_from_its_configuration():
    layer = depthwise.keras.DepthwiseConv2D(
        (3, 5), strides=2, depth_multiplier=2, activation="relu", name="blur"
    )
    restored = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(restored) is depthwise.keras.DepthwiseConv2D
    assert restored.get_config() == layer.get_config()


@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "ConvNeXtTiny"])
def test_real_models(rng, name):
    keras.utils.set_random_seed(3)
    arguments = {"weights": None, "input_shape": (64, 64, 3), "classes": 10, "classifier_activation": None}
    model = getattr(keras.applications, name)(**arguments)
    for variable in model.weights:  # statistics of a trained network: nothing vanishes on the way
        if variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    x = random_array(rng, (2, 64, 64, 3), "float32")
    if name == "EfficientNetB0":
        x = 128 + 60 * x
    before = numpy(model(x))
    done = depthwise.keras.accelerate(model)
    assert len(done.replaced) == {"MobileNetV2": 17, "EfficientNetB0": 16, "ConvNeXtTiny": 18}[name]
    assert_close(numpy(model(x)), before)
