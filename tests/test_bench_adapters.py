"""What `depthwise bench overhead` says of the adapters."""

from importlib.util import find_spec

import pytest

from depthwise._bench import adapters
from depthwise._bench.timing import Effort


def test_every_installed_framework_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "_EFFORT", Effort(burst=1e-5, seconds=1e-4, rounds=2))
    found = list(adapters.added())
    installed = [name for name in ("torch", "jax", "tensorflow") if find_spec(name) is not None]
    assert len(found) == len(installed)
    assert all(one.adapted.median > 0 and one.plain.median > 0 for one in found)


def test_slowdown_on_an_example_done_by_hand() -> None:
    assert adapters.Turns(14, 256, theirs=2e-4, ours=1e-4, both=3.3e-4).slowdown == pytest.approx(0.1)
