"""Blobs in memory, with faults on demand. What it holds outlives its handles, as a disk outlives a process."""

from dataclasses import dataclass, field
from typing import final

import anyio.lowlevel

from skerry.core.types.ids import Digest
from skerry.kit.hashing import content_digest
from skerry.ports.blobs import Corrupt, NotFound, Unavailable


@dataclass
class Faults:
    """What goes wrong next; each count is used up."""

    unavailable_before: int = 0  # so many puts raise `Unavailable` and leave nothing
    unavailable_after: int = 0  # so many puts raise `Unavailable` although the blob is there
    unavailable_reads: int = 0
    corrupt: set[Digest] = field(default_factory=set[Digest])  # blobs that went bad, until they are put again


@final
class SimulatedBlobs:
    """`skerry.ports.blobs.Blobs` on a dict that handles can share."""

    def __init__(self, held: dict[Digest, bytes] | None = None, faults: Faults | None = None) -> None:
        self.held = {} if held is None else held
        self.faults = faults or Faults()

    async def put(self, data: bytes) -> Digest:
        await anyio.lowlevel.checkpoint()
        if self.faults.unavailable_before > 0:
            self.faults.unavailable_before -= 1
            raise Unavailable("simulated: nothing was written")
        digest = Digest(content_digest(data))
        self.held[digest] = data
        self.faults.corrupt.discard(digest)
        if self.faults.unavailable_after > 0:
            self.faults.unavailable_after -= 1
            raise Unavailable("simulated: written, but the answer was lost")
        await anyio.lowlevel.checkpoint()
        return digest

    async def get(self, digest: Digest) -> bytes:
        await self._before_read()
        if digest not in self.held:
            raise NotFound(f"there is no blob {digest}")
        if digest in self.faults.corrupt:
            raise Corrupt(f"simulated: blob {digest} went bad")
        return self.held[digest]

    async def has(self, digest: Digest) -> bool:
        return not await self.missing(frozenset((digest,)))

    async def missing(self, digests: frozenset[Digest]) -> frozenset[Digest]:
        await self._before_read()
        return digests - self.held.keys()

    async def _before_read(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.faults.unavailable_reads > 0:
            self.faults.unavailable_reads -= 1
            raise Unavailable("simulated: no answer")
