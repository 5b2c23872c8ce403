"""The SQLite store's file: who may open it, who may read it, how large it grows, how it is copied."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from skerry.adapters.store import sqlite as adapter
from skerry.adapters.store.lock import Locked
from skerry.adapters.store.restored import advance_revision
from skerry.adapters.store.sqlite import SqliteStore
from skerry.adapters.store.sqlite_file import MIGRATIONS
from skerry.ports.store import VALUE_BYTES_MAX, Compacted, Put, Unavailable
from skerry.testing.contracts.store import take

HOLDER = """
import sys, anyio, pathlib
from skerry.adapters.store.sqlite import SqliteStore
async def main():
    store = await SqliteStore.open(pathlib.Path(sys.argv[1]))
    print("open", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.read)
    await store.aclose()
anyio.run(main)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    yield store
    await store.aclose()


def _holder(path: Path) -> "subprocess.Popen[str]":
    """Another process that has the store open until its input ends."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    return holder


def _child() -> "subprocess.Popen[bytes]":
    """A program that inherits what can be inherited, and waits."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, close_fds=False)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# The lock.


async def test_a_second_process_is_told_who_holds_the_store(path: Path) -> None:
    with _holder(path) as holder:
        with pytest.raises(Locked, match=f"process {holder.pid}") as caught:
            await SqliteStore.open(path)
        assert caught.value.pid == holder.pid
        assert isinstance(caught.value, Unavailable)
        assert holder.stdin is not None
        holder.stdin.close()
    await (await SqliteStore.open(path)).aclose()


async def test_a_killed_holder_holds_nothing(path: Path) -> None:
    with _holder(path) as holder:
        holder.kill()
        holder.wait()
        await (await SqliteStore.open(path)).aclose()


async def test_one_process_opens_a_store_once(path: Path, store: SqliteStore) -> None:
    revision = await store.put("a", b"1")
    with pytest.raises(Locked) as caught:
        await SqliteStore.open(path)
    assert caught.value.pid == os.getpid()
    assert await store.put("a", b"2") > revision


async def test_programs_started_by_the_holder_do_not_inherit_the_lock(path: Path) -> None:
    store = await SqliteStore.open(path)
    with _child() as child:
        await store.aclose()
        await (await SqliteStore.open(path)).aclose()
        child.kill()


async def test_a_failed_open_releases_the_lock(path: Path) -> None:
    _write(path, b"this is no database, and long enough to be seen as none" * 20)
    for _ in range(2):
        with pytest.raises(Unavailable, match="not a database"):
            await SqliteStore.open(path)
    _write(path, b"")
    await (await SqliteStore.open(path)).aclose()


# What is in the way of opening it.


async def test_a_store_of_a_newer_schema_is_left_alone(path: Path) -> None:
    await (await SqliteStore.open(path)).aclose()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(Unavailable, match="newer Skerry"):
        await SqliteStore.open(path)


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = _read(path)
    with pytest.raises(Unavailable, match="not a store"):
        await SqliteStore.open(path)
    assert _read(path) == before


async def test_a_place_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        await SqliteStore.open(tmp_path / "file" / "store.db")


# Who may read it.


async def test_only_the_owner_reads_the_store(path: Path) -> None:
    before = os.umask(0)
    try:
        store = await SqliteStore.open(path)
        await store.put("a", b"secret")
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        await store.aclose()
    finally:
        os.umask(before)
    assert set(modes) >= {"store.db", "store.db-wal", "store.db-shm", "store.db.lock"}
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_store_that_others_could_read_is_closed_to_them(path: Path) -> None:
    await (await SqliteStore.open(path)).aclose()
    os.chmod(path, 0o644)
    await (await SqliteStore.open(path)).aclose()
    assert _mode(path) == 0o600


async def test_a_deleted_value_leaves_the_file_with_its_history(path: Path) -> None:
    store = await SqliteStore.open(path, history_transactions_max=4)
    secret = b"correct horse battery staple"
    await store.put("secret", secret)
    await store.compare_and_set("secret", None, revision=1)
    for _ in range(8):
        await store.put("other", b"")
    await store.aclose()
    assert secret not in _read(path)


# How large it grows.


@pytest.mark.parametrize("limits", [{"history_transactions_max": 16}, {"history_bytes_max": 200_000}])
async def test_history_stays_in_its_bounds(path: Path, limits: dict[str, int]) -> None:
    store = await SqliteStore.open(path, **limits)
    for number in range(200):
        await store.put("k", b"%04d" % number * 1000)
    await store.aclose()
    with sqlite3.connect(path) as connection:
        count, size = connection.execute("SELECT count(*), sum(length(changes)) FROM history").fetchone()
    connection.close()
    if "history_transactions_max" in limits:
        assert 16 <= count <= 18
    else:
        assert 150_000 < size <= 200_000
    store = await SqliteStore.open(path, **limits)
    assert (await store.range("")).revision == 200
    assert len(await take(store, "", after=200 - count, count=count)) == count
    with pytest.raises(Compacted):
        await take(store, "", after=200 - count - 1, count=1)
    await store.aclose()


async def test_one_transaction_larger_than_all_history_is_still_seen(path: Path) -> None:
    store = await SqliteStore.open(path, history_bytes_max=10_000)
    revision = await store.transact([], [Put(key=f"k/{number}", value=bytes(50_000)) for number in range(4)])
    (batch,) = await take(store, "k/", after=revision - 1, count=1)
    assert len(batch) == 4
    await store.aclose()


async def test_the_log_is_cut_after_a_large_load(path: Path, store: SqliteStore) -> None:
    for number in range(60):
        await store.put(f"k/{number % 4}", bytes(VALUE_BYTES_MAX))
    assert path.with_name("store.db-wal").stat().st_size <= 24 << 20


# How it commits.


async def test_writes_that_wait_together_share_their_fsync(store: SqliteStore, path: Path) -> None:
    """Seen in the log: side by side, fewer pages are written than one by one."""
    log = path.with_name("store.db-wal")

    async def grown_by(*, together: bool) -> int:
        before = log.stat().st_size
        async with anyio.create_task_group() as group:
            for number in range(40):
                if together:
                    group.start_soon(store.put, f"k/{number}", b"1")
                else:
                    await store.put(f"k/{number}", b"1")
        return log.stat().st_size - before

    alone = await grown_by(together=False)
    assert await grown_by(together=True) < alone / 2


async def test_too_many_waiting_writes_are_refused_at_once(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "WAITING_MAX", 3)
    outcomes: list[str] = []

    async def write(number: int) -> None:
        try:
            await store.put(f"k/{number}", b"")
        except Unavailable:
            outcomes.append("refused")
        else:
            outcomes.append("written")

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(write, number)
    assert outcomes == ["refused"] * 7 + ["written"] * 3
    await store.put("later", b"")


# How it is copied.


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the sqlite3 program is not installed")
async def test_a_backup_of_a_running_store_is_a_store(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "restored" / "store.db"
    copy.parent.mkdir()
    stop = anyio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await store.transact([], [Put(key=f"k/{half}", value=b"%d" % number) for half in range(2)])

    revision = await store.put("before", b"1")
    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await anyio.run_process(["sqlite3", str(path), f".backup '{copy}'"])
        stop.set()
    restored = await SqliteStore.open(copy)
    page = await restored.range("")
    assert page.revision >= revision
    assert page.entries[0].key == "before"
    assert len({entry.value for entry in page.entries if entry.key.startswith("k/")}) <= 1
    await restored.aclose()


async def test_a_restored_store_is_ahead_of_all_that_was_seen(path: Path) -> None:
    store = await SqliteStore.open(path)
    for number in range(20):
        await store.put(f"k/{number % 7}", b"%d" % number)
    before = await store.range("")
    await store.aclose()

    os.chmod(path, 0o644)
    revision = advance_revision(path, by=1000)

    assert _mode(path) == 0o600
    assert revision == before.revision + 1000
    store = await SqliteStore.open(path)
    page = await store.range("")
    assert page.revision == revision
    assert [(entry.key, entry.value) for entry in page.entries] == [(entry.key, entry.value) for entry in before.entries]
    with pytest.raises(Compacted):
        await take(store, "", after=before.revision, count=1)
    with pytest.raises(Compacted):  # what was seen after the backup was made
        await take(store, "", after=before.revision + 5, count=1)
    assert await store.put("later", b"") == revision + 1
    assert [batch[0].key for batch in await take(store, "later", after=revision, count=1)] == ["later"]
    await store.aclose()


async def test_a_store_in_use_is_not_moved_ahead(path: Path, store: SqliteStore) -> None:
    await store.put("a", b"")
    with pytest.raises(Locked):
        advance_revision(path)
    assert (await store.range("")).revision == 1


async def test_what_need_not_or_cannot_be_moved_ahead(path: Path) -> None:
    with pytest.raises(Unavailable):
        advance_revision(path)
    await (await SqliteStore.open(path)).aclose()
    assert advance_revision(path) == 0
    with pytest.raises(ValueError, match="ahead"):
        advance_revision(path, by=0)
