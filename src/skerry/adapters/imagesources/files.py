"""Images in files: an OCI layout as a directory or packed in a tar archive, and what `docker save` writes.

An archive is never unpacked: its members are read where they lie. Old archives of `docker save` have no manifest; one is
written for them, so that such an image is pinned like any other.
"""

import asyncio
import hashlib
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import msgspec

from skerry.adapters.imagesources import documents
from skerry.adapters.imagesources.documents import Descriptor, Index
from skerry.adapters.imagesources.streams import CHUNK_BYTES, checked, file_chunks
from skerry.core.types.ids import Digest
from skerry.core.types.program import Image
from skerry.kit.hashing import content_digest
from skerry.ports.imagesources import BadSource, NoSuchSource

MEMBERS_MAX = 100_000
LINKS_MAX = 8  # from one member to the next
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_MAGIC = {b"\x1f\x8b": ".gzip", b"\x28\xb5": ".zstd"}


class Folder:
    """Files by name: a directory's. Symbolic links in it are its owner's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def open(self, name: str) -> IO[bytes]:
        return (self._path / name).open("rb")

    def size(self, name: str) -> int:
        return (self._path / name).stat().st_size

    def close(self) -> None:
        pass


class Archive:
    """Files by name: a tar archive's members, read in place. The last of two members of one name counts, as for tar."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            archive = tarfile.open(path)  # noqa: SIM115 closed below
        except tarfile.ReadError as error:  # it names every compression that it tried, a line each
            raise BadSource(f"{path}: neither an OCI archive nor what `docker save` writes") from error
        with archive:
            for member in archive:
                self._members[member.name.removeprefix("./")] = member
                if len(self._members) > MEMBERS_MAX:
                    raise BadSource(f"{path}: more than {MEMBERS_MAX} files")

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def open(self, name: str) -> IO[bytes]:
        """Its own descriptor: two members may be read at the same time."""
        member = self._find(name)
        if member is None:
            raise BadSource(f"{self._path}: no file {name[:200]!r} in it")
        archive = tarfile.open(self._path)  # noqa: SIM115 it lives as long as the member's file, which holds it
        file = archive.extractfile(member)
        assert file is not None, "_find gives plain files alone"
        return file

    def size(self, name: str) -> int:
        member = self._find(name)
        return 0 if member is None else member.size

    def close(self) -> None:
        pass

    def _find(self, name: str) -> tarfile.TarInfo | None:
        """Old archives say by links that two layers are one."""
        for _ in range(LINKS_MAX):
            member = self._members.get(name)
            if member is None or member.isreg():
                return member
            if not (member.issym() or member.islnk()):
                return None
            base = "" if member.islnk() else name.rpartition("/")[0]
            name = _joined(base, member.linkname)
        return None


def _joined(base: str, link: str) -> str:
    parts = [part for part in f"{base}/{link}".split("/") if part not in ("", ".")]
    out: list[str] = []
    for part in parts:
        if part == "..":
            out = out[:-1]
        else:
            out.append(part)
    return "/".join(out)


class FileSource:
    """`skerry.ports.imagesources.Source` over the files of a folder or an archive."""

    def __init__(self, files: Folder | Archive, image: Image, blobs: dict[Digest, str], written: dict[Digest, bytes]) -> None:
        self._files = files
        self._image = image
        self._blobs = blobs  # names of files
        self._written = written  # what was made here, in memory

    @property
    def image(self) -> Image:
        return self._image

    async def blob(self, digest: Digest) -> AsyncIterator[bytes]:
        data = self._written.get(digest)
        if data is not None:
            yield data
            return
        name = self._blobs.get(digest, f"blobs/sha256/{digest}")
        size_max = self._files.size(name)
        async for chunk in checked(file_chunks(lambda: self._files.open(name)), digest, size_max=size_max):
            yield chunk

    async def aclose(self) -> None:
        self._files.close()


async def open_file_source(path: Path, *, name: str, wanted: str, architecture: str) -> FileSource:
    """`wanted` is the image's name inside, for archives that hold several; `name` what the deployer typed."""
    return await asyncio.to_thread(_open, path, name, wanted, architecture)


def _open(path: Path, name: str, wanted: str, architecture: str) -> FileSource:
    try:
        files = Folder(path) if path.is_dir() else Archive(path)
        if files.has("index.json"):
            return _layout(files, name, wanted, architecture)
        if files.has("manifest.json"):
            return _docker(files, name, wanted, architecture)
    except FileNotFoundError as error:
        raise NoSuchSource(f"{error.filename}: no such file") from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise BadSource(f"{path}: {error}") from error
    raise BadSource(f"{path}: no image in it (neither index.json nor manifest.json); as from `docker save` or `skopeo copy`")


def _read(files: Folder | Archive, name: str) -> bytes:
    if files.size(name) > documents.DOCUMENT_BYTES_MAX:
        raise BadSource(f"{name}: more than {documents.DOCUMENT_BYTES_MAX >> 20} MiB")
    with files.open(name) as file:
        return file.read()


def _read_blob(files: Folder | Archive, digest: Digest) -> bytes:
    data = _read(files, f"blobs/sha256/{digest}")
    if content_digest(data) != digest:
        raise BadSource(f"blob {digest[:12]}: its content is another's; damaged")
    return data


def _layout(files: Folder | Archive, name: str, wanted: str, architecture: str) -> FileSource:
    data = _read(files, "index.json")
    for _ in range(documents.INDEX_DEPTH_MAX):
        chosen = documents.choose(documents.parse(data, Index, what="index"), architecture=architecture, name=wanted)
        data, wanted = _read_blob(files, chosen.hex), ""
        if not documents.is_index(chosen.media_type, data):
            manifest = documents.parse(data, documents.Manifest, what="manifest")
            config = _read_blob(files, manifest.config.hex)
            return FileSource(files, documents.describe(name, data, config, architecture=architecture), {}, {})
    raise BadSource(f"{name}: indexes within indexes")


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry of `docker save`'s manifest.json."""

    config: str
    layers: tuple[str, ...]
    repo_tags: tuple[str, ...] | None = None


def _docker(files: Folder | Archive, name: str, wanted: str, architecture: str) -> FileSource:
    try:
        saved = msgspec.json.decode(_read(files, "manifest.json"), type=tuple[_Saved, ...])
    except msgspec.DecodeError as error:
        raise BadSource(f"manifest.json: {error}") from error
    fitting = [entry for entry in saved if not wanted or wanted in (entry.repo_tags or ())]
    if len(fitting) != 1:
        names = ", ".join(tag for entry in saved for tag in entry.repo_tags or ()) or "none with a name"
        raise BadSource(f"{len(fitting)} images fit; say which, as in path#name: {names}")
    config = _read(files, fitting[0].config)
    if len(fitting[0].layers) > documents.LAYERS_MAX:
        raise BadSource(f"{len(fitting[0].layers)} layers; at most {documents.LAYERS_MAX}")
    layers = [(_described(files, layer), layer) for layer in fitting[0].layers]
    manifest = _manifest(config, [descriptor for descriptor, _ in layers])
    image = documents.describe(name, manifest, config, architecture=architecture)
    blobs = {descriptor.hex: layer for descriptor, layer in layers} | {image.config: fitting[0].config}
    return FileSource(files, image, blobs, {image.manifest: manifest})


def _described(files: Folder | Archive, name: str) -> Descriptor:
    hasher = hashlib.sha256()
    with files.open(name) as file:
        start = file.read(2)
        hasher.update(start)
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    kind = _DOCKER_LAYER + _MAGIC.get(start, "")
    return Descriptor(digest=f"sha256:{hasher.hexdigest()}", size=files.size(name), media_type=kind)


def _manifest(config: bytes, layers: list[Descriptor]) -> bytes:
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": f"sha256:{content_digest(config)}",
            },
            "layers": [{"mediaType": layer.media_type, "size": layer.size, "digest": layer.digest} for layer in layers],
        }
    )
