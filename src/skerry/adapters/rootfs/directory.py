"""`skerry.ports.rootfs` on a directory that holds somebody else's files: the kernel keeps every link inside it."""

import asyncio
import ctypes
import errno
import functools
import os
import struct

from skerry.ports.rootfs import Identity, NoSuchUser

FILE_BYTES_MAX = 1 << 20  # /etc/passwd of an image
ID_MAX = 2**31 - 1
_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10


class DirectoryRootFiles:
    async def identity(self, rootfs: str, user: str) -> Identity:
        return await asyncio.to_thread(_identity, rootfs, user)


def _identity(rootfs: str, wanted: str) -> Identity:
    name, _, group = wanted.partition(":")
    users = _table(rootfs, "etc/passwd", columns=6)
    groups = _table(rootfs, "etc/group", columns=3)
    entry = next((row for row in users if row[0] == name or (row[2] == (name or "0"))), None)
    uid = _number(entry[2] if entry is not None else name or "0", f"user {name}")
    gid = _number(entry[3], "group") if entry is not None else 0
    home = entry[5] if entry is not None and entry[5].startswith("/") else "/"
    if group:
        row = next((row for row in groups if row[0] == group), None)
        return Identity(uid=uid, gid=_number(row[2] if row is not None else group, f"group {group}"), home=home)
    user = entry[0] if entry is not None else name
    others = [_number(row[2], "group") for row in groups if len(row) > 3 and user in row[3].split(",")]
    return Identity(uid=uid, gid=gid, groups=tuple(sorted(set(others))), home=home)


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > ID_MAX:
        raise NoSuchUser(f"the image has no {what}")
    return int(text)


def _table(rootfs: str, path: str, *, columns: int) -> list[list[str]]:
    rows = [line.split(":") for line in _read_inside(rootfs, path).splitlines() if not line.startswith("#")]
    return [row for row in rows if len(row) >= columns]


def _read_inside(rootfs: str, path: str) -> str:
    """Empty if there is no such plain file."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _open_in_root(root, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return ""
        raise
    finally:
        os.close(root)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(FILE_BYTES_MAX).decode(errors="replace")


def _open_in_root(root: int, path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    how = struct.pack("QQQ", flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    descriptor = _libc().syscall(_OPENAT2, root, path.encode(), how, len(how))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return descriptor


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
