"""Whole models in PyTorch: `accelerate` changes neither outputs nor training, and can be undone."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import depthwise.torch as dt  # noqa: E402
from depthwise import _native  # noqa: E402
from depthwise._bench.networks import NETWORKS, conv_norm  # noqa: E402

DEPTHWISE_LAYERS = {"MobileNetV2": 17, "EfficientNet-B0": 16, "ConvNeXt-T": 18}
BOTH_FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20240607)


def settle(model):
    """Give the normalisations statistics that differ from their initial ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def assert_close(actual, expected, tolerance=1e-4, scale=0.0):
    """Within `tolerance` of the largest value expected, or of `scale` where that is larger."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * max(float(expected.abs().max()), scale)


def block(activation=nn.ReLU6, **keywords):
    """A depthwise layer in the middle of two others."""
    return settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(6, 12, 3, padding=1, groups=6, **keywords),
            nn.BatchNorm2d(12),
            activation(),
            nn.Conv2d(12, 4, 1),
        )
    )


# ---- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory_format", BOTH_FORMATS)
@pytest.mark.parametrize("fuse", [False, True])
def test_outputs_stay(name, memory_format, fuse):
    model = settle(NETWORKS[name]()).eval().to(memory_format=memory_format)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=memory_format)
    with torch.no_grad():
        expected = model(x)
        report = dt.accelerate(model, fuse=fuse)
        assert len(report.replaced) == DEPTHWISE_LAYERS[name]
        assert all(len(e.fused) == 2 for e in report.replaced) == (fuse and name != "ConvNeXt-T")
        assert_close(model(x), expected)
    with torch.inference_mode():
        assert_close(model(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_gradients_stay(name, fuse, train):
    model = settle(NETWORKS[name]()).double().train(train)
    accelerated = copy.deepcopy(model)
    dt.accelerate(accelerated, fuse=fuse)
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)  # normalising fewer values amplifies rounding errors
    images = [x.clone().requires_grad_() for _ in range(2)]
    for one, image in zip((model, accelerated), images, strict=True):
        one(image).pow(2).mean().backward()
    assert_close(images[1].grad, images[0].grad, 1e-9)
    expected = dict(model.named_parameters())
    # Gradients that vanish in theory, as before a normalisation, are rounding noise of the others.
    noise = 1e-4 * max(float(parameter.grad.abs().max()) for parameter in expected.values())
    for parameter_name, parameter in accelerated.named_parameters():
        assert_close(parameter.grad, expected[parameter_name].grad, scale=noise)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_follows_the_same_losses(name):
    def losses(change):
        torch.manual_seed(1)
        model = NETWORKS[name]().double()
        change(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=3e-4, momentum=0.9)
        images, labels = torch.randn(8, 3, 64, 64, dtype=torch.float64), torch.arange(8)
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            yield loss.item()

    ours = list(losses(lambda model: dt.accelerate(model, fuse=True)))
    theirs = list(losses(lambda model: None))
    # In float64: steps of float32 drift apart by a percent, PyTorch's own in two memory formats, too.
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours[-1] < 0.9 * ours[0]


# ---- state -------------------------------------------------------------------------------------------------


def test_state_dict_round_trips():
    plain, other = block(), block()
    keys = list(plain.state_dict())
    parameters = [id(p) for p in plain.parameters()]
    dt.accelerate(plain, fuse=True)
    assert list(plain.state_dict()) == keys
    assert [id(p) for p in plain.parameters()] == parameters
    x = torch.randn(1, 3, 8, 8)
    plain.eval(), other.eval()
    plain(x)  # folds its weights
    plain.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert_close(plain(x), other(x))
    other.load_state_dict(plain.state_dict())
    stream = io.BytesIO()
    torch.save(plain, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded(x), plain(x))
        assert torch.equal(copy.deepcopy(plain)(x), plain(x))


def test_folded_weights_follow_every_change():
    model, x = block().eval(), torch.randn(1, 3, 8, 8)
    dt.accelerate(model, fuse=True)
    plain = copy.deepcopy(model)
    dt.restore(plain)
    changes = (
        lambda m: m[1].weight.mul_(2),
        lambda m: m[1].bias.add_(1),
        lambda m: m[2].running_var.mul_(3),
        lambda m: m[2].weight.neg_(),
        lambda m: m.train()(x) is m.eval(),
        lambda m: setattr(m[1], "weight", nn.Parameter(torch.ones(12, 1, 3, 3))),
    )
    with torch.no_grad():
        model(x)
        for change in changes:
            for one in (model, plain):
                change(one)
            assert_close(model(x), plain(x))
        assert_close(model.double()(x.double()), plain.double()(x.double()))


@pytest.mark.parametrize("memory_format", BOTH_FORMATS)
@pytest.mark.parametrize("bias", [False, True])
def test_kept_filters_follow_every_change(memory_format, bias):
    """Writing through `.data` does not change a tensor's version; the bytes tell."""
    plain = nn.Conv2d(4, 8, 3, 2, 1, groups=4, bias=bias).eval()
    model = copy.deepcopy(plain).to(memory_format=memory_format)
    dt.accelerate(model)
    x = torch.randn(2, 4, 9, 8).contiguous(memory_format=memory_format)
    with torch.no_grad():
        for change in (
            lambda m: None,
            lambda m: m.weight.data.mul_(2),
            lambda m: m.weight.mul_(-1),
            lambda m: setattr(m, "stride", (1, 2)),
            lambda m: setattr(m, "weight", nn.Parameter(torch.ones_like(m.weight))),
            lambda m: m.double(),
        ):
            change(plain), change(model)
            x = x.to(plain.weight.dtype)
            for _ in range(2):
                y = model(x)
                assert_close(y, plain(x))
                assert y.is_contiguous(memory_format=memory_format)
        for odd in (
            x[:, :, 1:, ::2],
            x.expand(3, 2, 4, 9, 8)[1],
            torch.zeros(2, 4, 9, 8, dtype=x.dtype),
            x[0],
        ):
            assert_close(model(odd), plain(odd))
        negated = torch.complex(x, -x).conj().imag
        assert negated.is_neg()
        assert_close(copy.deepcopy(model)(negated), plain(x))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish])
def test_other_convolutions_do_the_work_of_what_follows(activation):
    model = settle(
        nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), activation(), nn.Conv2d(6, 2, 1))
    ).double()
    model.eval()
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    expected = model(x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    report = dt.accelerate(model, fuse=True)
    assert [entry.fused for entry in report.left] == [("1", "2"), ()]
    assert "0  left: not depthwise, 1 group for 3 input channels; PyTorch computes it, with 1, 2" in str(
        report
    )
    with torch.no_grad():
        assert_close(model(x), expected, 1e-12)
    assert_close(model(x), expected, 1e-12)
    (grad,) = torch.autograd.grad(model(x).sum(), x)
    assert_close(grad, expected_grad, 1e-12)
    model.train()(x)
    assert model[1].num_batches_tracked == 1
    dt.restore(model)
    assert [type(m) for m in model] == [nn.Conv2d, nn.BatchNorm2d, activation, nn.Conv2d]


def test_restore_undoes_everything():
    model, x = block().eval(), torch.randn(1, 3, 8, 8)
    expected, types = model(x), [type(m) for m in model]
    dt.accelerate(model, fuse=True)
    assert [type(m) for m in model] != types
    assert dt.restore(model) == 1
    assert [type(m) for m in model] == types
    assert torch.equal(model(x), expected)
    assert not any("_fusion" in vars(module) for module in model.modules())
    assert dt.restore(model) == 0


def test_accelerating_twice_is_accelerating_once():
    model = block().eval()
    first = dt.accelerate(model, fuse=True)
    assert dt.accelerate(model, fuse=True) == first
    assert dt.accelerate(model).replaced[0].fused == ()
    assert type(model[2]) is nn.BatchNorm2d


# ---- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 2, (1, 2), "same", "valid"])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("shape", [(2, 4, 9, 8), (4, 9, 8)])
def test_every_padding(padding, padding_mode, shape):
    stride = 1 if padding == "same" else (2, 1)
    layer = nn.Conv2d(
        4, 8, (3, 5), stride, padding, dilation=(2, 1), groups=4, padding_mode=padding_mode
    ).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    dt.accelerate(layer)
    assert type(layer) is not nn.Conv2d
    assert_close(layer(x), expected, 1e-12)
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    assert_close(grad, expected_grad, 1e-12)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_every_fusion(activation, bias, affine):
    model = block(activation, bias=bias)
    if not affine:
        model[2] = nn.BatchNorm2d(12, affine=False)
        nn.init.uniform_(model[2].running_var, 0.5, 2)
    model.double().eval()
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    expected = model(x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    report = dt.accelerate(model, fuse=True)
    assert report.replaced[0].fused == ("2", "3")
    assert_close(model(x), expected, 1e-12)
    with torch.no_grad():
        assert_close(model(x), expected, 1e-12)
    (grad,) = torch.autograd.grad(model(x).sum(), x)
    assert_close(grad, expected_grad, 1e-12)


def test_fusion_without_normalisation():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.SiLU()).eval()
    x = torch.randn(1, 4, 6, 6)
    expected = model(x)
    assert dt.accelerate(model, fuse=True).replaced[0].fused == ("1",)
    assert_close(model(x), expected)


def test_modules_in_different_modes_do_their_own_work():
    model, x = block(), torch.randn(4, 3, 8, 8)
    plain = copy.deepcopy(model)
    dt.accelerate(model, fuse=True)
    for conv, norm in ((True, False), (False, True), (True, True), (False, False)):
        for one in (model, plain):
            one.eval()
            one[1].train(conv), one[2].train(norm)
        assert_close(model(x), plain(x))
        assert_close(model[2].running_mean, plain[2].running_mean)


def test_what_must_not_be_fused():
    hooked = block().eval()
    hooked[2].register_forward_hook(lambda *_: None)
    assert dt.accelerate(hooked, fuse=True).replaced[0].fused == ()
    shared = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), shared, nn.Conv2d(4, 4, 1), shared).eval()
    assert dt.accelerate(twice, fuse=True).replaced[0].fused == ()
    untracked = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()
    ).eval()
    x = torch.randn(3, 4, 6, 6)
    expected = untracked(x)
    assert dt.accelerate(untracked, fuse=True).replaced[0].fused == ()
    assert_close(untracked(x), expected)


class Subclass(nn.Conv2d):
    """A convolution that may do anything."""


def test_the_report_says_what_was_left_and_why():
    model = nn.ModuleDict(
        {
            "dense": nn.Conv2d(4, 4, 3),
            "grouped": nn.Conv2d(4, 4, 3, groups=2),
            "single": nn.Conv2d(1, 4, 3),
            "subclass": Subclass(4, 4, 3, groups=4),
            "meta": nn.Conv2d(4, 4, 3, groups=4, device="meta"),
            "complex": nn.Conv2d(4, 4, 3, groups=4, dtype=torch.complex64),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
        }
    )
    report = dt.accelerate(model)
    assert [entry.name for entry in report.replaced] == ["depthwise"]
    reasons = {entry.name: entry.reason for entry in report.left}
    assert reasons == {
        "dense": "not depthwise, 1 group for 4 input channels",
        "grouped": "not depthwise, 2 groups for 4 input channels",
        "single": "not depthwise, a single channel",
        "subclass": "a subclass of Conv2d, Subclass",
        "meta": "weight must be on the device cpu, got meta",
        "complex": "weight must have dtype float16, bfloat16, float32 or float64, got complex64",
    }
    assert str(report).splitlines()[0] == "1 of 7 convolutions replaced"
    assert "left: a subclass of Conv2d, Subclass" in str(report)


def test_only_modules_are_accepted():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        dt.accelerate(3)


def test_the_engine_really_runs():
    model, x = conv_norm(8, 8, 3, 1, 8, nn.ReLU).eval(), torch.randn(1, 8, 9, 9)
    dt.accelerate(model, fuse=True)
    x = x.contiguous(memory_format=torch.channels_last)
    model(x)
    assert _native.last_run()["kernel"].startswith("nhwc")
    assert model(x).is_contiguous(memory_format=torch.channels_last)
    model(x.contiguous())
    assert _native.last_run()["kernel"].startswith("nchw")


def test_other_devices_are_refused():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    dt.accelerate(layer)
    with pytest.raises(ValueError, match="input must be on the device cpu, got meta"):
        layer(torch.ones(1, 4, 5, 5, device="meta"))


# ---- with PyTorch's tools ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [False, True])
def test_compile_and_export(fuse):
    torch._dynamo.reset()
    model, x = block().eval(), torch.randn(2, 3, 8, 8)
    expected = model(x)
    dt.accelerate(model, fuse=fuse)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), expected)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert_close(program.module()(x), expected)
    targets = {str(node.target) for node in program.graph.nodes}
    assert "depthwise.conv2d.default" in targets
    assert not {t for t in targets if "batch_norm" in t or "hardtanh" in t} or not fuse


def test_autocast_and_low_precision():
    model, x = block().eval(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        expected = model(x)
        dt.accelerate(model, fuse=True)
        y = model(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert_close(y.float(), expected.float(), 0.03)
    half = model.to(torch.bfloat16)
    with torch.no_grad():
        assert_close(half(x.bfloat16()).float(), expected.float(), 0.03)


def test_per_sample_gradients_of_a_model():
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(6 * 16, 2)).double()
    dt.accelerate(model)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, image):
        return torch.func.functional_call(model, parameters, (image[None],)).pow(2).sum()

    together = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, image in enumerate(x):
        model.zero_grad()
        model(image[None]).pow(2).sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(together[name][i], parameter.grad, 1e-12)
