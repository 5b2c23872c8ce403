"""The embedded store: one SQLite file, written by one process.

    transact ─► queue ─► writer thread: one BEGIN … COMMIT (one fsync) for all that wait ─► loop: tail, answers, watches
    get      ─► on the loop: a point query takes microseconds, a change of thread ten times that
    range, old history ─► a worker thread, one at a time, on a connection of their own

The layout of the file and its durability are in `sqlite_file.py`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar, final

import anyio
import anyio.to_thread

from skerry.adapters.files import make_private_directory
from skerry.adapters.store.base import Batch, StoreBase, Transaction, checked, checked_key, checked_range, follow
from skerry.adapters.store.lock import Lock
from skerry.adapters.store.sqlite_file import Broken, Reader, Writer, connect, create, prepare, translated
from skerry.adapters.store.tail import Tail
from skerry.ports.store import PAGE_MAX, Change, Check, Compacted, Conflict, Entry, Op, Page, Unavailable

WAITING_MAX = 4096  # writes not yet acknowledged; beyond, callers are told instead of queued
WAITING_BYTES_MAX = 256 << 20  # keys and values of these; twice the largest transaction
GROUP_TRANSACTIONS_MAX = 256  # of one fsync
GROUP_BYTES_MAX = 16 << 20  # of one fsync, unless one transaction alone is larger
HISTORY_TRANSACTIONS_MAX = 10_000  # a watcher that is further behind reads again
HISTORY_BYTES_MAX = 64 << 20  # on disk
TAIL_TRANSACTIONS_MAX = 1024  # in memory: watchers that keep up never touch the disk
TAIL_BYTES_MAX = 8 << 20
WATCH_CHUNK = 256  # transactions that a watcher takes at once

T = TypeVar("T")


class _Request(NamedTuple):
    transaction: Transaction
    answer: "asyncio.Future[int]"


class _Files(NamedTuple):
    lock: Lock
    writer: Writer
    points: Reader
    ranges: Reader


@final
class SqliteStore(StoreBase):
    """`skerry.ports.store.Store` in a file. Make it with `open`; it belongs to the event loop it was opened on."""

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        history_transactions_max: int = HISTORY_TRANSACTIONS_MAX,
        history_bytes_max: int = HISTORY_BYTES_MAX,
    ) -> "SqliteStore":
        """Open or create `path`. Raises `Locked` (it names the holder's pid) or `Unavailable`."""

        def open_files() -> _Files:
            with translated(path):
                return _open_files(path, history_transactions_max, history_bytes_max)

        files = await anyio.to_thread.run_sync(open_files)
        in_memory = min(TAIL_TRANSACTIONS_MAX, history_transactions_max)
        tail = Tail(newest=files.writer.revision, transactions_max=in_memory, bytes_max=TAIL_BYTES_MAX)
        return cls(path, files, tail)

    def __init__(self, path: Path, files: _Files, tail: Tail) -> None:
        self._path = path
        self._files = files
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._waiting = 0
        self._waiting_bytes = 0
        self._tail = tail
        self._pulse = anyio.Event()  # set, and replaced, when there is something new for watches
        self._one_range = anyio.CapacityLimiter(1)
        self._closing = False
        self._broken: str | None = None
        self._writer_ended = anyio.Event()
        threading.Thread(target=self._write_all, name=f"store {path.name}", daemon=True).start()

    async def get(self, key: str) -> Entry | None:
        checked_key(key)
        self._refuse_unless_open()
        with translated(self._path):
            return self._files.points.get(key)

    async def range(self, prefix: str, *, after: str | None = None, limit: int = PAGE_MAX) -> Page:
        checked_range(prefix, after, limit)
        return await self._read(lambda ranges: ranges.range(prefix, after, limit))

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        transaction = checked(checks, ops)
        self._refuse_unless_open()
        waiting, waiting_bytes = self._waiting + 1, self._waiting_bytes + transaction.size_bytes
        if waiting > WAITING_MAX or waiting_bytes > WAITING_BYTES_MAX:
            raise Unavailable(
                f"{self._path}: {self._waiting} writes of {self._waiting_bytes} bytes are waiting for the disk already"
            )
        self._waiting, self._waiting_bytes = waiting, waiting_bytes
        request = _Request(transaction, self._loop.create_future())
        self._queue.put(request)
        return await request.answer

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[tuple[Change, ...]]:
        checked_range(prefix, None, PAGE_MAX)
        return follow(self._next_batches, prefix, after=after)

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            if not self._closing:
                self._closing = True
                self._wake_watches()
                self._queue.put(None)
            await self._writer_ended.wait()
            async with self._one_range:  # a range that is still being read ends first
                self._files.ranges.close()
            self._files.points.close()
            self._files.lock.release()

    # On the loop.

    def _refuse_unless_open(self) -> None:
        if self._closing:
            raise Unavailable(f"{self._path} is closed")
        if self._broken is not None:
            raise Unavailable(self._broken)

    async def _read(self, read: Callable[[Reader], T]) -> T:
        def translated_read() -> T:
            with translated(self._path):
                return read(self._files.ranges)

        async with self._one_range:
            self._refuse_unless_open()
            return await anyio.to_thread.run_sync(translated_read)

    async def _next_batches(self, after: int) -> tuple[Batch, ...]:
        while not self._closing:
            pulse = self._pulse
            self._refuse_unless_open()
            if after < self._tail.newest:
                held = self._tail.since(after, limit=WATCH_CHUNK)
                return held if held is not None else await self._history(after)
            if after > self._tail.newest:
                await self._refuse_the_future(after)
            await pulse.wait()
        return ()

    async def _history(self, after: int) -> tuple[Batch, ...]:
        try:
            return await self._read(lambda ranges: ranges.history(after, WATCH_CHUNK))
        except Unavailable:
            if self._closing:
                return ()
            raise

    async def _refuse_the_future(self, after: int) -> None:
        """A page can be a commit ahead of the tail; what is ahead of the file comes from another history."""
        newest = await self._read(Reader.newest)
        if after > newest:
            raise Compacted(f"revision {after} is not of this store, which is at {newest}")

    def _wake_watches(self) -> None:
        self._pulse.set()
        self._pulse = anyio.Event()

    def _answered(self, group: Sequence[_Request]) -> None:
        self._waiting -= len(group)
        self._waiting_bytes -= sum(request.transaction.size_bytes for request in group)

    def _acknowledge(self, group: Sequence[_Request], answers: Sequence[int | Conflict], batches: Sequence[Batch]) -> None:
        self._answered(group)
        for batch in batches:
            self._tail.append(batch)
        for request, answer in zip(group, answers, strict=True):
            if request.answer.done():  # its caller was cancelled
                continue
            if isinstance(answer, Conflict):
                request.answer.set_exception(answer)
            else:
                request.answer.set_result(answer)
        if batches:
            self._wake_watches()

    def _fail(self, group: Sequence[_Request], error: BaseException) -> None:
        self._answered(group)
        text = str(error) if isinstance(error, Unavailable) else f"{self._path}: {error}"
        if isinstance(error, Broken):
            self._broken = text
            self._wake_watches()
        for request in group:
            if not request.answer.done():
                failure = Unavailable(text)
                failure.__cause__ = error
                request.answer.set_exception(failure)

    # On the writer thread.

    def _write_all(self) -> None:
        open_still = True
        while open_still:
            group, open_still = self._next_group()
            if not group:
                continue
            try:
                answers, batches = self._files.writer.commit([request.transaction for request in group])
            except BaseException as error:  # a thread that dies silently would leave its callers waiting for ever
                self._on_loop(self._fail, group, error)
            else:
                self._on_loop(self._acknowledge, group, answers, batches)
        with suppress(Exception):  # what was acknowledged is safe without it
            self._files.writer.close()
        self._on_loop(self._writer_ended.set)

    def _next_group(self) -> tuple[list[_Request], bool]:
        """Waits for a request; what else waits by then shares its fsync. False: the store was closed behind these."""
        group: list[_Request] = []
        size = 0
        try:
            request = self._queue.get()
            while request is not None:
                group.append(request)
                size += request.transaction.size_bytes
                if len(group) >= GROUP_TRANSACTIONS_MAX or size >= GROUP_BYTES_MAX:
                    return group, True
                request = self._queue.get_nowait()
        except Empty:
            return group, True
        return group, False

    def _on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits for an answer any more
            self._loop.call_soon_threadsafe(callback, *arguments)


def _open_files(path: Path, history_transactions_max: int, history_bytes_max: int) -> _Files:
    make_private_directory(path.parent)
    with ExitStack() as undo:
        lock = Lock(path)
        undo.callback(lock.release)
        create(path)
        first, second, third = (undo.enter_context(closing(connect(path))) for _ in range(3))
        prepare(first, path)
        writer = Writer(first, path, history_transactions_max=history_transactions_max, history_bytes_max=history_bytes_max)
        files = _Files(lock, writer, Reader(second), Reader(third))
        undo.pop_all()
        return files
