"""Request bodies: counted while they arrive, refused early, never kept beyond their limit."""

from collections.abc import AsyncIterator
from typing import TypeVar

import anyio
import msgspec
from starlette.requests import Request

from skerry.wire.cloudflare.errors import BODY_TOO_LARGE, MALFORMED_BODY, TIMED_OUT, ApiError

T = TypeVar("T")

MIB = 1 << 20
JSON_BYTES_MAX = 1 * MIB
MANIFEST_BYTES_MAX = 32 * MIB  # 20,000 files with paths of up to 1 KiB
SCRIPT_UPLOAD_BYTES_MAX = 72 * MIB  # 64 MiB of modules, metadata and the multipart frame
ASSET_UPLOAD_BYTES_MAX = 40 * MIB  # one bucket of 25 MiB in base64, and the multipart frame
BODY_SECONDS_MAX = 120.0  # for a whole body to arrive

DRAIN_BYTES_MAX = 512 * MIB  # of a body that was refused: clients read the answer only after they have sent it
DRAIN_SECONDS_MAX = 10.0


async def chunks(request: Request, bytes_max: int) -> AsyncIterator[bytes]:
    """The body as it arrives; raises `ApiError` as soon as it is known to be too large."""
    _check_encoding(request)
    stream = request.stream()
    if _announced(request) > bytes_max:
        await _drain(stream)
        raise _too_large(bytes_max)
    total = 0
    async for chunk in stream:
        total += len(chunk)
        if total > bytes_max:
            await _drain(stream)
            raise _too_large(bytes_max)
        if chunk:
            yield chunk


async def whole(request: Request, bytes_max: int) -> bytes:
    body = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS_MAX):
            async for chunk in chunks(request, bytes_max):
                body += chunk
    except TimeoutError:
        raise timed_out() from None
    return bytes(body)


async def json_body(request: Request, as_type: type[T], *, bytes_max: int = JSON_BYTES_MAX) -> T:
    """Decoded and of the right type; raises `ApiError`."""
    return decode(await whole(request, bytes_max), as_type)


def decode(data: bytes, as_type: type[T], *, code: int = MALFORMED_BODY, what: str = "request body") -> T:
    """Raises `ApiError` with what is wrong and where."""
    try:
        return msgspec.json.decode(data, type=as_type)
    except msgspec.ValidationError as error:
        raise ApiError(400, code, f"The {what} is not as expected: {str(error)[:300]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ApiError(400, code, f"Malformed JSON in {what}: {str(error)[:300]}") from None


def timed_out() -> ApiError:
    return ApiError(408, TIMED_OUT, "The request body did not arrive in time.", headers={"Connection": "close"})


def _announced(request: Request) -> int:
    """Content-Length, 0 if there is none. (One that is no number is refused by the server before it comes here.)"""
    text = request.headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ApiError(415, MALFORMED_BODY, "Compressed request bodies are not accepted.")


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Read on without keeping anything, within bounds, so that the refusal reaches the client."""
    total = 0
    with anyio.move_on_after(DRAIN_SECONDS_MAX):
        async for chunk in stream:
            total += len(chunk)
            if total > DRAIN_BYTES_MAX:
                return


def _too_large(bytes_max: int) -> ApiError:
    return ApiError(
        413,
        BODY_TOO_LARGE,
        f"Request entity too large: this request may have at most {bytes_max // MIB} MiB.",
        headers={"Connection": "close"},
    )
