"""Unpack one layer, in a process that is good for nothing else: `python -m skerry.adapters.images.unpack` (see `unpacking`).

The layer is hostile. This process has its root in the directory that it fills, so no name and no link leads out; it has no
capabilities but those to own files; memory and open files are limited; what comes out is counted. Whiteouts become those of
overlayfs. Not made: devices, pipes and sockets, file capabilities and other attributes than the user's own.

stdin: the blob. argv: target, compression, limits as JSON. stdout: JSON, `{"diff_id", "bytes", "entries"}` or `{"bad": why}`.
"""

import ctypes
import hashlib
import importlib
import json
import os
import resource
import shutil
import stat
import sys
import tarfile
import zlib
from collections.abc import Callable
from typing import IO, Any, cast

CHUNK = 1 << 20
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
MEMORY_BYTES_MAX = 1 << 30  # of address space; a tar header may ask for as much as it likes
CAPABILITIES = (0, 1, 3, 4)  # CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID
IDS = 65_536  # of users and groups that an instance has
RATIO_FROM_BYTES = 256 << 20  # zeros pack well: below this nobody asks how well
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _CAP_LAST = 24, 38, 40
_CAP_VERSION = 0x20080522


class Bad(Exception):
    """The layer's own fault."""


class Full(Exception):
    """The machine's."""


class Counted:
    """The archive, decompressed as it is read: hashed, counted, and refused when there is too much."""

    def __init__(self, blob: IO[bytes], compression: str, *, bytes_max: int, ratio_max: int) -> None:
        self._read: Callable[[int], bytes] = _reader(blob, compression)
        self._blob = blob
        self._hasher = hashlib.sha256()
        self._bytes_max = bytes_max
        self._ratio_max = ratio_max
        self.size = 0

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self.size += len(data)
        if self.size > self._bytes_max:
            raise Bad(f"more than {self._bytes_max >> 20} MiB unpacked")
        if self.size > RATIO_FROM_BYTES and self.size > self._ratio_max * max(1, self._blob.tell()):
            raise Bad(f"grows more than {self._ratio_max} times when unpacked")
        self._hasher.update(data)
        return data

    def finish(self) -> str:
        """Read to the end: the diff_id is over everything."""
        while self.read(CHUNK):
            pass
        return self._hasher.hexdigest()


def _reader(blob: IO[bytes], compression: str) -> Callable[[int], bytes]:
    if compression == "none":
        return blob.read
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(blob, read_across_frames=True).read
    return _Gzip(blob).read


class _Gzip:
    """zlib alone: members one after the other, at most `size` bytes at a time whatever the input grows to."""

    def __init__(self, blob: IO[bytes]) -> None:
        self._blob = blob
        self._inflate = zlib.decompressobj(31)
        self._left = b""
        self._begun = False

    def read(self, size: int) -> bytes:
        while True:
            if not self._left:
                self._left = self._blob.read(CHUNK)
            if not self._left:
                if self._begun and not self._inflate.eof:
                    raise Bad("the compressed stream is cut short")
                return b""
            if self._inflate.eof:
                if self._left.strip(b"\0") == b"":  # padding
                    self._left = b""
                    continue
                self._inflate = zlib.decompressobj(31)
            self._begun = True
            data = self._inflate.decompress(self._left, size)
            self._left = self._inflate.unconsumed_tail or self._inflate.unused_data
            if data:
                return data


class Tree:
    """The directory that is filled; "/" of this process."""

    def __init__(self, *, bytes_max: int, entries_max: int, reserve_bytes: int) -> None:
        self._bytes_max = bytes_max
        self._entries_max = entries_max
        self._claimed = 0
        self._reserve = reserve_bytes
        self._times: dict[str, int] = {}  # of directories, set when all that is in them is made
        self._unchecked = 0
        self.entries = 0

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.entries += 1
        if self.entries > self._entries_max:
            raise Bad(f"more than {self._entries_max} files")
        self._claimed += member.size  # of a sparse file that is what it would be, filled
        if self._claimed > self._bytes_max:
            raise Bad(f"files of more than {self._bytes_max >> 20} MiB")
        if not (0 <= member.uid < IDS and 0 <= member.gid < IDS):
            raise Bad(f"{member.name[:200]!r}: owned by {member.uid}:{member.gid}; ids below {IDS} exist in a container")
        path = _inside(member.name)
        parent, _, name = path.rpartition("/")
        if name == OPAQUE:
            os.setxattr(self._directory(parent), "user.overlay.opaque", b"y")
        elif name.startswith(WHITEOUT):
            self._white_out(parent, name.removeprefix(WHITEOUT))
        elif member.isdir():
            self._make_directory(path, member)
        elif member.isreg() or member.issparse() or member.type == tarfile.CONTTYPE:
            self._make_file(archive, path, member)
        elif member.issym() or member.islnk():
            self._make_link(path, member)
        elif not (member.ischr() or member.isblk() or member.isfifo()):
            raise Bad(f"{member.name[:200]!r}: of a kind that no layer has")

    def finish(self) -> None:
        for path, time in sorted(self._times.items(), reverse=True):
            if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114 it may have been replaced
                os.utime(path, (time, time))

    def _directory(self, path: str) -> str:
        """The parent of something, made if no entry named it."""
        os.makedirs(path or "/", mode=0o755, exist_ok=True)  # noqa: PTH103
        return path or "/"

    def _white_out(self, parent: str, name: str) -> None:
        if name in ("", ".", ".."):
            raise Bad("a whiteout of nothing")
        path = f"{self._directory(parent)}/{name}"
        _clear(path)
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))

    def _make_directory(self, path: str, member: tarfile.TarInfo) -> None:
        if path in ("", "/"):
            path = "/"
        elif not (os.path.isdir(path) and not os.path.islink(path)):  # noqa: PTH112, PTH114
            self._directory(path.rpartition("/")[0])
            _clear(path)
            os.mkdir(path)  # noqa: PTH102
        _own(path, member)
        os.chmod(path, stat.S_IMODE(member.mode))  # noqa: PTH101
        _attributes(path, member)
        self._times[path] = _time(member)

    def _make_file(self, archive: tarfile.TarFile, path: str, member: tarfile.TarInfo) -> None:
        self._directory(path.rpartition("/")[0])
        _clear(path)
        source = archive.extractfile(member)
        assert source is not None
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            self._copy(source, target, member.size)
            os.fchown(target, member.uid, member.gid)
            os.fchmod(target, stat.S_IMODE(member.mode))
            os.utime(target, (_time(member), _time(member)))
        finally:
            os.close(target)
        _attributes(path, member)

    def _copy(self, source: IO[bytes], target: int, size: int) -> None:
        """Zeros become holes: a sparse file costs what is in it."""
        done = 0
        while data := source.read(min(CHUNK, size - done)):
            self._count(len(data))
            if data.count(0) == len(data):
                os.lseek(target, len(data), os.SEEK_CUR)
            else:
                _write_all(target, data)
            done += len(data)
        if done != size:
            raise Bad("cut short")
        os.ftruncate(target, size)

    def _count(self, size: int) -> None:
        self._unchecked += size
        if self._unchecked > 32 * CHUNK:
            self._unchecked = 0
            free = os.statvfs("/")
            if free.f_bavail * free.f_frsize < self._reserve:
                raise Full("the disk is nearly full")

    def _make_link(self, path: str, member: tarfile.TarInfo) -> None:
        self._directory(path.rpartition("/")[0])
        _clear(path)
        if member.islnk():
            os.link(_inside(member.linkname), path, follow_symlinks=False)
        else:
            os.symlink(member.linkname, path)  # noqa: PTH211
            _own(path, member)


def _inside(name: str) -> str:
    """An absolute path; this process's root is the layer's."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise Bad(f"{name[:200]!r} leads out of the image")
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in parts) or len(name) > 4000:
        raise Bad(f"{name[:100]!r}…: the name is too long")
    return "/" + "/".join(parts) if parts else "/"


def _clear(path: str) -> None:
    """Make way for another kind of file, or another one."""
    if path in ("", "/"):
        raise Bad("the root is a directory")
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        pass


def _own(path: str, member: tarfile.TarInfo) -> None:
    os.chown(path, member.uid, member.gid, follow_symlinks=False)


def _time(member: tarfile.TarInfo) -> int:
    return int(min(max(member.mtime, 0), 1 << 33))


def _attributes(path: str, member: tarfile.TarInfo) -> None:
    """The user's own, less those by which overlayfs would be led elsewhere."""
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and name.startswith("user.") and not name.startswith("user.overlay."):
            os.setxattr(path, name, value.encode(errors="surrogateescape"), follow_symlinks=False)


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def confine(target: str) -> None:
    """From here on nothing outside of `target` is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    os.closerange(3, 4096)
    os.umask(0o022)
    os.chroot(target)
    os.chdir("/")
    os.setgroups([])
    for capability in range(_CAP_LAST + 1):
        if capability not in CAPABILITIES:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    wanted = sum(1 << capability for capability in CAPABILITIES)
    header = (ctypes.c_uint32 * 2)(_CAP_VERSION, 0)
    data = (ctypes.c_uint32 * 6)(wanted, wanted, 0, 0, 0, 0)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def unpack(blob: IO[bytes], compression: str, limits: dict[str, int]) -> dict[str, Any]:
    counted = Counted(blob, compression, bytes_max=limits["bytes_max"], ratio_max=limits["ratio_max"])
    tree = Tree(bytes_max=limits["bytes_max"], entries_max=limits["entries_max"], reserve_bytes=limits["reserve_bytes"])
    stream = cast("IO[bytes]", counted)  # tarfile only ever calls `read`
    with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as archive:
        for member in archive:
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue] a stream keeps what it has seen, for nothing
            try:
                tree.add(archive, member)
            except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise Bad(f"{member.name[:200]!r}: {error.strerror}") from error
    tree.finish()
    return {"diff_id": counted.finish(), "bytes": counted.size, "entries": tree.entries}


def main(target: str, compression: str, limits: str) -> int:
    blob = os.fdopen(0, "rb", buffering=CHUNK)
    if compression == "zstd":
        importlib.import_module("zstandard")  # there is nothing to import from, once confined
    try:
        confine(target)
        result = unpack(blob, compression, json.loads(limits))
    except Bad as error:
        result = {"bad": str(error)}
    except Full as error:
        result = {"full": str(error)}
    except (tarfile.TarError, zlib.error, EOFError, ValueError, RecursionError) as error:
        result = {"bad": f"{type(error).__name__}: {error}"[:500]}
    except MemoryError:
        result = {"bad": "a header of it asks for too much memory"}
    except OSError as error:
        result = {"full" if error.errno in (28, 122) else "bad": f"{error.strerror}: {error.filename}"[:500]}
    except Exception as error:
        result = {"bad": f"{type(error).__name__}: {error}"[:500]}
    sys.stdout.write(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
