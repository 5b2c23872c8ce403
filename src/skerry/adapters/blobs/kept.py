"""A plane's own copies of blobs: what it starts instances from, or hands to its nodes, when it is cut off.

Files by digest, each whole and verified before it has its name, and kept as long as something here refers to them.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

from skerry.adapters.files import write_all
from skerry.adapters.process.detached import write_private
from skerry.core.types.ids import Digest

REMOVED_AT_ONCE = 100  # files, then others have their turn
FETCHES_AT_ONCE = 8  # towards the plane above: enough to hide the round trip, few enough to share

Fetch = Callable[[Digest], Awaitable[bytes]]
Stream = Callable[[Digest], AsyncIterator[bytes]]


class BadBlob(Exception):
    """What was fetched is not what was asked for."""


class KeptBlobs:
    """`get` reads here and fetches at most once; callers that want the same at the same time share one fetch.

    With a `stream` in place of a `fetch`, blobs go to the disk as they come and are never whole in memory.
    """

    def __init__(self, directory: Path, fetch: Fetch | None = None, *, stream: Stream | None = None) -> None:
        assert (fetch is None) != (stream is None), "one of them"
        self._directory = directory
        self._fetch = fetch
        self._stream = stream
        self._running: dict[Digest, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(FETCHES_AT_ONCE)

    def make(self) -> None:
        """The directory, where nobody else makes it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise BadBlob(f"no digest: {digest[:80]!r}")
        return self._directory / digest

    async def get(self, digest: Digest) -> bytes:
        """Raises `BadBlob`, or what the fetch raises."""
        path = await self.ensure(digest)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:  # removed in between, as nothing referred to it yet
            return await asyncio.to_thread((await self.ensure(digest)).read_bytes)

    async def ensure(self, digest: Digest) -> Path:
        """The file of that blob, there."""
        path = self.path(digest)
        if not path.exists():
            task = self._running.get(digest)
            if task is None:
                task = self._running[digest] = asyncio.create_task(self._load(digest, path))
                task.add_done_callback(lambda _: self._running.pop(digest, None))
            await asyncio.shield(task)
        return path

    async def ensure_all(self, digests: Iterable[Digest]) -> None:
        """Raises what the first one raised that could not be had."""
        try:
            async with asyncio.TaskGroup() as group:
                for digest in sorted(set(digests)):
                    group.create_task(self.ensure(digest))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    def keep_only(self, digests: frozenset[Digest]) -> None:
        """Remove the rest, and what a killed agent left half written. Files of asset trees are linked there, and kept."""
        for path in self._directory.iterdir():
            if path.name not in digests and path.stat().st_nlink == 1:
                path.unlink(missing_ok=True)

    async def collect(self, needed: Callable[[], frozenset[Digest]]) -> None:
        """As `keep_only`, but while others fetch and read: what is needed is asked again and again."""
        names = sorted(await asyncio.to_thread(os.listdir, self._directory))
        for first in range(0, len(names), REMOVED_AT_ONCE):
            keep = needed() | self._running.keys()
            for name in names[first : first + REMOVED_AT_ONCE]:
                if not name.startswith(".") and name not in keep:
                    self._remove(self._directory / name)
            await asyncio.sleep(0)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_nlink == 1:
                path.unlink()

    async def _load(self, digest: Digest, path: Path) -> None:
        async with self._slots:
            if self._stream is not None:
                await _store_stream(digest, path, self._stream(digest))
            elif self._fetch is not None:
                await asyncio.to_thread(_store, digest, path, await self._fetch(digest))


def _store(digest: Digest, path: Path, data: bytes) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != digest:
        raise BadBlob(f"blob {digest} arrived with the content of {actual}")
    write_private(path, data)


async def _store_stream(digest: Digest, path: Path, chunks: AsyncIterator[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    hasher = hashlib.sha256()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        async for chunk in chunks:
            await asyncio.to_thread(_append, descriptor, hasher.update, chunk)
        if hasher.hexdigest() != digest:
            raise BadBlob(f"blob {digest} arrived with the content of {hasher.hexdigest()}")
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _append(descriptor: int, update: Callable[[bytes], None], chunk: bytes) -> None:
    update(chunk)
    write_all(descriptor, chunk)
