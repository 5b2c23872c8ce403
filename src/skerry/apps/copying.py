"""Files in and out of an instance, as tar archives over a conversation."""

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from skerry.apps.client import ClientError
from skerry.apps.talking import Partner, frames, talk
from skerry.kit.frames import MESSAGE_BYTES_MAX, STDIN, data_frame
from skerry.kit.record import Record
from skerry.ports.calls import CopyIn, CopyOut

BYTES_MAX = 16 << 30
HELD_BYTES_MAX = 8 << 20  # an archive in memory; a larger one waits on disk


class Done(Record):
    files: int
    size: int


def copy_out(partner: Partner, path: str, to: Path) -> Done:
    """`path` from inside: into the directory `to`, or as the new file `to`. What comes is a stranger's: nothing leaves `to`."""
    directory = to if to.is_dir() else to.parent
    if not directory.is_dir():
        raise ClientError(f"{directory}: no such directory")
    with tempfile.SpooledTemporaryFile(HELD_BYTES_MAX) as archive:
        with talk(partner, CopyOut(path=path)) as opened:
            for heard in frames(opened):
                if isinstance(heard, tuple):
                    archive.write(heard[1])
                    if archive.tell() > BYTES_MAX:
                        raise ClientError(f"{path}: more than {BYTES_MAX >> 30} GiB")
        archive.seek(0)
        rename = None if to.is_dir() else (path.rstrip("/").rpartition("/")[2], to.name)
        return _unpack(archive, directory, rename)


def _unpack(archive: IO[bytes], directory: Path, rename: tuple[str, str] | None) -> Done:
    files, size = 0, 0
    try:
        with tarfile.open(fileobj=archive, mode="r|") as opened:
            for member in opened:
                first, _, rest = member.name.partition("/")
                renamed = rename is not None and first == rename[0]
                name = member.name if rename is None or not renamed else rename[1] + (f"/{rest}" if rest else "")
                opened.extract(member.replace(name=name, deep=False), directory, filter="data")
                files, size = files + member.isreg(), size + (member.size if member.isreg() else 0)
    except (tarfile.TarError, OSError) as error:
        raise ClientError(f"{directory}: {error}") from error
    return Done(files=files, size=size)


def copy_in(partner: Partner, source: Path, directory: str) -> Done:
    """A file or directory from here into the directory inside."""
    if not os.path.lexists(source):
        raise ClientError(f"{source}: no such file or directory")
    files = [path for path in (source, *sorted(source.rglob("*"))) if path.is_file() and not path.is_symlink()]
    with talk(partner, CopyIn(directory=directory)) as opened:
        for piece in _packed(source):
            opened.send(data_frame(STDIN, piece))
        opened.send(data_frame(STDIN, b""))
        for _ in frames(opened):
            pass
    return Done(files=len(files), size=sum(path.stat().st_size for path in files))


def _packed(source: Path) -> Iterator[bytes]:
    """A tar archive of it, piece by piece, owned by root inside."""
    buffer = _Pieces()
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in (source, *(sorted(source.rglob("*")) if source.is_dir() and not source.is_symlink() else ())):
            name = Path(source.resolve().name) / path.relative_to(source)
            archive.add(path, str(name), recursive=False, filter=_owned_by_root)
            yield from buffer.taken()
    yield from buffer.taken()


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(uid=0, gid=0, uname="root", gname="root", deep=False)


class _Pieces(io.RawIOBase):
    """What tarfile writes, in pieces that fit a message."""

    def __init__(self) -> None:
        self._held = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self._held += data
        return len(data)

    def taken(self) -> Iterator[bytes]:
        while self._held:
            yield bytes(self._held[:MESSAGE_BYTES_MAX])
            del self._held[:MESSAGE_BYTES_MAX]
