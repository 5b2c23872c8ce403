"""Images for tests and examples, made without a registry and without another program.

image = build([{"bin/hello": File(b"#!/bin/sh…", mode=0o755)}], command=("/bin/hello",))
image.save(path)            # an OCI archive
image.image, image.blobs    # as the platform has it
"""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from skerry.core.types.ids import Digest
from skerry.core.types.program import Compression, Image, Layer
from skerry.kit.record import Record

TIME = 1_700_000_000  # of all files: the same input gives the same digests


class File(Record):
    """A file's content and who owns it."""

    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


class Link(Record):
    """A symbolic link, or another name (`hard`) of a file in the same layer."""

    target: str
    hard: bool = False


class Folder(Record):
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


Entry = File | Link | Folder
Tree = Mapping[str, Entry]


class Built(Record):
    """An image and its blobs."""

    image: Image
    blobs: dict[Digest, bytes]

    def save(self, path: Path) -> Path:
        """As an OCI archive."""
        with tarfile.open(path, "w") as archive:
            for name, data in self.files().items():
                _add(archive, name, File(content=data))
        return path

    def save_directory(self, path: Path) -> Path:
        """As an OCI layout."""
        for name, data in self.files().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def files(self) -> dict[str, bytes]:
        """Those of an OCI layout, by name."""
        platform = {"architecture": self.image.architecture, "os": self.image.os}
        entry = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": f"sha256:{self.image.manifest}",
            "size": len(self.blobs[self.image.manifest]),
            "platform": platform,
            "annotations": {"org.opencontainers.image.ref.name": self.image.name},
        }
        index = {"schemaVersion": 2, "manifests": [entry]}
        return {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps(index).encode(),
            **{f"blobs/sha256/{digest}": data for digest, data in sorted(self.blobs.items())},
        }


def build(
    layers: Sequence[Tree | bytes],
    *,
    name: str = "test",
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    env: Sequence[str] = (),
    working_dir: str = "",
    user: str = "",
    ports: Sequence[int] = (),
    stop_signal: str = "",
    architecture: str = "amd64",
    compression: Compression = "gzip",
) -> Built:
    """Layers from the lowest up; bytes are taken as the tar archive that they are (hostile ones, say)."""
    archives = [layer if isinstance(layer, bytes) else tar(layer) for layer in layers]
    config: dict[str, Any] = {
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": list(entrypoint) or None,
            "Cmd": list(command) or None,
            "Env": list(env),
            "WorkingDir": working_dir,
            "User": user,
            "StopSignal": stop_signal,
            "ExposedPorts": {f"{port}/tcp": {} for port in ports},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(archive)}" for archive in archives]},
    }
    return pack([(compress(archive, compression), archive) for archive in archives], config, name=name, compression=compression)


def pack(
    layers: Iterable[tuple[bytes, bytes]], config: Mapping[str, Any], *, name: str = "test", compression: Compression = "gzip"
) -> Built:
    """From (blob, archive) of each layer and any configuration, right or wrong."""
    suffix = "" if compression == "none" else f"+{compression}"
    media_type = f"application/vnd.oci.image.layer.v1.tar{suffix}"
    pairs = list(layers)
    config_bytes = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", config_bytes),
        "layers": [_descriptor(media_type, blob) for blob, _ in pairs],
    }
    manifest_bytes = json.dumps(manifest).encode()
    blobs = {_sha256(data): data for data in (manifest_bytes, config_bytes, *(blob for blob, _ in pairs))}
    image = Image(
        name=name,
        manifest=_sha256(manifest_bytes),
        config=_sha256(config_bytes),
        layers=tuple(
            Layer(digest=_sha256(blob), diff_id=_sha256(archive), size=len(blob), compression=compression)
            for blob, archive in pairs
        ),
        architecture=str(config.get("architecture", "")),
    )
    return Built(image=image, blobs=blobs)


def tar(tree: Tree) -> bytes:
    """A tar archive of `tree`, parents included, in order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted({str(parent) for name in tree for parent in Path(name).parents} - {"."} - set(tree)):
            _add(archive, path, Folder())
        for name, entry in sorted(tree.items(), key=lambda item: (isinstance(item[1], Link), item[0])):
            _add(archive, name, entry)
    return out.getvalue()


def compress(archive: bytes, compression: Compression) -> bytes:
    if compression == "gzip":
        return gzip.compress(archive, compresslevel=1, mtime=0)
    if compression == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=archive, capture_output=True, check=True).stdout
    return archive


def from_machine(programs: Sequence[str], *, extra: Sequence[str] = ()) -> dict[str, Entry]:
    """Programs of this machine with the libraries that they load, and whole directories (`extra`), where they lie."""
    found: dict[str, Entry] = {}
    for program in programs:
        path = Path(program)
        found[_inside(program)] = File(content=path.read_bytes(), mode=0o755)
        for library in _libraries(program):
            found[_inside(library)] = File(content=Path(library).resolve().read_bytes(), mode=0o755)
    for directory in extra:
        for path in sorted(Path(directory).rglob("*")):
            if path.is_symlink():
                found[_inside(str(path))] = Link(target=str(path.readlink()))
            elif path.is_file() and "__pycache__" not in path.parts:
                found[_inside(str(path))] = File(content=path.read_bytes(), mode=path.stat().st_mode & 0o777)
    return found


def _libraries(program: str) -> list[str]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    words = [word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")]
    return sorted(set(words))


def _inside(path: str) -> str:
    return path.lstrip("/")


def _add(archive: tarfile.TarFile, name: str, entry: Entry) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = TIME
    data: bytes | None = None
    if isinstance(entry, Link):
        info.type, info.linkname, info.mode = (tarfile.LNKTYPE if entry.hard else tarfile.SYMTYPE), entry.target, 0o777
    else:
        info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
        if isinstance(entry, File):
            data, info.size = entry.content, len(entry.content)
        else:
            info.type = tarfile.DIRTYPE
    archive.addfile(info, io.BytesIO(data) if data is not None else None)


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{_sha256(data)}", "size": len(data)}


def _sha256(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())
