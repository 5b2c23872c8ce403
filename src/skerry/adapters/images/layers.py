"""Unpacked layers on this node's disk, each once: `<directory>/<diff_id>`, whole and checked before it has its name."""

import asyncio
import json
import secrets
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from skerry.adapters import kernel
from skerry.adapters.blobs.kept import BadBlob, KeptBlobs
from skerry.adapters.process.detached import write_private
from skerry.adapters.threads import whole
from skerry.core.types.ids import Digest
from skerry.core.types.program import Layer
from skerry.kit.record import Record, decode, encode
from skerry.ports.images import BadImage, ImagesUnavailable

AT_ONCE = 2  # each is busy with one CPU
NAME_DIGITS = 32  # of the diff_id: overlayfs takes all lower directories in one page


class UnpackLimits(Record):
    """Of one layer. Its own fault beyond them, but for `reserve_bytes`, which the disk keeps free."""

    bytes_max: int = 16 << 30
    ratio_max: int = 200  # unpacked against packed, above 256 MiB
    entries_max: int = 500_000
    reserve_bytes: int = 1 << 30
    seconds_max: int = 1800


class LayerFacts(Record):
    """What was found when it was unpacked."""

    diff_id: Digest
    unpacked_bytes: int
    entries: int


class Layers:
    """`ensure` unpacks at most once; callers that want the same at the same time share it."""

    def __init__(self, directory: Path, blobs: KeptBlobs, limits: UnpackLimits) -> None:
        self.directory = directory
        self._blobs = blobs
        self._limits = limits
        self._running: dict[Digest, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def name(self, layer: Layer) -> str:
        """Of its directory, in `directory`."""
        return layer.diff_id[:NAME_DIGITS]

    def has(self, layer: Layer) -> bool:
        return (self.directory / self.name(layer)).is_dir()

    def busy(self) -> frozenset[str]:
        return frozenset(digest[:NAME_DIGITS] for digest in self._running)

    async def ensure(self, layer: Layer) -> None:
        """Raises `BadImage`, `ImagesUnavailable`, or what the fetch raises."""
        if self.has(layer):
            return
        task = self._running.get(layer.diff_id)
        if task is None:
            task = self._running[layer.diff_id] = asyncio.create_task(self._unpack(layer))
            task.add_done_callback(lambda _: self._running.pop(layer.diff_id, None))
        await asyncio.shield(task)

    def disk_bytes(self, layer: Layer) -> int:
        try:
            return decode(self._facts(self.name(layer)).read_bytes(), LayerFacts).unpacked_bytes
        except (OSError, msgspec.DecodeError):
            return 0

    def remove_all_but(self, names: frozenset[str]) -> None:
        """And what a killed one left half done."""
        keep = names | self.busy()
        for path in self.directory.iterdir():
            if path.name.removesuffix(".json") not in keep and not (path.name.startswith(".") and self._running):
                self._remove(path)

    def _remove(self, path: Path) -> None:
        if path.suffix == ".json":
            path.unlink(missing_ok=True)
            return
        gone = path.with_name(f".gone.{secrets.token_hex(4)}")  # one step: half a layer must not have its name
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _facts(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    async def _unpack(self, layer: Layer) -> None:
        async with self._slots:
            try:
                blob = await self._blobs.ensure(layer.digest)
            except BadBlob as error:
                raise BadImage(str(error)) from error
            building = self.directory / f".{self.name(layer)}.{secrets.token_hex(4)}"
            building.mkdir(mode=0o755)
            try:
                facts = await unpacked(blob, building, layer, self._limits)
                await whole(self._finish, building, layer, facts)
                blob.unlink(missing_ok=True)  # what it holds is there twice now
            finally:
                await whole(shutil.rmtree, building, ignore_errors=True)

    def _finish(self, building: Path, layer: Layer, facts: LayerFacts) -> None:
        write_private(self._facts(self.name(layer)), encode(facts))
        kernel.sync_filesystem(building)  # a name that is there after power loss promises what is in it
        building.rename(self.directory / self.name(layer))


async def unpacked(blob: Path, target: Path, layer: Layer, limits: UnpackLimits) -> LayerFacts:
    """Fill `target` from `blob`, in a process of its own; raises `BadImage` or `ImagesUnavailable`."""
    asked = json.dumps(msgspec.structs.asdict(limits))
    with blob.open("rb") as content:
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/nice", "-n", "10",
            sys.executable, "-I", "-m", "skerry.adapters.images.unpack", str(target), layer.compression, asked,
            stdin=content, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    try:
        async with asyncio.timeout(limits.seconds_max):
            out, err = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise BadImage(f"layer {layer.digest[:12]}: not unpacked within {limits.seconds_max} s") from error
        raise
    return _judged(layer, out, err)


def _judged(layer: Layer, out: bytes, err: bytes) -> LayerFacts:
    try:
        said = json.loads(out)
    except ValueError:
        raise BadImage(f"layer {layer.digest[:12]} cannot be unpacked: {err.decode(errors='replace')[-300:]}") from None
    if "bad" in said:
        raise BadImage(f"layer {layer.digest[:12]}: {said['bad']}")
    if "full" in said:
        raise ImagesUnavailable(f"layer {layer.digest[:12]}: {said['full']}; free some space, or lower the images' budget")
    if said["diff_id"] != layer.diff_id:
        raise BadImage(f"layer {layer.digest[:12]}: unpacked it is {said['diff_id'][:12]}, not {layer.diff_id[:12]} (diff_id)")
    return LayerFacts(diff_id=layer.diff_id, unpacked_bytes=said["bytes"], entries=said["entries"])


def names_of(layers: Iterable[Layer]) -> frozenset[str]:
    return frozenset(layer.diff_id[:NAME_DIGITS] for layer in layers)
