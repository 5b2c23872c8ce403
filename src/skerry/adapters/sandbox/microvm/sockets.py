"""Unix sockets by directory and name: paths of any length, and never through a link that somebody put there."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Generator
from pathlib import Path

CONNECT_ROUNDS = 2000  # of 5 ms


def listen(directory: Path, name: str) -> socket.socket:
    """A listening socket at `directory/name`, in place of one that was left there. Raises `OSError`."""
    (directory / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(directory) as short:
            listener.bind(f"{short}/{name}")
        listener.listen(4)
    except BaseException:
        listener.close()
        raise
    return listener


async def connect(directory: Path, name: str) -> socket.socket:
    """Raises `OSError`: nobody listens there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        with _short(directory) as short:
            await asyncio.get_running_loop().sock_connect(connection, f"{short}/{name}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _short(directory: Path) -> Generator[str]:
    """The kernel takes 107 bytes of a socket's path; a data directory may be longer."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
