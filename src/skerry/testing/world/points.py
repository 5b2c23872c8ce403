"""A store handle on which a test can put a finger: between any two writes, its owner dies."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, final

from skerry.ports.store import PAGE_MAX, Change, Check, Delete, Entry, Op, Page, Put, Store

COMMIT_MS = 2  # to the disk, and back to the caller
Side = Literal["before", "after"]


@final
class PointStore:
    """`writes` counts what was asked for. `on_write(side, n)` is asked around the n-th; True: the owner is dead.

    "before": nothing of it has happened. "after": it is durable, and nobody has been told.
    """

    def __init__(self, store: Store, on_write: Callable[[Side, int], bool] = lambda side, number: False) -> None:
        self._store = store
        self._cut = False
        self.on_write = on_write
        self.writes = 0

    def cut(self) -> None:
        """The owner was killed: not even a task that has yet to notice writes anything more."""
        self._cut = True

    async def get(self, key: str) -> Entry | None:
        return await self._store.get(key)

    async def range(self, prefix: str, *, after: str | None = None, limit: int = PAGE_MAX) -> Page:
        return await self._store.range(prefix, after=after, limit=limit)

    async def put(self, key: str, value: bytes) -> int:
        return await self.transact((), (Put(key=key, value=value),))

    async def compare_and_set(self, key: str, value: bytes | None, *, revision: int) -> int:
        op = Delete(key=key) if value is None else Put(key=key, value=value)
        return await self.transact((Check(key=key, revision=revision),), (op,))

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        self.writes += bool(ops)
        number = self.writes
        if self._cut or (ops and self.on_write("before", number)):
            await _nothing_more()
        await asyncio.sleep(COMMIT_MS / 1000)
        if self._cut:
            await _nothing_more()
        revision = await self._store.transact(checks, ops)
        await asyncio.sleep(COMMIT_MS / 1000)
        if ops and self.on_write("after", number):
            await _nothing_more()
        return revision

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[tuple[Change, ...]]:
        return self._store.watch(prefix, after=after)

    async def aclose(self) -> None:
        await self._store.aclose()


async def _nothing_more() -> None:
    await asyncio.get_running_loop().create_future()
