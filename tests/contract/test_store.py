"""The store's contract on every adapter."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from skerry.adapters.store.simulated import Engine, SimulatedStore
from skerry.adapters.store.sqlite import SqliteStore
from skerry.ports.store import Store
from skerry.testing.contracts.store import StoreContract
from skerry.testing.faults import KillAfterCommits, KillPoint

HISTORY_TRANSACTIONS_MAX = 400  # enough for the suite's tests, few enough to overflow


async def _overflow(store: Store) -> None:
    for _ in range(HISTORY_TRANSACTIONS_MAX * 2):
        await store.put("elsewhere", b"")


class SqliteHarness:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.stack = AsyncExitStack()

    async def open(self) -> Store:
        store = await SqliteStore.open(self._path, history_transactions_max=HISTORY_TRANSACTIONS_MAX)
        self.stack.push_async_callback(store.aclose)
        return store

    async def forget_history(self, store: Store) -> None:
        await _overflow(store)


class SimulatedHarness:
    def __init__(self) -> None:
        self._engine = Engine(history_transactions_max=HISTORY_TRANSACTIONS_MAX)

    async def open(self) -> Store:
        return SimulatedStore(self._engine)

    async def forget_history(self, store: Store) -> None:
        await _overflow(store)


class WrappedHarness(SimulatedHarness):
    async def open(self) -> Store:
        return KillAfterCommits(await super().open(), KillPoint(side="after", commit=1_000_000))


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SqliteHarness]:
        harness = SqliteHarness(tmp_path / "control" / "store.db")
        async with harness.stack:
            yield harness


class TestSqliteStoreFromDisk(TestSqliteStore):
    """With a tail so short that nearly every watch reads the history on disk."""

    @pytest.fixture(autouse=True)
    def _short_tail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("skerry.adapters.store.sqlite.TAIL_TRANSACTIONS_MAX", 1)
        monkeypatch.setattr("skerry.adapters.store.sqlite.WATCH_CHUNK", 2)


class TestSimulatedStore(StoreContract):
    @pytest.fixture
    def harness(self) -> SimulatedHarness:
        return SimulatedHarness()


class TestKillAfterCommits(StoreContract):
    """The wrapper is a store as long as it does not kill."""

    @pytest.fixture
    def harness(self) -> WrappedHarness:
        return WrappedHarness()
