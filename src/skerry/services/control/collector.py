"""The collector: blobs that no version needs any more are removed, a day after the last one did.

    versions -> their modules, bindings, asset manifests -> the files named there -> sweep of the rest

What is being uploaded is young, and what a backup names may be missing a day later at the earliest.
"""

import structlog

from skerry.core.types.app import AssetFile, Version
from skerry.core.types.ids import Digest
from skerry.kit import record
from skerry.ports.blobs import BlobError, Blobs
from skerry.ports.clock import Clock
from skerry.ports.store import Store, StoreError
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror
from skerry.services.intents.assets import asset_indexes

log = structlog.get_logger()

KEEP_MS = 24 * 3_600_000
EVERY_MS = 3_600_000


class Collector:
    def __init__(self, store: Store, mirror: Mirror, blobs: Blobs, clock: Clock) -> None:
        self._store = store
        self._mirror = mirror
        self._blobs = blobs
        self._clock = clock
        self._named: dict[Digest, frozenset[Digest]] = {}  # what each manifest names; manifests never change

    async def run(self) -> None:
        while True:
            await self._clock.sleep_ms(EVERY_MS)
            try:
                removed = await self.step()
            except (BlobError, StoreError) as error:  # a manifest that cannot be read may name anything
                log.warning("blobs_not_collected", error=str(error))
                continue
            if removed:
                log.info("blobs_collected", removed=removed)

    async def step(self) -> int:
        """Sweep once; how many blobs were removed. Raises `BlobError` or `StoreError`, and then nothing was."""
        keep = set(await asset_indexes(self._store))
        named: dict[Digest, frozenset[Digest]] = {}
        for version in self._mirror.select(keys.VERSIONS, Version):
            keep |= version.process_digests()
            if version.assets is not None:
                manifest = version.assets.manifest
                named[manifest] = self._named.get(manifest) or await self._read(manifest)
        self._named = named
        return await self._blobs.sweep(frozenset(keep.union(*named.values())), older_than_ms=KEEP_MS)

    async def _read(self, manifest: Digest) -> frozenset[Digest]:
        files = record.decode(await self._blobs.get(manifest), tuple[AssetFile, ...])
        return frozenset((manifest, *(file.digest for file in files)))
