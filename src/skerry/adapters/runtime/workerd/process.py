"""One workerd in its sandbox, as the agent holds it: bubblewrap outside, workerd inside, a control group around both.

    spawn -> ready (its health socket answers) -> ... -> exited, terminate or kill -> gone (nothing of it is left)

Ours or an earlier agent's alike: what is needed to hold it stands in the process record.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

from skerry.adapters.cgroup.base import CgroupError, Group, Limits, Tree
from skerry.adapters.cgroup.probe import end_group
from skerry.adapters.process import detached
from skerry.adapters.process.detached import Detached, Spawn
from skerry.adapters.runtime.workerd import sandbox, seccomp
from skerry.adapters.runtime.workerd.config import HEALTH_SOCKET
from skerry.adapters.runtime.workerd.engine import Engine
from skerry.adapters.runtime.workerd.listeners import listen_unix, take_back
from skerry.adapters.runtime.workerd.sandbox import Sandbox
from skerry.adapters.runtime.workerd.settings import Places
from skerry.kit.record import Record

CHILD_WAIT_ROUNDS = 200  # of 5 ms: for bubblewrap to fork, before it is killed
STRAY_ROUNDS = 20  # of 10 ms: a sandbox is set up by then
HEALTH_REQUEST = b"GET / HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n"
UNSEEN_FDS = range(3, 64)  # tried where the list of a process's descriptors may not be read


class Fleet(Record):
    """What all processes of one runtime share."""

    engine: Engine
    places: Places
    tree: Tree | None
    cpu_files: str | None = None
    log_bytes_max: int = 1 << 20


class Program(Record):
    """What to start: `sockets` are (name in the config, descriptor of ours), `config` goes to its stdin."""

    name: str
    config: bytes
    sockets: tuple[tuple[str, int], ...]
    box: Sandbox
    limits: Limits
    cpu_s_max: int | None = None
    owner: str = ""  # the instance; kept in the record
    address: str = ""


class SandboxedProcess:
    """See the module's docstring."""

    def __init__(self, fleet: Fleet, outer: Detached) -> None:
        self._fleet = fleet
        self._outer = outer
        self._inner: Detached | None = None

    @property
    def name(self) -> str:
        return self._outer.record.name

    @property
    def owner(self) -> str:
        return self._outer.record.note.get("owner", "")

    @property
    def address(self) -> str:
        return self._outer.record.note.get("address", "")

    @property
    def outer_pid(self) -> int:
        """bubblewrap's."""
        return self._outer.pid

    @property
    def group(self) -> Group | None:
        return self._fleet.tree.open(self.name) if self._fleet.tree else None

    @property
    def log(self) -> Path:
        return self._fleet.places.logs / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """workerd's own; 0 while there is none."""
        inner = self._find_inner()
        return inner.pid if inner else 0

    @property
    def exit_status(self) -> int | None:
        return self._outer.exit_status

    def alive(self) -> bool:
        inner = self._find_inner()
        return self._outer.alive() and (inner is None or inner.alive())

    async def ready(self) -> None:
        """Returns when it answers its health check; raises `OSError` if it ends first. The caller sets the deadline."""
        reader, writer = await asyncio.open_unix_connection(str(self._health))
        try:
            writer.write(HEALTH_REQUEST)
            await writer.drain()
            head = await reader.readline()
        finally:
            writer.close()
        if b" 200 " not in head:
            raise ConnectionError(f"health check answered {head!r}")

    async def exited(self) -> int | None:
        """Returns when workerd has ended: its exit status (negative: the signal) if this agent started it."""
        await self._outer.wait()
        status = self._outer.exit_status
        return 128 - status if status is not None and status > 128 else status

    def out_of_memory(self) -> bool:
        """Whether the kernel killed in its group for lack of memory."""
        return self.group is not None and self.group.usage().oom_kills > 0

    def terminate(self) -> None:
        """Ask it to finish its connections and end."""
        inner = self._find_inner()
        if inner is not None:
            inner.signal(signal.SIGTERM)

    async def kill_now(self) -> None:
        """SIGKILL, and no more: whoever watches it sees it end and removes the rest."""
        inner = self._find_inner()
        if inner is not None:
            inner.signal(signal.SIGKILL)
            await inner.wait()

    async def kill(self) -> None:
        """End it now. When this returns nothing of it is left but its log. Idempotent."""
        if self._fleet.tree is not None:
            await end_group(self._fleet.tree, self.name)
            await self._outer.wait()
        else:
            await self._kill_both()
        await self.forget()

    async def forget(self) -> None:
        """After its end: remove what it leaves."""
        if self._fleet.tree is not None:
            await end_group(self._fleet.tree, self.name)
        self._health.unlink(missing_ok=True)
        self._close_inner()
        self._outer.forget()

    def close(self) -> None:
        """Let go of it and leave it running."""
        self._close_inner()
        self._outer.close()

    def listeners(self) -> dict[str, socket.socket]:
        """Its listening sockets by address, for an agent that has lost its own ends. Empty where that is not allowed."""
        inner = self._find_inner()
        return take_back(inner.pidfd, _descriptors(inner.pid)) if inner else {}

    @property
    def _health(self) -> Path:
        return self._fleet.places.health / f"{self.name}.sock"

    def _find_inner(self) -> Detached | None:
        """workerd, once bubblewrap has forked."""
        if self._inner is None and self._outer.alive():
            for pid in children(self._outer.pid):
                self._inner = detached.open_pid(pid)
        return self._inner

    def _close_inner(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    async def _kill_both(self) -> None:
        """Without a control group: never the outer one before the inner one is known, it would live on unseen."""
        for _ in range(CHILD_WAIT_ROUNDS):
            if self._find_inner() is not None or not self._outer.alive():
                break
            await asyncio.sleep(0.005)
        if self._inner is not None:
            self._inner.signal(signal.SIGKILL)
            await self._inner.wait()
        self._outer.signal(signal.SIGKILL)
        await self._outer.wait()
        ended_by_itself = self._outer.exit_status is not None and self._outer.exit_status >= 0
        if self._inner is None and not ended_by_itself:
            await self._find_and_kill_inner()

    async def _find_and_kill_inner(self) -> None:
        """Somebody else killed bubblewrap in its first moments: what it had forked may be there, unreadable until its exec."""
        for _ in range(STRAY_ROUNDS):
            kill_strays(self._fleet)
            await asyncio.sleep(0.01)


def start(fleet: Fleet, program: Program) -> SandboxedProcess:
    """Start it; raises `OSError` or `CgroupError` when the machine refuses, and then leaves nothing."""
    places = fleet.places
    _remove_old_logs(places.logs, program.name)
    health = listen_unix(places.health / f"{program.name}.sock")
    rules = _seccomp_fd(network=program.box.network)
    try:
        sockets = (*program.sockets, (HEALTH_SOCKET, health.fileno()))
        join: tuple[str, ...] = ()
        if fleet.tree is not None:
            group = fleet.tree.create(program.name)
            group.limit(program.limits)
            group.allow_swap(False)
            join = group.join
        fds = tuple(fd for _, fd in sockets)
        if rules >= 0:
            fds += (rules,)
        outer = detached.spawn(
            Spawn(
                name=program.name,
                argv=sandbox.command(fleet.engine, program.box, tuple(name for name, _ in sockets), seccomp=rules >= 0),
                fds=fds,
                stdin=program.config,
                log=str(places.logs / f"{program.name}.log"),
                log_bytes_max=fleet.log_bytes_max,
                join=join,
                cpu_s_max=program.cpu_s_max,
                tag=program.box.tag,
                note={"owner": program.owner, "address": program.address},
            ),
            records=places.processes,
        )
        return SandboxedProcess(fleet, outer)
    except (OSError, CgroupError):
        (places.health / f"{program.name}.sock").unlink(missing_ok=True)
        if fleet.tree is not None:
            fleet.tree.open(program.name).remove()
        raise
    finally:
        health.close()
        if rules >= 0:
            os.close(rules)


def kill_strays(fleet: Fleet) -> None:
    """Kill what has this runtime's tag and belongs to none of its processes."""
    tagged = set(detached.find_tagged(fleet.places.tag))  # first: what is forked from here on is in nobody's way
    known: set[int] = set()
    for name in detached.names(fleet.places.processes):
        process = attach(fleet, name)
        if process is not None:
            known |= {process.outer_pid, *children(process.outer_pid)}
            process.close()
    for pid in tagged - known:
        stray = detached.open_pid(pid)
        if stray is not None:
            stray.signal(signal.SIGKILL)
            stray.close()


def _seccomp_fd(*, network: bool) -> int:
    """A file with the filter, read once by bubblewrap; -1 if there is none for this machine."""
    code = seccomp.program(network=network)
    if code is None:
        return -1
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, code)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def attach(fleet: Fleet, name: str) -> SandboxedProcess | None:
    """The process of that record, if it lives."""
    outer = detached.attach(name, records=fleet.places.processes)
    return None if outer is None else SandboxedProcess(fleet, outer)


def _remove_old_logs(logs: Path, name: str) -> None:
    """Keep that of the process before, for whoever asks why it ended."""
    owner, _, number = name.rpartition(".")
    for path in logs.glob(f"{owner}.*.log*"):
        if int(path.name.split(".")[-2 if path.suffix == ".log" else -3]) < int(number) - 1:
            path.unlink(missing_ok=True)


async def newest(owner: str, left: dict[str, SandboxedProcess]) -> SandboxedProcess | None:
    """The last process `<owner>.<number>`, out of `left`; older ones (being replaced when the agent died) are ended."""
    names = [name for name in left if name.rpartition(".")[0] == owner]
    names.sort(key=lambda name: int(name.rpartition(".")[2]))
    mine = [left.pop(name) for name in names]
    for old in mine[:-1]:
        await old.kill()
    return mine[-1] if mine else None


def _descriptors(pid: int) -> Iterable[int]:
    """workerd moves what it inherits to other numbers, so all have to be looked at."""
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return UNSEEN_FDS


def children(pid: int) -> tuple[int, ...]:
    with contextlib.suppress(OSError):
        return tuple(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return ()


def cpu_ns(pid: int) -> int:
    """Time on the CPU of its main thread, which runs the event loop; exact, and 0 while it sleeps."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return 0
