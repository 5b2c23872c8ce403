"""HTTP as Firecracker's own parser speaks it: few headers, no chunks, pipelining, one request at a time, ten connections."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

from skerry.testing.firecracker.machine import Answer, Machine

CONNECTIONS_MAX = 10
LINE_BYTES_MAX = 1024
METHODS = ("GET", "PUT", "PATCH", "DELETE")


class BadRequest(Exception):
    """Answered in the parser's own shape, and what was read is forgotten."""


class Request(NamedTuple):
    method: str
    path: str
    body: bytes


class Parser:
    """Bytes in, requests out. `expects`: a body is waited for that the client will only send when told to."""

    def __init__(self, *, body_bytes_max: int) -> None:
        self.expects = False
        self._buffer = bytearray()
        self._limit = body_bytes_max
        self._waiting: tuple[str, str, int] | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Request | None:
        """Raises `BadRequest`."""
        if self._waiting is None:
            head = self._take_head()
            if head is None:
                return None
            self._waiting = head
        method, path, length = self._waiting
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._waiting = None
        return Request(method, path, body)

    def _take_head(self) -> tuple[str, str, int] | None:
        end = self._buffer.find(b"\r\n\r\n")
        lines = bytes(self._buffer[: end if end >= 0 else len(self._buffer)]).split(b"\r\n")
        long = next((line for line in lines[1:] if len(line) > LINE_BYTES_MAX), None)
        if long is not None:
            del self._buffer[: self._buffer.find(long) + LINE_BYTES_MAX]
            raise BadRequest(f"Invalid header. Reason: Invalid content length. Header: {long[:LINE_BYTES_MAX].decode('latin-1')}")
        if end < 0:
            return None
        del self._buffer[: end + 4]
        method, path = _request_line(lines[0].decode("latin-1"))
        return method, path, self._read_headers([line.decode("latin-1") for line in lines[1:]])

    def _read_headers(self, lines: list[str]) -> int:
        length = 0
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadRequest(f"Invalid header. Reason: Header is incorrectly formatted. Key: {line}")
            if name.lower() == "content-length":
                if not value.strip().isdigit():
                    raise BadRequest(f"Invalid header. Reason: Invalid value. Key:{name}; Value:{value}")
                length = int(value)
            elif name.lower() == "transfer-encoding":
                self._buffer.clear()
                raise BadRequest("Invalid request.")
            elif name.lower() == "accept-encoding" and "identity;q=0" in value:
                raise BadRequest(f"Invalid header. Reason: Invalid value. Key:{name}; Value:{value.strip()}")
            elif name.lower() == "expect" and value.strip() == "100-continue":
                self.expects = True
        if length > self._limit:
            raise BadRequest(f"Request payload with size {length} is larger than the limit of {self._limit} allowed by server.")
        return length


def _request_line(line: str) -> tuple[str, str]:
    words = line.split(" ", 2)
    if len(words) != 3:
        raise BadRequest("Invalid request.")
    method, uri, version = words
    if method not in METHODS:
        raise BadRequest("Invalid HTTP Method: Unsupported HTTP method.")
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest("Invalid HTTP Version: Unsupported HTTP version.")
    if uri.startswith("http://"):
        uri = "/" + uri.removeprefix("http://").partition("/")[2]
    return method, uri


def response(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} ", "Server: Firecracker API", "Connection: keep-alive"]
    if answer.deprecated:
        lines.append("Deprecation: true")
    body = b""
    if answer.body is not None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body, separators=(",", ":")).encode()
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _bad(error: BadRequest) -> bytes:
    text = f'{{ "error": "{error}\nAll previous unanswered requests will be dropped." }}'
    return response(Answer(400, text.encode()))


class Server:
    """Serves one machine; `ended` is done when that has ended, as Firecracker does after a failed load."""

    def __init__(self, machine: Machine, *, body_bytes_max: int = 51_200) -> None:
        self.machine = machine
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._limit = body_bytes_max
        self._connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= CONNECTIONS_MAX:
            body = b'{ "error": "Too many open connections" }'
            writer.write(b"HTTP/1.1 503 \r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n" + body)
            writer.close()
            return
        self._connections += 1
        try:
            with contextlib.suppress(ConnectionError):
                await self._talk(reader, writer)
        finally:
            self._connections -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = Parser(body_bytes_max=self._limit)
        while not self.ended.done() and (data := await reader.read(65536)):
            parser.feed(data)
            while True:
                try:
                    request = parser.next()
                except BadRequest as error:
                    writer.write(_bad(error))
                    continue
                if parser.expects:
                    parser.expects = False
                    writer.write(b"HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n")
                if request is None:
                    break
                self._answer(request, writer)
            await writer.drain()

    def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        answer = self.machine.call(request.method, request.path, request.body or None)
        writer.write(response(answer))
        if answer.exits and not self.ended.done():
            self.ended.set_result(1)


@contextlib.asynccontextmanager
async def serving(machine: Machine, socket: Path, *, body_bytes_max: int = 51_200) -> AsyncGenerator[Server]:
    """On a Unix socket. A short path: its directory's."""
    server = Server(machine, body_bytes_max=body_bytes_max)
    listening = await asyncio.start_unix_server(server.serve, str(socket))
    try:
        yield server
    finally:
        listening.close()
