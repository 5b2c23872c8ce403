"""`skerry.ports.probe` by sockets of the host, which alone reaches instances at the addresses of their namespaces."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

HEAD_BYTES_MAX = 8192
_SAID = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "the instance's network does not answer",
    errno.ENETUNREACH: "the instance's network does not answer",
    errno.ECONNRESET: "the connection was reset",
}


class SocketProber:
    async def http(self, address: str, port: int, path: str, *, timeout_ms: int) -> str:
        problem, status = await _told(_status(address, port, path), timeout_ms)
        if problem or status is None:
            return problem or "it closed the connection without an answer in HTTP"
        return "" if 200 <= status < 400 else f"GET {path} was answered with {status}"

    async def tcp(self, address: str, port: int, *, timeout_ms: int) -> str:
        return (await _told(_connect(address, port), timeout_ms))[0]


async def _told(work: Awaitable[T], timeout_ms: int) -> tuple[str, T | None]:
    """(what went wrong, or empty; what came)."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            return "", await work
    except TimeoutError:
        return f"no answer in {timeout_ms} ms", None
    except asyncio.LimitOverrunError:
        return "its answer is not HTTP", None
    except OSError as error:
        return _SAID.get(error.errno or 0) or os.strerror(error.errno) if error.errno else str(error), None


async def _connect(address: str, port: int) -> None:
    _, writer = await asyncio.open_connection(address, port)
    await _close(writer)


async def _status(address: str, port: int, path: str) -> int | None:
    reader, writer = await asyncio.open_connection(address, port, limit=HEAD_BYTES_MAX)
    try:
        host = f"[{address}]" if ":" in address else address
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: skerry\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
    except ValueError:  # a line beyond the limit
        return None
    finally:
        await _close(writer)
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else None


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
