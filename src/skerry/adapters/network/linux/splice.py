"""Two sockets in one: what came in before an instance served is passed on by hand, until it ends."""

import asyncio
import contextlib
import socket
import struct

from skerry.aio.tasks import cancel

_CHUNK_BYTES = 64 << 10
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


async def splice(client: socket.socket, server: socket.socket) -> None:
    """Until both sides have ended, or one has failed: then the other is reset too. Closes both, also when it is cancelled."""
    directions = [asyncio.create_task(_pass(client, server)), asyncio.create_task(_pass(server, client))]
    try:
        done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_EXCEPTION)
        if any(task.exception() is not None for task in done):
            await cancel(directions)
            reset(client)
            reset(server)
    finally:
        await cancel(directions)  # before its socket is closed: the number may be another's at once
        client.close()
        server.close()


async def _pass(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK_BYTES):
        await loop.sock_sendall(target, data)
    with contextlib.suppress(OSError):  # the other side is gone: its own direction tells
        target.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    """Close without the politeness of an end: the other side sees an error."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
