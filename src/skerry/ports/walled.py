"""Workers as programs, for a wall that the program runtime has and the worker runtime has not.

Contract: `as_program` is quick, needs nobody else and gives the same program for the same version, so that the next agent goes on
with what an earlier one began. `files` may fetch: it raises what the images port does (`ImagesUnavailable`: worth another try;
`BadImage`: the version's own fault). `face` comes before `mounts`. For what is no Worker `files` and `mounts` are empty,
`face` and `seen` change nothing, and it never sleeps.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from skerry.core.types.app import Version
from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.ports.sandbox import Mount, SandboxFile


class Walled(Protocol):
    async def as_program(self, instance: NodeInstance) -> NodeInstance:
        """The same instance with a program beside the Worker in its version. Raises `ports.runtime.Unavailable`."""
        ...

    async def files(self, version: Version) -> tuple[SandboxFile, ...]:
        """What such a program reads that is the version's own."""
        ...

    def mounts(self, instance: NodeInstance) -> tuple[Mount, ...]:
        """Directories of the node with sockets that it may connect to."""
        ...

    async def face(self, instance: NodeInstance, address: str) -> None:
        """From here on users meet its static assets first, and behind them the program at `address`. Idempotent; a second time
        with another address if it has moved. Survives the agent. Raises `ports.network.NetworkError`."""
        ...

    async def unface(self, instance_id: str) -> None:
        """Idempotent, and right after half a `face`."""
        ...

    async def face_only(self, known: frozenset[InstanceId]) -> None:
        """As `unface` for all others: their programs are not known, since what was kept of them is lost."""
        ...

    def seen(self, observed: ObservedInstance) -> ObservedInstance:
        """The program as its users meet it: at the address of its assets, and not running before they are served."""
        ...

    def sleeps_after_ms(self, version: Version) -> int | None:
        """How long nobody asks it until its memory is squeezed; None: never, since a Worker's cannot be here, or is not to be."""
        ...

    def fault(self, version: Version, said: str) -> str:
        """The fault in the version's own code by which its process ended at its start, out of what it `said`; empty: none."""
        ...

    async def collect(self, wanted: Callable[[], Iterable[Version]]) -> None:
        """Remove what was fetched for others than `wanted`, which is asked again in between; never raises."""
        ...


class NoWalled:
    """A node without Workers among its programs."""

    async def as_program(self, instance: NodeInstance) -> NodeInstance:
        return instance

    async def files(self, version: Version) -> tuple[SandboxFile, ...]:
        return ()

    def mounts(self, instance: NodeInstance) -> tuple[Mount, ...]:
        return ()

    async def face(self, instance: NodeInstance, address: str) -> None:
        return None

    async def unface(self, instance_id: str) -> None:
        return None

    async def face_only(self, known: frozenset[InstanceId]) -> None:
        return None

    def seen(self, observed: ObservedInstance) -> ObservedInstance:
        return observed

    def sleeps_after_ms(self, version: Version) -> int | None:
        return None

    def fault(self, version: Version, said: str) -> str:
        return ""

    async def collect(self, wanted: Callable[[], Iterable[Version]]) -> None:
        return None
