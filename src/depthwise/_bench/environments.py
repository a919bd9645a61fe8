"""Which interpreter runs which peer, and how to create the environments that hold them all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .peers import OURS, PEERS
from .workers import WORKER

#: Interpreters of other environments, separated as in PATH.
VARIABLE = "DEPTHWISE_BENCH_PYTHON"

#: What one environment each can hold together: TensorFlow's pins differ from the others' needs.
REQUIREMENTS = {
    "peers": ("torch", "jax", "onnxruntime", "onnx", "openvino", "opencv-python-headless", "ml_dtypes"),
    "tensorflow": ("tensorflow-cpu", "ai-edge-litert", "ml_dtypes"),
}


@dataclass(frozen=True)
class Located:
    """A peer that can run: the interpreter that has it, and its version there."""

    python: str
    version: str


def default_folder() -> Path:
    """Where ``depthwise bench setup`` puts the environments: ``$XDG_CACHE_HOME/depthwise/bench``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "depthwise" / "bench"


def interpreters(extra: Sequence[str] = ()) -> list[str]:
    """Where to look for peers: this one, `extra`, those of the variable, those of the default folder."""
    named = [*extra, *filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))]
    for path in named:
        if not os.access(path, os.X_OK):
            raise ValueError(f"peer-python: {path} is not an executable file")
    made = [str(_python(default_folder() / name)) for name in REQUIREMENTS]
    return [sys.executable, *named, *filter(os.path.exists, made)]


def locate(peers: Iterable[str], pythons: Sequence[str]) -> dict[str, Located]:
    """The first interpreter that has all that a peer requires, for each peer that has one.

    Ours always run in this interpreter: what is measured is what runs the benchmark.
    """
    wanted = [name for name in peers if name not in OURS]
    names = sorted({requirement for name in wanted for requirement in PEERS[name].requirements})
    found = {name: Located(sys.executable, _own_version()) for name in peers if name in OURS}
    for python in pythons:
        versions = _versions(python, names)
        for name in wanted:
            requirements = PEERS[name].requirements
            if name not in found and all(requirement in versions for requirement in requirements):
                found[name] = Located(python, versions[requirements[0]])
    return found


def create(folder: Path, pip_arguments: Sequence[str] = ()) -> list[str]:
    """Create the environments of :data:`REQUIREMENTS` in `folder` with pip and return their interpreters."""
    pythons = []
    for name, requirements in REQUIREMENTS.items():
        venv.create(folder / name, with_pip=True)
        python = str(_python(folder / name))
        subprocess.run([python, "-m", "pip", "install", *pip_arguments, *requirements], check=True)
        pythons.append(python)
    return pythons


def _versions(python: str, names: list[str]) -> dict[str, str]:
    command = [python, str(WORKER), "--versions", *names]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(answer.stdout)
    return versions


def _own_version() -> str:
    return importlib.metadata.version("depthwise")


def _python(environment: Path) -> Path:
    return environment / "bin" / "python"
