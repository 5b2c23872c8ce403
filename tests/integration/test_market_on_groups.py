"""A node's market on the kernel's own control groups: what it says is what the processes get."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from skerry.adapters import tools
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.cgroup.v1 import V1Tree
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.network.linux.probe import probe
from skerry.adapters.pressure import ProcGauge, SimulatedGauge
from skerry.core.machines.market import MarketSettings
from skerry.core.types.app import Limits
from skerry.core.types.ids import InstanceId
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance
from skerry.ports.pressure import Pressure
from skerry.ports.runtime import Runtime
from skerry.services.node.market import KeeperSettings, MarketKeeper
from skerry.testing.contracts.runtime import find
from skerry.testing.oci_node import busybox, is_root
from skerry.testing.programs_node import ProgramsNode
from skerry.testing.waiting import eventually
from skerry.testing.workerd_node import WorkerdNode

GROUPS = find_tree("skerry-probe")[0]
BUSYBOX = busybox()
CAPACITY_MILLICORES, MOST_MILLICORES = 200, 1000
LIMITS = Limits(
    memory_mib_max=128, cpu_millicores_max=MOST_MILLICORES, reserve=Resources(cpu_millicores=100, memory_mib=16, disk_mib=1)
)
ENOUGH = Pressure(memory_available_bytes=8 << 30, memory_total_bytes=8 << 30)
SPIN = ("sh", "-c", "(while :; do :; done) & exec httpd -f -p 8080 -h /www")
HOLD = (
    "sh",
    "-c",
    "held=$(head -c 40000000 /dev/zero | tr '\\0' x); echo holds; httpd -p 8080 -h /www; while :; do sleep 1; done",
)
SPINNER = """
export default { async fetch(request) {
  if (new URL(request.url).pathname === "/spin") for (;;) Math.random();
  return new Response("ok");
} };"""

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="control groups need root"),
    pytest.mark.skipif(GROUPS is None or not GROUPS.limits, reason="no CPU controller here"),
]
containers = [
    pytest.mark.skipif(not tools.find_crun().usable, reason=f"crun: {tools.find_crun().problem}"),
    pytest.mark.skipif(not probe().usable, reason="networks cannot be made here"),
    pytest.mark.skipif(BUSYBOX is None, reason="busybox: no static one (apt-get install busybox-static)"),
]


@dataclass
class HandClock:
    at_ms: int = 1_000

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms

    async def sleep_ms(self, delay_ms: int) -> None:
        self.at_ms += delay_ms


@dataclass
class Bench:
    """A hog and a modest neighbour in real groups; time passes as the hog works, as if it had a CPU of its own, or by hand."""

    runtime: Runtime
    hog: NodeInstance
    small: NodeInstance
    clock: HandClock = field(default_factory=HandClock)
    gauge: SimulatedGauge = field(default_factory=lambda: SimulatedGauge(ENOUGH))

    def keeper(self) -> MarketKeeper:
        settings = KeeperSettings(market=MarketSettings(capacity_millicores=CAPACITY_MILLICORES))
        return MarketKeeper(self.runtime, lambda: (self.hog, self.small), self.gauge, self.clock, settings)

    def pid(self, instance: NodeInstance) -> int:
        seen = find(self.runtime, instance.id)
        assert seen is not None and seen.pid is not None
        return seen.pid

    async def work(self, keeper: MarketKeeper, count: int) -> None:
        for _ in range(count):
            before_us = self.runtime.stats(self.hog.id).cpu_us
            await eventually(lambda before_us=before_us: self.runtime.stats(self.hog.id).cpu_us > before_us + 20_000)
            self.clock.at_ms += (self.runtime.stats(self.hog.id).cpu_us - before_us) // 1000
            await keeper.step()

    async def rest(self, keeper: MarketKeeper, seconds: int) -> None:
        """So long that what the hog does meanwhile is nothing."""
        for _ in range(seconds):
            self.clock.at_ms += 1_000_000
            await keeper.step()


def yields(pid: int) -> bool:
    """Whether one of the groups around a process is idle, or has the least weight where there are no idle ones."""
    return any(
        _number(path / "cpu.idle") == 1 or _number(path / "cpu.shares") == 2 or _number(path / "cpu.weight") in (0, 1)
        for group, place in _groups_of(pid)
        for path in (place / group, *(place / group).parents)
        if path.is_relative_to(place)
    )


def gathered(pid: int) -> bool:
    """Whether it is in the group of all who yield."""
    return "~yields/" in Path(f"/proc/{pid}/cgroup").read_text()


def _number(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() else None


def _groups_of(pid: int) -> list[tuple[str, Path]]:
    places = dict[str, Path]()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        for name in options.split(",") if kind == "cgroup" else ("",) if kind == "cgroup2" else ():
            places.setdefault(name, Path(place))
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return [
        (path.lstrip("/"), places[name])
        for _, names, path in lines
        for name in names.split(",")
        if name in ("cpu", "") and name in places
    ]


def limited(instance: NodeInstance) -> NodeInstance:
    return replace(instance, version=replace(instance.version, limits=LIMITS))


@contextlib.asynccontextmanager
async def spinning(node: WorkerdNode, address: str) -> AsyncIterator[None]:
    request = asyncio.ensure_future(node.exchange(address, "/spin"))
    try:
        yield
    finally:
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await request


async def until_running(runtime: Runtime, instance: NodeInstance) -> None:
    def runs() -> bool:
        seen = find(runtime, instance.id)
        return seen is not None and seen.state == "running"

    await eventually(runs, timeout_s=60)


async def check_yields_and_is_let_go(bench: Bench) -> None:
    hog, small = bench.pid(bench.hog), bench.pid(bench.small)
    keeper = bench.keeper()
    await bench.work(keeper, 2)  # no more: what yields may have to wait for long on a busy machine
    assert (yields(hog), yields(small)) == (True, False)
    assert gathered(hog) or not isinstance(GROUPS, V1Tree)
    assert not gathered(small)
    reasons = {grant.id: grant.reason for grant in keeper.grants}
    assert "more than its part of the node" in reasons[bench.hog.id]
    assert reasons[bench.small.id] == ""
    await bench.rest(keeper, 5)
    assert (yields(hog), yields(small)) == (False, False)
    assert not gathered(hog)


async def check_what_the_kernel_tells(bench: Bench) -> None:
    """With the real gauge and clock: it is seen who works, and that waiting is known of each."""
    gauge = ProcGauge()
    assert gauge.read().memory_total_bytes > 0
    assert gauge.waited_us(bench.pid(bench.hog)) is not None
    keeper = MarketKeeper(
        bench.runtime,
        lambda: (bench.hog, bench.small),
        gauge,
        SystemClock(),
        KeeperSettings(market=MarketSettings(capacity_millicores=CAPACITY_MILLICORES)),
    )
    await keeper.step()
    before_us = bench.runtime.stats(bench.hog.id).cpu_us
    await eventually(lambda: bench.runtime.stats(bench.hog.id).cpu_us > before_us + 50_000)
    await keeper.step()
    used = {grant.id: grant.used_millicores for grant in keeper.grants}
    assert used[bench.hog.id] > used[bench.small.id]


@pytest.fixture
async def programs() -> AsyncIterator[ProgramsNode]:
    assert BUSYBOX is not None
    node = ProgramsNode("crun", BUSYBOX.read_bytes())
    try:
        yield node
    finally:
        await node.clean_up()


def marked(test: Callable[..., object]) -> Callable[..., object]:
    for mark in containers:
        test = mark(test)
    return test


@marked
async def test_a_container_that_takes_too_much_yields_and_is_let_go(programs: ProgramsNode) -> None:
    runtime = await programs.open()
    bench = Bench(runtime, limited(programs.instance("hog", command=SPIN)), limited(programs.instance("small")))
    for instance in (bench.hog, bench.small):
        await runtime.start(instance)
    for instance in (bench.hog, bench.small):
        await until_running(runtime, instance)
    await check_yields_and_is_let_go(bench)
    await check_what_the_kernel_tells(bench)


@marked
async def test_a_program_above_its_reserve_ends_with_the_reason_and_comes_back(programs: ProgramsNode) -> None:
    runtime = await programs.open()
    big, small = limited(programs.instance("big", command=HOLD)), limited(programs.instance("small"))
    for instance in (big, small):
        await runtime.start(instance)
    for instance in (big, small):
        await until_running(runtime, instance)
    bench = Bench(runtime, big, small)
    before = {bench.pid(big), bench.pid(small)}
    bench.gauge.pressure = replace(ENOUGH, memory_available_bytes=100 << 20)
    await bench.keeper().step()
    seen = find(runtime, big.id)
    assert seen is not None
    await eventually(lambda: find(runtime, big.id).restarts == 1)  # type: ignore[union-attr]
    await until_running(runtime, big)
    said = b"".join([data async for data in runtime.logs(big.id, tail_bytes=4096, follow=False)]).decode()
    assert "short of memory" in said
    assert "more than it reserved" in said
    assert bench.pid(small) in before
    assert bench.pid(big) not in before


@marked
async def test_of_two_above_their_reserves_the_one_of_lower_priority_ends_and_only_it(programs: ProgramsNode) -> None:
    runtime = await programs.open()
    cheap = replace(limited(programs.instance("cheap", command=HOLD)), priority=20)
    dear = replace(limited(programs.instance("dear", command=HOLD)), priority=60)
    for instance in (cheap, dear):
        await runtime.start(instance)
    for instance in (cheap, dear):
        await until_running(runtime, instance)
        await eventually(lambda instance=instance: runtime.stats(instance.id).private_bytes > 30 << 20)
    bench = Bench(runtime, cheap, dear)
    before = bench.pid(dear)
    bench.gauge.pressure = replace(ENOUGH, memory_total_bytes=200 << 20, memory_available_bytes=9 << 20)
    await bench.keeper().step()
    await eventually(lambda: "more than it reserved" in seen_detail(runtime, cheap.id))
    assert bench.pid(dear) == before


@marked
async def test_who_is_idle_is_squeezed_then_dropped_before_anybody_is_ended(programs: ProgramsNode) -> None:
    runtime = await programs.open()
    idle, busy = limited(programs.instance("idle")), limited(programs.instance("busy", command=SPIN))
    for instance in (idle, busy):
        await runtime.start(instance)
    for instance in (idle, busy):
        await until_running(runtime, instance)
    bench = Bench(runtime, busy, idle)
    keeper, before = bench.keeper(), bench.pid(busy)
    await keeper.step()
    bench.clock.at_ms += 60_000
    bench.gauge.pressure = replace(ENOUGH, memory_total_bytes=200 << 20, memory_available_bytes=20 << 20)
    await bench.work(keeper, 1)
    assert bench.pid(busy) == before  # the other one is squeezed, or dropped where there is nothing to move it into
    await bench.work(keeper, 1)
    await eventually(lambda: (find(runtime, idle.id) or pytest.fail("gone")).pid is None)
    assert bench.pid(busy) == before


def seen_detail(runtime: Runtime, instance_id: InstanceId) -> str:
    seen = find(runtime, instance_id)
    return seen.detail if seen else ""


@pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}")
async def test_a_worker_that_takes_too_much_yields_and_is_let_go(tmp_path: Path) -> None:
    node = WorkerdNode(tmp_path)
    try:
        runtime = await node.open()
        hog = node.shop.instance("hog", SPINNER, limits=LIMITS)
        bench = Bench(runtime, hog, limited(node.good("small")))
        for instance in (hog, bench.small):
            await runtime.start(instance)
        for instance in (hog, bench.small):
            await until_running(runtime, instance)
        address = (find(runtime, hog.id) or pytest.fail("gone")).address
        assert address is not None
        async with spinning(node, address):
            await check_yields_and_is_let_go(bench)
            await check_what_the_kernel_tells(bench)
    finally:
        await node.clean_up()
