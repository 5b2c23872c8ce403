"""The faults of the simulated store and blobs, on which simulated worlds rely."""

import anyio
import pytest

from skerry.adapters.blobs import simulated as blobs
from skerry.adapters.store.simulated import Engine, Faults, SimulatedStore
from skerry.ports.blobs import Unavailable as BlobsUnavailable
from skerry.ports.store import Delete, Unavailable
from skerry.testing.contracts.store import take


async def test_unavailable_before_leaves_nothing() -> None:
    store = SimulatedStore(faults=Faults(unavailable_before=2))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.put("a", b"1")
    assert await store.get("a") is None
    assert await store.put("a", b"2") == 1


async def test_unavailable_after_leaves_the_write_and_its_watches_see_it() -> None:
    store = SimulatedStore(faults=Faults(unavailable_after=1))
    with pytest.raises(Unavailable):
        await store.put("a", b"1")
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == b"1"
    assert len(await take(store, "a", after=0, count=1)) == 1
    assert await store.put("a", b"2") == 2


async def test_unavailable_reads() -> None:
    store = SimulatedStore(faults=Faults(unavailable_reads=2))
    await store.put("a", b"1")
    with pytest.raises(Unavailable):
        await store.get("a")
    with pytest.raises(Unavailable):
        await store.range("")
    assert await store.get("a") is not None


async def test_a_handle_that_dies_loses_its_answer_and_no_write() -> None:
    engine = Engine()
    store = SimulatedStore(engine, Faults(dies_after_commits=2))
    watched: list[str] = []

    async def watch() -> None:
        try:
            async for batch in store.watch("", after=0):
                watched.extend(change.key for change in batch)
        except Unavailable:
            watched.append("unavailable")

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await store.put("a", b"1")
        await store.transact([], [Delete(key="absent")])  # changes nothing: no commit
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Unavailable):
            await store.put("b", b"1")
    assert watched == ["a", "unavailable"]
    for call in (store.get("a"), store.range(""), store.put("c", b"")):
        with pytest.raises(Unavailable):
            await call
    restarted = SimulatedStore(engine)
    assert [entry.key for entry in (await restarted.range("")).entries] == ["a", "b"]


async def test_handles_on_one_engine_see_each_other() -> None:
    engine = Engine()
    one, other = SimulatedStore(engine), SimulatedStore(engine)
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            assert (await take(other, "a", after=0, count=1))[0][0].value == b"1"

        group.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        await one.put("a", b"1")
    await one.aclose()
    assert await other.get("a") is not None


async def test_the_faults_of_blobs() -> None:
    store = blobs.SimulatedBlobs(faults=blobs.Faults(unavailable_before=1, unavailable_after=1, unavailable_reads=1))
    with pytest.raises(BlobsUnavailable):
        await store.put(b"a")
    assert not store.held
    with pytest.raises(BlobsUnavailable):
        await store.put(b"a")
    (digest,) = store.held
    with pytest.raises(BlobsUnavailable):
        await store.get(digest)
    assert await store.get(digest) == b"a"
