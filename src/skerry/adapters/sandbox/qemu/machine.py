"""One QEMU machine as the engine holds it: process, QMP, the agent in its guest.

launch (booting, or waiting for a snapshot) -> [load] -> [join] -> go on -> … -> end
"""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import msgspec

from skerry.adapters.cgroup.base import CgroupError, Limits, Tree
from skerry.adapters.process import detached
from skerry.adapters.process.detached import TAG_VARIABLE, Spawn
from skerry.adapters.sandbox.microvm import monitor, sockets
from skerry.adapters.sandbox.microvm.build import GuestFiles
from skerry.adapters.sandbox.microvm.monitor import Monitor
from skerry.adapters.sandbox.microvm.settings import Places
from skerry.adapters.sandbox.microvm.tap import move_tap, open_tap
from skerry.adapters.sandbox.qemu import command
from skerry.adapters.sandbox.qemu.command import Machine, Programs
from skerry.adapters.sandbox.qemu.qmp import Qmp, wait_migrated
from skerry.kit.record import Record
from skerry.ports.sandbox import EngineUnavailable, GuestNetwork

QMP_SOCKET, AGENT_SOCKET = "qmp", "agent"
MONITOR_LOG, CONSOLE_LOG = "monitor.log", "console.log"
LOG_TAIL_BYTES = 1500
PIDS_MAX = 256  # threads of one monitor: it has about ten, and sixty-four workers of its block layer
SHARES_STARTING = 32_768
NO_NETWORK = "tap0"  # the name of a tap that leads nowhere
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Host(Record):
    """What all machines of an engine share."""

    programs: Programs
    guest: GuestFiles


class Launch(Record):
    """`memory_fd`: of a template or of one that is being made (`shared`); -1: memory of its own. `tap`: (namespace, name), None:
    one that leads nowhere. `waits`: it stands still until it is told to go on, and its tap can still be moved.
    `limits` of the monitor as a process."""

    name: str
    machine: Machine
    disk: str
    uid: int
    limits: Limits
    incoming: bool
    waits: bool = False
    shared: bool = False
    memory_fd: int = -1
    tap: tuple[str, str] | None = None
    log: str = "/dev/null"
    log_bytes_max: int = 1 << 20
    note: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class Running:
    """Owns the connections to one machine, and `tap` where that has to find its namespace yet."""

    def __init__(self, process: Monitor, directory: Path, *, tap: int = -1) -> None:
        self.process = process
        self.directory = directory
        self.qmp: Qmp | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._tap = tap
        self._joining: asyncio.Task[None] | None = None
        self.loaded = False

    async def connect_qmp(self) -> Qmp:
        if self.qmp is None:
            self.qmp = await Qmp.open(self.directory, QMP_SOCKET)
        return self.qmp

    async def dial(self) -> None:
        """Connect to where its agent will answer. Before a snapshot is loaded this costs the guest nothing; later its driver has
        to be told."""
        self._streams = await self.connect_agent_stream()

    async def connect_agent_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None:
            streams, self._streams = self._streams, None
            return streams
        connection = await sockets.connect(self.directory, AGENT_SOCKET)
        return await asyncio.open_unix_connection(sock=connection)

    async def load(self, state: bytes) -> None:
        """A snapshot into a machine that was launched for one, once. Raises `QmpError`."""
        qmp = await self.connect_qmp()
        read, write = os.pipe()
        try:
            await qmp.call("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
            await qmp.call("getfd", fd=read, fdname="state")
            os.close(read)
            read = -1
            feeding = asyncio.get_running_loop().run_in_executor(None, _feed, write, state)
            write = -1
            await qmp.call("migrate-incoming", uri="fd:state")
            await wait_migrated(qmp, timeout_s=60)
            await feeding
            self.loaded = True
        finally:
            for descriptor in (read, write):
                if descriptor >= 0:
                    os.close(descriptor)

    async def save(self, *, with_memory: bool, target: int = -1) -> bytes:
        """Its state; the machine stands still afterwards. `with_memory`: the memory too, into the descriptor `target`."""
        qmp = await self.connect_qmp()
        await qmp.call("stop")
        capability = {"capability": "x-ignore-shared", "state": not with_memory}
        await qmp.call("migrate-set-capabilities", capabilities=[capability])
        await qmp.call("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 100_000})
        read, write = os.pipe()
        taking = asyncio.get_running_loop().run_in_executor(None, _take, read, target)
        try:
            await qmp.call("getfd", fd=write, fdname="state")
        finally:
            os.close(write)
        await qmp.call("migrate", uri="fd:state")
        await wait_migrated(qmp, timeout_s=120)
        return await taking

    def join(self, netns: str, network: GuestNetwork) -> None:
        """Begin to move its tap to where its instance's network is; `joined` waits for the end of that."""
        self._joining = asyncio.create_task(asyncio.to_thread(move_tap, self._tap, netns, network))

    async def joined(self) -> None:
        """Raises `OSError`."""
        if self._joining is not None:
            await asyncio.shield(self._joining)

    def said(self) -> str:
        parts = [
            detached.read_log_tail(self.directory / name, bytes_max=LOG_TAIL_BYTES).strip() for name in (MONITOR_LOG, CONSOLE_LOG)
        ]
        return "; ".join(part for part in parts if part)

    async def let_go(self) -> None:
        if self.qmp is not None:
            self.qmp.close()
            self.qmp = None
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
        if self._joining is not None:
            await asyncio.wait((self._joining,))  # a thread holds the descriptor
        if self._tap >= 0:
            os.close(self._tap)
            self._tap = -1


def launch(host: Host, places: Places, tree: Tree, what: Launch) -> Running:
    """Raises `EngineUnavailable` with what the machine refuses; then `remove` finds what there is."""
    directory = places.machine(what.name)
    directory.mkdir(mode=0o700, exist_ok=True)
    opened: list[int | socket.socket] = []
    tap = -1
    try:
        fds = _descriptors(what, directory, opened)
        argv = (
            *command.sandboxed(
                host.programs, uid=what.uid, guest=None if what.incoming else host.guest,
                kvm=what.machine.accelerator == "kvm", tag=(TAG_VARIABLE, places.tag),
            ),
            *command.arguments(
                host.programs, what.machine, host.guest,
                incoming=what.incoming, waits=what.waits, shared=what.shared, anonymous=what.memory_fd < 0,
            ),
        )  # fmt: skip
        spawned = Spawn(
            name=what.name, argv=argv, fds=fds, log=str(directory / MONITOR_LOG), log_bytes_max=what.log_bytes_max,
            tag=places.tag, note=what.note,
        )  # fmt: skip
        process = monitor.start(spawned, records=places.processes, tree=tree, limits=what.limits, wrapped=True)
        if what.waits:
            tap = os.dup(fds[command.FDS.index("tap")])
    except (OSError, CgroupError) as error:
        raise EngineUnavailable(f"a microVM cannot be started: {error}") from error
    finally:
        for each in opened:
            if isinstance(each, int):
                os.close(each)
            else:
                each.close()
    return Running(process, directory, tap=tap)


def _descriptors(what: Launch, directory: Path, opened: list[int | socket.socket]) -> tuple[int, ...]:
    def keep(descriptor: int) -> int:
        opened.append(descriptor)
        return descriptor

    listeners = [sockets.listen(directory, QMP_SOCKET), sockets.listen(directory, AGENT_SOCKET)]
    opened.extend(listeners)
    tap = keep(open_tap(*(what.tap or (None, NO_NETWORK))))
    log = keep(os.open(what.log, _APPEND, 0o600))
    memory = what.memory_fd if what.memory_fd >= 0 else keep(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    disk = keep(os.open(what.disk, os.O_RDONLY | os.O_CLOEXEC))
    console = keep(os.open(directory / CONSOLE_LOG, _APPEND, 0o600))
    return (tap, log, memory, disk, *(listener.fileno() for listener in listeners), console)


def _feed(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]


def _take(descriptor: int, target: int) -> bytes:
    """Everything that comes: written to `target`, or given back if that is -1."""
    parts: list[bytes] = []
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            if target < 0:
                parts.append(data)
            else:
                os.write(target, data)
    return b"".join(parts)
