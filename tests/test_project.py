"""The project's own promises: the README's commands, one version, nothing of the machine it was made on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import hypothesis
import pytest

import depthwise

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    name: command.strip()
    for name, command in re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)```", README, re.DOTALL)
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root|Users)/\w")


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_readme_has_the_two_commands() -> None:
    assert COMMANDS == {
        "demo": "pip install '.[cli]' && depthwise demo",
        "test": "pip install '.[test]' && pytest",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_commands_use_existing_extras(name: str) -> None:
    extras = re.findall(r"\.\[([\w,]+)\]", COMMANDS[name])
    assert extras
    assert set(extras) <= set(metadata("depthwise").get_all("Provides-Extra") or [])


def test_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)[0] == version("depthwise")


def test_public_names_exist_and_are_documented() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in depthwise.__all__:
        assert hasattr(depthwise, name), name
        assert re.search(rf"\b{name}\b", reference), f"docs/api.md does not mention {name}"


def test_import_pulls_in_no_framework() -> None:
    frameworks = {"torch", "jax", "tensorflow", "keras", "dask"}
    code = f"import sys, depthwise; print(*sorted({frameworks} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []


def test_no_machine_paths_in_tracked_files() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        if path.suffix not in {".png", ".jpg", ".npy", ".bin"} and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


@pytest.mark.skipif(
    os.environ.get("DEPTHWISE_HYPOTHESIS_PROFILE") != "ci", reason="DEPTHWISE_HYPOTHESIS_PROFILE is not ci"
)
def test_ci_profile_draws_enough_examples() -> None:
    assert hypothesis.settings().max_examples >= 5000
