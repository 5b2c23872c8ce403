"""Counting at the real HAProxy: what only it can show."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.testing.backends import Backend, Connection, fetch
from skerry.testing.contracts.ingress import asked, served
from skerry.testing.haproxy_site import HAProxySite, route, table
from skerry.testing.waiting import eventually
from skerry.testing.websockets import open_websocket, say

pytestmark = pytest.mark.skipif(not tools.find_haproxy().usable, reason=f"haproxy: {tools.find_haproxy().problem}")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HAProxySite]:
    made = HAProxySite(tmp_path / "lhr")
    try:
        yield made
    finally:
        made.remove()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A WebSocket server of one client, for short masked frames."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    try:
        while head := await reader.readexactly(2):
            text = (await reader.readexactly(4 + (head[1] & 0x7F)))[4:]
            writer.write(bytes((0x81, len(text))) + text)
    except (asyncio.IncompleteReadError, OSError):
        writer.close()


async def test_a_websocket_is_one_request(site: HAProxySite) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    backend = Backend("one")
    backend.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ingress = await site.open()
    try:
        await ingress.apply(table("lhr", route("app", backend)))
        reader, writer = await open_websocket(site.users)
        for _ in range(5):
            assert await say(reader, writer, b"hi") == b"hi"
        writer.close()
        counts = await ingress.take_counts()
        assert (asked(counts), served(counts)) == ({"app": (1, 0)}, {"one": (1, 0)})
    finally:
        server.close()
        await ingress.aclose(stop=True)


async def test_a_kept_connection_counts_each_request_and_a_reload_in_between_none_twice(site: HAProxySite) -> None:
    backend = await Backend("one").start()
    ingress = await site.open()
    connection = Connection(site.users)
    try:
        await ingress.apply(table("lhr", route("app", backend)))
        for _ in range(7):
            assert (await connection.request("app.test")).status == 200
        await ingress.apply(table("lhr", route("app", backend), *(route(f"more-{number}", backend) for number in range(40))))
        assert len(site.processes()) >= 2
        for _ in range(5):
            assert (await connection.request("app.test")).status == 200
        counts = await ingress.take_counts()
        assert (asked(counts), served(counts)) == ({"app": (12, 0)}, {"one": (12, 0)})
    finally:
        await connection.close()
        await ingress.aclose(stop=True)
        await backend.stop()


async def test_a_request_that_another_city_answers_counts_in_the_city_where_it_came_in(tmp_path: Path, site: HAProxySite) -> None:
    far = HAProxySite(tmp_path / "cur", name="cur")
    backend = await Backend("there").start()
    here, there = await site.open(), await far.open()
    peer = Backend("cur")
    peer.address = far.peers
    try:
        await there.apply(table("cur", route("app", backend)))
        await here.apply(table("lhr", route("app", fallbacks=(peer,))))
        await eventually(lambda: there.pid)
        for _ in range(9):
            assert (await fetch(site.users, "app.test")).status == 200
        ours, theirs = await here.take_counts(), await there.take_counts()
        assert (asked(ours), served(ours)) == ({"app": (9, 0)}, {})
        assert (asked(theirs), served(theirs)) == ({}, {"there": (9, 0)})
    finally:
        await here.aclose(stop=True)
        await there.aclose(stop=True)
        await backend.stop()
        far.remove()


async def test_the_time_until_an_answer_begins_is_added_up(site: HAProxySite) -> None:
    backend = await Backend("one").start()
    ingress = await site.open()
    try:
        await ingress.apply(table("lhr", route("app", backend)))
        assert (await fetch(site.users, "app.test")).status == 200
        backend.mode = "hold"
        held = asyncio.create_task(fetch(site.users, "app.test"))
        await eventually(lambda: len(backend.heads) == 2)
        await asyncio.sleep(0.12)  # what is measured
        backend.release()
        assert (await held).status == 200
        (instance,) = (await ingress.take_counts()).instances
        assert instance.requests == 2
        assert 120 <= instance.latency_ms_sum < 60_000
    finally:
        await ingress.aclose(stop=True)
        await backend.stop()
