"""What a guest is told, as fields of the agent protocol, out of the records of `skerry.ports.sandbox`."""

import ipaddress
import os
import signal
import struct
import time
from pathlib import Path
from typing import NamedTuple

from skerry.adapters.sandbox.microvm.protocol import FIELD_BYTES_MAX, Tag, field
from skerry.ports.sandbox import (
    ExecSpec,
    GuestNetwork,
    Mount,
    SandboxError,
    SandboxFile,
    SandboxLimits,
    SandboxSpec,
    StartError,
    Unsupported,
)

ENTROPY_BYTES = 64
MOUNT_BYTES_MAX = 1 << 20  # a mounted file is copied into the guest's memory
MIB = 1 << 20
MOUNTED = 1 << 31  # in a file's mode: it stands for one of the host, and nobody writes to it


def program(spec: SandboxSpec) -> list[bytes]:
    """All that a fresh guest needs to run it. Raises `StartError` for what is too long, `Unsupported` for other mounts."""
    try:
        return [
            *identity(spec),
            *(field(Tag.ARG, word.encode()) for word in spec.argv),
            *(field(Tag.ENV, f"{name}={value}".encode()) for name, value in sorted(spec.env.items())),
            field(Tag.CWD, spec.working_dir.encode()),
            field(Tag.USER, struct.pack("<II", spec.uid, spec.gid)),
            *(field(Tag.GROUP, struct.pack("<I", group)) for group in spec.groups),
            field(Tag.WRITABLE_MIB, struct.pack("<I", spec.writable_mib)),
            field(Tag.READ_ONLY, bytes([spec.read_only])),
            *limits(spec.limits),
            *(part for file in _mounted(spec.mounts) for part in _file(file, flags=MOUNTED)),
            *(part for file in spec.files for part in _file(file)),
        ]
    except (ValueError, struct.error) as error:
        raise StartError(str(error)) from error


def identity(spec: SandboxSpec) -> list[bytes]:
    """Who a guest is, and what two clones must not have in common."""
    return [
        field(Tag.ENTROPY, os.urandom(ENTROPY_BYTES)),
        field(Tag.HOSTNAME, spec.hostname.encode()[:63]),
        *(network(spec.network) if spec.network is not None else ()),
        field(Tag.CLOCK, struct.pack("<Q", time.time_ns())),
    ]


def network(guest: GuestNetwork) -> list[bytes]:
    address = ipaddress.IPv4Interface(guest.address)
    return [
        field(Tag.MAC, _mac(guest.mac)),
        field(Tag.ADDRESS, address.ip.packed + bytes([address.network.prefixlen])),
        *([field(Tag.GATEWAY, ipaddress.IPv4Address(guest.gateway).packed)] if guest.gateway else []),
        *([field(Tag.GATEWAY_MAC, _mac(guest.gateway_mac))] if guest.gateway_mac else []),
        *(field(Tag.DNS, str(ipaddress.ip_address(server)).encode()) for server in guest.dns),
    ]


def limits(wanted: SandboxLimits) -> list[bytes]:
    return [
        field(Tag.MEMORY, struct.pack("<Q", wanted.memory_mib_max * MIB)),
        field(Tag.PIDS, struct.pack("<I", wanted.pids_max)),
    ]


def process(spec: ExecSpec) -> list[bytes]:
    fields = [field(Tag.ARG, word.encode()) for word in spec.argv]
    fields += [field(Tag.ENV, f"{name}={value}".encode()) for name, value in sorted(spec.env.items())]
    if spec.working_dir is not None:
        fields.append(field(Tag.CWD, spec.working_dir.encode()))
    if spec.terminal:
        fields.append(field(Tag.TERMINAL, size(spec.rows, spec.columns)))
    return fields


def size(rows: int, columns: int) -> bytes:
    return struct.pack("<HH", min(rows, 65535), min(columns, 65535))


class GuestStats(NamedTuple):
    """In the order of the guest's answer; all of them four bytes."""

    forks_refused: int = 0
    oom_kills: int = 0
    disk_kib: int = 0
    disk_kib_max: int = 0
    disk_files: int = 0
    disk_files_max: int = 0
    descriptors: int = 0
    descriptors_max: int = 0


_STATS = struct.Struct(f"<{len(GuestStats._fields)}I")


def guest_stats(answer: bytes) -> GuestStats:
    """Raises `SandboxError`: what comes from a guest is as hostile as its program."""
    if len(answer) != _STATS.size:
        raise SandboxError("the guest's numbers cannot be read")
    return GuestStats(*_STATS.unpack(answer))


def signal_number(name: str) -> int:
    """Of a name ("SIGTERM", "TERM") or a number; an unknown one is SIGTERM."""
    if name.isdigit():
        return int(name) if 0 < int(name) < signal.NSIG else signal.SIGTERM
    full = name if name.startswith("SIG") else f"SIG{name}"
    return signal.Signals.__members__.get(full, signal.SIGTERM)


def _mac(text: str) -> bytes:
    packed = bytes.fromhex(text.replace(":", ""))
    if len(packed) != 6:
        raise ValueError(f"{text} is no hardware address")
    return packed


def _file(file: SandboxFile, *, flags: int = 0) -> list[bytes]:
    if not file.path.startswith("/"):
        raise ValueError(f"{file.path}: not an absolute path")
    parts = [file.content[at : at + FIELD_BYTES_MAX] for at in range(0, len(file.content), FIELD_BYTES_MAX)]
    head = field(Tag.FILE, struct.pack("<I", file.mode | flags) + file.path.encode())
    return [head, *(field(Tag.FILE_DATA, part) for part in parts)]


def _mounted(mounts: tuple[Mount, ...]) -> list[SandboxFile]:
    """Small files of the host, as they are now; a guest has no way to the host's directories."""
    files: list[SandboxFile] = []
    for mount in mounts:
        source = Path(mount.source)
        if mount.writable or not source.is_file() or source.stat().st_size > MOUNT_BYTES_MAX:
            raise Unsupported(
                f"{mount.target}: microVMs take only read-only files of at most {MOUNT_BYTES_MAX >> 20} MiB as mounts"
            )
        files.append(SandboxFile(path=mount.target, content=source.read_bytes(), mode=0o444))
    return files
