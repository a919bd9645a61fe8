"""The faces: what they return, take and refuse, beside the numbers themselves."""

import copy
import pickle
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from helpers import DTYPES, assert_forward, check_conv2d, check_grad_filter, random_array, require, same_bits

import depthwise
from depthwise import _dispatch

ONES = (1, 1, 1, 1)


@pytest.fixture
def arrays(rng):
    """An image (2, 6, 5, 4) and a filter (3, 3, 4, 2) of float32."""
    return random_array(rng, (2, 6, 5, 4), "float32"), random_array(rng, (3, 3, 4, 2), "float32")


def test_public_names():
    assert set(depthwise.__all__) <= set(dir(depthwise))
    assert depthwise.reference.conv2d is not depthwise.conv2d


@pytest.mark.parametrize("dtype", DTYPES)
def test_worked_examples(dtype):
    x = np.array([[1, 2], [3, 4], [5, 6]]).astype(DTYPES[dtype]).reshape(1, 3, 2, 1)
    filter = np.array([[1, 2], [3, 4]]).astype(DTYPES[dtype]).reshape(2, 1, 1, 2)
    valid = depthwise.depthwise_conv2d(x, filter, ONES, "VALID")
    assert valid.dtype == x.dtype
    assert valid.tolist() == [[[[10, 14], [14, 20]], [[18, 26], [22, 32]]]]
    padded = depthwise.depthwise_conv2d(x, filter, ONES, [[0, 0], [1, 0], [1, 0], [0, 0]])
    assert padded.tolist() == [
        [[[0, 0], [3, 4], [6, 8]], [[0, 0], [10, 14], [14, 20]], [[0, 0], [18, 26], [22, 32]]]
    ]


def test_the_result_is_new_and_owned(arrays):
    x, filter = arrays
    first, second = depthwise.conv2d(x, filter), depthwise.conv2d(x, filter)
    assert type(first) is np.ndarray
    assert first.flags.carray
    assert not np.shares_memory(first, second)
    second[...] = 0
    assert same_bits(first, depthwise.conv2d(x, filter))


def test_strides_of_lists_tuples_and_arrays_mean_the_same(arrays):
    x, filter = arrays
    expected = depthwise.depthwise_conv2d(x, filter, [1, 2, 2, 1], "SAME")
    for strides in ((1, 2, 2, 1), np.array([1, 2, 2, 1]), [np.int64(1), np.int8(2), 2, 1]):
        assert same_bits(depthwise.depthwise_conv2d(x, filter, strides, "SAME"), expected)


@pytest.mark.parametrize("wrong", [True, 1.0, np.float64(1), np.True_, "1"])
def test_what_equals_one_is_not_taken_for_it_from_the_cache(arrays, wrong):
    x, filter = arrays
    depthwise.conv2d(x, filter, stride=1, dilation=(1, 1), padding=((1, 1), (1, 1)))
    depthwise.depthwise_conv2d(x, filter, ONES, [[0, 0], [1, 1], [1, 1], [0, 0]], None, [1, 1])
    with pytest.raises(TypeError, match="stride"):
        depthwise.conv2d(x, filter, stride=wrong, dilation=(1, 1), padding=((1, 1), (1, 1)))
    with pytest.raises(TypeError, match=r"dilation\[0\]"):
        depthwise.conv2d(x, filter, stride=1, dilation=(wrong, 1), padding=((1, 1), (1, 1)))
    with pytest.raises(TypeError, match=r"padding\[1\]\[0\]"):
        depthwise.conv2d(x, filter, stride=1, dilation=(1, 1), padding=((1, 1), (wrong, 1)))
    with pytest.raises(TypeError, match=r"strides\[1\]"):
        rows = [[0, 0], [1, 1], [1, 1], [0, 0]]
        depthwise.depthwise_conv2d(x, filter, (1, wrong, 1, 1), rows, None, [1, 1])


def test_a_list_changed_after_a_call_counts(arrays):
    x, filter = arrays
    strides = [1, 1, 1, 1]
    assert depthwise.depthwise_conv2d(x, filter, strides, "SAME").shape == (2, 6, 5, 8)
    strides[1] = 2
    assert depthwise.depthwise_conv2d(x, filter, strides, "SAME").shape == (2, 3, 5, 8)


@pytest.mark.parametrize("name", [None, "layer", 3, [], {}, object()])
def test_name_is_ignored(arrays, name):
    assert depthwise.depthwise_conv2d(*arrays, ONES, "SAME", name=name).shape == (2, 6, 5, 8)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_images_without_batch_and_shared_filters(rng, layout, dtype):
    shape = (9, 7, 5) if layout == "NHWC" else (5, 9, 7)
    x, kernel = random_array(rng, shape, dtype), random_array(rng, (3, 2), dtype)
    y = check_conv2d(x, kernel, layout=layout, stride=2)
    batched = depthwise.conv2d(x[None], kernel, layout=layout, stride=2)
    assert same_bits(y, batched[0])
    bias = random_array(rng, (5,), dtype)
    out = np.empty_like(y)
    assert check_conv2d(x, kernel, layout=layout, stride=2, bias=bias, out=out) is out


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_a_shared_filter_rounds_once(rng, layout, dtype):
    shape = (2, 6, 5, 33) if layout == "NHWC" else (2, 33, 6, 5)
    x, grad = random_array(rng, shape, dtype), random_array(rng, shape, dtype)
    check_grad_filter(x, (3, 3), grad, layout=layout)
    out = np.empty((3, 3), DTYPES[dtype])
    assert depthwise.conv2d_grad_filter(x, (3, 3), grad, layout=layout, out=out) is out
    assert same_bits(out, depthwise.conv2d_grad_filter(x, (3, 3), grad, layout=layout))


def test_bias_and_activation_of_numpy(arrays, rng):
    x, filter = arrays
    bias = random_array(rng, (8,), "float32")
    y = depthwise.conv2d(x, filter)
    np.testing.assert_array_equal(depthwise.conv2d(x, filter, activation="relu"), np.maximum(y, 0))
    for strided in (np.repeat(bias, 2)[::2], bias.astype(">f4"), bias[::-1].copy()[::-1]):
        assert same_bits(depthwise.conv2d(x, filter, bias=strided), depthwise.conv2d(x, filter, bias=bias))


class TestOut:
    def test_is_returned_and_has_the_same_bits(self, arrays):
        y = depthwise.conv2d(*arrays)
        out = np.full_like(y, np.nan)
        assert depthwise.conv2d(*arrays, out=out) is out
        assert same_bits(out, y)

    @pytest.mark.parametrize("name", ["fortran", "sliced", "reversed", "unaligned"])
    def test_may_have_any_memory(self, arrays, name):
        y = depthwise.conv2d(*arrays)
        around = np.full((*y.shape[:3], 3 * y.shape[3]), -1, y.dtype)
        outs = {
            "fortran": np.empty_like(y, order="F"),
            "sliced": around[..., 1::3],
            "reversed": np.empty_like(y)[:, ::-1],
            "unaligned": np.ndarray(y.shape, y.dtype, np.empty(y.nbytes + 1, np.uint8), offset=1),
        }
        out = outs[name]
        assert depthwise.conv2d(*arrays, out=out) is out
        np.testing.assert_array_equal(out, y)
        assert (around[..., 0::3] == -1).all()
        assert (around[..., 2::3] == -1).all()

    def test_interleaved_with_the_input_is_no_overlap(self, rng):
        buffer = random_array(rng, (1, 6, 6, 8), "float32")
        x, filter = buffer[..., ::2], random_array(rng, (3, 3, 4, 1), "float32")
        y = depthwise.conv2d(x, filter)
        out = buffer[..., 1::2]
        assert depthwise.conv2d(x, filter, out=out) is out
        np.testing.assert_array_equal(out, y)

    @pytest.mark.parametrize("op", ["grad_input", "grad_filter"])
    def test_of_the_gradients(self, arrays, op):
        require(op)
        x, filter = arrays
        grad = depthwise.conv2d(x, filter)
        calls = {
            "grad_input": lambda **out: depthwise.conv2d_grad_input(x.shape, filter, grad, **out),
            "grad_filter": lambda **out: depthwise.conv2d_grad_filter(x, filter.shape, grad, **out),
        }
        expected = calls[op]()
        out = np.full_like(expected, np.nan)
        assert calls[op](out=out) is out
        assert same_bits(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_results_begin_at_a_line_of_the_cache(rng, dtype):
    """Only there are vectors stored whole, or past the caches; and where no load takes one for its own."""
    x, filter = random_array(rng, (1, 40, 41, 32), dtype), random_array(rng, (3, 3, 32, 1), dtype)
    y = depthwise.conv2d(x, filter)
    kept = [depthwise.conv2d_grad_input(x.shape, filter, y) for _ in range(4)]
    for result, source in ((y, x), *((one, y) for one in kept)):
        assert result.ctypes.data % 64 == 0
        assert (source.ctypes.data // 64 * 64 - result.ctypes.data) % 4096 == 256  # clear of what follows
        assert result.flags.c_contiguous and result.flags.writeable
    assert same_bits(pickle.loads(pickle.dumps(y)), y)


class TestConv2D:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
    def test_equals_conv2d(self, rng, dtype, layout):
        filter, bias = random_array(rng, (3, 3, 4, 2), dtype), random_array(rng, (8,), dtype)
        keywords = {"stride": (2, 1), "padding": 1, "layout": layout, "bias": bias, "activation": "silu"}
        op = depthwise.Conv2D(filter, **keywords)
        for size in (6, 7, 6):
            shape = (2, size, 5, 4) if layout == "NHWC" else (2, 4, size, 5)
            x = random_array(rng, shape, dtype)
            assert same_bits(op(x), depthwise.conv2d(x, filter, **keywords))
            out = np.empty_like(op(x))
            assert op(x, out) is out
            assert op(x[0], out=out[0]).base is not None
            assert same_bits(out, depthwise.conv2d(x, filter, **keywords))

    def test_shared_kernel_serves_any_number_of_channels(self, rng):
        kernel = random_array(rng, (3, 3), "float32")
        op = depthwise.Conv2D(kernel, bias=None)
        for channels in (1, 3, 8):
            x = random_array(rng, (5, 5, channels), "float32")
            assert_forward(op(x), x, kernel)

    def test_keeps_its_own_arrays(self, arrays):
        x, filter = arrays
        op, expected = depthwise.Conv2D(filter), depthwise.conv2d(x, filter)
        filter[...] = 0
        assert same_bits(op(x), expected)
        with pytest.raises(ValueError, match="read-only"):
            op.filter[...] = 0

    def test_is_immutable(self, arrays):
        op = depthwise.Conv2D(arrays[1])
        for change in (
            lambda: setattr(op, "_filter", 1),
            lambda: setattr(op, "new", 1),
            lambda: delattr(op, "_bias"),
        ):
            with pytest.raises(AttributeError, match="immutable"):
                change()

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_pickles(self, arrays, protocol):
        x, filter = arrays
        bias = np.arange(8, dtype=np.float32)
        op = depthwise.Conv2D(filter, bias=bias, stride=2, padding="VALID", activation="relu6", num_threads=1)
        op(x)
        for twin in (pickle.loads(pickle.dumps(op, protocol)), copy.copy(op), copy.deepcopy(op)):
            assert repr(twin) == repr(op)
            assert same_bits(twin(x), op(x))

    def test_repr_names_what_matters(self, arrays):
        text = repr(depthwise.Conv2D(arrays[1], stride=2))
        assert "float32 (3, 3, 4, 2)" in text
        assert "stride=2" in text

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"stride": 0}, "stride must be at least 1"),
            ({"stride": True}, "stride must be an integer"),
            ({"padding": "same"}, "padding must be 'SAME' or 'VALID'"),
            ({"dilation": 1.5}, "dilation must be an integer"),
            ({"layout": "HWC"}, "layout must be"),
            ({"border": "none"}, "border must be"),
            ({"activation": "gelu"}, "activation must be"),
            ({"algorithm": "winograd"}, "algorithm must be"),
            ({"dtype": "float64"}, "dtype must be None or that of the filter"),
            ({"num_threads": 0}, "num_threads must be at least 1"),
            ({"bias": np.zeros(7, np.float32)}, "bias must have shape"),
            ({"bias": np.zeros(8)}, "filter and bias must have the same dtype"),
        ],
    )
    def test_refuses_at_once(self, arrays, keywords, message):
        with pytest.raises((TypeError, ValueError), match=message):
            depthwise.Conv2D(arrays[1], **keywords)

    def test_refuses_wrong_images(self, arrays):
        op = depthwise.Conv2D(arrays[1])
        with pytest.raises(ValueError, match="as many channels"):
            op(np.zeros((1, 5, 5, 3), np.float32))
        with pytest.raises(ValueError, match="x and filter must have the same dtype"):
            op(np.zeros((1, 5, 5, 4)))
        with pytest.raises(TypeError, match="x must be a NumPy array"):
            op([[1.0]])

    def test_survives_more_shapes_than_it_remembers(self, arrays):
        op = depthwise.Conv2D(np.ones((1, 1), np.float32))
        for width in range(1, 600):
            assert op(np.ones((1, width, 1), np.float32)).shape == (1, width, 1)
        assert len(op._prepared) <= 256


class TestPlan:
    def test_fields_and_report(self):
        plan = depthwise.plan((1, 14, 14, 64), (5, 5, 64, 1), stride=2, num_threads=1)
        assert plan.output_shape == (1, 7, 7, 64)
        assert plan.multiply_adds == 7 * 7 * 25 * 64
        assert plan.bytes == 4 * (14 * 14 * 64 + 25 * 64 + 7 * 7 * 64)
        assert plan.threads == 1
        assert plan.floor_us == max(plan.compute_floor_us, plan.memory_floor_us) > 0
        report = str(plan)
        for part in (plan.kernel, plan.isa, plan.tile, plan.reason, "float32", "NHWC", "multiply-adds", "us"):
            assert part in report
        with pytest.raises(AttributeError):
            plan.kernel = "other"

    @pytest.mark.parametrize("op", ["forward", "grad_input", "grad_filter"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_of_every_operation(self, op, dtype):
        require(op)
        plan = depthwise.plan((2, 9, 9, 8), (3, 3, 8, 2), op=op, x_dtype=dtype)
        assert (plan.op, plan.dtype) == (op, dtype)
        assert plan == depthwise.plan((2, 9, 9, 8), (3, 3, 8, 2), op=op, dtype=dtype)

    def test_says_what_the_call_does(self, arrays):
        from depthwise import _native

        x, filter = arrays
        depthwise.conv2d(x, filter, num_threads=1)
        ran = _native.last_run()
        plan = depthwise.plan(x.shape, filter.shape, num_threads=1)
        assert (ran["kernel"], ran["isa"], ran["threads"]) == (plan.kernel, plan.isa, plan.threads)

    @pytest.mark.parametrize(
        ("arguments", "keywords", "message"),
        [
            (((1, 5, 5), (3, 3, 4, 1)), {}, "as many channels"),
            (((5, 5), (3, 3)), {}, "x_shape|x must have"),
            (((1, 5, 5, 4), (3, 3, 4, 1)), {"op": "backward"}, "op must be"),
            (((1, 5, 5, 4), (3, 3, 4, 1)), {"x_dtype": "int8"}, "must have dtype"),
            (((1, 5, 5, 4), (3, 3, 4, 1)), {"x_dtype": "floaty"}, "x_dtype must be a dtype"),
            (((1, 5, 5, -4), (3, 3, 4, 1)), {}, "at least 0"),
        ],
    )
    def test_refuses(self, arguments, keywords, message):
        with pytest.raises((TypeError, ValueError), match=message):
            depthwise.plan(*arguments, **keywords)


class TestConfig:
    def test_threads_are_remembered(self):
        before = depthwise.get_num_threads()
        try:
            depthwise.set_num_threads(np.int64(3))
            assert depthwise.get_num_threads() == 3
            assert depthwise.show_config(mode="dict")["num_threads"] == 3
        finally:
            depthwise.set_num_threads(before)

    def test_show_config_prints(self, capsys):
        assert depthwise.show_config() is None
        printed = capsys.readouterr().out
        for name in depthwise.show_config(mode="dict"):
            assert name in printed
        with pytest.raises(ValueError, match="mode must be"):
            depthwise.show_config(mode="yaml")


class TestDispatch:
    @pytest.fixture
    def framework(self, monkeypatch):
        """A framework `toy` whose arrays wrap NumPy's, and its adapter."""
        toy = types.ModuleType("toy")

        class Tensor:
            __module__ = "toy.core"

            def __init__(self, values):
                self.values = values

        class Parameter(Tensor):
            __module__ = "model"

        def conv2d(x, filter, **keywords):
            return Tensor(depthwise.conv2d(x.values, filter.values, **keywords))

        toy.Tensor, toy.Parameter, toy.conv2d = Tensor, Parameter, conv2d
        monkeypatch.setitem(_dispatch.ADAPTERS, "toy", lambda: toy)
        return toy

    def test_adapter_gets_the_call(self, framework, arrays):
        x, filter = arrays
        result = depthwise.conv2d(framework.Tensor(x), framework.Parameter(filter), stride=2)
        assert type(result) is framework.Tensor
        assert same_bits(result.values, depthwise.conv2d(x, filter, stride=2))

    def test_two_libraries_in_one_call(self, framework, arrays):
        x, filter = arrays
        with pytest.raises(TypeError, match=r"x and filter must be arrays of one library.*toy\.core.*numpy"):
            depthwise.conv2d(framework.Tensor(x), filter)

    @pytest.mark.parametrize("wrong", [None, 1.0, np.float32(1), [[1.0]], "x", object()])
    def test_no_array_is_a_type_error(self, arrays, wrong):
        for function, array in (("x", arrays[1]), ("filter", arrays[0])):
            operands = (wrong, array) if function == "x" else (array, wrong)
            with pytest.raises(TypeError, match=f"{function} must be"):
                depthwise.conv2d(*operands)

    def test_subclasses_count_as_arrays(self, arrays, tmp_path):
        x, filter = arrays
        expected = depthwise.conv2d(x, filter)
        mapped = np.memmap(tmp_path / "x.bin", x.dtype, "w+", shape=x.shape)
        mapped[...] = x
        result = depthwise.conv2d(mapped, filter)
        assert type(result) is np.ndarray
        assert same_bits(result, expected)
        box = np.asmatrix(np.ones((3, 3), np.float32))
        assert same_bits(depthwise.conv2d(x, box), depthwise.conv2d(x, np.asarray(box)))

    def test_masked_arrays_are_refused(self, arrays):
        x, filter = arrays
        with pytest.raises(TypeError, match="x must not be a masked array"):
            depthwise.conv2d(np.ma.masked_less(x, 0), filter)


def test_frameworks_are_not_imported():
    """Nothing but NumPy and ml_dtypes comes with the package."""
    code = "import sys, depthwise; print({'torch', 'jax', 'tensorflow', 'dask'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_more_argument_combinations_than_are_remembered():
    x, filter = np.ones((1, 4, 4, 1), np.float32), np.ones((1, 1), np.float32)
    for pad in range(4200):
        assert depthwise.conv2d(x[:, :1, :1], filter, padding=((0, 0), (0, pad))).shape == (1, 1, 1 + pad, 1)


class TestCallsMadeBefore:
    """A call like an earlier one takes a short way through; what it returns and refuses is the same."""

    @pytest.mark.parametrize(
        ("wrong", "error", "message"),
        [
            ({"bias": np.zeros(7, np.float32)}, ValueError, "bias must have shape"),
            ({"bias": np.zeros(8)}, ValueError, "bias must have dtype float32"),
            ({"bias": np.ma.zeros(8, np.float32)}, TypeError, "bias must not be a masked array"),
            ({"bias": [0.0] * 8}, TypeError, "bias must be"),
            ({"bias": None, "out": np.zeros((2, 6, 5, 7), np.float32)}, ValueError, "out must have shape"),
            ({"out": np.zeros((2, 6, 5, 8))}, ValueError, "out must have dtype"),
            ({"out": np.broadcast_to(np.float32(0), (2, 6, 5, 8))}, ValueError, "out must be writeable"),
            ({"out": np.ma.zeros((2, 6, 5, 8), np.float32)}, TypeError, "out must be a NumPy array"),
            ({"num_threads": True}, TypeError, "num_threads"),
            ({"num_threads": 0}, ValueError, "num_threads"),
            ({"dtype": "float64"}, ValueError, "dtype must be"),
            ({"layout": "NCHW"}, ValueError, "filter must"),
        ],
    )
    def test_complain_alike(self, arrays, wrong, error, message):
        good = {"bias": np.zeros(8, np.float32), "num_threads": 1}
        for _ in range(3):
            depthwise.conv2d(*arrays, **good)
            depthwise.conv2d(*arrays, num_threads=1)
            with pytest.raises(error, match=message):
                depthwise.conv2d(*arrays, **good | wrong)

    def test_take_out_and_bias_of_any_memory(self, arrays, rng):
        bias = random_array(rng, (8,), "float32")
        expected = depthwise.conv2d(*arrays, bias=bias)
        apart, swapped = np.empty((2, 6, 5, 16), np.float32)[..., ::2], np.repeat(bias, 2)[::2]
        for out in (None, np.empty_like(expected), apart):
            for values in (bias, swapped, bias.astype(">f4")):
                result = depthwise.conv2d(*arrays, bias=values, out=out)
                assert out is None or result is out
                assert same_bits(np.ascontiguousarray(result), expected)

    def test_refuse_an_out_that_is_the_input(self, rng):
        x, filter = random_array(rng, (1, 4, 4, 2), "float32"), np.ones((3, 3, 2, 1), np.float32)
        depthwise.conv2d(x, filter)
        with pytest.raises(ValueError, match="out must not overlap"):
            depthwise.conv2d(x, filter, out=x)

    def test_are_told_apart(self, rng):
        """More calls than are remembered, each made again between others."""
        filter = random_array(rng, (3, 3, 1, 1), "float32")
        images = [random_array(rng, (1, 1 + i % 20, 1 + i // 20, 1), "float32") for i in range(400)]
        settings = [{"stride": (1, 2)}, {"stride": (2, 1)}, {"padding": 1, "border": "edge"}, {}]

        def results():
            return [depthwise.conv2d(x, filter, **settings[i % 4]) for i, x in enumerate(images)]

        for i, (x, first, second) in enumerate(zip(images, results(), results(), strict=True)):
            assert_forward(first, x, filter, **settings[i % 4])
            assert first.shape == second.shape
            assert same_bits(first, second)

    @pytest.mark.parametrize(
        "strides", [[1, 2, 2, 1], (1, 2, 2, 1), np.array([1, 2, 2, 1]), [1, np.int64(2), 2, 1]]
    )
    def test_with_arguments_of_any_kind(self, arrays, strides):
        expected = depthwise.conv2d(*arrays, stride=2)
        for _ in range(2):
            assert same_bits(depthwise.depthwise_conv2d(*arrays, strides, "SAME"), expected)

    def test_never_of_what_contains_itself(self, arrays):
        endless = []
        endless.append(endless)
        for _ in range(2):
            with pytest.raises(TypeError, match="stride"):
                depthwise.conv2d(*arrays, stride=endless)

    def test_of_gradients(self, arrays, rng):
        x, filter = arrays
        grad = random_array(rng, (2, 6, 5, 8), "float32")
        calls = (
            lambda: depthwise.conv2d_grad_input(x.shape, filter, grad),
            lambda: depthwise.conv2d_grad_filter(x, filter.shape, grad),
            lambda: depthwise.depthwise_conv2d_backprop_input(list(x.shape), filter, grad, ONES, "SAME"),
            lambda: depthwise.depthwise_conv2d_backprop_filter(x, list(filter.shape), grad, ONES, "SAME"),
        )
        for call in calls:
            assert same_bits(call(), call())
        with pytest.raises(ValueError, match="grad must have shape"):
            depthwise.conv2d_grad_input((2, 6, 6, 4), filter, grad)


def test_errors_in_one_thread_do_not_disturb_others(arrays):
    x, filter = arrays
    expected, wrong = depthwise.conv2d(x, filter), []

    def worker(index):
        for _ in range(50):
            if index % 2:
                with pytest.raises(ValueError, match="stride"):
                    depthwise.conv2d(x, filter, stride=0)
            elif not same_bits(depthwise.conv2d(x, filter), expected):
                wrong.append(index)

    threads = [threading.Thread(target=worker, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
