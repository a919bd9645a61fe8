"""Every example in the documentation and in the docstrings gives the output that it shows.

A fenced ``python`` block with ``>>>`` prompts is an example. The blocks of a page share one namespace, in
order. A block after the line ``<!-- requires: NAME -->`` needs the package NAME and has its own namespace.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from collections import defaultdict
from pathlib import Path

import pytest

import depthwise

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?ms)(?:^<!-- requires: (?P<package>\S+) -->\n)?^```python\n(?P<code>.*?)^```$")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = ["depthwise", *(m.name for m in pkgutil.walk_packages(depthwise.__path__, "depthwise."))]
MODULES = [name for name in MODULES if not name.endswith(".__main__")]  # running one is its purpose


def page_examples() -> list[tuple[Path, str | None, list[tuple[int, str]]]]:
    """The (page, required package, [(line, code)]) groups of all examples."""
    groups = defaultdict(list)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            if ">>>" in fence["code"]:
                line = text.count("\n", 0, fence.start("code"))
                groups[page, fence["package"]].append((line, fence["code"]))
    return [(page, package, blocks) for (page, package), blocks in groups.items()]


def run(test: doctest.DocTest) -> None:
    """Run one doctest, failing with its report."""
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, out=report.append, clear_globs=False)
    assert not runner.failures, "".join(report)


def test_every_page_is_known() -> None:
    assert all(page.is_file() for page in PAGES)
    assert PAGES[0] in {page for page, _, _ in page_examples()}, "README.md has no example"


@pytest.mark.parametrize(
    ("page", "package", "blocks"),
    [pytest.param(*group, id=f"{group[0].name}-{group[1] or 'numpy'}") for group in page_examples()],
)
def test_page(page: Path, package: str | None, blocks: list[tuple[int, str]]) -> None:
    if package:
        pytest.importorskip(package)
    names: dict[str, object] = {}
    for line, code in blocks:
        example = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), line)
        example.globs = names
        run(example)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("depthwise"):
            raise
        pytest.skip(f"{error.name} is not installed")
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        run(test)
