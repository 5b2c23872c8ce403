"""The platform answers before tenants' code: each of its processes has its weight, whatever session it is in.

Linux gives every session an equal part of the machine (autogroup), so that who is in no group of its own is one of many.
"""

import os
from pathlib import Path

import pytest

from skerry.adapters.cgroup.probe import find_tree
from skerry.testing.platform import Platform
from tests.e2e.footprint import Footprint

TREE = find_tree("skerry-probe")[0]

pytestmark = [
    pytest.mark.usefixtures("engines"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root"),
    pytest.mark.skipif(TREE is None or not TREE.limits, reason="no CPU controller here"),
]


async def test_every_process_of_the_platform_is_in_a_cpu_group() -> None:
    async with Platform(cities="lhr:2") as platform:
        supervisor = platform.pid
        seen = {pid: (_command(pid), _cpu_group(pid)) for pid in Footprint(platform.data).pids if pid != supervisor}
    commands = " ".join(command for command, _ in seen.values())
    for name in ("skerry.apps.control", "skerry.apps.site", "skerry.apps.node", "haproxy", "workerd"):
        assert name in commands
    outside = {command: group for command, group in seen.values() if command and not group.startswith("/skerry-")}
    assert outside == {}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return ""


def _cpu_group(pid: int) -> str:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((path for _, names, path in (line.split(":", 2) for line in lines) if "cpu" in names.split(",") or not names), "")
