"""An ASGI application on a TCP address, inside the caller's event loop and task group."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import uvicorn

from skerry.wire.pipes import SOCKET_BYTES_MAX

BACKLOG = 512
KEEP_ALIVE_S = 75
SHUTDOWN_S = 1  # long polls are cut; whoever polls asks again


class AddressTaken(Exception):
    """The address cannot be bound; the text says which and why."""


def bind(address: str) -> socket.socket:
    """Listen on `host:port`; raises `AddressTaken`."""
    host, _, port = address.rpartition(":")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise AddressTaken(f"{address}: {error.strerror}") from error
    return listener


@contextlib.asynccontextmanager
async def serving(app: Callable[..., Coroutine[Any, Any, None]], listener: socket.socket) -> AsyncGenerator[None]:
    """Serve while the block runs."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=SOCKET_BYTES_MAX,
        ws_per_message_deflate=False,
        loop="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(_serve(server, listener))  # connections wait in the listener's backlog until it runs
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)
        listener.close()


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    # `Server.serve` would take over SIGINT and SIGTERM.
    await server._serve([listener])  # pyright: ignore[reportPrivateUsage]
