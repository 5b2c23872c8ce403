"""The watches of `skerry.ports.store`, as tests: a part of `StoreContract`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import anyio
import pytest

from skerry.ports.store import Change, Compacted, Conflict, Delete, Put, Store

DEADLINE_S = 30  # for what would otherwise wait for ever when the contract is broken


class StoreHarness(Protocol):
    """How the suite reaches one adapter. All handles are on the same data."""

    async def open(self) -> Store:
        """A new handle; earlier ones are closed before it is asked for."""
        ...

    async def forget_history(self, store: Store) -> None:
        """Make the history up to now go, by whatever makes it go; the entries under `data/` stay as they are."""
        ...


class WatchContract:
    @pytest.fixture
    async def store(self, harness: StoreHarness) -> Store:
        return await harness.open()

    async def test_a_watch_begins_with_history(self, store: Store) -> None:
        first = await store.put("k/1", b"1")
        second = await store.transact([], [Put(key="k/3", value=b"2"), Put(key="k/2", value=b"2"), Delete(key="k/1")])
        batches = await take(store, "k/", after=0, count=2)
        assert batches == [
            (Change(key="k/1", value=b"1", revision=first),),
            (
                Change(key="k/1", value=None, revision=second),
                Change(key="k/2", value=b"2", revision=second),
                Change(key="k/3", value=b"2", revision=second),
            ),
        ]
        assert await take(store, "k/", after=first, count=1) == batches[1:]

    async def test_a_watch_waits_for_what_comes(self, store: Store) -> None:
        current = await store.put("k/0", b"0")
        revisions: list[int] = []
        seen: list[tuple[Change, ...]] = []

        async def watch() -> None:
            seen.extend(await take(store, "k/", after=current, count=2))

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            revisions.append(await store.put("k/1", b"1"))
            revisions.append(await store.put("k/2", b"2"))
        assert [batch[0].revision for batch in seen] == revisions

    async def test_a_watch_sees_its_prefix_alone(self, store: Store) -> None:
        await store.put("j", b"")
        await store.transact([], [Put(key="k/1", value=b"1"), Put(key="l", value=b"1")])
        await store.put("k", b"")
        await store.transact([], [Delete(key="k/absent")])
        await store.put("k/2", b"2")
        batches = await take(store, "k/", after=0, count=2)
        assert [[change.key for change in batch] for batch in batches] == [["k/1"], ["k/2"]]

    async def test_a_refused_transaction_is_not_seen(self, store: Store) -> None:
        await store.put("k", b"1")
        with pytest.raises(Conflict):
            await store.compare_and_set("k", b"2", revision=0)
        await store.put("k", b"3")
        assert [batch[0].value for batch in await take(store, "", after=0, count=2)] == [b"1", b"3"]

    async def test_watches_miss_nothing_while_many_write(self, store: Store) -> None:
        """Ranged then watched, at several places: all end with what the store holds, by way of every revision."""
        writers, turns = 6, 12
        written: list[int] = []
        seen: list[list[int]] = []

        async def write(writer: int) -> None:
            for turn in range(turns):
                puts = [Put(key=f"k/{writer}", value=b"%d" % turn), Put(key=f"j/{writer}", value=b"")]
                written.append(await store.transact([], puts))

        async def replicate() -> None:
            page = await store.range("k/")
            replica = {entry.key: entry.value for entry in page.entries}
            revisions = [page.revision]
            async with aclosing(_generator(store, "k/", after=page.revision)) as batches:
                while list(replica.values()) != [b"%d" % (turns - 1)] * writers:
                    batch = await anext(batches)
                    replica |= {change.key: change.value or b"" for change in batch}
                    revisions.append(batch[0].revision)
            seen.append(revisions)

        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                for writer in range(writers):
                    group.start_soon(write, writer)
                    group.start_soon(replicate)
        for first, *later in seen:
            assert later == [revision for revision in sorted(written) if revision > first]

    async def test_a_cancelled_watch_leaves_the_others(self, store: Store) -> None:
        seen: list[tuple[Change, ...]] = []

        async def watch() -> None:
            seen.extend(await take(store, "", after=0, count=1))

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(watch)
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            await store.put("k", b"1")
        assert [[(change.key, change.value) for change in batch] for batch in seen] == [[("k", b"1")]]

    async def test_a_watch_from_forgotten_history_says_so(self, store: Store, harness: StoreHarness) -> None:
        first = await store.put("data/1", b"1")
        await store.put("data/2", b"2")
        await harness.forget_history(store)
        with pytest.raises(Compacted):
            await take(store, "data/", after=first, count=1)
        page = await store.range("data/")
        assert [(entry.key, entry.value) for entry in page.entries] == [("data/1", b"1"), ("data/2", b"2")]
        revision = await store.put("data/3", b"3")
        assert await take(store, "data/", after=page.revision, count=1) == [
            (Change(key="data/3", value=b"3", revision=revision),)
        ]

    async def test_a_watch_that_falls_behind_history_says_so(self, store: Store, harness: StoreHarness) -> None:
        await store.put("data/1", b"1")
        async with aclosing(_generator(store, "data/", after=0)) as batches:
            assert (await anext(batches))[0].key == "data/1"
            await store.put("data/2", b"2")
            await harness.forget_history(store)
            with pytest.raises(Compacted):
                await anext(batches)

    async def test_a_watch_from_a_revision_to_come_says_so(self, store: Store) -> None:
        current = await store.put("a", b"1")
        with anyio.fail_after(DEADLINE_S), pytest.raises(Compacted):
            await take(store, "", after=current + 5, count=1)

    async def test_a_watch_ends_when_the_store_is_closed(self, store: Store) -> None:
        current = await store.put("a", b"1")
        ended: list[int] = []

        async def watch(after: int) -> None:
            ended.append(len([batch async for batch in store.watch("", after=after)]))

        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(watch, 0)
                group.start_soon(watch, current)
                await anyio.wait_all_tasks_blocked()
                await store.aclose()
        assert sorted(ended) == [0, 1]


async def take(store: Store, prefix: str, *, after: int, count: int) -> list[tuple[Change, ...]]:
    """The first `count` batches that a watch yields; TimeoutError when they do not come."""
    with anyio.fail_after(DEADLINE_S):
        async with aclosing(_generator(store, prefix, after=after)) as batches:
            return [await anext(batches) for _ in range(count)]


async def _generator(store: Store, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...]]:
    async for batch in store.watch(prefix, after=after):
        yield batch
