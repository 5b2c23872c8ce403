"""Starting planes, and starting them again when they die.

Each plane is a session, a control group and a log of its own. It holds one end of a socket pair: `ready` comes up
through it, and end-of-file tells the plane that the supervisor has gone. Deaths are answered at once the first
time, then after a delay that doubles up to a cap; a plane that was up for a while starts with a clean slate.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from skerry.adapters.cgroup.base import CgroupError, Limits, Tree
from skerry.adapters.cgroup.probe import end_group
from skerry.adapters.process.detached import FIRST_FD, Detached, Spawn, read_log_tail, spawn, trim_log
from skerry.apps.plane import READY_WORD
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.orphans import Orphans
from skerry.kit.record import Record

BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)  # before the n-th start after a death; the last one repeats
SETTLED_S = 30.0  # a plane that served for so long died of something new
FAILED_STARTS_MAX = 3  # deaths before the first `ready` at which the start as a whole is given up
READY_S_MAX = 90.0  # a cold machine reads 150 MB of programs from disk first
STOP_GRACE_S = 3.5  # of the five seconds that an end may take
KILL_S_MAX = 1.0
LOG_BYTES_MAX = 8 << 20  # per plane, and half of it again in `<name>.log.1`
LOG_LOOK_S = 5.0
NO_FILE_LIMIT = 1 << 50  # RLIMIT_FSIZE would also stop the store from growing; logs are trimmed instead
PLANE_CPU_SHARES = 65_536  # planes and ingresses answer before tenants' code (16384 for an instance)

_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH")
_PASSED_ON_PREFIXES = ("LC_", "SKERRY_", "XDG_", "SSL_CERT_")
_KEPT_BACK = "SKERRY_API_"  # of another platform, and secret


class PlaneSpec(Record):
    """`argv` gets `--liveness-fd N` appended. `name` is that of the log, the record and the group."""

    name: str
    argv: tuple[str, ...]


class PlaneState(Record):
    """What is known of a plane now. `last_exit` is a status, or minus the signal that ended it."""

    name: str
    pid: int | None
    ready: bool
    restarts: int
    last_exit: int | None = None


def plane_spec(name: str, module: str, config: Path) -> PlaneSpec:
    return PlaneSpec(name=name, argv=(sys.executable, "-m", f"skerry.apps.{module}", "--config", str(config)))


class SupervisedPlane:
    """One plane. `run` owns its process."""

    def __init__(self, spec: PlaneSpec, keeper: "Planes") -> None:
        self._spec = spec
        self._keeper = keeper
        self._process: Detached | None = None
        self._liveness: socket.socket | None = None
        self._ready = asyncio.Event()
        self._lives = 0
        self._failed_starts = 0
        self._last_exit: int | None = None
        self.failed = asyncio.Event()  # set when it died too often before it was ever ready

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def state(self) -> PlaneState:
        return PlaneState(
            name=self.name,
            pid=self._process.pid if self._process else None,
            ready=self._ready.is_set(),
            restarts=max(0, self._lives - 1),
            last_exit=self._last_exit,
        )

    async def run(self) -> None:
        """Keep it running until cancelled or stopped."""
        deaths = 0
        loop = asyncio.get_running_loop()
        while not self._keeper.stopping:
            began = loop.time()
            served = await self._live()
            if self._keeper.stopping:
                return
            self._failed_starts = 0 if served else self._failed_starts + 1
            if self._failed_starts >= FAILED_STARTS_MAX:
                self.failed.set()
            deaths = 1 if served and loop.time() - began > SETTLED_S else deaths + 1
            await self._keeper.pause(BACKOFF_S[min(deaths, len(BACKOFF_S)) - 1])

    async def wait_ready(self) -> None:
        await self._ready.wait()

    def let_go(self) -> None:
        """The plane reads end-of-file and shuts down by itself."""
        if self._liveness is not None:
            with contextlib.suppress(OSError):
                self._liveness.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGKILL)

    async def _live(self) -> bool:
        """From start to end of one process; whether it was ready in between."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            self._process = self._start(theirs)
        except OSError as error:  # no memory, no processes left: try again later
            self._keeper.note(f"{self.name}: cannot be started: {error.strerror}")
            ours.close()
            return False
        finally:
            theirs.close()
        process, self._liveness = self._process, ours
        self._lives += 1
        self._keeper.orphans.own(process.pid)
        self._keeper.changed()
        listener = asyncio.create_task(self._hear(ours))
        try:
            self._last_exit = await process.wait()
            return self._ready.is_set()
        finally:
            listener.cancel()
            self._process, self._liveness = None, None
            self._ready.clear()
            self._keeper.orphans.disown(process.pid)
            ours.close()
            process.forget()
            self._keeper.changed()

    def _start(self, theirs: socket.socket) -> Detached:
        keeper = self._keeper
        what = Spawn(
            name=self.name,
            argv=(*self._spec.argv, "--liveness-fd", str(FIRST_FD)),
            env=passed_on(),
            fds=(theirs.fileno(),),
            log=str(keeper.log_of(self.name)),
            log_bytes_max=NO_FILE_LIMIT,
            join=keeper.group_of(self.name),
            tag=keeper.tag,
        )
        return spawn(what, records=keeper.records)

    async def _hear(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(ours, 64):
                if READY_WORD in data:
                    self._ready.set()
                    self._failed_starts = 0
                    self._keeper.changed()


class Planes:
    """All planes of one supervisor. `on_change` is called whenever a state differs."""

    def __init__(
        self,
        *,
        records: Path,
        logs: Path,
        tag: str,
        tree: Tree | None,
        orphans: Orphans,
        on_change: Callable[[], None] = lambda: None,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.records = records
        self.logs = logs
        self.tag = tag
        self.orphans = orphans
        self.changed = on_change
        self.note = on_note
        self._tree = tree
        self._planes: list[SupervisedPlane] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def states(self) -> tuple[PlaneState, ...]:
        return tuple(plane.state for plane in self._planes)

    def start(self, specs: Sequence[PlaneSpec]) -> None:
        """All at once; those that depend on others try until they are there."""
        self._planes = [SupervisedPlane(spec, self) for spec in specs]
        self._tasks = [asyncio.create_task(plane.run(), name=plane.name) for plane in self._planes]
        self._tasks.append(asyncio.create_task(self._keep_logs_small(), name="logs"))

    async def wait_ready(self, *, timeout_s: float = READY_S_MAX) -> None:
        """Returns when every plane has said so. Raises `UpError` with what a failing one wrote last."""
        waits = {asyncio.create_task(plane.wait_ready()): plane for plane in self._planes}
        fails = {asyncio.create_task(plane.failed.wait()): plane for plane in self._planes}
        everything = asyncio.gather(*waits)
        try:
            await asyncio.wait((everything, *fails), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            failed = next((plane for task, plane in fails.items() if task.done()), None)
            late = failed or next((plane for task, plane in waits.items() if not task.done()), None)
            if late is not None:
                raise self._not_ready(late, died=failed is not None, timeout_s=timeout_s)
        finally:
            for task in (*waits, *fails):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await everything

    async def stop(self, *, grace_s: float = STOP_GRACE_S) -> tuple[str, ...]:
        """Let all planes shut down, then end by force what remains. The names of those that had to be killed."""
        self._stop.set()
        for plane in self._planes:
            plane.let_go()
        if not self._tasks:
            return ()
        _, late = await asyncio.wait(self._tasks, timeout=grace_s)
        names = tuple(sorted(task.get_name() for task in late))
        self.kill()
        if late:
            await asyncio.wait(late, timeout=KILL_S_MAX)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._remove_groups()
        return names

    def kill(self) -> None:
        """SIGKILL to every plane that still lives."""
        self._stop.set()
        for plane in self._planes:
            plane.kill()

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the end begins."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def group_of(self, name: str) -> tuple[str, ...]:
        """The files that make a process a member of the plane's group; none where groups cannot be made."""
        if self._tree is None:
            return ()
        try:
            group = self._tree.create(name)
            group.limit(Limits(cpu_shares=PLANE_CPU_SHARES))
        except CgroupError as error:
            self.note(f"{name}: no control group of its own: {error}")
            return ()
        return group.join

    async def _remove_groups(self) -> None:
        if self._tree is None:
            return
        for name in self._tree.names():
            try:
                await end_group(self._tree, name)
            except CgroupError as error:
                self.note(str(error))
        self._tree.remove()

    async def _keep_logs_small(self) -> None:
        while not self.stopping:
            await self.pause(LOG_LOOK_S)
            for path in self.logs.glob("*.log"):
                trim_log(path, bytes_max=LOG_BYTES_MAX)

    def _not_ready(self, plane: SupervisedPlane, *, died: bool, timeout_s: float) -> UpError:
        log = self.log_of(plane.name)
        tail = "\n".join(read_log_tail(log, bytes_max=4096).strip().splitlines()[-12:])
        what = "does not start" if died else f"was not ready within {timeout_s:.0f} s"
        return UpError(f"{plane.name} {what}" + (f"; it said:\n{tail}" if tail else ""), hint=f"its log: {log}")


def passed_on() -> dict[str, str]:
    """What of our environment planes get: no tokens of other tools. They run in another directory than we."""
    names = [name for name in os.environ if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)]
    found = {name: os.environ[name] for name in names if not name.startswith(_KEPT_BACK)}
    if places := found.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(str(Path(place).absolute()) for place in places.split(os.pathsep))
    return found
