"""Blobs in memory, with faults on demand. What it holds outlives its handles, as a disk outlives a process."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import final

import anyio
import anyio.lowlevel

from skerry.core.types.ids import Digest
from skerry.kit.hashing import content_digest
from skerry.ports.blobs import Corrupt, NotFound, TooLarge, Unavailable


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

    def __init__(
        self, held: dict[Digest, bytes] | None = None, faults: Faults | None = None, young: dict[Digest, float] | None = None
    ) -> None:
        self.held = {} if held is None else held
        self.young = {} if young is None else young  # when each became young, in the event loop's seconds
        self.faults = faults or Faults()

    async def put(self, data: bytes) -> Digest:
        await anyio.lowlevel.checkpoint()
        if self.faults.unavailable_before > 0:
            self.faults.unavailable_before -= 1
            raise Unavailable("simulated: nothing was written")
        digest = Digest(content_digest(data))
        self.held[digest] = data
        self._refresh(digest)
        self.faults.corrupt.discard(digest)
        if self.faults.unavailable_after > 0:
            self.faults.unavailable_after -= 1
            raise Unavailable("simulated: written, but the answer was lost")
        await anyio.lowlevel.checkpoint()
        return digest

    async def put_stream(self, chunks: AsyncIterator[bytes], *, digest: Digest, bytes_max: int) -> int:
        if len(digest) != len(content_digest(b"")):
            raise NotFound(f"this is not the name of a blob: {digest[:80]!r}")
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            if len(data) > bytes_max:
                raise TooLarge(f"more than {bytes_max} bytes")
        if content_digest(bytes(data)) != digest:
            raise Corrupt("what came has another digest")
        await self.put(bytes(data))
        return len(data)

    async def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        yield await self.get(digest)

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
        self._refresh(*(digests & self.held.keys()))
        return digests - self.held.keys()

    async def sweep(self, keep: frozenset[Digest], *, older_than_ms: int) -> int:
        await self._before_read()
        self._refresh(*(keep & self.held.keys()))
        before_s = anyio.current_time() - older_than_ms / 1000
        old = [digest for digest in self.held if digest not in keep and self.young.get(digest, 0.0) <= before_s]
        for digest in old:
            del self.held[digest]
            self.young.pop(digest, None)
        return len(old)

    def _refresh(self, *digests: Digest) -> None:
        now_s = anyio.current_time()
        self.young.update(dict.fromkeys(digests, now_s))

    async def _before_read(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.faults.unavailable_reads > 0:
            self.faults.unavailable_reads -= 1
            raise Unavailable("simulated: no answer")
