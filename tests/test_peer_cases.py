"""Cases that others wrote for their own convolutions, where their packages ship them, run on this one."""

import os
from pathlib import Path

import numpy as np
import pytest

import depthwise


def padding_of_onnx(node, x, filter_shape, stride, dilation):
    """The pads of a Conv node as `conv2d` takes them."""
    onnx = pytest.importorskip("onnx")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    auto_pad = attributes.get("auto_pad", b"NOTSET")
    if auto_pad in (b"SAME_UPPER", b"VALID"):
        return {b"SAME_UPPER": "SAME", b"VALID": "VALID"}[auto_pad]
    if auto_pad == b"SAME_LOWER":  # the odd pixel before, not after
        totals = [
            max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(x.shape[2:], filter_shape[2:], stride, dilation, strict=True)
        ]
        return tuple((total - total // 2, total // 2) for total in totals)
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return (top, bottom), (left, right)


def run_onnx_conv(node, x, w, bias=None):
    onnx = pytest.importorskip("onnx")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    stride, dilation = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    channels = x.shape[1]
    filter = np.moveaxis(w.reshape(channels, -1, *w.shape[2:]), (0, 1), (2, 3))
    padding = padding_of_onnx(node, x, w.shape, stride, dilation)
    return depthwise.conv2d(
        x,
        filter,
        stride=tuple(stride),
        dilation=tuple(dilation),
        padding=padding,
        layout="NCHW",
        bias=bias,
    )


def is_depthwise(node, x):
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return node.op_type == "Conv" and x.ndim == 4 and groups == x.shape[1]


def onnx_node_cases():
    """Those of the package's backend tests that are depthwise, by name: (node, inputs, output)."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx.backend.test.case.node import collect_testcases

    found = {}
    for case in collect_testcases("Conv"):
        node = case.model.graph.node[0]
        inputs, outputs = case.data_sets[0]
        if len(case.model.graph.node) == 1 and is_depthwise(node, inputs[0]):
            found[case.name] = node, inputs, outputs[0]
    return found


def onnx_stored_cases():
    """The depthwise ones of the cases that the package holds as files."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    found = {}
    for folder in sorted(
        (Path(onnx.__file__).parent / "backend/test/data").glob("*/test_*[cC]onv2d*depthwise*")
    ):
        model = onnx.load(folder / "model.onnx")
        arrays = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
        names = [i.name for i in model.graph.input if i.name not in arrays]
        data = sorted(folder.glob("test_data_set_0/*.pb"))
        values = {p.stem: onnx.numpy_helper.to_array(onnx.load_tensor(p)) for p in data}
        arrays |= {name: values[f"input_{i}"] for i, name in enumerate(names)}
        node = next(n for n in model.graph.node if n.op_type == "Conv")
        found[folder.name] = node, [arrays[name] for name in node.input], values["output_0"]
    return found


@pytest.mark.parametrize(("collect", "least"), [(onnx_node_cases, 5), (onnx_stored_cases, 3)])
def test_onnx_backend_cases(collect, least):
    cases = collect()
    assert len(cases) >= least
    for name, (node, inputs, expected) in cases.items():
        np.testing.assert_allclose(run_onnx_conv(node, *inputs), expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_of_pytorch(dtype):
    """PyTorch's own samples of `conv2d`, those that are depthwise, with the gradients of PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("expecttest", reason="expecttest, which PyTorch's samples need, is not installed")
    from torch.testing._internal.common_methods_invocations import op_db

    import depthwise.torch

    op = next(info for info in op_db if info.name == "nn.functional.conv2d")
    tolerance = {"rtol": 1e-5, "atol": 5e-5} if dtype == "float32" else {"rtol": None, "atol": None}
    torch.manual_seed(0)
    seen = 0
    for sample in op.sample_inputs("cpu", getattr(torch, dtype), requires_grad=True):
        x, (w, *rest), keywords = sample.input, sample.args, sample.kwargs
        if keywords.get("groups", 1) != x.shape[-3]:
            continue
        leaves = [t for t in (x, w, *rest, *keywords.values()) if isinstance(t, torch.Tensor)]
        expected = torch.nn.functional.conv2d(x, w, *rest, **keywords)
        actual = depthwise.torch.conv2d(x, w, *rest, **keywords)
        torch.testing.assert_close(actual, expected, **tolerance)
        grad = torch.randn_like(expected)
        for ours, theirs in zip(
            torch.autograd.grad(actual, leaves, grad),
            torch.autograd.grad(expected, leaves, grad),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, **tolerance)
        seen += 1
    assert seen >= 3


def test_keras_own_tests(monkeypatch):
    """The tests of `DepthwiseConv2D` that Keras ships, with our layer in the place of theirs."""
    pytest.importorskip(os.environ["KERAS_BACKEND"], reason="no backend of Keras is installed")
    pytest.importorskip("keras", reason="Keras is not installed")
    own = pytest.importorskip(
        "keras.src.layers.convolutional.depthwise_conv_test", reason="Keras was installed without its tests"
    )
    import unittest

    from depthwise.keras import DepthwiseConv2D

    monkeypatch.setattr(own.layers, "DepthwiseConv2D", DepthwiseConv2D)
    suite = unittest.TestSuite(
        case
        for group in (own.DepthwiseConvBasicTest, own.DepthwiseConvCorrectnessTest)
        for case in unittest.defaultTestLoader.loadTestsFromTestCase(group)
        if "2d" in case.id()
    )
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun >= 6
    assert not result.failures + result.errors, (result.failures + result.errors)[0][1]
