"""Processes that outlive the plane that started them.

An instance or an ingress has to live on when its agent or controller is killed, and has to be found again, or
found and ended, by the next one. So each has a record on disk (mode 0600), written before the program begins:

    fork -> child waits on its stdin -> record written -> "go" on stdin -> child joins its cgroups -> exec

A plane killed at any step leaves nothing unknown: without a record the child reads end-of-file and exits, and with
one it can be attached to. A process is named by its pid, its start time and the boot, so a pid that was
used again is never signalled; signals go through a pidfd that was opened before the start time was compared.

    process = spawn(Spawn(name="haproxy", argv=(…), log=logs / "haproxy.log"), records=records_dir)
    await process.wait()                       # works for processes of an earlier plane as well
    process = attach("haproxy", records=records_dir)   # after a restart; None: it is gone, its record too
    await process.stop(grace_ms=5000)
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import select
import signal
from pathlib import Path

import msgspec

from skerry.kit.record import Record, decode, encode

TAG_VARIABLE = "SKERRY_TAG"  # in every process's environment: orphans whose record is lost are found by it
FIRST_FD = 3  # inherited descriptors are numbered from here, in the order given
GATE_CLOSED = 111  # exit status of a child whose plane died before the record was written
JOIN_FAILED = 112  # exit status of a child that could not enter its cgroups
PAGE_BYTES = 4096  # a file in memory ends with a whole page
LOG_HARD_FACTOR = 2  # a log may grow to this many times its limit between two looks at it

_PIPE_BYTES_MAX = 1 << 20  # what an unprivileged process may ask of F_SETPIPE_SZ
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGINT)  # Python ignores the first, a shell may have the second
_SPARE_FD = 200  # where descriptors are parked before they get their number in the child

# $1: "null" or "rest" (what stdin is after the gate); $2: file size limit in 512-byte blocks; $3: limit of CPU seconds;
# then the files to join, "--" and the program.
# SIGXFSZ is ignored, so a full log loses lines and never kills.
_GATE = """
read -r go || exit 111
umask 077; trap '' 25; ulimit -f "$2" 2>/dev/null; ulimit -t "$3"
stdin=$1; shift 3
while [ "$1" != -- ]; do echo 0 > "$1" || exit 112; shift; done
shift; cd /
if [ "$stdin" = null ]; then exec "$@" </dev/null; fi
exec "$@"
"""


class Spawn(Record):
    """What to run. `argv[0]` is an absolute path.

    `fds` become 3, 4, … in the child (see `FIRST_FD`). `stdin` is what it reads, then end-of-file; None: /dev/null.
    `log` gets stdout and stderr, appended, at most about `log_bytes_max` (see `trim_log`). `join` are files that
    the child writes "0" to before exec: the `cgroup.procs` it has to be born in. Each process of it is killed after
    `cpu_s_max` seconds on the CPU. `tag` names the owner (a data
    directory, say) in the environment. `note` is kept in the record for whoever attaches.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    fds: tuple[int, ...] = ()
    stdin: bytes | None = None
    log: str = "/dev/null"
    log_bytes_max: int = 1 << 20
    join: tuple[str, ...] = ()
    cpu_s_max: int | None = None
    tag: str = ""
    note: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class ProcessRecord(Record):
    """A process by the three things that together are never used twice, and what it was started as."""

    name: str
    pid: int
    start_ticks: int
    boot: str
    argv0: str
    tag: str = ""
    note: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class Detached:
    """One process, ours or an earlier plane's. Owns a pidfd: call `close` (or `stop`) when done with it."""

    def __init__(self, record: ProcessRecord, pidfd: int, path: Path | None) -> None:
        self.record = record
        self.exit_status: int | None = None  # as `waitstatus_to_exitcode` gives it; None also for those not our child
        self._pidfd = pidfd
        self._path = path
        self._exited = asyncio.Event()
        self._watching = False

    @property
    def pid(self) -> int:
        return self.record.pid

    @property
    def pidfd(self) -> int:
        return self._pidfd

    def alive(self) -> bool:
        """True until it has exited. A zombie has; one of ours is reaped here."""
        if not self._exited.is_set() and (self._pidfd < 0 or _readable(self._pidfd)):
            self._on_exit()
        return not self._exited.is_set()

    async def wait(self) -> int | None:
        """Returns when it has exited: the exit status if it was our child, else None."""
        if self.alive() and not self._watching:
            self._watching = True
            asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)
        await self._exited.wait()
        return self.exit_status

    def signal(self, number: int) -> bool:
        """False when it is gone already. Never reaches another process."""
        if not self.alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)
            return True
        return False

    async def ends_within(self, seconds: float) -> bool:
        """Whether it has exited, at once or by then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # not `wait_for`: that one forgets a cancellation that comes with the end
                await self.wait()
        return not self.alive()

    async def stop(self, *, grace_ms: int) -> None:
        """SIGTERM, `grace_ms` later SIGKILL; when it returns the process and its record are gone. Idempotent."""
        if self.signal(signal.SIGTERM):
            await self.ends_within(grace_ms / 1000)
        if self.signal(signal.SIGKILL):
            await self.wait()
        self.forget()

    def forget(self) -> None:
        """Remove the record and let go. For a process that has ended, or that ends by other means."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of it without ending it; the record stays. Idempotent."""
        if self._pidfd >= 0:
            self._unwatch()
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_exit(self) -> None:
        self._unwatch()
        if self._pidfd >= 0:
            with contextlib.suppress(ChildProcessError):
                result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
                if result is not None:
                    self.exit_status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        self._exited.set()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            asyncio.get_running_loop().remove_reader(self._pidfd)


def spawn(what: Spawn, *, records: Path) -> Detached:
    """Start it; its record is `records/<name>.json`. Takes about 1 ms, does not wait for the program.

    Raises `OSError` when the machine refuses (processes, memory, descriptors). `what.fds` stay the caller's.
    """
    gate_read, gate_write = os.pipe2(os.O_CLOEXEC)
    pidfd = -1
    try:
        pid = _fork(what, gate_read)
        pidfd = os.pidfd_open(pid)
        record = _describe(what, pid)
        path = records / f"{what.name}.json"
        write_private(path, encode(record))
        _open_gate(gate_write, what.stdin or b"")
        return Detached(record, pidfd, path)
    except BaseException:
        os.close(gate_write)
        if pidfd >= 0:
            os.close(pidfd)
        raise
    finally:
        os.close(gate_read)


def attach(name: str, *, records: Path) -> Detached | None:
    """Take over the process of that record; None if it has ended (its record is then removed) or never was."""
    path = records / f"{name}.json"
    record = _read_record(path)
    process = None if record is None else open_process(record, path=path)
    if process is None:
        path.unlink(missing_ok=True)
    return process


def open_process(record: ProcessRecord, *, path: Path | None = None) -> Detached | None:
    """The process that `record` describes, if it lives; its record file, if any, is `path`."""
    if record.boot != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return None
    if start_ticks(record.pid) != record.start_ticks or _readable(pidfd):
        os.close(pidfd)
        return None
    return Detached(record, pidfd, path)


def open_pid(pid: int, *, name: str = "", note: dict[str, str] | None = None) -> Detached | None:
    """A process known only by its pid (a child of one of ours, say), from now on safe against reuse."""
    ticks = start_ticks(pid)
    if ticks is None:
        return None
    return open_process(ProcessRecord(name=name, pid=pid, start_ticks=ticks, boot=boot_id(), argv0=_argv0(pid), note=note or {}))


def names(records: Path) -> tuple[str, ...]:
    """Names of all records, in order, whether their processes live or not."""
    return tuple(sorted(path.stem for path in records.glob("*.json")))


def find_tagged(tag: str) -> tuple[int, ...]:
    """Pids of all processes started with `tag` (those whose environment this process may read)."""
    wanted = f"{TAG_VARIABLE}={tag}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return tuple(sorted(found))


async def kill_tagged(tag: str) -> int:
    """Kill every process with `tag`, until none is left; how many there were."""
    killed = 0
    while pids := find_tagged(tag):
        for pid in pids:
            process = open_pid(pid)
            if process is not None:
                process.signal(signal.SIGKILL)
                await process.wait()
                process.close()
                killed += 1
        await asyncio.sleep(0.002)  # let the parents reap them: a zombie has no environment
    return killed


def trim_log(path: Path, *, bytes_max: int) -> None:
    """Rotate a log that has outgrown its limit: what it had last goes to `<name>.1`, and it starts again.

    The writer keeps its descriptor (append mode), so the file is emptied in place.
    """
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size > bytes_max:
            file.seek(size - bytes_max // 2)
            write_private(path.with_name(path.name + ".1"), file.read(bytes_max // 2))
            file.truncate(0)


def trim_logs(logs: Path, *, bytes_max: int) -> frozenset[str]:
    """`trim_log` for each `<name>.log` of a directory. Those that had no room left, so that lines of theirs may be lost."""
    with os.scandir(logs) as entries:
        sizes = [(Path(entry.path), entry.stat().st_size) for entry in entries if entry.name.endswith(".log")]
    for path, size in sizes:
        if size > bytes_max:
            trim_log(path, bytes_max=bytes_max)
    full = max(1, bytes_max * LOG_HARD_FACTOR - PAGE_BYTES)
    return frozenset(path.stem for path, size in sizes if size >= full)


def read_log_tail(path: Path, *, bytes_max: int = 8192) -> str:
    """The end of a log, for people."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
            return file.read(bytes_max).decode(errors="replace")
    except FileNotFoundError:
        return ""


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` as a whole, readable by its owner alone. Survives kill -9 (not power loss: pids do not either)."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.rename(path)


def mounts() -> tuple[str, ...]:
    """Lines of this process's mount table."""
    return tuple(Path("/proc/self/mounts").read_text().splitlines())


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat[stat.rindex(b")") + 2 :].split()[19])  # field 22; the name before it may hold anything


@functools.cache
def _keep_inherited_to_ourselves() -> None:
    """What this plane inherited (the supervisor's pipe, say) is not passed on; Python's own descriptors never are."""
    for entry in [path.name for path in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):
            if int(entry) >= FIRST_FD:
                os.set_inheritable(int(entry), False)


def _fork(what: Spawn, gate: int) -> int:
    _keep_inherited_to_ourselves()
    log = os.open(what.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    # Parked high first: a source must not be overwritten by an earlier target.
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _SPARE_FD) for fd in (gate, log, log, *what.fds)]
    actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(parked)]
    blocks = max(1, what.log_bytes_max * LOG_HARD_FACTOR // 512)
    limit = str(blocks) if what.log != "/dev/null" else "unlimited"
    cpu = "unlimited" if what.cpu_s_max is None else str(what.cpu_s_max)
    argv = ["sh", "-c", _GATE, "sh", "null" if what.stdin is None else "rest", limit, cpu, *what.join, "--", *what.argv]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **what.env, TAG_VARIABLE: what.tag}
    try:
        return os.posix_spawn(
            "/bin/sh", argv, environment, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULT_SIGNALS
        )
    finally:
        for fd in (log, *parked):
            os.close(fd)


def _describe(what: Spawn, pid: int) -> ProcessRecord:
    ticks = start_ticks(pid)
    assert ticks is not None, "a child cannot vanish before it is reaped"
    return ProcessRecord(
        name=what.name, pid=pid, start_ticks=ticks, boot=boot_id(), argv0=what.argv[0], tag=what.tag, note=what.note
    )


def _open_gate(gate: int, content: bytes) -> None:
    """Send "go" and the program's stdin; what the pipe cannot take at once follows from the event loop."""
    data = memoryview(b"go\n" + content)
    with contextlib.suppress(OSError):
        fcntl.fcntl(gate, fcntl.F_SETPIPE_SZ, min(len(data), _PIPE_BYTES_MAX))
    os.set_blocking(gate, False)
    _write_some(gate, data)


def _write_some(gate: int, data: memoryview) -> None:
    try:
        data = data[os.write(gate, data) :]
    except BlockingIOError:
        pass
    except BrokenPipeError:
        data = data[:0]  # it has ended: whoever waits for it is told so
    loop = asyncio.get_running_loop() if data else None
    if loop is None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_writer(gate)
        os.close(gate)
    else:
        loop.add_writer(gate, _write_some, gate, data)


def _read_record(path: Path) -> ProcessRecord | None:
    try:
        return decode(path.read_bytes(), ProcessRecord)
    except (FileNotFoundError, ValueError):  # ValueError: a record of another version of ours, or damaged
        return None


def doing(pid: int) -> str:
    """What the kernel says that a process is at: ": S, in zap_pid_ns_processes", for people; empty if it is not there."""
    with contextlib.suppress(OSError, IndexError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return f": {state}, in {Path(f'/proc/{pid}/wchan').read_text()}"
    return ""


def _argv0(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    return ""


def _readable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
