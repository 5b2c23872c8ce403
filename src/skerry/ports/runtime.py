"""A runtime runs instances of versions on one node.

Contract (suite: `skerry.testing.contracts.runtime`):

- `start` is idempotent by instance id: called for one that runs, it returns what runs. It returns as soon
  as the instance has its address; from then on a request to the address waits until the instance
  answers or is known to have failed (then it gets a 503 at once). `observe` tells how far it is.
- a start-up error leaves the state `failed` (the code's own fault: an exception, a syntax error) or
  `backoff` (a crash: it is restarted after a delay that doubles up to a cap); the text is in `detail`.
- files that cannot be had now are no fault and no crash: `backoff` without a restart that counts, tried again until they
  can be had.
- an instance outlives the runtime's process: after `attach` in a new process, `observe` tells of every instance
  that the dead one had started, with the same pid and address; what cannot be taken over is removed.
- `stop` is idempotent and safe to run without a start, and after half of one. When it returns no process,
  mount, cgroup, socket or file of the instance is left. In-flight requests get `grace_ms`; a program its own
  `stop_grace_ms` in place of it, unless it is 0.
- `sleep` squeezes the instance's memory; the next request wakes it by itself. Where the capability
  is absent it does nothing.
- no instance sees, signals or reaches another, the host's files, loopback or private addresses.
- what an isolation class can do besides (exec, files, pause, snapshots, …) is in `Capabilities.classes`; what is absent raises
  `Unsupported`, and an instance that is not there or has no process `NoSuchInstance`.
- errors: `StartFailed` is never raised by `start` (it is a state); `Unavailable` when the machine lacks what
  is needed (engine, memory, file descriptors), with what to do in the text.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from skerry.core.types.app import Version
from skerry.core.types.program import IsolationClass
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import Standing
from skerry.kit.record import Record
from skerry.ports.sandbox import EngineFacts, ExecSession, ExecSpec, SandboxLimits, SandboxStats


class RuntimeFault(Exception):
    """The family of this port's errors."""


class Unavailable(RuntimeFault):
    """The machine lacks something; the text says what, and how to get it."""


class Unsupported(RuntimeFault):
    """This isolation class cannot do that here; the text says which can."""


class NoSuchInstance(RuntimeFault):
    """It is not on this node, or nothing of it runs."""


class Capabilities(Record):
    """What this runtime can do on this machine. `missing` names what it cannot, with the reason.

    `classes`: the isolation classes that it offers, each with its engine; a node's features follow from them.
    """

    isolation: Literal["none", "namespace", "namespace+uid"]
    limits: bool  # memory and CPU limits are enforced
    sleep: bool
    egress: bool
    missing: tuple[tuple[str, str], ...] = ()
    classes: tuple[tuple[IsolationClass, EngineFacts], ...] = ()


class Runtime(Protocol):
    @property
    def capabilities(self) -> Capabilities: ...

    async def attach(self) -> None:
        """Take over what an earlier process of this node left, remove the rest. Before all else."""
        ...

    async def start(self, instance: NodeInstance) -> ObservedInstance: ...

    async def stop(self, instance_id: str, *, grace_ms: int) -> None: ...

    async def sleep(self, instance_id: str) -> None: ...

    async def keep_spares(self, allowed: bool) -> int:
        """As `SandboxEngine.keep_spares`, of all its engines."""
        ...

    def observe(self) -> tuple[ObservedInstance, ...]:
        """All instances, as last seen; cheap, without I/O that can block."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields whenever `observe` would answer differently (coalesced)."""
        ...

    async def aclose(self, *, stop_instances: bool) -> None:
        """Detach; with `stop_instances` leave nothing behind."""
        ...

    def stats(self, instance_id: str) -> SandboxStats:
        """Some 0.3 ms. Zeros for what has no process."""
        ...

    def cpu_us(self, instance_id: str) -> int:
        """As in its stats, alone: one small file, since all instances of a node are asked each second."""
        ...

    def logs(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        """The end of what it wrote, over its restarts; with `follow` also what comes, until the reader stops or it is removed."""
        ...

    async def exec(self, instance_id: str, spec: ExecSpec) -> ExecSession: ...

    async def copy_out(self, instance_id: str, path: str) -> AsyncIterator[bytes]:
        """A tar archive of a file or directory inside."""
        ...

    async def copy_in(self, instance_id: str, directory: str, archive: AsyncIterator[bytes]) -> None: ...

    async def pause(self, instance_id: str) -> None: ...

    async def resume(self, instance_id: str) -> None: ...

    async def resize(self, instance_id: str, limits: SandboxLimits) -> None: ...

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        """How it stands among those that want the CPU, until the next word or the next process; its limits stay."""
        ...

    async def drop(self, instance_id: str, reason: str) -> None:
        """No process until a request comes. `Unsupported` for one that no request wakes."""
        ...

    async def restart(self, instance_id: str, reason: str) -> None:
        """End its process for the node's sake, as a crash with that reason: it starts again, later each time."""
        ...

    async def snapshot(self, instance_id: str) -> str:
        """Its whole state, kept on the node under the name that is returned; it goes on."""
        ...

    async def clone(self, snapshot: str, instance: NodeInstance) -> ObservedInstance:
        """As `start`, from the state of a snapshot (with the same instance's id: a restore)."""
        ...

    async def forget_snapshot(self, snapshot: str) -> None: ...


class Plain:
    """The abilities of a runtime that has none: a base for adapters, which override what they can."""

    async def keep_spares(self, allowed: bool) -> int:
        return 0

    def stats(self, instance_id: str) -> SandboxStats:
        return SandboxStats()

    def cpu_us(self, instance_id: str) -> int:
        return self.stats(instance_id).cpu_us

    def logs(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        raise _unsupported("logs")

    async def exec(self, instance_id: str, spec: ExecSpec) -> ExecSession:
        raise _unsupported("exec")

    async def copy_out(self, instance_id: str, path: str) -> AsyncIterator[bytes]:
        raise _unsupported("copying files")

    async def copy_in(self, instance_id: str, directory: str, archive: AsyncIterator[bytes]) -> None:
        raise _unsupported("copying files")

    async def pause(self, instance_id: str) -> None:
        raise _unsupported("pause")

    async def resume(self, instance_id: str) -> None:
        raise _unsupported("resume")

    async def resize(self, instance_id: str, limits: SandboxLimits) -> None:
        raise _unsupported("resize")

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        raise _unsupported("throttle")

    async def drop(self, instance_id: str, reason: str) -> None:
        raise _unsupported("drop")

    async def restart(self, instance_id: str, reason: str) -> None:
        raise _unsupported("restart")

    async def snapshot(self, instance_id: str) -> str:
        raise _unsupported("snapshots")

    async def clone(self, snapshot: str, instance: NodeInstance) -> ObservedInstance:
        raise _unsupported("clones")

    async def forget_snapshot(self, snapshot: str) -> None:
        raise _unsupported("snapshots")


def _unsupported(what: str) -> Unsupported:
    return Unsupported(f"{what}: not for a worker; programs in containers and microVMs can")


class Checked(Record):
    """A version that starts. `handlers`: names of what its default export offers (fetch, scheduled, …)."""

    startup_time_ms: int
    handlers: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()


class StartupError(RuntimeFault):
    """The version does not start; the text is for its author, as the engine said it."""


class Checker(Protocol):
    """Tries a version before it is accepted, in the same sandbox as instances, without network."""

    async def check(self, version: Version) -> Checked:
        """Raises `StartupError` (its author's fault) or `Unavailable` (ours). At most a few seconds."""
        ...
