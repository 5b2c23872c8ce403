"""The server side of both links (see `skerry.adapters.link.http`): reports in; slices, blobs and calls out."""

import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from skerry.core.types.ids import Digest
from skerry.core.types.slices import NodeReport, SiteReport
from skerry.kit import record
from skerry.ports.calls import Calls
from skerry.ports.links import LinkError
from skerry.services.calls.exchange import Exchange
from skerry.wire.pipes import POLICY_VIOLATION, SocketPipe

REPORT_BYTES_MAX = 64 << 20  # ten thousand instances at a few hundred bytes each, with room
WAIT_MS_MAX = 60_000
CALLER = re.compile(r"[a-z0-9-]{1,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
NUMBER = re.compile(r"[0-9]{1,18}")

R = TypeVar("R", SiteReport, NodeReport)


class Refusal(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def link_app(
    kind: str,
    report_type: type[R],
    *,
    secret: str,
    known: Callable[[str], bool],
    caller_of: Callable[[R], str],
    hear: Callable[[R], None],
    next_slice: Callable[[str, int, int], Awaitable[record.Record | None]],
    blob: Callable[[Digest], Awaitable[AsyncIterator[bytes] | None]],
    exchange: Exchange,
) -> Starlette:
    """`kind` is "sites" or "nodes"; `next_slice(caller, after, wait_ms)` answers as the links' port says.

    `blob` is None for what is not there; it raises `LinkError` for what the plane above has and cannot be asked for now.
    """

    async def report(request: Request) -> Response:
        caller = _caller(request, secret, known)
        try:
            sent = record.decode(await _body(request), report_type)
        except (msgspec.DecodeError, ValueError) as error:
            raise Refusal(400, str(error)) from error
        if caller_of(sent) != caller:
            raise Refusal(403, "the report is about another than its sender")
        hear(sent)
        return Response(status_code=204)

    async def slice_(request: Request) -> Response:
        caller = _caller(request, secret, known)
        after, wait_ms = _number(request, "after"), min(_number(request, "wait_ms"), WAIT_MS_MAX)
        found = await next_slice(caller, after, wait_ms)
        if found is None:
            return Response(status_code=204)
        return Response(record.encode(found), media_type="application/json")

    async def calls(request: Request) -> Response:
        caller = _caller(request, secret, known)
        found = await exchange.next_calls(caller, min(_number(request, "wait_ms"), WAIT_MS_MAX))
        if not found:
            return Response(status_code=204)
        return Response(record.encode(Calls(calls=found)), media_type="application/json")

    async def answer(socket: WebSocket) -> None:
        try:
            caller = _caller(socket, secret, known)
        except Refusal:
            await socket.close(code=POLICY_VIOLATION)
            return
        await socket.accept()
        pipe = SocketPipe(socket)
        if not await exchange.meet(caller, str(socket.path_params["call"]), pipe):
            await pipe.aclose()

    async def get_blob(request: Request) -> Response:
        _authorize(request, secret)
        digest = request.path_params["digest"]
        if not DIGEST.fullmatch(digest):
            raise Refusal(400, "a digest is 64 hex digits")
        try:
            found = await blob(Digest(digest))
        except LinkError as error:
            raise Refusal(503, str(error)) from error
        if found is None:
            raise Refusal(404, "no such blob")
        return StreamingResponse(found, media_type="application/octet-stream")  # cut off in the middle if it cannot be read on

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return Response(str(error), status_code=error.status, media_type="text/plain")

    return Starlette(
        routes=[
            Route(f"/{kind}/{{caller}}/report", report, methods=["POST"]),
            Route(f"/{kind}/{{caller}}/slice", slice_, methods=["GET"]),
            Route(f"/{kind}/{{caller}}/calls", calls, methods=["GET"]),
            WebSocketRoute(f"/{kind}/{{caller}}/calls/{{call}}", answer),
            Route("/blobs/{digest}", get_blob, methods=["GET"]),
        ],
        exception_handlers={Refusal: refuse},
    )


def _authorize(request: HTTPConnection, secret: str) -> None:
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {secret}".encode()):
        raise Refusal(401, "the join secret is another one")


def _caller(request: HTTPConnection, secret: str, known: Callable[[str], bool]) -> str:
    _authorize(request, secret)
    caller = str(request.path_params["caller"])
    if not CALLER.fullmatch(caller) or not known(caller):
        raise Refusal(404, "not one of ours")
    return caller


def _number(request: Request, name: str) -> int:
    value = request.query_params.get(name, "")
    if not NUMBER.fullmatch(value):
        raise Refusal(400, f"{name} is a number")
    return int(value)


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > REPORT_BYTES_MAX:
            raise Refusal(413, f"a report has at most {REPORT_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)
