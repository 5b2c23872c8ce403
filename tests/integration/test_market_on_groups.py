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
CAPACITY_MILLICORES, FLOOR_MILLICORES, MOST_MILLICORES = 200, 170, 1000  # the floor: 85 % of the node, nobody else works
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
    """A hog and a modest neighbour in real groups; time passes as the hog works, as if it had a CPU of its own."""

    runtime: Runtime
    hog: NodeInstance
    small: NodeInstance
    clock: HandClock = field(default_factory=HandClock)
    gauge: SimulatedGauge = field(default_factory=lambda: SimulatedGauge(ENOUGH))

    def keeper(self) -> MarketKeeper:
        settings = KeeperSettings(market=MarketSettings(capacity_millicores=CAPACITY_MILLICORES, fall=0.25))
        return MarketKeeper(self.runtime, lambda: (self.hog, self.small), self.gauge, self.clock, settings)

    def pid(self, instance: NodeInstance) -> int:
        seen = find(self.runtime, instance.id)
        assert seen is not None and seen.pid is not None
        return seen.pid

    async def steps(self, keeper: MarketKeeper, count: int, *, waits: float) -> None:
        for _ in range(count):
            before_us = self.runtime.stats(self.hog.id).cpu_us
            await eventually(lambda before_us=before_us: self.runtime.stats(self.hog.id).cpu_us > before_us + 10_000)
            passed_ms = (self.runtime.stats(self.hog.id).cpu_us - before_us) // 1000
            self.clock.at_ms += passed_ms
            for instance, share in ((self.hog, 0.0), (self.small, waits)):
                pid = self.pid(instance)
                self.gauge.waited[pid] = self.gauge.waited.get(pid, 0) + round(passed_ms * 1000 * share)
            await keeper.step()


def quota_millicores(pid: int) -> int | None:
    """The least that the groups around a process allow it, as the kernel has it; None: all."""
    found: list[int] = []
    for group, place in _groups_of(pid):
        for path in (place / group, *(place / group).parents):
            found += _quota(path) if path.is_relative_to(place) else []
    return min(found, default=None)


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


def _quota(path: Path) -> list[int]:
    if (path / "cpu.cfs_quota_us").exists():
        quota, period = (int((path / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return [quota * 1000 // period] if quota > 0 else []
    if (path / "cpu.max").exists():
        most, period = (path / "cpu.max").read_text().split()
        return [int(most) * 1000 // int(period)] if most != "max" else []
    return []


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


async def check_throttled_and_let_go(bench: Bench) -> None:
    hog, small = bench.pid(bench.hog), bench.pid(bench.small)
    own = quota_millicores(hog), quota_millicores(small)
    assert own[0] == MOST_MILLICORES
    keeper = bench.keeper()
    await bench.steps(keeper, 6, waits=0.6)
    # Its floor: alone at work, or beside a neighbour that did a little meanwhile, as the kernel counted; and what was decided.
    assert quota_millicores(hog) in (LIMITS.reserve.cpu_millicores, FLOOR_MILLICORES)
    assert quota_millicores(hog) == next(grant.millicores for grant in keeper.grants if grant.id == bench.hog.id)
    assert quota_millicores(small) == own[1]
    reasons = {grant.id: grant.reason for grant in keeper.grants}
    assert "others wait for the CPU" in reasons[bench.hog.id]
    assert reasons[bench.small.id] == ""
    await bench.steps(keeper, 6, waits=0.0)
    assert (quota_millicores(hog), quota_millicores(small)) == own


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
async def test_a_container_that_takes_too_much_is_throttled_and_let_go(programs: ProgramsNode) -> None:
    runtime = await programs.open()
    bench = Bench(runtime, limited(programs.instance("hog", command=SPIN)), limited(programs.instance("small")))
    for instance in (bench.hog, bench.small):
        await runtime.start(instance)
    for instance in (bench.hog, bench.small):
        await until_running(runtime, instance)
    await check_throttled_and_let_go(bench)
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
    await eventually(lambda: "short of memory" in seen_detail(runtime, big.id))
    assert "more than it reserved" in seen_detail(runtime, big.id)
    await until_running(runtime, big)
    assert bench.pid(small) in before
    assert bench.pid(big) not in before


def seen_detail(runtime: Runtime, instance_id: InstanceId) -> str:
    seen = find(runtime, instance_id)
    return seen.detail if seen else ""


@pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}")
async def test_a_worker_that_takes_too_much_is_throttled_and_let_go(tmp_path: Path) -> None:
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
            await check_throttled_and_let_go(bench)
            await check_what_the_kernel_tells(bench)
    finally:
        await node.clean_up()
