"""A node without engines: plain processes in the groups of a tree, and the very market of the platform above them.

What decides (`services.node.market`) and what tells the kernel (`adapters.cgroup`) are the platform's own; in the place of a
worker is a process that is forked and computes. So it runs where nothing but Python is, too (see `_market_inside.py`).
"""

import contextlib
import gc
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from skerry.adapters.cgroup.base import Group, Tree
from skerry.adapters.cgroup.base import Limits as GroupLimits
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.pressure import ProcGauge
from skerry.core.machines.market import MarketSettings
from skerry.core.types.app import Limits, Version
from skerry.core.types.ids import AccountId, AppName, Digest, InstanceId, VersionId
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import Standing
from skerry.ports.runtime import Capabilities, Plain
from skerry.ports.sandbox import SandboxStats
from skerry.services.node.market import KeeperSettings, MarketKeeper

INSTANCE_SHARES, PLANE_SHARES = 16_384, 65_536  # as the platform has it: workers; planes and ingress
LIMITS = Limits(memory_mib_max=64, cpu_millicores_max=1000, reserve=Resources(cpu_millicores=100, memory_mib=12, disk_mib=1))
PIDS_MAX = 64
GOLDEN = 0.6180339887498949  # its multiples fill a period evenly: who asks keeps no step with the clock's ticks
BURST_MS, PAUSE_S = 30, 0.001  # of a hog that sleeps now and then, and wakes up as its neighbours do


class BareNode(Plain):
    """The runtime: instances by name, each a process in a group of its own."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.wanted: dict[InstanceId, NodeInstance] = {}
        self.pids: dict[InstanceId, int] = {}
        self._groups: dict[InstanceId, Group] = {}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolation="none", limits=True, sleep=False, egress=False)

    def begin(self, name: str, work: Callable[[], object]) -> InstanceId:
        made = instance(name)
        self.wanted[made.id] = made
        self._groups[made.id] = self.group(name, group_limits("first"))
        self.pids[made.id] = born(self._groups[made.id], work)
        return made.id

    def group(self, name: str, limits: GroupLimits) -> Group:
        group = self.tree.create(name)
        group.limit(limits)
        return group

    def observe(self) -> tuple[ObservedInstance, ...]:
        return tuple(
            ObservedInstance(
                id=one.id, account=one.version.account, app=one.version.app, version=one.version.id, state="running", since_ms=0,
                pid=self.pids[one.id],
            )
            for one in self.wanted.values()
        )  # fmt: skip

    def stats(self, instance_id: str) -> SandboxStats:
        used = self._groups[InstanceId(instance_id)].usage()
        return SandboxStats(cpu_us=used.cpu_us, memory_bytes=used.memory_bytes, private_bytes=used.private_bytes, pids=used.pids)

    def cpu_us(self, instance_id: str) -> int:
        return self._groups[InstanceId(instance_id)].cpu_us()

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        self._groups[InstanceId(instance_id)].limit(group_limits(standing))

    def signal(self, names: Iterable[InstanceId], number: int) -> None:
        for name in names:
            os.kill(self.pids[name], number)

    def close(self) -> None:
        for group in map(self.tree.open, self.tree.names()):
            while not group.remove():
                group.kill()
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-1, os.WNOHANG)
                time.sleep(0.001)
        self.tree.remove()

    def keeper(self) -> MarketKeeper:
        market = MarketSettings(capacity_millicores=len(os.sched_getaffinity(0)) * 1000)
        wanted = lambda: tuple(self.wanted.values())  # noqa: E731
        return MarketKeeper(self, wanted, ProcGauge(), SystemClock(), KeeperSettings(market=market))  # type: ignore[arg-type]


def group_limits(standing: Standing) -> GroupLimits:
    return GroupLimits(
        memory_bytes=LIMITS.memory_mib_max << 20, cpu_millicores=LIMITS.cpu_millicores_max, cpu_shares=INSTANCE_SHARES,
        cpu_standing=standing, pids=PIDS_MAX,
    )  # fmt: skip


def instance(name: str) -> NodeInstance:
    version = Version(
        id=VersionId(name), account=AccountId("0" * 32), app=AppName(name), number=1, created_ms=1, digest=Digest("0" * 64),
        compatibility_date="2026-01-01", limits=LIMITS,
    )  # fmt: skip
    return NodeInstance(id=InstanceId(name), version=version)


def born(group: Group, work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        try:
            enter(group)
            gc.disable()
            work()
        finally:
            os._exit(1)
    return child


def enter(group: Group) -> None:
    for file in group.join:
        Path(file).write_text("0")


def compute(count: int) -> int:
    x = 0
    for i in range(count):
        x = (x * 31 + i) & 0xFFFFFFFF
    return x


def count_for(ms: float) -> int:
    """So many rounds of `compute` take so long here."""
    rounds = 20_000

    def took_ms() -> float:
        began = time.perf_counter()
        compute(rounds)
        return (time.perf_counter() - began) * 1000

    return int(rounds * ms / min(took_ms() for _ in range(5)))


def spin() -> None:
    while True:
        compute(1_000_000)


def burst(count: int) -> None:
    while True:
        compute(count)
        time.sleep(PAUSE_S)


def serve(end: socket.socket, count: int) -> None:
    while end.recv(1):
        compute(count)
        end.send(b"x")


def ask(end: socket.socket, orders: socket.socket) -> None:
    """The user: for each order, a line of JSON `[rate, seconds]`, the ms of each answer, as one line too."""
    for line in orders.makefile("r"):
        rate, seconds = json.loads(line)
        began, took = time.perf_counter(), list[float]()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, began + (number + number * GOLDEN % 1) / rate - time.perf_counter()))
            sent = time.perf_counter()
            end.send(b"x")
            end.recv(1)
            took.append((time.perf_counter() - sent) * 1000)
        orders.sendall(json.dumps(took).encode() + b"\n")


async def keeper_ms(tree: Tree, instances: int, *, looks: int = 5) -> float:
    """CPU that one look of the market at so many instances takes, two of which never rest; there is one look each second."""
    node = BareNode(tree)
    try:
        for number in range(instances):
            node.begin(f"one{number}", spin if number < 2 else signal.pause)
        keeper = node.keeper()
        for _ in range(2):
            await keeper.step()
            time.sleep(0.2)
        costs = list[float]()
        for _ in range(looks):
            began = time.process_time()
            await keeper.step()
            costs.append((time.process_time() - began) * 1000)
            time.sleep(0.2)
        return sorted(costs)[looks // 2]
    finally:
        node.close()
