"""A microVM as `skerry.ports.sandbox.Sandbox`, whichever monitor runs it: its guest's agent, and the waiting for its end.

What differs (pause, snapshot, ending) is the subclass's.
"""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from skerry.adapters.cgroup.base import CgroupError, Limits
from skerry.adapters.sandbox.microvm import fields
from skerry.adapters.sandbox.microvm.agent import AgentLost, GuestAgent
from skerry.adapters.sandbox.microvm.fields import GuestStats
from skerry.adapters.sandbox.microvm.monitor import Monitor
from skerry.adapters.sandbox.microvm.protocol import Tag, field
from skerry.adapters.sandbox.microvm.settings import MIB, Settings
from skerry.aio.tasks import cancel
from skerry.kit.record import Record
from skerry.ports.sandbox import ExecSession, ExecSpec, Exit, Gone, SandboxError, SandboxLimits, SandboxSpec, SandboxStats

POWER_OFF_S = 10  # from the guest's last word to the end of its monitor
KILLED = 137
ASK_EVERY_S, ASK_CPU_US_MIN = 1.5, 75_000  # a guest that used less than a twentieth of a CPU is at rest
ANSWER_S_MAX = 10


class Started(Record):
    """What a later agent has to know of a machine whose program was started; its file is written last."""

    id: str
    stop_signal: str
    guest_mib: int
    limits: SandboxLimits
    about: bytes = b""  # the monitor's own


def started_by(spec: SandboxSpec, *, guest_mib: int, about: bytes = b"") -> Started:
    return Started(id=spec.id, stop_signal=spec.stop_signal, guest_mib=guest_mib, limits=spec.limits, about=about)


def host_limits(limits: SandboxLimits, settings: Settings, *, pids: int) -> Limits:
    """Of the monitor as a process: the whole machine, and what the monitor needs itself."""
    return Limits(
        memory_bytes=(settings.needed_mib(limits.memory_mib_max) + settings.monitor_overhead_mib) * MIB,
        cpu_millicores=limits.cpu_millicores_max,
        cpu_shares=limits.cpu_shares,
        cpu_standing=limits.cpu_standing,
        pids=pids,
        disk=settings.disk,
    )


class Running(Protocol):
    """The connections to one machine, as its monitor has them."""

    @property
    def process(self) -> Monitor: ...

    async def connect_agent_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the guest's PID 1. Raises `OSError`, `AgentLost`; the deadline is the caller's."""
        ...

    def said(self) -> str:
        """The last words of the monitor and of its guest's kernel, for people."""
        ...

    async def let_go(self) -> None:
        """The machine goes on."""
        ...


class MicroVm(ABC):
    """`agent` None: the guest does not answer any more, or not yet. `pids_max`: threads of the monitor."""

    def __init__(
        self, started: Started, running: Running, settings: Settings, agent: GuestAgent | None, *, pids_max: int
    ) -> None:
        self.started = started
        self.process = running.process
        self.settings = settings
        self.agent = agent
        self.pids_max = pids_max
        self._connections = running
        self._turn = asyncio.Lock()  # pause, resume and snapshot exclude each other
        self._end: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._watcher = asyncio.create_task(self._watch())
        self._guest = GuestStats()
        self._asking: asyncio.Task[None] | None = None
        self._asked_at, self._asked_cpu_us = 0.0, 0

    @property
    def id(self) -> str:
        return self.started.id

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait(self) -> Exit:
        return await asyncio.shield(self._end)

    async def gone(self) -> None:
        await self.process.gone()

    async def stop(self, *, grace_ms: int) -> None:
        if self._end.done():
            return
        with contextlib.suppress(SandboxError, TimeoutError):
            async with asyncio.timeout(grace_ms / 1000):
                await self.resume()
                if self.agent is not None:
                    self.agent.signal_program(fields.signal_number(self.started.stop_signal))
                    await self.wait()
        if not self._end.done():
            await self.process.end()
            await self.wait()

    def cpu_us(self) -> int:
        return 0 if self._end.done() else self.process.group.cpu_us()

    def stats(self) -> SandboxStats:
        if self._end.done():
            return SandboxStats()
        found = self.process.stats()
        self._ask_guest(found.cpu_us)
        guest = self._guest
        return msgspec.structs.replace(
            found,
            forks_refused=guest.forks_refused,
            oom_kills=found.oom_kills + guest.oom_kills,
            disk_bytes=guest.disk_kib << 10,
            disk_bytes_max=guest.disk_kib_max << 10,
            disk_files=guest.disk_files,
            disk_files_max=guest.disk_files_max,
            descriptors=guest.descriptors,
            descriptors_max=guest.descriptors_max,
        )

    async def exec(self, spec: ExecSpec) -> ExecSession:
        return await self._talking().exec(spec)

    async def copy_out(self, path: str) -> AsyncIterator[bytes]:
        return self._talking().copy_out(field(Tag.PATH, path.encode()))

    async def copy_in(self, directory: str, archive: AsyncIterator[bytes]) -> None:
        await self._talking().copy_in(field(Tag.PATH, directory.encode()), archive)

    async def resize(self, limits: SandboxLimits) -> None:
        if self.settings.needed_mib(limits.memory_mib_max) > self.started.guest_mib:
            raise SandboxError(
                f"a machine of {self.started.guest_mib} MiB has no room for {limits.memory_mib_max} MiB: restart it"
            )
        wanted = host_limits(limits, self.settings, pids=self.pids_max)
        above, used = wanted.memory_bytes or 0, self.process.group.usage().memory_bytes
        if used > above:  # the monitor gives nothing back, and a snapshot may have left it with pages that no program has
            above = used + limits.memory_mib_max * MIB
        await self._talking().limit(fields.limits(limits))
        try:
            self.process.group.limit(msgspec.structs.replace(wanted, memory_bytes=above))
        except CgroupError as error:
            raise SandboxError(f"new limits of {self.id}: {error}") from error

    @abstractmethod
    async def pause(self) -> None: ...

    @abstractmethod
    async def resume(self) -> None: ...

    @abstractmethod
    async def squeeze(self) -> None: ...

    @abstractmethod
    async def snapshot(self, directory: str) -> None: ...

    async def talk_anew(self, agent: GuestAgent | None) -> None:
        """Another session with the guest; what the one before had opened has ended."""
        await self._unwatch()
        old, self.agent = self.agent, agent
        if old is not None:
            await old.aclose()
        self._watcher = asyncio.create_task(self._watch())

    async def let_go(self) -> None:
        """The machine goes on; nobody here waits for it any more."""
        await self._unwatch()
        await cancel((self._asking,))
        if self.agent is not None:
            await self.agent.aclose()
            self.agent = None
        if not self._end.done():
            self._end.set_result(Exit(code=None, detail="let go"))
        await self._connections.let_go()
        self.process.close()

    def _ask_guest(self, cpu_us: int) -> None:
        """For the next who looks. One at rest has changed nothing, and would be woken by the question."""
        now = time.monotonic()
        asked = self._asking is not None and not self._asking.done()
        if asked or now - self._asked_at < ASK_EVERY_S or cpu_us - self._asked_cpu_us < ASK_CPU_US_MIN:
            return
        if self.agent is not None and not self.agent.exited.done():
            self._asked_at, self._asked_cpu_us = now, cpu_us
            self._asking = asyncio.create_task(self._learn(self.agent))

    async def _learn(self, agent: GuestAgent) -> None:
        with contextlib.suppress(SandboxError, TimeoutError):
            async with asyncio.timeout(ANSWER_S_MAX):
                self._guest = await agent.stats()

    def _talking(self) -> GuestAgent:
        if self._end.done() or self.agent is None or self.agent.exited.done():
            raise Gone(f"{self.id} has ended" if self._end.done() else f"the guest of {self.id} does not answer")
        return self.agent

    async def _unwatch(self) -> None:
        await cancel((self._watcher,))

    async def _watch(self) -> None:
        ended = asyncio.create_task(self.process.ended())
        try:
            if self.agent is not None:
                await asyncio.wait([ended, self.agent.exited], return_when=asyncio.FIRST_COMPLETED)
                if self.agent.exited.done() and not ended.done():
                    await asyncio.wait([ended], timeout=POWER_OFF_S)
                    with contextlib.suppress(SandboxError):  # then it takes longer
                        await self.process.end()
            status = await ended
            self._finish(self._how(status))
        finally:
            ended.cancel()

    def _how(self, status: int | None) -> Exit:
        if self.agent is not None and self.agent.exited.done():
            return self.agent.exited.result()
        if self.process.group.usage().oom_kills:
            return Exit(code=KILLED, out_of_memory=True, detail="the machine around the program was over its memory limit")
        return Exit(code=KILLED if status is not None else None, detail=self._connections.said())

    def _finish(self, how: Exit) -> None:
        if not self._end.done():
            self._end.set_result(how)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, monitor: Monitor, *, timeout_s: float) -> GuestAgent:
    """A session with the guest, given up at once when its monitor ends. Raises `AgentLost`."""
    opening = asyncio.create_task(GuestAgent.open(reader, writer, timeout_s=timeout_s))
    ended = asyncio.create_task(monitor.ended())
    try:
        await asyncio.wait([opening, ended], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            await cancel((opening,))
            raise AgentLost("the machine ended while it started")
        return await opening
    finally:
        ended.cancel()
        opening.cancel()
