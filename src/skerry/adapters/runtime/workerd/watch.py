"""Looking after instances that nobody asks anything of: asleep, replaced, dropped; and those that hang.

Nothing here talks to a process that is idle: what it uses of the CPU is read from the kernel. So a sleeping app sleeps
on, and one that was woken by a request, without anybody's help, is seen to be awake at the next look.
"""

import asyncio
import contextlib
import select
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from skerry.adapters.runtime.workerd.instance import Instance
from skerry.adapters.runtime.workerd.process import SandboxedProcess, cpu_ns
from skerry.adapters.runtime.workerd.settings import Settings
from skerry.aio.tasks import cancel

BUSY_SHARE = 0.7  # of one CPU between two looks: the event loop may hang, so it is asked
FRESH_SOCKETS = 4  # of workerd with two listeners; were it more one day, nothing would be dropped or replaced
DROPS_PER_LOOK = 4  # instances dropped at once for lack of memory: their memory comes back before the next look
_MEMORY_FIELDS = ("Private_Dirty", "Private_Clean", "Swap")


class Sleeper(Protocol):
    """What the watch may do."""

    @property
    def settings(self) -> Settings: ...

    @property
    def can_sleep(self) -> bool: ...

    def running(self) -> tuple[Instance, ...]:
        """Those with a process that is ready."""
        ...

    def ended_strained(self) -> tuple[Instance, ...]:
        """Those without a process of which a limit is still told."""
        ...

    def trim_logs(self) -> frozenset[str]:
        """The processes whose log had no room left."""
        ...


class Seen:
    """What was last seen of one process."""

    def __init__(self, process: SandboxedProcess, now_ms: int) -> None:
        self.process = process
        self.looked_ms = now_ms
        self.active_ms = now_ms
        self.squeezed_ms = 0
        self.weighed_ms = 0
        self.cpu_ns = 0
        self.probe: asyncio.Task[None] | None = None
        self.waiting = False


class Watch:
    """`run` looks every `look_every_ms` until it is cancelled."""

    def __init__(self, sleeper: Sleeper) -> None:
        self._sleeper = sleeper
        self._seen: dict[str, Seen] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._sleeper.settings.look_every_ms / 1000)
                await self._look()
        finally:
            await cancel(self._work)

    async def _look(self) -> None:
        full_logs = self._sleeper.trim_logs()
        running = self._sleeper.running()
        now = time.monotonic_ns() // 1_000_000
        waiting = _waiting(running)
        idle: list[tuple[int, Instance, Seen]] = []
        names = {instance.process.name for instance in running if instance.process}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        for instance in self._sleeper.ended_strained():
            instance.look()
        for instance in running:
            seen = self._update(instance, now, waiting=instance in waiting)
            if instance.process is not None and (seen is None or seen.active_ms == now or instance.strained):
                instance.look(log_lost=instance.process.name in full_logs)
            if seen is not None and seen.active_ms < now:
                idle.append((now - seen.active_ms, instance, seen))
        idle.sort(key=lambda entry: -entry[0])
        await self._drop(idle)
        for idle_ms, instance, seen in idle:
            await self._rest(instance, seen, idle_ms, now)

    def _update(self, instance: Instance, now: int, *, waiting: bool) -> Seen | None:
        process = instance.process
        if process is None:
            return None
        seen = self._seen.get(process.name)
        if seen is None:
            seen = self._seen[process.name] = Seen(process, now)
        used = cpu_ns(process.pid)
        elapsed_ms = max(1, now - seen.looked_ms)
        busy = (used - seen.cpu_ns) / 1e6 / elapsed_ms
        if used != seen.cpu_ns:
            if seen.active_ms != now:
                instance.saw_activity()
            seen.active_ms = now
        # Somebody waits at its listener, twice: stopped, lost, or busy with little CPU, by a low limit or as it yields to others.
        if seen.probe is None and (busy > BUSY_SHARE or (waiting and seen.waiting)):
            seen.probe = self._own(self._probe(instance, seen))
        seen.cpu_ns, seen.looked_ms, seen.waiting = used, now, waiting
        return seen

    async def _probe(self, instance: Instance, seen: Seen) -> None:
        """Ask its health; end it if it does not answer in time."""
        try:
            async with asyncio.timeout(self._sleeper.settings.hang_ms_max / 1000):
                await seen.process.ready()
        except TimeoutError:
            await instance.end_hung(seen.process)
        except OSError:
            pass  # it ended: its watcher knows
        finally:
            seen.probe = None

    async def _rest(self, instance: Instance, seen: Seen, idle_ms: int, now: int) -> None:
        settings = self._sleeper.settings
        if idle_ms < settings.sleep_after_ms or instance.process is not seen.process:
            return
        if seen.weighed_ms <= seen.active_ms:  # once in a rest: the kernel walks all of its memory for the answer
            seen.weighed_ms = now
            if private_bytes(seen.process.pid) > settings.bloat_bytes and not has_connections(seen):
                await instance.replace_idle()
                return
        asleep = seen.squeezed_ms > seen.active_ms
        too_soon = seen.squeezed_ms and now - seen.squeezed_ms < settings.resleep_after_ms
        if not asleep and not too_soon and self._sleeper.can_sleep:
            await instance.squeeze()
            seen.squeezed_ms, seen.cpu_ns = now, cpu_ns(seen.process.pid)

    async def _drop(self, idle: list[tuple[int, Instance, Seen]]) -> None:
        """End processes that are idle for long, or that memory is needed from; the idlest first."""
        settings = self._sleeper.settings
        short = available_bytes() < settings.drop_below_available_bytes
        dropped = 0
        for idle_ms, instance, seen in idle:
            by_time = settings.drop_after_ms is not None and idle_ms >= settings.drop_after_ms
            by_need = short and dropped < DROPS_PER_LOOK and idle_ms >= settings.sleep_after_ms
            if (by_time or by_need) and not has_connections(seen):
                instance.drop("idle" if by_time else "memory of the machine was short")
                dropped += 1

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task


def has_connections(seen: Seen) -> bool:
    """Open sockets beyond those of a fresh process: a WebSocket that says nothing is a connection too."""
    return sockets_of(seen.process.pid) > FRESH_SOCKETS


def sockets_of(pid: int) -> int:
    """How many sockets it has open, each once."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(path.readlink()))
    return sum(1 for name in found if name.startswith("socket:"))


def private_bytes(pid: int) -> int:
    """Memory that is this process's alone, in RAM or swapped out."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in _MEMORY_FIELDS:
                total += int(rest.split()[0]) << 10
    return total


def available_bytes() -> int:
    """Of the machine, without swapping."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62


def _waiting(instances: tuple[Instance, ...]) -> set[Instance]:
    """Those at whose listener somebody waits to be accepted: one system call for all."""
    poller = select.poll()
    by_fd = {instance.gate.listener.fileno(): instance for instance in instances}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    return {by_fd[fd] for fd, _ in poller.poll(0)}
