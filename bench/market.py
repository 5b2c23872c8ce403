"""A node's market: what a modest worker's users notice of neighbours that take all the CPU they can get.

    python -m bench market [--hogs 1,4,16] [--rounds N] [--seconds S] [--settle S] [--shares N] [--json FILE]

A victim (a worker that computes a little for each answer, well within its share) is asked 50 times a second, alone and
beside workers that compute without end; with the market's throttling, without it, and with it and the victim and its user before
everything else by the kernel's real-time class, in turn, in one run. No market can do better than the last one: it is the bound.
All have the same reserve and limit, and weigh what they weigh on any node. p99 of the answers' times, median of the rounds.

Users are not of the node: the victim's has a control group of its own, and those of the others let whoever wakes up go first.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from _bare_node import keeper_ms
from _measure import Report, median, percentile, spread
from _platform import CPU_SHARES
from skerry.adapters.cgroup.base import Group, Tree
from skerry.adapters.cgroup.base import Limits as GroupLimits
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.pressure import ProcGauge
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.adapters.runtime.workerd.settings import Settings
from skerry.core.machines.market import MarketSettings
from skerry.core.types.app import Limits
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.kit.record import Record
from skerry.services.node.market import KeeperSettings, MarketKeeper
from skerry.testing.contracts.runtime import find
from skerry.testing.waiting import eventually
from skerry.testing.workerd_node import TEST_SETTINGS, WorkerdNode, is_root

GOAL = 1.5  # times the victim's p99 alone
RATE = 50.0
INSTANCES, KEEPER_PERCENT = 200, 1.0
LIMITS = Limits(memory_mib_max=64, cpu_millicores_max=1000, reserve=Resources(cpu_millicores=100, memory_mib=12, disk_mib=1))
WORK = """export default { fetch() {
  let x = 0; for (let i = 0; i < %d; i++) x = (x * 31 + i) | 0;
  return new Response(String(x));
} };"""
VICTIM, HOG = WORK % 100_000, WORK % 40_000_000
FEEDERS = GroupLimits(cpu_shares=16 * CPU_SHARES, cpu_standing="later")  # that is CPU_SHARES, after whoever wakes up
PACED, FEED = (Path(__file__).parent / name for name in ("_paced.py", "_feed.py"))


class Seen(Record):
    """One measurement: ms, and how many CPUs the hogs and what is none of ours had meanwhile."""

    p50: float
    p99: float
    hogs: float
    others: float
    held: int = 0


Way = Literal["off", "on", "bound"]
WAYS: tuple[Way, ...] = ("off", "on", "bound")


class Bench:
    def __init__(self, node: WorkerdNode, runtime: WorkerdRuntime, tree: Tree, most: int) -> None:
        self._runtime = runtime
        self.victim = node.shop.instance("victim", VICTIM, limits=LIMITS)
        self.hogs = [node.shop.instance(f"hog{number}", HOG, limits=LIMITS) for number in range(most)]
        self._client, self._feeders = tree.create("client"), tree.create("feeders")
        self._client.limit(GroupLimits(cpu_shares=CPU_SHARES))

    async def start(self) -> None:
        for instance in (self.victim, *self.hogs):
            await self._runtime.start(instance)
        await eventually(lambda: all(self._state(one) == "running" for one in (self.victim, *self.hogs)), timeout_s=120)
        await self.measure(1)

    async def measure(self, seconds: float, *, real_time: bool = False) -> list[float]:
        """ms of each answer."""
        host, _, port = self._address(self.victim).rpartition(":")
        command = (sys.executable, str(PACED), host, port, str(RATE), str(seconds), *(("real-time",) if real_time else ()))
        with self._before_all(real_time):
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, preexec_fn=lambda: enter(self._client)
            )
            said, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(said)

    async def look(self, seconds: float, *, real_time: bool = False) -> Seen:
        began, before, busy_s = time.perf_counter(), self._used_s(), all_busy_s()
        times = await self.measure(seconds, real_time=real_time)
        took, after, busy_s = time.perf_counter() - began, self._used_s(), all_busy_s() - busy_s
        hogs, ours = ((now - then) / took for now, then in zip(after, before, strict=True))
        return Seen(p50=percentile(times, 50), p99=percentile(times, 99), hogs=hogs, others=max(0.0, busy_s / took - hogs - ours))

    def _used_s(self) -> tuple[float, float]:
        """CPU seconds so far: of the hogs, of all else that is ours."""
        victim, *hogs = (self._runtime.stats(one.id).cpu_us / 1e6 for one in (self.victim, *self.hogs))
        clients = (group.usage().cpu_us / 1e6 for group in (self._client, self._feeders))
        return sum(hogs), victim + sum(clients) + time.process_time()

    @contextlib.contextmanager
    def _before_all(self, real_time: bool) -> Iterator[None]:
        """The victim's threads; its user sees to itself."""
        pid = self._seen(self.victim).pid
        if not real_time or pid is None:
            yield
            return
        place = cpu_group(pid)
        for group in (place, cpu_group_of(self._client)):
            allow_real_time(group)
        threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
        try:
            for thread in threads:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))
            yield
        finally:
            for thread in threads:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))

    @contextlib.asynccontextmanager
    async def hostile(self, count: int, way: Way) -> AsyncIterator[MarketKeeper]:
        """So many hogs at work; the market looks after all of them, or nobody does."""
        feed = (sys.executable, str(FEED), *(self._address(hog) for hog in self.hogs[:count]))
        feeder = await asyncio.create_subprocess_exec(*feed, preexec_fn=lambda: enter(self._feeders))
        self._feeders.limit(FEEDERS)
        settings = KeeperSettings(market=MarketSettings(capacity_millicores=len(os.sched_getaffinity(0)) * 1000))
        keeper = MarketKeeper(self._runtime, lambda: (self.victim, *self.hogs), ProcGauge(), SystemClock(), settings)
        keeping = asyncio.ensure_future(keeper.run()) if way != "off" else None
        try:
            yield keeper
        finally:
            feeder.kill()
            await feeder.wait()
            if keeping is not None:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
            for instance in (self.victim, *self.hogs):
                await self._runtime.throttle(instance.id, "first")
            await asyncio.sleep(1)  # what they were still computing

    def _address(self, instance: NodeInstance) -> str:
        address = self._seen(instance).address
        assert address is not None
        return address

    def _seen(self, instance: NodeInstance) -> ObservedInstance:
        seen = find(self._runtime, instance.id)
        assert seen is not None
        return seen

    def _state(self, instance: NodeInstance) -> str:
        seen = find(self._runtime, instance.id)
        return seen.state if seen else ""


def all_busy_s() -> float:
    """CPU seconds so far of the whole machine: user, nice, system, interrupts."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:7])) / os.sysconf("SC_CLK_TCK")


def enter(group: Group) -> None:
    for file in group.join:
        Path(file).write_text("0")


def cpu_group_of(group: Group) -> Path:
    """The directory that has the CPU controller's files."""
    return next(path for path in (Path(file).parent for file in group.join) if list(path.glob("cpu.[sw]*")))


def cpu_group(pid: int) -> Path:
    """As `cpu_group_of`, of a process. Raises `OSError`."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    roots = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines() if " cgroup" in line]
    names = [path for _, controllers, path in lines if not controllers or "cpu" in controllers.split(",")]
    for place in (root / name.lstrip("/") for name in names for root in roots):
        if "skerry-" in place.name and list(place.glob("cpu.[sw]*")):
            return place
    raise OSError(f"process {pid} has no control group of its own")


def allow_real_time(group: Path) -> None:
    """Where the kernel divides real time among groups, and gives them none."""
    if (group / "cpu.rt_runtime_us").exists():
        (group / "cpu.rt_runtime_us").write_text("300000")


async def measure(bench: Bench, report: Report, hogs: Sequence[int], options: argparse.Namespace) -> None:
    alone: list[Seen] = []
    beside: dict[tuple[int, Way], list[Seen]] = {(count, way): [] for count in hogs for way in WAYS}
    for _ in range(options.rounds):
        alone.append(await bench.look(options.seconds))
        for (count, way), found in beside.items():
            async with bench.hostile(count, way) as keeper:
                await asyncio.sleep(options.settle)
                try:
                    seen = await bench.look(options.seconds, real_time=way == "bound")
                except OSError as error:
                    report.note(f"no bound: real time is refused here: {error}")
                    continue
                held = sum(1 for grant in keeper.grants if grant.reason)
                found.append(replace(seen, held=held))
    base = median(seen.p99 for seen in alone)
    rows = [row("none", "", alone, base)]
    rows += [row(f"{count} hostile", way, found, base) for (count, way), found in beside.items() if found]
    report.table(f"a victim's p99, median of {options.rounds} rounds; others are neither the node's nor its users", rows)
    for count in hogs:
        worst = median(seen.p99 for seen in beside[count, "on"])
        report.claim(f"beside {count} hostile, throttled: times alone", worst / base, at_most=GOAL)


async def looks() -> float:
    """In percent, with groups of plain processes."""
    tree, problem = find_tree(f"skerry-bench-looks-{os.getpid()}")
    assert tree is not None, problem
    return await keeper_ms(tree, INSTANCES) / 10


def row(neighbours: str, way: str, found: list[Seen], base: float) -> dict[str, object]:
    p99 = [seen.p99 for seen in found]
    return {
        "neighbours": neighbours, "throttling": way, "p50 ms": median(seen.p50 for seen in found), "p99 ms": median(p99),
        "least-greatest": spread(p99), "times alone": median(p99) / base,
        "held": max(seen.held for seen in found) if way == "on" else "", "hogs' CPUs": median(seen.hogs for seen in found),
        "others' CPUs": median(seen.others for seen in found),
    }  # fmt: skip


async def main(options: argparse.Namespace) -> int:
    report = Report(options.json)
    hogs = [int(word) for word in options.hogs.split(",")]
    root = Path(tempfile.mkdtemp(prefix="skerry-bench-"))
    settings = replace(
        TEST_SETTINGS, cpu_shares=options.shares, look_every_ms=Settings().look_every_ms, sleep_after_ms=86_400_000
    )
    node = WorkerdNode(root, settings)
    tree, problem = find_tree(f"skerry-bench-{os.getpid()}")
    if tree is None:
        report.note(f"skipped: {problem}")
        return report.close()
    try:
        bench = Bench(node, await node.open(), tree, max(hogs))
        await bench.start()
        await measure(bench, report, hogs, options)
        report.claim(f"a look each second at {INSTANCES} instances, of a CPU", await looks(), at_most=KEEPER_PERCENT, unit="%")
    finally:
        await node.clean_up()
        tree.remove()
        shutil.rmtree(root, ignore_errors=True)
    return report.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hogs", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--settle", type=float, default=6)
    parser.add_argument("--shares", type=int, default=Settings().cpu_shares, help="of each worker; more where others work too")
    parser.add_argument("--json", type=Path)
    if not is_root():
        parser.exit(0, "skipped: control groups need root\n")
    raise SystemExit(asyncio.run(main(parser.parse_args())))
