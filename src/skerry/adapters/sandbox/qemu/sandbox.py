"""A microVM in QEMU as `skerry.ports.sandbox.Sandbox`."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from msgspec.structs import replace

from skerry.adapters.cgroup.base import CgroupError
from skerry.adapters.sandbox.microvm.agent import GuestAgent
from skerry.adapters.sandbox.microvm.box import MicroVm, Started, host_limits
from skerry.adapters.sandbox.microvm.settings import MIB, Settings
from skerry.adapters.sandbox.qemu.machine import PIDS_MAX, Running
from skerry.adapters.sandbox.qemu.qmp import Qmp, QmpError, QmpLost
from skerry.adapters.sandbox.qemu.snapshots import Origin, Snapshots
from skerry.kit.record import decode
from skerry.ports.sandbox import Gone, SandboxError, SandboxLimits, Unsupported


class QemuSandbox(MicroVm):
    def __init__(
        self, started: Started, running: Running, settings: Settings, agent: GuestAgent | None, snapshots: Snapshots
    ) -> None:
        super().__init__(started, running, settings, agent, pids_max=PIDS_MAX)
        self._running = running
        self._snapshots = snapshots
        self._limits = started.limits

    async def resize(self, limits: SandboxLimits) -> None:
        await super().resize(limits)
        self._limits = limits

    async def pause(self) -> None:
        async with self._turn:
            await self._ask("stop")

    async def resume(self) -> None:
        async with self._turn:
            await self._ask("cont")

    async def squeeze(self) -> None:
        raise Unsupported("a clone's memory belongs to its template or to itself: there is nothing to give back")

    async def snapshot(self, directory: str) -> None:
        if decode(self.started.about, Origin).about.machine.merge:
            raise Unsupported("memory that may be merged with that of others is in no file that clones could share")
        async with self._turn:
            try:
                with self._room_for_all_of_it():
                    await self._snapshots.take(self._running, self.started, Path(directory))
            except QmpLost as error:
                raise Gone(str(error)) from error
            except (QmpError, OSError, TimeoutError) as error:
                raise SandboxError(f"no snapshot of {self.id}: {error}") from error

    @contextlib.contextmanager
    def _room_for_all_of_it(self) -> Generator[None]:
        """QEMU reads every page of the machine, and to read one that nobody ever wrote takes one, above the program's limit.

        Those pages stay: the program may go on to use all that it could before.
        """
        group, usual = self.process.group, host_limits(self._limits, self.settings, pids=self.pids_max)
        before = group.usage().memory_bytes
        try:
            group.limit(replace(usual, memory_bytes=(usual.memory_bytes or 0) + self.started.guest_mib * MIB))
            yield
        finally:
            with contextlib.suppress(CgroupError):  # what is in use now is not taken away
                read = max(0, group.usage().memory_bytes - before)
                group.limit(replace(usual, memory_bytes=(usual.memory_bytes or 0) + read))

    async def _ask(self, command: str) -> None:
        try:
            qmp: Qmp = await self._running.connect_qmp()
            await qmp.call(command)
        except (QmpLost, OSError) as error:
            self._running.qmp = None
            raise Gone(f"{self.id} has ended: {error}") from error
        except QmpError as error:
            raise SandboxError(str(error)) from error
