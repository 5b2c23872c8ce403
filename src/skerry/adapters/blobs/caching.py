"""Blobs fetched from the plane above and kept, so that a plane that is cut off has what it runs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import final

from skerry.core.types.ids import Digest
from skerry.ports.blobs import Blobs, NotFound


@final
class CachingBlobs:
    """`get` only: one fetch for a digest at a time, kept in `kept` before it is handed out."""

    def __init__(self, kept: Blobs, fetch: Callable[[Digest], Awaitable[bytes]]) -> None:
        self._kept = kept
        self._fetch = fetch
        self._locks: dict[Digest, asyncio.Lock] = {}

    async def get(self, digest: Digest) -> bytes:
        """Raises what `fetch` raises, and `BlobError`."""
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            try:
                return await self._kept.get(digest)
            except NotFound:
                data = await self._fetch(digest)
                await self._kept.put(data)
                return data
            finally:
                self._locks.pop(digest, None)
