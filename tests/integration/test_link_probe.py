"""Whether another site answers, by a TCP connect."""

import asyncio

import pytest

from skerry.adapters.link.probe import answers, try_connect
from skerry.testing.backends import free_addresses

pytestmark = pytest.mark.anyio


async def test_a_site_answers_as_long_as_its_peer_port_accepts_connections() -> None:
    (address,) = free_addresses(1)
    host, _, port = address.rpartition(":")
    assert not await answers(address)
    assert await try_connect(address) == "refuses"
    server = await asyncio.start_server(lambda reader, writer: writer.close(), host, int(port))
    async with server:
        assert await answers(address)
        assert await try_connect(address) == "accepts"
    assert not await answers(address)
