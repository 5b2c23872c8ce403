"""The contract of images on every adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import kernel
from skerry.adapters.images.overlay import OverlayImages
from skerry.adapters.images.simulated import SimulatedDisk, SimulatedImages
from skerry.core.types.ids import Digest
from skerry.testing.contracts.images import ImagesContract, Shop
from skerry.testing.oci_node import is_root


class SimulatedHarness:
    def __init__(self) -> None:
        self.shop = Shop()
        self._disk = SimulatedDisk()

    async def open(self, known: frozenset[str] = frozenset()) -> SimulatedImages:
        images = SimulatedImages(self._disk, self.shop.fetch)
        await images.attach(known)
        return images

    async def leftovers(self) -> list[str]:
        return list(self._disk.mounts)


class OverlayHarness:
    def __init__(self, root: Path) -> None:
        self.shop = Shop()
        self.data = root / "images"
        self.run = Path("/run/skerry-test") / root.name

    async def open(self, known: frozenset[str] = frozenset()) -> OverlayImages:
        images = OverlayImages(self.data, self.stream, run_dir=self.run)
        await images.attach(known)
        return images

    async def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        data = await self.shop.fetch(digest)
        for at in range(0, len(data), 1 << 16):
            yield data[at : at + (1 << 16)]

    async def leftovers(self) -> list[str]:
        mounts = [str(path) for path in (*kernel.mounts_below(self.run), *kernel.mounts_below(self.data))]
        files = [str(path) for name in ("writable", "instances") for path in (self.data / name).iterdir()]
        return mounts + files + [str(path) for path in (self.run / "root").iterdir()]


class TestSimulatedImages(ImagesContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[SimulatedHarness]:
        yield SimulatedHarness()


@pytest.mark.skipif(not is_root(), reason="mounts need root")
class TestOverlayImages(ImagesContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[OverlayHarness]:
        harness = OverlayHarness(tmp_path)
        yield harness
        await harness.open()
