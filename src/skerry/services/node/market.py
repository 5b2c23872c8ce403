"""The node's market: looks once a second who uses what, and tells the runtime who yields the CPU to whom from now on.

    runtime.cpu_us, gauge ──► core.machines.market ──► runtime.throttle
                        └──► core.machines.memory ──► runtime.sleep, drop, restart

What it decides holds until the next look, so when the agent is away the last word stays; a new process yields to nobody.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from skerry.core.machines.market import WORKING_MILLICORES, Grant, Market, MarketSettings, Trader, trade
from skerry.core.machines.memory import MIB, MemorySettings, Relief, Tenant, is_short, relieve
from skerry.core.types.app import Version
from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import InstanceUsage, Standing
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.pressure import Gauge, Pressure
from skerry.ports.runtime import NoSuchInstance, Runtime, RuntimeFault
from skerry.ports.sandbox import SandboxError, SandboxStats

log = structlog.get_logger()

REFUSALS = (RuntimeFault, SandboxError, OSError)
BACKGROUND_PRIORITY = 10  # apps of this priority or less are work that nobody waits for


class KeeperSettings(Record):
    """`throttle` False: shares and limits alone decide, as without a market."""

    look_ms: int = 1_000
    throttle: bool = True
    market: MarketSettings = MarketSettings()
    memory: MemorySettings = MemorySettings()


@dataclass
class _Rest:
    """When an instance last worked, and was last squeezed (monotonic)."""

    cpu_us: int
    worked_ms: int
    squeezed_ms: int | None = None


@dataclass
class _Seen:
    """Of one process, at the last look; `used_millicores` None at the first."""

    pid: int | None
    cpu_us: int
    at_ms: int
    used_millicores: int | None = None


class MarketKeeper:
    """Run `run` as one task. `wanted`: what the node was told to run, now."""

    def __init__(
        self,
        runtime: Runtime,
        wanted: Callable[[], Sequence[NodeInstance]],
        gauge: Gauge,
        clock: Clock,
        settings: KeeperSettings | None = None,
    ) -> None:
        self._runtime = runtime
        self._wanted = wanted
        self._gauge = gauge
        self._clock = clock
        self._settings = settings or KeeperSettings()
        self._market = Market()
        self._pressure = Pressure()
        self._waited: dict[str, int] = {}  # by instance and process, µs in the queue so far
        self._told: dict[str, Standing] = {}  # by instance and process, the last word that arrived
        self._rests: dict[str, _Rest] = {}
        self._seen: dict[str, _Seen] = {}
        self.grants: tuple[Grant, ...] = ()  # the last ones

    async def run(self) -> None:
        self._pressure = self._gauge.read()
        while True:
            await self._clock.sleep_ms(self._settings.look_ms)
            await self.step()

    async def step(self) -> None:
        """Look once and act."""
        wanted = {instance.id: instance for instance in self._wanted()}
        seen = [one for one in self._runtime.observe() if one.id in wanted and one.pid is not None]
        used_us = {one.id: self._runtime.cpu_us(one.id) for one in seen}
        before, self._pressure = self._pressure, self._gauge.read()
        now_ms = self._clock.monotonic_ms()
        self._seen = {one.id: self._look_at(one, used_us[one.id], now_ms) for one in seen}
        if self._settings.throttle:
            await self._trade(seen, wanted, used_us, before, now_ms)
        await self._relieve(seen, wanted, used_us, before, now_ms)

    def usage(self, instance_id: InstanceId) -> InstanceUsage:
        """What it uses now, beside what it may. Raises `NoSuchInstance`."""
        wanted = next((one for one in self._wanted() if one.id == instance_id), None)
        if wanted is None:
            raise NoSuchInstance(f"{instance_id} is not on this node")
        stats, limits = self._runtime.stats(instance_id), wanted.version.limits
        grant = next((one for one in self.grants if one.id == instance_id), None)
        seen = self._seen.get(instance_id)
        return InstanceUsage(
            instance=instance_id,
            used_millicores=seen.used_millicores if seen else None,
            share_millicores=limits.reserve.cpu_millicores,
            granted_millicores=grant.millicores if grant else limits.cpu_millicores_max,
            limit_millicores=limits.cpu_millicores_max,
            credit_us=grant.credit_us if grant else 0,
            held=grant.reason if grant else "",
            cpu_us=stats.cpu_us,
            throttled_us=stats.throttled_us,
            memory_bytes=stats.memory_bytes,
            private_bytes=stats.private_bytes,
            memory_bytes_max=limits.memory_mib_max * MIB,
            pids=stats.pids,
            oom_kills=stats.oom_kills,
        )

    def _look_at(self, one: ObservedInstance, cpu_us: int, now_ms: int) -> _Seen:
        before = self._seen.get(one.id)
        used = None
        if before is not None and before.pid == one.pid and now_ms > before.at_ms:
            used = max(0, cpu_us - before.cpu_us) // (now_ms - before.at_ms)
        return _Seen(pid=one.pid, cpu_us=cpu_us, at_ms=now_ms, used_millicores=used)

    async def _trade(
        self,
        seen: Sequence[ObservedInstance],
        wanted: Mapping[InstanceId, NodeInstance],
        used_us: Mapping[InstanceId, int],
        before: Pressure,
        now_ms: int,
    ) -> None:
        elapsed_us = max(1, now_ms - self._market.at_ms) * 1000
        processes = {one.id: f"{one.id}/{one.pid}" for one in seen}
        running = set(processes.values())
        queued = {processes[one.id]: self._gauge.waited_us(one.pid or 0) for one in seen if self._may_wait(one.id)}
        traders = [
            _trader(
                wanted[one.id],
                used_us[one.id],
                waited=self._share_waited(processes[one.id], queued, elapsed_us),
            )
            for one in seen
            if one.state in ("running", "asleep")
        ]
        self._waited = {key: us for key, us in queued.items() if us is not None}
        free_us = self._pressure.cpu_idle_us - before.cpu_idle_us
        free = max(0, free_us * 1000 // elapsed_us) if before.cpu_idle_us else None
        self._market, self.grants = trade(
            self._market,
            traders,
            now_ms=max(1, now_ms),
            settings=self._settings.market,
            free_millicores=free,
        )
        self._told = {process: standing for process, standing in self._told.items() if process in running}
        for grant in self.grants:
            await self._tell(grant, processes[InstanceId(grant.id)])

    def _may_wait(self, name: InstanceId) -> bool:
        """Whether it makes a difference how long it waited: there are many threads to ask, of many instances that do nothing."""
        account, used = self._market.accounts.get(name), self._seen[name].used_millicores
        return (account is not None and account.yields) or (used or 0) >= WORKING_MILLICORES

    def _share_waited(self, process: str, queued: Mapping[str, int | None], elapsed_us: int) -> float | None:
        now_us, before_us = queued.get(process), self._waited.get(process)
        return None if now_us is None or before_us is None else min(1.0, max(0, now_us - before_us) / elapsed_us)

    async def _tell(self, grant: Grant, process: str) -> None:
        """Only what differs from before; an earlier agent's last word is not known, so the first one is always said."""
        if self._told.get(process) == grant.standing:
            return
        try:
            await self._runtime.throttle(grant.id, grant.standing)
        except REFUSALS as error:
            log.debug("not_throttled", instance=grant.id, error=str(error))
            return
        self._told[process] = grant.standing

    async def _relieve(
        self,
        seen: Sequence[ObservedInstance],
        wanted: Mapping[InstanceId, NodeInstance],
        used_us: Mapping[InstanceId, int],
        before: Pressure,
        now_ms: int,
    ) -> None:
        """What nobody asked for yet goes first, then it is looked again. After that programs, in their order; workers are looked
        after by their own runtime."""
        waited = (self._pressure.memory_waited_us - before.memory_waited_us) / (self._settings.look_ms * 1000)
        has = {"available_bytes": self._pressure.memory_available_bytes, "total_bytes": self._pressure.memory_total_bytes}
        short = is_short(**has, waited=waited, settings=self._settings.memory)
        if await self._gave_spares(short):
            return
        programs = [one for one in seen if _is_program(wanted[one.id].version)]
        self._rests = {one.id: self._rested(one.id, used_us[one.id], now_ms) for one in programs}
        if not short:
            return
        facts = dict(self._runtime.capabilities.classes) if programs else {}
        squeezing = {name for name, one in facts.items() if "squeeze" in one.abilities}
        tenants = [self._tenant(wanted[one.id], self._runtime.stats(one.id), now_ms, squeezing) for one in programs]
        for relief in relieve(tenants, **has, waited=waited, settings=self._settings.memory):
            await self._do(relief, now_ms)

    async def _gave_spares(self, short: bool) -> bool:
        try:
            ended = await self._runtime.keep_spares(not short)
        except (SandboxError, OSError) as error:
            log.warning("memory_relief_failed", action="spares", error=str(error))
            return False
        if ended:
            log.warning("memory_relief", action="spares", count=ended, reason="the node is short of memory")
        return ended > 0

    def _rested(self, name: str, cpu_us: int, now_ms: int) -> _Rest:
        rest = self._rests.get(name)
        if rest is None:
            return _Rest(cpu_us=cpu_us, worked_ms=now_ms)
        if cpu_us - rest.cpu_us > self._settings.look_ms * 10:  # more than a hundredth of a CPU
            rest.worked_ms = now_ms
        rest.cpu_us = cpu_us
        return rest

    def _tenant(self, wanted: NodeInstance, stats: SandboxStats, now_ms: int, squeezing: Collection[str]) -> Tenant:
        """`squeezing`: the isolation classes whose memory can be moved out."""
        rest, program = self._rests[wanted.id], wanted.version.program
        return Tenant(
            id=wanted.id,
            private_bytes=stats.private_bytes or stats.memory_bytes,
            reserved_bytes=wanted.version.limits.reserve.memory_mib * MIB,
            idle_ms=now_ms - rest.worked_ms,
            priority=wanted.priority,
            squeezed_ms=None if rest.squeezed_ms is None else now_ms - rest.squeezed_ms,
            can_squeeze=wanted.version.isolation in squeezing,
            can_drop=program is None or program.port is not None,
        )

    async def _do(self, relief: Relief, now_ms: int) -> None:
        log.warning("memory_relief", instance=relief.id, action=relief.action, reason=relief.reason)
        try:
            match relief.action:
                case "squeeze":
                    self._rests[relief.id].squeezed_ms = now_ms
                    await self._runtime.sleep(relief.id)
                case "drop":
                    await self._runtime.drop(relief.id, relief.reason)
                case "end":
                    await self._runtime.restart(relief.id, relief.reason)
        except (RuntimeFault, SandboxError) as error:
            log.warning("memory_relief_failed", instance=relief.id, action=relief.action, error=str(error))


def _is_program(version: Version) -> bool:
    """So is a Worker behind another wall than its own; for the others their own runtime cares."""
    return version.program is not None or version.isolation != "sandbox"


def _trader(wanted: NodeInstance, cpu_us: int, *, waited: float | None) -> Trader:
    limits = wanted.version.limits
    return Trader(
        id=wanted.id,
        share_millicores=max(1, limits.reserve.cpu_millicores),
        most_millicores=limits.cpu_millicores_max,
        cpu_us=cpu_us,
        waited=waited,
        background=wanted.priority <= BACKGROUND_PRIORITY,
    )
