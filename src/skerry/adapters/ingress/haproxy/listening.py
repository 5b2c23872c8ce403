"""Whether an address can be listened on, and who holds it if not.

HAProxy binds with SO_REUSEPORT, so it would share a port with another process of the same user without a word: an
address of one site alone is tried without that option, the shared one with it.
"""

import contextlib
import errno
import os
import socket
from pathlib import Path

_LISTEN = "0A"  # the state, as /proc/net/tcp writes it


def problem_of(address: str, *, shared: bool) -> str:
    """Empty if it can be bound; else a sentence with the port and, if it can be known, who holds it."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no holders
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind((host, int(port)))
            listener.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return f"port {port} on {host} cannot be used: {os.strerror(error.errno or 0).lower()}"
            holder = holder_of(int(port))
            return f"port {port} on {host} is taken" + (f" by {holder}" if holder else "")
    return ""


def holder_of(port: int) -> str:
    """`name (pid N)` of a process that listens on the port; empty if that cannot be known."""
    sockets = {f"socket:[{inode}]" for table in ("/proc/net/tcp", "/proc/net/tcp6") for inode in _inodes(Path(table), port)}
    for process in Path("/proc").iterdir() if sockets else ():
        if process.name.isdigit() and _holds(process, sockets):
            with contextlib.suppress(OSError):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _inodes(table: Path, port: int) -> list[str]:
    with contextlib.suppress(OSError):
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
        return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]
    return []


def _holds(process: Path, sockets: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False
