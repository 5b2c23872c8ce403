"""Workers as programs, for a wall that the program runtime has and the worker runtime has not.

Contract: `as_program` is quick, needs nobody else and gives the same program for the same version, so that the next agent goes on
with what an earlier one began. `files` may fetch: it raises what the images port does (`ImagesUnavailable`: worth another try;
`BadImage`: the version's own fault). For versions that are no Workers `files` and `mounts` are empty.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from skerry.core.types.app import Version
from skerry.core.types.slices import NodeInstance
from skerry.ports.sandbox import Mount, SandboxFile


class Walled(Protocol):
    async def as_program(self, instance: NodeInstance) -> NodeInstance:
        """The same instance with a program beside the Worker in its version. Raises `ports.runtime.Unavailable`."""
        ...

    async def files(self, version: Version) -> tuple[SandboxFile, ...]:
        """What such a program reads that is the version's own."""
        ...

    def mounts(self, version: Version) -> tuple[Mount, ...]:
        """Directories of the node with sockets that it may connect to."""
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

    def mounts(self, version: Version) -> tuple[Mount, ...]:
        return ()

    def fault(self, version: Version, said: str) -> str:
        return ""

    async def collect(self, wanted: Callable[[], Iterable[Version]]) -> None:
        return None
