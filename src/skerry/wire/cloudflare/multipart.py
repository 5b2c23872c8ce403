"""multipart/form-data, parsed while it arrives; every number has a limit."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from skerry.wire.cloudflare.body import BODY_SECONDS_MAX, chunks, timed_out
from skerry.wire.cloudflare.errors import INVALID_CONTENT, ApiError

PARTS_MAX = 1200  # modules, parts of bindings, source maps, metadata
HEADERS_PER_PART_MAX = 8
HEADER_BYTES_MAX = 4096
NAME_BYTES_MAX = 1024

# Browsers' and undici's escapes in names: WHATWG "multipart/form-data encoding algorithm".
UNESCAPED = ((b"%0D", b"\r"), (b"%0A", b"\n"), (b"%22", b'"'))


@dataclass(slots=True)
class Part:
    """One part. `content_type` is without parameters, lower-case, empty if absent."""

    name: str
    filename: str | None
    content_type: str
    full_content_type: str = ""
    content: bytes = b""


def refused(message: str) -> ApiError:
    return ApiError(400, INVALID_CONTENT, message)


async def read_parts(request: Request, *, bytes_max: int) -> list[Part]:
    """All parts, in order; raises `ApiError`."""
    boundary = _boundary(request)
    collector = _Collector()
    try:
        with anyio.fail_after(BODY_SECONDS_MAX):
            await _feed(collector, boundary, chunks(request, bytes_max))
    except TimeoutError:
        raise timed_out() from None
    if not collector.ended:
        raise refused("The multipart body ends before its last boundary.")
    return collector.parts


async def _feed(collector: "_Collector", boundary: bytes, stream: AsyncIterator[bytes]) -> None:
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.part_begin,
                "on_header_field": collector.header_field,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_headers_finished": collector.headers_finished,
                "on_part_data": collector.part_data,
                "on_part_end": collector.part_end,
                "on_end": collector.end,
            },
            max_header_count=HEADERS_PER_PART_MAX,
            max_header_size=HEADER_BYTES_MAX,
        )
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise refused(f"The multipart body is malformed: {str(error)[:200]}") from None


def _boundary(request: Request) -> bytes:
    kind, options = _options(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise ApiError(415, INVALID_CONTENT, "The request body has to be multipart/form-data.")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise refused("The Content-Type header names no boundary, or one of more than 200 characters.")
    return boundary


def _options(value: str) -> tuple[bytes, dict[bytes, bytes]]:
    """`parse_options_header`, which was made for well-meant input."""
    try:
        return parse_options_header(value)
    except (ValueError, AssertionError, LookupError):
        return b"", {}


class _Collector:
    """The parser's callbacks. What they raise goes through the parser to its caller."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._field = bytearray()
        self._value = bytearray()
        self._content = bytearray()

    def part_begin(self) -> None:
        if len(self.parts) >= PARTS_MAX:
            raise refused(f"The request has more than {PARTS_MAX} parts.")
        self._headers = {}

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def headers_finished(self) -> None:
        self.parts.append(_part(self._headers))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]

    def part_end(self) -> None:
        self.parts[-1].content = bytes(self._content)
        self._content = bytearray()

    def end(self) -> None:
        self.ended = True


def _part(headers: dict[bytes, bytes]) -> Part:
    disposition, options = _options(headers.get(b"content-disposition", b"").decode("latin-1"))
    if disposition != b"form-data" or b"name" not in options:
        raise refused("A part has no Content-Disposition header of form-data with a name.")
    content_type = headers.get(b"content-type", b"").decode("latin-1").strip()
    filename = options.get(b"filename")
    return Part(
        name=_text(options[b"name"]),
        filename=None if filename is None else _text(filename),
        content_type=content_type.partition(";")[0].strip().lower(),
        full_content_type=content_type,
    )


def _text(raw: bytes) -> str:
    for escape, char in UNESCAPED:
        raw = raw.replace(escape, char)
    if len(raw) > NAME_BYTES_MAX:
        raise refused(f"The name of a part has more than {NAME_BYTES_MAX} bytes.")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise refused("The name of a part is not UTF-8.") from None
