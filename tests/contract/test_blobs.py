"""The blobs' contract on every adapter."""

from pathlib import Path

import pytest

from skerry.adapters.blobs.directory import DirectoryBlobs
from skerry.adapters.blobs.simulated import Faults, SimulatedBlobs
from skerry.core.types.ids import Digest
from skerry.ports.blobs import Blobs
from skerry.testing.contracts.blobs import BlobsContract


class DirectoryHarness:
    def __init__(self, root: Path) -> None:
        self._root = root

    async def open(self) -> Blobs:
        return await DirectoryBlobs.open(self._root)

    async def damage(self, digest: Digest) -> None:
        path = self._root / digest[:2] / digest
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


class SimulatedHarness:
    def __init__(self) -> None:
        self._held: dict[Digest, bytes] = {}
        self._faults = Faults()

    async def open(self) -> Blobs:
        return SimulatedBlobs(self._held, self._faults)

    async def damage(self, digest: Digest) -> None:
        self._faults.corrupt.add(digest)


class TestDirectoryBlobs(BlobsContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> DirectoryHarness:
        return DirectoryHarness(tmp_path / "control" / "blobs")


class TestSimulatedBlobs(BlobsContract):
    @pytest.fixture
    def harness(self) -> SimulatedHarness:
        return SimulatedHarness()
