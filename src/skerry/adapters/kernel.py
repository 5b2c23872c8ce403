"""What the kernel offers and Python's `os` does not: mounts, mapped mounts, loop devices, work in another namespace.

Everything raises `OSError` with the path in it. Paths in mount tables are found by prefix, so that what a killed process
left can be removed by the next.
"""

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

RDONLY, NOSUID, NODEV, NOEXEC, BIND, REMOUNT = 1, 2, 4, 8, 4096, 32
CLONE_NEWNET, CLONE_FS = 0x40000000, 0x200
DETACH = 2  # umount2: at once for everybody else, freed with its last user

_OPEN_TREE, _MOUNT_SETATTR, _MOVE_MOUNT = 428, 442, 429  # the same number on every machine
_OPEN_TREE_CLONE, _CLOEXEC, _EMPTY_PATH = 1, os.O_CLOEXEC, 0x1000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 1, 2, 4, 0x00100000
_AT_FDCWD = -100
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LO_AUTOCLEAR = 0x4C82, 0x4C0A, 4
_LOOP_CONFIG_BYTES, _LOOP_FLAGS_AT = 304, 60  # struct loop_config; lo_flags of its loop_info64
_LOOP_TRIES = 50  # two that ask at once are told of the same free device
_USERNS_TRIES = 2000  # of 0.5 ms

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, *, flags: int = 0, options: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(result, f"mount {kind} at {target}")


def bind(source: Path, target: Path) -> None:
    mount(str(source), str(target), "none", flags=BIND)


def unmount(path: Path) -> None:
    """All that is mounted at `path`, one upon the other; nothing there is no error."""
    with contextlib.suppress(OSError):
        while True:
            _check(_libc.umount2(str(path).encode(), DETACH), f"umount {path}")


def mounts_below(path: Path) -> tuple[Path, ...]:
    """Mount points at or below `path`, the deepest first."""
    found: list[Path] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = Path(line.split(" ")[1].encode().decode("unicode_escape"))
        if place.is_relative_to(path):
            found.append(place)
    return tuple(reversed(found))


def open_mapped_tree(path: Path, userns: int) -> int:
    """A descriptor of the directory as seen through the user ids of `userns`, read only, not mounted anywhere."""
    tree = _check(_libc.syscall(_OPEN_TREE, _AT_FDCWD, str(path).encode(), _OPEN_TREE_CLONE | _CLOEXEC), f"open_tree {path}")
    attributes = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_IDMAP
    packed = struct.pack("=QQQQ", attributes, 0, 0, userns)
    try:
        _check(_libc.syscall(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, packed, len(packed)), f"idmapped mount of {path}")
    except OSError:
        os.close(tree)
        raise
    return tree


def make_userns(first: int, count: int) -> int:
    """A descriptor of a user namespace in which 0, 1, … are `first`, `first` + 1, … outside."""
    own = Path("/proc/self/ns/user").readlink()
    child = subprocess.Popen(["/usr/bin/unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        place = Path(f"/proc/{child.pid}")
        for _ in range(_USERNS_TRIES):
            if (place / "ns/user").readlink() != own:
                break
            time.sleep(0.0005)
        for name in ("uid_map", "gid_map"):
            (place / name).write_text(f"0 {first} {count}")
        return os.open(place / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait()


def attach_loop(path: Path) -> int:
    """A descriptor of a loop device over the file; the device goes with the last that uses it."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        config = bytearray(_LOOP_CONFIG_BYTES)
        struct.pack_into("=I", config, 0, backing)
        struct.pack_into("=I", config, _LOOP_FLAGS_AT, _LO_AUTOCLEAR)
        for _ in range(_LOOP_TRIES):
            device = os.open(f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, bytes(config))
                return device
            except OSError:
                os.close(device)
        raise OSError(f"no free loop device for {path}")
    finally:
        os.close(control)
        os.close(backing)


def apart(work: Callable[[], T], *, netns: str | None = None) -> T:
    """Run `work` in a thread that has its own working directory, and its own network namespace if one is given."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _check(_libc.unshare(CLONE_FS), "unshare")
            if netns is not None:
                enter(netns)
            results.append(work())
        except BaseException as error:  # handed to whoever waits
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def enter(netns: str) -> None:
    """Move this thread."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), f"setns {netns}")
    finally:
        os.close(descriptor)


def sync_filesystem(path: Path) -> None:
    """Everything written to the file system of `path` is on its disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(descriptor), f"syncfs {path}")
    finally:
        os.close(descriptor)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
