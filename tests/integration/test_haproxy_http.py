"""What users and apps see of HTTP through a site's HAProxy."""

import asyncio
import gzip
import json
import re
import stat
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.ingress.haproxy.settings import Limits
from skerry.testing.backends import Backend, fetch, free_addresses, parse_headers
from skerry.testing.haproxy_site import HAProxySite, route, table

pytestmark = pytest.mark.skipif(not tools.find_haproxy().usable, reason=f"haproxy: {tools.find_haproxy().problem}")
RAY = re.compile(r"[0-9a-f]{16}-[A-Z]{3}")
TEXT = b"the quick brown fox jumps over the lazy dog " * 100
LIMITS = Limits(slots=8, peer_slots=4, body_bytes_max=8 << 20, first_byte_ms_max=400, client_ms_max=400, headers_ms_max=300)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HAProxySite]:
    site = HAProxySite(tmp_path, limits=LIMITS)
    ingress = await site.open()
    site.ingress = ingress
    try:
        yield site
    finally:
        await ingress.aclose(stop=True)
        site.remove()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Backend]:
    """A back end of one's own: it gets each connection."""
    backend = Backend("own")
    host, _, port = free_addresses(1)[0].rpartition(":")

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, host, int(port))
    backend.address = f"{host}:{port}"
    try:
        yield backend
    finally:
        server.close()


def answering(headers: str, body: bytes, status: str = "200 OK") -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body)
            await writer.drain()

    return handler


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


async def seen_by(backend: Backend) -> dict[str, str]:
    return parse_headers(backend.heads[-1])


async def test_only_the_ingress_says_where_a_request_comes_from(site: HAProxySite) -> None:
    one = await Backend("one").start()
    await site.ingress.apply(table("lhr", route("app", one)))
    lies = dict.fromkeys(
        ("cf-connecting-ip", "cf-ray", "cf-worker", "x-forwarded-for", "x-real-ip", "x-skerry-cf", "x-skerry-hop"), "FORGED"
    )
    reply = await fetch(site.users, "app.test", headers={**lies, "x-mine": "kept", "accept-encoding": 'gz"ip'})
    seen = await seen_by(one)
    assert "FORGED" not in "".join(one.heads)
    assert seen["x-mine"] == "kept"
    assert seen["cf-connecting-ip"] == seen["x-forwarded-for"] == seen["x-real-ip"]
    assert seen["cf-connecting-ip"].startswith("127.")
    assert (seen["x-forwarded-proto"], json.loads(seen["cf-visitor"]), seen["cf-ipcountry"]) == ("http", {"scheme": "http"}, "XX")
    assert RAY.fullmatch(seen["cf-ray"])
    assert (reply.headers["cf-ray"], reply.headers["server"], reply.headers["x-skerry-served-by"]) == (
        seen["cf-ray"],
        "skerry",
        "lhr",
    )
    assert seen["cf-ray"].endswith("-LHR")
    cf = json.loads(seen["x-skerry-cf"])
    assert (cf["colo"], cf["city"], cf["country"], cf["httpProtocol"]) == ("LHR", "London", "GB", "HTTP/1.1")
    assert cf["clientAcceptEncoding"] == 'gz"ip'
    assert len(seen["x-request-id"]) == 36
    await fetch(site.users, "app.test", headers={"x-request-id": "mine"})
    assert (await seen_by(one))["x-request-id"] == "mine"
    await one.stop()


async def test_an_app_cannot_speak_for_the_ingress(site: HAProxySite) -> None:
    async with serving(
        answering("x-skerry-error: no_healthy_copy\r\nx-skerry-served-by: mars\r\ncf-ray: lie\r\n", b"", "425 Too Early")
    ) as own:
        await site.ingress.apply(table("lhr", route("app", own)))
        reply = await fetch(site.users, "app.test")
        assert reply.status == 425
        assert reply.headers["x-skerry-served-by"] == "lhr"
        assert RAY.fullmatch(reply.headers["cf-ray"])
        assert "x-skerry-error" not in reply.headers


async def test_a_request_that_another_city_serves_keeps_its_user_and_its_ray(site: HAProxySite, tmp_path: Path) -> None:
    (tmp_path / "sin").mkdir()
    sin = HAProxySite(tmp_path / "sin", name="sin", limits=LIMITS)
    far = await sin.open()
    try:
        one = await Backend("one").start()
        door = Backend("sin")
        door.address = sin.peers
        await far.apply(table("sin", route("app", one), route("odd"), route("lost")))
        await site.ingress.apply(table("lhr", *(route(name, fallbacks=(door,)) for name in ("app", "odd", "lost"))))
        for method in ("GET", "POST"):
            reply = await fetch(site.users, "app.test", method=method)
            seen = await seen_by(one)
            assert (reply.status, reply.headers["x-skerry-served-by"]) == (200, "sin")
            assert reply.headers["cf-ray"] == seen["cf-ray"]
            assert seen["cf-ray"].endswith("-LHR")
            assert seen["cf-connecting-ip"].startswith("127.")
            assert json.loads(seen["x-skerry-cf"])["colo"] == "LHR"
            assert seen["x-skerry-hop"] == "lhr"
        async with serving(answering("", b"mine", "425 Too Early")) as odd:
            await far.apply(table("sin", route("app", one), route("odd", odd), route("lost")))
            reply = await fetch(site.users, "odd.test")
            assert (reply.status, reply.body, reply.headers["x-skerry-served-by"]) == (425, b"mine", "sin")
        for body in (b"", b"x" * 200_000):  # the larger one cannot be kept for a retry
            reply = await fetch(site.users, "lost.test", method="POST", body=body)
            assert (reply.status, b"No healthy copy" in reply.body) == (503, True)
            assert "x-skerry-error" not in reply.headers
        await one.stop()
    finally:
        await far.aclose(stop=True)
        sin.remove()


async def test_errors_are_read_by_people_or_by_programs(site: HAProxySite) -> None:
    silent = await Backend("silent").start()
    silent.mode = "hold"
    await site.ingress.apply(table("lhr", route("none"), route("slow", silent)))
    for host, status, code in (
        ("no.test", 404, "unknown_host"),
        ("none.test", 503, "no_healthy_copy"),
        ("slow.test", 504, "timed_out"),
    ):
        page = await fetch(site.users, host, headers={"accept": "text/html"})
        assert page.status == status
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cf-ray"] in page.body.decode()
        assert f"<h1>{status} " in page.body.decode()
        data = await fetch(site.users, host, headers={"accept": "application/json"})
        error = json.loads(data.body)["error"]
        assert data.headers["content-type"] == "application/json"
        assert (data.status, error["status"], error["code"], error["ray"]) == (status, status, code, data.headers["cf-ray"])
    silent.release()
    await silent.stop()


async def test_what_is_too_large_is_refused(site: HAProxySite) -> None:
    one = await Backend("one").start()
    await site.ingress.apply(table("lhr", route("app", one)))
    assert (await fetch(site.users, "app.test", headers={"x-big": "a" * 30_000})).status == 200
    assert (await fetch(site.users, "app.test", headers={"x-big": "a" * 60_000})).status in {400, 431}
    assert (
        await fetch(site.users, "app.test", method="POST", headers={"content-length": str(LIMITS.body_bytes_max + 1)})
    ).status == 413
    await one.stop()


async def test_a_large_upload_passes_as_a_stream(site: HAProxySite) -> None:
    one = await Backend("one").start()
    await site.ingress.apply(table("lhr", route("app", one)))
    assert (await fetch(site.users, "app.test", method="PUT", body=b"x" * LIMITS.body_bytes_max)).status == 200
    await one.stop()


async def test_a_client_that_never_ends_its_headers_is_let_go(site: HAProxySite) -> None:
    host, _, port = site.users.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nhost: app")
    assert b" 408 " in await reader.read()
    writer.close()


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", "image/svg+xml"])
async def test_text_is_compressed_for_who_takes_it(site: HAProxySite, kind: str) -> None:
    async with serving(answering(f'content-type: {kind}\r\netag: "v1"\r\n', TEXT)) as own:
        await site.ingress.apply(table("lhr", route("app", own)))
        small = await fetch(site.users, "app.test", headers={"accept-encoding": "br, gzip"})
        assert (small.headers["content-encoding"], small.headers["etag"]) == ("gzip", 'W/"v1"')
        assert "accept-encoding" in small.headers["vary"].lower()
        assert gzip.decompress(small.body) == TEXT
        plain = await fetch(site.users, "app.test")
        assert (plain.headers.get("content-encoding"), plain.headers["etag"], plain.body) == (None, '"v1"', TEXT)
        ranged = await fetch(site.users, "app.test", headers={"accept-encoding": "gzip", "range": "bytes=0-"})
        assert (ranged.headers.get("content-encoding"), ranged.body) == (None, TEXT)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("content-type: image/png\r\n", "200 OK"),
        ("content-type: text/html\r\ncache-control: no-transform\r\n", "200 OK"),
        ("content-type: text/html\r\ncontent-encoding: br\r\n", "200 OK"),
        ("content-type: text/html\r\ncontent-range: bytes 0-1/2\r\n", "206 Partial Content"),
        ("content-type: text/event-stream\r\n", "200 OK"),
    ],
)
async def test_what_is_packed_partial_or_a_stream_stays_as_it_is(site: HAProxySite, headers: str, status: str) -> None:
    async with serving(answering(headers, TEXT, status)) as own:
        await site.ingress.apply(table("lhr", route("app", own)))
        assert (await fetch(site.users, "app.test", headers={"accept-encoding": "gzip"})).body == TEXT


async def test_events_arrive_one_by_one_and_may_be_silent_for_long(site: HAProxySite) -> None:
    go = asyncio.Event()

    async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in (1, 2):
            event = f"data: {number}\n\n".encode()
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
            await go.wait()

    async with serving(events) as own:
        await site.ingress.apply(table("lhr", route("app", own)))
        host, _, port = site.users.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: app.test\r\naccept: text/event-stream\r\naccept-encoding: gzip\r\n\r\n")
        assert (await reader.readuntil(b"data: 1\n\n")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(2 * LIMITS.client_ms_max / 1000)  # longer than any other silence is allowed
        go.set()
        await reader.readuntil(b"data: 2\n\n")
        writer.close()


async def test_parts_of_a_compressed_page_do_not_wait_for_its_end(site: HAProxySite) -> None:
    go = asyncio.Event()

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n7\r\n<shell>\r\n")
        await go.wait()
        writer.write(b"6\r\n<rest>\r\n0\r\n\r\n")

    async with serving(page) as own:
        await site.ingress.apply(table("lhr", route("app", own)))
        host, _, port = site.users.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: app.test\r\naccept-encoding: gzip\r\n\r\n")
        headers = parse_headers((await reader.readuntil(b"\r\n\r\n")).decode())
        assert headers.get("content-encoding") == "gzip"
        unpacker = zlib.decompressobj(31)
        shell = b""
        while shell != b"<shell>":
            size = int(await reader.readline(), 16)
            shell += unpacker.decompress((await reader.readexactly(size + 2))[:-2])
        go.set()
        writer.close()


async def test_websockets_pass_and_may_be_silent_for_long(site: HAProxySite) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: websocket" in head.lower()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        while data := await reader.read(1000):
            writer.write(data)

    async with serving(echo) as own:
        await site.ingress.apply(table("lhr", route("app", own)))
        host, _, port = site.users.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET / HTTP/1.1\r\nhost: app.test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        for word in (b"one", b"two"):
            writer.write(word)
            assert await reader.readexactly(3) == word
            await asyncio.sleep(2 * LIMITS.client_ms_max / 1000)
        writer.close()


async def test_one_app_cannot_take_all_connections(tmp_path: Path) -> None:
    site = HAProxySite(tmp_path, limits=Limits(slots=8, peer_slots=2, connections_max=100, app_share_percent=4))
    ingress = await site.open()
    slow, other = await Backend("slow").start(), await Backend("other").start()
    slow.mode = "hold"
    try:
        await ingress.apply(table("lhr", route("slow", slow), route("other", other)))
        held = [asyncio.create_task(fetch(site.users, "slow.test", headers={"accept": "application/json"})) for _ in range(10)]
        done, _ = await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        assert {json.loads(task.result().body)["error"]["code"] for task in done} == {"app_busy"}
        assert (await fetch(site.users, "other.test")).status == 200
        slow.release()
        assert {(await task).status for task in held} == {200, 503}
    finally:
        await ingress.aclose(stop=True)
        await slow.stop()
        await other.stop()
        site.remove()


async def test_only_its_owner_reaches_its_sockets_and_metrics_are_there(site: HAProxySite) -> None:
    settings = site.settings
    for path in (settings.stats_socket, settings.master_socket, settings.metrics_socket):
        assert mode_of(path) == 0o600
    assert mode_of(settings.run_dir) == 0o700
    reader, writer = await asyncio.open_unix_connection(settings.metrics_socket, limit=1 << 24)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert b"haproxy_process_current_connections" in await reader.read()
    writer.close()


async def test_only_users_of_a_sticky_app_get_a_cookie_and_only_when_it_changes(site: HAProxySite) -> None:
    one, two = await Backend("one").start(), await Backend("two").start()
    await site.ingress.apply(table("lhr", route("app", one, sticky=True), route("plain", two)))
    first = await fetch(site.users, "app.test")
    assert first.headers["set-cookie"] == "__skerry=one; Path=/; HttpOnly; SameSite=Lax"
    again = await fetch(site.users, "app.test", headers={"cookie": "__skerry=one"})
    assert "set-cookie" not in again.headers
    assert "set-cookie" not in (await fetch(site.users, "plain.test", headers={"cookie": "__skerry=one"})).headers
    moved = await fetch(site.users, "app.test", headers={"cookie": "__skerry=two"})
    assert (moved.by, moved.headers["set-cookie"].partition(";")[0]) == ("one", "__skerry=one")
    await one.stop()
    await two.stop()
