"""`skerry.ports.images` with overlayfs and unpacking of our own (docs/decisions: 0009).

<data>/blobs      what is fetched: manifests and configurations stay, layers until they are unpacked
<data>/layers     one directory for each diff_id
<data>/images     one record for each image; its time is when it was last used
<data>/disks      one ext4 for each image that microVMs boot from
<data>/writable   one sparse file for each instance (see `roots`)
"""

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from skerry.adapters import kernel
from skerry.adapters.blobs.kept import BadBlob, KeptBlobs, Stream
from skerry.adapters.images.configuration import read_configuration
from skerry.adapters.images.layers import Layers, UnpackLimits, names_of
from skerry.adapters.images.roots import Roots, make_ext4
from skerry.adapters.imagesources import documents
from skerry.adapters.imagesources.opening import own_architecture
from skerry.adapters.process.detached import write_private
from skerry.adapters.threads import whole
from skerry.core.types.ids import Digest
from skerry.core.types.program import Image
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record, decode, encode
from skerry.ports.images import BadImage, ImageConfig, ImagesUnavailable, ImageUse
from skerry.ports.imagesources import BadSource

MIB = 1 << 20
DISK_SPARE_MIB = 16  # of a microVM's disk beside the files: directories, tables


class _Known(Record):
    image: Image
    config: ImageConfig


class OverlayImages:
    """One node's images. `run_dir` has to be passable by everybody: mapped users look up paths in it."""

    def __init__(
        self, data_dir: Path, stream: Stream, *, run_dir: Path | None = None, limits: UnpackLimits | None = None
    ) -> None:
        self._data = data_dir
        self._run = run_dir or Path("/run/skerry") / stable_id("images", str(data_dir.resolve()))
        self._images = data_dir / "images"
        self._disks = data_dir / "disks"
        self._blobs = KeptBlobs(data_dir / "blobs", stream=_translated(stream))
        self._layers = Layers(data_dir / "layers", self._blobs, limits or UnpackLimits())
        self._roots = Roots(data_dir, self._run, data_dir / "layers")
        self._used: dict[str, Digest] = {}  # manifests by instance
        self._preparing: dict[Digest, int] = {}
        self._disk_lock = asyncio.Lock()

    async def attach(self, known: frozenset[str]) -> None:
        if os.geteuid() != 0:
            raise ImagesUnavailable("containers need root: mounts, user ids and limits of their own; sudo skerry up")
        await whole(self._attach, known)

    async def prepare(self, image: Image) -> ImageConfig:
        self._preparing[image.manifest] = self._preparing.get(image.manifest, 0) + 1
        try:
            found = self._find(image)
            if found is None:
                config = await self._describe(image)
                await self._fetch_layers(image)
                found = _Known(image=image, config=config)
                write_private(self._record(image.manifest), encode(found))
            self._touch(image.manifest)
            return found.config
        finally:
            self._preparing[image.manifest] -= 1
            if not self._preparing[image.manifest]:
                del self._preparing[image.manifest]

    async def mount(self, instance_id: str, image: Image, *, writable_mib: int) -> Path:
        _check_id(instance_id)
        if self._roots.mounted(instance_id):
            return self._roots.path(instance_id)
        await self.prepare(image)
        self._used[instance_id] = image.manifest
        write_private(self._data / "instances" / instance_id, image.manifest.encode())
        names = [self._layers.name(layer) for layer in image.layers]
        return await whole(self._roots.mount, instance_id, names, writable_mib=writable_mib)

    async def unmount(self, instance_id: str) -> None:
        _check_id(instance_id)
        await whole(self._unmount, instance_id)

    async def disk(self, image: Image) -> Path:
        path = self._disks / f"{image.manifest}.ext4"
        async with self._disk_lock:
            await self.prepare(image)
            if not path.exists():
                await whole(self._make_disk, image, path)
        return path

    def present(self) -> tuple[ImageUse, ...]:
        uses = list(self._used.values())
        return tuple(
            ImageUse(
                manifest=known.image.manifest,
                name=known.image.name,
                disk_mib=self._disk_bytes(known.image) // MIB,
                instances=uses.count(known.image.manifest),
            )
            for known in self._all()
        )

    async def collect(self, keep: frozenset[Digest], *, budget_mib: int) -> None:
        await whole(self._collect, keep, budget_mib * MIB)

    async def aclose(self) -> None:
        """Mounts stay, as the instances do."""

    # Files

    def _attach(self, known: frozenset[str]) -> None:
        for name in ("blobs", "layers", "images", "disks", "instances"):
            (self._data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._roots.prepare()
        for name in ("blobs", "disks", "images", "instances"):
            for path in (self._data / name).glob(".*"):  # half made
                kernel.unmount(path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in (self._data / "instances").iterdir():
            self._used[path.name] = Digest(path.read_text())
        for name in sorted((self._roots.names() | self._used.keys()) - known):
            self._unmount(name)
        known_images = [one.image for one in self._all()]
        self._layers.remove_all_but(names_of(layer for image in known_images for layer in image.layers))
        self._blobs.keep_only(frozenset(digest for image in known_images for digest in image.blobs()))

    def _unmount(self, instance_id: str) -> None:
        self._roots.unmount(instance_id)
        (self._data / "instances" / instance_id).unlink(missing_ok=True)
        self._used.pop(instance_id, None)

    def _record(self, manifest: Digest) -> Path:
        return self._images / f"{self._blobs.path(manifest).name}.json"

    def _find(self, image: Image) -> _Known | None:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = decode(self._record(image.manifest).read_bytes(), _Known)
            if known.image.layers == image.layers and all(self._layers.has(layer) for layer in image.layers):
                return known
        return None

    def _touch(self, manifest: Digest) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._record(manifest))

    def _all(self) -> list[_Known]:
        found: list[_Known] = []
        for path in sorted(self._images.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found.append(decode(path.read_bytes(), _Known))
        return found

    def _disk_bytes(self, image: Image) -> int:
        return sum(self._layers.disk_bytes(layer) for layer in image.layers) + self._file_bytes(image.manifest)

    def _file_bytes(self, manifest: Digest) -> int:
        try:
            return (self._disks / f"{manifest}.ext4").stat().st_blocks * 512
        except OSError:
            return 0

    # What an image says of itself, and its layers

    async def _describe(self, image: Image) -> ImageConfig:
        try:
            manifest, config = await self._blobs.get(image.manifest), await self._blobs.get(image.config)
            described = documents.describe(image.name, manifest, config, architecture=own_architecture())
        except (BadBlob, BadSource) as error:
            raise BadImage(str(error)) from error
        if described != image:
            raise BadImage("the image is not what its manifest says it is: other layers, or another configuration")
        return read_configuration(config)

    async def _fetch_layers(self, image: Image) -> None:
        tasks = [
            asyncio.ensure_future(self._layers.ensure(layer)) for layer in {one.diff_id: one for one in image.layers}.values()
        ]
        try:
            for task in tasks:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _make_disk(self, image: Image, path: Path) -> None:
        place = self._disks / f".{secrets.token_hex(8)}"
        try:
            self._roots.read_only(place, [self._layers.name(layer) for layer in image.layers])
            size_mib = _mib_of_tree(place) * 11 // 10 + DISK_SPARE_MIB
            make_ext4(path, size_mib, "-O", "^has_journal", "-d", str(place))
        except OSError as error:
            raise ImagesUnavailable(f"disk of {image.name}: {error}") from error
        finally:
            kernel.unmount(place)
            place.rmdir()

    def _collect(self, keep: frozenset[Digest], budget_bytes: int) -> None:
        """The longest unused first; a layer goes with the last image that has it."""
        held = keep | frozenset(self._used.values()) | self._preparing.keys()
        known = sorted(self._all(), key=lambda one: self._record(one.image.manifest).stat().st_mtime_ns)
        left = list(known)
        for one in known:
            layers = {layer.diff_id: self._layers.disk_bytes(layer) for other in left for layer in other.image.layers}
            used = sum(layers.values()) + sum(self._file_bytes(other.image.manifest) for other in left)
            if used <= budget_bytes:
                break
            if one.image.manifest not in held:
                left.remove(one)
                self._forget(one.image)
        if not self._preparing:
            self._layers.remove_all_but(names_of(layer for one in left for layer in one.image.layers))

    def _forget(self, image: Image) -> None:
        self._record(image.manifest).unlink(missing_ok=True)
        (self._disks / f"{image.manifest}.ext4").unlink(missing_ok=True)
        for digest in image.blobs():
            self._blobs.path(digest).unlink(missing_ok=True)


def _translated(stream: Stream) -> Stream:
    async def translated(digest: Digest) -> AsyncIterator[bytes]:
        try:
            async for chunk in stream(digest):
                yield chunk
        except Exception as error:
            raise ImagesUnavailable(f"blob {digest[:12]}: {error}") from error

    return translated


def _check_id(instance_id: str) -> None:
    assert instance_id.isalnum(), "ids become names of files"


def _mib_of_tree(path: Path) -> int:
    """What its files take on a disk of 4 KiB blocks, with an inode each."""
    size = 0
    for directory, _, files in os.walk(path):
        size += 8192
        for name in files:
            with contextlib.suppress(OSError):
                size += (os.lstat(f"{directory}/{name}").st_size + 4095) // 4096 * 4096 + 512
    return (size >> 20) + 1
