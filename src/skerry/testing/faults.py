"""Faults that are real: a process that ends by SIGKILL between two steps of its work."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal, final

from skerry.kit.record import Record
from skerry.ports.store import PAGE_MAX, Change, Check, Delete, Entry, Op, Page, Put, Store


class KillPoint(Record):
    """Right before or right after the `commit`-th commit (from 1) of this process."""

    side: Literal["before", "after"]
    commit: int

    def __post_init__(self) -> None:
        if self.commit < 1:
            raise ValueError(f"commits count from 1: {self.commit}")

    @classmethod
    def parse(cls, text: str) -> "KillPoint":
        """From "before:3" or "after:3"; raises ValueError."""
        side, _, commit = text.partition(":")
        if side not in ("before", "after"):
            raise ValueError(f"a kill point is before:N or after:N, not {text!r}")
        return cls(side=side, commit=int(commit))

    def __str__(self) -> str:
        return f"{self.side}:{self.commit}"


class _Counting:
    """Passes everything on, and asks `_kill_at` around every commit.

    "before": the n-th write is asked for, and nothing of it has happened. "after": it is durable, and nobody
    has been told. A transaction that raises, or that has no ops, is no commit; one that changes nothing counts
    (it cannot be told from outside).
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commits = 0

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
        if not ops:
            return await self._store.transact(checks, ops)
        self._kill_at("before")
        revision = await self._store.transact(checks, ops)
        self._kill_at("after")
        self.commits += 1
        return revision

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[tuple[Change, ...]]:
        return self._store.watch(prefix, after=after)

    async def aclose(self) -> None:
        await self._store.aclose()

    def _kill_at(self, side: Literal["before", "after"]) -> None:
        raise NotImplementedError

    def _is_reached(self, point: KillPoint, side: Literal["before", "after"]) -> bool:
        # Not "==": of writes side by side, none may see exactly n - 1 commits when it begins.
        return side == point.side and self.commits + 1 >= point.commit


@final
class KillAfterCommits(_Counting):
    """A store that kills its own process at one point."""

    def __init__(self, store: Store, point: KillPoint) -> None:
        super().__init__(store)
        self._point = point

    def _kill_at(self, side: Literal["before", "after"]) -> None:
        if self._is_reached(self._point, side):
            os.kill(os.getpid(), signal.SIGKILL)


@final
class ArmedStore(_Counting):
    """A store whose process is killed at a commit of the future: when a `KillPoint`'s text is in the file `trigger`.

    Commits count from then on. The file is removed right before the kill, so that the next process lives.
    """

    def __init__(self, store: Store, trigger: Path) -> None:
        super().__init__(store)
        self._trigger = trigger
        self._point: KillPoint | None = None

    def _kill_at(self, side: Literal["before", "after"]) -> None:
        if self._point is None:
            try:
                self._point = KillPoint.parse(self._trigger.read_text("ascii"))
            except FileNotFoundError:
                return
            self.commits = 0
        if self._is_reached(self._point, side):
            self._trigger.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
