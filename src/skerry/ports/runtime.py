"""A runtime runs instances of versions on one node.

Contract (suite: `skerry.testing.contracts.runtime`):

- `start` is idempotent by instance id: called for one that runs, it returns what runs. It returns as soon
  as the instance has its address; from then on a request to the address waits until the instance
  answers or is known to have failed (then it gets a 503 at once). `observe` tells how far it is.
- a start-up error leaves the state `failed` (the code's own fault: an exception, a syntax error) or
  `backoff` (a crash: it is restarted after a delay that doubles up to a cap); the text is in `detail`.
- an instance outlives the runtime's process: after `attach` in a new process, `observe` tells of every instance
  that the dead one had started, with the same pid and address; what cannot be taken over is removed.
- `stop` is idempotent and safe to run without a start, and after half of one. When it returns no process,
  mount, cgroup, socket or file of the instance is left. In-flight requests get `grace_ms`.
- `sleep` squeezes the instance's memory; the next request wakes it by itself. Where the capability
  is absent it does nothing.
- no instance sees, signals or reaches another, the host's files, loopback or private addresses.
- errors: `StartFailed` is never raised by `start` (it is a state); `Unavailable` when the machine lacks what
  is needed (engine, memory, file descriptors), with what to do in the text.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from skerry.core.types.app import Version
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.kit.record import Record


class RuntimeFault(Exception):
    """The family of this port's errors."""


class Unavailable(RuntimeFault):
    """The machine lacks something; the text says what, and how to get it."""


class Capabilities(Record):
    """What this runtime can do on this machine. `missing` names what it cannot, with the reason."""

    isolation: Literal["none", "namespace", "namespace+uid"]
    limits: bool  # memory and CPU limits are enforced
    sleep: bool
    egress: bool
    missing: tuple[tuple[str, str], ...] = ()


class Runtime(Protocol):
    @property
    def capabilities(self) -> Capabilities: ...

    async def attach(self) -> None:
        """Take over what an earlier process of this node left, remove the rest. Before all else."""
        ...

    async def start(self, instance: NodeInstance) -> ObservedInstance: ...

    async def stop(self, instance_id: str, *, grace_ms: int) -> None: ...

    async def sleep(self, instance_id: str) -> None: ...

    def observe(self) -> tuple[ObservedInstance, ...]:
        """All instances, as last seen; cheap, without I/O that can block."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields whenever `observe` would answer differently (coalesced)."""
        ...

    async def aclose(self, *, stop_instances: bool) -> None:
        """Detach; with `stop_instances` leave nothing behind."""
        ...


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
