"""The whole way, from fresh state: projects deployed by stock wrangler answer users in three cities."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from skerry.adapters.process.detached import find_tagged
from skerry.apps.supervisor.leftovers import tags_of
from skerry.testing.load import Load
from skerry.testing.platform import Platform
from skerry.testing.websockets import hear, open_websocket, say
from skerry.testing.wrangler import NEWEST, OLDER, PLACES, ROOT, Absent, find
from tests.e2e.authors import Author
from tests.e2e.projects import CALLER_TS, GREETING, write_asset, write_everything, write_label, write_project

CITIES = {"lhr": ("London", "GB"), "cur": ("Willemstad", "CW"), "sin": ("Singapore", "SG")}
ALLOWED = "127.0.77.1"  # by the operator, besides the public internet
LIVE_S_MAX = 2.0  # from the deployment's commit to the last city

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None) -> AsyncIterator[Platform]:
    async with Platform(options=("--allow-egress", f"{ALLOWED}/32")) as running:
        yield running


@pytest.fixture(scope="module")
async def author(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Author:
    """With the newest client and `everything` deployed."""
    return await deployed(platform, tmp_path_factory.mktemp("everything"), NEWEST, "everything")


async def deployed(platform: Platform, directory: Path, version: str, app: str) -> Author:
    _skip_without(version)
    home = directory / "home"
    home.mkdir()
    project = write_everything(directory / "project", app, label="v1")
    author = Author(platform, await platform.client(version, home), project, app)
    await author.types("deploy")
    await author.until_label("v1")
    await author.settled()
    return author


def _skip_without(version: str) -> None:
    try:
        find(version)
    except Absent as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("version", list(PLACES))
async def test_a_deploy_is_live_in_every_city(
    platform: Platform, tmp_path: Path, version: str, record_property: Callable[[str, object], None]
) -> None:
    _skip_without(version)
    app = "first" if version == NEWEST else "older"
    home = tmp_path / "home"
    home.mkdir()
    author = Author(platform, await platform.client(version, home), write_everything(tmp_path / "project", app, label="v1"), app)
    seen_ms: dict[str, float] = {}

    async def watch(site: str) -> None:
        while (await platform.get(site, app, "/api/label")).text != "v1":
            await asyncio.sleep(0.02)
        seen_ms[site] = time.time() * 1000

    async with asyncio.TaskGroup() as group:
        for site in CITIES:
            group.create_task(watch(site))
        await author.types("deploy")
    committed_ms = next(a["modified_ms"] for a in (await platform.status())["apps"] if a["app"] == app)
    live_s = (max(seen_ms.values()) - committed_ms) / 1000
    record_property("deploy_to_live_s", round(live_s, 3))
    print(f"wrangler {version}: live in every city {live_s:.2f} s after the deployment was written")
    assert live_s < LIVE_S_MAX
    for site, (city, country) in CITIES.items():
        found = await author.sees(site)
        meta = found.pop("meta")
        assert isinstance(meta, dict) and len(meta["id"]) == 36 and meta["timestamp"]
        assert found == {
            "label": "v1",
            "text": GREETING,
            "sum": 42,
            "values": {"NAME": "edge", "LIMITS": {"most": 3, "tags": ["a", "b"]}},
            "colo": site.upper(),
            "city": city,
            "country": country,
        }
        assert (await platform.get(site, app)).text == "<h1>home</h1>"


async def test_assets_follow_their_rules(platform: Platform, author: Author) -> None:
    expected = {
        # path: (status, text or location)
        "/": (200, "<h1>home</h1>"),
        "/about": (200, "<h1>about</h1>"),
        "/about.html": (307, "/about"),
        "/about/": (307, "/about"),
        "/docs/": (200, "<h1>docs</h1>"),
        "/docs": (307, "/docs/"),
        "/docs/index.html": (307, "/docs/"),
        "/nowhere": (404, "<h1>lost</h1>"),
        "/old": (301, "/about"),
        "/blog/hello": (302, "/posts/hello"),
        "/api/label": (200, "v1"),
        "/api/nothing": (418, "the worker has nothing at /api/nothing"),
        "/api/static/data.json": (200, '{"static": true}'),
        "/api/asset": (200, "<h1>about</h1>"),
        "/_headers": (404, "<h1>lost</h1>"),
        "/_redirects": (404, "<h1>lost</h1>"),
    }
    for site in CITIES:
        found: dict[str, tuple[int, str]] = {}
        for path in expected:
            answer = await platform.get(site, author.app, path)
            found[path] = (answer.status_code, answer.headers.get("location") or answer.text)
        assert found == expected
        private = await platform.get(site, author.app, "/private/notes.txt")
        assert (private.headers["x-from-headers-file"], private.headers["x-robots-tag"]) == ("yes", "noindex")
        assert "x-from-headers-file" not in (await platform.get(site, author.app, "/api/label")).headers


async def test_an_asset_is_not_sent_again_to_who_has_it(platform: Platform, author: Author) -> None:
    first = await platform.get("lhr", author.app, "/about")
    again = await platform.get("lhr", author.app, "/about", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_head_is_get_without_a_body(platform: Platform, author: Author) -> None:
    for path, length in (("/about", "14"), ("/api/label", None)):
        answer = await platform.request("HEAD", "cur", author.app, path, headers={"accept-encoding": "identity"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers.get("content-length") in (length, "2")


async def test_an_app_learns_who_asks_and_where_and_nobody_can_make_it_believe_otherwise(
    platform: Platform, author: Author
) -> None:
    forged = {
        "cf-connecting-ip": "6.6.6.6",
        "x-real-ip": "6.6.6.6",
        "x-forwarded-for": "6.6.6.6",
        "true-client-ip": "6.6.6.6",
        "cf-ray": "forged",
        "cf-ipcountry": "T1",
        "x-skerry-cf": '{"colo":"XXX"}',
        "x-skerry-hop": "lhr",
    }
    for site in CITIES:
        answer = await platform.get(site, author.app, "/api/request", headers=forged)
        seen = answer.json()
        assert "6.6.6.6" not in answer.text and "XXX" not in answer.text and "T1" not in answer.text
        assert seen["headers"]["cf-connecting-ip"].startswith("127.0.")
        assert seen["cf"]["colo"] == site.upper()
        assert answer.headers["cf-ray"] == seen["headers"]["cf-ray"]
        assert answer.headers["cf-ray"].endswith(f"-{site.upper()}") and "forged" not in answer.text
        assert not [name for name in seen["headers"] if name.startswith("x-skerry-")]
        assert seen["url"] == f"http://{author.app}.default.localhost/api/request"
    rays = {(await platform.get("lhr", author.app, "/api/label")).headers["cf-ray"] for _ in range(5)}
    assert len(rays) == 5


@pytest.mark.parametrize("accepted", ["identity", "gzip"])
async def test_events_arrive_when_they_are_sent(platform: Platform, author: Author, accepted: str) -> None:
    headers = {"host": f"{author.app}.default.localhost", "accept-encoding": accepted, "accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream("GET", f"http://{platform.base('sin')}/api/events", headers=headers) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        lines = answer.aiter_lines()
        # The second event is made only when this one has arrived.
        assert await anext(lines) == "data: first"
        await platform.get("sin", author.app, "/api/release")
        assert [line async for line in lines] == ["", "data: second", ""]


async def test_large_bodies_pass_both_ways(platform: Platform, author: Author) -> None:
    block = bytes(range(256)) * 4096
    sent = hashlib.sha256()

    async def body(blocks: int) -> AsyncIterator[bytes]:
        for _ in range(blocks):
            sent.update(block)
            yield block

    for headers in ({}, {"content-length": str(60 * len(block))}):
        sent = hashlib.sha256()
        answer = await platform.request("POST", "lhr", author.app, "/api/upload", content=body(60), headers=headers)
        assert answer.json() == {"bytes": 60 * len(block), "sha256": sent.hexdigest()}

    expected, received, size = hashlib.sha256(), hashlib.sha256(), 100_000_001
    for number, start in enumerate(range(0, size, 65536)):
        expected.update(bytes((97 + number % 26,)) * min(65536, size - start))
    headers = {"host": f"{author.app}.default.localhost"}
    url = f"http://{platform.base('cur')}/api/download?bytes={size}"
    async with httpx.AsyncClient(timeout=20) as client, client.stream("GET", url, headers=headers) as answer:
        async for chunk in answer.aiter_bytes():
            received.update(chunk)
    assert received.digest() == expected.digest()


async def test_a_body_above_the_limit_is_refused_before_it_is_sent(platform: Platform, author: Author) -> None:
    host, _, port = platform.base("lhr").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /api/upload HTTP/1.1\r\nHost: {author.app}.default.localhost\r\n"
        f"Accept: application/json\r\nContent-Length: {101 << 20}\r\n\r\n".encode()
    )
    async with asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        assert b"body_too_large" in await reader.readuntil(b"}}")
    writer.close()


async def test_websockets_talk_in_every_city(platform: Platform, author: Author) -> None:
    for site in CITIES:
        reader, writer = await open_websocket(platform.base(site), host=f"{author.app}.default.localhost")
        assert await hear(reader) == b"hello"
        for number in range(3):
            assert await say(reader, writer, f"message {number}".encode()) == f"v1: message {number}".encode()
        writer.close()


async def test_the_shared_address_and_unknown_hosts(platform: Platform, author: Author) -> None:
    async with httpx.AsyncClient(timeout=10) as client:
        url = f"http://127.0.0.1:{platform.port}/api/label"
        assert (await client.get(url, headers={"host": f"{author.app}.default.localhost"})).text == "v1"
        unknown = await client.get(url, headers={"host": "nobody.default.localhost"})
    assert unknown.status_code == 404 and "Unknown host" in unknown.text and unknown.headers["cf-ray"]


async def test_a_second_version_replaces_the_first_and_no_request_fails(platform: Platform, tmp_path: Path) -> None:
    author = await deployed(platform, tmp_path, NEWEST, "replaced")
    host = f"{author.app}.default.localhost"
    loads = [Load(platform.base(site), host, path="/api/label", clients=2, per_second=60) for site in CITIES]
    loads += [Load(platform.base(site), host, path="/about", clients=1, per_second=20) for site in CITIES]
    async with contextlib.AsyncExitStack() as stack:
        for load in loads:
            await stack.enter_async_context(load)
        write_label(author.project, "v2")
        write_asset(author.project, "about.html", "<h1>about v2</h1>")
        write_asset(author.project, "new.html", "<h1>new</h1>")
        (author.project / "public/docs/index.html").unlink()
        await author.types("deploy")
        await author.until_label("v2")
        await author.until_everywhere(lambda answer: answer.text == "<h1>about v2</h1>", "/about")
        await author.settled()
        for load in loads:
            await load.requests(30)
    assert [load.failures for load in loads] == [[]] * len(loads)
    assert [set(load.bodies) for load in loads[:3]] == [{b"v1", b"v2"}] * 3
    assert [set(load.bodies) for load in loads[3:]] == [{b"<h1>about</h1>", b"<h1>about v2</h1>"}] * 3
    for site in CITIES:
        answers = [await platform.get(site, author.app, path) for path in ("/new", "/docs/", "/about")]
        assert [answer.status_code for answer in answers] == [200, 404, 200]
        assert {(await platform.get(site, author.app, "/api/label")).text for _ in range(20)} == {"v2"}
    assert {i["version"] for i in await platform.instances(app=author.app)} == {
        next(a["version"] for a in (await platform.status())["apps"] if a["app"] == author.app)
    }


async def test_secrets_take_effect_everywhere_and_are_shown_nowhere(platform: Platform, tmp_path: Path) -> None:
    author = await deployed(platform, tmp_path, NEWEST, "secretive")

    async def until_values(**expected: str) -> None:
        wanted = {"NAME": "edge", "LIMITS": {"most": 3, "tags": ["a", "b"]}, **expected}
        await author.until_everywhere(lambda answer: answer.json()["values"] == wanted)

    secret = "open-sesame-4711"
    await author.types("secret", "put", "PASSWORD", stdin=secret)
    await until_values(PASSWORD=secret)
    (author.project / "bulk.json").write_text(json.dumps({"ONE": "1", "TWO": "2"}))
    await author.types("secret", "bulk", "bulk.json")
    await until_values(PASSWORD=secret, ONE="1", TWO="2")
    assert {item["name"] for item in json.loads(await author.types("secret", "list"))} == {"PASSWORD", "ONE", "TWO"}
    await author.types("secret", "delete", "ONE")
    await until_values(PASSWORD=secret, TWO="2")
    write_label(author.project, "v2")
    await author.types("deploy")
    await author.until_label("v2")
    await until_values(PASSWORD=secret, TWO="2")
    assert secret not in await author.types("versions", "list") + await author.types("deployments", "list")
    assert secret.encode() not in _shown_to_others(platform)


def _shown_to_others(platform: Platform) -> bytes:
    """Command lines and environments of all our processes, logs, and files that more than their owner may read."""
    found: list[bytes] = []
    for pid in {pid for tag in tags_of(platform.data) for pid in find_tagged(tag)}:
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/{name}").read_bytes())
    found += [path.read_bytes() for path in platform.data.rglob("*") if path.is_file() and _readable_by_others(path)]
    assert len(found) > 20
    return b"\0".join(found)


def _readable_by_others(path: Path) -> bool:
    """Logs count as such: they are what is pasted into reports."""
    return "log" in path.name or "logs" in path.parts or bool(path.stat().st_mode & 0o077)


async def test_two_versions_share_traffic_and_the_first_comes_back(platform: Platform, tmp_path: Path) -> None:
    author = await deployed(platform, tmp_path, NEWEST, "shared")
    write_label(author.project, "v2")
    await author.types("versions", "upload", "--tag", "candidate")
    assert {(await platform.get(site, author.app, "/api/label")).text for site in CITIES for _ in range(5)} == {"v1"}
    newer, older = await _version_ids(author)
    await author.types("versions", "deploy", f"{newer}@50%", f"{older}@50%", "-y")
    await author.settled()
    for site in CITIES:
        seen = Counter([(await platform.get(site, author.app, "/api/label")).text for _ in range(200)])
        assert set(seen) == {"v1", "v2"}
        assert 60 <= seen["v2"] <= 140, seen
    await author.types("versions", "deploy", f"{newer}@100%", "-y")
    await author.settled()
    for site in CITIES:
        assert {(await platform.get(site, author.app, "/api/label")).text for _ in range(20)} == {"v2"}
    assert (await author.sees("lhr"))["meta"]["tag"] == "candidate"  # type: ignore[index]
    await author.types("rollback", older, "-y", "--message", "it was better")
    await author.until_label("v1")
    await author.settled()
    assert {(await platform.get(site, author.app, "/api/label")).text for site in CITIES for _ in range(10)} == {"v1"}


async def _version_ids(author: Author) -> list[str]:
    """Newest first."""
    listed = json.loads(await author.types("versions", "list", "--json"))
    return [item["id"] for item in sorted(listed, key=lambda item: item["number"], reverse=True)]


async def test_a_deleted_app_is_a_404_and_leaves_nothing(platform: Platform, tmp_path: Path) -> None:
    author = await deployed(platform, tmp_path, OLDER, "deleted")
    mark = "mark-of-the-deleted-app-0815"
    write_label(author.project, mark)
    write_asset(author.project, "about.html", mark)
    await author.types("deploy")
    await author.until_label(mark)
    await author.settled()
    listed = await platform.instances(app=author.app)  # those of the first version may be on their way out
    instances, pids = [item["instance"] for item in listed], [item["pid"] for item in listed if item["pid"]]
    assert _files_with(platform, mark) and len(pids) >= len(CITIES)

    await author.types("delete", "--name", author.app, "--force")

    async def gone() -> bool:
        answers = [await platform.get(site, author.app, path) for site in CITIES for path in ("/", "/api/label")]
        return {answer.status_code for answer in answers} == {404} and not await platform.instances(app=author.app)

    await platform.until(gone)
    assert author.app not in {app["app"] for app in (await platform.status())["apps"]}

    async def nothing_left() -> bool:
        named = [path for path in _node_files(platform) if any(instance in path.name for instance in instances)]
        return not named and not _files_with(platform, mark) and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    await platform.until(nothing_left, what=lambda: repr(_files_with(platform, mark)))


def _node_files(platform: Platform) -> list[Path]:
    run = Path(json.loads((platform.data / "platform.json").read_text())["run_dir"])
    places = (platform.data / "nodes", platform.data / "sites", run)
    return [path for place in places for path in place.rglob("*")]


def _files_with(platform: Platform, text: str) -> list[Path]:
    found: list[Path] = []
    for path in _node_files(platform):
        with contextlib.suppress(OSError):
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(path)
    return found


class Service:
    """Something else on this machine: answers in HTTP and counts who came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.visitors = 0

    async def __aenter__(self) -> "Service":
        self._server = await asyncio.start_server(self._serve, self.address, 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visitors += 1
        await reader.readuntil(b"\r\n\r\n")  # closed with bytes unread, the kernel resets what was answered
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        writer.close()


async def test_an_app_reaches_nothing_of_the_platform_and_of_its_neighbourhood(platform: Platform, tmp_path: Path) -> None:
    await platform.deploy(write_project(tmp_path, "caller", CALLER_TS))
    await platform.settled("caller", set(CITIES))
    port = platform.port
    async with Service("127.0.0.1") as forbidden, Service(ALLOWED) as allowed:
        names = ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"]
        urls = [f"http://{name}:{forbidden.port}/" for name in names]
        urls += [f"http://127.0.{site}.1:{port + offset}/" for site in (1, 2, 3) for offset in (0, 1, 2, 3)]
        urls += [f"http://127.0.0.1:{port}/", f"http://caller.default.localhost:{port}/"]
        urls += [f"http://127.0.0.1:{platform.api_port}/healthz", f"http://localhost:{platform.api_port}/v1/status"]
        urls += ["http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.0.1/"]
        urls += ["http://100.64.0.1/", "http://198.18.0.1/", "http://[fd00::1]/", "http://[fe80::1]/"]
        urls += [f"http://{i['address']}/" for i in await platform.instances() if i["address"]]
        sockets = [f"127.0.0.1:{forbidden.port}", f"localhost:{platform.api_port}", f"127.0.2.1:{port + 2}", "10.0.0.1:22"]
        permitted = f"http://{ALLOWED}:{allowed.port}/"
        answer = await platform.request(
            "POST", "lhr", "caller", content=json.dumps({"urls": [*urls, permitted], "sockets": sockets})
        )
        found: dict[str, str] = answer.json()
        assert found.pop(permitted) == "200 hello"
        reached = {target: said for target, said in found.items() if not said.startswith(("500", "refused"))}
        assert reached == {}
        assert (forbidden.visitors, allowed.visitors) == (0, 1)


async def test_the_example_answers_as_its_page_says(platform: Platform, tmp_path: Path) -> None:
    example = shutil.copytree(ROOT / "examples/hello-edge", tmp_path / "hello-edge")
    assert "answers at http://hello-edge.default.localhost" in await platform.wrangler("deploy", cwd=example)
    key = "something long and secret"
    await platform.wrangler("secret", "put", "SIGNING_KEY", cwd=example, stdin=key)
    await platform.settled("hello-edge", set(CITIES))

    async def signs() -> bool:
        answers = [await platform.get(site, "hello-edge", "/api/sign?text=hello") for site in CITIES]
        return {answer.status_code for answer in answers} == {200}

    await platform.until(signs)
    for site, (city, country) in CITIES.items():

        async def get(path: str, site: str = site) -> httpx.Response:
            return await platform.get(site, "hello-edge", path)

        page = await get("/")
        assert page.text.startswith("<!doctype html>") and page.headers["x-content-type-options"] == "nosniff"
        where = (await get("/api/where")).json()
        assert (where["app"], where["colo"], where["city"], where["country"]) == ("hello-edge", site.upper(), city, country)
        assert where["greeting"] == "Hello from the edge" and where["version"]
        signed = (await get("/api/sign?text=hello")).json()
        assert signed["signature"] == hmac.new(key.encode(), b"hello", "sha256").hexdigest()
        echoed = await platform.request("POST", site, "hello-edge", "/api/echo?a=1", content="some text")
        assert (echoed.json()["method"], echoed.json()["query"], echoed.json()["body"]) == ("POST", {"a": "1"}, "some text")
        assert (await get("/api/stream?chunks=3&every=1")).text == "1 of 3\n2 of 3\n3 of 3\n"
        assert (await get("/home")).headers["location"] == "/"
        assert ((await get("/style.css")).headers["cache-control"]) == "public, max-age=300"
        lost = await get("/anything/else")
        assert (lost.status_code, lost.text) == (404, (example / "public/404.html").read_text())
        reader, writer = await open_websocket(platform.base(site), host="hello-edge.default.localhost")
        assert (await hear(reader)).startswith(b"Hello from the edge, ")
        assert await say(reader, writer, b"everything back") == b"everything back"
        writer.close()
