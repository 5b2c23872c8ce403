"""Whether every address that the platform will listen on is free, asked before anything is started.

Tried by binding without SO_REUSEPORT: HAProxy binds with it and would silently share the port with a stranger's.
"""

import contextlib
import os
import socket
from pathlib import Path

from skerry.apps.supervisor.errors import UpError
from skerry.kit.record import Record

_LISTEN = "0A"  # /proc/net/tcp's name of the state
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


class Wanted(Record):
    """`option` is what the operator can change it by."""

    host: str
    port: int
    use: str
    option: str


def refuse_if_taken(wanted: tuple[Wanted, ...]) -> None:
    """Raises `UpError` naming the first address that is taken, and by whom if that can be known."""
    for one in wanted:
        problem = _try(one.host, one.port)
        if problem:
            holder = find_holder(one.port)
            by = f" by {holder}" if holder else ""
            raise UpError(
                f"port {one.port} on {one.host} ({one.use}) cannot be used: {problem}{by}",
                hint=f"end what holds it, or choose another with {one.option}",
            )


def find_holder(port: int) -> str:
    """`name (pid N)` of a process that listens on the port; empty if that cannot be known."""
    inodes = {inode for table in _TABLES for inode in _listening(Path(table), port)}
    if not inodes:
        return ""
    names = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, names):
            with contextlib.suppress(OSError):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _try(host: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no holders
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError as error:
            return "it is taken" if error.errno == 98 else os.strerror(error.errno or 0).lower()
    return ""


def _listening(table: Path, port: int) -> list[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _holds(process: Path, names: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in names:
                    return True
    return False
