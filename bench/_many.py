"""Many apps on one machine: each deployed, each answering in every city; what a deploy takes by then, and all of it costs."""

import asyncio
import os
import time
from pathlib import Path

from _deploys import Uploads, account_id, live
from _measure import Report, median, percentile
from _memory import MB, Cost, available, costs, squeezed_to
from _platform import sites_of, until_state
from _wakes import ask_ms
from skerry.testing.platform import Platform, tagged

SETTLED_S_MAX = 300.0
LIVE_S_MAX = 2.0
SAMPLES = 10  # deploys timed after all are there
ASLEEP_S_MAX = 60.0  # where apps do not sleep they are just left alone for so long
IDLE_S = 10.0


async def many(report: Report, platform: Platform, *, apps: int) -> None:
    sites = await sites_of(platform)
    before = available()
    planes = _planes(platform)
    names = [f"many-{number}" for number in range(apps)]
    async with Uploads(platform, await account_id(platform)) as uploads:
        began, used = time.perf_counter(), _cpu_s(planes)
        answers = [await uploads.put(name, name) for name in names]
        uploaded_s = time.perf_counter() - began
        await _all_settled(platform, apps)
        settled_s = time.perf_counter() - began
        deploy_cpu = {name: (seconds - used[name]) / apps * 1000 for name, seconds in _cpu_s(planes).items()}
        times = [await asyncio.to_thread(ask_ms, platform.base(site), name) for name in names for site in sites]
        later = await _more_deploys(platform, uploads, sites, names)
    _show_deploys(report, answers, uploaded_s, settled_s, later)
    report.note(f"all {apps} apps answer in {len(sites)} cities: {len(times)} first requests, p50 {percentile(times, 50):.1f} ms")
    await until_state(platform, "asleep", apps * len(sites), limit_s=ASLEEP_S_MAX)
    planes = _planes(platform)
    used, began = _cpu_s(planes), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    idle_s = time.perf_counter() - began
    idle_cpu = {name: (seconds - used[name]) / idle_s * 100 for name, seconds in _cpu_s(planes).items()}
    _show_costs(report, platform, planes, deploy_cpu, idle_cpu, before)


async def _all_settled(platform: Platform, apps: int) -> None:
    async def done() -> bool:
        found = (await platform.status())["apps"]
        await asyncio.sleep(0.5)  # asking has a price with so many
        return sum(app["rollout"]["state"] == "done" for app in found if app["rollout"]) == apps

    await platform.until(done, limit_s=SETTLED_S_MAX)


async def _more_deploys(platform: Platform, uploads: Uploads, sites: list[str], names: list[str]) -> list[float]:
    found = []
    for number, name in enumerate(names[:SAMPLES]):
        await uploads.put(name, f"next {number}")
        found.append(await live(platform, sites, name, f"next {number}"))
    return found


def _show_deploys(report: Report, answers: list[float], uploaded_s: float, settled_s: float, later: list[float]) -> None:
    row = {
        "apps": len(answers),
        "upload p50 s": median(answers),
        "p99 s": percentile(answers, 99),
        "first tenth p50": median(answers[: max(1, len(answers) // 10)]),
        "last tenth p50": median(answers[-max(1, len(answers) // 10) :]),
        "all uploaded s": uploaded_s,
        "all rolled out s": settled_s,
        "per app s": settled_s / len(answers),
        "then a deploy is live after p50 s": median(later),
        "max s": max(later),
    }
    report.table("deploying them one after the other", [row])
    text = f"next version with {len(answers)} apps there: upload's answer to live, p50"
    report.claim(text, median(later), at_most=LIVE_S_MAX, unit="s")


def _show_costs(
    report: Report,
    platform: Platform,
    planes: dict[str, list[int]],
    deploy_cpu: dict[str, float],
    idle_cpu: dict[str, float],
    before: int,
) -> None:
    instances = costs(platform)
    rows = [_row("instances", instances, 0.0, 0.0)]
    for kind in sorted(planes):
        found = [Cost([pid], squeezed_to()) for pid in planes[kind]]
        rows.append(_row(kind, found, deploy_cpu[kind], idle_cpu[kind]))
    report.table("what they cost", rows)
    report.note(f"MemAvailable of the whole machine fell by {(before - available()) / MB:.0f} MB")
    if instances:
        report.note(f"an instance: {median(cost.total for cost in instances) / MB:.1f} MB, of {len(instances)}")


def _row(kind: str, found: list[Cost], deploy_ms: float, idle_percent: float) -> dict[str, object]:
    return {
        "what": kind,
        "processes": len(found),
        "private MB": sum(cost.private for cost in found) / MB,
        "+ compressed swap": sum(cost.swapped for cost in found) / MB,
        "+ kernel": sum(cost.kernel for cost in found) / MB,
        "PSS": sum(cost.pss for cost in found) / MB,
        "ms of CPU per deploy": deploy_ms,
        "% of a CPU when idle": idle_percent,
    }


def _planes(platform: Platform) -> dict[str, list[int]]:
    """Pids by kind: the supervisor's children, and each site's HAProxy."""
    found: dict[str, list[int]] = {"control": [], "site controllers": [], "node agents": []}
    for child in Path(f"/proc/{platform.pid}/task/{platform.pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        for kind, module in zip(found, (b"skerry.apps.control", b"skerry.apps.site", b"skerry.apps.node"), strict=True):
            if module in command:
                found[kind].append(int(child))
    return found | {"HAProxy": [pid for site in (platform.data / "sites").iterdir() for pid in tagged(site)]}


def _cpu_s(planes: dict[str, list[int]]) -> dict[str, float]:
    return {kind: sum(_used_s(pid) for pid in pids) for kind, pids in planes.items()}


def _used_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # a worker of HAProxy that a reload replaced
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
