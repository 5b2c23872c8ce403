"""Fills the place a store is in, and shows that it goes on once there is room.

store_full.py limit DIRECTORY      room is what this process may write to one file
store_full.py disk DIRECTORY       room is what the file system has; DIRECTORY/ballast makes some when removed
"""

import resource
import sqlite3
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import anyio

from skerry.adapters.blobs.directory import DirectoryBlobs
from skerry.adapters.store.sqlite import SqliteStore
from skerry.ports import blobs as blobs_port
from skerry.ports.store import Put, Unavailable

VALUE = bytes(5000)
LIMIT_BYTES = 600_000


async def fill(store: SqliteStore, acknowledged: dict[str, int], turn: int) -> str:
    for number in range(100_000):
        keys = [f"{turn}/{number:06}/{half}" for half in range(2)]
        try:
            revision = await store.transact([], [Put(key=key, value=VALUE) for key in keys])
        except Unavailable as error:
            return str(error)
        acknowledged |= dict.fromkeys(keys, revision)
    raise AssertionError("the disk never got full")


async def held(store: SqliteStore) -> dict[str, int]:
    found: dict[str, int] = {}
    after = None
    while True:
        page = await store.range("", after=after)
        found |= {entry.key: entry.revision for entry in page.entries}
        if not page.more:
            return found
        after = page.entries[-1].key


async def main(directory: Path, make_room: Callable[[], None]) -> None:
    store = await SqliteStore.open(directory / "store.db")
    blobs = await DirectoryBlobs.open(directory / "blobs")
    kept_blob = await blobs.put(b"kept")
    acknowledged: dict[str, int] = {}

    print("full:", await fill(store, acknowledged, 0))
    print("again:", await fill(store, acknowledged, 1))
    assert acknowledged
    assert await held(store) == acknowledged, "what was refused is not there, what was acknowledged is"
    try:
        await blobs.put(bytes(2_000_000))
    except blobs_port.Unavailable as error:
        print("blobs:", error)
    else:
        raise AssertionError("the blob had no room")
    assert not list((directory / "blobs" / "tmp").iterdir()), "half a blob was left"
    assert await blobs.get(kept_blob) == b"kept"

    make_room()
    large_blob = await blobs.put(bytes(2_000_000))
    acknowledged["after"] = await store.put("after", VALUE)
    assert await held(store) == acknowledged
    revisions = sorted(set(acknowledged.values()))
    async with aclosing(_watch(store)) as batches:
        assert [await anext(batches) for _ in revisions] == revisions, "watches see what was acknowledged, and no more"
    await store.aclose()

    store = await SqliteStore.open(directory / "store.db")
    assert await held(store) == acknowledged
    await store.aclose()
    assert sqlite3.connect(directory / "store.db").execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert await (await DirectoryBlobs.open(directory / "blobs")).get(large_blob) == bytes(2_000_000)
    print("well")


async def _watch(store: SqliteStore):
    async for batch in store.watch("", after=0):
        yield batch[0].revision


if __name__ == "__main__":
    kind, place = sys.argv[1], Path(sys.argv[2])
    if kind == "limit":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
        anyio.run(main, place, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)))
    else:
        (place / "ballast").write_bytes(bytes(6_000_000))
        anyio.run(main, place, (place / "ballast").unlink)
