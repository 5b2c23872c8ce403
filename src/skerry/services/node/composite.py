"""One runtime for a node that has several: each instance goes to the one that its version is for.

A worker in isolation class `sandbox` is workerd's; a program, whatever its class, is the program runtime's, and so is a worker
in class `gvisor`, which becomes a program for it. Where a machine
cannot run programs at all, its workers go on, and the reason is told (`Capabilities.missing`, and to whoever asks for one).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog
from msgspec.structs import replace

from skerry.core.types.app import Version
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import Standing
from skerry.ports.runtime import Capabilities, NoSuchInstance, Runtime, RuntimeFault, Unavailable
from skerry.ports.sandbox import ExecSession, ExecSpec, SandboxLimits, SandboxStats
from skerry.ports.walled import Walled

log = structlog.get_logger()

NO_STRONGER_WALL = "a Worker runs in isolation class sandbox here, and in no other"


class CompositeRuntime:
    """See the port for the contract. `programs` None: this node has none, for the reason `no_programs`."""

    def __init__(
        self, workers: Runtime, programs: Runtime | None, *, no_programs: str = "", walled: Walled | None = None
    ) -> None:
        self._workers = workers
        self._walled = walled
        self._programs = programs
        self._no_programs = no_programs

    @property
    def capabilities(self) -> Capabilities:
        """Of workers, and the isolation classes of programs."""
        own = self._workers.capabilities
        if self._programs is None:
            return replace(own, missing=(*own.missing, ("programs", self._no_programs)))
        theirs = self._programs.capabilities
        return replace(own, missing=(*own.missing, *theirs.missing), classes=(*own.classes, *theirs.classes))

    async def attach(self) -> None:
        await self._workers.attach()
        if self._programs is None:
            return
        try:
            await self._programs.attach()
        except RuntimeFault as fault:
            log.error("programs_unavailable", error=str(fault))
            self._programs, self._no_programs = None, str(fault)
            return
        if self._walled is not None:
            await self._walled.face_only(frozenset(seen.id for seen in self._programs.observe()))

    async def start(self, instance: NodeInstance) -> ObservedInstance:
        runtime = self._for(instance.version)
        if _behind_a_wall(instance.version):
            if self._walled is None:
                raise Unavailable(NO_STRONGER_WALL)
            instance = await self._walled.as_program(instance)
        return await runtime.start(instance)

    async def stop(self, instance_id: str, *, grace_ms: int) -> None:
        for runtime in self._all():
            await runtime.stop(instance_id, grace_ms=grace_ms)

    async def sleep(self, instance_id: str) -> None:
        await self._of(instance_id).sleep(instance_id)

    async def keep_spares(self, allowed: bool) -> int:
        return sum([await runtime.keep_spares(allowed) for runtime in self._all()])

    def observe(self) -> tuple[ObservedInstance, ...]:
        return tuple(seen for runtime in self._all() for seen in runtime.observe())

    async def changes(self) -> AsyncIterator[None]:
        """Whenever one of them says so, and once at the beginning: what changed before all were heard is not missed."""
        changed = asyncio.Event()
        changed.set()

        async def hear(runtime: Runtime) -> None:
            async for _ in runtime.changes():
                changed.set()

        listeners = [asyncio.create_task(hear(runtime)) for runtime in self._all()]
        try:
            await asyncio.sleep(0)  # they listen from here on
            while True:
                await changed.wait()
                changed.clear()
                yield
        finally:
            for listener in listeners:
                listener.cancel()

    async def aclose(self, *, stop_instances: bool) -> None:
        """Programs first: those that are Workers stand on the other's ways in and out."""
        try:
            if self._programs is not None:
                await self._programs.aclose(stop_instances=stop_instances)
        finally:
            await self._workers.aclose(stop_instances=stop_instances)

    def stats(self, instance_id: str) -> SandboxStats:
        return self._of(instance_id).stats(instance_id)

    def cpu_us(self, instance_id: str) -> int:
        return self._of(instance_id).cpu_us(instance_id)

    def logs(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        return self._of(instance_id).logs(instance_id, tail_bytes=tail_bytes, follow=follow)

    async def exec(self, instance_id: str, spec: ExecSpec) -> ExecSession:
        return await self._of(instance_id).exec(instance_id, spec)

    async def copy_out(self, instance_id: str, path: str) -> AsyncIterator[bytes]:
        return await self._of(instance_id).copy_out(instance_id, path)

    async def copy_in(self, instance_id: str, directory: str, archive: AsyncIterator[bytes]) -> None:
        await self._of(instance_id).copy_in(instance_id, directory, archive)

    async def pause(self, instance_id: str) -> None:
        await self._of(instance_id).pause(instance_id)

    async def resume(self, instance_id: str) -> None:
        await self._of(instance_id).resume(instance_id)

    async def resize(self, instance_id: str, limits: SandboxLimits) -> None:
        await self._of(instance_id).resize(instance_id, limits)

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        await self._of(instance_id).throttle(instance_id, standing)

    async def drop(self, instance_id: str, reason: str) -> None:
        await self._of(instance_id).drop(instance_id, reason)

    async def restart(self, instance_id: str, reason: str) -> None:
        await self._of(instance_id).restart(instance_id, reason)

    async def snapshot(self, instance_id: str) -> str:
        return await self._of(instance_id).snapshot(instance_id)

    async def clone(self, snapshot: str, instance: NodeInstance) -> ObservedInstance:
        return await self._for(instance.version).clone(snapshot, instance)

    async def forget_snapshot(self, snapshot: str) -> None:
        if self._programs is not None:
            await self._programs.forget_snapshot(snapshot)

    def _all(self) -> Sequence[Runtime]:
        return (self._workers,) if self._programs is None else (self._workers, self._programs)

    def _for(self, version: Version) -> Runtime:
        """Raises `Unavailable`."""
        if version.program is None and not _behind_a_wall(version):
            return self._workers
        if self._programs is None:
            raise Unavailable(f"this node runs no programs: {self._no_programs}")
        return self._programs

    def _of(self, instance_id: str) -> Runtime:
        """Raises `NoSuchInstance`."""
        for runtime in self._all():
            if any(seen.id == instance_id for seen in runtime.observe()):
                return runtime
        raise NoSuchInstance(f"{instance_id} is not on this node")


def _behind_a_wall(version: Version) -> bool:
    """A Worker in another class than its own."""
    return version.program is None and version.isolation != "sandbox"
