"""The blobs' contract on every adapter."""

import os
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

    async def age(self, digest: Digest, *, by_ms: int) -> None:
        path = self._root / digest[:2] / digest
        then_s = path.stat().st_mtime - by_ms / 1000
        os.utime(path, (then_s, then_s))


class SimulatedHarness:
    def __init__(self) -> None:
        self._held: dict[Digest, bytes] = {}
        self._young: dict[Digest, float] = {}
        self._faults = Faults()

    async def open(self) -> Blobs:
        return SimulatedBlobs(self._held, self._faults, self._young)

    async def damage(self, digest: Digest) -> None:
        self._faults.corrupt.add(digest)

    async def age(self, digest: Digest, *, by_ms: int) -> None:
        self._young[digest] -= by_ms / 1000


class TestDirectoryBlobs(BlobsContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> DirectoryHarness:
        return DirectoryHarness(tmp_path / "control" / "blobs")


class TestSimulatedBlobs(BlobsContract):
    @pytest.fixture
    def harness(self) -> SimulatedHarness:
        return SimulatedHarness()
