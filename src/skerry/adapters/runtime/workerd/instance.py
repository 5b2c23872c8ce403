"""One instance of an app with a worker: its listener, its process, and its life (`core.machines.instance`).

The life decides; this executes: it starts processes and tells the life what became of them. Every task has the
instance as its owner and ends with it.
"""

import asyncio
import socket
import time
from collections.abc import Coroutine
from typing import Any, Protocol

import structlog
from msgspec.structs import replace

from skerry.adapters.blobs.kept import KeptBlobs
from skerry.adapters.cgroup.base import Limits
from skerry.adapters.process import detached, fill
from skerry.adapters.runtime.workerd import process as processes
from skerry.adapters.runtime.workerd import stderr
from skerry.adapters.runtime.workerd.config import HTTP_SOCKET, Unsupported, app_config, encode_config
from skerry.adapters.runtime.workerd.listeners import Gate
from skerry.adapters.runtime.workerd.process import Fleet, Program, SandboxedProcess
from skerry.adapters.runtime.workerd.sandbox import ASSETS_DIRECTORY, EGRESS_DIRECTORY, Sandbox
from skerry.adapters.runtime.workerd.settings import MIB, Settings
from skerry.aio.tasks import cancel
from skerry.core.machines import instance as machine
from skerry.core.machines import strains
from skerry.core.machines.instance import Event, Life
from skerry.core.machines.strains import Strained
from skerry.core.types.app import AssetsBinding, Version
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import Standing
from skerry.ports.sandbox import SandboxLimits, SandboxStats

log = structlog.get_logger()

DROP_GRACE_MS = 5_000  # for the connections of a process that is dropped or replaced when it is idle


class Surroundings(Protocol):
    """What an instance needs of its runtime."""

    @property
    def fleet(self) -> Fleet: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def blobs(self) -> KeptBlobs: ...

    def changed(self) -> None: ...

    def remember(self, instance: "Instance") -> None:
        """Its state is worth a write to disk (dead or not)."""
        ...


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Instance:
    """See the module's docstring. `address` is where users' requests arrive; `gate` is the process's own listener."""

    def __init__(
        self, around: Surroundings, wanted: NodeInstance, key: str, *, address: str, listener: socket.socket, life: Life
    ) -> None:
        self.wanted = wanted
        self.key = key  # of this placement
        self.address = address
        self.life = life
        self.process: SandboxedProcess | None = None
        self.gate = Gate(listener, self._on_demand)
        self.memory_bytes = 0
        self._around = around
        self._tasks: set[asyncio.Task[None]] = set()
        self._work: asyncio.Task[None] | None = None  # starts and watches the process
        self._next_process = 1
        self._replacing: asyncio.Task[None] | None = None
        self._verdict = ""  # why the process that runs was ended by us
        self._strained = Strained()

    @property
    def version(self) -> Version:
        return self.wanted.version

    def begin(self) -> None:
        self.feed(machine.Launched())

    def adopt(self, process: SandboxedProcess) -> None:
        """Go on with a process of an earlier agent."""
        self.process = process
        self._strained = strains.adopted(self.stats().against(self._most()))
        self._next_process = int(process.name.rpartition(".")[2]) + 1
        self._work = self._own(self._watch_adopted(process))

    def resume_dead(self) -> None:
        """Go on as an instance without a process, woken by the next request."""
        self.gate.watch()

    def feed(self, event: Event) -> None:
        before = self.life.state
        self.life, commands = machine.step(self.life, event, now_ms(), self._around.settings.backoff)
        for command in commands:
            self._execute(command)
        if self.life.state != before:
            self._around.remember(self)
        self._around.changed()

    async def remove(self, *, grace_ms: int) -> None:
        """End it and leave nothing: idempotent, and right after half a start."""
        self.feed(machine.Stop())
        await self._stop_tasks()
        if self.process is not None:
            await end(self.process, grace_ms=grace_ms)
            self.process = None
        self.gate.close()

    async def detach(self) -> None:
        """Stop looking after it; what runs goes on running."""
        await self._stop_tasks()
        if self.process is not None:
            self.process.close()
        self.gate.close()

    # What the watch over idle instances asks for.

    def saw_activity(self) -> None:
        if self.life.state == "asleep":
            self.feed(machine.Activity())

    async def squeeze(self) -> None:
        """Move its memory out; the kernel brings back what a request touches."""
        process = self.process
        group = process.group if process else None
        if group is None or self.life.state not in ("running", "asleep"):
            return
        group.allow_swap(True)
        try:
            await asyncio.to_thread(group.squeeze)
        finally:
            group.allow_swap(False)
        if self.process is process:
            self.look()
            self.feed(machine.Squeezed())

    def drop(self, reason: str) -> None:
        """No process until the next request."""
        self.feed(machine.Dropped(reason=reason))

    async def end_hung(self, process: SandboxedProcess) -> None:
        if self.process is process:
            self._verdict = stderr.CPU_EXCEEDED
            await process.kill_now()

    async def replace_idle(self) -> None:
        """A fresh process on the same listener takes over from the one that runs, which finishes and ends."""
        if self._replacing is None and self.life.state in ("running", "asleep"):
            self._replacing = self._own(self._replace())
            await asyncio.wait((self._replacing,))
            self._replacing = None

    async def _replace(self) -> None:
        old = self.process
        try:
            async with asyncio.timeout(self._around.settings.start_ms_max / 1000):
                fresh = await self._start_process()
        except Exception:  # the old one goes on; a reason that lasts shows at its next start
            return
        if self._work is not None:
            self._work.cancel()
        self.process = fresh
        self._work = self._own(self._watch(fresh))
        if old is not None:
            self._own(end(old, grace_ms=self._around.settings.drain_ms_max))
        self._around.changed()

    @property
    def strained(self) -> bool:
        """A limit that it came to is still told."""
        return bool(self._strained.told)

    def look(self, *, log_lost: bool = False, ran_out: bool = False) -> None:
        """Measure it, and see which of its limits it has come to."""
        stats, before = self.stats(), self._strained
        self.memory_bytes = stats.memory_bytes
        seen = stats.against(self._most(), log_lost=log_lost, ran_out=ran_out)
        self._strained = strains.look(before, seen, now_ms(), self._around.settings.strains)
        for strain in self._strained.since(before):
            log.warning("limit_reached", instance=self.wanted.id, limit=strain.limit, text=strain.text)
        if self._strained.strains != before.strains:
            self._around.changed()

    def _most(self) -> SandboxLimits:
        wanted = self.version.limits
        return SandboxLimits(
            memory_mib_max=wanted.memory_mib_max,
            cpu_millicores_max=wanted.cpu_millicores_max,
            pids_max=self._around.settings.pids_max,
        )

    def stats(self) -> SandboxStats:
        process = self.process
        if process is None or process.group is None:
            return SandboxStats()
        usage, descriptors = process.group.usage(), fill.of_descriptors((process.pid,))
        return SandboxStats(
            cpu_us=usage.cpu_us,
            throttled_us=usage.throttled_us,
            memory_bytes=usage.memory_bytes,
            private_bytes=usage.private_bytes,
            pids=usage.pids,
            oom_kills=usage.oom_kills,
            forks_refused=usage.forks_refused,
            descriptors=descriptors.used,
            descriptors_max=descriptors.most,
        )

    def cpu_us(self) -> int:
        group = self.process.group if self.process else None
        return group.cpu_us() if group is not None else 0

    def throttle(self, standing: Standing) -> None:
        """For now: its next process runs as any other again."""
        group = self.process.group if self.process else None
        if group is not None and self.life.state in ("running", "asleep"):
            group.limit(replace(self._limits(self._around.settings.cpu_shares), cpu_standing=standing))

    def observed(self) -> ObservedInstance:
        return ObservedInstance(
            id=self.wanted.id,
            account=self.version.account,
            app=self.version.app,
            version=self.version.id,
            state=self.life.state,
            since_ms=self.life.since_ms,
            pid=(self.process.pid or None) if self.process else None,
            address=self.address,
            restarts=self.life.restarts,
            memory_bytes=self.memory_bytes if self.process else 0,
            detail=self.life.detail,
            strains=self._strained.strains,
        )

    def _on_demand(self) -> None:
        self.feed(machine.Demand())

    def _execute(self, command: machine.Command) -> None:
        match command:
            case machine.Launch():
                self._work = self._own(self._run())
            case machine.End():
                self._drop_process()
            case machine.Wait(delay_ms=delay_ms):
                self._own(self._wait(delay_ms))
            case machine.Refuse():
                self.gate.refuse()
            case machine.Hold():
                self.gate.hold()
            case machine.Watch():
                self.gate.watch()
            case machine.Remove():
                pass  # `remove` does it

    async def _run(self) -> None:
        """Start a process and stay with it until it ends."""
        try:
            await self._around.blobs.ensure_all(self.version.process_digests())
        except Exception as error:  # the site is out of reach, the disk is full: nothing of the version's
            self.feed(machine.Lacking(reason=f"its files cannot be had: {_said(error)}"))
            return
        try:
            async with asyncio.timeout(self._around.settings.start_ms_max / 1000):
                self.process = process = await self._start_process()
        except Exception as error:  # whatever it is, it is a reason, and the next try is the life's to decide
            self.process = None
            self.feed(_exited(error))
            return
        self.look()
        self.feed(machine.Ready())
        await self._watch(process)

    async def _start_process(self) -> SandboxedProcess:
        """A process that is ready. When it raises, nothing of it is left."""
        process = processes.start(self._around.fleet, await self._program())
        try:
            await self._ready_or_fault(process)
        except BaseException:
            await asyncio.shield(process.kill())
            raise
        if process.group is not None:
            process.group.limit(self._limits(self._around.settings.cpu_shares))
        return process

    async def _ready_or_fault(self, process: SandboxedProcess) -> None:
        try:
            await process.ready()
        except OSError as error:
            status = await process.exited()
            words = detached.read_log_tail(process.log)
            fault = stderr.startup_error(words) if status == 1 else None
            if fault is not None:
                raise OwnFault(fault) from error
            raise CrashAtStart(stderr.crash_reason(status, words, out_of_memory=process.out_of_memory())) from error

    async def _program(self) -> Program:
        around, version = self._around, self.version
        settings, places = around.settings, around.fleet.places
        contents = {digest: await around.blobs.get(digest) for digest in sorted(version.process_digests())}
        config = app_config(
            version, contents, forwarded_proto_header=settings.forwarded_proto_header, cf_header=settings.request_cf_header
        )
        binds = [(str(places.egress), EGRESS_DIRECTORY)]
        if any(isinstance(binding, AssetsBinding) for binding in version.bindings):
            binds.append((str(places.bindings / self.key), ASSETS_DIRECTORY))
        number, self._next_process = self._next_process, self._next_process + 1
        return Program(
            name=f"{self.wanted.id}.{number}",
            config=encode_config(config, around.fleet.engine.schema),
            sockets=((HTTP_SOCKET, self.gate.listener.fileno()),),
            box=Sandbox(
                uid=settings.uid(places.tag, self.wanted.id), tag=places.tag, binds=tuple(binds), cpu_files=around.fleet.cpu_files
            ),
            limits=self._limits(settings.cpu_shares_starting),
            owner=self.wanted.id,
            address=self.address,
        )

    def _limits(self, cpu_shares: int) -> Limits:
        wanted = self.version.limits
        return Limits(
            memory_bytes=wanted.memory_mib_max * MIB,
            cpu_millicores=wanted.cpu_millicores_max,
            cpu_shares=cpu_shares,
            pids=self._around.settings.pids_max,
        )

    async def _watch_adopted(self, process: SandboxedProcess) -> None:
        if self.life.state == "starting":
            try:
                async with asyncio.timeout(self._around.settings.start_ms_max / 1000):
                    await self._ready_or_fault(process)
            except Exception as error:
                await process.kill()
                self.process = None
                self.feed(_exited(error))
                return
            self.feed(machine.Ready())
        await self._watch(process)

    async def _watch(self, process: SandboxedProcess) -> None:
        status = await process.exited()
        out_of_memory = process.out_of_memory()
        words = detached.read_log_tail(process.log)
        reason = self._verdict or stderr.crash_reason(status, words, out_of_memory=out_of_memory)
        self._verdict = ""
        self.look(ran_out=out_of_memory)
        await process.kill()  # what is left of it
        if self.process is process:
            self.process = None
        self.feed(machine.Exited(reason=reason))

    async def _wait(self, delay_ms: int) -> None:
        await asyncio.sleep(delay_ms / 1000)
        self.feed(machine.Due())

    def _drop_process(self) -> None:
        process, self.process = self.process, None
        if self._work is not None:
            self._work.cancel()
        if process is not None:
            self._own(end(process, grace_ms=DROP_GRACE_MS))

    async def _stop_tasks(self) -> None:
        await cancel(self._tasks)
        self._work = None

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class OwnFault(Exception):
    """The version cannot start; the text is for its author."""


class CrashAtStart(Exception):
    """The process ended before it was ready, and not by its code's fault."""


async def end(process: SandboxedProcess, *, grace_ms: int) -> None:
    """Let it finish its connections for `grace_ms`, then leave nothing of it."""
    process.terminate()
    try:
        async with asyncio.timeout(grace_ms / 1000):
            await process.exited()
    except TimeoutError:
        pass
    finally:
        await asyncio.shield(process.kill())


def _exited(error: Exception) -> machine.Exited:
    own_fault = isinstance(error, (OwnFault, Unsupported))
    reason = "not ready in time" if isinstance(error, TimeoutError) else _said(error)
    return machine.Exited(reason=reason, own_fault=own_fault)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
