"""Sandboxes: one instance of a program, behind one kind of wall, on one node.

A `SandboxEngine` is what differs between crun, runc, runsc, QEMU and Firecracker. What is the same for all of them (images,
network, health, restarts, waking, logs' limits) is not here: `skerry.services.node.programs` does it over these ports.

Contract (suite: `skerry.testing.contracts.sandbox`, run on every engine and on the simulated one):

- `start` returns when the program's first process has been started, or raises; it does not wait for readiness. When it raises,
  or when the caller is killed at any step of it, `remove` finds and removes all that was made, under the id alone.
- a sandbox outlives the engine's process: `open` in a new one gives it back, with the same pid, as long as it runs.
- `remove` is idempotent and safe without a start; afterwards no process, cgroup, mount, socket, tap or file of that id is left.
  `attach` removes what is left of ids that nobody knows.
- a program's output goes to `log` (stdout and stderr, appended) as it comes; a flood neither blocks nor fills the disk.
- the log grows to about twice `log_bytes_max` and then loses what comes, until whoever reads it empties it (in place).
- environment and secret files are never seen by other users of the machine: not on command lines, in no file that they can read.
- optional abilities are named in `abilities`; calling what is absent raises `Unsupported`.
- errors: `StartError` is the program's own fault (no such command, wrong architecture, bad user), with the engine's words;
  `EngineUnavailable` the machine's, with what to do about it; `Gone` when the sandbox has ended.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec

from skerry.core.machines.strains import Seen
from skerry.core.types.program import IsolationClass
from skerry.core.types.usage import Standing
from skerry.kit.record import Record

Ability = Literal["exec", "terminal", "files", "pause", "snapshot", "clone", "resize", "squeeze"]


class SandboxError(Exception):
    """The family of this port's errors."""


class StartError(SandboxError):
    """The program cannot start, now or later; for its author."""


class EngineUnavailable(SandboxError):
    """This machine lacks what is needed; the text says what, and how to get it."""


class Unsupported(SandboxError):
    """This engine has no such ability."""


class Gone(SandboxError):
    """The sandbox has ended."""


class EngineFacts(Record):
    """What an engine is and can do on this machine. `missing` names what it cannot, each with the reason."""

    name: str  # crun, runc, runsc, qemu, firecracker, simulated
    version: str
    isolation: IsolationClass
    abilities: frozenset[Ability]
    architecture: str  # as OCI spells it
    overhead_mib: int  # memory of the wall itself, on top of the program's
    missing: tuple[tuple[str, str], ...] = ()


class Mount(Record):
    """A file or directory of the host inside the sandbox; read only unless said."""

    source: str
    target: str
    writable: bool = False


class SandboxLimits(Record):
    """Enforced limits of one sandbox. `cpu_shares`: weight against its neighbours (1024 is a plain process)."""

    memory_mib_max: int
    cpu_millicores_max: int
    cpu_shares: int = 1024
    cpu_standing: Standing = "first"
    pids_max: int = 512


class SandboxFile(Record):
    """A file that exists in memory only, inside the sandbox."""

    path: str
    content: bytes
    mode: int = 0o400


class SandboxSpec(Record):
    """Everything that a sandbox starts from. `id` is unlike any other of this node, 16 hex digits.

    `rootfs` is a directory that holds the root file system, made for this instance, whose writable layer ends with it. Its
    owner, rounded down to a multiple of 65536, is who root inside is outside: engines on the host's kernel map their user
    ids there (0: not mapped). microVMs boot from `disk`, a file system image shared by all instances of the image and never
    written to.
    `netns` is the path of its network namespace, set up already; `network.device` the name of a tap in it for microVMs.
    `merge_memory`: equal pages of such microVMs may become one. Who shares pages with another can find out by timing what
    the other has in memory, so it is only for instances of one account on a node where no other account has the same.
    `host_sockets`: the program may connect to Unix sockets in `mounts`, where the wall (gVisor's) would keep them from it.
    """

    id: str
    rootfs: str
    argv: tuple[str, ...]
    env: dict[str, str]
    limits: SandboxLimits
    netns: str
    disk: str | None = None
    network: "GuestNetwork | None" = None
    working_dir: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    hostname: str = ""
    read_only: bool = False
    writable_mib: int = 256
    mounts: tuple[Mount, ...] = ()
    files: tuple[SandboxFile, ...] = ()
    log: str = "/dev/null"
    log_bytes_max: int = 1 << 20
    stop_signal: str = "SIGTERM"
    merge_memory: bool = False
    host_sockets: bool = False


class GuestNetwork(Record):
    """What a kernel of its own (gVisor's or a guest's) has to set up for itself inside the namespace."""

    device: str  # a veth's end for gVisor, a tap for microVMs
    mac: str
    address: str  # with its prefix: 10.200.0.6/30
    gateway: str
    gateway_mac: str = ""
    dns: tuple[str, ...] = ()


class SandboxStats(Record):
    """What it uses now. Counters only grow while it runs. `private_bytes`: what would be free if it ended.

    `forks_refused`: how often it had all the processes that it may. `descriptors`: of the process that has the most.
    """

    cpu_us: int = 0
    throttled_us: int = 0
    memory_bytes: int = 0
    private_bytes: int = 0
    pids: int = 0
    oom_kills: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    forks_refused: int = 0
    disk_bytes: int = 0
    disk_bytes_max: int = 0
    disk_files: int = 0
    disk_files_max: int = 0
    descriptors: int = 0
    descriptors_max: int = 0

    def against(self, limits: SandboxLimits, *, log_lost: bool = False, ran_out: bool = False) -> Seen:
        """What tells which of its limits it has come to."""
        return Seen(
            memory_mib_max=limits.memory_mib_max,
            pids_max=limits.pids_max,
            cpu_millicores_max=limits.cpu_millicores_max,
            forks_refused=self.forks_refused,
            oom_kills=self.oom_kills,
            throttled_us=self.throttled_us,
            disk_bytes=self.disk_bytes,
            disk_bytes_max=self.disk_bytes_max,
            disk_files=self.disk_files,
            disk_files_max=self.disk_files_max,
            descriptors=self.descriptors,
            descriptors_max=self.descriptors_max,
            log_lost=log_lost,
            ran_out=ran_out,
        )


class ExecSpec(Record):
    """A further process inside, as the program's user. `env` is on top of the program's own, `working_dir` None is its own.
    `terminal`: with a pseudo-terminal of `rows` x `columns`, stdout and stderr in one."""

    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    working_dir: str | None = None
    terminal: bool = False
    rows: int = 24
    columns: int = 80


class ExecSession(Protocol):
    """A process started by `exec`. It ends with the session: `aclose` kills what is left of it."""

    async def write(self, data: bytes) -> None:
        """To its stdin; empty: end-of-file. Waits while the process does not read."""
        ...

    def output(self) -> AsyncIterator[tuple[Literal["out", "err"], bytes]]:
        """What it writes, until both are closed; a reader that stops holds the process back."""
        ...

    async def resize(self, rows: int, columns: int) -> None: ...

    async def signal(self, number: int) -> None: ...

    async def wait(self) -> int:
        """The exit code; 128 + n for signal n."""
        ...

    async def aclose(self) -> None: ...


class Exit(Record):
    """How it ended. `code` as a shell gives it; None: not known, since another agent started it."""

    code: int | None
    out_of_memory: bool = False
    detail: str = ""


class Sandbox(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def pid(self) -> int:
        """On the host: the program's first process, or the virtual machine monitor."""
        ...

    async def wait(self) -> Exit:
        """Returns when it has ended by itself or by others."""
        ...

    async def gone(self) -> None:
        """Returns as soon as nothing in it answers any more: no later than `wait`, which also learns how it ended."""
        ...

    async def stop(self, *, grace_ms: int) -> None:
        """The stop signal, after `grace_ms` the end. The rest is `remove`'s."""
        ...

    def stats(self) -> SandboxStats:
        """Some 0.3 ms; what cannot be read is 0."""
        ...

    def cpu_us(self) -> int:
        """As in its stats, alone: one small file."""
        ...

    async def exec(self, spec: ExecSpec) -> ExecSession: ...

    async def copy_out(self, path: str) -> AsyncIterator[bytes]:
        """A tar archive of `path`, read inside the sandbox: links never lead out of it."""
        ...

    async def copy_in(self, directory: str, archive: AsyncIterator[bytes]) -> None:
        """Unpack a tar archive into `directory`, inside the sandbox."""
        ...

    async def pause(self) -> None:
        """No instruction of it runs until `resume`; both idempotent."""
        ...

    async def resume(self) -> None: ...

    async def resize(self, limits: SandboxLimits) -> None:
        """New limits, without a restart; raises `SandboxError` when what is in use above a lower one cannot be reclaimed."""
        ...

    async def squeeze(self) -> None:
        """Give back memory that it does not use now; it goes on, and what it touches comes back. May take a second."""
        ...

    async def snapshot(self, directory: str) -> None:
        """Its whole state into `directory`, which is empty; it goes on afterwards."""
        ...


class SandboxEngine(Protocol):
    @property
    def facts(self) -> EngineFacts: ...

    async def attach(self, known: frozenset[str]) -> None:
        """Before all else, once: make what engines need, remove all that is left of ids outside `known`."""
        ...

    async def start(self, spec: SandboxSpec, *, snapshot: str | None = None) -> Sandbox:
        """A new sandbox; with `snapshot` (a directory of `Sandbox.snapshot`) a clone that goes on from there, with a
        network, identity, clock and randomness of its own."""
        ...

    async def open(self, sandbox_id: str) -> Sandbox | None:
        """One that an earlier process of this node started, if it still runs."""
        ...

    async def remove(self, sandbox_id: str) -> None: ...

    async def keep_spares(self, allowed: bool) -> int:
        """Whether it may hold memory for what nobody asked for yet, as it may until told otherwise: machines that wait for the
        next start, say. Not allowed, it ends those that are there; returns how many."""
        ...

    async def aclose(self) -> None:
        """Let go of everything; sandboxes go on."""
        ...
