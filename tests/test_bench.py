"""The benchmark's own parts: layers, problems, floors, statistics, reports, the protocol with its workers.

No other library is needed: the contenders here are ours and ones that this file makes up.
"""

from __future__ import annotations

import io
import json
import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from depthwise._bench import environments, protocol, sweep
from depthwise._bench.cli import app
from depthwise._bench.console import comma_list, positive_list
from depthwise._bench.environments import Located
from depthwise._bench.layers import (
    QUICK,
    Layer,
    load_layers,
    merge_layers,
    parse_layers,
    parse_name,
    quick_layers,
    select_layers,
)
from depthwise._bench.oracle import Oracle, problem_of, spot_error
from depthwise._bench.peers import OURS, PEERS
from depthwise._bench.peers.base import oihw_filter, symmetric_padding
from depthwise._bench.problem import LAYOUTS, OPS, Axis, Problem, to_layout
from depthwise._bench.report import Summary, factor, markdown, microseconds, percent, table, with_spread
from depthwise._bench.results import Entry, Group, Row, Run
from depthwise._bench.roofline import Roofline
from depthwise._bench.runner import Runner, Settings
from depthwise._bench.stats import Timing, geometric_mean
from depthwise._bench.timing import ContenderError, Effort, call_timer, interleave, medians
from depthwise._bench.workers import WORKER, Worker, WorkerError

BRIEF = Effort(burst=1e-4, seconds=1e-3, rounds=3)


class TestLayers:
    def test_the_file_holds_distinct_layers_with_their_networks(self) -> None:
        layers = load_layers()
        assert len({layer.name for layer in layers}) == len(layers) > 100
        shared = next(layer for layer in layers if layer.name == "112x112x32 3x3")
        assert {"mobilenet_v1_224", "mobilenet_v2_224", "mnasnet_1_0_224"} <= set(shared.nets)

    def test_every_quick_layer_exists(self) -> None:
        assert [layer.name for layer in quick_layers(load_layers())] == list(QUICK)

    def test_a_row_becomes_a_layer(self) -> None:
        (layer,) = parse_layers({"net": {"layers": [[56, 28, 144, 3, 5, 2, 1, 4, 7]]}})
        assert layer == Layer(56, 28, 144, 3, 5, 2, 1, 4, uses=(("net", 7),))
        assert layer.name == "56x28x144 3x5 s2 m4"

    @pytest.mark.parametrize("row", [[1, 2, 3], [0] * 9, [1.5] * 9, ["1"] * 9])
    def test_a_malformed_row_is_refused(self, row: list[object]) -> None:
        with pytest.raises(ValueError, match="layers of net"):
            parse_layers({"net": {"layers": [row]}})

    def test_duplicates_merge_and_counts_add(self) -> None:
        first, second = (Layer(7, 7, 8, 3, 3, uses=((net, 2),)) for net in ("a", "b"))
        assert merge_layers([first, second, first]) == [replace(first, uses=(("a", 4), ("b", 2)))]

    @pytest.mark.parametrize("layer", load_layers(), ids=lambda layer: layer.name)
    def test_names_can_be_read_back(self, layer: Layer) -> None:
        assert parse_name(layer.name) == replace(layer, uses=())

    def test_selection(self) -> None:
        layers = load_layers()
        assert {net for layer in select_layers(layers, nets=["multiplier"]) for net in layer.nets} == {
            "multiplier"
        }
        assert [layer.name for layer in select_layers(layers, patterns=["14x14x512 3x3"])] == [
            "14x14x512 3x3"
        ]
        assert all("7x7 s2" in layer.name for layer in select_layers(layers, patterns=["7x7 s2"]))
        assert len(select_layers(layers, patterns=["14x14x*"])) > 10
        (added,) = select_layers(layers, patterns=["2048x2048x32 3x3"])
        assert added == Layer(2048, 2048, 32, 3, 3)

    def test_a_selection_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no network begins with 'resnet'"):
            select_layers(load_layers(), nets=["resnet"])
        with pytest.raises(ValueError, match="nothing matches 'abc'"):
            select_layers(load_layers(), patterns=["abc"])


def small(op: str = "forward", layout: str = "NHWC", layer: Layer = Layer(6, 5, 3, 3, 3, 2, 1, 2)) -> Problem:  # noqa: B008
    return problem_of(layer, op=op, dtype="float32", layout=layout, batch=2)


class TestProblems:
    def test_counts_on_an_example_done_by_hand(self) -> None:
        problem = problem_of(Layer(4, 4, 2, 3, 3), op="forward", dtype="float32", layout="NHWC", batch=1)
        assert problem.h.live_taps == 10  # 2 + 3 + 3 + 2
        assert problem.live_multiply_adds == 10 * 10 * 2
        assert problem.multiply_adds == 4 * 4 * 2 * 9
        assert problem.bytes == 4 * (32 + 18 + 32)

    @pytest.mark.parametrize("op", OPS)
    def test_operands_are_the_same_in_both_layouts_and_every_time(self, op: str) -> None:
        (a, b), (c, d) = small(op, "NHWC").operands(), small(op, "NCHW").operands()
        np.testing.assert_array_equal(to_layout(a, "NHWC", "NCHW"), c)
        np.testing.assert_array_equal(to_layout(b, "NHWC", "NCHW") if op == "grad_filter" else b, d)
        assert (a.shape, b.shape) == small(op).shapes[:2]
        for array in (a, b, c, d):
            assert array.flags.c_contiguous and array.ctypes.data % 64 == 0
        for again, array in zip(small(op).operands(), (a, b), strict=True):
            np.testing.assert_array_equal(again, array)

    def test_json_round_trip(self) -> None:
        assert Problem.from_json(json.loads(json.dumps(small().to_json()))) == small()

    def test_unequal_padding_goes_into_the_image(self) -> None:
        problem = small(layer=Layer(6, 5, 3, 3, 3, 2))
        assert (problem.h.pad_before, problem.h.pad_after) == (0, 1)
        x, padding = symmetric_padding(problem, np.ones(problem.x_shape, np.float32))
        assert padding == (0, 1)
        assert x.shape == (2, 7, 5, 3)
        assert not x[:, 6].any() and x[:, :6].all()

    def test_grouped_filter_keeps_channels_together(self) -> None:
        filter = small().operands()[1]
        grouped = oihw_filter(small(), filter)
        assert grouped.shape == (6, 1, 3, 3)
        np.testing.assert_array_equal(grouped[2 * 2 + 1, 0], filter[:, :, 2, 1])


class TestOracle:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_accepts_the_right_result_and_no_other(self, layout: str) -> None:
        oracle = Oracle(small())
        right = to_layout(oracle.expected, "NHWC", layout).astype(np.float32)
        assert oracle.error(right, layout) is None
        wrong = right.copy()
        wrong[-1, -1, -1, -1] += 0.01
        assert "differs by 0.01" in str(oracle.error(wrong, layout))
        assert "shape" in str(oracle.error(right[:1], layout))
        assert oracle.error(np.full_like(right, np.nan), layout) is not None

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_spot_check(self, layout: str) -> None:
        problem = small(layout=layout)
        x, filter = problem.operands()
        right = Oracle(problem).expected.astype(np.float32)
        assert spot_error(problem, x, filter, right) is None
        wrong = right.copy()
        wrong[-1, -1, -1, -1] += 0.01
        assert "instead of" in str(spot_error(problem, x, filter, wrong))


class TestRoofline:
    def test_the_floor_is_the_larger_of_both_limits(self) -> None:
        problem = small()
        slow_memory = Roofline(lambda dtype, threads: 1e9 * threads, lambda size, threads: 1.0)
        floor = slow_memory.floor(problem, 2)
        assert floor.compute == 2 * problem.live_multiply_adds / 2e9
        assert floor.dense == 2 * problem.multiply_adds / 2e9 > floor.compute
        assert floor.seconds == floor.memory == problem.bytes
        assert floor.bound == "memory"
        assert (
            Roofline(lambda dtype, threads: 1.0, lambda size, threads: 1e9).floor(problem, 1).bound
            == "compute"
        )

    def test_the_best_measurement_counts_and_is_kept(self) -> None:
        rates = iter([1.0, 3.0, 2.0])
        roofline = Roofline(lambda dtype, threads: next(rates), lambda size, threads: 1.0)
        assert roofline.peak("float32", 1) == roofline.peak("bfloat16", 1) == 3.0

    def test_close_footprints_share_a_measurement(self) -> None:
        sizes: list[int] = []
        roofline = Roofline(lambda dtype, threads: 1.0, lambda size, threads: sizes.append(size) or 1.0)
        roofline.bandwidth(1_000_000, 1)
        roofline.bandwidth(1_010_000, 1)
        assert len(set(sizes)) == 1 and 900_000 < sizes[0] < 1_100_000

    def test_this_machine(self) -> None:
        floor = Roofline().floor(small(), 1)
        assert 0 < floor.compute < 1e-3 and 0 < floor.memory < 1e-3


class TestStatistics:
    def test_timing(self) -> None:
        timing = Timing.of([1.0, 2.0, 3.0, 4.0, 100.0])
        assert (timing.lower, timing.median, timing.upper, timing.rounds) == (2.0, 3.0, 4.0, 5)
        assert timing.spread == pytest.approx(1 / 3)
        with pytest.raises(ValueError, match="samples"):
            Timing.of([])

    def test_geometric_mean(self) -> None:
        assert geometric_mean([1, 2, 4]) == pytest.approx(2)
        assert np.isnan(geometric_mean([]))

    def test_rounds_are_interleaved_and_begin_in_turn(self) -> None:
        order: list[str] = []

        def timer(name: str) -> float:
            order.append(name)
            return 1.0

        timers = {name: lambda calls, warmup, name=name: timer(name) for name in "abc"}
        results = interleave(timers, Effort(burst=1.0, seconds=100.0, rounds=3))
        assert order[3:] == list("abcbcacab")
        assert all(samples == [1.0] * 3 for samples in results.values())

    def test_the_calls_of_a_sample_fill_the_burst(self) -> None:
        asked: list[tuple[int, int]] = []
        interleave(
            {"a": lambda calls, warmup: asked.append((calls, warmup)) or 1e-5}, Effort(burst=1e-3, rounds=2)
        )
        assert asked[-2:] == [(100, 1), (100, 1)]

    def test_a_slow_contender_gets_few_rounds(self) -> None:
        results = interleave(
            {"slow": lambda calls, warmup: 10.0, "fast": lambda calls, warmup: 1e-3},
            Effort(burst=1e-3, seconds=1.0, rounds=20),
        )
        assert [len(results[name]) for name in ("slow", "fast")] == [1, 20]  # type: ignore[arg-type]

    def test_a_contender_that_drops_out_leaves_the_others(self) -> None:
        def broken(calls: int, warmup: int) -> float:
            raise ContenderError("gone")

        results = interleave({"broken": broken, "ours": call_timer(lambda: None)}, BRIEF)
        assert isinstance(results["broken"], ContenderError)
        assert list(medians(results)) == ["ours"]


def entry(peer: str, layout: str, microseconds: float) -> Entry:
    seconds = microseconds * 1e-6
    return Entry(peer, layout, "timed", timing=Timing(seconds, 0.9 * seconds, 1.1 * seconds, 9))


def row(layer: str = "7x7x8 3x3", floor: float = 50.0, threads: int = 1, **changes: object) -> Row:
    entries = (
        entry("depthwise", "NHWC", 100),
        entry("prepared", "NHWC", 90),
        entry("torch", "NHWC", 300),
        entry("tensorflow", "NHWC", 900),
        entry("depthwise", "NCHW", 200),
        entry("onnxruntime", "NCHW", 250),
        Entry("litert", "NHWC", "wrong", "differs"),
        Entry("opencv", "NHWC", "unsupported", "no"),
    )
    base = Row(
        layer, {"net": 1}, "forward", "float32", 1, threads, 10, 9, 8, floor * 1e-6, "memory", 6e-5, entries
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class TestReport:
    def test_ratios_of_a_row(self) -> None:
        one = row()
        assert one.speedup("NHWC", "NHWC") == pytest.approx(3)
        assert one.speedup("NHWC", None) == pytest.approx(2.5)
        assert one.speedup("NHWC", None, "prepared") == pytest.approx(25 / 9)
        assert one.speedup("NCHW", None, "prepared") is None
        assert one.speedup("NCHW", None) == pytest.approx(1.25)
        assert one.roofline("NHWC") == pytest.approx(0.5)
        assert one.best_peer("NHWC")[0].peer == "torch"  # type: ignore[index]
        assert row(entries=()).speedup("NHWC", None) is None

    def test_summary(self) -> None:
        rows = [row(), row("b", floor=5.0), row("c", floor=25.0), row("d", threads=2)]
        summary = Summary.of(rows, Group("float32", 1, "NHWC", 1))
        assert (summary.layers, summary.slower) == (3, 0)
        assert summary.same_layout == pytest.approx(3)
        assert summary.prepared == pytest.approx(25 / 9)
        assert summary.roofline == pytest.approx(
            (0.5 * 0.25) ** 0.5
        )  # the floor of 5 us is too small to count
        assert summary.roofline_worst == pytest.approx(0.25)

    def test_groups_keep_apart_what_differs(self) -> None:
        rows = [row(), row(threads=2), row(dtype="float64"), row(batch=8)]
        groups = Group.all(rows)
        assert len(groups) == 8 and all(len(group.rows(rows)) == 1 for group in groups)
        assert str(Group("float64", 8, "NCHW", 2)) == "NCHW, 2 threads, float64, batch 8"

    def test_table(self) -> None:
        assert table(("a", "b"), [("x", "1")]) == "| a | b |\n| :--- | ---: |\n| x | 1 |"

    def test_numbers(self) -> None:
        values = (1.2345e-6, 12.345e-6, 123.45e-6, None)
        assert [microseconds(value) for value in values] == ["1.23", "12.3", "123", "-"]
        assert (factor(2.505), factor(float("nan")), percent(0.654), percent(None)) == (
            "2.50x",
            "-",
            "65%",
            "-",
        )
        assert with_spread(Timing(1e-5, 0.9e-5, 1.1e-5, 3)) == "10.0 ±10%"

    def test_markdown_tells_everything(self) -> None:
        run = Run(
            {"processor": "test"},
            {"torch": "9"},
            {"op": "forward"},
            [row(floor=60), row(floor=60, threads=2)],
        )
        text = markdown(run)
        for expected in (
            "- processor: test",
            "PyTorch 9",
            "| NHWC, 1 thread | 1 | 3.00x | 2.50x | 2.78x | 0 | 60% | 60% |",
            "| NCHW, 1 thread | 1 | 1.25x | 1.25x | - | 0 | 30% | 30% |",
            "| net | 1 | 2.50x | 1.25x | 2.50x | 1.25x |",
            "## Threads",
            "| NHWC, 2 threads | 1 | 1.00x | 1.00x | 7x7x8 3x3 |",
            "**300 ±10%**",
            "| 7x7x8 3x3 | 1 | LiteRT (XNNPACK) NHWC | wrong | differs |",
        ):
            assert expected in text

    def test_a_run_survives_json(self, tmp_path: Path) -> None:
        run = Run({"processor": "test"}, {}, {}, [row()])
        run.save(tmp_path / "run.json")
        assert Run.load(tmp_path / "run.json") == run

    def test_plot(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from depthwise._bench.plot import plot

        plot(Run({}, {}, {}, [row(), row("b", floor=9.0)]), tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(ValueError, match="no timed layer"):
            plot(Run({}, {}, {}, []), tmp_path / "other.png")


class TestProtocol:
    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6.0).reshape(2, 3),
            np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::-1].T,
            np.zeros((0, 4)),
        ],
    )
    def test_messages_come_back(self, array: np.ndarray) -> None:
        stream = io.BytesIO()
        protocol.send(stream, {"ok": True}, array)
        protocol.send(stream, {"last": 1})
        stream.seek(0)
        message, received = protocol.receive(stream)
        assert message == {"ok": True} and received is not None
        np.testing.assert_array_equal(received, array)
        assert protocol.receive(stream) == ({"last": 1}, None)
        with pytest.raises(EOFError):
            protocol.receive(stream)

    def test_a_cut_array_is_noticed(self) -> None:
        stream = io.BytesIO()
        protocol.send(stream, {}, np.zeros(10))
        with pytest.raises(EOFError, match="within an array"):
            protocol.receive(io.BytesIO(stream.getvalue()[:-1]))


FAKE_WORKER = """
    import importlib.util, os, sys

    spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.die_with_parent()
    pipes = worker.claim_pipes()
    worker.load_package()

    import numpy as np
    from depthwise_bench.peers.base import Peer, UnsupportedError

    class Fake(Peer):
        layouts = frozenset({"NHWC"})

        def prepare(self, problem, a, b):
            print("chatter that must not mix with replies")
            if problem.h.kernel == 1:
                raise UnsupportedError("no 1x1")
            if problem.h.kernel == 2:
                raise RuntimeError("broken inside")
            if problem.h.kernel == 5:
                os._exit(7)
            return lambda: np.zeros(problem.y_shape, np.float32)

        def to_numpy(self, result, problem):
            return result

    if sys.argv[2] == "dies":
        print("no licence", file=sys.stderr)
        sys.exit(3)
    worker.serve(Fake(1), *pipes)
"""


def start_fake(folder: Path, mode: str = "serves") -> Worker:
    script = folder / "fake_worker.py"
    script.write_text(textwrap.dedent(FAKE_WORKER))
    return Worker("fake", 1, sys.executable, [sys.executable, str(script), str(WORKER), mode])


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Worker]:
    with start_fake(tmp_path) as worker:
        yield worker


class TestWorkers:
    def test_prepare_time_and_drop(self, fake: Worker) -> None:
        reply, result = fake.prepare("key", small())
        assert reply == {"ok": True} and result is not None
        assert result.shape == small().y_shape
        assert 0 < fake.time("key", calls=10) < 1
        fake.drop()

    @pytest.mark.parametrize(
        ("kernel", "layout", "reply"),
        [
            (1, "NHWC", {"unsupported": "no 1x1"}),
            (3, "NCHW", {"unsupported": "layout NCHW is not offered"}),
            (2, "NHWC", {"failed": "RuntimeError: broken inside"}),
        ],
    )
    def test_what_cannot_run_is_told(
        self, fake: Worker, kernel: int, layout: str, reply: dict[str, str]
    ) -> None:
        assert fake.prepare("key", small(layout=layout, layer=Layer(8, 8, 2, kernel, kernel))) == (
            reply,
            None,
        )

    def test_a_crash_is_told(self, fake: Worker) -> None:
        with pytest.raises(WorkerError, match=r"ended \(exit status 7\)"):
            fake.prepare("key", small(layer=Layer(8, 8, 2, 5, 5)))

    def test_a_failed_start_tells_why(self, tmp_path: Path) -> None:
        with pytest.raises(WorkerError, match=r"exit status 3\): no licence"):
            start_fake(tmp_path, "dies")

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
    def test_a_waiting_worker_is_stopped(self, fake: Worker) -> None:
        stat = Path(f"/proc/{fake._process.pid}/stat")
        for _ in range(1000):
            if stat.read_text().rsplit(")", 1)[1].split()[0] == "T":
                return
            os.sched_yield()
        pytest.fail("the worker was not stopped")


class TestRunner:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_ours_is_checked_and_timed_and_a_wrong_peer_is_not(self, tmp_path: Path, layout: str) -> None:
        def start(peer: str, threads: int, python: str) -> Worker:
            return start_fake(tmp_path) if peer == "torch" else Worker(peer, threads, python)

        located = {name: Located(sys.executable, "1") for name in (*OURS, "torch")}
        runner = Runner(located, Roofline(lambda *_: 1e9, lambda *_: 1e9), start)
        settings = Settings(layouts=(layout,), threads=(1, 2), effort=BRIEF)
        try:
            rows = list(runner.measure(Layer(8, 8, 3, 3, 3, uses=(("net", 1),)), settings, lambda text: None))
        finally:
            runner.close()
        assert [row.threads for row in rows] == [1, 2]
        for measured in rows:
            status = {entry.peer: (entry.status, entry.reason) for entry in measured.entries}
            assert status["depthwise"] == status["prepared"] == ("timed", "")
            assert status["torch"][0] == ("wrong" if layout == "NHWC" else "unsupported")
            assert measured.median("torch", layout) is None

    def test_a_worker_that_died_is_replaced(self, tmp_path: Path) -> None:
        located = {"torch": Located(sys.executable, "1")}
        runner = Runner(located, Roofline(lambda *_: 1e9, lambda *_: 1e9), lambda *_: start_fake(tmp_path))
        settings = Settings(layouts=("NHWC",), threads=(1,), effort=BRIEF)
        try:
            reasons = [
                row.entries[0].status + " " + row.entries[0].reason
                for kernel in (5, 3)
                for row in runner.measure(Layer(8, 8, 3, kernel, kernel), settings, lambda text: None)
            ]
        finally:
            runner.close()
        assert "failed" in reasons[0] and "exit status 7" in reasons[0]
        assert reasons[1].startswith("wrong")


class TestEnvironments:
    def test_ours_are_found_in_this_interpreter(self) -> None:
        located = environments.locate(OURS, [sys.executable])
        assert {place.python for place in located.values()} == {sys.executable}

    def test_a_missing_interpreter_is_refused(self) -> None:
        with pytest.raises(ValueError, match="/nowhere/python is not an executable"):
            environments.interpreters(["/nowhere/python"])

    def test_every_peer_has_an_environment_that_holds_it(self) -> None:
        for name, info in PEERS.items():
            if name not in OURS:
                held = {name.removesuffix("-cpu") for name in environments.REQUIREMENTS[info.environment]}
                assert set(info.requirements) <= held


class TestSweep:
    def test_points_lie_within_the_limits_and_follow_the_seed(self) -> None:
        def first(seed: int) -> list[tuple[Layer, Problem]]:
            space = sweep.points(seed)
            return [next(space) for _ in range(50)]

        assert first(1) == first(1) != first(2)
        for _, problem in first(1):
            assert sweep.LEAST_MULTIPLY_ADDS <= problem.multiply_adds <= sweep.MOST_MULTIPLY_ADDS
            assert problem.bytes <= sweep.MOST_BYTES

    def test_the_worst_are_measured_again(self) -> None:
        problem = small()
        found = [sweep.Point(Layer(7, 7, n, 3, 3), problem, float(n), 1.0, "compute") for n in range(1, 11)]
        calmer = {10: 0.5}
        asked: list[int] = []

        def measure_again(point: sweep.Point) -> sweep.Point:
            asked.append(point.layer.channels)
            return replace(point, time=calmer.get(point.layer.channels, point.time))

        refined = sweep.refine(found, 4, measure_again)
        assert asked == [10, 9, 8, 7]
        assert [point.layer.channels for point in refined] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 10]
        assert "| 7x7x9 3x3 | NHWC | 9.00x |" in sweep.worst_table(refined)


class TestCommand:
    def test_lists(self) -> None:
        assert comma_list("nets", "a, b,") == ("a", "b")
        assert positive_list("threads", "1,2") == (1, 2)
        for text in ("", "0", "-1", "x", "1.5"):
            with pytest.raises(ValueError, match="threads: expected positive integers"):
                positive_list("threads", text)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--nets", "resnet"], "no network begins with 'resnet'"),
            (["--layers", "abc"], "nothing matches 'abc'"),
            (["--threads", "0"], "threads: expected positive integers"),
            (["--dtypes", "int8"], "dtypes: expected some of"),
            (["--op", "sideways"], "op: expected one of"),
            (["--layouts", ""], "layouts: expected some of"),
            (["--peers", "caffe"], "peers: expected some of"),
            (["--json", "/nowhere/run.json"], "the folder does not exist"),
        ],
    )
    def test_bad_arguments_give_one_line_and_status_2(self, arguments: list[str], message: str) -> None:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert message in result.output and len(result.output.strip().splitlines()) == 1

    def test_the_command_alone_with_our_contenders(self, tmp_path: Path) -> None:
        json_file, report = tmp_path / "run.json", tmp_path / "run.md"
        arguments = ["--layers", "7x7x8 3x3", "--peers", "none", "--quick", "--threads", "1"]
        result = CliRunner().invoke(app, [*arguments, "--json", str(json_file), "--markdown", str(report)])
        assert result.exit_code == 0, result.output
        (measured,) = Run.load(json_file).rows
        assert {entry.status for entry in measured.entries} == {"timed"}
        rendered = CliRunner().invoke(app, ["report", str(json_file)])
        assert rendered.exit_code == 0 and rendered.output.strip() == report.read_text().strip()

    def test_a_wrong_result_of_ours_fails_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Oracle, "error", lambda *arguments: "differs")
        result = CliRunner().invoke(app, ["--layers", "7x7x8 3x3", "--peers", "none", "--threads", "1"])
        assert result.exit_code == 1
        assert "depthwise itself gave no right result on 7x7x8 3x3" in result.output

    def test_report_refuses_another_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("{}")
        result = CliRunner().invoke(app, ["report", str(tmp_path / "x.json")])
        assert result.exit_code == 2 and "expected a file that --json wrote" in result.output


def test_axis_knows_its_live_taps_by_brute_force() -> None:
    for axis in (Axis(7, 4, 5, 2, 1, 2, 2), Axis(5, 5, 3, 1, 4, 4, 4), Axis(1, 1, 9, 1, 1, 4, 4)):
        live = sum(
            0 <= i * axis.stride - axis.pad_before + tap * axis.dilation < axis.input
            for i in range(axis.output)
            for tap in range(axis.kernel)
        )
        assert axis.live_taps == live, asdict(axis)
