"""A machine monitor as a process of the host: detached, in a group of its own, found again and ended by its record.

QEMU has bubblewrap outside and is its child; Firecracker's jailer becomes Firecracker. `pid` is the monitor itself in both.
"""

import asyncio
import contextlib
import signal
from pathlib import Path

import msgspec

from skerry.adapters.cgroup.base import KILL_S_MAX, CgroupError, Group, Limits, Tree
from skerry.adapters.cgroup.probe import end_group
from skerry.adapters.process import detached
from skerry.adapters.process.detached import Detached, Spawn
from skerry.adapters.runtime.workerd.process import children
from skerry.ports.sandbox import EngineUnavailable, SandboxError, SandboxStats

CHILD_ROUNDS = 400  # of 5 ms, for bubblewrap to fork


class Monitor:
    """Ours or an earlier agent's. Owns pidfds: `close` (lets it run) or `end`."""

    def __init__(self, outer: Detached, tree: Tree, name: str) -> None:
        self.name = name
        self._outer = outer
        self._inner: Detached | None = None
        self._tree = tree
        self._wrapped = outer.record.note.get("wrapped") == "1"
        self._pid = 0 if self._wrapped else outer.pid

    @property
    def note(self) -> dict[str, str]:
        return self._outer.record.note

    @property
    def group(self) -> Group:
        return self._tree.open(self.name)

    @property
    def pid(self) -> int:
        if not self._pid and (process := self._process()) is not None:
            self._pid = process.pid
        return self._pid or self._outer.pid

    def alive(self) -> bool:
        process = self._process()
        return self._outer.alive() and (process is None or process.alive())

    async def started(self) -> None:
        """Until the monitor itself is there. Raises `EngineUnavailable` when the sandbox around it could not be made."""
        for _ in range(CHILD_ROUNDS):
            if self._process() is not None:
                return
            if not self._outer.alive():
                break
            await asyncio.sleep(0.002)
        raise EngineUnavailable("the monitor's sandbox could not be made")

    async def outlives(self, seconds: float) -> bool:
        """False when it ends within that time: it was being killed. Bubblewrap outlives it for a moment more."""
        await self._outer.ends_within(seconds)
        return self.alive()

    async def gone(self) -> None:
        """Until the monitor itself has ended; what is around it may take a moment more."""
        process = self._process()
        await (process or self._outer).wait()

    async def ended(self) -> int | None:
        """Its exit status, if this process started it."""
        return await self._outer.wait()

    async def end(self) -> None:
        """Now. When this returns no process and no group of it is left; its record is. Idempotent.

        Raises `SandboxError` when something does not end: try again.
        """
        await _end(self._tree, self.name)
        await _ended(self._outer)

    def forget(self) -> None:
        self._close_inner()
        self._outer.forget()

    def close(self) -> None:
        self._close_inner()
        self._outer.close()

    def stats(self) -> SandboxStats:
        """What the host sees of it; zeros when it has gone."""
        usage = self.group.usage()
        return SandboxStats(
            cpu_us=usage.cpu_us,
            throttled_us=usage.throttled_us,
            memory_bytes=usage.memory_bytes,
            oom_kills=usage.oom_kills,
            private_bytes=private_bytes(self.pid) if usage.memory_bytes else 0,
            pids=1 if usage.memory_bytes and self.alive() else 0,
        )

    def _process(self) -> Detached | None:
        if not self._wrapped:
            return self._outer
        if self._inner is None and self._outer.alive():
            for pid in children(self._outer.pid):
                self._inner = detached.open_pid(pid)
                self._pid = pid
        return self._inner

    def _close_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None


def start(what: Spawn, *, records: Path, tree: Tree, limits: Limits, wrapped: bool) -> Monitor:
    """`what.name` is the group's too. Raises `OSError` or `CgroupError` when the machine refuses, and then leaves nothing."""
    group = tree.create(what.name)
    try:
        group.limit(limits)
        group.allow_swap(False)
        note = {**what.note, "wrapped": "1" if wrapped else "0"}
        outer = detached.spawn(msgspec.structs.replace(what, join=group.join, note=note), records=records)
    except (OSError, CgroupError):
        group.remove()
        raise
    return Monitor(outer, tree, what.name)


def attach(name: str, *, records: Path, tree: Tree) -> Monitor | None:
    outer = detached.attach(name, records=records)
    return None if outer is None else Monitor(outer, tree, name)


async def remove(name: str, *, records: Path, tree: Tree) -> None:
    """End whatever has that name and remove its record. Idempotent, and safe after a kill at any step of `start`.

    Raises `SandboxError` when something does not end: try again.
    """
    record = detached.attach(name, records=records)
    await _end(tree, name)
    if record is not None:
        record.signal(signal.SIGKILL)  # one that was about to enter its group
        await _ended(record)
        record.forget()
    await _end(tree, name)


async def _end(tree: Tree, name: str) -> None:
    try:
        await end_group(tree, name)
    except CgroupError as error:
        raise SandboxError(str(error)) from error


async def _ended(process: Detached) -> None:
    if not await process.ends_within(KILL_S_MAX):
        raise SandboxError(f"process {process.pid} was killed and has not ended{detached.doing(process.pid)}")


def private_bytes(pid: int) -> int:
    """Memory that would be free if the process ended."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            # Anonymous alone: the pages of a template are in a file, and stay.
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1]) * 1024
    return total
