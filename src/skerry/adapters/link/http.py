"""Links over HTTP/1.1 with JSON records and a bearer secret.

    POST /internal/v1/<kind>/<id>/report                     204
    GET  /internal/v1/<kind>/<id>/slice?after=G&wait_ms=W    200 a slice, 204 none newer
    GET  /internal/v1/<kind>/<id>/calls?wait_ms=W            200 calls, 204 none
    GET  /internal/v1/<kind>/<id>/calls/<call>               101 a WebSocket: the conversation
    GET  /internal/v1/blobs/<digest>                         200 the bytes, 404 none such, 503 not to be had now

`kind` is `sites` (towards control) or `nodes` (towards a site). 401, 403 and 404 mean that the upper plane does
not know this caller (`Refused`); everything else that is no answer is `Unreachable`.
"""

import hashlib
from collections.abc import AsyncIterator
from typing import TypeVar

import httpcore
import msgspec

from skerry.core.types.ids import Digest
from skerry.core.types.slices import NodeReport, NodeSlice, SiteReport, SiteSlice
from skerry.kit import record
from skerry.ports.calls import Call, Calls, Pipe
from skerry.ports.links import Refused, Unreachable

T = TypeVar("T", bound=record.Record)

CONNECT_S_MAX = 2.0
ANSWER_S_MAX = 10.0  # beyond the time that a call asks to be held
BODY_BYTES_MAX = 256 << 20  # a site's slice with ten thousand apps is far below
CONNECTIONS_MAX = 16
SAID_BYTES_MAX = 300  # of why a blob is not to be had
DIGITS_SAID = 12


class _HttpLink:
    def __init__(self, base_url: str, *, kind: str, caller: str, secret: str) -> None:
        self._base = f"{base_url}/internal/v1"
        self._own = f"{self._base}/{kind}/{caller}"
        self._headers = [(b"authorization", f"Bearer {secret}".encode())]
        self._pool = httpcore.AsyncConnectionPool(max_connections=CONNECTIONS_MAX, keepalive_expiry=60)

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def blob(self, digest: Digest) -> bytes:
        """The bytes, checked against their name."""
        status, body = await self._call("GET", f"{self._base}/blobs/{digest}")
        if status != 200:
            raise Unreachable(
                f"blob {digest[:DIGITS_SAID]}: status {status} {body[:SAID_BYTES_MAX].decode(errors='replace')}".rstrip()
            )
        if hashlib.sha256(body).hexdigest() != digest:
            raise Unreachable(f"blob {digest[:DIGITS_SAID]}: what came has another hash")
        return body

    async def next_calls(self, *, wait_ms: int) -> tuple[Call, ...]:
        status, body = await self._call("GET", f"{self._own}/calls?wait_ms={wait_ms}", held_s=wait_ms / 1000)
        if status == 204:
            return ()
        if status != 200:
            raise Unreachable(f"calls: status {status}")
        try:
            return record.decode(body, Calls).calls
        except msgspec.DecodeError as error:
            raise Unreachable(f"calls: {error}") from error

    async def answer(self, call_id: str) -> Pipe:
        # Imported at the first call: most planes of most platforms never have one.
        from skerry.adapters.link.pipe import open_pipe

        return await open_pipe(f"{self._own}/calls/{call_id}", self._headers)

    async def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        """Piece by piece, unchecked: for what is too large for memory."""
        timeout = {"connect": CONNECT_S_MAX, "pool": CONNECT_S_MAX, "read": ANSWER_S_MAX, "write": ANSWER_S_MAX}
        url = f"{self._base}/blobs/{digest}"
        try:
            async with self._pool.stream("GET", url, headers=self._headers, extensions={"timeout": timeout}) as response:
                if response.status != 200:
                    raise Unreachable(f"blob {digest}: status {response.status}")
                async for part in response.aiter_stream():
                    yield part
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise Unreachable(f"{url}: {type(error).__name__} {error}") from error

    async def _report(self, report: record.Record) -> None:
        status, _ = await self._call("POST", f"{self._own}/report", body=record.encode(report))
        if status != 204:
            raise Unreachable(f"report: status {status}")

    async def _next(self, as_type: type[T], *, after: int, wait_ms: int) -> T | None:
        url = f"{self._own}/slice?after={after}&wait_ms={wait_ms}"
        status, body = await self._call("GET", url, held_s=wait_ms / 1000)
        if status == 204:
            return None
        if status != 200:
            raise Unreachable(f"slice: status {status}")
        try:
            return record.decode(body, as_type)
        except msgspec.DecodeError as error:
            raise Unreachable(f"slice: {error}") from error

    async def _call(self, method: str, url: str, *, body: bytes | None = None, held_s: float = 0) -> tuple[int, bytes]:
        timeout = {"connect": CONNECT_S_MAX, "pool": CONNECT_S_MAX, "read": ANSWER_S_MAX + held_s, "write": ANSWER_S_MAX}
        headers = list(self._headers)
        if body is not None:
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        try:
            async with self._pool.stream(method, url, headers=headers, content=body, extensions={"timeout": timeout}) as response:
                if response.status in (401, 403, 404) and "/blobs/" not in url:
                    raise Refused(f"{url}: status {response.status}")
                return response.status, await _read(response)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise Unreachable(f"{url}: {type(error).__name__} {error}") from error


class HttpControlLink(_HttpLink):
    """A site's way to control."""

    def __init__(self, control_url: str, site: str, secret: str) -> None:
        super().__init__(control_url, kind="sites", caller=site, secret=secret)

    async def report(self, report: SiteReport) -> None:
        await self._report(report)

    async def next_slice(self, *, after: int, wait_ms: int) -> SiteSlice | None:
        return await self._next(SiteSlice, after=after, wait_ms=wait_ms)


class HttpSiteLink(_HttpLink):
    """A node's way to its site."""

    def __init__(self, site_url: str, node: str, secret: str) -> None:
        super().__init__(site_url, kind="nodes", caller=node, secret=secret)

    async def report(self, report: NodeReport) -> None:
        await self._report(report)

    async def next_slice(self, *, after: int, wait_ms: int) -> NodeSlice | None:
        return await self._next(NodeSlice, after=after, wait_ms=wait_ms)


async def _read(response: httpcore.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise Unreachable(f"an answer of more than {BODY_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)
