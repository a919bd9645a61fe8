"""The command line: every command, its help, and one line with status 2 for whatever cannot be done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import depthwise
from depthwise import cli
from depthwise._cli import demo


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def run(*arguments: object) -> Outcome:
        status = cli.main([str(argument) for argument in arguments])
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must fail with status 2 and one line; give that line."""

    def refused(*arguments: object) -> str:
        outcome = run(*arguments)
        assert outcome.status == 2, outcome
        assert outcome.err.startswith("depthwise: "), outcome
        assert outcome.err.endswith("\n") and outcome.err.count("\n") == 1, outcome
        return outcome.err

    return refused


@pytest.fixture
def array_file(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(60, dtype=np.float32).reshape(4, 5, 3))
    return path


def test_bare_command_and_help_show_the_commands(run: Run) -> None:
    for arguments in ((), ("--help",)):
        outcome = run(*arguments)
        assert outcome.status == 0 and not outcome.err
        assert all(name in outcome.out for name in cli.COMMANDS)


BENCH = ("bench", *(f"bench {name}" for name in ("setup", "report", "sweep", "choices", "overhead")))


@pytest.mark.parametrize("command", [*cli.COMMANDS, *BENCH])
def test_help_of_each_command_has_an_example(run: Run, command: str) -> None:
    outcome = run(*command.split(), "--help")
    assert outcome.status == 0 and not outcome.err
    assert f"depthwise {command}" in outcome.out.partition("Examples")[2]


def test_version(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version") == (0, f"depthwise {version('depthwise')}\n", "")


def test_info_shows_the_configuration(run: Run) -> None:
    outcome = run("info")
    assert outcome.status == 0
    for name in depthwise.show_config(mode="dict"):
        assert name.replace("_", " ") in outcome.out


def test_help_imports_no_image_library() -> None:
    """Help must come at once, so commands import what they need when they run."""
    script = (
        "import sys, depthwise.cli; status = depthwise.cli.main(['--help']);"
        "heavy = {'PIL', 'tifffile', 'matplotlib', 'rich.progress'} & set(sys.modules);"
        "sys.exit(str(sorted(heavy)) if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_installed_command_answers() -> None:
    script = Path(sys.executable).with_name("depthwise")
    done = subprocess.run([script, "nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "depthwise: No such command 'nonsense'.\n")


# explain


def test_explain_prints_the_plan(run: Run) -> None:
    outcome = run("explain", "--input", "1x9x10x3", "--filter", "3x3x3x2", "--stride", "2x1", "--threads", 1)
    assert outcome.status == 0
    for text in ("(1, 9, 10, 3)", "(1, 5, 10, 6)", "float32", "NHWC", "multiply-adds"):
        assert text in outcome.out


def test_explain_takes_every_option(run: Run) -> None:
    shapes = ("--input", "2x3x20x20", "--filter", "3x3", "--layout", "nchw", "--dtype", "float64")
    outcome = run("explain", *shapes, "--padding", "1,0,2,0", "--dilation", "2", "--op", "grad_input")
    assert outcome.status == 0
    assert all(text in outcome.out for text in ("(2, 3, 17, 18)", "NCHW", "float64", "grad_input"))


SHAPES = ("explain", "--input", "1x9x9x2", "--filter", "3x3x2x1")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--filter"),
        (("--input", "9"), "--input"),
        (("--input", "1x2x3x4x5"), "--input"),
        (("--input", ""), "--input"),
        (("--input", "1x-9x9x2"), "x"),
        (("--input", "1x9x9x3"), "filter"),
        (("--input", f"1x{10**18}x{10**18}x2"), "x"),
        (("--input", "1879048192x1879048192x1879048192x2"), "x"),
        (("--filter", "3"), "--filter"),
        (("--filter", "3x3x2"), "--filter"),
        (("--filter", "3x3x2x1x1"), "--filter"),
        (("--filter", f"3x3x2x{10**18}"), "too large"),
        (("--stride", "0"), "stride"),
        (("--stride", "-1"), "stride"),
        (("--stride", f"-{10**18}"), "stride"),
        (("--stride", "9" * 30), "--stride"),
        (("--stride", "1.5"), "--stride"),
        (("--stride", "True"), "--stride"),
        (("--stride", "1x1x1"), "--stride"),
        (("--stride", "1x0"), "stride"),
        (("--dilation", "0"), "dilation"),
        (("--dilation", "-2"), "dilation"),
        (("--dilation", "2x2x2"), "--dilation"),
        (("--dilation", "1.0"), "--dilation"),
        (("--dilation", str(10**18), "--padding", "VALID"), ""),
        (("--padding", "same "), "--padding"),
        (("--padding", "FULL"), "--padding"),
        (("--padding", ""), "--padding"),
        (("--padding", "-1"), "padding"),
        (("--padding", "1,2,3"), "--padding"),
        (("--padding", "0.5"), "--padding"),
        (("--padding", str(10**18)), "too large"),
        (("--layout", "NHCW"), "--layout"),
        (("--dtype", "int8"), "dtype"),
        (("--op", "backward"), "op"),
        (("--threads", "0"), "num_threads"),
        (("--threads", "-1"), "num_threads"),
        (("--threads", str(10**9)), "num_threads"),
        (("--threads", "two"), "--threads"),
        (("--kernel", "box"), "--kernel"),
        (("extra",), "extra"),
    ],
)
def test_explain_refuses(refused: Callable[..., str], arguments: tuple[str, ...], named: str) -> None:
    shapes = SHAPES if arguments else SHAPES[:3]
    assert named in refused(*shapes, *arguments)


# demo


def test_demo_without_an_image(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("demo")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("and matches") == len(demo.EXAMPLES) == 2
    for word in ("512 x 600", "Algorithm", "ISA", "Threads", "Time", "depthwise-demo.png"):
        assert word in outcome.out
    with Image.open("depthwise-demo.png") as sheet:
        assert sheet.format == "PNG" and min(sheet.size) > 1000
        assert np.asarray(sheet).std() > 30  # a picture, not a blank page
    assert [path.name for path in tmp_path.iterdir()] == ["depthwise-demo.png"]


@pytest.mark.parametrize("shape", [(40, 31, 3), (17, 90), (1, 1, 3), (9, 4, 3)])
def test_demo_on_any_photograph(run: Run, tmp_path: Path, shape: tuple[int, ...]) -> None:
    photo, sheet = tmp_path / "photo.png", tmp_path / "sheet.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, np.uint8)).save(photo)
    outcome = run("demo", photo, "--output", sheet)
    assert outcome.status == 0, outcome.err
    assert f"{shape[1]} x {shape[0]}" in outcome.out and sheet.stat().st_size > 0


def test_demo_bands_match_the_reference() -> None:
    photograph = np.random.default_rng(2).random((13, 17, 3), np.float32)
    bands = demo.apply_bank(photograph).bands
    expected = depthwise.reference.conv2d(photograph, demo.filter_bank(3)).reshape(13, 17, 3, 4)
    np.testing.assert_allclose(bands, expected, atol=1e-5)


def test_demo_fails_if_an_example_does_not_match(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = demo.EXAMPLES[0]._replace(expected=[[[[10, 14], [14, 20]], [[18, 26], [22, 33]]]])
    monkeypatch.setattr(demo, "EXAMPLES", (wrong, demo.EXAMPLES[1]))
    outcome = run("demo")
    assert outcome.status == 1
    assert "does not match" in outcome.out and "Contact sheet" not in outcome.out


def test_demo_refuses(refused: Callable[..., str], tmp_path: Path, array_file: Path) -> None:
    missing = tmp_path / "missing.jpg"
    assert str(missing) in refused("demo", missing)
    assert "8-bit" in refused("demo", array_file, "--output", tmp_path / "sheet.png")
    assert ".png" in refused("demo", "--output", tmp_path / "sheet.jpg")
    assert "nowhere" in refused("demo", "--output", tmp_path / "nowhere" / "sheet.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]


# filter


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "--kernel"),
        (("-k", "blur"), "kernel"),
        (("-k", ""), "kernel"),
        (("-k", "gaussian:0"), "sigma"),
        (("-k", "gaussian:-1"), "sigma"),
        (("-k", "gaussian:nan"), "sigma"),
        (("-k", "gaussian:inf"), "sigma"),
        (("-k", "gaussian:1e9"), "taps"),
        (("-k", "gaussian:wide"), "sigma"),
        (("-k", "gaussian:1,2,3"), "'3'"),
        (("-k", "gaussian:1,sigma=2"), "sigma"),
        (("-k", "gaussian:width=2"), "width"),
        (("-k", "gaussian:radius=-1"), "radius"),
        (("-k", "gaussian:radius=1.5"), "radius"),
        (("-k", "box:0"), "size"),
        (("-k", "box:3.5"), "size"),
        (("-k", "box:1000000000"), "taps"),
        (("-k", "laplacian:6"), "neighbours"),
        (("-k", "sharpen:inf"), "amount"),
        (("-k", "missing.npy"), "missing.npy"),
        (("-k", "box", "--stride", "0"), "stride"),
        (("-k", "box", "--stride", "1.5"), "--stride"),
        (("-k", "box", "--dilation", "0"), "dilation"),
        (("-k", "box", "--dilation", str(10**18), "--padding", "VALID"), ""),
        (("-k", "box", "--padding", "FULL"), "--padding"),
        (("-k", "box", "--padding", "-1"), "padding"),
        (("-k", "box:6", "--padding", "VALID"), ""),
        (("-k", "box", "--layout", "NHCW"), "--layout"),
        (("-k", "box", "--threads", "0"), "num_threads"),
        (("-k", "box", "--threads", str(10**9)), "num_threads"),
        (("-k", "box", "--color"), "--color"),
    ],
)
def test_filter_refuses_options(
    refused: Callable[..., str], array_file: Path, options: tuple[str, ...], named: str
) -> None:
    output = array_file.with_name("y.npy")
    assert named in refused("filter", array_file, output, *options)
    assert [path.name for path in array_file.parent.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    "kernel",
    [
        np.ones(3),
        np.ones((3, 3, 3)),
        np.ones((1, 3, 3, 3, 1)),
        np.ones((3, 3, 2, 1)),  # two channels for an image of three
        np.ones((3, 3), complex),
        np.array([["a", "b"]]),
        np.zeros((2, 2), "datetime64[s]"),
        np.zeros((2, 2), [("a", "f4")]),
        np.array([[None]], object),
    ],
    ids=lambda kernel: f"{kernel.dtype}{kernel.shape}",
)
def test_filter_refuses_kernel_files(
    refused: Callable[..., str], array_file: Path, kernel: np.ndarray
) -> None:
    path = array_file.with_name("k.npy")
    np.save(path, kernel)
    line = refused("filter", array_file, array_file.with_name("y.npy"), "-k", path)
    assert "k.npy" in line or "filter" in line
    assert not array_file.with_name("y.npy").exists()


def test_filter_refuses_a_kernel_that_is_no_array(refused: Callable[..., str], array_file: Path) -> None:
    path = array_file.with_name("k.npy")
    for content in (b"", b"not an array", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        assert "k.npy" in refused("filter", array_file, array_file.with_name("y.npy"), "-k", path)


@pytest.mark.parametrize(
    "arguments", [(), ("x.npy",), ("x.npy", "y.npy"), ("nothere.npy", "y.npy", "-k", "box")]
)
def test_filter_refuses_missing_arguments(refused: Callable[..., str], arguments: tuple[str, ...]) -> None:
    refused("filter", *arguments)


def test_several_inputs_go_into_a_folder(run: Run, tmp_path: Path) -> None:
    names = ["a.npy", "b.npy", "c.npy"]
    for name in names:
        np.save(tmp_path / name, np.full((5, 5), ord(name[0]), np.float64))
    folder = tmp_path / "out" / "deep"
    assert run("filter", *(tmp_path / name for name in names), folder, "-k", "box:1") == (0, "", "")
    for name in names:
        np.testing.assert_array_equal(np.load(folder / name), ord(name[0]))
    assert len(list(folder.iterdir())) == 3


def test_several_inputs_show_progress_on_a_terminal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's way to take a pipe for a terminal
    for name in ("a.npy", "b.npy", "[c].npy"):
        np.save(tmp_path / name, np.ones((3, 3)))
    outcome = run("filter", *tmp_path.glob("*.npy"), tmp_path / "out", "-k", "box:1")
    assert outcome.status == 0 and not outcome.out
    assert "filtered" in outcome.err and "3/3" in outcome.err


def test_one_input_into_an_existing_folder_shows_no_progress(run: Run, array_file: Path) -> None:
    folder = array_file.parent / "out"
    folder.mkdir()
    assert run("filter", array_file, folder, "-k", "box:1") == (0, "", "")
    np.testing.assert_array_equal(np.load(folder / "x.npy"), np.load(array_file))


def test_one_bad_input_stops_before_anything_is_written(refused: Callable[..., str], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    (tmp_path / "b.txt").write_text("no image")
    out = tmp_path / "out"
    assert "b.txt" in refused("filter", tmp_path / "a.npy", tmp_path / "b.txt", out, "-k", "box")
    assert "none.npy" in refused("filter", tmp_path / "a.npy", tmp_path / "none.npy", out, "-k", "box")
    assert not out.exists()


def test_a_damaged_input_is_named_and_earlier_outputs_are_whole(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    out = tmp_path / "out"
    assert "b.npy" in refused("filter", tmp_path / "a.npy", tmp_path / "b.npy", out, "-k", "box:1")
    assert [path.name for path in out.iterdir()] == ["a.npy"]
    np.testing.assert_array_equal(np.load(out / "a.npy"), 1.0)


def test_outputs_must_differ_from_each_other_and_from_inputs(
    refused: Callable[..., str], tmp_path: Path, array_file: Path
) -> None:
    other = tmp_path / "other" / "x.npy"
    other.parent.mkdir()
    other.write_bytes(array_file.read_bytes())
    assert "same name" in refused("filter", array_file, other, tmp_path / "out", "-k", "box")
    assert "replace an input" in refused("filter", array_file, array_file, "-k", "box")
    assert "replace an input" in refused("filter", array_file, tmp_path, "-k", "box")
    (tmp_path / "y.npy").symlink_to(array_file)
    assert "replace an input" in refused("filter", array_file, tmp_path / "y.npy", "-k", "box")
    assert "folder" in refused("filter", array_file, other, array_file, "-k", "box")
    assert array_file.read_bytes() == other.read_bytes()


def test_interrupt_ends_with_status_130(run: Run, array_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(depthwise, "conv2d", interrupted)
    assert run("filter", array_file, array_file.with_name("y.npy"), "-k", "box").status == 130
    assert not array_file.with_name("y.npy").exists()


# wrong arguments

EXPLAIN = "explain --input 1x5x5x3 --filter 3x3"
FILTER = "filter x.npy y.npy -k"
# What is wrong, and what the line must name.
WRONG = {
    "--nope": "--nope",
    "demo nofile.jpg": "nofile.jpg",
    "demo text.txt": "text.txt",
    "demo broken.png": "broken.png",
    "demo folder": "folder",
    "demo x.npy": "x.npy",
    "demo x.npy extra": "extra",
    "demo --output sheet.gif": "sheet.gif",
    "info extra": "extra",
    "explain": "--input",
    "explain extra --input 1x5x5x3 --filter 3x3": "extra",
    "explain --input 1x2 --filter 3x3": "--input",
    "explain --input axb --filter 3x3": "--input",
    "explain --input 1x-5x5x3 --filter 3x3": "x[1]",
    "explain --input 1x9999999999999x99999999999x3 --filter 3x3": "too large",
    "explain --input 1x5x5x3 --filter 3x3x3": "--filter",
    "explain --input 1x5x5x3 --filter 3x3x4x1": "filter",
    "explain --input 1x5x5x3 --filter 9x9x3x1 --padding VALID": "filter",
    f"{EXPLAIN} --stride 0": "stride",
    f"{EXPLAIN} --stride -1": "stride",
    f"{EXPLAIN} --stride 1.5": "--stride",
    f"{EXPLAIN} --stride 1x2x3": "--stride",
    f"{EXPLAIN} --stride {10**23}": "--stride",
    f"{EXPLAIN} --dilation 0": "dilation",
    f"{EXPLAIN} --dilation {2**62}": "dilation",
    f"{EXPLAIN} --padding FULL": "--padding",
    f"{EXPLAIN} --padding 1,2,3": "--padding",
    f"{EXPLAIN} --padding -1": "padding",
    f"{EXPLAIN} --layout NHCW": "--layout",
    f"{EXPLAIN} --dtype int8": "dtype",
    f"{EXPLAIN} --op backward": "op",
    f"{EXPLAIN} --threads 0": "num_threads",
    f"{EXPLAIN} --threads two": "--threads",
    f"{EXPLAIN} --threads {10**9}": "num_threads",
    "filter": "INPUT",
    "filter x.npy y.npy": "--kernel",
    f"{FILTER} nope": "kernel",
    f"{FILTER} gaussian:-1": "sigma",
    f"{FILTER} gaussian:nan": "sigma",
    f"{FILTER} gaussian:1e9": "taps",
    f"{FILTER} box:0": "size",
    f"{FILTER} box:99999999": "taps",
    f"{FILTER} sharpen:foo=1": "foo",
    f"{FILTER} laplacian:5": "neighbours",
    f"{FILTER} nofile.npy": "nofile.npy",
    f"{FILTER} objects.npy": "objects.npy",
    f"{FILTER} truncated.npy": "truncated.npy",
    "filter nofile.npy y.npy -k box": "nofile.npy",
    "filter objects.npy y.npy -k box": "objects.npy",
    "filter truncated.npy y.npy -k box": "truncated.npy",
    "filter broken.png y.npy -k box": "broken.png",
    "filter text.txt y.npy -k box": "text.txt",
    "filter folder y.npy -k box": "folder",
    "filter x.npy y.xyz -k box": "y.xyz",
    "filter x.npy nowhere/y.npy -k box": "nowhere",
    "filter x.npy x.npy/y.npy -k box": "x.npy/y.npy",
    "filter x.npy broken.png text.txt -k box": "text.txt",
    f"{FILTER} box --stride 0": "stride",
    f"{FILTER} box --dilation -1": "dilation",
    f"{FILTER} box --padding FULL": "--padding",
    f"{FILTER} box --padding 99999999999999": "too large",
    f"{FILTER} box --padding 1000000": "allocate",
    f"{FILTER} box:21 --padding VALID": "filter",
    f"{FILTER} box --border mirror": "--border",
    f"{FILTER} box --dtype int8": "--dtype",
    f"{FILTER} box --layout HWC": "--layout",
    f"{FILTER} box --algorithm best": "--algorithm",
    f"{FILTER} box --threads 0": "num_threads",
    f"{FILTER} box --scheduler tcp://127.0.0.1:1": "--scheduler",
    "bench --nets nope": "nets",
    "bench --layers nope": "layers",
    "bench --op backward": "op",
    "bench --dtypes int8": "dtypes",
    "bench --layouts HWC": "layouts",
    "bench --threads 0": "threads",
    f"bench --batch {10**20}": "batch",
    "bench --peers nope": "peers",
    "bench --peer-python nofile": "peer-python",
    "bench --layers 56x56x96 --json nowhere/run.json": "nowhere",
    "bench report nofile.json": "measurements",
    "bench report x.npy": "measurements",
    "bench choices --dtype int8": "dtype",
    "bench sweep --samples 0": "--samples",
    "bench nope": "nope",
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a good array and all sorts of bad files."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.ones((8, 9, 3), np.float32))
    np.save("objects.npy", np.array([None, 1], object))
    Path("truncated.npy").write_bytes(Path("x.npy").read_bytes()[:100])
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Path("text.txt").write_text("hello")
    Path("folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", WRONG)
def test_wrong_arguments_are_answered_by_one_line(run: Run, desk: Path, command: str) -> None:
    before = sorted(desk.rglob("*"))
    outcome = run(*command.split())
    assert outcome.status == 2, outcome
    assert outcome.err.endswith("\n") and outcome.err.count("\n") == 1, outcome
    assert WRONG[command] in outcome.err
    assert sorted(desk.rglob("*")) == before  # nothing was written
