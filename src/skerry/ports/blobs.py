"""Blobs: immutable bytes by content hash (SHA-256, hex).

Contract (suite: `skerry.testing.contracts.blobs`): when `put` returns, the blob survives kill -9 and power loss;
a reader sees all of it or nothing; putting the same bytes twice is one blob; `get` of what is not there
raises `NotFound`; what is read is verified against its name, and `Corrupt` is raised when it differs.
`put_stream` and `stream` are the same for what is too large to be held in memory; what breaks off leaves nothing.
A blob is young from its last `put`, from the last `missing` or `has` that found it, and from the last `sweep` that kept it.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from skerry.core.types.ids import Digest


class BlobError(Exception):
    """The family of this port's errors."""


class NotFound(BlobError):
    """No blob of that name."""


class Corrupt(BlobError):
    """The bytes are not those of the name: never handed out."""


class TooLarge(BlobError):
    """More bytes than were allowed; nothing was kept."""


class Unavailable(BlobError):
    """The engine does not answer or is full."""


class Blobs(Protocol):
    async def put(self, data: bytes) -> Digest: ...

    async def put_stream(self, chunks: AsyncIterator[bytes], *, digest: Digest, bytes_max: int) -> int:
        """Keep what has to turn out as `digest`; its size. Raises `Corrupt` when it does not, `TooLarge`."""
        ...

    async def get(self, digest: Digest) -> bytes: ...

    def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        """Piece by piece. The last piece is handed out only when all were right: a reader that got to the end has the blob."""
        ...

    async def has(self, digest: Digest) -> bool: ...

    async def missing(self, digests: frozenset[Digest]) -> frozenset[Digest]:
        """Those of `digests` that are not there."""
        ...

    async def sweep(self, keep: frozenset[Digest], *, older_than_ms: int) -> int:
        """Remove what is not in `keep` and older than that; how many were removed. `keep` becomes young.

        Who was told that a blob is there has so long to refer to it.
        """
        ...
