"""A node's market over a made-up runtime: who is throttled, squeezed, ended, and that nobody is touched without need."""

import asyncio
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
from skerry.core.types.program import IsolationClass
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import Standing
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
    """Two CPUs: instances use what they want, and who yields what the others leave."""

    wants: dict[str, int]  # millicores
    memory: dict[str, int] = field(default_factory=dict)  # MiB
    used_us: dict[str, int] = field(default_factory=dict)
    standing: dict[str, Standing] = field(default_factory=dict)
    lives: dict[str, int] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    spares: int = 0

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
                pid=100 + number + 1000 * self.lives.get(name, 0),
            )
            for number, name in enumerate(self.wants)
        )

    def stats(self, instance_id: str) -> SandboxStats:
        return SandboxStats(cpu_us=self.used_us.get(instance_id, 0), private_bytes=self.memory.get(instance_id, 10) * MIB)

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        self.standing[instance_id] = standing
        self.done.append(("throttle", instance_id))

    async def keep_spares(self, allowed: bool) -> int:
        ended, self.spares = (0, self.spares) if allowed else (self.spares, 0)
        return ended

    async def sleep(self, instance_id: str) -> None:
        self.done.append(("squeeze", instance_id))

    async def drop(self, instance_id: str, reason: str) -> None:
        self.done.append(("drop", instance_id))

    async def restart(self, instance_id: str, reason: str) -> None:
        self.done.append(("end", instance_id))

    def pass_ms(self, ms: int) -> None:
        yielding = [name for name in self.wants if self.standing.get(name) == "last"]
        left = 2000 - sum(wanted for name, wanted in self.wants.items() if name not in yielding)
        for name, wanted in self.wants.items():
            may = max(0, left) // len(yielding) if name in yielding else 1000
            self.used_us[name] = self.used_us.get(name, 0) + min(wanted, may) * ms

    def pass_second(self) -> None:
        self.pass_ms(1000)


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
    def __init__(
        self,
        runtime: MadeUp,
        *,
        program: bool = True,
        priority: int = 50,
        throttle: bool = True,
        isolation: IsolationClass | None = None,
    ) -> None:
        self.runtime = runtime
        self.clock = HandClock()
        self.gauge = SimulatedGauge(Pressure(memory_available_bytes=8 << 30, memory_total_bytes=8 << 30))
        version = program_version("a") if program else make_version()
        version = msgspec.structs.replace(version, limits=LIMITS, isolation=isolation or version.isolation)
        self.wanted = wanted = tuple(
            NodeInstance(id=InstanceId(name), version=version, priority=priority) for name in runtime.wants
        )
        settings = KeeperSettings(throttle=throttle, market=MarketSettings(capacity_millicores=2000))
        self.keeper = MarketKeeper(runtime, lambda: wanted, self.gauge, self.clock, settings)

    async def seconds(self, count: int, *, available_mib: int = 8192) -> None:
        for _ in range(count):
            self.runtime.pass_second()
            self.clock.at_ms += 1000
            before = self.gauge.pressure
            self.gauge.pressure = msgspec.structs.replace(before, memory_available_bytes=available_mib * MIB)
            await self.keeper.step()


async def test_who_stays_within_its_part_is_told_once_that_it_need_not_yield() -> None:
    """Once, since an earlier agent's last word is not known."""
    node = Node(MadeUp({"one": 300, "small": 10}))
    await node.seconds(30)
    assert node.runtime.done == [("throttle", "one"), ("throttle", "small")]
    assert node.runtime.standing == {"one": "first", "small": "first"}


async def test_the_hog_yields_from_the_next_look_until_it_has_been_modest_for_a_while() -> None:
    node = Node(MadeUp({"hog": 1000, "other": 1000, "small": 10}))
    await node.seconds(2)
    assert node.runtime.standing == {"hog": "last", "other": "last", "small": "first"}
    assert "nobody else wants the CPU" in next(grant.reason for grant in node.keeper.grants if grant.id == "hog")
    node.runtime.wants["hog"] = 50
    await node.seconds(2)
    assert node.runtime.standing["hog"] == "last"
    await node.seconds(2)
    assert node.runtime.standing == {"hog": "first", "other": "last", "small": "first"}


async def test_who_has_its_turn_comes_after_the_modest_and_before_those_who_yield() -> None:
    node = Node(MadeUp({"hog": 0, "other": 0, "small": 10}))
    await node.seconds(60)
    node.runtime.wants |= {"hog": 1000, "other": 1000}
    await node.seconds(1)
    assert node.runtime.standing == {"hog": "later", "other": "last", "small": "first"}


class LivingClock(HandClock):
    """While the keeper sleeps, instances work; when it is over, whoever sleeps is ended."""

    def __init__(self, runtime: MadeUp, seconds: int) -> None:
        super().__init__()
        self.runtime = runtime
        self.end_ms = self.at_ms + seconds * 1000

    async def sleep_ms(self, delay_ms: int) -> None:
        if self.at_ms >= self.end_ms:
            raise asyncio.CancelledError
        self.runtime.pass_ms(delay_ms)
        self.at_ms += delay_ms


async def test_its_own_loop_looks_once_a_second_and_leaves_nothing_unused() -> None:
    hogs = {f"hog{number}": 1000 for number in range(6)}
    runtime = MadeUp({**hogs, "small": 10})
    node = Node(runtime)
    settings = KeeperSettings(market=MarketSettings(capacity_millicores=2000))
    keeper = MarketKeeper(runtime, lambda: node.wanted, node.gauge, LivingClock(runtime, 31), settings)
    with pytest.raises(asyncio.CancelledError):
        await keeper.run()
    got = [runtime.used_us[name] for name in hogs]
    assert sum(got) > 0.97 * 2_000_000 * 31 - 10_000 * 31
    assert max(got) < 1.2 * min(got)
    assert runtime.standing == {**dict.fromkeys(hogs, "last"), "small": "first"}


async def test_a_new_process_of_a_hog_is_told_anew() -> None:
    node = Node(MadeUp({"hog": 1000, "other": 1000, "small": 10}))
    await node.seconds(3)
    node.runtime.lives["hog"] = 1
    node.runtime.done.clear()
    await node.seconds(1)
    assert ("throttle", "hog") in node.runtime.done


async def test_an_app_of_the_least_priority_is_work_in_the_background() -> None:
    node = Node(MadeUp({"batch": 10}), priority=5)
    await node.seconds(2)
    assert node.runtime.standing["batch"] == "last"


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


async def test_what_nobody_asked_for_yet_goes_before_anybody_gives_something_up() -> None:
    node = Node(MadeUp({"cold": 0, "busy": 500}, memory={"cold": 50, "busy": 200}, spares=2))
    await node.seconds(40)
    assert node.runtime.spares == 2
    node.runtime.done.clear()
    await node.seconds(1, available_mib=100)
    assert (node.runtime.spares, node.runtime.done) == (0, [])
    await node.seconds(1, available_mib=100)
    assert ("squeeze", "cold") in node.runtime.done


async def test_workers_are_left_to_their_own_runtime() -> None:
    node = Node(MadeUp({"a": 0, "b": 500}, memory={"a": 500, "b": 500}), program=False)
    await node.seconds(40, available_mib=10)
    assert {action for action, _ in node.runtime.done} <= {"throttle"}


async def test_a_worker_behind_another_wall_gives_memory_back_as_a_program_does() -> None:
    node = Node(MadeUp({"a": 0, "b": 500}, memory={"a": 50, "b": 50}), program=False, isolation="gvisor")
    await node.seconds(40)
    node.runtime.done.clear()
    await node.seconds(1, available_mib=100)
    assert ("drop", "a") in node.runtime.done


async def test_what_an_instance_uses_is_told_with_what_it_may_and_why() -> None:
    node = Node(MadeUp({"hog": 1000, "other": 1000, "small": 10}, memory={"hog": 40}))
    hog = InstanceId("hog")
    assert node.keeper.usage(hog).used_millicores is None
    await node.seconds(10)
    usage = node.keeper.usage(hog)
    assert (usage.used_millicores, usage.granted_millicores) == (995, 566)  # a third of 85 % of two CPUs
    assert (usage.share_millicores, usage.limit_millicores, usage.private_bytes) == (100, 1000, 40 * MIB)
    assert "more than its part" in usage.held
    assert node.keeper.usage(InstanceId("small")).held == ""
    with pytest.raises(NoSuchInstance):
        node.keeper.usage(InstanceId("gone"))


async def test_without_throttling_it_is_told_what_is_used_all_the_same() -> None:
    node = Node(MadeUp({"hog": 1000}), throttle=False)
    await node.seconds(3)
    usage = node.keeper.usage(InstanceId("hog"))
    assert (usage.used_millicores, usage.granted_millicores, usage.held) == (1000, 1000, "")


class OnFiles(MadeUp):
    """In groups of the unified hierarchy, as files: what they used is read from there, what they may is written there."""

    groups: dict[str, V2Group]

    def idle_file(self, name: str) -> str:
        return (self.groups[name].path / "cpu.idle").read_text()

    def stats(self, instance_id: str) -> SandboxStats:
        usage = self.groups[instance_id].usage()
        return SandboxStats(cpu_us=usage.cpu_us, private_bytes=usage.private_bytes)

    def cpu_us(self, instance_id: str) -> int:
        return self.groups[instance_id].cpu_us()

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        self.standing[instance_id] = standing
        self.groups[instance_id].limit(GroupLimits(cpu_standing=standing))

    def pass_second(self) -> None:
        super().pass_second()
        for name, group in self.groups.items():
            (group.path / "cpu.stat").write_text(f"usage_usec {self.used_us[name]}\nthrottled_usec 0\n")


async def test_in_the_unified_hierarchy_the_hog_is_idle_and_its_neighbour_is_not(tmp_path: Path) -> None:
    runtime = OnFiles({"hog": 1000, "other": 1000, "small": 10})
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    tree = V2Tree(tmp_path, "skerry-x")
    runtime.groups = {name: tree.create(name) for name in runtime.wants}
    for group in runtime.groups.values():
        for file in ("cpu.max", "cpu.weight", "cpu.idle", "cpu.stat"):
            (group.path / file).write_text("")
    node = Node(runtime)
    await node.seconds(10)
    assert (runtime.idle_file("hog"), runtime.idle_file("small")) == ("1", "0")
    runtime.wants["hog"] = 10
    await node.seconds(10)
    assert runtime.idle_file("hog") == "0"
