"""A WebSocket client of a few lines, for short text messages."""

import asyncio


async def open_websocket(
    address: str, *, host: str = "app.test", path: str = "/ws"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """At `host:port` of `address`; fails if the answer is not 101."""
    place, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(place, int(port))
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\n".encode() + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    return reader, writer


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    """Send one masked text frame, read one short text frame."""
    writer.write(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
    return await hear(reader)


async def hear(reader: asyncio.StreamReader) -> bytes:
    """The next short text frame."""
    first = await asyncio.wait_for(reader.readexactly(2), 20)
    return await reader.readexactly(first[1])
