"""Any sequence of calls on a store does what it would do on a dict."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from skerry.adapters.store.simulated import Engine, SimulatedStore
from skerry.adapters.store.sqlite import SqliteStore
from skerry.ports.store import Change, Check, Compacted, Conflict, Delete, Entry, Put, Store
from skerry.testing.contracts.store import take

HISTORY_TRANSACTIONS_MAX = 16

keys = st.sampled_from(["a", "a/", "a/1", "a/1/x", "a/2", "a0", "b", "é", "é/1", "\x00", "\U0010ffff"])
prefixes = keys | st.sampled_from(["", "a/1/", "c", "\U0010ffff\U0010ffff"])
values = st.binary(max_size=8)
ops = st.lists(st.builds(Put, key=keys, value=values) | st.builds(Delete, key=keys), max_size=5)
checks = st.lists(st.tuples(keys, st.sampled_from([-1, 0, 0, 0, 0])), max_size=3)


class StoreMachine(RuleBasedStateMachine):
    """`self.model` is what the store must hold; `self.history` what watches must show."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model: dict[str, Entry] = {}
        self.history: list[tuple[Change, ...]] = []

    async def open(self) -> Store:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.store = self.runner.run(self.open())

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.aclose())
        self.store = self.runner.run(self.open())

    @rule(ops=ops, offsets=checks)
    def transact(self, ops: list[Put | Delete], offsets: list[tuple[str, int]]) -> None:
        revisions = [(key, self.revision_of(key) + offset) for key, offset in offsets]
        chosen = [Check(key=key, revision=revision) for key, revision in revisions if revision >= 0]
        failing = [check for check in chosen if check.revision != self.revision_of(check.key)]
        if failing:
            with pytest.raises(Conflict) as caught:
                self.runner.run(self.store.transact(chosen, ops))
            assert (caught.value.key, caught.value.expected) == (failing[0].key, failing[0].revision)
        else:
            assert self.runner.run(self.store.transact(chosen, ops)) == self.apply(ops)

    @rule(key=keys, value=values)
    def put(self, key: str, value: bytes) -> None:
        assert self.runner.run(self.store.put(key, value)) == self.apply([Put(key=key, value=value)])

    @rule(groups=st.lists(ops, min_size=2, max_size=6))
    def transact_side_by_side(self, groups: list[list[Put | Delete]]) -> None:
        """Calls made in one turn of the loop are committed in the order in which they were made."""

        async def together() -> list[int]:
            return await asyncio.gather(*(self.store.transact([], group) for group in groups))

        assert self.runner.run(together()) == [self.apply(group) for group in groups]

    @rule(key=keys)
    def get(self, key: str) -> None:
        assert self.runner.run(self.store.get(key)) == self.model.get(key)

    @rule(prefix=prefixes, after=st.none() | prefixes, limit=st.integers(1, 4) | st.just(1000))
    def range(self, prefix: str, after: str | None, limit: int) -> None:
        page = self.runner.run(self.store.range(prefix, after=after, limit=limit))
        matching = [
            self.model[key]
            for key in sorted(self.model, key=str.encode)
            if key.startswith(prefix) and (after is None or key.encode() > after.encode())
        ]
        assert page.entries == tuple(matching[:limit])
        assert page.more == (len(matching) > limit)
        assert page.revision == len(self.history)

    @rule(prefix=prefixes, back=st.integers(0, 40))
    def watch(self, prefix: str, back: int) -> None:
        after = max(0, len(self.history) - back)
        expected = [
            tuple(change for change in batch if change.key.startswith(prefix))
            for batch in self.history[after:]
            if any(change.key.startswith(prefix) for change in batch)
        ]
        try:
            seen = self.runner.run(take(self.store, prefix, after=after, count=len(expected)))
        except Compacted:
            assert len(self.history) - after > HISTORY_TRANSACTIONS_MAX
        else:
            assert seen == expected

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "store"):
            page = self.runner.run(self.store.range(""))
            assert {entry.key: entry for entry in page.entries} == self.model

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.runner.run(self.store.aclose())
        self.runner.close()

    def revision_of(self, key: str) -> int:
        return self.model[key].revision if key in self.model else 0

    def apply(self, ops: list[Put | Delete]) -> int:
        """The revision that the store has to answer."""
        left = {op.key: op.value if isinstance(op, Put) else None for op in ops}
        revision = len(self.history) + 1
        batch = [
            Change(key=key, value=left[key], revision=revision)
            for key in sorted(left, key=str.encode)
            if left[key] is not None or key in self.model
        ]
        for change in batch:
            if change.value is None:
                del self.model[change.key]
            else:
                self.model[change.key] = Entry(key=change.key, value=change.value, revision=revision)
        if batch:
            self.history.append(tuple(batch))
        return len(self.history)


class SqliteMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="skerry-store-"))

    async def open(self) -> Store:
        return await SqliteStore.open(self.directory / "store.db", history_transactions_max=HISTORY_TRANSACTIONS_MAX)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)


class SimulatedMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(history_transactions_max=HISTORY_TRANSACTIONS_MAX)

    async def open(self) -> Store:
        return SimulatedStore(self.engine)


@pytest.mark.parametrize("machine", [SqliteMachine, SimulatedMachine])
def test_a_store_is_a_dict_with_revisions(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]),
    )
