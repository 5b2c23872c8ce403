"""Bodies at the border: large, broken and hostile ones."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from skerry.testing.dialect import MAIN, Dialect, open_dialect, simple_form
from skerry.wire.cloudflare import body, multipart

BOUNDARY = "xYzZY"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture
async def dialect() -> Dialect:
    return await open_dialect()


async def put(dialect: Dialect, content: bytes | AsyncIterator[bytes], headers: dict[str, str]) -> httpx.Response:
    async with dialect.client() as client:
        return await client.put(dialect.path("/workers/scripts/hello"), content=content, headers=headers)


def part(name: str, content: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return f"--{BOUNDARY}\r\n".encode() + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
METADATA = part("metadata", json.dumps({"main_module": "index.js"}).encode())
MODULE_PART = part("index.js", MAIN, "Content-Type: application/javascript+module")


async def test_the_smallest_good_body(dialect: Dialect) -> None:
    assert (await put(dialect, METADATA + MODULE_PART + END, MULTIPART)).status_code == 200


class Sender:
    """A body that says how much of it was asked for."""

    def __init__(self, total: int, start: bytes = b"") -> None:
        self.total = total
        self.start = start
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.start
        chunk = b"x" * (1 << 20)
        while self.sent < self.total:
            self.sent += len(chunk)
            yield chunk


async def test_a_body_announced_as_too_large_is_refused_before_it_is_parsed(dialect: Dialect) -> None:
    sender = Sender(4 << 20)
    response = await put(dialect, sender, {**MULTIPART, "content-length": str(200 << 20)})
    assert response.status_code == 413
    assert response.json()["errors"][0]["code"] == 10413
    assert response.headers["connection"] == "close"


async def test_a_body_of_200_mebibytes_is_refused_and_not_kept(dialect: Dialect) -> None:
    import tracemalloc

    start = METADATA + part("index.js", b"", "Content-Type: text/plain")[:-2]
    sender = Sender(200 << 20, start)
    tracemalloc.start()
    response = await put(dialect, sender, MULTIPART)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert response.status_code == 413
    assert response.json()["errors"][0]["code"] == 10413
    assert peak < 2 * body.SCRIPT_UPLOAD_BYTES_MAX


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", {}),
        (b"", MULTIPART),
        (b"addEventListener()", {"content-type": "application/javascript"}),
        (METADATA + MODULE_PART, MULTIPART),
        (METADATA + END, MULTIPART),
        (MODULE_PART + END, MULTIPART),
        (METADATA + METADATA + MODULE_PART + END, MULTIPART),
        (METADATA + MODULE_PART + END, {"content-type": "multipart/form-data"}),
        (METADATA + MODULE_PART + END, {"content-type": "multipart/form-data; boundary="}),
        (METADATA + MODULE_PART + END, {"content-type": "multipart/form-data; boundary=" + "a" * 300}),
        (METADATA + MODULE_PART + END, {"content-type": 'multipart/form-data; boundary="unclosed'}),
        (METADATA + MODULE_PART + END, {"content-type": "multipart/mixed; boundary=xYzZY"}),
        (METADATA + MODULE_PART + END, {**MULTIPART, "content-encoding": "gzip"}),
        (f"--{BOUNDARY}\r\n\r\nno headers\r\n".encode() + END, MULTIPART),
        (f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n".encode() + END, MULTIPART),
        (f"--{BOUNDARY}\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n".encode() + END, MULTIPART),
        (f"--{BOUNDARY}\r\n: x\r\n\r\nx\r\n".encode() + END, MULTIPART),
        (part("x", b"", "A: " + "b" * 5000) + END, MULTIPART),
        (part("x", b"", *[f"H{n}: 1" for n in range(20)]) + END, MULTIPART),
        (part("n" * 2000, b"") + END, MULTIPART),
        (b'--xYzZY\r\nContent-Disposition: form-data; name="\xff\xfe"\r\n\r\nx\r\n' + END, MULTIPART),
        (b"".join(part(f"p{n}", b"") for n in range(multipart.PARTS_MAX + 1)) + END, MULTIPART),
        (b"garbage" * 100, MULTIPART),
        (METADATA + MODULE_PART + f"--{BOUNDARY}X".encode(), MULTIPART),
    ],
)
async def test_broken_multipart_is_refused_with_a_reason(dialect: Dialect, content: bytes, headers: dict[str, str]) -> None:
    response = await put(dialect, content, headers)
    assert 400 <= response.status_code < 500
    assert response.json()["errors"][0]["message"]


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"main_module": "\xff"}',
        b'{"main_module": "\\ud800"}',
        b'{"main_module": 1}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"placement": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b', "main_module": "index.js"}',
        b'{"bindings": [' + b'{"type":"json","name":"A","json":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"limits": {"cpu_ms": ' + b"9" * 5000 + b"}}",
        b'{"main_module": NaN}',
        b'{"bindings": [{"type": "json", "name": "A", "json": "\xff"}], "main_module": "index.js"}',
        b'{"keep_bindings": "secret_text"}',
        b'{"compatibility_flags": [1]}',
        b'{"observability": true}',
        b'{"assets": {"jwt": "x", "config": {"run_worker_first": [1]}}}',
    ],
)
async def test_broken_metadata_is_refused_with_a_reason(dialect: Dialect, metadata: bytes) -> None:
    response = await put(dialect, part("metadata", metadata) + MODULE_PART + END, MULTIPART)
    assert 200 <= response.status_code < 500
    assert response.status_code != 200 or b"placement" in metadata
    if response.status_code != 200:
        assert response.json()["errors"][0]["message"]


async def test_large_numbers_in_a_json_variable_stay_as_they_are(dialect: Dialect) -> None:
    raw = (
        b'{"main_module": "index.js", "bindings": [{"type": "json", "name": "A", "json": 123456789012345678901234567890.5e300}]}'
    )
    assert (await put(dialect, part("metadata", raw) + MODULE_PART + END, MULTIPART)).status_code == 200
    async with dialect.client() as client:
        text = (await client.get(dialect.path("/workers/scripts/hello/settings"))).text
    assert "123456789012345678901234567890.5e300" in text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/workers/scripts/hello/secrets"),
        ("PATCH", "/workers/scripts/hello/secrets-bulk"),
        ("POST", "/workers/scripts/hello/deployments"),
        ("POST", "/workers/scripts/hello/subdomain"),
        ("PATCH", "/workers/scripts/hello/script-settings"),
        ("PATCH", "/workers/workers/hello/versions/latest"),
        ("POST", "/workers/scripts/hello/assets-upload-session"),
        ("PUT", "/workers/scripts/hello/schedules"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"{", b"1", b'"x"', b"\xff", b"[" * 100_000, b'{"a":' * 5000, b'{"name": null}'])
async def test_broken_json_is_refused_everywhere(dialect: Dialect, method: str, path: str, content: bytes) -> None:
    async with dialect.client() as client:
        await client.put(dialect.path("/workers/scripts/hello"), files=simple_form())
        response = await client.request(method, dialect.path(path), content=content)
    assert response.status_code < 500
    if response.status_code >= 400:
        assert response.json()["errors"][0]["code"] in (6007, 10021)
