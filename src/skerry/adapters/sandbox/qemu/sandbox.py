"""A microVM in QEMU as `skerry.ports.sandbox.Sandbox`."""

import asyncio
from pathlib import Path

from skerry.adapters.sandbox.microvm.box import MicroVm, Started
from skerry.adapters.sandbox.microvm.settings import Settings
from skerry.adapters.sandbox.qemu.machine import PIDS_MAX, Running
from skerry.adapters.sandbox.qemu.qmp import Qmp, QmpError, QmpLost
from skerry.adapters.sandbox.qemu.snapshots import Origin, Snapshots
from skerry.kit.record import decode
from skerry.ports.sandbox import Gone, SandboxError, Unsupported


class QemuSandbox(MicroVm):
    def __init__(self, started: Started, running: Running, settings: Settings, snapshots: Snapshots) -> None:
        super().__init__(started, running.process, settings, running.agent)
        self.pids_max = PIDS_MAX
        self._running = running
        self._snapshots = snapshots
        self._turn = asyncio.Lock()  # pause, resume and snapshot exclude each other

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
                await self._snapshots.take(self._running, self.started, Path(directory))
            except QmpLost as error:
                raise Gone(str(error)) from error
            except (QmpError, OSError, TimeoutError) as error:
                raise SandboxError(f"no snapshot of {self.id}: {error}") from error

    def last_words(self) -> str:
        return self._running.said()

    async def let_go(self) -> None:
        await super().let_go()
        self._running.agent = None
        await self._running.let_go()

    async def _ask(self, command: str) -> None:
        try:
            qmp: Qmp = await self._running.connect_qmp()
            await qmp.call(command)
        except (QmpLost, OSError) as error:
            self._running.qmp = None
            raise Gone(f"{self.id} has ended: {error}") from error
        except QmpError as error:
            raise SandboxError(str(error)) from error
