"""A node's market over a made-up runtime: who is throttled, squeezed, ended, and that nobody is touched without need."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from skerry.adapters.cgroup.base import Limits as GroupLimits
from skerry.adapters.cgroup.v2 import V2Group, V2Tree
from skerry.adapters.pressure import SimulatedGauge
from skerry.core.machines.market import MarketSettings
from skerry.core.types.app import Limits
from skerry.core.types.ids import AccountId, AppName, InstanceId
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.ports.pressure import Pressure
from skerry.ports.runtime import Capabilities, NoSuchInstance, Plain
from skerry.ports.sandbox import EngineFacts, SandboxStats
from skerry.services.node.market import KeeperSettings, MarketKeeper
from skerry.testing.builders import make_version
from skerry.testing.programs import program_version

MIB = 1 << 20
LIMITS = Limits(memory_mib_max=256, cpu_millicores_max=1000, reserve=Resources(cpu_millicores=100, memory_mib=100))
FACTS = EngineFacts(
    name="x", version="1", isolation="container", abilities=frozenset(("squeeze", "resize")), architecture="amd64", overhead_mib=0
)


@dataclass
class MadeUp(Plain):
    """Instances use what they want, up to what they may."""

    wants: dict[str, int]  # millicores
    memory: dict[str, int] = field(default_factory=dict)  # MiB
    cpu_us: dict[str, int] = field(default_factory=dict)
    may: dict[str, int] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolation="namespace", limits=True, sleep=False, egress=True, classes=(("container", FACTS),))

    def observe(self) -> tuple[ObservedInstance, ...]:
        return tuple(
            ObservedInstance(
                id=InstanceId(name),
                account=AccountId("a"),
                app=AppName("a"),
                version=make_version().id,
                state="running",
                since_ms=0,
                pid=100 + number,
            )
            for number, name in enumerate(self.wants)
        )

    def stats(self, instance_id: str) -> SandboxStats:
        return SandboxStats(cpu_us=self.cpu_us.get(instance_id, 0), private_bytes=self.memory.get(instance_id, 10) * MIB)

    async def throttle(self, instance_id: str, *, cpu_millicores: int, cpu_shares: int | None = None) -> None:
        self.may[instance_id] = cpu_millicores
        self.done.append(("throttle", instance_id))

    async def sleep(self, instance_id: str) -> None:
        self.done.append(("squeeze", instance_id))

    async def drop(self, instance_id: str, reason: str) -> None:
        self.done.append(("drop", instance_id))

    async def restart(self, instance_id: str, reason: str) -> None:
        self.done.append(("end", instance_id))

    def pass_second(self) -> None:
        for name, wanted in self.wants.items():
            self.cpu_us[name] = self.cpu_us.get(name, 0) + min(wanted, self.may.get(name, 1000)) * 1000


@dataclass
class HandClock:
    at_ms: int = 1_000

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms

    async def sleep_ms(self, delay_ms: int) -> None:
        self.at_ms += delay_ms


class Node:
    def __init__(self, runtime: MadeUp, *, program: bool = True, priority: int = 50, throttle: bool = True) -> None:
        self.runtime = runtime
        self.clock = HandClock()
        self.gauge = SimulatedGauge(Pressure(memory_available_bytes=8 << 30, memory_total_bytes=8 << 30))
        version = program_version("a") if program else make_version()
        version = msgspec.structs.replace(version, limits=LIMITS)
        wanted = tuple(NodeInstance(id=InstanceId(name), version=version, priority=priority) for name in runtime.wants)
        settings = KeeperSettings(throttle=throttle, market=MarketSettings(capacity_millicores=2000))
        self.keeper = MarketKeeper(runtime, lambda: wanted, self.gauge, self.clock, settings)

    async def seconds(self, count: int, *, waits: float = 0.0, available_mib: int = 8192) -> None:
        for _ in range(count):
            self.runtime.pass_second()
            self.clock.at_ms += 1000
            before = self.gauge.pressure
            self.gauge.pressure = msgspec.structs.replace(
                before, cpu_waited_us=before.cpu_waited_us + round(waits * 1e6), memory_available_bytes=available_mib * MIB
            )
            await self.keeper.step()


async def test_nobody_is_touched_while_nobody_waits() -> None:
    node = Node(MadeUp({"hog": 1000, "small": 10}))
    await node.seconds(30)
    assert node.runtime.done == []


async def test_the_hog_is_slowed_while_others_wait_and_let_go_afterwards() -> None:
    node = Node(MadeUp({"hog": 1000, "other": 1000, "small": 10}))
    await node.seconds(10, waits=0.6)
    assert node.runtime.may["hog"] < 1000
    assert "small" not in node.runtime.may or node.runtime.may["small"] >= 100
    assert "others wait" in next(grant.reason for grant in node.keeper.grants if grant.id == "hog")
    await node.seconds(60)
    assert node.runtime.may["hog"] == 1000


async def test_an_app_of_the_least_priority_is_work_in_the_background() -> None:
    node = Node(MadeUp({"batch": 1000}), priority=5)
    await node.seconds(2)
    assert node.runtime.may["batch"] == 100


async def test_a_node_without_memory_squeezes_drops_and_ends_in_that_order() -> None:
    node = Node(MadeUp({"cold": 0, "busy": 500}, memory={"cold": 50, "busy": 200}))
    await node.seconds(40)
    node.runtime.done.clear()
    await node.seconds(1, available_mib=600)
    assert node.runtime.done == [("squeeze", "cold")]
    await node.seconds(1, available_mib=600)
    assert node.runtime.done[1:] == [("drop", "cold")]
    await node.seconds(1, available_mib=100)
    assert ("end", "busy") in node.runtime.done


async def test_workers_are_left_to_their_own_runtime() -> None:
    node = Node(MadeUp({"a": 0, "b": 500}, memory={"a": 500, "b": 500}), program=False)
    await node.seconds(40, available_mib=10)
    assert {action for action, _ in node.runtime.done} <= {"throttle"}


async def test_what_an_instance_uses_is_told_with_what_it_may_and_why() -> None:
    node = Node(MadeUp({"hog": 1000, "other": 1000, "small": 10}, memory={"hog": 40}))
    hog = InstanceId("hog")
    assert node.keeper.usage(hog).used_millicores is None
    await node.seconds(10, waits=0.6)
    usage = node.keeper.usage(hog)
    assert usage.used_millicores == usage.granted_millicores == node.runtime.may["hog"]
    assert (usage.share_millicores, usage.limit_millicores, usage.private_bytes) == (100, 1000, 40 * MIB)
    assert "others wait" in usage.held
    assert node.keeper.usage(InstanceId("small")).held == ""
    with pytest.raises(NoSuchInstance):
        node.keeper.usage(InstanceId("gone"))


async def test_without_throttling_it_is_told_what_is_used_all_the_same() -> None:
    node = Node(MadeUp({"hog": 1000}), throttle=False)
    await node.seconds(3, waits=0.9)
    usage = node.keeper.usage(InstanceId("hog"))
    assert (usage.used_millicores, usage.granted_millicores, usage.held) == (1000, 1000, "")


class OnFiles(MadeUp):
    """In groups of the unified hierarchy, as files: what they used is read from there, what they may is written there."""

    groups: dict[str, V2Group]

    def throttle_file(self, name: str) -> str:
        return (self.groups[name].path / "cpu.max").read_text()

    def stats(self, instance_id: str) -> SandboxStats:
        usage = self.groups[instance_id].usage()
        return SandboxStats(cpu_us=usage.cpu_us, private_bytes=usage.private_bytes)

    async def throttle(self, instance_id: str, *, cpu_millicores: int, cpu_shares: int | None = None) -> None:
        self.may[instance_id] = cpu_millicores
        for name in ("cpu.max", "cpu.weight"):  # in the kernel every write replaces the whole
            (self.groups[instance_id].path / name).write_text("")
        self.groups[instance_id].limit(GroupLimits(cpu_millicores=cpu_millicores, cpu_shares=cpu_shares or 100))

    def pass_second(self) -> None:
        super().pass_second()
        for name, group in self.groups.items():
            (group.path / "cpu.stat").write_text(f"usage_usec {self.cpu_us[name]}\nthrottled_usec 0\n")


async def test_in_the_unified_hierarchy_the_quota_goes_down_and_up_again(tmp_path: Path) -> None:
    runtime = OnFiles({"hog": 1000, "small": 10})
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    tree = V2Tree(tmp_path, "skerry-x")
    runtime.groups = {name: tree.create(name) for name in runtime.wants}
    for group in runtime.groups.values():
        for file in ("cpu.max", "cpu.weight", "cpu.stat"):
            (group.path / file).write_text("untouched")
    node = Node(runtime)
    await node.seconds(10, waits=0.6)
    held, _ = runtime.throttle_file("hog").split()
    assert 10_000 <= int(held) < 100_000
    assert runtime.throttle_file("small") == "untouched"
    await node.seconds(60)
    assert runtime.throttle_file("hog") == "100000 100000"
