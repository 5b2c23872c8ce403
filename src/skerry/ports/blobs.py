"""Blobs: immutable bytes by content hash (SHA-256, hex).

Contract (suite: `skerry.testing.contracts.blobs`): when `put` returns, the blob survives kill -9 and power loss;
a reader sees all of it or nothing; putting the same bytes twice is one blob; `get` of what is not there
raises `NotFound`; what is read is verified against its name, and `Corrupt` is raised when it differs.
"""

from typing import Protocol

from skerry.core.types.ids import Digest


class BlobError(Exception):
    """The family of this port's errors."""


class NotFound(BlobError):
    """No blob of that name."""


class Corrupt(BlobError):
    """The bytes are not those of the name: never handed out."""


class Unavailable(BlobError):
    """The engine does not answer or is full."""


class Blobs(Protocol):
    async def put(self, data: bytes) -> Digest: ...

    async def get(self, digest: Digest) -> bytes: ...

    async def has(self, digest: Digest) -> bool: ...

    async def missing(self, digests: frozenset[Digest]) -> frozenset[Digest]:
        """Those of `digests` that are not there."""
        ...
