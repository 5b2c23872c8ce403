"""`ProgramRuntime`: the runtime port over sandboxes, images and network. One per node, whatever engines it has."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import structlog

from skerry.aio.changes import Changes
from skerry.aio.tasks import cancel
from skerry.core.machines import instance as machine
from skerry.core.types.program import IsolationClass
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import Standing
from skerry.ports.images import ImageError
from skerry.ports.network import NetworkError
from skerry.ports.recordfile import RecordFolder
from skerry.ports.runtime import Capabilities, NoSuchInstance, Unavailable, Unsupported
from skerry.ports.sandbox import (
    Ability,
    EngineFacts,
    ExecSession,
    ExecSpec,
    Sandbox,
    SandboxEngine,
    SandboxError,
    SandboxLimits,
    SandboxStats,
)
from skerry.services.node.programs.faults import as_runtime_faults, translated
from skerry.services.node.programs.instance import LIVING, ProgramInstance
from skerry.services.node.programs.records import Kept, SnapshotRecord
from skerry.services.node.programs.settings import Ground
from skerry.services.node.programs.snapshots import Snapshots
from skerry.services.node.programs.steps import engine_of
from skerry.services.node.programs.watch import Watch

log = structlog.get_logger()

ATTACH_S_MAX = 20  # then the agent goes on; what still waits for its network goes on waiting
RETRY_MS = 2_000


class ProgramRuntime:
    """See the port for the contract. `records` and `snapshots` are this node's own."""

    def __init__(
        self,
        ground: Ground,
        records: RecordFolder[Kept],
        snapshots: RecordFolder[SnapshotRecord],
        *,
        missing: tuple[tuple[IsolationClass, str], ...] = (),
    ) -> None:
        self._ground = ground
        self._records = records
        self._snapshots = Snapshots(ground, snapshots)
        self._instances: dict[str, ProgramInstance] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._changes = Changes()
        self._missing: dict[IsolationClass, str] = dict(missing)  # classes that this machine does not offer, and why
        self._collect_due = asyncio.Event()

    @property
    def capabilities(self) -> Capabilities:
        facts: list[tuple[IsolationClass, EngineFacts]] = [(name, engine.facts) for name, engine in self._ground.engines.items()]
        missing = [(isolation, reason) for isolation, reason in sorted(self._missing.items())]
        missing += [entry for _, one in facts for entry in one.missing]
        sleep = any("squeeze" in engine.facts.abilities for engine in self._ground.engines.values())
        if not sleep:
            missing.append(("sleep", "no engine here moves a program's memory out; one can end without traffic (asleep_after_s)"))
        return Capabilities(
            isolation="namespace+uid", limits=True, sleep=sleep, egress=True, missing=tuple(missing), classes=tuple(facts)
        )

    async def attach(self) -> None:
        kept = self._records.load_all()
        living = {name: one for name, one in kept.items() if one.life.state in LIVING}
        try:
            await self._ground.network.attach(frozenset(n for n, one in kept.items() if one.life.state != "stopping"))
            await self._ground.images.attach(frozenset(living))
        except (NetworkError, ImageError) as error:
            raise Unavailable(str(error)) from error
        await self._attach_engines(living)
        self._ground.files.attach(frozenset(kept), self._snapshots.attach())  # what runs of unknown ones has their logs mounted
        for one in kept.values():
            self._instances[one.instance.id] = self._make(one)
        restores = [self._spawn(self._restore(instance)) for instance in tuple(self._instances.values())]
        if restores:
            await asyncio.wait(restores, timeout=ATTACH_S_MAX)
        for work in (self._hear_rings(), self._look(), self._collect()):
            self._spawn(work)
        self._collect_due.set()
        self._changes.notify()

    async def start(self, instance: NodeInstance) -> ObservedInstance:
        return await self._start(instance, snapshot=None)

    async def stop(self, instance_id: str, *, grace_ms: int) -> None:
        task = self._stopping.get(instance_id)
        if task is None and instance_id in self._instances:
            instance = self._instances[instance_id]
            own_ms = instance.kept.program().stop_grace_ms if grace_ms else 0
            task = self._stopping[instance_id] = asyncio.create_task(self._remove(instance, own_ms))
            task.add_done_callback(lambda _: self._stopping.pop(instance_id, None))
        if task is not None:
            await asyncio.shield(task)

    async def sleep(self, instance_id: str) -> None:
        instance = self._instances.get(instance_id)
        if instance is not None and instance.can_squeeze:
            with as_runtime_faults(instance_id):
                await instance.squeeze()

    async def keep_spares(self, allowed: bool) -> int:
        return sum([await engine.keep_spares(allowed) for engine in self._ground.engines.values()])

    def observe(self) -> tuple[ObservedInstance, ...]:
        return tuple(instance.observed() for instance in self._instances.values())

    def changes(self) -> AsyncIterator[None]:
        return self._changes.listen()

    async def aclose(self, *, stop_instances: bool) -> None:
        await cancel(self._background)
        if stop_instances:
            await asyncio.gather(*(self.stop(name, grace_ms=0) for name in tuple(self._instances)))
            for name in self._snapshots.attach():
                self._snapshots.forget(name)
        else:
            await cancel(tuple(self._stopping.values()))
            for instance in self._instances.values():
                await instance.detach()
        await self._ground.network.aclose(remove_all=stop_instances)
        for engine in self._ground.engines.values():
            await engine.aclose()
        await self._ground.images.aclose()

    def abandon(self) -> None:
        """As kill -9 of the agent, in simulations: its work ends between two steps, and nothing is cleaned up."""
        for task in (*self._background, *self._stopping.values()):
            task.cancel()
        for instance in self._instances.values():
            instance.abandon()

    # What people do with what runs.

    def stats(self, instance_id: str) -> SandboxStats:
        instance = self._instance(instance_id)
        instance.measure()
        return instance.stats

    def cpu_us(self, instance_id: str) -> int:
        sandbox = self._instance(instance_id).sandbox
        return sandbox.cpu_us() if sandbox is not None else 0

    def logs(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        self._instance(instance_id)
        return self._ground.files.read_log(instance_id, tail_bytes=tail_bytes, follow=follow)

    async def exec(self, instance_id: str, spec: ExecSpec) -> ExecSession:
        _, sandbox = self._able(instance_id, "exec", *(("terminal",) if spec.terminal else ()))
        with as_runtime_faults(instance_id):
            return await sandbox.exec(spec)

    async def copy_out(self, instance_id: str, path: str) -> AsyncIterator[bytes]:
        _, sandbox = self._able(instance_id, "files")
        with as_runtime_faults(instance_id):
            return translated(instance_id, await sandbox.copy_out(path))

    async def copy_in(self, instance_id: str, directory: str, archive: AsyncIterator[bytes]) -> None:
        _, sandbox = self._able(instance_id, "files")
        with as_runtime_faults(instance_id):
            await sandbox.copy_in(directory, archive)

    async def pause(self, instance_id: str) -> None:
        instance, _ = self._able(instance_id, "pause")
        if instance.life.state == "starting":
            raise NoSuchInstance(f"{instance_id} is still starting: it can be paused when it runs")
        with as_runtime_faults(instance_id):
            await instance.pause()

    async def resume(self, instance_id: str) -> None:
        instance, _ = self._able(instance_id, "pause")
        with as_runtime_faults(instance_id):
            await instance.resume()

    async def resize(self, instance_id: str, limits: SandboxLimits) -> None:
        instance = self._instance(instance_id)
        self._check(instance, "resize")
        with as_runtime_faults(instance_id):
            await instance.resize(limits)

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        instance = self._instance(instance_id)
        self._check(instance, "resize")
        with as_runtime_faults(instance_id):
            await instance.throttle(standing)

    async def drop(self, instance_id: str, reason: str) -> None:
        instance = self._instance(instance_id)
        if instance.kept.program().port is None:
            raise Unsupported(f"{instance_id} has no port: nothing would wake it")
        instance.drop(reason)

    async def restart(self, instance_id: str, reason: str) -> None:
        instance = self._instance(instance_id)
        with as_runtime_faults(instance_id):
            await instance.end_for(reason)

    async def snapshot(self, instance_id: str) -> str:
        instance, sandbox = self._able(instance_id, "snapshot")
        with as_runtime_faults(instance_id), instance.still():
            return await self._snapshots.make(instance.kept, sandbox, engine_of(self._ground, instance.kept).facts)

    async def clone(self, snapshot: str, instance: NodeInstance) -> ObservedInstance:
        kept = Kept(instance=instance, life=machine.begin(self._ground.clock.now_ms()))
        with as_runtime_faults(instance.id):
            engine = engine_of(self._ground, kept)
        if "clone" not in engine.facts.abilities:
            raise self._cannot("clone", engine)
        self._snapshots.check(snapshot, kept, engine.facts)
        running = self._instances.get(instance.id)
        if running is None or instance.id in self._stopping:
            return await self._start(instance, snapshot=snapshot)
        await running.restart_from(snapshot)
        return running.observed()

    async def forget_snapshot(self, snapshot: str) -> None:
        self._snapshots.forget(snapshot)

    # Inside.

    async def _attach_engines(self, living: dict[str, Kept]) -> None:
        """One that cannot work here is left out, with its reason; the others go on."""
        for isolation, engine in tuple(self._ground.engines.items()):
            try:
                await engine.attach(frozenset(n for n, one in living.items() if one.instance.version.isolation == isolation))
            except SandboxError as error:
                log.error("engine_unavailable", isolation=isolation, error=str(error))
                self._missing[isolation] = str(error)
                del self._ground.engines[isolation]

    def _make(self, kept: Kept) -> ProgramInstance:
        return ProgramInstance(self._ground, kept, lambda kept: self._records.save(kept.instance.id, kept), self._changes.notify)

    async def _start(self, wanted: NodeInstance, *, snapshot: str | None) -> ObservedInstance:
        stopping = self._stopping.get(wanted.id)
        if stopping is not None:
            await asyncio.shield(stopping)
        running = self._instances.get(wanted.id)
        if running is not None:
            return running.observed()
        if wanted.version.program is None:
            raise Unavailable(f"version {wanted.version.id} has no program")
        life = machine.begin(self._ground.clock.now_ms(), wanted.version.program.restart)
        kept = Kept(instance=wanted, life=life, snapshot=snapshot)
        self._records.save(wanted.id, kept)
        instance = self._instances[wanted.id] = self._make(kept)
        try:
            with as_runtime_faults(wanted.id):
                await instance.place()
        except BaseException:
            if wanted.id not in self._stopping:
                await self.stop(wanted.id, grace_ms=0)
            raise
        if instance.life.state == "starting":
            instance.begin()
        return instance.observed()

    async def _restore(self, instance: ProgramInstance) -> None:
        if instance.leaving:
            await self.stop(instance.id, grace_ms=0)
            return
        while True:
            try:
                await instance.place()
                engine = self._ground.engines.get(instance.kept.instance.version.isolation)
                sandbox = await engine.open(instance.id) if engine is not None else None
                break
            except (NetworkError, SandboxError) as error:
                log.error("restore_waits", instance=instance.id, error=str(error))
                await self._ground.clock.sleep_ms(RETRY_MS)
        if not instance.leaving:
            instance.adopt(sandbox)

    async def _remove(self, instance: ProgramInstance, grace_ms: int) -> None:
        """The record is last: as long as it is there, a killed agent's successor does all of this again."""
        await instance.remove(grace_ms=grace_ms)
        self._records.remove(instance.id)
        self._instances.pop(instance.id, None)
        self._collect_due.set()
        self._changes.notify()

    def _instance(self, instance_id: str) -> ProgramInstance:
        instance = self._instances.get(instance_id)
        if instance is None:
            raise NoSuchInstance(f"{instance_id} is not on this node")
        return instance

    def _able(self, instance_id: str, *abilities: Ability) -> tuple[ProgramInstance, Sandbox]:
        """Raises `NoSuchInstance` and `Unsupported`."""
        instance = self._instance(instance_id)
        self._check(instance, *abilities)
        return instance, instance.running()

    def _check(self, instance: ProgramInstance, *abilities: Ability) -> None:
        with as_runtime_faults(instance.id):
            engine = engine_of(self._ground, instance.kept)
        for ability in abilities:
            if ability not in engine.facts.abilities:
                raise self._cannot(ability, engine)

    def _cannot(self, ability: Ability, engine: SandboxEngine) -> Unsupported:
        able = [name for name, one in sorted(self._ground.engines.items()) if ability in one.facts.abilities]
        others = f"{', '.join(able)} can" if able else "no isolation class of this node can"
        return Unsupported(f"{ability}: not in isolation class {engine.facts.isolation} ({engine.facts.name}); {others}")

    async def _hear_rings(self) -> None:
        async for instance_id in self._ground.network.rings():
            instance = self._instances.get(instance_id)
            if instance is not None:
                instance.ring()

    async def _look(self) -> None:
        watch = Watch(self._ground)
        while True:
            await self._ground.clock.sleep_ms(self._ground.settings.look_every_ms)
            watch.look(tuple(self._instances.values()))

    async def _collect(self) -> None:
        """Images, and files of Workers, that nobody uses any more."""
        while True:
            await self._collect_due.wait()
            self._collect_due.clear()
            keep = frozenset(instance.kept.program().image.manifest for instance in self._instances.values())
            await self._ground.walled.collect(lambda: [one.kept.instance.version for one in self._instances.values()])
            try:
                await self._ground.images.collect(keep, budget_mib=self._ground.settings.images_mib_max)
            except ImageError as error:
                log.warning("images_not_collected", error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
