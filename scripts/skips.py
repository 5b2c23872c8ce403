#!/usr/bin/env python3
"""Fail if a test was skipped: `skips.py REPORT.xml [--allow-skip TEXT]…`, with pytest's JUnit report.

A test whose name or reason contains an allowed TEXT may be skipped. Expected failures are not skips.
"""

import argparse
import sys
from pathlib import Path
from xml.etree import ElementTree


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--allow-skip", action="append", default=[], metavar="TEXT")
    arguments = parser.parse_args()
    bad = [text for text in skipped(arguments.report) if not any(allowed in text for allowed in arguments.allow_skip)]
    for text in bad:
        print(f"skipped: {text}")
    return 1 if bad else 0


def skipped(report: Path) -> list[str]:
    """Name and reason of each skipped test; raises OSError or ParseError when there is no report."""
    cases = ElementTree.parse(report).iter("testcase")
    return [
        f"{case.get('classname')}::{case.get('name')}: {skip.get('message')}"
        for case in cases
        for skip in case.iter("skipped")
        if skip.get("type") != "pytest.xfail"
    ]


if __name__ == "__main__":
    sys.exit(main())
