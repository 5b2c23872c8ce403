"""A store in memory, with faults on demand. What it holds outlives its handles, as a disk outlives a process.

engine = Engine()
store = SimulatedStore(engine, Faults(dies_after_commits=3))
…                                # the third commit is kept, its answer is lost, then nothing is answered
restarted = SimulatedStore(engine)
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import final

import anyio
import anyio.lowlevel

from skerry.adapters.store.base import Batch, StoreBase, Transaction, checked, checked_key, checked_range, follow
from skerry.adapters.store.tail import Tail
from skerry.ports.store import PAGE_BYTES_MAX, PAGE_MAX, Change, Check, Compacted, Conflict, Entry, Op, Page, Unavailable

HISTORY_TRANSACTIONS_MAX = 10_000
HISTORY_BYTES_MAX = 64 << 20
WATCH_CHUNK = 256  # transactions that a watcher takes at once


@dataclass
class Faults:
    """What goes wrong next; each count is used up, 0 and None are "nothing"."""

    unavailable_before: int = 0  # so many writes raise `Unavailable` and leave nothing
    unavailable_after: int = 0  # so many writes raise `Unavailable` although they are there
    unavailable_reads: int = 0
    dies_after_commits: int | None = None  # the n-th commit loses its answer; then every call and watch fails


class Engine:
    """What a disk would hold, shared by all handles on it."""

    def __init__(self, *, history_transactions_max: int = HISTORY_TRANSACTIONS_MAX) -> None:
        self.entries: dict[str, Entry] = {}
        self.keys: list[str] = []  # sorted: code points order as their UTF-8 does
        self.history = Tail(newest=0, transactions_max=history_transactions_max, bytes_max=HISTORY_BYTES_MAX)
        self._pulse = anyio.Event()

    def commit(self, transaction: Transaction) -> int:
        """The revision; raises `Conflict`."""
        for check in transaction.checks:
            actual = self.revision_of(check.key)
            if actual != check.revision:
                raise Conflict(check.key, expected=check.revision, actual=actual)
        revision = self.history.newest + 1
        batch = tuple(
            Change(key=key, value=value, revision=revision)
            for key, value in transaction.writes
            if value is not None or key in self.entries
        )
        for change in batch:
            self._write(change)
        if batch:
            self.history.append(batch)
            self.wake()
        return self.history.newest

    def revision_of(self, key: str) -> int:
        entry = self.entries.get(key)
        return entry.revision if entry else 0

    def range(self, prefix: str, after: str | None, limit: int) -> Page:
        start = bisect_left(self.keys, prefix)
        if after is not None:
            start = max(start, bisect_right(self.keys, after))
        entries: list[Entry] = []
        size = 0
        for key in self.keys[start : start + limit + 1]:
            if not key.startswith(prefix):
                break
            size += len(key.encode()) + len(self.entries[key].value)
            if len(entries) == limit or (entries and size > PAGE_BYTES_MAX):
                return Page(entries=tuple(entries), revision=self.history.newest, more=True)
            entries.append(self.entries[key])
        return Page(entries=tuple(entries), revision=self.history.newest)

    async def changed(self) -> None:
        """Until the next commit, or the end of a handle."""
        await self._pulse.wait()

    def wake(self) -> None:
        self._pulse.set()
        self._pulse = anyio.Event()

    def _write(self, change: Change) -> None:
        if change.value is None:
            del self.entries[change.key]
            del self.keys[bisect_left(self.keys, change.key)]
            return
        if change.key not in self.entries:
            insort(self.keys, change.key)
        self.entries[change.key] = Entry(key=change.key, value=change.value, revision=change.revision)


@final
class SimulatedStore(StoreBase):
    """One handle on an engine. Every call lets others run, before it acts and before it answers, as a real one does."""

    def __init__(self, engine: Engine | None = None, faults: Faults | None = None) -> None:
        self.engine = engine or Engine()
        self.faults = faults or Faults()
        self.commits = 0  # by this handle
        self._end: str | None = None

    async def get(self, key: str) -> Entry | None:
        checked_key(key)
        await self._before_read()
        return self.engine.entries.get(key)

    async def range(self, prefix: str, *, after: str | None = None, limit: int = PAGE_MAX) -> Page:
        checked_range(prefix, after, limit)
        await self._before_read()
        return self.engine.range(prefix, after, limit)

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        transaction = checked(checks, ops)
        self._refuse_unless_open()
        await anyio.lowlevel.checkpoint()
        self._refuse_unless_open()
        if self.faults.unavailable_before > 0:
            self.faults.unavailable_before -= 1
            raise Unavailable("simulated: nothing was written")
        newest = self.engine.history.newest
        revision = self.engine.commit(transaction)
        if revision != newest:
            self._after_commit()
        await anyio.lowlevel.checkpoint()
        return revision

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[tuple[Change, ...]]:
        checked_range(prefix, None, PAGE_MAX)
        return follow(self._next_batches, prefix, after=after)

    async def aclose(self) -> None:
        self._end = self._end or "closed"
        self.engine.wake()

    def _refuse_unless_open(self) -> None:
        if self._end is not None:
            raise Unavailable(f"the store is {self._end}")

    async def _before_read(self) -> None:
        self._refuse_unless_open()
        await anyio.lowlevel.checkpoint()
        self._refuse_unless_open()
        if self.faults.unavailable_reads > 0:
            self.faults.unavailable_reads -= 1
            raise Unavailable("simulated: no answer")

    def _after_commit(self) -> None:
        self.commits += 1
        if self.faults.dies_after_commits is not None and self.commits >= self.faults.dies_after_commits:
            self._end = "dead"
            self.engine.wake()
            raise Unavailable("simulated: died before the answer")
        if self.faults.unavailable_after > 0:
            self.faults.unavailable_after -= 1
            raise Unavailable("simulated: written, but the answer was lost")

    async def _next_batches(self, after: int) -> tuple[Batch, ...]:
        history = self.engine.history
        while self._end != "closed":
            self._refuse_unless_open()
            if after > history.newest:
                raise Compacted(f"revision {after} is not of this store, which is at {history.newest}")
            if after < history.newest:
                held = history.since(after, limit=WATCH_CHUNK)
                if held is None:
                    raise Compacted(f"the history begins at revision {history.oldest}, behind {after}")
                await anyio.lowlevel.checkpoint()
                return held
            await self.engine.changed()
        return ()
