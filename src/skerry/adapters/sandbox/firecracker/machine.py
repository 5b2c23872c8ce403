"""One Firecracker machine as the engine holds it: process, API, the agent in its guest.

launch -> [configure, start | load, resume] -> greet -> … -> end
"""

import asyncio
import contextlib
import functools
import os
import re
import resource
import shutil
from collections.abc import Generator
from pathlib import Path

from skerry.adapters.cgroup.base import CgroupError, Limits, Tree
from skerry.adapters.process import detached
from skerry.adapters.process.detached import Spawn
from skerry.adapters.sandbox.firecracker import jail
from skerry.adapters.sandbox.firecracker.api import Api, ApiLost
from skerry.adapters.sandbox.firecracker.jail import Jail, Programs
from skerry.adapters.sandbox.microvm import monitor, sockets
from skerry.adapters.sandbox.microvm.agent import AgentLost
from skerry.adapters.sandbox.microvm.monitor import Monitor
from skerry.adapters.sandbox.microvm.protocol import VSOCK_PORT
from skerry.adapters.sandbox.microvm.settings import Places
from skerry.ports.sandbox import EngineUnavailable

API_ROUNDS = 1000  # of 5 ms
CONNECT_S = 0.02  # between two tries: a guest listens when it has booted
ANSWER_S = 1.0  # of Firecracker to a connection: a guest that has not taken the reset yet gives none
LOG_TAIL_BYTES = 1500
GUEST_CID = 3


class Running:
    """Owns the connections to one machine. `root`: its jail; `log`: its program's, where the jailer's last words are as well."""

    def __init__(self, process: Monitor, root: Path, log: Path | None = None) -> None:
        self.process = process
        self.root = root
        self.api = Api(root, jail.API_SOCKET)
        self._log = log

    async def answering(self) -> None:
        """Until the API is there. Raises `ApiLost` when the monitor ends first."""
        for _ in range(API_ROUNDS):
            if not self.process.alive():
                raise ApiLost("Firecracker ended while it started")
            with contextlib.suppress(ApiLost):
                await self.api.state()
                return
            await asyncio.sleep(0.005)
        raise ApiLost("Firecracker does not answer")

    async def connect_agent_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the guest's PID 1, as soon as it listens. Raises `AgentLost` when the monitor ends; the deadline is the caller's."""
        while self.process.alive():
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                return await self._connect_once()
            await asyncio.sleep(CONNECT_S)
        raise AgentLost("the machine ended before its guest answered")

    async def _connect_once(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = await sockets.connect(self.root, jail.VSOCK_SOCKET)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write(f"CONNECT {VSOCK_PORT}\n".encode())
                answer = await reader.readuntil(b"\n")
            if not answer.startswith(b"OK "):
                raise ConnectionError(f"vsock answered {answer[:80]!r}")
        except BaseException:
            writer.close()
            raise
        return reader, writer

    @contextlib.contextmanager
    def large_files(self) -> Generator[None]:
        """The limit on the log is one on all files of the monitor; a snapshot is larger (see `file_bytes_max`)."""
        if not _may_lift_limits():
            yield
            return
        soft, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def said(self) -> str:
        places = (*([self._log] if self._log else []), self.root / jail.MONITOR_LOG)
        parts = [detached.read_log_tail(path, bytes_max=LOG_TAIL_BYTES).strip() for path in places if not path.is_symlink()]
        return "; ".join(part for part in parts if part)

    async def let_go(self) -> None:
        self.api.close()


def file_bytes_max(programs: Programs, *, log_bytes_max: int, guest_mib: int) -> int:
    """What a monitor may write into one file: its log, and at its start a copy of itself. Where its limit cannot be lifted later
    a snapshot has to fit as well, and the log may grow to that until it is emptied."""
    smallest = max(log_bytes_max * detached.LOG_HARD_FACTOR, Path(programs.firecracker).stat().st_size)
    return smallest if _may_lift_limits() else max(smallest, (guest_mib + 1) << 20)


@functools.cache
def _may_lift_limits() -> bool:
    """CAP_SYS_RESOURCE: root in a container may lack it."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found.group(1), 16) & 1 << 24)


def launch(programs: Programs, places: Places, tree: Tree, what: Jail, limits: Limits) -> Running:
    """Raises `EngineUnavailable` with what the machine refuses; then `remove` finds what there is."""
    directory = places.machine(what.id)
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        jail.prepare(places, programs, what)
        spawned = Spawn(name=what.id, argv=jail.command(places, programs, what), tag=places.tag)
        process = monitor.start(spawned, records=places.processes, tree=tree, limits=limits, wrapped=False)
    except (OSError, CgroupError) as error:
        raise EngineUnavailable(f"a microVM cannot be started: {error}") from error
    return Running(process, jail.root(places, programs, what.id), Path(what.log))


async def remove(programs: Programs, places: Places, tree: Tree, name: str) -> None:
    """All that there is of a machine. Idempotent."""
    await monitor.remove(name, records=places.processes, tree=tree)
    await asyncio.to_thread(jail.remove, places, programs, name)
    await asyncio.to_thread(shutil.rmtree, places.machine(name), ignore_errors=True)


def file_for_all(path: str) -> None:
    """What is bound into jails is read by their users. Raises `EngineUnavailable`."""
    if not os.stat(path).st_mode & 0o004:  # noqa: PTH116
        raise EngineUnavailable(
            f"{path} may not be read by the users of machines: it needs mode 0644, in a directory that is shut"
        )
