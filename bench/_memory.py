"""What an app costs that nobody asks for, by state: its own memory, what it has in compressed swap, the kernel's for it."""

import asyncio
import contextlib
from pathlib import Path

from _deploys import Uploads, account_id
from _measure import Report, median
from _platform import open_platform, sites_of, until_state
from _wakes import ask_ms
from skerry.testing.platform import Platform, tagged

GOALS_MB = {"running": 10.0, "asleep": 3.5, "dead": 0.0}
OPTIONS = {"running": ("--sleep-after", "86400"), "asleep": ("--sleep-after", "0.3"), "dead": ("--dead-after", "0.4")}
STATE_S_MAX = 60.0
SETTLE_S = 3.0  # memory of ended processes comes back a little later
MB = 1e6
_PAGE_KB = 1024


class Cost:
    """Of all processes of an app (workerd and its sandbox), in bytes."""

    def __init__(self, pids: list[int], squeezed_to: float) -> None:
        sums = dict.fromkeys(("Pss", "Private_Clean", "Private_Dirty", "Swap"), 0)
        for pid in pids:
            for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
                name, _, rest = line.partition(":")
                if name in sums:
                    sums[name] += int(rest.split()[0]) * _PAGE_KB
        self.pss = sums["Pss"]
        self.private = sums["Private_Clean"] + sums["Private_Dirty"]
        self.swapped = round(sums["Swap"] * squeezed_to)
        self.kernel = sum(_page_tables(pid) for pid in pids) + _kernel_of_group(pids)

    @property
    def total(self) -> int:
        return self.private + self.swapped + self.kernel


async def memory(report: Report, *, apps: int) -> None:
    rows = []
    for state, options in OPTIONS.items():
        async with open_platform("lhr:1", *options) as platform:
            rows += await _measure(report, platform, state, apps)
    report.table(f"memory of an idle app, MB (medians of {apps})", rows)


async def _measure(report: Report, platform: Platform, state: str, apps: int) -> list[dict[str, object]]:
    (site,) = await sites_of(platform)
    before = available()
    names = [f"idle-{number}" for number in range(apps)]
    async with Uploads(platform, await account_id(platform)) as uploads:
        for name in names:
            await uploads.put(name, name)
    await platform.settled(names[-1], {site})
    for name in names:
        await asyncio.to_thread(ask_ms, platform.base(site), name)
    if not await until_state(platform, state, apps, limit_s=STATE_S_MAX):
        report.note(f"left out: apps do not get {state} here")
        return []
    await asyncio.sleep(SETTLE_S)
    rows = [_row(state, costs(platform), before, apps)]
    report.claim(f"memory of an app that is {state}", float(rows[0]["in all"]), at_most=GOALS_MB[state], unit="MB")
    if state == "asleep":
        for name in names:
            await asyncio.to_thread(ask_ms, platform.base(site), name)
        rows.append(_row("woken once", costs(platform), before, apps))
    return rows


def costs(platform: Platform) -> list[Cost]:
    """Of each app that has processes, in any node."""
    by_group: dict[str, list[int]] = {}
    for node in (platform.data / "nodes").iterdir():
        instances = {path.stem for path in (node / "instances").glob("*.json")}
        for pid in tagged(node):
            group = _group(pid).rpartition("/")[2]
            if group.partition(".")[0] in instances:
                by_group.setdefault(group, []).append(pid)
    ratio = squeezed_to()
    return [Cost(pids, ratio) for pids in by_group.values()]


def _row(state: str, found: list[Cost], before: int, apps: int) -> dict[str, object]:
    def of(what: str) -> float:
        return median(getattr(cost, what) for cost in found) / MB if found else 0.0

    parts = {"private": of("private"), "+ compressed swap": of("swapped"), "+ kernel": of("kernel")}
    return {
        "app": state,
        "processes": len(found),
        **parts,
        "in all": of("total"),
        "PSS": of("pss"),
        "less MemAvailable": (before - available()) / apps / MB,
    }


def available() -> int:
    """Of the machine, in bytes."""
    found = next(line for line in _read("/proc/meminfo").splitlines() if line.startswith("MemAvailable"))
    return int(found.split()[1]) * 1024


def squeezed_to() -> float:
    """What remains of a byte in zram, on average."""
    original = compressed = 0
    for path in Path("/sys/block").glob("zram*/mm_stat"):
        fields = _read(str(path)).split()
        original, compressed = original + int(fields[0]), compressed + int(fields[2])
    return compressed / original if original else 1.0


def _page_tables(pid: int) -> int:
    lines = _read(f"/proc/{pid}/status").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPTE:"))


def _kernel_of_group(pids: list[int]) -> int:
    """Stacks, sockets, descriptors: what the memory controller counts besides page tables. 0 where it does not say."""
    group = _group(pids[0])
    if "/skerry-" not in group:
        return 0  # it shares a group with others
    counted = _read(f"/sys/fs/cgroup/memory{group}/memory.kmem.usage_in_bytes") or _field(
        f"/sys/fs/cgroup{group}/memory.stat", "kernel"
    )
    return max(0, int(counted or 0) - sum(_page_tables(pid) for pid in pids))


def _group(pid: int) -> str:
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or (number == "0" and "skerry-" in path):
            return path
    return ""


def _field(path: str, name: str) -> str:
    return next((line.split()[1] for line in _read(path).splitlines() if line.startswith(f"{name} ")), "")


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""
