"""Swap in compressed memory: where the pages of sleeping instances go.

One per machine, made by root where there is none, and removed by whoever made it. The record is written before
the device, so a killed owner's device is found by the next one. Tenants' memory never leaves RAM: only zram is used.
"""

import contextlib
import ctypes
import os
import re
import secrets
import stat
import struct
from pathlib import Path

from skerry.adapters.files import replace_durably
from skerry.adapters.process.detached import boot_id
from skerry.kit.record import Record, decode, encode

PRIORITY = 100  # above every swap on disk
SIZE_BYTES_MAX = 16 << 30
ALGORITHM = "lz4"
LABEL = "skerry"

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SWAP_FLAG_PREFER = 0x8000
_CONTROL = Path("/sys/class/zram-control")
_BLOCK = Path("/sys/block")
_SWAPS = Path("/proc/swaps")


class ZramError(Exception):
    """The kernel refuses; the text says what."""


class Owned(Record):
    """What the owner noted before it made a device: those that were there, and the boot they belong to."""

    boot: str
    before: tuple[str, ...]
    mark: str  # in the label of the swap header


def usable_swap() -> bool:
    """Whether the next page that is swapped out goes to zram."""
    entries = _swaps()
    return bool(entries) and max(entries, key=lambda entry: entry[1])[0].startswith("/dev/zram")


def ensure_swap(record: Path, *, size_bytes: int | None = None) -> bool:
    """Make sure that there is swap on zram; True if this made it, False if it was there. Raises `ZramError`.

    `remove_swap` undoes it. Blocks for about 20 ms.
    """
    remove_swap(record)
    if usable_swap():
        return False
    make_swap(record, size_bytes=size_bytes)
    return True


def make_swap(record: Path, *, size_bytes: int | None = None) -> None:
    """A zram device with swap on it, whatever else there is. Raises `ZramError`."""
    if not _CONTROL.is_dir() or os.geteuid() != 0:
        raise ZramError("this kernel has no zram (modprobe zram)" if os.geteuid() == 0 else "swap needs root")
    mark = f"{LABEL}{secrets.token_hex(4)}"
    replace_durably(record, encode(Owned(boot=boot_id(), before=_devices(), mark=mark)))
    size = size_bytes if size_bytes is not None else min(SIZE_BYTES_MAX, _memory_bytes() // 2)
    try:
        device = f"zram{int((_CONTROL / 'hot_add').read_text())}"  # reading it makes a device
        with contextlib.suppress(OSError):
            _write(_BLOCK / device / "comp_algorithm", ALGORITHM)
        _write(_BLOCK / device / "disksize", str(size))
        node = _node(device)
        _write_header(node, size, mark)
        _call("swapon", node, _SWAP_FLAG_PREFER | PRIORITY)
    except OSError as error:
        remove_swap(record)
        raise ZramError(f"no swap on zram: {error}") from error


def remove_swap(record: Path) -> None:
    """Remove what `ensure_swap` made with this record, all or half of it; nothing if there is none. Idempotent.

    Raises `ZramError` when pages in it have no room in memory; the record then stays.
    """
    try:
        owned = decode(record.read_bytes(), Owned)
    except FileNotFoundError:
        return
    except ValueError:
        record.unlink()
        return
    if owned.boot == boot_id():
        for device in _devices():
            if device not in owned.before and _is_ours(device, owned.mark):
                _remove_device(device)
    record.unlink(missing_ok=True)


def _is_ours(device: str, mark: str) -> bool:
    """By the mark in its header. One that is newer than the record and empty is half made, and nobody else's."""
    if (_BLOCK / device / "disksize").read_text().strip() == "0":
        return True
    with contextlib.suppress(OSError), _node(device).open("rb") as file:
        header = file.read(_PAGE)
        return mark.encode() in header or not any(header)
    return False


def _remove_device(device: str) -> None:
    node = _node(device)
    try:
        if any(name == f"/dev/{device}" for name, _ in _swaps()):
            _call("swapoff", node)
        _write(_BLOCK / device / "reset", "1")
        _write(_CONTROL / "hot_remove", device.removeprefix("zram"))
    except OSError as error:
        raise ZramError(f"{device} cannot be removed: {error}") from error


def _write_header(node: Path, size: int, mark: str) -> None:
    """What mkswap writes: version 1, last page, no bad pages, an id and a label; the magic at the end of the page."""
    header = bytearray(_PAGE)
    struct.pack_into("=III", header, 1024, 1, size // _PAGE - 1, 0)
    struct.pack_into("16s16s", header, 1036, secrets.token_bytes(16), mark.encode())
    header[-10:] = b"SWAPSPACE2"
    with node.open("r+b", buffering=0) as file:
        file.write(header)


def _node(device: str) -> Path:
    """The device file; made where nothing else makes them (a container)."""
    node = Path("/dev") / device
    if not node.exists():
        major, minor = (_BLOCK / device / "dev").read_text().strip().split(":")
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
    return node


def _call(name: str, node: Path, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(str(node).encode(), *arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name} {node}: {os.strerror(ctypes.get_errno())}")


def _swaps() -> list[tuple[str, int]]:
    """(device, priority) of all swap in use."""
    lines = _SWAPS.read_text().splitlines()[1:]
    return [(line.split()[0], int(line.split()[4])) for line in lines if line.strip()]


def _devices() -> tuple[str, ...]:
    return tuple(sorted(path.name for path in _BLOCK.glob("zram*")))


def _memory_bytes() -> int:
    found = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) << 10 if found else 1 << 30


def _write(path: Path, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
