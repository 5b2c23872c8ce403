"""Cloudflare's envelope: `{success, errors, messages, result, result_info}`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from skerry.wire.cloudflare.errors import BAD_REQUEST, ApiError

PAGE_MAX = 1_000_000
PER_PAGE_MAX = 1000

Json = Mapping[str, object]


def ok(result: object, *, result_info: Json | None = None, status: int = 200) -> Response:
    body: dict[str, object] = {"success": True, "errors": [], "messages": [], "result": result}
    if result_info is not None:
        body["result_info"] = result_info
    return _json(body, status)


def failure(error: ApiError) -> Response:
    pairs = [(error.code, error.message), *error.also]
    errors = [{"code": code, "message": message} for code, message in pairs]
    response = _json({"success": False, "errors": errors, "messages": [], "result": None}, error.status)
    response.headers.update(error.headers)
    return response


def page_of(request: Request, items: Sequence[object], *, per_page: int = 100) -> tuple[list[object], Json]:
    """The page that the query asks for, empty past the end, and its `result_info`. Raises `ApiError`."""
    page = _number(request, "page", 1, PAGE_MAX)
    per_page = _number(request, "per_page", per_page, PER_PAGE_MAX)
    chosen = list(items[(page - 1) * per_page : page * per_page])
    info = {
        "page": page,
        "per_page": per_page,
        "count": len(chosen),
        "total_count": len(items),
        "total_pages": -(-len(items) // per_page),
    }
    return chosen, info


def listed(request: Request, items: Sequence[object], *, per_page: int = 100) -> Response:
    chosen, info = page_of(request, items, per_page=per_page)
    return ok(chosen, result_info=info)


def timestamp(at_ms: int) -> str:
    """RFC 3339 with microseconds, as Cloudflare writes them."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= most):
        raise ApiError(400, BAD_REQUEST, f"The query parameter {name} is a number from 1 to {most}.")
    return int(text)


def _json(body: object, status: int) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
