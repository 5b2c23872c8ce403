"""Constant load on one address: a small HTTP/1.1 client that counts, and never tries again by itself."""

import asyncio
import time
from collections import Counter
from types import TracebackType
from typing import Self

ANSWER_S_MAX = 20.0


class Load:
    """`async with Load("127.0.0.1:8080", "hello.default.localhost") as load: …; load.failures`.

    `clients` connections at once, kept alive; each sends its next request when the last was answered, but not more
    than `per_second` in all. A failure is an answer other than 200, a broken connection after the request was sent,
    or a refused one. A kept connection that was closed while idle is no failure: it is opened anew, as every client does.
    """

    def __init__(self, address: str, host: str, *, path: str = "/", clients: int = 4, per_second: float = 200.0) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._clients = clients
        self._pause_s = clients / per_second
        self.answered = 0
        self.failures: list[str] = []
        self.bodies: Counter[bytes] = Counter()
        self.latencies_s: list[float] = []
        self.longest_gap_s = 0.0

    async def __aenter__(self) -> Self:
        self._stop = asyncio.Event()
        self._counted = asyncio.Event()
        self._last_s = time.monotonic()
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def requests(self, count: int) -> None:
        """Until so many more were answered or failed."""
        target = self.answered + len(self.failures) + count
        while self.answered + len(self.failures) < target:
            self._counted.clear()
            await self._counted.wait()

    async def _client(self) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    if reader is None or writer is None or reader.at_eof():
                        reader, writer = await asyncio.open_connection(self._host, self._port)
                    keep = await self._ask(reader, writer)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                keep = False
            self._note(began_s)
            if not keep and writer is not None:
                writer.close()
                reader = writer = None
            await asyncio.sleep(max(0.0, self._pause_s - (time.monotonic() - began_s)))
        if writer is not None:
            writer.close()

    def _note(self, began_s: float) -> None:
        now_s = time.monotonic()
        self.latencies_s.append(now_s - began_s)
        self._counted.set()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection can be used again."""
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else await _chunks(reader)
        status = int(lines[0].split(" ")[1])
        if status == 200:
            self.answered += 1
            self.bodies[body] += 1
            now_s = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s)
            self._last_s = now_s
        else:
            self.failures.append(f"status {status}: {body[:200]!r}")
        return headers.get("connection", "").lower() != "close"


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while size := int(await reader.readline(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return b"".join(parts)
