"""`depthwise bench --images`: what is checked before it is timed, the report, and the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from test_bench import entry, row
from typer.testing import CliRunner

from depthwise._bench import image_peers, images
from depthwise._bench.cli import app
from depthwise._bench.image_peers import LIBRARIES, Library, Task
from depthwise._bench.image_report import markdown, speedup
from depthwise._bench.images import PICTURES, Picture, quick_pictures
from depthwise._bench.peers.base import Call
from depthwise._bench.results import PREPARED, Entry, Run
from depthwise._bench.roofline import Roofline
from depthwise._bench.timing import Effort

BRIEF = Effort(burst=1e-4, seconds=1e-3, rounds=3)
SMALL = (
    Picture(24, 3, "Gaussian", 5),
    Picture(24, 3, "Gaussian", 21, "uint8"),
    Picture(20, 64, "Gaussian", 9),
    Picture(40, 3, "random", 31),
)


def roofline() -> Roofline:
    return Roofline(lambda *_: 1e9, lambda *_: 1e9)


class Made(Library):
    """A library whose results differ from the right ones, which the test gives, by `off`."""

    title, module, prefix = "Made", "numpy", "made."

    def __init__(self, right: np.ndarray, *offs: float | Exception) -> None:
        super().__init__()
        self.right, self.offs, self.threads = right, offs, [0]

    @contextmanager
    def on_threads(self, count: int) -> Iterator[None]:
        self.threads.append(count)
        yield
        self.threads.append(0)

    def calls(self, task: Task) -> dict[str, Call]:
        return {f"made.{number}": lambda off=off: self._result(off) for number, off in enumerate(self.offs)}

    def _result(self, off: float | Exception) -> np.ndarray:
        assert self.threads[-1] == 2
        if isinstance(off, Exception):
            raise off
        result = self.right.copy()
        if result[-1, -1, -1] < 128:
            result[-1, -1, -1] += off
        else:
            result[-1, -1, -1] -= off
        return result


def test_the_pictures_are_distinct_and_the_quick_ones_small() -> None:
    assert len(set(PICTURES)) == len(PICTURES) == 14
    assert {picture.size for picture in quick_pictures()} == {512} and len(quick_pictures()) == 7


@pytest.mark.parametrize("picture", SMALL, ids=lambda one: f"{one.name} {one.dtype}")
def test_every_installed_library_gives_the_right_result(picture: Picture) -> None:
    libraries = [LIBRARIES[name]() for name in image_peers.installed()]
    for threads in (1, 2):
        measured = images.measure(picture, threads, libraries, roofline(), BRIEF)
        assert [(one.status, one.reason) for one in measured.entries] == [("timed", "")] * len(
            measured.entries
        )
        functions = 0
        if find_spec("cv2"):
            functions += 1 if picture.kernel == "random" else 2
        if find_spec("scipy"):
            functions += picture.kernel != "random"
        assert measured.entries[0].peer == PREPARED and len(measured.entries) == 1 + functions
        assert measured.floor == 2 * picture.task().x.nbytes / 1e9


@pytest.mark.parametrize(
    ("dtype", "offs", "statuses"),
    [
        ("uint8", (0, 1, 2), ["timed", "timed", "wrong"]),
        ("float32", (0.0, 1e-5, 1e-2), ["timed", "timed", "wrong"]),
    ],
)
def test_results_that_are_off_are_not_timed(dtype: str, offs: tuple[float, ...], statuses: list[str]) -> None:
    picture = Picture(16, 3, "Gaussian", 5, dtype)
    right = images._operator(picture.task(), 1)()
    library = Made(right, *offs, RuntimeError("broken inside"))
    ours, *others = images.measure(picture, 2, [library], roofline(), BRIEF).entries
    assert ours.status == "timed" and [one.status for one in others] == [*statuses, "failed"]
    assert [one.timing is None for one in others] == [status != "timed" for status in (*statuses, "failed")]
    assert others[-1].reason == "RuntimeError: broken inside" and library.threads[-1] == 0


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-2), ("uint8", 1)])
def test_a_wrong_result_of_ours_is_found(monkeypatch: pytest.MonkeyPatch, dtype: str, off: float) -> None:
    right = images._operator
    monkeypatch.setattr(
        images, "_operator", lambda *arguments: lambda: (right(*arguments)() + off).astype(dtype)
    )
    measured = images.measure(Picture(16, 3, "Gaussian", 5, dtype), 1, [], roofline(), BRIEF)
    (ours,) = measured.entries
    assert ours.is_broken_ours and "instead of" in ours.reason


def test_threads_of_opencv_are_put_back() -> None:
    cv2 = pytest.importorskip("cv2")
    before = cv2.getNumThreads()
    with image_peers.OpenCV().on_threads(before + 1):
        assert cv2.getNumThreads() == before + 1
    assert cv2.getNumThreads() == before


def test_report() -> None:
    entries = (
        entry(PREPARED, "NHWC", 100),
        entry("cv2.sepFilter2D", "NHWC", 300),
        entry("cv2.GaussianBlur", "NHWC", 200),
        entry("scipy.ndimage.correlate1d", "NHWC", 5000),
        Entry("cv2.filter2D", "NHWC", "wrong", "differs"),
    )
    first = row("a", entries=entries)
    second = row("b", entries=(entries[0], entry("cv2.filter2D", "NHWC", 50)))
    assert speedup(first) == pytest.approx(2) and speedup(first, "scipy.") == pytest.approx(50)
    assert speedup(row("c", entries=entries[1:])) is None and speedup(second, "scipy.") is None
    text = markdown(Run({"processor": "test"}, {"OpenCV": "5"}, {"images": "True"}, [first, second]))
    for expected in (
        "- processor: test",
        "OpenCV 5",
        "| NHWC, 1 thread | 2 | 1.00x | 1.00x | 50.00x | 1 | 0.50x | b |",
        "| a | 50.0 | 2.00x | 2.00x | 50.00x | 100 ±10% | 300 ±10% | **200 ±10%** | 5000 ±10% | wrong |",
        "| a | 1 | cv2.filter2D NHWC | wrong | differs |",
    ):
        assert expected in text


class TestCommand:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "quick_pictures", lambda: SMALL[:2])
        monkeypatch.setattr(images, "QUICK", BRIEF)
        monkeypatch.setattr("depthwise._bench.cli.Roofline", roofline)

    def test_measurements_are_rendered_again(self, tmp_path: Path) -> None:
        json_file, report = tmp_path / "run.json", tmp_path / "run.md"
        arguments = [
            "--images",
            "--quick",
            "--threads",
            "1,2",
            "--json",
            str(json_file),
            "--markdown",
            str(report),
        ]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        rows = Run.load(json_file).rows
        assert [(one.layer, one.threads) for one in rows] == [
            (picture.name, threads) for picture in SMALL[:2] for threads in (1, 2)
        ]
        rendered = CliRunner().invoke(app, ["report", str(json_file)])
        assert rendered.exit_code == 0 and rendered.output.strip() == report.read_text().strip()
        plotted = CliRunner().invoke(app, ["report", str(json_file), "--plot", str(tmp_path / "x.png")])
        assert plotted.exit_code == 2 and "plot: a run of --images has none" in plotted.output

    def test_no_peers(self) -> None:
        result = CliRunner().invoke(app, ["--images", "--quick", "--threads", "1", "--peers", "none"])
        assert result.exit_code == 0 and "cv2.sepFilter2D |" not in result.output

    def test_a_wrong_result_of_ours_fails_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(images, "_wrong_ours", lambda *arguments: "differs")
        result = CliRunner().invoke(app, ["--images", "--quick", "--threads", "1", "--peers", "none"])
        assert result.exit_code == 1
        assert f"depthwise itself gave no right result on {SMALL[1].name}, {SMALL[0].name}" in result.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--models"], "--images: does not go with --models"),
            (["--layers", "x"], "--images: does not go with --layers"),
            (["--plot", "x.png"], "--images: does not go with --plot"),
            (["--peers", "torch"], "peers: expected some of opencv, scipy"),
            (["--threads", "0"], "threads: expected positive integers"),
            (["--json", "/nowhere/run.json"], "the folder does not exist"),
        ],
    )
    def test_bad_arguments_give_one_line_and_status_2(self, arguments: list[str], message: str) -> None:
        result = CliRunner().invoke(app, ["--images", "--quick", *arguments])
        assert result.exit_code == 2
        assert message in result.output and len(result.output.strip().splitlines()) == 1

    def test_a_library_that_is_missing_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("depthwise._bench.cli.installed", list)
        result = CliRunner().invoke(app, ["--images", "--quick", "--peers", "opencv"])
        assert result.exit_code == 2 and "this interpreter does not have opencv" in result.output
        result = CliRunner().invoke(app, ["--images", "--quick", "--threads", "1"])
        assert result.exit_code == 0 and "Left out: OpenCV, SciPy" in result.output
