"""TensorFlow: the results of NumPy, bit for bit, eager and in graphs, with gradients of any order."""

import numpy as np
import pytest
from helpers import ALGORITHM_CASES, DTYPES, algorithm_problem, random_array, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from test_properties import cases  # noqa: E402

import depthwise  # noqa: E402
import depthwise.tensorflow  # noqa: E402

ACTIVATIONS = (None, "relu", "relu6", "silu", "hard_swish")
few = settings(max_examples=settings.default.max_examples // 3)


def assert_same(actual, expected):
    assert isinstance(actual, tf.Tensor)
    assert same_bits(np.asarray(actual), expected)


def operands(case, *shapes):
    rng = np.random.default_rng(case.seed)
    return [random_array(rng, shape, case.dtype) for shape in shapes]


def unknown_batch(case, shape):
    """A specification of tensors of that shape; those with a batch may have any."""
    dtype = tf.as_dtype(DTYPES[case.dtype])
    return tf.TensorSpec(shape if case.batch is None else (None, *shape[1:]), dtype)


@few
@given(case=cases(), bias=st.booleans(), activation=st.sampled_from(ACTIVATIONS))
def test_forward_has_numpys_bits(case, bias, activation):
    outputs = case.spec.channels * case.spec.multiplier
    x, filter, values = operands(case, case.x_shape, case.filter_shape, (outputs,))
    expected = depthwise.conv2d(
        x, filter, bias=values if bias else None, activation=activation, **case.keywords
    )
    tensor = tf.constant(values) if bias else None
    actual = depthwise.conv2d(
        tf.constant(x), tf.constant(filter), bias=tensor, activation=activation, **case.keywords
    )
    assert_same(actual, expected)


@settings(max_examples=settings.default.max_examples // 10)
@given(case=cases(), activation=st.sampled_from(ACTIVATIONS))
def test_forward_in_a_graph_of_unknown_batch(case, activation):
    x, filter = operands(case, case.x_shape, case.filter_shape)

    @tf.function(
        input_signature=[unknown_batch(case, case.x_shape), tf.TensorSpec(filter.shape, filter.dtype)]
    )
    def run(x, filter):
        y = depthwise.conv2d(x, filter, activation=activation, **case.keywords)
        assert y.shape.as_list()[1:] == list(case.spec.output_shape)[1:]
        return y

    assert_same(run(x, filter), depthwise.conv2d(x, filter, activation=activation, **case.keywords))


def gradients(x, filter, grad, keywords):
    with tf.GradientTape() as tape:
        tape.watch([x, filter])
        y = depthwise.conv2d(x, filter, **keywords)
    return tape.gradient(y, [x, filter], output_gradients=grad)


@few
@given(case=cases())
def test_gradients_have_numpys_bits(case):
    x, filter, grad = operands(case, case.x_shape, case.filter_shape, case.spec.output_shape)
    grad_x, grad_filter = gradients(*map(tf.constant, (x, filter, grad)), case.keywords)
    assert_same(grad_x, depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords))
    assert_same(grad_filter, depthwise.conv2d_grad_filter(x, filter.shape, grad, **case.keywords))


@settings(max_examples=settings.default.max_examples // 10)
@given(case=cases())
def test_gradients_in_a_graph_of_unknown_batch(case):
    x, filter, grad = operands(case, case.x_shape, case.filter_shape, case.spec.output_shape)
    signature = [
        unknown_batch(case, x.shape),
        tf.TensorSpec(filter.shape, filter.dtype),
        unknown_batch(case, grad.shape),
    ]
    run = tf.function(lambda *arrays: gradients(*arrays, case.keywords), input_signature=signature)
    grad_x, grad_filter = run(x, filter, grad)
    assert_same(grad_x, depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords))
    assert_same(grad_filter, depthwise.conv2d_grad_filter(x, filter.shape, grad, **case.keywords))


@few
@given(case=cases())
def test_gradient_functions_have_numpys_bits(case):
    x, filter, grad = operands(case, case.x_shape, case.filter_shape, case.spec.output_shape)
    for_x = depthwise.conv2d_grad_input(x.shape, tf.constant(filter), tf.constant(grad), **case.keywords)
    for_filter = depthwise.conv2d_grad_filter(
        tf.constant(x), filter.shape, tf.constant(grad), **case.keywords
    )
    assert_same(for_x, depthwise.conv2d_grad_input(x.shape, filter, grad, **case.keywords))
    assert_same(for_filter, depthwise.conv2d_grad_filter(x, filter.shape, grad, **case.keywords))


@pytest.mark.parametrize(("border", "algorithm"), ALGORITHM_CASES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("in_graph", [False, True])
def test_border_and_algorithm_pass_through(rng, border, algorithm, layout, in_graph):
    keywords = {"border": border, "algorithm": algorithm, "layout": layout}
    x, filter, grad, *expected = algorithm_problem(rng, keywords)

    def run(x, filter, grad):
        return depthwise.conv2d(x, filter, **keywords), *gradients(x, filter, grad, keywords)

    run = tf.function(run) if in_graph else run
    for result, array in zip(run(*map(tf.constant, (x, filter, grad))), expected, strict=True):
        assert_same(result, array)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("keywords", [{}, {"dilations": [2, 2]}, {"strides": [1, 2, 2, 1]}])
@pytest.mark.parametrize("padding", ["SAME", "VALID", [[0, 0], [1, 2], [0, 3], [0, 0]]])
def test_stands_in_for_tensorflows_own(rng, keywords, padding, dtype):
    arguments = {"strides": [1, 1, 1, 1], "padding": padding, "name": "blur", **keywords}
    x, filter = (tf.constant(random_array(rng, s, dtype)) for s in ((2, 9, 8, 6), (3, 3, 6, 2)))
    results = []
    for function in (depthwise.tensorflow.depthwise_conv2d, tf.nn.depthwise_conv2d):
        with tf.GradientTape() as tape:
            tape.watch([x, filter])
            y = function(x, filter, **arguments)
        results.append((y, *tape.gradient(y, [x, filter])))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_backprop_functions_take_sizes_of_every_kind(rng):
    x, filter = random_array(rng, (2, 9, 8, 6), "float32"), random_array(rng, (3, 3, 6, 2), "float32")
    rest = ([1, 2, 2, 1], "SAME")
    y = depthwise.depthwise_conv2d(x, filter, *rest)
    for_x = depthwise.depthwise_conv2d_backprop_input(x.shape, filter, y, *rest)
    for_filter = depthwise.depthwise_conv2d_backprop_filter(x, filter.shape, y, *rest)
    x, filter, y = map(tf.constant, (x, filter, y))
    run_x = lambda sizes: depthwise.depthwise_conv2d_backprop_input(sizes, filter, y, *rest)  # noqa: E731
    run_filter = lambda sizes: depthwise.depthwise_conv2d_backprop_filter(x, sizes, y, *rest)  # noqa: E731
    for shape, run, expected in ((x.shape, run_x, for_x), (filter.shape, run_filter, for_filter)):
        for sizes in (shape, shape.as_list(), tf.constant(shape), np.array(shape)):
            assert_same(run(sizes), expected)
        assert_same(tf.function(run)(tf.constant(shape)), expected)


def test_name_of_the_result():
    @tf.function
    def run(x, filter):
        return depthwise.depthwise_conv2d(x, filter, [1, 1, 1, 1], "SAME", name="blur")

    graph = run.get_concrete_function(tf.ones((1, 4, 4, 2)), tf.ones((3, 3, 2, 1))).graph
    assert graph.outputs[0].op.inputs[0].op.name == "blur"


@pytest.mark.parametrize("batch", [2, None])
@pytest.mark.parametrize("size", [(9, 8), (None, 8), (None, None)])
def test_shapes_known_in_a_graph(batch, size):
    @tf.function(input_signature=[tf.TensorSpec((batch, *size, 6)), tf.TensorSpec((3, 3, 6, 2))])
    def run(x, filter):
        y = depthwise.conv2d(x, filter, stride=2)
        assert y.shape.as_list() == [batch, *(None if n is None else -(-n // 2) for n in size), 12]
        return y

    assert run(tf.ones((2, 9, 8, 6)), tf.ones((3, 3, 6, 2))).shape == (2, 5, 4, 12)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_of_second_order(rng, activation, layout, in_graph):
    """By finite differences of the first; the sine makes the second derivative differ from 0."""
    x, filter, bias = (
        tf.constant(random_array(rng, s, "float64")) for s in ((1, 4, 5, 4), (3, 3, 4, 1), (4,))
    )
    if layout == "NCHW":
        x = tf.transpose(x, (0, 3, 1, 2))

    def first(x, filter, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, filter, bias])
            y = depthwise.conv2d(x, filter, bias=bias, activation=activation, layout=layout)
            loss = tf.reduce_sum(tf.sin(y))
        return tape.gradient(loss, [x, filter, bias])

    first = tf.function(first) if in_graph else first
    point = [x, filter, bias]
    move = [tf.constant(random_array(rng, tensor.shape, "float64")) for tensor in point]
    with tf.GradientTape() as tape:
        tape.watch(point)
        along = sum(tf.reduce_sum(a * b) for a, b in zip(first(*point), move, strict=True))
    second = tape.gradient(along, point)
    step = 1e-6
    ahead, behind = (first(*(a + s * b for a, b in zip(point, move, strict=True))) for s in (step, -step))
    for exact, a, b in zip(second, ahead, behind, strict=True):
        np.testing.assert_allclose(exact, (a - b) / (2 * step), rtol=1e-5, atol=1e-6)


def test_gradient_of_a_variable(rng):
    filter = tf.Variable(random_array(rng, (3, 3, 2, 1), "float32"))
    x = tf.constant(random_array(rng, (1, 5, 5, 2), "float32"))
    with tf.GradientTape() as tape:
        y = depthwise.conv2d(x, filter)
    expected = depthwise.conv2d_grad_filter(x.numpy(), (3, 3, 2, 1), np.ones(y.shape, np.float32))
    assert_same(tape.gradient(y, filter), expected)


def test_forward_mode(rng):
    x, filter = (tf.constant(random_array(rng, s, "float64")) for s in ((1, 5, 5, 2), (3, 3, 2, 1)))
    with tf.autodiff.ForwardAccumulator(filter, filter) as accumulator:
        y = depthwise.conv2d(x, filter)
    np.testing.assert_allclose(accumulator.jvp(y), y, rtol=1e-12)


def test_eager_tensors_are_not_copied():
    x = tf.ones((1, 256, 256, 8))
    seen = []
    convolution = depthwise.tensorflow._general_face(
        (1, "SAME", 1, "NHWC", "constant", None, "auto"), None, None
    )
    compute = type(convolution)._compute

    def spy(self, op, arrays, *rest):
        result = compute(self, op, arrays, *rest)
        seen.append((arrays[0], result))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(convolution), "_compute", spy)
        y = depthwise.conv2d(x, tf.ones((3, 3, 8, 1)))
    ((read, written),) = seen
    assert np.shares_memory(read, np.asarray(memoryview(x)))
    assert np.shares_memory(written, np.asarray(memoryview(y)))
    assert written.ctypes.data % 64 == 0


def test_results_live_as_long_as_their_tensors(rng):
    x, filter = (tf.constant(random_array(rng, s, "float32")) for s in ((1, 64, 64, 8), (3, 3, 8, 1)))
    first = depthwise.conv2d(x, filter)
    copy = first.numpy()
    for _ in range(50):
        depthwise.conv2d(x * 2, filter)
    assert_same(first, copy)


# ---- bad input ---------------------------------------------------------------------------------------------

X, W = np.ones((1, 4, 4, 2), np.float32), np.ones((3, 3, 2, 1), np.float32)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "complex64", "bool", "string"])
def test_wrong_dtypes(dtype):
    x = tf.fill(X.shape, "a") if dtype == "string" else tf.cast(X, dtype)
    filter = tf.fill(W.shape, "a") if dtype == "string" else tf.cast(W, dtype)
    with pytest.raises(ValueError, match=r"x must have dtype float16"):
        depthwise.conv2d(x, filter)
    with pytest.raises(ValueError, match="x and filter must have the same dtype"):
        depthwise.conv2d(tf.constant(X), tf.constant(W, tf.float64))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"stride": 1.0}, TypeError, "stride must be an integer"),
        ({"dilation": -1}, ValueError, "dilation must be at least 1"),
        ({"padding": "same"}, ValueError, "padding must be"),
        ({"padding": 10**30}, ValueError, "at most"),
        ({"layout": "nhwc"}, ValueError, "layout must be"),
        ({"bias": tf.ones(3)}, ValueError, r"bias must have shape \(2,\)"),
        ({"bias": tf.ones(2, tf.float64)}, ValueError, "bias"),
        ({"bias": np.ones(2, np.float32)}, TypeError, "of one library"),
        ({"activation": "tanh"}, ValueError, "activation must be"),
        ({"out": tf.ones((1, 4, 4, 2))}, TypeError, "out must be None"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1"),
    ],
)
@pytest.mark.parametrize("in_graph", [False, True])
def test_wrong_arguments(keywords, error, message, in_graph):
    run = lambda x, filter: depthwise.conv2d(x, filter, **keywords)  # noqa: E731
    with pytest.raises(error, match=message):
        (tf.function(run) if in_graph else run)(tf.constant(X), tf.constant(W))


@pytest.mark.parametrize("shape", [(), (4,), (4, 4), (1, 1, 4, 4, 2)])
@pytest.mark.parametrize("in_graph", [False, True])
def test_wrong_ranks(shape, in_graph):
    run = tf.function(depthwise.conv2d) if in_graph else depthwise.conv2d
    with pytest.raises(ValueError, match="x must have"):
        run(tf.ones(shape), tf.constant(W))


@pytest.mark.parametrize("sizes", [5, (1, 4, 4), (1, -4, 4, 2), (1879048192,) * 4, (1, 5, 4, 2), ()])
def test_wrong_sizes(sizes):
    for given_sizes in (sizes, tf.constant(sizes, tf.int64)):
        with pytest.raises((TypeError, ValueError), match=r"input_sizes|too large|out_backprop"):
            depthwise.depthwise_conv2d_backprop_input(
                given_sizes, tf.constant(W), tf.ones((1, 4, 4, 2)), [1, 1, 1, 1], "SAME"
            )
    with pytest.raises(TypeError, match="filter_sizes must be integers"):
        depthwise.depthwise_conv2d_backprop_filter(
            tf.constant(X), tf.constant([3.0, 3.0, 2.0, 1.0]), tf.constant(X), [1, 1, 1, 1], "SAME"
        )


def test_names_that_are_none():
    for name in (3, b"blur", ["a"]):
        with pytest.raises(TypeError, match="name must be a string"):
            depthwise.depthwise_conv2d(tf.constant(X), tf.constant(W), [1, 1, 1, 1], "SAME", name=name)


def test_tensors_of_other_kinds():
    with pytest.raises(TypeError, match="x and filter must be arrays of one library"):
        depthwise.conv2d(tf.constant(X), W)
    with pytest.raises(
        TypeError, match=r"x must be a dense tensor or a NumPy array, got tensorflow.*SparseTensor"
    ):
        depthwise.conv2d(tf.sparse.from_dense(X), tf.constant(W))
    with pytest.raises(
        TypeError, match=r"x must be a dense tensor or a NumPy array, got tensorflow.*RaggedTensor"
    ):
        depthwise.conv2d(tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.constant(W))
    with pytest.raises(TypeError, match="x must be a dense tensor"):
        depthwise.tensorflow.conv2d(X.tolist(), W)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shapes", [((0, 4, 4, 2), (3, 3, 2, 1)), ((1, 4, 4, 0), (3, 3, 0, 2)), ((1, 4, 4, 2), (0, 3, 2, 1))]
)
def test_empty_arrays(dtype, shapes):
    x, filter = (np.ones(shape, DTYPES[dtype]) for shape in shapes)
    assert_same(depthwise.conv2d(tf.constant(x), tf.constant(filter)), depthwise.conv2d(x, filter))
