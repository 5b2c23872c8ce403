"""A site's copies of the blobs of what it was told to run, so that a node can start it while control is away."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import IO

import msgspec
import structlog

from skerry.adapters.blobs.kept import BadBlob, KeptBlobs, Stream
from skerry.core.types.app import AssetFile, Version
from skerry.core.types.ids import Digest
from skerry.kit import record
from skerry.ports.links import LinkError, Unreachable

log = structlog.get_logger()

CHUNK_BYTES = 256 << 10


class SiteCopies:
    """`open` serves the nodes; `follow` makes the copies those of the given versions."""

    def __init__(self, directory: Path, stream: Stream) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._kept = KeptBlobs(directory, stream=stream)

    async def open(self, digest: Digest) -> AsyncIterator[bytes]:
        """The bytes, piece by piece. Raises `LinkError`, before the first, if it is neither here nor to be had now."""
        try:
            path = await self._kept.ensure(digest)
            return _chunks(await asyncio.to_thread(path.open, "rb"))
        except (BadBlob, LinkError, OSError) as error:
            log.warning("blob_missing", digest=digest, error=str(error))
            raise Unreachable(f"the site has no copy, and control gave none: {error}") from error

    async def follow(self, versions: Iterable[Version]) -> None:
        """Fetch what is missing, remove what nothing refers to. What cannot be fetched now is fetched when a node asks."""
        needed: set[Digest] = set()
        try:
            for version in versions:
                needed |= await self._digests(version)
            for digest in sorted(needed):
                await self._kept.ensure(digest)
        except (BadBlob, LinkError, msgspec.DecodeError) as error:
            log.warning("copies_incomplete", error=str(error))
            return
        await asyncio.to_thread(self._kept.keep_only, frozenset(needed))

    async def _digests(self, version: Version) -> frozenset[Digest]:
        """All blobs of a version; the files of its assets are named in its manifest."""
        if version.assets is None:
            return version.process_digests()
        manifest = version.assets.manifest
        files = record.decode(await self._kept.get(manifest), tuple[AssetFile, ...])
        return version.process_digests() | {manifest} | {file.digest for file in files}


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()
