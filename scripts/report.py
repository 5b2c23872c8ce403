#!/usr/bin/env python3
"""What a run of the tests comes to: `report.py REPORT.xml [--allow-skip TEXT]…`, with pytest's JUnit report.

Tells each test that failed, in a few lines at the very end, where a log that is cut off still has them. Fails if a test failed
or was skipped, unless its name or reason contains an allowed TEXT. Expected failures are not skips.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

LINES, WIDTH = 12, 200  # of a failure that are told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--allow-skip", action="append", default=[], metavar="TEXT")
    arguments = parser.parse_args()
    cases = list(ElementTree.parse(arguments.report).iter("testcase"))
    told = [*failed(cases), *(text for text in skipped(cases) if not any(allowed in text for allowed in arguments.allow_skip))]
    for text in told:
        print(text)
    return 1 if told else 0


def failed(cases: list[ElementTree.Element]) -> Iterator[str]:
    for case in cases:
        for found in (*case.iter("failure"), *case.iter("error")):
            lines = [line.strip()[:WIDTH] for line in (found.get("message") or "").splitlines() if line.strip()]
            cut = lines if len(lines) <= LINES else [*lines[: LINES // 2], "…", *lines[-LINES // 2 :]]
            yield "\n  ".join((f"failed: {_name(case)}", *cut))


def skipped(cases: list[ElementTree.Element]) -> Iterator[str]:
    """Name and reason of each skipped test."""
    for case in cases:
        for skip in case.iter("skipped"):
            if skip.get("type") != "pytest.xfail":
                yield f"skipped: {_name(case)}: {skip.get('message')}"


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


if __name__ == "__main__":
    sys.exit(main())
