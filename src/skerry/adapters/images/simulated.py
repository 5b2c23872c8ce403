"""Images that are names only: for the simulated world, and to hold the contract against. No layer is unpacked."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from skerry.adapters.images.configuration import read_configuration
from skerry.adapters.imagesources import documents
from skerry.core.types.ids import Digest
from skerry.core.types.program import Image
from skerry.kit.hashing import content_digest
from skerry.ports.images import BadImage, ImageConfig, ImagesUnavailable, ImageUse
from skerry.ports.imagesources import BadSource

MIB = 1 << 20


class SimulatedDisk:
    """What outlives an agent."""

    def __init__(self) -> None:
        self.images: dict[Digest, tuple[Image, ImageConfig]] = {}  # the longest unused first
        self.layers: set[Digest] = set()
        self.mounts: dict[str, Digest] = {}


class SimulatedImages:
    """`skerry.ports.images.Images` over a `SimulatedDisk`."""

    def __init__(self, disk: SimulatedDisk, fetch: Callable[[Digest], Awaitable[bytes]], *, architecture: str = "amd64") -> None:
        self._disk = disk
        self._fetch = fetch
        self._architecture = architecture
        self._lock = asyncio.Lock()

    async def attach(self, known: frozenset[str]) -> None:
        self._disk.mounts = {name: image for name, image in self._disk.mounts.items() if name in known}

    async def prepare(self, image: Image) -> ImageConfig:
        async with self._lock:
            found = self._disk.images.pop(image.manifest, None) or (image, await self._load(image))
            self._disk.images[image.manifest] = found
            return found[1]

    async def mount(self, instance_id: str, image: Image, *, writable_mib: int) -> Path:
        await self.prepare(image)
        self._disk.mounts[instance_id] = image.manifest
        return Path("/simulated") / instance_id

    async def unmount(self, instance_id: str) -> None:
        self._disk.mounts.pop(instance_id, None)

    async def disk(self, image: Image) -> Path:
        await self.prepare(image)
        return Path("/simulated") / f"{image.manifest}.ext4"

    def present(self) -> tuple[ImageUse, ...]:
        used = list(self._disk.mounts.values())
        return tuple(
            ImageUse(manifest=name, name=image.name, disk_mib=_bytes([image]) // MIB, instances=used.count(name))
            for name, (image, _) in self._disk.images.items()
        )

    async def collect(self, keep: frozenset[Digest], *, budget_mib: int) -> None:
        held = keep | frozenset(self._disk.mounts.values())
        for name in list(self._disk.images):
            if _bytes([image for image, _ in self._disk.images.values()]) <= budget_mib * MIB:
                break
            if name not in held:
                del self._disk.images[name]
        self._disk.layers = {layer.digest for image, _ in self._disk.images.values() for layer in image.layers}

    async def aclose(self) -> None:
        pass

    async def _load(self, image: Image) -> ImageConfig:
        manifest, config = await self._blob(image.manifest), await self._blob(image.config)
        try:
            described = documents.describe(image.name, manifest, config, architecture=self._architecture)
        except BadSource as error:
            raise BadImage(str(error)) from error
        if described != image:
            raise BadImage("the image is not what its manifest says it is")
        for layer in image.layers:
            if layer.digest not in self._disk.layers:
                await self._blob(layer.digest)
                self._disk.layers.add(layer.digest)
        return read_configuration(config)

    async def _blob(self, digest: Digest) -> bytes:
        try:
            data = await self._fetch(digest)
        except Exception as error:
            raise ImagesUnavailable(f"blob {digest[:12]}: {error}") from error
        if content_digest(data) != digest:
            raise BadImage(f"blob {digest[:12]} has another content")
        return data


def _bytes(images: list[Image]) -> int:
    return sum({layer.digest: layer.size for image in images for layer in image.layers}.values())
