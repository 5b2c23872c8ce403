"""The contract of `skerry.ports.blobs`, as tests. Subclass it and give it a `harness` fixture."""

import hashlib
from collections.abc import AsyncIterator
from typing import Protocol

import anyio
import pytest

from skerry.core.types.ids import Digest
from skerry.ports.blobs import Blobs, Corrupt, NotFound, TooLarge

EMPTY = Digest("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
ABSENT = Digest("0" * 64)
NO_DIGESTS = (
    "",
    "..",
    "../../etc/passwd",
    "a" * 63,
    "a" * 65,
    "A" * 64,
    "g" * 64,
    "0" * 63 + "\n",
    "0" * 64 + "\n",
    "\ud800" * 64,
)


async def pieces(data: bytes, *, of: int = 65_536, breaks: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), of):
        yield data[start : start + of]
    if breaks:
        raise ConnectionResetError("the sender is gone")


async def joined(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


class BlobsHarness(Protocol):
    """How the suite reaches one adapter. All handles are on the same data."""

    async def open(self) -> Blobs: ...

    async def damage(self, digest: Digest) -> None:
        """Change what is kept under `digest`, as a disk that goes bad does."""
        ...

    async def age(self, digest: Digest, *, by_ms: int) -> None:
        """Make the blob older by so much."""
        ...


class BlobsContract:
    @pytest.fixture
    async def blobs(self, harness: BlobsHarness) -> Blobs:
        return await harness.open()

    @pytest.mark.parametrize("data", [b"", b"a", b"\x00\xff" * 70_000, bytes(3 << 20)], ids=len)
    async def test_what_was_put_is_got(self, blobs: Blobs, data: bytes) -> None:
        digest = await blobs.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert await blobs.get(digest) == data
        assert await blobs.has(digest)

    async def test_what_is_not_there_is_not_found(self, blobs: Blobs) -> None:
        with pytest.raises(NotFound):
            await blobs.get(ABSENT)
        assert not await blobs.has(ABSENT)

    @pytest.mark.parametrize("name", NO_DIGESTS, ids=ascii)
    async def test_what_is_no_digest_is_not_found(self, blobs: Blobs, name: str) -> None:
        await blobs.put(b"a")
        with pytest.raises(NotFound):
            await blobs.get(Digest(name))
        assert not await blobs.has(Digest(name))
        assert await blobs.missing(frozenset((Digest(name),))) == {name}

    async def test_missing_are_those_not_there(self, blobs: Blobs) -> None:
        there = {await blobs.put(b"%d" % number) for number in range(5)}
        absent = {Digest(f"{number:064x}") for number in range(5)}
        assert await blobs.missing(frozenset(there | absent)) == absent
        assert await blobs.missing(frozenset(there)) == frozenset()
        assert await blobs.missing(frozenset()) == frozenset()

    async def test_the_same_bytes_are_one_blob(self, blobs: Blobs) -> None:
        first = await blobs.put(b"same")
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(blobs.put, b"same")
        assert await blobs.put(b"same") == first
        assert await blobs.get(first) == b"same"

    async def test_many_at_once(self, blobs: Blobs) -> None:
        async def put_and_get(number: int) -> None:
            data = b"%d" % number * 1000
            assert await blobs.get(await blobs.put(data)) == data

        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(put_and_get, number % 20)

    async def test_all_is_there_after_reopening(self, blobs: Blobs, harness: BlobsHarness) -> None:
        digest = await blobs.put(b"kept")
        reopened = await harness.open()
        assert await reopened.get(digest) == b"kept"

    async def test_damaged_bytes_are_never_handed_out(self, blobs: Blobs, harness: BlobsHarness) -> None:
        digest = await blobs.put(b"good")
        await harness.damage(digest)
        with pytest.raises(Corrupt):
            await blobs.get(digest)

    async def test_putting_again_heals(self, blobs: Blobs, harness: BlobsHarness) -> None:
        digest = await blobs.put(b"good")
        await harness.damage(digest)
        assert await blobs.put(b"good") == digest
        assert await blobs.get(digest) == b"good"

    @pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 20_000], ids=len)
    async def test_what_was_streamed_in_is_streamed_out(self, blobs: Blobs, data: bytes) -> None:
        digest = Digest(hashlib.sha256(data).hexdigest())
        assert await blobs.put_stream(pieces(data), digest=digest, bytes_max=len(data)) == len(data)
        assert await joined(blobs.stream(digest)) == data
        assert await blobs.get(digest) == data
        assert await blobs.put_stream(pieces(data), digest=digest, bytes_max=len(data)) == len(data)

    async def test_a_stream_of_other_bytes_keeps_nothing(self, blobs: Blobs) -> None:
        digest, other = (Digest(hashlib.sha256(data).hexdigest()) for data in (b"asked", b"came"))
        with pytest.raises(Corrupt):
            await blobs.put_stream(pieces(b"came"), digest=digest, bytes_max=100)
        with pytest.raises(TooLarge):
            await blobs.put_stream(pieces(b"asked", of=2), digest=digest, bytes_max=4)
        with pytest.raises(ConnectionResetError):
            await blobs.put_stream(pieces(b"asked", breaks=True), digest=digest, bytes_max=100)
        with pytest.raises(NotFound):
            await blobs.put_stream(pieces(b""), digest=Digest("../x"), bytes_max=100)
        assert await blobs.missing(frozenset((digest, other))) == {digest, other}

    async def test_no_reader_gets_to_the_end_of_a_damaged_stream(self, blobs: Blobs, harness: BlobsHarness) -> None:
        digest = await blobs.put(b"good" * 1000)
        await harness.damage(digest)
        with pytest.raises(Corrupt):
            await joined(blobs.stream(digest))
        with pytest.raises(NotFound):
            await joined(blobs.stream(ABSENT))

    async def test_the_empty_blob(self, blobs: Blobs) -> None:
        assert await blobs.put(b"") == EMPTY
        assert await blobs.get(EMPTY) == b""

    async def test_a_sweep_removes_what_is_old_and_not_kept(self, blobs: Blobs, harness: BlobsHarness) -> None:
        old, kept, young = [await blobs.put(name) for name in (b"old", b"kept", b"young")]
        for digest in (old, kept):
            await harness.age(digest, by_ms=7_200_000)
        assert await blobs.sweep(frozenset((kept, ABSENT)), older_than_ms=3_600_000) == 1
        assert await blobs.missing(frozenset((old, kept, young))) == {old}
        assert await blobs.put(b"old") == old
        assert await blobs.get(old) == b"old"

    async def test_a_blob_that_somebody_was_told_of_is_young(self, blobs: Blobs, harness: BlobsHarness) -> None:
        digests = [await blobs.put(name) for name in (b"asked for", b"put again", b"was kept")]
        for digest in digests:
            await harness.age(digest, by_ms=7_200_000)
        assert await blobs.has(digests[0])
        await blobs.put(b"put again")
        await blobs.sweep(frozenset(digests[2:]), older_than_ms=3_600_000)
        assert await blobs.sweep(frozenset(), older_than_ms=3_600_000) == 0
        assert await blobs.missing(frozenset(digests)) == frozenset()
