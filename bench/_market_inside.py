"""The only program of a guest (see `market_guest.py`): a node's market where the unified hierarchy has all controllers.

    python -m _market_inside PLAN     (JSON: see `market_guest.py`)

Says what it saw line by line, JSON behind a word: `seen`, `keeper`; and `done` at the end.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import _bare_node as bare
from skerry.adapters import fineturns
from skerry.adapters.cgroup.base import Limits as GroupLimits
from skerry.adapters.cgroup.base import Tree
from skerry.adapters.cgroup.probe import find_tree
from skerry.services.node.market import MarketKeeper
from skerry.testing.groups_inside import DONE, mount_all, say

RECORD = Path("/fineturns.json")
SECOND_CPU = Path("/sys/devices/system/cpu/cpu1/online")
LOOKS, LOOK_S = 4, 0.6  # of the market, before it is measured: by then it has told everybody


class Bench:
    def __init__(self, tree: Tree, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._node = bare.BareNode(tree)
        bare.enter(self._node.group("plane", GroupLimits(cpu_shares=bare.PLANE_SHARES)))
        ours, theirs = socket.socketpair()
        self._orders, orders = socket.socketpair()
        count, bursts = bare.count_for(plan["work_ms"]), bare.count_for(bare.BURST_MS)
        self._victim = self._node.begin("victim", lambda: bare.serve(theirs, count))
        client = self._node.group("client", GroupLimits(cpu_shares=bare.INSTANCE_SHARES))
        self._user = bare.born(client, lambda: bare.ask(ours, orders))
        works = (bare.spin, lambda: bare.burst(bursts))
        self._hogs = [self._node.begin(f"hog{number}", works[number % 2]) for number in range(max(plan["hogs"]))]
        self._node.signal(self._hogs, signal.SIGSTOP)
        self._orders.setblocking(False)

    async def run(self) -> None:
        plan = self._plan
        if not plan["exact"]:
            fineturns.ensure(RECORD)
            SECOND_CPU.write_text("1")
        await self._ask(1)
        for _ in range(plan["rounds"]):
            self._tell(0, "", await self._look())
            for count, way in plan["ways"]:
                async with self._beside(count, way) as keeper:
                    seen = await self._look()
                    held = sum(1 for grant in keeper.grants if grant.reason)
                    self._tell(count, way, {**seen, "held": held})

    async def _look(self) -> dict[str, float]:
        began, before = time.perf_counter(), self._used_s()
        times = sorted(await self._ask(self._plan["seconds"]))
        took, after = time.perf_counter() - began, self._used_s()
        hogs, agent, idle = ((now - then) / took for now, then in zip(after, before, strict=True))
        at = {percent: times[max(0, -(-len(times) * percent // 100) - 1)] for percent in (50, 99)}
        return {"p50": at[50], "p99": at[99], "worst": times[-1], "hogs": hogs, "agent": agent, "idle": idle}

    async def _ask(self, seconds: float) -> list[float]:
        loop, said = asyncio.get_running_loop(), b""
        await loop.sock_sendall(self._orders, json.dumps([self._plan["rate"], seconds]).encode() + b"\n")
        while not said.endswith(b"\n"):
            said += await loop.sock_recv(self._orders, 65536)
        return json.loads(said)

    def _used_s(self) -> tuple[float, float, float]:
        """CPU seconds so far: of the hogs, of the agent, of nobody."""
        hogs = sum(self._node.cpu_us(name) for name in self._hogs) / 1e6
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return hogs, time.process_time(), (ticks[3] + ticks[4]) / os.sysconf("SC_CLK_TCK")

    @contextlib.asynccontextmanager
    async def _beside(self, count: int, way: str) -> AsyncIterator[MarketKeeper]:
        """So many hogs at work. "on": as the platform runs; "off": as without its market; "bound": the victim in real time."""
        keeper = self._node.keeper()
        self._node.signal(self._hogs[:count], signal.SIGCONT)
        if way == "on":
            self._switch(on=True)
            for _ in range(LOOKS):
                await asyncio.sleep(LOOK_S)
                await keeper.step()
        if way == "bound":
            self._real_time(os.SCHED_FIFO, 1)
        try:
            await asyncio.sleep(LOOK_S)
            yield keeper
        finally:
            self._real_time(os.SCHED_OTHER, 0)
            self._switch(on=False)
            self._node.signal(self._hogs, signal.SIGSTOP)
            for name in self._node.wanted:
                await self._node.throttle(name, "first")
            await asyncio.sleep(0.2)

    def _switch(self, *, on: bool) -> None:
        """Two emulated CPUs have it all the time, from before there were two: QEMU may run what the kernel has just changed."""
        if self._plan["exact"]:
            (fineturns.ensure if on else fineturns.give_back)(RECORD)

    def _real_time(self, policy: int, priority: int) -> None:
        for pid in (self._node.pids[self._victim], self._user):
            os.sched_setscheduler(pid, policy, os.sched_param(priority))

    def _tell(self, count: int, way: str, seen: dict[str, float]) -> None:
        say(f"seen {json.dumps([count, way, seen])}")


def main(plan: dict[str, Any]) -> None:
    mount_all()
    ctypes.CDLL(None).mount(b"debugfs", str(fineturns.FEATURES.parents[1]).encode(), b"debugfs", 0, None)
    tree, problem = find_tree("skerry-bench")
    assert tree is not None, problem
    say(f"kernel {json.dumps(os.uname().release)}")
    asyncio.run(Bench(tree, plan).run())
    if plan["instances"]:
        other, _ = find_tree("skerry-cost")
        assert other is not None
        say(f"keeper {json.dumps(asyncio.run(bare.keeper_ms(other, plan['instances'])))}")


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except BaseException:
        say(traceback.format_exc())
    say(DONE)
