"""Unix sockets by directory and name: paths of any length, and never through a link that somebody put there."""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Generator
from pathlib import Path


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
    """Raises `OSError`: nobody listens there, or what is there is no socket. `directory` may be a monitor's own: a link that one
    which a guest has taken over puts there is not followed."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    place = -1
    try:
        place = os.open(directory / name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise OSError(f"{directory / name} is no socket")
        await asyncio.get_running_loop().sock_connect(connection, f"/proc/self/fd/{place}")
    except BaseException:
        connection.close()
        raise
    finally:
        if place >= 0:
            os.close(place)
    return connection


@contextlib.contextmanager
def _short(directory: Path) -> Generator[str]:
    """The kernel takes 107 bytes of a socket's path; a data directory may be longer."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
