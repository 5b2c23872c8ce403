"""Whatever is sent to the Cloudflare dialect, it answers in its envelope with a 2xx or a 4xx and a reason: never a 5xx."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.testing.dialect import MAIN, MODULE, PREFIX, Dialect, open_dialect, simple_form

SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

BOUNDARY = "b0und4ry"

SCRIPT_PATHS = ["", "/settings", "/script-settings", "/subdomain", "/versions", "/versions/x", "/deployments", "/deployments/x"]
SCRIPT_PATHS += ["/secrets", "/secrets/S", "/secrets-bulk", "/schedules", "/routes", "/content/v2", "/references"]
SCRIPT_PATHS += ["/assets-upload-session", "/tails", "/domains/records"]
PATHS = [f"/workers/scripts/hello{path}" for path in SCRIPT_PATHS]
PATHS += ["/workers/scripts", "/workers/services/hello", "/workers/workers", "/workers/workers/hello", "/workers/subdomain"]
PATHS += ["/workers/workers/hello/versions/latest", "/workers/assets/upload", "/storage/kv/namespaces", "/tokens/verify", ""]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["A", "metadata", "index.js", "", "__proto__", "a\nb", "é"]) | st.text(max_size=20)
KNOWN_TYPES = [
    "plain_text",
    "secret_text",
    "json",
    "assets",
    "version_metadata",
    "inherit",
    "wasm_module",
    "text_blob",
    "kv_namespace",
]
bindings = st.fixed_dictionaries(
    {"type": st.sampled_from(KNOWN_TYPES) | json_values, "name": names | json_values},
    optional={"text": st.text() | json_values, "json": json_values, "part": names, "old_name": names},
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "main_module": names | json_values,
    "body_part": names | json_values,
    "bindings": st.lists(bindings, max_size=4) | json_values,
    "keep_bindings": st.lists(st.sampled_from(KNOWN_TYPES)) | json_values,
    "compatibility_date": st.dates().map(str) | json_values,
    "compatibility_flags": st.lists(st.sampled_from(["nodejs_compat", "x y", ""])) | json_values,
    "assets": json_values | st.fixed_dictionaries({"jwt": names, "config": json_values}),
    "keep_assets": json_values,
    "observability": json_values,
    "annotations": json_values,
    "migrations": json_values,
    "tags": json_values,
    "placement": json_values,
    "limits": json_values,
}
metadata = st.fixed_dictionaries({}, optional=FIELDS) | st.fixed_dictionaries(
    {"main_module": st.just("index.js")},
    optional={key: value for key, value in FIELDS.items() if key not in ("main_module", "body_part")},
)
header_values = st.text(st.characters(codec="latin-1", exclude_characters="\0\r\n"), max_size=60)
parts = st.lists(
    st.tuples(
        st.sampled_from([b"metadata", b"index.js", b"A", b"a.wasm", b"files"]) | st.binary(max_size=12),
        st.sampled_from([MODULE, "text/plain", "application/wasm", "application/json", "image/png", ""]) | header_values,
        st.sampled_from([MAIN, b"", b'{"main_module": "index.js"}', b"\xff"]) | st.binary(max_size=60),
    ),
    max_size=6,
)


def answer_is_sound(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    assert response.status_code >= 200
    if response.request.method == "HEAD" or response.headers.get("content-type") != "application/json":
        return  # no body, or the code of a script
    body = msgspec.json.decode(response.content)
    assert body["success"] is (response.status_code < 300)
    if response.status_code >= 400:
        assert body["errors"] and all(error["code"] and error["message"] for error in body["errors"])


def ask(method: str, path: str, *, content: bytes, headers: dict[str, bytes], query: bytes = b"", token: bool = True) -> None:
    """Against a dialect that has one app, `hello`."""

    async def run() -> None:
        dialect = await prepared()
        async with dialect.client() as client:
            if not token:
                del client.headers["authorization"]
            url = httpx.URL("http://skerry.test", raw_path=dialect.path(path).encode() + (b"?" + query if query else b""))
            answer_is_sound(await client.request(method, url, content=content, headers=headers))  # type: ignore[arg-type]

    asyncio.run(run())


async def prepared() -> Dialect:
    dialect = await open_dialect()
    async with dialect.client() as client:
        bindings = [{"name": "S", "type": "secret_text", "text": "s"}, {"name": "A", "type": "plain_text", "text": "a"}]
        await client.put(dialect.path("/workers/scripts/hello"), files=simple_form(bindings=bindings))
    return dialect


def multipart(described: list[tuple[bytes, str, bytes]]) -> bytes:
    body = bytearray()
    for name, kind, content in described:
        escaped = name.replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")
        body += f"--{BOUNDARY}\r\n".encode() + b'Content-Disposition: form-data; name="' + escaped + b'"\r\n'
        body += b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + content + b"\r\n"
    return bytes(body + f"--{BOUNDARY}--\r\n".encode())


FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}".encode()}
UPLOADS = st.sampled_from(
    [("PUT", "/workers/scripts/hello"), ("POST", "/workers/scripts/hello/versions"), ("PUT", "/workers/scripts/new")]
)


@SETTINGS
@given(where=UPLOADS, described=metadata)
def test_any_metadata(where: tuple[str, str], described: dict[str, Any]) -> None:
    content = multipart(
        [(b"metadata", "", json.dumps(described).encode()), (b"index.js", MODULE, MAIN), (b"A", "text/plain", b"x")]
    )
    ask(*where, content=content, headers=FORM)


@SETTINGS
@given(where=UPLOADS, described=parts)
def test_any_parts(where: tuple[str, str], described: list[tuple[bytes, str, bytes]]) -> None:
    ask(*where, content=multipart(described), headers=FORM)


@SETTINGS
@given(where=UPLOADS, described=parts, data=st.data())
def test_any_damage_to_a_multipart_body(
    where: tuple[str, str], described: list[tuple[bytes, str, bytes]], data: st.DataObject
) -> None:
    content = bytearray(multipart(described))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    ask(*where, content=bytes(content), headers=FORM)


@SETTINGS
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]),
    path=st.sampled_from(PATHS),
    content=st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from(["application/json", "multipart/form-data; boundary=x", "text/plain", ""]) | header_values,
)
def test_any_body_anywhere(method: str, path: str, content: bytes, kind: str) -> None:
    ask(method, path, content=content, headers={"content-type": kind.encode("latin-1")})


JSON_ENDPOINTS = {
    ("PUT", "/workers/scripts/hello/secrets"): {"name": names, "text": st.text(), "type": st.just("secret_text")},
    ("PATCH", "/workers/scripts/hello/secrets-bulk"): {
        "secrets": st.dictionaries(names, st.none() | st.fixed_dictionaries({"name": names, "text": st.text()}), max_size=3)
    },
    ("POST", "/workers/scripts/hello/deployments"): {
        "versions": st.lists(st.fixed_dictionaries({"version_id": names, "percentage": st.floats() | st.integers()}), max_size=3)
    },
    ("PATCH", "/workers/workers/hello/versions/latest"): {
        "env": st.dictionaries(
            names, st.none() | st.fixed_dictionaries({"type": st.just("secret_text"), "text": st.text()}), max_size=3
        )
    },
    ("PATCH", "/workers/scripts/hello/script-settings"): {"tags": st.lists(st.text(), max_size=3), "observability": json_values},
    ("POST", "/workers/scripts/hello/subdomain"): {"enabled": st.booleans()},
    ("POST", "/workers/scripts/hello/assets-upload-session"): {
        "manifest": st.dictionaries(
            st.text() | st.text().map(lambda text: "/" + text),
            st.fixed_dictionaries(
                {"hash": st.text("0123456789abcdef", min_size=32, max_size=32), "size": st.integers(-1, 1 << 26)}
            ),
            max_size=4,
        )
    },
}


@SETTINGS
@given(data=st.data(), where=st.sampled_from(sorted(JSON_ENDPOINTS)))
def test_almost_right_json(data: st.DataObject, where: tuple[str, str]) -> None:
    body: dict[str, Any] = data.draw(st.fixed_dictionaries(JSON_ENDPOINTS[where]))
    if data.draw(st.booleans()):
        body[data.draw(st.sampled_from(sorted(body)))] = data.draw(json_values)
    ask(*where, content=json.dumps(body).encode(), headers={"content-type": b"application/json"})


@SETTINGS
@given(
    path=st.sampled_from(PATHS),
    query=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=40)
    | st.tuples(
        st.sampled_from(["page", "per_page", "version", "base64"]), st.text(st.characters(codec="ascii", categories=["L", "N"]))
    ).map("=".join),
    headers=st.dictionaries(
        st.sampled_from(
            ["host", "user-agent", "content-type", "content-length", "content-encoding", "x-forwarded-for", "cookie"]
        ),
        header_values.map(lambda text: text.encode("latin-1")),
        max_size=3,
    ),
    token=st.booleans(),
)
def test_any_headers_and_queries(path: str, query: str, headers: dict[str, bytes], token: bool) -> None:
    ask("GET", path, content=b"", headers=headers, query=query.encode(), token=token)


@SETTINGS
@given(header=header_values)
def test_any_authorization(header: str) -> None:
    async def run() -> None:
        dialect = await open_dialect()
        async with dialect.client() as client:
            response = await client.get(dialect.path("/workers/scripts"), headers={"authorization": header.encode("latin-1")})  # type: ignore[dict-item]
            assert response.status_code in (400, 401)
            answer_is_sound(response)

    asyncio.run(run())


@SETTINGS
@given(segments=st.lists(st.binary(min_size=1, max_size=10), max_size=6))
def test_any_path(segments: list[bytes]) -> None:
    """As a server would decode it: bytes that are no UTF-8 become replacement characters."""

    async def run() -> None:
        dialect = await open_dialect()
        path = PREFIX + "/" + "/".join(segment.decode("utf-8", "replace") for segment in segments)
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": b"",
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await dialect.app(scope, receive, send)  # type: ignore[arg-type]
        assert sent[0]["status"] < 500

    asyncio.run(run())
