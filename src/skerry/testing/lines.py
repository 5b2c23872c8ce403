"""A TCP server that answers each line with its name, and a client of it, for tests of public ports."""

import asyncio
import contextlib
import socket
import struct
from typing import Self

from skerry.testing.backends import free_addresses

PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
DEADLINE_S = 30


class Lines:
    """With `proxy` it takes connections as another site's listener does, the PROXY protocol's header first."""

    def __init__(self, name: str, *, proxy: bool = False) -> None:
        self.name = name
        self.address = ""
        self.count = 0  # connections on which something was said
        self._proxy = proxy
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> Self:
        host, _, port = (self.address or free_addresses(1)[0]).rpartition(":")
        self._server = await asyncio.start_server(self._serve, host, int(port))
        self.address = f"{host}:{port}"
        return self

    async def stop(self) -> None:
        """From now on connections are refused; open ones end."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._proxy and not await _skip_proxy_header(reader):
                return  # a health check
            said = False
            while await reader.readline():
                self.count += not said
                said = True
                writer.write(f"{self.name}\n".encode())
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()


def proxy_header(host: str, port: int) -> bytes:
    """As another city's ingress sends it, for a connection that came to host:port there (PROXY protocol, version 2)."""
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton(host) + struct.pack("!HH", 50_000, port)
    return PROXY_SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


async def _skip_proxy_header(reader: asyncio.StreamReader) -> bool:
    """Whether somebody's connection follows it."""
    head = await reader.readexactly(16)
    assert head.startswith(PROXY_SIGNATURE), head
    await reader.readexactly(int.from_bytes(head[14:16]))
    return head[12] & 0x0F == 1


class LineClient:
    """A connection to host:port. Every error is an `OSError`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str, *, header: bytes = b"") -> Self:
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(header)
        return cls(reader, writer)

    async def ask(self) -> str:
        """Who answers a line. Raises `ConnectionResetError` when nobody does."""
        async with asyncio.timeout(DEADLINE_S):
            self._writer.write(b"who\n")
            answer = (await self._reader.readline()).decode().strip()
        if not answer:
            raise ConnectionResetError("the connection ended")
        return answer

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def ask_once(address: str, *, header: bytes = b"") -> str:
    """Who answers at host:port; `header` is sent first. Raises `OSError`."""
    client = await LineClient.open(address, header=header)
    try:
        return await client.ask()
    finally:
        await client.close()
