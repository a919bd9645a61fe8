"""JAX: the results of NumPy, bit for bit, under every transformation, and spread over devices."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ALGORITHM_CASES, DTYPES, algorithm_problem, random_array, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402
from test_properties import cases  # noqa: E402

import depthwise  # noqa: E402
import depthwise.jax  # noqa: E402

pytestmark = pytest.mark.usefixtures("jax_with_float64")
HERE = Path(__file__).resolve().parent
ACTIVATIONS = (None, "relu", "relu6", "silu", "hard_swish")
# Each example compiles a program.
few = settings(max_examples=settings.default.max_examples // 6)


def assert_same(actual, expected):
    assert isinstance(actual, jax.Array)
    assert same_bits(np.asarray(actual), expected)


def operands(case, *shapes):
    rng = np.random.default_rng(case.seed)
    return [random_array(rng, shape, case.dtype) for shape in shapes]


@few
@given(case=cases(), bias=st.booleans(), activation=st.sampled_from(ACTIVATIONS), jit=st.booleans())
def test_forward_has_numpys_bits(case, bias, activation, jit):
    outputs = case.spec.channels * case.spec.multiplier
    x, filter, values = operands(case, case.x_shape, case.filter_shape, (outputs,))
    given = {"bias": values if bias else None, "activation": activation}

    def run(x, filter, bias):
        return depthwise.conv2d(x, filter, bias=bias, activation=activation, **case.keywords)

    run = jax.jit(run) if jit else run
    actual = run(jnp.asarray(x), jnp.asarray(filter), None if not bias else jnp.asarray(values))
    assert_same(actual, depthwise.conv2d(x, filter, **given, **case.keywords))


@few
@given(case=cases())
def test_gradients_have_numpys_bits(case):
    x, filter, grad = operands(case, case.x_shape, case.filter_shape, case.spec.output_shape)

    @jax.jit
    def gradients(x, filter, grad):
        _, pull = jax.vjp(lambda x, filter: depthwise.conv2d(x, filter, **case.keywords), x, filter)
        return pull(grad)

    grad_x, grad_filter = gradients(x, filter, grad)
    assert_same(grad_x, depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords))
    assert_same(grad_filter, depthwise.conv2d_grad_filter(x, filter.shape, grad, **case.keywords))


@few
@given(case=cases())
def test_gradient_functions_have_numpys_bits(case):
    x, filter, grad = operands(case, case.x_shape, case.filter_shape, case.spec.output_shape)
    for_x = depthwise.conv2d_grad_input(x.shape, jnp.asarray(filter), jnp.asarray(grad), **case.keywords)
    for_filter = depthwise.conv2d_grad_filter(
        jnp.asarray(x), filter.shape, jnp.asarray(grad), **case.keywords
    )
    assert_same(for_x, depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords))
    assert_same(for_filter, depthwise.conv2d_grad_filter(x, filter.shape, grad, **case.keywords))


@pytest.mark.parametrize(("border", "algorithm"), ALGORITHM_CASES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_border_and_algorithm_pass_through(rng, border, algorithm, layout):
    keywords = {"border": border, "algorithm": algorithm, "layout": layout}
    x, filter, grad, *expected = algorithm_problem(rng, keywords)

    @jax.jit
    def run(x, filter, grad):
        y, pull = jax.vjp(lambda x, filter: depthwise.conv2d(x, filter, **keywords), x, filter)
        return y, *pull(grad)

    for result, array in zip(run(*map(jnp.asarray, (x, filter, grad))), expected, strict=True):
        assert_same(result, array)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_derivatives_of_a_separable_filter(rng, activation):
    """Tangents of the filter are not separable, nor are those of its gradient."""
    keywords = {"border": "constant", "layout": "NHWC"}
    x = jnp.asarray(rng.standard_normal((2, 20, 17, 5)))
    filter = jnp.asarray(rng.standard_normal((9, 1, 5, 1)) * rng.standard_normal((1, 7, 5, 1)))
    tangents = tuple(jnp.asarray(rng.standard_normal(array.shape)) for array in (x, filter))

    def derivatives(algorithm):
        def run(x, filter):
            return depthwise.conv2d(x, filter, algorithm=algorithm, activation=activation, **keywords)

        def gradient(x, filter):
            return jax.grad(lambda x, filter: (run(x, filter) ** 2).sum(), (0, 1))(x, filter)

        return jax.jvp(run, (x, filter), tangents), jax.jvp(gradient, (x, filter), tangents)

    for one, other in zip(*map(jax.tree.leaves, map(derivatives, ("separable", "direct"))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * float(abs(other).max()))


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_tensorflow_face(rng, data_format):
    shape = (2, 9, 8, 6) if data_format == "NHWC" else (2, 6, 9, 8)
    x, filter = random_array(rng, shape, "float32"), random_array(rng, (3, 3, 6, 2), "float32")
    rest = ((1, 2, 1, 1) if data_format == "NHWC" else (1, 1, 2, 1), "SAME", data_format)
    y = depthwise.depthwise_conv2d(x, filter, *rest)
    as_jax = jnp.asarray(x), jnp.asarray(filter), jnp.asarray(y)
    assert_same(depthwise.depthwise_conv2d(*as_jax[:2], *rest), y)
    expected = depthwise.depthwise_conv2d_backprop_input(x.shape, filter, y, *rest)
    assert_same(depthwise.depthwise_conv2d_backprop_input(x.shape, *as_jax[1:], *rest), expected)
    expected = depthwise.depthwise_conv2d_backprop_filter(x, filter.shape, y, *rest)
    assert_same(
        depthwise.depthwise_conv2d_backprop_filter(as_jax[0], filter.shape, as_jax[2], *rest), expected
    )


@pytest.fixture
def problem(rng):
    """A convolution of float64 with what it is applied to."""
    x, filter = random_array(rng, (2, 6, 5, 4), "float64"), random_array(rng, (3, 2, 4, 2), "float64")

    def convolve(x, filter):
        return depthwise.jax.conv2d(x, filter, stride=(2, 1), dilation=(1, 2))

    return convolve, jnp.asarray(x), jnp.asarray(filter)


def test_derivatives_of_third_order(problem):
    convolve, x, filter = problem
    check_grads(convolve, (x, filter), order=3, modes=["fwd", "rev"])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_with_bias_and_activation(rng, activation, shared, layout):
    shape = (2, 6, 5, 4) if layout == "NHWC" else (4, 6, 5)
    x = random_array(rng, shape, "float64")
    filter = random_array(rng, (3, 2) if shared else (3, 2, 4, 2), "float64")
    bias = random_array(rng, (4 if shared else 8,), "float64")

    def layer(x, filter, bias):
        return depthwise.jax.conv2d(x, filter, bias=bias, activation=activation, layout=layout)

    check_grads(layer, (x, filter, bias), order=2, modes=["fwd", "rev"])


def test_transformations_agree(problem):
    convolve, x, filter = problem
    loss = lambda filter: jnp.sum(jnp.sin(convolve(x, filter)))  # noqa: E731
    gradient = jax.grad(loss)(filter)
    assert_same(jax.grad(jax.checkpoint(loss))(filter), np.asarray(gradient))
    y, tangent = jax.jvp(convolve, (x, filter), (x, filter))
    np.testing.assert_allclose(tangent, 2 * y, rtol=1e-12)
    _, linear = jax.linearize(convolve, x, filter)
    np.testing.assert_allclose(linear(x, filter), tangent, rtol=1e-12)
    backward, forward = jax.jacrev(convolve, 1)(x, filter), jax.jacfwd(convolve, 1)(x, filter)
    np.testing.assert_allclose(forward, backward, rtol=1e-12)
    hessian = jax.hessian(loss)(filter)
    np.testing.assert_allclose(hessian, jax.jacrev(jax.jacrev(loss))(filter), rtol=1e-9, atol=1e-12)
    swapped = jnp.moveaxis(hessian, (0, 1, 2, 3), (4, 5, 6, 7))
    np.testing.assert_allclose(hessian, swapped, rtol=1e-9, atol=1e-12)
    with jax.disable_jit():
        assert_same(convolve(x, filter), np.asarray(jax.jit(convolve)(x, filter)))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("axes", [(0, None, None), (None, 1, None), (None, None, 0), (0, 1, None), (0, 1, 0)])
@pytest.mark.parametrize("shape", ["4-D", "3-D", "shared"])
def test_vmap_is_a_loop(rng, layout, axes, shape):
    size = 3
    image = (5, 6, 4) if layout == "NHWC" else (4, 5, 6)
    x_shape, filter_shape = image if shape == "3-D" else (2, *image), (3, 3, 4, 2)
    filter_shape, outputs = ((3, 3), 4) if shape == "shared" else (filter_shape, 8)
    whole = []
    for axis, one in zip(axes, (x_shape, filter_shape, (outputs,)), strict=True):
        one = list(one)
        if axis is not None:
            one.insert(axis, size)
        whole.append(jnp.asarray(random_array(rng, one, "float32")))

    def layer(x, filter, bias):
        return depthwise.jax.conv2d(x, filter, bias=bias, activation="relu6", layout=layout, stride=2)

    mapped = jax.vmap(layer, in_axes=axes)(*whole)
    for i in range(size):
        item = [
            array if axis is None else jnp.take(array, i, axis)
            for array, axis in zip(whole, axes, strict=True)
        ]
        assert_same(mapped[i], np.asarray(layer(*item)))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "axes",
    [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, None), (0, None, 0), (None, 0, 0), (0, 0, 0)],
)
def test_vmap_of_gradients(rng, layout, shared, axes):
    image = (5, 6, 4) if layout == "NHWC" else (4, 5, 6)
    filter_shape = (3, 3) if shared else (3, 3, 4, 2)
    keywords = {"layout": layout, "stride": 2}
    output = depthwise.conv2d(np.ones((2, *image)), np.ones(filter_shape), **keywords).shape
    whole = [
        jnp.asarray(random_array(rng, one if axis is None else (3, *one), "float64"))
        for axis, one in zip(axes, ((2, *image), filter_shape, output), strict=True)
    ]

    def gradients(x, filter, grad):
        return jax.vjp(lambda x, filter: depthwise.jax.conv2d(x, filter, **keywords), x, filter)[1](grad)

    mapped = jax.vmap(gradients, in_axes=axes)(*whole)
    for i in range(3):
        item = [array if axis is None else array[i] for array, axis in zip(whole, axes, strict=True)]
        for actual, expected in zip(mapped, gradients(*item), strict=True):
            np.testing.assert_allclose(actual[i], expected, rtol=1e-12, atol=1e-12)


def test_per_example_gradients(rng):
    x, filter = random_array(rng, (5, 1, 6, 6, 4), "float32"), random_array(rng, (3, 3, 4, 1), "float32")
    loss = lambda filter, x: jnp.sum(depthwise.jax.conv2d(x, filter) ** 2)  # noqa: E731
    each = jax.vmap(jax.grad(loss), in_axes=(None, 0))(filter, x)
    np.testing.assert_allclose(
        each.sum(0), jax.grad(lambda f: sum(loss(f, one) for one in x))(filter), rtol=1e-4
    )


def test_without_x64_float32_stays(rng):
    code = (
        "import numpy as np, jax.numpy as jnp, depthwise.jax\n"
        "y = depthwise.jax.conv2d(np.ones((1, 4, 4, 2)), np.ones((3, 3, 2, 1)))\n"
        "assert y.dtype == jnp.float32, y.dtype\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_program_calls_the_handler(problem):
    convolve, x, filter = problem
    text = jax.jit(convolve).lower(x, filter).compile().as_text()
    assert "depthwise_conv2d" in text
    assert "callback" not in text
    assert depthwise.show_config("dict")["jax"] == "XLA FFI handler"


def test_callback_where_the_handler_was_not_built():
    """Hidden from the adapter, the handler is missed nowhere but in speed."""
    code = (HERE / "jax_without_handler.py").read_text(encoding="utf-8")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_threads_are_honoured(problem):
    _, x, filter = problem
    one, two = (depthwise.jax.conv2d(x, filter, num_threads=n) for n in (1, 2))
    assert_same(one, np.asarray(two))


@pytest.fixture(scope="module")
def sharding():
    """What tests/jax_sharding.py reports; the number of devices is fixed when JAX starts."""
    command = [sys.executable, str(HERE / "jax_sharding.py")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["auto", "explicit"])
@pytest.mark.parametrize("spread", ["batch", "channels", "both"])
def test_shards_are_computed_where_they_are(sharding, mesh, spread):
    report = sharding[f"{mesh} {spread}"]
    assert report["forward collectives"] == []
    assert report["gradient collectives"] == ([] if spread == "channels" else ["all-reduce"])
    assert report["equal"]


def test_axes_that_cannot_be_cut_are_gathered(sharding):
    assert sharding["rows"]["equal"]
    assert sharding["uneven channels"]["equal"]


@pytest.mark.parametrize("name", ["shard_map", "shard_map under jit", "set_mesh"])
def test_other_ways_to_spread(sharding, name):
    assert sharding[name]["equal"]


def test_the_declared_abi_is_that_of_this_jaxlib(tmp_path):
    """Every size, offset and constant that the bindings declare is compared with the real header."""
    compiler = next(
        (c for c in ("c++", "g++", "clang++") if subprocess.call(["which", c], stdout=-3) == 0), None
    )
    if compiler is None or not (HERE.parent / "src" / "bindings").is_dir():
        pytest.skip("no C++ compiler or no source tree")
    source = HERE / "native" / "xla_abi.cpp"
    include = [f"-I{jax.ffi.include_dir()}", f"-I{HERE.parent / 'src' / 'bindings'}"]
    subprocess.run([compiler, "-std=c++20", "-fsyntax-only", *include, str(source)], check=True)


# ---- bad input ---------------------------------------------------------------------------------------------

X, W = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 1), np.float32)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "complex64", "bool"])
def test_wrong_dtypes(dtype):
    with pytest.raises(ValueError, match=rf"x must have dtype float16.*got {dtype}"):
        depthwise.conv2d(jnp.asarray(X).astype(dtype), jnp.asarray(W).astype(dtype))
    with pytest.raises(ValueError, match="x and filter must have the same dtype"):
        depthwise.conv2d(jnp.asarray(X), jnp.asarray(W, jnp.float64))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"stride": 1.0}, TypeError, "stride must be an integer"),
        ({"dilation": -1}, ValueError, "dilation must be at least 1"),
        ({"padding": "same"}, ValueError, "padding must be"),
        ({"padding": None}, TypeError, "padding must be"),
        ({"layout": "nhwc"}, ValueError, "layout must be"),
        ({"bias": jnp.ones(3, jnp.float32)}, ValueError, r"bias must have shape \(2,\)"),
        ({"bias": jnp.ones(2, jnp.float16)}, ValueError, "same dtype"),
        ({"bias": np.ones(2, np.float32)}, TypeError, "of one library"),
        ({"activation": "tanh"}, ValueError, "activation must be"),
        ({"out": jnp.ones((1, 4, 4, 2), jnp.float32)}, TypeError, "out must be None"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1"),
        ({"num_threads": 10**9}, ValueError, "num_threads must be at most"),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_wrong_arguments(keywords, error, message, jit):
    run = lambda x, filter: depthwise.conv2d(x, filter, **keywords)  # noqa: E731
    with pytest.raises(error, match=message):
        (jax.jit(run) if jit else run)(jnp.asarray(X), jnp.asarray(W))


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (1, 1, 4, 4, 2)])
def test_wrong_ranks(shape):
    with pytest.raises(ValueError, match="x must have"):
        depthwise.conv2d(jnp.ones(shape, jnp.float32), jnp.asarray(W))


@pytest.mark.parametrize("sizes", [5, (1, 4, 4), (1, -4, 4, 2), (1879048192,) * 4, (1, 5, 4, 2), ()])
def test_wrong_sizes(sizes):
    grad = jnp.ones((1, 4, 4, 2), jnp.float32)
    with pytest.raises((TypeError, ValueError), match=r"input_sizes|too large|out_backprop"):
        depthwise.depthwise_conv2d_backprop_input(sizes, jnp.asarray(W), grad, [1, 1, 1, 1], "SAME")


def test_arrays_of_two_libraries():
    with pytest.raises(TypeError, match="x and filter must be arrays of one library"):
        depthwise.conv2d(jnp.asarray(X), W)
    with pytest.raises(TypeError, match=r"filter must be a JAX array or a NumPy array, got builtins.list"):
        depthwise.jax.conv2d(jnp.asarray(X), W.tolist())
    with pytest.raises(TypeError, match="x must be a JAX array"):
        depthwise.jax.conv2d(np.ma.masked_array(X), W)


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_arrays(dtype):
    for x_shape, filter_shape in [
        ((0, 4, 4, 2), (3, 3, 2, 1)),
        ((1, 4, 4, 0), (3, 3, 0, 2)),
        ((1, 4, 4, 2), (0, 3, 2, 1)),
    ]:
        x, filter = np.ones(x_shape, DTYPES[dtype]), np.ones(filter_shape, DTYPES[dtype])
        assert_same(depthwise.conv2d(jnp.asarray(x), jnp.asarray(filter)), depthwise.conv2d(x, filter))
