"""Judge one pytest run by its JUnit file: nothing failed, and enough tests really ran.

Usage: python .ci/check_suite.py SUITE LEAST JUNIT.XML
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path


def outcome(case: ET.Element) -> str:
    """The outcome of one <testcase>: failed, skipped or passed."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def main(suite: str, least: str, junit: str) -> int:
    """Print what the suite ran and what it skipped; return the exit status."""
    if not Path(junit).is_file():
        print(f"suite {suite}: pytest wrote no results, expected at least {least} passed tests")
        return 1
    cases = list(ET.parse(junit).getroot().iter("testcase"))
    counts = Counter(outcome(case) for case in cases)
    reasons = Counter(skip.get("message", "") for case in cases for skip in case.iter("skipped"))
    print(f"suite {suite}: " + ", ".join(f"{counts[key]} {key}" for key in ("passed", "failed", "skipped")))
    for reason, count in reasons.most_common():
        print(f"  skipped {count}: {reason}")
    if counts["passed"] < int(least):
        print(f"suite {suite}: expected at least {least} passed tests, got {counts['passed']}")
        return 1
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
