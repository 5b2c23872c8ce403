"""The stock workerd of this node as an image: what a program runs that is a Worker behind a stronger wall.

One layer with the engine, its libraries and the places that are bound for it, and nothing else; no shell. It is made of what
this machine has, so no site sends it: `stream` gives out its blobs.
"""

import contextlib
import hashlib
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from skerry.adapters.imagesources.opening import own_architecture
from skerry.adapters.process.detached import write_private
from skerry.adapters.runtime.workerd.engine import Engine
from skerry.adapters.runtime.workerd.sandbox import ASSETS_DIRECTORY, EGRESS_DIRECTORY, HEALTH_DIRECTORY, WORKERD
from skerry.adapters.threads import whole
from skerry.core.types.ids import Digest
from skerry.core.types.program import Image, Layer
from skerry.kit.record import Record, decode, encode

CONFIG = "/worker.bin"  # where the Worker's configuration is bound
NAME = "workerd"
_CHUNK_BYTES = 1 << 20
_DIRECTORIES = ("tmp", "etc", "dev", "proc", "sys", HEALTH_DIRECTORY, EGRESS_DIRECTORY, ASSETS_DIRECTORY)
_EMPTY = (CONFIG, "/etc/resolv.conf", "/etc/hosts")  # bound over: a read-only root cannot make them
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


class Made(Record):
    """An image; `documents` are its manifest and configuration, `of` names the files that it was made from."""

    image: Image
    documents: dict[Digest, bytes]
    of: str


class WorkerdImage:
    """Made at its first use: the engine is read once for its digest, which takes a moment. `kept` is the file that remembers it
    for the next agent, which may have to go on with an instance whose files are still to be unpacked."""

    def __init__(self, engine: Engine, kept: Path) -> None:
        self._engine = engine
        self._kept = kept
        self._made: Made | None = None

    async def made(self) -> Image:
        found = self._remembered()
        if found is None:
            found = self._made = await whole(_make, self._engine)
            write_private(self._kept, encode(found))
        return found.image

    async def stream(self, digest: Digest) -> AsyncIterator[bytes] | None:
        """The blob of that digest in chunks; None: it is none of this image."""
        found = self._remembered()
        if found is None:
            return None
        if digest in found.documents:
            return _chunks(iter((found.documents[digest],)))
        return _chunks(_archive(self._engine)) if digest == found.image.layers[0].digest else None

    def _remembered(self) -> Made | None:
        if self._made is None:
            with contextlib.suppress(OSError, ValueError):
                found = decode(self._kept.read_bytes(), Made)
                self._made = found if found.of == _fingerprint(self._engine) else None
        return self._made


async def _chunks(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (part := await whole(next, parts, b"")) != b"":
        yield part


def _make(engine: Engine) -> Made:
    sha, size = hashlib.sha256(), 0
    for part in _archive(engine):
        sha.update(part)
        size += len(part)
    digest, architecture = Digest(sha.hexdigest()), own_architecture()
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [{"mediaType": _LAYER_TYPE, "digest": f"sha256:{digest}", "size": size}],
        }
    ).encode()
    image = Image(
        name=f"{NAME} {engine.version}",
        manifest=_digest(manifest),
        config=_digest(config),
        layers=(Layer(digest=digest, diff_id=digest, size=size, compression="none"),),
        architecture=architecture,
    )
    return Made(image=image, documents={image.manifest: manifest, image.config: config}, of=_fingerprint(engine))


def _fingerprint(engine: Engine) -> str:
    found = [(path, stat.st_size, stat.st_mtime_ns) for path in _sources(engine).values() for stat in (Path(path).stat(),)]
    return _digest(repr((_DIRECTORIES, _EMPTY, found)).encode())


def _sources(engine: Engine) -> dict[str, str]:
    """By the path inside."""
    return {WORKERD: engine.workerd, **{path: path for path in engine.libraries}}


def _archive(engine: Engine) -> Iterator[bytes]:
    """A tar archive, the same for the same engine."""
    files = _sources(engine)
    parents = {str(parent) for inside in files for parent in Path(inside).parents} - {"/"}
    for name in sorted({*parents, *(f"/{part.lstrip('/')}" for part in _DIRECTORIES)}):
        yield _header(name, kind=tarfile.DIRTYPE, mode=0o1777 if name == "/tmp" else 0o755)  # noqa: S108 its own
    for name in _EMPTY:
        yield _header(name)
    for name, source in sorted(files.items()):
        yield from _file(name, Path(source).resolve())
    yield b"\0" * 2 * tarfile.BLOCKSIZE


def _file(name: str, source: Path) -> Iterator[bytes]:
    size = source.stat().st_size
    yield _header(name, size=size, mode=0o755)
    with source.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            yield chunk
    yield b"\0" * (-size % tarfile.BLOCKSIZE)


def _header(name: str, *, size: int = 0, mode: int = 0o644, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name.lstrip("/"))
    info.size, info.mode, info.type = size, mode, kind
    return info.tobuf(tarfile.PAX_FORMAT)


def _digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{_digest(data)}", "size": len(data)}
