"""Small HTTP/1.1 back ends and a client for tests of the ingress: loopback, free ports, no dependencies."""

import asyncio
import contextlib
import itertools
import os
import socket
from typing import Literal

from skerry.kit.record import Record

Mode = Literal["answer", "break", "hold", "not_here"]
HEAD_BYTES_MAX = 1 << 20
DEADLINE_S = 30
_numbers = itertools.count()


def free_addresses(count: int) -> tuple[str, ...]:
    """host:port on a loopback address that no other test of this machine uses."""
    host = f"127.{100 + os.getpid() // 250 % 100}.{1 + os.getpid() % 250}.{1 + next(_numbers) % 250}"
    found: list[str] = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind((host, 0))
            found.append(f"{host}:{listener.getsockname()[1]}")
    return tuple(found)


class Reply(Record):
    """`headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def by(self) -> str:
        """The back end that answered; empty if none did."""
        return self.headers.get("x-backend", "")


class Backend:
    """Answers every request with its name in `x-backend` and the request's head as the body.

    `mode` holds for requests from then on: "break" closes without an answer, "hold" answers after `release`,
    "not_here" is a peer's 425. `stop` makes connections be refused.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.mode: Mode = "answer"
        self.heads: list[str] = []  # of the requests it got, health checks left out
        self.address = ""
        self.arrived = asyncio.Event()
        self._released = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, address: str = "") -> "Backend":
        host, _, port = (address or free_addresses(1)[0]).rpartition(":")
        self._server = await asyncio.start_server(self._serve, host, int(port), limit=HEAD_BYTES_MAX)
        self.address = f"{host}:{port}"
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            self._server = None

    def release(self) -> None:
        self.mode = "answer"
        self._released.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled: the test is over
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        raw = await reader.readuntil(b"\r\n\r\n")
        head = raw.decode()
        headers = parse_headers(head)
        await reader.readexactly(int(headers.get("content-length", "0")))
        if " /-/skerry/alive " in head:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return True
        self.heads.append(head)
        self.arrived.set()
        mode = self.mode
        if mode == "break":
            return False
        if mode == "hold":
            await self._released.wait()
        status = "425 Too Early" if mode == "not_here" else "200 OK"
        body = b"" if head.startswith("HEAD ") else raw
        extra = f"x-backend: {self.name}\r\ncontent-type: text/plain\r\ncontent-length: {len(raw)}\r\n"
        writer.write(f"HTTP/1.1 {status}\r\n{extra}\r\n".encode() + body)
        await writer.drain()
        return True


class Connection:
    """A client's kept-alive connection. Raises `OSError` or `asyncio.IncompleteReadError` when it is broken."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self, host: str, *, method: str = "GET", path: str = "/", headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        lines = {"host": host, **(headers or {})} | ({"content-length": str(len(body))} if body else {})
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await self._open()
            writer.write(head.encode() + body)
            await writer.drain()
            return await self._read(reader, head_only=method == "HEAD")

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._reader = self._writer = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            host, _, port = self._address.rpartition(":")
            self._reader, self._writer = await asyncio.open_connection(host, int(port), limit=HEAD_BYTES_MAX)
        return self._reader, self._writer

    async def _read(self, reader: asyncio.StreamReader, *, head_only: bool) -> Reply:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = parse_headers(head)
        body = b"" if head_only else await _body(reader, headers)
        if headers.get("connection") == "close":
            await self.close()
        return Reply(status=int(head.split(" ", 2)[1]), headers=headers, body=body)


async def fetch(
    address: str, host: str, *, method: str = "GET", path: str = "/", headers: dict[str, str] | None = None, body: bytes = b""
) -> Reply:
    """One request on a connection of its own."""
    connection = Connection(address)
    try:
        return await connection.request(host, method=method, path=path, headers=headers, body=body)
    finally:
        await connection.close()


def parse_headers(head: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.split("\r\n")[1:] if line)
    return {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        parts: list[bytes] = []
        while size := int((await reader.readline()).strip() or b"0", 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
        return b"".join(parts)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read() if headers.get("connection") == "close" else b""
