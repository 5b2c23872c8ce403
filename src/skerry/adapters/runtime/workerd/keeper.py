"""A process of the platform's own, one per node, that has to run all the time: egress, assets.

It is replaced without a gap: a new one starts on the same listening sockets, and once it is ready the old one is
asked to finish. It is started anew when it ends, at once the first time and then with a growing delay.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from skerry.adapters.cgroup.base import CgroupError
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd import process as processes
from skerry.adapters.runtime.workerd.instance import end
from skerry.adapters.runtime.workerd.process import Fleet, Program, SandboxedProcess
from skerry.adapters.runtime.workerd.settings import Settings
from skerry.aio.tasks import cancel
from skerry.ports.runtime import Unavailable

LOG_TAIL_BYTES = 600


class Keeper:
    """`build(number)` gives the program with the name `<name>.<number>` as it has to be now."""

    def __init__(self, fleet: Fleet, settings: Settings, name: str, build: Callable[[int], Program]) -> None:
        self.name = name
        self.process: SandboxedProcess | None = None
        self._fleet = fleet
        self._settings = settings
        self._build = build
        self._number = 0
        self._crashes = 0
        self._watcher: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    def adopt(self, process: SandboxedProcess) -> None:
        """Go on with a process of an earlier agent."""
        self._number = int(process.name.rpartition(".")[2])
        self._take(process)

    async def refresh(self) -> None:
        """Start it as it has to be now and let the old one go. Raises `Unavailable`; the old one then goes on."""
        async with self._lock:
            fresh = await self._start()
            old = self.process
            self._take(fresh)
            if old is not None:
                self._let_go(old)

    async def rest(self) -> None:
        """There is nothing to do for it: end the process until the next `refresh`."""
        async with self._lock:
            await cancel((self._watcher,))
            self._watcher = None
            if self.process is not None:
                self._let_go(self.process)
                self.process = None

    async def aclose(self, *, stop: bool) -> None:
        await cancel((self._watcher, *self._leaving))
        if self.process is not None:
            if stop:
                await self.process.kill()
            else:
                self.process.close()
            self.process = None

    async def _start(self) -> SandboxedProcess:
        self._number += 1
        try:
            process = processes.start(self._fleet, self._build(self._number))
        except (OSError, CgroupError) as error:
            raise Unavailable(f"{self.name} does not start: {error}") from error
        try:
            async with asyncio.timeout(self._settings.start_ms_max / 1000):
                await process.ready()
        except OSError as error:  # TimeoutError is one
            said = detached.read_log_tail(process.log, bytes_max=LOG_TAIL_BYTES).strip()
            await process.kill()
            raise Unavailable(f"{self.name} does not start: {said or error}") from error
        except BaseException:
            await process.kill()
            raise
        return process

    def _take(self, process: SandboxedProcess) -> None:
        if self._watcher is not None and self._watcher is not asyncio.current_task():
            self._watcher.cancel()
        self.process = process
        self._watcher = asyncio.create_task(self._watch(process))

    async def _watch(self, process: SandboxedProcess) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await process.exited()
        await process.kill()
        self.process = None
        healthy = (loop.time() - began) * 1000 >= self._settings.backoff.healthy_after_ms
        self._crashes = 1 if healthy else self._crashes + 1
        while self.process is None:
            await asyncio.sleep(self._settings.backoff.delay_ms(self._crashes) / 1000)
            with contextlib.suppress(Unavailable):
                await self.refresh()
            self._crashes += 1

    def _let_go(self, old: SandboxedProcess) -> None:
        self._own(end(old, grace_ms=self._settings.drain_ms_max))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
