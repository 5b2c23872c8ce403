"""The contract of `skerry.ports.store`, as tests.

class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path): …  # yields a StoreHarness and closes what it opened
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from skerry.ports.store import (
    KEY_BYTES_MAX,
    OPS_MAX,
    PAGE_BYTES_MAX,
    PAGE_MAX,
    VALUE_BYTES_MAX,
    Check,
    Conflict,
    Delete,
    Entry,
    Put,
    Store,
    TooLarge,
    Unavailable,
)
from skerry.testing.contracts.store_watches import DEADLINE_S, StoreHarness, WatchContract, take

__all__ = ["StoreContract", "StoreHarness", "take"]


class StoreContract(WatchContract):
    # One key.

    async def test_what_was_put_is_got(self, store: Store) -> None:
        assert await store.get("a") is None
        first = await store.put("a", b"1")
        assert await store.get("a") == Entry(key="a", value=b"1", revision=first)
        second = await store.put("a", b"2")
        assert 0 < first < second
        assert await store.get("a") == Entry(key="a", value=b"2", revision=second)

    async def test_an_empty_value_is_not_absence(self, store: Store) -> None:
        revision = await store.put("a", b"")
        assert await store.get("a") == Entry(key="a", value=b"", revision=revision)

    async def test_values_are_opaque(self, store: Store) -> None:
        value = bytes(range(256)) * 3
        await store.put("a", value)
        entry = await store.get("a")
        assert entry is not None
        assert entry.value == value

    async def test_compare_and_set_creates_replaces_and_deletes(self, store: Store) -> None:
        created = await store.compare_and_set("a", b"1", revision=0)
        replaced = await store.compare_and_set("a", b"2", revision=created)
        deleted = await store.compare_and_set("a", None, revision=replaced)
        assert created < replaced < deleted
        assert await store.get("a") is None
        assert await store.compare_and_set("a", b"3", revision=0) > deleted

    @pytest.mark.parametrize("value", [b"2", None])
    async def test_compare_and_set_at_another_revision_writes_nothing(self, store: Store, value: bytes | None) -> None:
        revision = await store.put("a", b"1")
        for expected in (0, revision + 1):
            with pytest.raises(Conflict) as caught:
                await store.compare_and_set("a", value, revision=expected)
            assert (caught.value.key, caught.value.expected, caught.value.actual) == ("a", expected, revision)
        assert await store.get("a") == Entry(key="a", value=b"1", revision=revision)

    async def test_compare_and_set_of_what_is_absent(self, store: Store) -> None:
        with pytest.raises(Conflict) as caught:
            await store.compare_and_set("a", b"1", revision=7)
        assert caught.value.actual == 0

    # Transactions.

    async def test_a_transaction_is_one_revision(self, store: Store) -> None:
        gone = await store.put("gone", b"x")
        revision = await store.transact(
            [Check(key="gone", revision=gone), Check(key="new", revision=0)],
            [Put(key="new", value=b"1"), Delete(key="gone"), Put(key="other", value=b"2")],
        )
        page = await store.range("")
        assert page.entries == (
            Entry(key="new", value=b"1", revision=revision),
            Entry(key="other", value=b"2", revision=revision),
        )
        assert page.revision == revision

    async def test_a_transaction_with_one_check_that_fails_writes_nothing(self, store: Store) -> None:
        good = await store.put("good", b"1")
        with pytest.raises(Conflict) as caught:
            await store.transact(
                [Check(key="good", revision=good), Check(key="first-bad", revision=9), Check(key="second-bad", revision=8)],
                [Put(key="good", value=b"2"), Put(key="new", value=b"2"), Delete(key="good")],
            )
        assert caught.value.key == "first-bad"
        page = await store.range("")
        assert page.entries == (Entry(key="good", value=b"1", revision=good),)
        assert page.revision == good

    async def test_checks_alone_return_the_current_revision(self, store: Store) -> None:
        assert await store.transact([], []) == (await store.range("")).revision
        await store.put("a", b"1")
        current = await store.put("b", b"1")
        assert await store.transact([Check(key="b", revision=current), Check(key="absent", revision=0)], []) == current
        with pytest.raises(Conflict):
            await store.transact([Check(key="b", revision=current - 1)], [])

    async def test_deleting_what_is_absent_changes_nothing(self, store: Store) -> None:
        current = await store.put("a", b"1")
        assert await store.transact([], [Delete(key="absent")]) == current
        assert await store.compare_and_set("absent", None, revision=0) == current
        assert await store.put("a", b"2") > current

    async def test_the_last_op_on_a_key_counts(self, store: Store) -> None:
        await store.put("deleted", b"0")
        await store.transact(
            [],
            [
                Put(key="twice", value=b"1"),
                Put(key="deleted", value=b"1"),
                Put(key="twice", value=b"2"),
                Delete(key="deleted"),
                Delete(key="kept"),
                Put(key="kept", value=b"3"),
            ],
        )
        page = await store.range("")
        assert [(entry.key, entry.value) for entry in page.entries] == [("kept", b"3"), ("twice", b"2")]

    async def test_of_concurrent_writers_at_one_revision_one_wins(self, store: Store) -> None:
        async def count_up(times: int) -> None:
            for _ in range(times):
                await _increment(store, "counter")

        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(count_up, 6)
        assert await _number(store, "counter") == 48

    async def test_transfers_keep_the_sum(self, store: Store) -> None:
        """Serialisable: two transactions that read both keys and write one each never both happen."""
        await store.transact([], [Put(key="x", value=b"50"), Put(key="y", value=b"50")])

        async def withdraw(key: str) -> None:
            x, y = await store.get("x"), await store.get("y")
            assert x is not None
            assert y is not None
            checks = [Check(key=entry.key, revision=entry.revision) for entry in (x, y)]
            left = int((x if key == "x" else y).value) - 80
            if int(x.value) + int(y.value) >= 80:
                await store.transact(checks, [Put(key=key, value=str(left).encode())])

        async with anyio.create_task_group() as group:
            group.start_soon(_ignoring_conflicts, withdraw, "x")
            group.start_soon(_ignoring_conflicts, withdraw, "y")
        assert await _number(store, "x") + await _number(store, "y") == 20

    async def test_an_acknowledged_write_is_read(self, store: Store) -> None:
        async def write_and_read(key: str) -> None:
            for turn in range(10):
                revision = await store.put(key, b"%d" % turn)
                assert await store.get(key) == Entry(key=key, value=b"%d" % turn, revision=revision)
                page = await store.range(key)
                assert page.entries == (Entry(key=key, value=b"%d" % turn, revision=revision),)
                assert page.revision >= revision

        async with anyio.create_task_group() as group:
            for writer in range(6):
                group.start_soon(write_and_read, f"writer/{writer}")

    async def test_a_cancelled_write_is_whole_and_hurts_nobody(self, store: Store) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.transact([], [Put(key="a", value=b"1"), Put(key="b", value=b"1")])
        await store.put("c", b"1")
        keys = [entry.key for entry in (await store.range("")).entries]
        assert keys in (["c"], ["a", "b", "c"])

    # Ranges.

    async def test_a_range_is_ordered_by_bytes(self, store: Store) -> None:
        keys = ["a", "a-b", "a/", "a/b", "a0", "aa", "b", "z", "\x7f", "é", "\uffff", "\U00010000", "\U0010ffff"]
        await store.transact([], [Put(key=key, value=b"") for key in reversed(keys)])
        page = await store.range("")
        assert [entry.key for entry in page.entries] == sorted(keys, key=str.encode)

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("a/", ["a/1", "a/2"]),
            ("a", ["a", "a/1", "a/2", "ab"]),
            ("a/1", ["a/1"]),
            ("é", ["é", "é/1"]),
            ("\U0010ffff", ["\U0010ffff\U0010ffff"]),
            ("c", []),
            ("a_", []),
            ("A", []),
        ],
    )
    async def test_a_range_holds_what_starts_with_its_prefix(self, store: Store, prefix: str, expected: list[str]) -> None:
        keys = ["a", "a/1", "a/2", "ab", "b/1", "é", "é/1", "\U0010ffff\U0010ffff"]
        await store.transact([], [Put(key=key, value=b"") for key in keys])
        page = await store.range(prefix)
        assert [entry.key for entry in page.entries] == expected
        assert not page.more

    async def test_pages_follow_each_other(self, store: Store) -> None:
        keys = [f"k/{number:02}" for number in range(10)]
        await store.transact([], [Put(key=key, value=b"") for key in (*keys, "j", "l")])
        seen: list[str] = []
        sizes: list[tuple[int, bool]] = []
        after: str | None = None
        while True:
            page = await store.range("k/", after=after, limit=4)
            seen += [entry.key for entry in page.entries]
            sizes.append((len(page.entries), page.more))
            if not page.more:
                break
            after = page.entries[-1].key
        assert seen == keys
        assert sizes == [(4, True), (4, True), (2, False)]

    @pytest.mark.parametrize(
        ("after", "expected"),
        [("", ["k/1", "k/3"]), ("a", ["k/1", "k/3"]), ("k/1", ["k/3"]), ("k/2", ["k/3"]), ("k/3", []), ("z", [])],
    )
    async def test_after_is_exclusive_and_need_not_exist(self, store: Store, after: str, expected: list[str]) -> None:
        await store.transact([], [Put(key=key, value=b"") for key in ("k/1", "k/3", "l")])
        page = await store.range("k/", after=after)
        assert [entry.key for entry in page.entries] == expected
        assert not page.more

    async def test_a_full_last_page_has_no_more(self, store: Store) -> None:
        await store.transact([], [Put(key="k/1", value=b""), Put(key="k/2", value=b""), Put(key="l", value=b"")])
        assert not (await store.range("k/", limit=2)).more
        assert (await store.range("k/", limit=1)).more

    async def test_a_page_of_large_values_is_cut_short(self, store: Store) -> None:
        count = PAGE_BYTES_MAX // VALUE_BYTES_MAX + 2
        for number in range(count):
            await store.put(f"k/{number:02}", bytes(VALUE_BYTES_MAX))
        first = await store.range("k/")
        assert first.more
        assert 0 < len(first.entries) < count
        rest = await store.range("k/", after=first.entries[-1].key)
        assert [entry.key for entry in (*first.entries, *rest.entries)] == [f"k/{number:02}" for number in range(count)]

    async def test_an_empty_store_has_an_empty_page_and_a_revision(self, store: Store) -> None:
        page = await store.range("")
        assert (page.entries, page.more) == ((), False)
        revision = await store.put("a", b"1")
        assert revision > page.revision
        assert [batch[0].revision for batch in await take(store, "", after=page.revision, count=1)] == [revision]

    async def test_a_page_shows_transactions_whole(self, store: Store) -> None:
        keys = [f"k/{number}" for number in range(5)]

        async def write() -> None:
            for turn in range(30):
                await store.transact([], [Put(key=key, value=b"%d" % turn) for key in keys])

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            for _ in range(30):
                page = await store.range("k/")
                assert len({entry.value for entry in page.entries}) <= 1
                assert all(entry.revision == page.revision for entry in page.entries)

    # Limits.

    async def test_what_is_at_its_limit_fits(self, store: Store) -> None:
        key = "é" * (KEY_BYTES_MAX // 2)
        await store.put(key, bytes(VALUE_BYTES_MAX))
        assert (await store.range(key)).entries[0].key == key
        checks = [Check(key=f"absent/{number}", revision=0) for number in range(OPS_MAX)]
        await store.transact(checks, [Put(key=f"many/{number}", value=b"") for number in range(OPS_MAX)])
        found = (await store.range("many/", limit=PAGE_MAX)).entries
        while page := (await store.range("many/", after=found[-1].key, limit=PAGE_MAX)).entries:
            found += page
        assert len(found) == OPS_MAX

    async def test_what_is_over_its_limit_is_refused_whole(self, store: Store) -> None:
        with pytest.raises(TooLarge):
            await store.transact([], [Put(key="a", value=b""), Put(key="b", value=bytes(VALUE_BYTES_MAX + 1))])
        with pytest.raises(TooLarge):
            await store.put("é" * (KEY_BYTES_MAX // 2) + "a", b"")
        with pytest.raises(TooLarge):
            await store.transact([Check(key="a" * (KEY_BYTES_MAX + 1), revision=0)], [])
        with pytest.raises(TooLarge):
            await store.transact([], [Put(key=f"{number}", value=b"") for number in range(OPS_MAX + 1)])
        with pytest.raises(TooLarge):
            await store.transact([Check(key=f"{number}", revision=0) for number in range(OPS_MAX + 1)], [])
        with pytest.raises(TooLarge):
            await store.get("a" * (KEY_BYTES_MAX + 1))
        assert (await store.range("")).entries == ()

    async def test_what_no_key_or_page_can_be_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="empty"):
            await store.put("", b"")
        with pytest.raises(ValueError, match="surrogate"):
            await store.put("\ud800", b"")
        for limit in (0, PAGE_MAX + 1):
            with pytest.raises(ValueError, match="page"):
                await store.range("", limit=limit)

    # Life.

    async def test_all_is_there_after_reopening(self, store: Store, harness: StoreHarness) -> None:
        first = await store.put("k/1", b"1")
        second = await store.transact([], [Put(key="k/2", value=b"2"), Delete(key="k/1")])
        await store.aclose()
        reopened = await harness.open()
        page = await reopened.range("")
        assert page.entries == (Entry(key="k/2", value=b"2", revision=second),)
        assert page.revision == second
        third = await reopened.put("k/3", b"3")
        assert third > second
        batches = await take(reopened, "k/", after=first, count=2)
        assert [batch[0].revision for batch in batches] == [second, third]

    async def test_closing_twice_is_closing(self, store: Store) -> None:
        await store.aclose()
        await store.aclose()

    async def test_a_closed_store_is_unavailable(self, store: Store) -> None:
        await store.put("a", b"1")
        await store.aclose()
        with pytest.raises(Unavailable):
            await store.get("a")
        with pytest.raises(Unavailable):
            await store.range("")
        with pytest.raises(Unavailable):
            await store.put("a", b"2")

    async def test_writes_before_a_close_are_answered(self, store: Store, harness: StoreHarness) -> None:
        acknowledged: list[str] = []

        async def write(key: str) -> None:
            try:
                await store.put(key, b"")
            except Unavailable:
                return
            acknowledged.append(key)

        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(write, f"k/{number:02}")
                await anyio.lowlevel.checkpoint()
                await store.aclose()
        page = await (await harness.open()).range("k/")
        assert set(acknowledged) <= {entry.key for entry in page.entries}


async def _ignoring_conflicts(act: Callable[[str], Awaitable[None]], key: str) -> None:
    with suppress(Conflict):
        await act(key)


async def _number(store: Store, key: str) -> int:
    entry = await store.get(key)
    return int(entry.value) if entry else 0


async def _increment(store: Store, key: str) -> None:
    while True:
        entry = await store.get(key)
        value, revision = (int(entry.value), entry.revision) if entry else (0, 0)
        try:
            await store.compare_and_set(key, b"%d" % (value + 1), revision=revision)
        except Conflict:
            continue
        return
