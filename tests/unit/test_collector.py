"""Blobs that nothing needs any more go, and no other."""

from collections.abc import AsyncIterator

import pytest

from skerry.adapters.blobs.simulated import SimulatedBlobs
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.store.simulated import SimulatedStore
from skerry.core.types.app import AssetFile, Assets, BlobBinding, Version
from skerry.core.types.ids import AccountId, AppName, Digest, VersionId
from skerry.kit import record
from skerry.ports.blobs import BlobError
from skerry.ports.store import Delete
from skerry.services.control import keys
from skerry.services.control.collector import KEEP_MS, Collector
from skerry.services.control.mirror import Mirror

ACCOUNT, APP, VERSION = AccountId("a" * 32), AppName("site"), VersionId("v1")


class Control:
    def __init__(self) -> None:
        self.blobs = SimulatedBlobs()
        self.store = SimulatedStore()
        self.mirror = Mirror(self.store)
        self.collector = Collector(self.store, self.mirror, self.blobs, SystemClock())

    async def put_old(self, data: bytes) -> Digest:
        digest = await self.blobs.put(data)
        self.age(digest)
        return digest

    def age(self, *digests: Digest) -> None:
        for digest in digests or tuple(self.blobs.held):
            self.blobs.young[digest] -= KEEP_MS / 1000 + 1

    async def deploy(self, version: Version) -> None:
        await self.store.put(keys.version(ACCOUNT, APP, version.id), record.encode(version))
        await self.mirror.load()


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    yield Control()


async def version_of(control: Control, *, content: bytes = b"file") -> Version:
    binding = BlobBinding(name="T", type="text", digest=await control.put_old(b"text"))
    file = AssetFile(path="/a", digest=await control.put_old(content), size=len(content))
    manifest = await control.put_old(record.encode((file,)))
    return Version(
        id=VERSION,
        account=ACCOUNT,
        app=APP,
        number=1,
        created_ms=0,
        digest=Digest("d" * 64),
        compatibility_date="2026-01-01",
        bindings=(binding,),
        assets=Assets(manifest=manifest, file_count=1, total_bytes=len(content)),
    )


async def test_what_a_version_needs_stays_and_the_rest_goes_when_it_is_old(control: Control) -> None:
    await control.deploy(await version_of(control))
    needed = set(control.blobs.held)
    forgotten, uploading = await control.put_old(b"forgotten"), await control.blobs.put(b"uploading")
    assert await control.collector.step() == 1
    assert set(control.blobs.held) == needed | {uploading}
    assert forgotten not in control.blobs.held


async def test_a_deleted_version_keeps_its_blobs_for_a_day(control: Control) -> None:
    await control.deploy(await version_of(control))
    await control.collector.step()
    await control.store.transact([], [Delete(key=keys.version(ACCOUNT, APP, VERSION))])
    await control.mirror.load()
    assert await control.collector.step() == 0
    control.age()
    assert await control.collector.step() == 3
    assert not control.blobs.held


async def test_nothing_goes_while_a_manifest_cannot_be_read(control: Control) -> None:
    version = await version_of(control)
    await control.deploy(version)
    await control.put_old(b"forgotten")
    assert version.assets is not None
    control.blobs.faults.corrupt.add(version.assets.manifest)
    before = set(control.blobs.held)
    with pytest.raises(BlobError):
        await control.collector.step()
    assert set(control.blobs.held) == before
