"""Connections that are passed on by hand."""

import asyncio
import socket

import pytest

from skerry.adapters.network.linux.splice import reset, splice

BIG = b"x" * (4 << 20)


async def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """(one end, the other), both without blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(False)
    return near, far


async def read_all(end: socket.socket) -> bytes:
    loop, found = asyncio.get_running_loop(), bytearray()
    while data := await loop.sock_recv(end, 1 << 16):
        found += data
    return bytes(found)


async def test_all_bytes_go_both_ways_and_an_end_is_passed_on_by_itself() -> None:
    loop = asyncio.get_running_loop()
    client, inner_client = await tcp_pair()
    inner_server, server = await tcp_pair()
    running = asyncio.create_task(splice(inner_client, inner_server))
    reading = asyncio.create_task(read_all(server))
    await loop.sock_sendall(client, BIG)
    client.shutdown(socket.SHUT_WR)
    assert await reading == BIG
    assert not running.done()  # the other direction is open yet
    reading = asyncio.create_task(read_all(client))
    await loop.sock_sendall(server, BIG)
    server.close()
    assert await reading == BIG
    await running
    client.close()


async def test_a_reset_is_passed_on() -> None:
    client, inner_client = await tcp_pair()
    inner_server, server = await tcp_pair()
    running = asyncio.create_task(splice(inner_client, inner_server))
    await asyncio.get_running_loop().sock_sendall(server, b"half of an answer")
    assert await asyncio.get_running_loop().sock_recv(client, 100) == b"half of an answer"
    reset(server)
    with pytest.raises(ConnectionResetError):
        await read_all(client)
    await running
    client.close()


async def test_cancelled_it_lets_go_of_everything() -> None:
    client, inner_client = await tcp_pair()
    inner_server, server = await tcp_pair()
    others = asyncio.all_tasks()
    running = asyncio.create_task(splice(inner_client, inner_server))
    await asyncio.get_running_loop().sock_sendall(client, b"x")
    assert await asyncio.get_running_loop().sock_recv(server, 1) == b"x"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == others
    assert (inner_client.fileno(), inner_server.fileno()) == (-1, -1)
    assert await read_all(client) == b""
    client.close()
    server.close()
