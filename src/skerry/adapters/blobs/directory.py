"""Blobs as files: `<root>/<first two digits>/<digest>`, written under `<root>/tmp` and renamed when they are durable.

A temporary is locked by whoever writes it, so that a later start can tell what a dead process left from what a
living one is writing. Several processes may share a root. A file's age is that of its modification time; whoever
refreshes it shares a lock that a sweep has alone, so that nothing is removed that somebody has just been told of.
"""

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, final

import anyio
import anyio.to_thread

from skerry.adapters.files import DIRECTORY_MODE, FILE_MODE, make_private_directory, sync_directory, write_all
from skerry.core.types.ids import Digest
from skerry.kit.hashing import content_digest
from skerry.ports.blobs import Corrupt, NotFound, TooLarge, Unavailable

THREADS_MAX = 8  # of one adapter: waiting for a disk, or hashing
TEMPORARIES = "tmp"
SWEEP_LOCK = "sweep.lock"
STREAM_BYTES = 1 << 20  # of one piece
REFRESH_AFTER_S = 600.0  # a younger file is young enough: asking for blobs does not write

_DIGEST = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@final
class DirectoryBlobs:
    """`skerry.ports.blobs.Blobs` in a directory. Make it with `open`."""

    @classmethod
    async def open(cls, root: Path) -> "DirectoryBlobs":
        """Open or create `root` and remove what dead processes left half-written. Raises `Unavailable`."""
        blobs = cls(root)
        await blobs._in_thread(blobs._prepare)
        return blobs

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporaries = root / TEMPORARIES
        self._limiter = anyio.CapacityLimiter(THREADS_MAX)

    async def put(self, data: bytes) -> Digest:
        return await self._in_thread(lambda: self._put(data))

    async def put_stream(self, chunks: AsyncIterator[bytes], *, digest: Digest, bytes_max: int) -> int:
        self._path(digest)
        temporary, descriptor = await self._in_thread(self._new_temporary)
        hasher, size = hashlib.sha256(), 0

        def write(chunk: bytes) -> None:
            hasher.update(chunk)
            write_all(descriptor, chunk)

        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > bytes_max:
                    raise TooLarge(f"more than {bytes_max:,} bytes")
                await self._in_thread(lambda chunk=chunk: write(chunk))
            if hasher.hexdigest() != digest:
                raise Corrupt(f"what came has the digest {hasher.hexdigest()}, not {digest[:80]}")
            await self._in_thread(lambda: self._finish(temporary, descriptor, digest))
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
        return size

    async def get(self, digest: Digest) -> bytes:
        return await self._in_thread(lambda: self._get(digest))

    async def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        descriptor = await self._in_thread(lambda: self._open(digest))
        hasher, last = hashlib.sha256(), b""
        try:
            while chunk := await self._in_thread(lambda: os.read(descriptor, STREAM_BYTES)):
                hasher.update(chunk)
                if last:
                    yield last
                last = chunk
        finally:
            os.close(descriptor)
        if hasher.hexdigest() != digest:
            raise Corrupt(f"the file of blob {digest} holds the content of {hasher.hexdigest()}")
        yield last

    async def has(self, digest: Digest) -> bool:
        return not await self.missing(frozenset((digest,)))

    async def missing(self, digests: frozenset[Digest]) -> frozenset[Digest]:
        return await self._in_thread(lambda: self._missing(digests))

    async def sweep(self, keep: frozenset[Digest], *, older_than_ms: int) -> int:
        removed = 0
        for number in range(256):
            directory = self._root / f"{number:02x}"
            removed += await self._in_thread(lambda directory=directory: self._sweep(directory, keep, older_than_ms))
        return removed

    async def _in_thread(self, work: Callable[[], T]) -> T:
        with _translated(self._root):
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    # In a thread.

    def _prepare(self) -> None:
        make_private_directory(self._root)
        for name in (TEMPORARIES, *(f"{number:02x}" for number in range(256))):
            with suppress(FileExistsError):
                (self._root / name).mkdir(mode=DIRECTORY_MODE)
        sync_directory(self._root)
        for temporary in self._temporaries.iterdir():
            _remove_if_stale(temporary)

    def _put(self, data: bytes) -> Digest:
        digest = Digest(content_digest(data))
        path = self._path(digest)
        with self._locked(fcntl.LOCK_SH):
            if _holds(path, data):
                _refresh(path)
            else:
                self._write(path, data)
        sync_directory(path.parent)  # also when it was there: who put it may not have come this far
        return digest

    def _write(self, path: Path, data: bytes) -> None:
        temporary, descriptor = self._new_temporary()
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _finish(self, temporary: Path, descriptor: int, digest: Digest) -> None:
        os.fsync(descriptor)
        path = self._path(digest)
        with self._locked(fcntl.LOCK_SH):
            temporary.replace(path)
        sync_directory(path.parent)

    def _open(self, digest: Digest) -> int:
        try:
            return os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"there is no blob {digest}") from None

    def _new_temporary(self) -> tuple[Path, int]:
        """A file that is locked by us; another process may clean up between its creation and its lock."""
        while True:
            temporary = self._temporaries / secrets.token_hex(16)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return temporary, descriptor
            os.close(descriptor)

    def _get(self, digest: Digest) -> bytes:
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no blob {digest}") from None
        actual = content_digest(data)
        if actual != digest:
            raise Corrupt(f"the file of blob {digest} holds {len(data)} bytes of digest {actual}")
        return data

    def _is_there(self, digest: Digest) -> bool:
        with suppress(NotFound):
            return self._path(digest).is_file()
        return False

    def _missing(self, digests: frozenset[Digest]) -> frozenset[Digest]:
        with self._locked(fcntl.LOCK_SH):
            there = {digest for digest in digests if self._is_there(digest)}
            for digest in there:
                _refresh(self._path(digest))
        return digests - there

    def _sweep(self, directory: Path, keep: frozenset[Digest], older_than_ms: int) -> int:
        removed = 0
        with self._locked(fcntl.LOCK_EX):
            before_s = time.time() - older_than_ms / 1000
            for path in directory.iterdir():
                if path.name in keep:
                    _refresh(path)
                elif path.stat().st_mtime <= before_s:
                    path.unlink()
                    removed += 1
        return removed

    @contextmanager
    def _locked(self, how: int) -> Generator[None]:
        """Shared by those that refresh, alone for a sweep. Ends with its holder, however that ends."""
        descriptor = os.open(self._root / SWEEP_LOCK, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _path(self, digest: Digest) -> Path:
        """Raises `NotFound` for what is no digest: it comes from outside and must not lead out of the root."""
        if not _DIGEST.fullmatch(digest):
            raise NotFound(f"this is not the name of a blob: {digest[:80]!r}")
        return self._root / digest[:2] / digest


def _holds(path: Path, data: bytes) -> bool:
    """Compared byte by byte, so that putting a blob again heals a file that went bad."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _refresh(path: Path) -> None:
    with suppress(FileNotFoundError):  # removed by a person
        if time.time() - path.stat().st_mtime > REFRESH_AFTER_S:
            os.utime(path)


def _remove_if_stale(temporary: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def _translated(root: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{root}: {error}") from error
