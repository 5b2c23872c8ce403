"""Streams of a blob's bytes that are checked as they pass."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import IO

from skerry.core.types.ids import Digest
from skerry.ports.imagesources import BadSource

CHUNK_BYTES = 1 << 20


async def checked(chunks: AsyncIterator[bytes], digest: Digest, *, size_max: int) -> AsyncIterator[bytes]:
    """The same chunks; raises `BadSource` at their end if they are not the blob `digest`, and before if there are too many."""
    hasher, size = hashlib.sha256(), 0
    async for chunk in chunks:
        size += len(chunk)
        if size > size_max:
            raise BadSource(f"blob {digest[:12]}: longer than the {size_max} bytes that were announced")
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != digest:
        raise BadSource(f"blob {digest[:12]}: its content is that of {hasher.hexdigest()[:12]}; damaged, or cut short")


async def whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def file_chunks(open_file: Callable[[], IO[bytes]]) -> AsyncIterator[bytes]:
    """Opened and read in a thread."""
    file = await asyncio.to_thread(open_file)
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()
