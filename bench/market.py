"""A node's market: what a modest worker's users notice of neighbours that take all the CPU they can get.

    python -m bench market [--hogs 1,4,16] [--rounds N] [--seconds S] [--settle S] [--json FILE]

A victim (a worker that computes a little for each answer, well within its share) is asked 50 times a second, alone and
beside workers that compute without end; with the market's throttling and without it, in turn, in one run. All have the same
reserve and limit. p99 of the answers' times, median of the rounds.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from _measure import Report, median, percentile, spread
from _platform import CPU_SHARES
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.pressure import ProcGauge
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.core.machines.market import MarketSettings
from skerry.core.types.app import Limits
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance
from skerry.services.node.market import KeeperSettings, MarketKeeper
from skerry.testing.contracts.runtime import find
from skerry.testing.waiting import eventually
from skerry.testing.workerd_node import TEST_SETTINGS, WorkerdNode, is_root

GOAL = 1.5  # times the victim's p99 alone
RATE = 50.0
LIMITS = Limits(memory_mib_max=64, cpu_millicores_max=1000, reserve=Resources(cpu_millicores=100, memory_mib=12, disk_mib=1))
WORK = """export default { fetch() {
  let x = 0; for (let i = 0; i < %d; i++) x = (x * 31 + i) | 0;
  return new Response(String(x));
} };"""
VICTIM, HOG = WORK % 100_000, WORK % 40_000_000
PACED = Path(__file__).parent / "_paced.py"


class Bench:
    def __init__(self, node: WorkerdNode, runtime: WorkerdRuntime, most: int) -> None:
        self._node = node
        self._runtime = runtime
        self.victim = node.shop.instance("victim", VICTIM, limits=LIMITS)
        self.hogs = [node.shop.instance(f"hog{number}", HOG, limits=LIMITS) for number in range(most)]

    async def start(self) -> None:
        for instance in (self.victim, *self.hogs):
            await self._runtime.start(instance)
        await eventually(lambda: all(self._state(one) == "running" for one in (self.victim, *self.hogs)), timeout_s=120)
        await self.measure(1)

    async def measure(self, seconds: float) -> list[float]:
        """ms of each answer."""
        host, _, port = self._address(self.victim).rpartition(":")
        command = (sys.executable, str(PACED), host, port, str(RATE), str(seconds))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(said)

    @contextlib.asynccontextmanager
    async def hostile(self, count: int, *, market: bool) -> AsyncIterator[MarketKeeper | None]:
        """So many hogs at work; the market looks after all of them, or nobody does."""
        tasks = [asyncio.ensure_future(self._feed(hog)) for hog in self.hogs[:count]]
        settings = KeeperSettings(market=MarketSettings(capacity_millicores=len(os.sched_getaffinity(0)) * 1000))
        keeper = MarketKeeper(self._runtime, lambda: (self.victim, *self.hogs), ProcGauge(), SystemClock(), settings)
        if market:
            tasks.append(asyncio.ensure_future(keeper.run()))
        try:
            yield keeper if market else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for instance in (self.victim, *self.hogs):
                await self._runtime.throttle(instance.id, idle=False)
            await asyncio.sleep(1)  # what they were still computing

    async def _feed(self, hog: NodeInstance) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError, IndexError):
                await self._node.exchange(self._address(hog))

    def _address(self, instance: NodeInstance) -> str:
        seen = find(self._runtime, instance.id)
        assert seen is not None and seen.address is not None
        return seen.address

    def _state(self, instance: NodeInstance) -> str:
        seen = find(self._runtime, instance.id)
        return seen.state if seen else ""


async def measure(bench: Bench, report: Report, hogs: Sequence[int], options: argparse.Namespace) -> None:
    alone: list[float] = []
    beside: dict[tuple[int, bool], list[float]] = {(count, market): [] for count in hogs for market in (False, True)}
    held: dict[int, list[int]] = {count: [] for count in hogs}
    for _ in range(options.rounds):
        alone.append(percentile(await bench.measure(options.seconds), 99))
        for (count, market), found in beside.items():
            async with bench.hostile(count, market=market) as keeper:
                await asyncio.sleep(options.settle)
                found.append(percentile(await bench.measure(options.seconds), 99))
                if keeper is not None:
                    held[count].append(sum(1 for grant in keeper.grants if grant.reason))
    base = median(alone)
    rows = [
        {"neighbours": "none", "throttling": "", "p99 ms": base, "least-greatest": spread(alone), "times alone": 1.0, "held": ""}
    ]
    for (count, market), found in beside.items():
        rows.append(
            {
                "neighbours": f"{count} hostile", "throttling": "on" if market else "off", "p99 ms": median(found),
                "least-greatest": spread(found), "times alone": median(found) / base,
                "held": str(max(held[count])) if market else "",
            }
        )  # fmt: skip
    report.table(f"a victim's p99, median of {options.rounds} rounds", rows)
    for count in hogs:
        report.claim(f"beside {count} hostile, throttled: times alone", median(beside[count, True]) / base, at_most=GOAL)


async def main(options: argparse.Namespace) -> int:
    report = Report(options.json)
    hogs = [int(word) for word in options.hogs.split(",")]
    root = Path(tempfile.mkdtemp(prefix="skerry-bench-"))
    node = WorkerdNode(root, replace(TEST_SETTINGS, cpu_shares=CPU_SHARES))  # as the bench: other work disturbs both less
    try:
        bench = Bench(node, await node.open(), max(hogs))
        await bench.start()
        await measure(bench, report, hogs, options)
    finally:
        await node.clean_up()
        shutil.rmtree(root, ignore_errors=True)
    return report.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hogs", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--settle", type=float, default=6)
    parser.add_argument("--json", type=Path)
    if not is_root():
        parser.exit(0, "skipped: control groups need root\n")
    raise SystemExit(asyncio.run(main(parser.parse_args())))
