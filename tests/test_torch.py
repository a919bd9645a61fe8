"""The PyTorch adapter: the same bits as on NumPy arrays, and PyTorch's own transformations."""

import numpy as np
import pytest
from helpers import ALGORITHM_CASES, algorithm_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import cases

import depthwise

torch = pytest.importorskip("torch")

import depthwise.torch as dt  # noqa: E402
from depthwise._torch import arrays, operators  # noqa: E402

FEWER = settings(max_examples=max(settings().max_examples // 5, 50))
OPS = torch.ops.depthwise
#: stride, padding (top, bottom, left, right; None is "SAME"), dilation, border, algorithm, threads.
GEOMETRIES = {
    "same": ([1, 1], None, [1, 1], "constant", "auto", 0),
    "strided": ([2, 1], [1, 0, 2, 1], [1, 1], "constant", "auto", 0),
    "dilated": ([1, 2], [2, 2, 1, 1], [2, 1], "constant", "direct", 1),
}


def tensor(array):
    """A tensor that shares the memory of an array where PyTorch can, and has its strides otherwise."""
    array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    return arrays.to_tensor(array)


def bits(t):
    """The tensor as an array."""
    return arrays.to_numpy(t.detach().contiguous())


def in_stored_layout(x, *images, keywords):
    """Arrays of images, and the keywords that say so, in the layout in which the tensor `x` lies in memory.

    That is NHWC if the channels of a pixel lie side by side and pixels at least that far apart, else NCHW.
    """
    declared = keywords["layout"]
    channels, columns = (-1, -2) if declared == "NHWC" else (-3, -1)
    side_by_side = x.stride(channels) == 1 and x.stride(columns) >= x.shape[channels]
    stored = "NHWC" if side_by_side else "NCHW"
    if stored != declared:
        move = (-1, -3) if declared == "NHWC" else (-3, -1)
        images = [np.moveaxis(image, *move) for image in images]
    return *images, {**keywords, "layout": stored}


def assert_same_bits(t, array):
    assert isinstance(t, torch.Tensor)
    got = bits(t)
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert got.tobytes() == np.ascontiguousarray(array).tobytes()


def randn(*shape, dtype=torch.float64, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)


# ---- the same bits -----------------------------------------------------------------------------------------


@FEWER
@given(
    case=cases(),
    bias=st.booleans(),
    activation=st.sampled_from([None, None, "relu", "relu6", "silu", "hard_swish"]),
    grad=st.booleans(),
    num_threads=st.sampled_from([None, 1, 2]),
)
def test_forward_gives_the_bits_of_numpy(case, bias, activation, grad, num_threads):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    outputs = case.spec.channels * case.spec.multiplier
    values = np.linspace(-1, 1, outputs).astype(filter.dtype) if bias else None
    keywords = {**case.keywords, "activation": activation, "num_threads": num_threads}
    expected = depthwise.conv2d(x, filter, bias=values, **keywords)
    tensors = tensor(x), tensor(filter).requires_grad_(grad)
    y = depthwise.conv2d(*tensors, bias=None if values is None else tensor(values), **keywords)
    assert y.requires_grad == grad
    assert_same_bits(y, expected)


@FEWER
@given(case=cases())
def test_gradients_give_the_bits_of_numpy(case):
    x, filter = case.arrays(case.x_shape, case.filter_shape)
    grad = np.random.default_rng(case.seed).standard_normal(case.spec.output_shape).astype(filter.dtype)
    of_x = depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords)
    *images, keywords = in_stored_layout(tensor(x), x, grad, keywords=case.keywords)
    of_filter = depthwise.conv2d_grad_filter(images[0], filter.shape, images[1], **keywords)
    assert_same_bits(
        depthwise.conv2d_grad_input(x.shape, tensor(filter), tensor(grad), **case.keywords), of_x
    )
    assert_same_bits(
        depthwise.conv2d_grad_filter(tensor(x), filter.shape, tensor(grad), **case.keywords), of_filter
    )
    leaves = tensor(x).requires_grad_(), tensor(filter).requires_grad_()
    y = depthwise.conv2d(*leaves, **case.keywords)
    for derived, expected in zip(
        torch.autograd.grad(y, leaves, tensor(grad)), (of_x, of_filter), strict=True
    ):
        assert_same_bits(derived, expected)


@pytest.mark.parametrize(("border", "algorithm"), ALGORITHM_CASES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_border_and_algorithm_pass_through(rng, border, algorithm, layout):
    keywords = {"border": border, "algorithm": algorithm, "layout": layout}
    x, filter, grad, *expected = algorithm_problem(rng, keywords)
    leaves = tensor(x).requires_grad_(), tensor(filter).requires_grad_()
    with torch.no_grad():
        assert_same_bits(depthwise.conv2d(*leaves, **keywords), expected[0])
    y = depthwise.conv2d(*leaves, **keywords)
    derived = torch.autograd.grad(y, leaves, tensor(grad))
    for result, array in zip((y, *derived), expected, strict=True):
        assert_same_bits(result, array)


def test_derivatives_of_a_separable_filter():
    """Tangents of the filter are not separable, nor are those of its gradient."""
    keywords = {"border": "constant", "layout": "NHWC"}
    primals = randn(2, 20, 17, 5), randn(9, 1, 5, 1) * randn(1, 7, 5, 1)
    tangents = tuple(randn(*primal.shape) for primal in primals)

    def derivatives(algorithm):
        def run(x, filter):
            return depthwise.conv2d(x, filter, algorithm=algorithm, **keywords)

        def gradient(x, filter):
            return torch.func.grad(lambda x, filter: run(x, filter).pow(2).sum(), (0, 1))(x, filter)

        first, second = (torch.func.jvp(function, primals, tangents) for function in (run, gradient))
        return *first, *second[0], *second[1]

    for one, other in zip(derivatives("separable"), derivatives("direct"), strict=True):
        assert (one - other).abs().max() <= 1e-10 * other.abs().max()


@pytest.mark.parametrize("declared", ["NHWC", "NCHW"])
@pytest.mark.parametrize("stored", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [1, 5])  # a tensor of one channel is contiguous in both layouts
def test_filter_gradient_has_the_bits_of_the_layout_in_memory(rng, declared, stored, channels):
    filter = np.ones((3, 3, channels, 2), np.float32)
    nhwc = [rng.standard_normal((2, 20, 33, n)).astype(np.float32) for n in (channels, 2 * channels)]
    images = {"NHWC": nhwc, "NCHW": [np.ascontiguousarray(np.moveaxis(image, -1, 1)) for image in nhwc]}
    results = {
        layout: depthwise.conv2d_grad_filter(x, filter.shape, grad, layout=layout)
        for layout, (x, grad) in images.items()
    }
    assert not np.array_equal(*results.values()), "the layout makes no difference to this problem"
    axes = (0, 1, 2, 3) if declared == stored else (0, 2, 3, 1) if declared == "NHWC" else (0, 3, 1, 2)
    x, grad = (tensor(image).permute(axes) for image in images[stored])
    of_filter = depthwise.conv2d_grad_filter(x, filter.shape, grad, layout=declared)
    assert_same_bits(of_filter, results[stored])
    leaf = tensor(filter).requires_grad_()
    y = depthwise.conv2d(x, leaf, layout=declared)
    assert_same_bits(torch.autograd.grad(y, leaf, grad)[0], results[stored])


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("grad", [False, True])
def test_tensorflow_functions_give_the_bits_of_numpy(rng, data_format, grad):
    x = rng.standard_normal((2, 9, 8, 5) if data_format == "NHWC" else (2, 5, 9, 8))
    w = rng.standard_normal((3, 3, 5, 2))
    strides = (1, 2, 1, 1) if data_format == "NHWC" else (1, 1, 2, 1)
    rest = strides, "SAME", data_format
    y = depthwise.depthwise_conv2d(x, w, *rest)
    tx, tw, ty = tensor(x).requires_grad_(grad), tensor(w), tensor(y)
    assert_same_bits(depthwise.depthwise_conv2d(tx, tw, *rest), y)
    assert_same_bits(
        depthwise.depthwise_conv2d_backprop_input(x.shape, tw, ty.requires_grad_(grad), *rest),
        depthwise.depthwise_conv2d_backprop_input(x.shape, w, y, *rest),
    )
    assert_same_bits(
        depthwise.depthwise_conv2d_backprop_filter(tx, w.shape, ty, *rest),
        depthwise.depthwise_conv2d_backprop_filter(x, w.shape, y, *rest),
    )


@FEWER
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    channels=st.integers(1, 9),
    multiplier=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 3),
    padding=st.one_of(
        st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from(["same", "valid"])
    ),
    bias=st.booleans(),
    batched=st.booleans(),
)
def test_functional_conv2d_is_that_of_pytorch(
    size, channels, multiplier, kernel, stride, dilation, padding, bias, batched
):
    stride = (1, 1) if padding == "same" else stride
    x = randn(*((2,) if batched else ()), channels, *size)
    weight = randn(channels * multiplier, 1, *kernel)
    b = randn(channels * multiplier) if bias else None
    arguments = (x, weight, b, stride, padding, dilation, channels)
    try:
        expected = torch.nn.functional.conv2d(*arguments)
    except RuntimeError:
        with pytest.raises(ValueError, match="weight must fit"):
            dt.conv2d(*arguments)
        return
    actual = dt.conv2d(*arguments)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


# ---- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad", [False, True])
def test_memory_format_is_kept(dtype, memory_format, grad):
    x = randn(2, 6, 9, 8, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_(grad)
    weight = randn(12, 1, 3, 3, dtype=dtype)
    y = dt.conv2d(x, weight, padding=1, stride=2)
    assert y.is_contiguous(memory_format=memory_format)
    expected = depthwise.conv2d(
        bits(x), bits(weight.reshape(6, 2, 3, 3).permute(2, 3, 0, 1)), stride=2, padding=1, layout="NCHW"
    )
    assert_same_bits(y, expected)
    if grad:
        (g,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert g.is_contiguous(memory_format=memory_format)


def test_layout_and_memory_order_may_differ():
    x, w = randn(2, 5, 7, 6), randn(3, 3, 5, 1)
    expected = depthwise.conv2d(x, w, layout="NCHW")
    channels_last = x.contiguous(memory_format=torch.channels_last)
    y = depthwise.conv2d(channels_last, w, layout="NCHW")
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(depthwise.conv2d(x.permute(0, 2, 3, 1), w), expected.permute(0, 2, 3, 1))


def test_other_strides_are_read_right():
    x, weight = randn(4, 12, 9, 9), randn(6, 1, 3, 3)
    for view in (x[:, ::2], x.contiguous(memory_format=torch.channels_last)[:, :6], x[:, :6].flip(2)):
        torch.testing.assert_close(
            dt.conv2d(view, weight), torch.nn.functional.conv2d(view, weight, groups=6)
        )
    expanded = x[:, :6, :1, :1].expand(4, 6, 5, 5)
    torch.testing.assert_close(
        dt.conv2d(expanded, weight), torch.nn.functional.conv2d(expanded, weight, groups=6)
    )
    negative = torch.view_as_complex(randn(4, 6, 9, 9, 2)).conj().imag
    assert negative.is_neg()
    torch.testing.assert_close(
        dt.conv2d(negative, weight), torch.nn.functional.conv2d(negative, weight, groups=6)
    )
    filter = randn(3, 3, 6, 1)
    assert torch.equal(
        depthwise.conv2d(negative, filter, layout="NCHW"),
        depthwise.conv2d(negative.clone(), filter, layout="NCHW"),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_out(dtype, layout):
    x, w = randn(2, 6, 6, 6, dtype=dtype), randn(3, 3, 6, 1, dtype=dtype)
    expected = depthwise.conv2d(x, w, layout=layout)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for image in (x, x.contiguous(memory_format=torch.channels_last)):
            out = torch.zeros(2, 6, 6, 6, dtype=dtype).contiguous(memory_format=memory_format)
            version = out._version
            assert depthwise.conv2d(image, w, layout=layout, out=out) is out
            assert torch.equal(out, expected)
            assert out._version > version
    for function, operands, shape in (
        (depthwise.conv2d_grad_input, (x.shape, w, x), x.shape),
        (depthwise.conv2d_grad_filter, (x, w.shape, x), w.shape),
    ):
        out = torch.zeros(shape, dtype=dtype)
        assert function(*operands, layout=layout, out=out) is out
        assert torch.equal(out, function(*operands, layout=layout))


def test_results_share_memory_with_nothing_else():
    x, w = randn(1, 4, 4, 2), randn(1, 1, 2, 1)
    y = depthwise.conv2d(x, w)
    assert y.data_ptr() not in {x.data_ptr(), w.data_ptr()}
    before = x.clone()
    y += 1
    assert torch.equal(x, before)


def test_small_calls_read_tensors_that_lie_otherwise():
    """A view of a filter, and elements at odd addresses, which the engine does not read unchecked."""
    x, w = randn(1, 5, 4, 3, dtype=torch.float32), randn(3, 3, 3, 2, dtype=torch.float32)
    expected = depthwise.conv2d(x.numpy(), w.numpy())
    shifted = torch.frombuffer(bytearray(b"\0" + x.numpy().tobytes()), dtype=torch.float32, offset=1)
    for image, filter in (
        (x, w.transpose(0, 1).contiguous().transpose(0, 1)),
        (shifted.reshape(x.shape), w),
        (x, torch.nn.Parameter(w, requires_grad=False)),
    ):
        assert_same_bits(depthwise.conv2d(image, filter), expected)


@pytest.mark.parametrize("inference", [False, True])
def test_the_default_device_does_not_count(inference):
    x, w, layer = randn(1, 5, 4, 3), randn(3, 3, 3, 1), torch.nn.Conv2d(3, 3, 3, groups=3).double()
    dt.accelerate(layer)
    image = x.permute(0, 3, 1, 2)
    with torch.inference_mode(inference), torch.no_grad():
        expected = depthwise.conv2d(x, w), layer(image)
        with torch.device("meta"):
            results = depthwise.conv2d(x, w), layer(image)
    for result, right in zip(results, expected, strict=True):
        assert result.is_cpu and result.is_inference() is inference
        assert torch.equal(result, right)


# ---- derivatives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [None, "relu", "relu6", "silu", "hard_swish"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("registered", [False, True])
def test_gradcheck(activation, memory_format, registered):
    operator = operators.forward.registered if registered else operators.forward
    x = randn(2, 3, 5, 4).contiguous(memory_format=memory_format).mul_(3).requires_grad_()
    filter, bias = randn(3, 2, 3, 2, grad=True), randn(6, grad=True)

    def function(*operands):
        return operator(*operands, activation, *GEOMETRIES["strided"])

    assert torch.autograd.gradcheck(function, (x, filter, bias))
    assert torch.autograd.gradgradcheck(function, (x, filter, bias))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradcheck_of_the_gradients(geometry):
    geometry = GEOMETRIES[geometry]
    x, filter = randn(2, 3, 5, 4, grad=True), randn(3, 2, 3, 2, grad=True)
    y = operators.forward(x, filter, None, None, *geometry)
    grad = randn(*y.shape, grad=True)
    functions = {
        lambda g, f: operators.grad_input(g, f, x.shape, *geometry): (grad, filter),
        lambda x, g: operators.grad_filter(x, g, filter.shape, *geometry): (x, grad),
    }
    for function, operands in functions.items():
        assert torch.autograd.gradcheck(function, operands)
        assert torch.autograd.gradgradcheck(function, operands)


def test_third_derivative():
    x, filter = randn(1, 4, 4, 2, grad=True), randn(3, 3, 2, 1, grad=True)
    y = depthwise.conv2d(x, filter, activation="silu").pow(3).sum()
    for _ in range(3):
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        y = g.pow(2).sum()
    assert torch.isfinite(g).all()
    assert g.abs().sum() > 0


def test_only_what_needs_it_gets_a_gradient():
    x, filter = randn(1, 4, 4, 2), randn(3, 3, 2, 1, grad=True)
    depthwise.conv2d(x, filter).sum().backward()
    assert x.grad is None
    assert filter.grad is not None
    with torch.no_grad():
        assert not depthwise.conv2d(x, filter).requires_grad
    with torch.inference_mode():
        assert depthwise.conv2d(x, filter).is_inference()


def test_shared_filter_collects_the_gradients_of_all_channels():
    x, filter = randn(2, 5, 4, 3, grad=True), randn(3, 3, grad=True)
    assert torch.autograd.gradcheck(depthwise.conv2d, (x, filter))
    assert torch.autograd.gradgradcheck(depthwise.conv2d, (x, filter))


@pytest.mark.parametrize("activation", [None, "relu6", "silu", "hard_swish"])
def test_forward_mode(activation):
    x, filter, bias = randn(2, 4, 3, 2, grad=True), randn(3, 3, 2, 2, grad=True), randn(4, grad=True)
    y = depthwise.conv2d(x, filter, stride=2)
    keywords = {"check_forward_ad": True, "check_backward_ad": False}
    functions = {
        lambda x, f, b: depthwise.conv2d(x, f, bias=b, stride=2, activation=activation): (x, filter, bias),
        lambda f, g: depthwise.conv2d_grad_input(x.shape, f, g, stride=2): (
            filter,
            y.detach().requires_grad_(),
        ),
        lambda x, g: depthwise.conv2d_grad_filter(x, filter.shape, g, stride=2): (
            x,
            y.detach().requires_grad_(),
        ),
    }
    for function, operands in functions.items():
        assert torch.autograd.gradcheck(function, operands, **keywords)


# ---- PyTorch's transformations -----------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("filter_shape", [(3, 2, 3, 2), (3, 2)])
def test_opcheck(geometry, memory_format, grad, filter_shape):
    geometry = GEOMETRIES[geometry]

    def image(*shape):
        return randn(*shape, dtype=torch.float32).contiguous(memory_format=memory_format).requires_grad_(grad)

    x, filter = image(2, 3, 6, 5), randn(*filter_shape, dtype=torch.float32, grad=grad)
    y = operators.forward(x, filter, None, None, *geometry)
    bias = randn(y.shape[1], dtype=torch.float32, grad=grad)
    y_grad = image(*y.shape)
    for activation in (None, "relu", "silu"):
        torch.library.opcheck(OPS.conv2d.default, (x, filter, bias, activation, *geometry))
    torch.library.opcheck(OPS.conv2d_grad_input.default, (y_grad, filter, list(x.shape), *geometry))
    torch.library.opcheck(OPS.conv2d_grad_filter.default, (x, y_grad, list(filter_shape), *geometry))


VMAP_SHAPES = {"x": (2, 6, 5, 3), "filter": (3, 3, 3, 2), "bias": (6,)}


@pytest.mark.parametrize(
    "batched", [("x",), ("filter",), ("bias",), ("x", "filter"), ("x", "filter", "bias")]
)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("in_dim", [0, 1])
def test_vmap_of_the_forward_operation(batched, layout, in_dim):
    operands = [
        randn(4, *shape, seed=i).movedim(0, in_dim) if name in batched else randn(*shape, seed=i)
        for i, (name, shape) in enumerate(VMAP_SHAPES.items())
    ]
    if layout == "NCHW":
        operands[0] = operands[0].movedim(-1, -3)
    dims = tuple(in_dim if name in batched else None for name in VMAP_SHAPES)

    def function(x, filter, bias):
        return depthwise.conv2d(x, filter, bias=bias, stride=2, layout=layout, activation="silu")

    got = torch.vmap(function, dims)(*operands)
    for i in range(4):
        alone = [o if d is None else o.select(d, i) for o, d in zip(operands, dims, strict=True)]
        assert torch.equal(got[i], function(*alone))


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("filter_shape", [(3, 3, 3, 2), (3, 3)])
def test_vmap_of_the_gradients(dims, filter_shape):
    shapes = (2, 6, 5, 3), filter_shape, (2, 6, 5, 6 if len(filter_shape) == 4 else 3)
    x, filter, grad = (randn(4, *shape, seed=i) for i, shape in enumerate(shapes))

    def of_input(grad, filter):
        return depthwise.conv2d_grad_input(shapes[0], filter, grad)

    def of_filter(x, grad):
        return depthwise.conv2d_grad_filter(x, filter_shape, grad)

    for function, operands in ((of_input, (grad, filter)), (of_filter, (x, grad))):
        chosen = [o if d == 0 else o[0] for o, d in zip(operands, dims, strict=True)]
        got = torch.vmap(function, dims)(*chosen)
        for i in range(4):
            alone = [o[i] if d == 0 else o for o, d in zip(chosen, dims, strict=True)]
            torch.testing.assert_close(got[i], function(*alone), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("filter_shape", [(3, 3, 3, 2), (3, 3)])
def test_per_sample_gradients(filter_shape):
    x, filter = randn(5, 6, 4, 3), randn(*filter_shape)

    def loss(filter, image):
        return depthwise.conv2d(image, filter, activation="relu").pow(2).sum()

    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(filter, x)
    for i, image in enumerate(x):
        leaf = filter.clone().requires_grad_()
        (alone,) = torch.autograd.grad(loss(leaf, image), leaf)
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


def test_transforms_nest():
    x, filter = randn(1, 4, 4, 2), randn(3, 3, 2, 1)
    rows = torch.func.jacrev(lambda x: depthwise.conv2d(x, filter))(x)
    columns = torch.autograd.functional.jacobian(lambda x: depthwise.conv2d(x, filter), x)
    torch.testing.assert_close(rows, columns)
    torch.testing.assert_close(torch.func.jacfwd(lambda x: depthwise.conv2d(x, filter))(x), columns)
    matrix = rows.reshape(rows[..., 0, 0, 0, 0].numel(), -1)

    def loss(x):
        return depthwise.conv2d(x, filter).pow(2).sum()

    for second in (torch.func.hessian(loss)(x), torch.func.jacrev(torch.func.jacrev(loss))(x)):
        torch.testing.assert_close(second.reshape(matrix.shape[1], -1), 2 * matrix.T @ matrix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    x, weight, bias = (randn(*s, dtype=torch.float32, grad=True) for s in ((1, 4, 6, 6), (4, 1, 3, 3), (4,)))
    with torch.autocast("cpu", dtype=dtype):
        y = dt.conv2d(x, weight, bias)
        general = depthwise.conv2d(x, randn(3, 3, 4, 1, dtype=dtype), layout="NCHW")
        assert dt.conv2d(x.double(), weight.double()).dtype == torch.float64
    assert y.dtype == general.dtype == dtype
    assert torch.equal(y, dt.conv2d(x.to(dtype), weight.to(dtype), bias.to(dtype)))
    y.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == bias.grad.dtype == torch.float32


def compiled_functions():
    def general(x, filter):
        return depthwise.conv2d(x, filter, stride=(2, 1), padding="SAME", activation="silu", layout="NCHW")

    def tensorflow(x, filter):
        return depthwise.depthwise_conv2d(x, filter, [1, 1, 2, 1], [[0, 0], [0, 0], [1, 1], [2, 0]], "NCHW")

    def functional(x, filter):
        weight = filter.permute(2, 3, 0, 1).reshape(-1, 1, *filter.shape[:2])
        return dt.conv2d(x, weight, padding=1, stride=2)

    def gradients(x, filter):
        y = depthwise.conv2d(x, filter, layout="NCHW")
        of_x = depthwise.conv2d_grad_input(x.shape, filter, y, layout="NCHW")
        of_filter = depthwise.conv2d_grad_filter(x, filter.shape, y, layout="NCHW")
        return of_x.sum() + of_filter.pow(2).sum()

    return {f.__name__: f for f in (general, tensorflow, functional, gradients)}


@pytest.mark.parametrize("name", compiled_functions())
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_compile_without_a_graph_break(name, memory_format):
    torch._dynamo.reset()
    function = compiled_functions()[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaves = (
        randn(2, 3, 6, 5).contiguous(memory_format=memory_format).requires_grad_(),
        randn(3, 3, 3, 2, grad=True),
    )
    got, expected = compiled(*leaves), function(*leaves)
    assert torch.equal(got, expected)
    assert got.stride() == expected.stride()
    for a, b in zip(
        torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert torch.equal(a, b)


def test_compile_with_inductor_and_a_changing_batch():
    torch._dynamo.reset()
    function = compiled_functions()["general"]
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    filter = randn(3, 3, 3, 2, dtype=torch.float32)
    for batch in (2, 3, 5):
        x = randn(batch, 3, 6, 5, dtype=torch.float32)
        torch.testing.assert_close(compiled(x, filter), function(x, filter))


def test_export_with_a_dynamic_batch_and_size():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = torch.nn.Parameter(randn(3, 3, 4, 1, dtype=torch.float32))

        def forward(self, x):
            return depthwise.conv2d(x, self.filter, layout="NCHW", stride=2).relu()

    model = Model()
    sizes = {axis: torch.export.Dim(f"size{axis}", min=2 if axis == 0 else 4, max=512) for axis in (0, 2, 3)}
    shapes = (sizes,)
    x = randn(2, 4, 9, 8, dtype=torch.float32)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    assert any(node.target is OPS.conv2d.default for node in program.graph.nodes)
    other = randn(5, 4, 12, 7, dtype=torch.float32)
    assert torch.equal(program.module()(other), model(other))


def test_tracers_see_the_operator():
    x, filter = randn(1, 4, 4, 2), randn(3, 3, 2, 1)
    with torch.profiler.profile() as profile:
        depthwise.conv2d(x, filter)
    assert "depthwise::conv2d" in {event.key for event in profile.key_averages()}
    traced = torch.jit.trace(lambda x: depthwise.conv2d(x, filter), (x,))
    other = randn(1, 4, 4, 2, seed=9)
    assert torch.equal(traced(other), depthwise.conv2d(other, filter))
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: depthwise.conv2d(x, filter))(x)
    assert OPS.conv2d.default in {node.target for node in graph.graph.nodes}
    with torch._subclasses.FakeTensorMode() as mode:
        fake = depthwise.conv2d(mode.from_tensor(x), mode.from_tensor(filter), stride=2)
    assert fake.shape == (1, 2, 2, 2)


# ---- bad input ---------------------------------------------------------------------------------------------


def broken_tensors():
    x = torch.ones(1, 4, 4, 2)
    return {
        "meta": (x.to("meta"), "device cpu, got meta"),
        "sparse": (x.to_sparse(), "dense tensor, got layout torch.sparse_coo"),
        "quantised": (torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantised"),
        "mkldnn": (x.to_mkldnn(), "layout"),
        "integer": (x.to(torch.int8), "dtype .*got int8"),
        "complex": (x.to(torch.complex64), "dtype .*got complex64"),
        "bool": (x.bool(), "dtype .*got bool"),
        "nested": (torch.nested.nested_tensor([x[0], x[0]]), "nested"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", broken_tensors())
def test_tensors_that_cannot_be_read(kind):
    bad, message = broken_tensors()[kind]
    x, filter = torch.ones(1, 4, 4, 2), torch.ones(3, 3, 2, 1)
    for call in (
        lambda: depthwise.conv2d(bad, filter),
        lambda: depthwise.depthwise_conv2d(bad, filter, [1, 1, 1, 1], "SAME"),
        lambda: depthwise.conv2d_grad_filter(bad, (3, 3, 2, 1), x),
        lambda: depthwise.depthwise_conv2d_backprop_filter(bad, (3, 3, 2, 1), x, [1, 1, 1, 1], "SAME"),
        lambda: dt.conv2d(bad, filter),
    ):
        with pytest.raises((ValueError, TypeError), match=f"^(x|input) must .*{message}"):
            call()
    with pytest.raises((ValueError, TypeError), match=f"^filter must .*{message}"):
        depthwise.conv2d(x, bad)
    with pytest.raises((ValueError, TypeError), match=f"^out must .*{message}"):
        depthwise.conv2d(x, filter, out=bad)


def test_two_libraries_in_one_call():
    x, filter = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 1), np.float32)
    for operands in ((tensor(x), filter), (x, tensor(filter))):
        with pytest.raises(TypeError, match="x and filter must be arrays of one library"):
            depthwise.conv2d(*operands)
    with pytest.raises(TypeError, match="x and bias must be arrays of one library"):
        depthwise.conv2d(tensor(x), tensor(filter), bias=np.ones(2, np.float32))
    with pytest.raises(TypeError, match=r"out must be a torch\.Tensor, got ndarray"):
        depthwise.conv2d(tensor(x), tensor(filter), out=np.empty_like(x))
    with pytest.raises(TypeError, match="out must be a NumPy array"):
        depthwise.conv2d(x, filter, out=tensor(x))


def test_out_has_no_derivative():
    x, filter, out = torch.ones(1, 4, 4, 2), torch.ones(3, 3, 2, 1), torch.empty(1, 4, 4, 2)
    leaf = filter.clone().requires_grad_()
    for call in (
        lambda: depthwise.conv2d(x, leaf, out=out),
        lambda: depthwise.conv2d(x, filter, out=out.clone().requires_grad_()),
        lambda: depthwise.conv2d_grad_input(x.shape, leaf, x, out=out),
    ):
        with pytest.raises(ValueError, match="out must be None where a tensor requires grad"):
            call()
    with torch.no_grad():
        assert depthwise.conv2d(x, leaf, out=out) is out


BAD_CALLS = {
    "rank": ({"x": (4, 4)}, {}, "x must have 4 dimensions"),
    "filter rank": ({"filter": (3, 3, 2)}, {}, "filter must have 4 dimensions"),
    "channels": ({"filter": (3, 3, 3, 1)}, {}, "filter must have as many channels as x"),
    "stride": ({}, {"stride": 0}, "stride must be at least 1"),
    "float stride": ({}, {"stride": 1.0}, "stride must be an integer"),
    "tensor stride": ({}, {"stride": torch.ones(3)}, "stride"),
    "padding": ({}, {"padding": "same"}, "padding must be 'SAME' or 'VALID'"),
    "layout": ({}, {"layout": "NHCW"}, "layout must be"),
    "activation": ({}, {"activation": "tanh"}, "activation must be"),
    "border": ({}, {"border": "around"}, "border must be"),
    "algorithm": ({}, {"algorithm": "fast"}, "algorithm must be"),
    "dtype": ({}, {"dtype": torch.float64}, "dtype must be None or that of the arrays, float32"),
    "threads": ({}, {"num_threads": 0}, "num_threads must be at least 1"),
    "many threads": ({}, {"num_threads": 10**9}, "num_threads must be at most 1024"),
    "too large": ({}, {"padding": "VALID", "dilation": 9}, "the filter must fit"),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_arguments_are_named(name, grad):
    shapes, keywords, message = BAD_CALLS[name]
    x = torch.ones(shapes.get("x", (1, 4, 4, 2)), requires_grad=grad)
    filter = torch.ones(shapes.get("filter", (3, 3, 2, 1)))
    with pytest.raises((ValueError, TypeError), match=message):
        depthwise.conv2d(x, filter, **keywords)


def test_mixed_dtypes_are_refused():
    x, filter = torch.ones(1, 4, 4, 2), torch.ones(3, 3, 2, 1, dtype=torch.float64)
    for grad in (False, True):
        with pytest.raises(
            ValueError, match="x and filter must have the same dtype, got float32 and float64"
        ):
            depthwise.conv2d(x.requires_grad_(grad), filter)
    with pytest.raises(ValueError, match="must have the same dtype"):
        dt.conv2d(x.permute(0, 3, 1, 2), filter.permute(2, 3, 0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 1}, "groups must be 4"),
        ({"weight": torch.ones(4, 2, 3, 3)}, "weight must have shape"),
        ({"weight": torch.ones(6, 1, 3, 3)}, "weight must have a multiple of the input's 4 channels"),
        ({"bias": torch.ones(3)}, r"bias must have shape \(4,\)"),
        ({"padding": "full"}, "padding must be 'valid' or 'same'"),
        ({"padding": "same", "stride": 2}, "padding must not be 'same'"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"dilation": (1, 2, 3)}, "dilation must be an int or a"),
        ({"input": torch.ones(4, 4)}, "input must have 3 or 4 dimensions"),
        ({"input": [[1.0]]}, "input must be a torch.Tensor"),
    ],
)
def test_functional_conv2d_names_what_is_wrong(change, message):
    arguments = {"input": torch.ones(1, 4, 5, 5), "weight": torch.ones(4, 1, 3, 3), **change}
    with pytest.raises((ValueError, TypeError), match=message):
        dt.conv2d(**arguments)
