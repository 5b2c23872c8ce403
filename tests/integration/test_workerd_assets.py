"""Static assets as Cloudflare serves them, by the node's assets process in front of each app."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.core.types.app import AssetFile, Assets, AssetsBinding
from skerry.core.types.slices import NodeInstance
from skerry.kit.record import encode
from skerry.testing.contracts.runtime import address_of, becomes
from skerry.testing.websockets import open_websocket, say
from skerry.testing.workerd_node import WorkerdNode

pytestmark = [
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}"),
]

SITE: dict[str, str | bytes] = {
    "/index.html": "<h1>home</h1>",
    "/about.html": "about us",
    "/docs/index.html": "docs",
    "/app.js": "let a",
    "/404.html": "not here",
    "/a b.txt": "space",
    "/data.bin": b"\0\1\2",
}
ECHO = """export default { async fetch(request, env) {
  const url = new URL(request.url);
  if (url.pathname === "/api/asset") return env.ASSETS.fetch(new URL("/about", url));
  if (request.headers.get("Upgrade") === "websocket") {
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.addEventListener("message", event => server.send("echo " + event.data));
    return new Response(null, {status: 101, webSocket: client});
  }
  return new Response("worker " + request.method + " " + url.host + url.pathname);
} };"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[WorkerdNode]:
    node = WorkerdNode(tmp_path)
    try:
        yield node
    finally:
        await node.clean_up()


@pytest.fixture
async def runtime(node: WorkerdNode) -> WorkerdRuntime:
    return await node.open()


async def served(node: WorkerdNode, runtime: WorkerdRuntime, instance: NodeInstance) -> str:
    seen = await runtime.start(instance)
    await becomes(runtime, instance.id, "running")
    return address_of(seen)


async def one_assets_process(node: WorkerdNode) -> None:
    async with asyncio.timeout(20):
        while sum(name.startswith("assets") for name in detached.names(node.places.processes)) != 1:
            await asyncio.sleep(0.02)


def header(head: str, name: str) -> str | None:
    found = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith(name.lower() + ":")]
    return found[0] if found else None


async def test_files_alone_need_no_process_of_the_app(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    instance = node.shop.instance("a", None, assets=node.shop.assets(SITE))
    address = await served(node, runtime, instance)
    (seen,) = runtime.observe()
    assert seen.pid is None
    for path, text in (("/", "<h1>home</h1>"), ("/about", "about us"), ("/docs/", "docs"), ("/a%20b.txt", "space")):
        assert await node.text(address, path) == text
    assert (await node.exchange(address, "/data.bin"))[1] == b"\0\1\2"
    head, _ = await node.exchange(address, "/about.html")
    assert (head.split()[1], header(head, "Location")) == ("307", "/about")
    assert await node.request(address, "/nope") == 404
    assert await node.request(address, "/../../etc/passwd") == 404
    assert await node.request(address, "/%2e%2e/%2e%2e/etc/passwd") == 404


async def test_equal_files_have_equal_etags_everywhere(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    one = await served(node, runtime, node.shop.instance("a", None, assets=node.shop.assets(SITE)))
    other = await served(node, runtime, node.shop.instance("b", None, assets=node.shop.assets({"/app.js": "let a"})))
    etags = [header((await node.exchange(address, "/app.js"))[0], "ETag") for address in (one, other)]
    assert etags[0] is not None
    assert etags[0] == etags[1]
    assert await node.request(one, "/app.js", headers=f"If-None-Match: {etags[0]}\r\n") == 304


async def test_other_content_of_the_same_length_has_another_etag(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    """workerd's ETag has a file's path, size and time in it, not its content: a cache must not keep the old one."""
    sites = ({"/app.js": "let a"}, {"/app.js": "let b"})
    addresses = [
        await served(node, runtime, node.shop.instance(name, None, assets=node.shop.assets(site)))
        for name, site in zip("ab", sites, strict=True)
    ]
    etags = [header((await node.exchange(address, "/app.js"))[0], "ETag") for address in addresses]
    assert etags[0] != etags[1]
    assert await node.request(addresses[1], "/app.js", headers=f"If-None-Match: {etags[0]}\r\n") == 200


async def test_settings(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    spa = node.shop.assets(SITE, not_found_handling="single-page-application")
    page = node.shop.assets(SITE, not_found_handling="404-page", html_handling="force-trailing-slash")
    rules = node.shop.assets(SITE, headers="/app.js\n  X-Frame: no\n", redirects="/old /about 301\n/far https://x.test/y 302\n")
    first, second, third = [
        await served(node, runtime, node.shop.instance(name, None, assets=assets))
        for name, assets in (("spa", spa), ("page", page), ("rules", rules))
    ]
    assert (await node.exchange(first, "/any/where"))[1] == b"<h1>home</h1>"
    head, body = await node.exchange(second, "/nope")
    assert (head.split()[1], body) == ("404", b"not here")
    assert header((await node.exchange(second, "/about"))[0], "Location") == "/about/"
    assert header((await node.exchange(third, "/app.js"))[0], "X-Frame") == "no"
    head, _ = await node.exchange(third, "/old")
    assert (head.split()[1], header(head, "Location")) == ("301", "/about")


async def test_worker_behind_assets(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    assets = node.shop.assets(SITE)
    instance = node.shop.instance("a", ECHO, assets=assets, bindings=(AssetsBinding(name="ASSETS"),))
    address = await served(node, runtime, instance)
    assert await node.text(address, "/about") == "about us"
    assert await node.text(address, "/api/x") == "worker GET app.test/api/x"
    assert (await node.exchange(address, "/api/x", method="POST", body=b"x"))[1] == b"worker POST app.test/api/x"
    assert await node.text(address, "/api/asset") == "about us"


async def test_files_before_a_worker_of_another_runtime_that_moves(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    first, second = [
        await served(
            node, runtime, node.shop.instance(name, f"export default {{ fetch() {{ return new Response('{name}'); }} }};")
        )
        for name in ("one", "two")
    ]
    outside = node.shop.instance("outside", ECHO, assets=node.shop.assets(SITE))
    address = await runtime.outer.begin(outside, first)
    assert await node.text(address, "/about") == "about us"
    assert await node.text(address, "/api/x") == "one"
    assert await runtime.outer.begin(outside, second) == address
    async with asyncio.timeout(20):
        while await node.text(address, "/api/x") != "two":  # until the process that knows the old one has been replaced
            await asyncio.sleep(0.02)
    await runtime.outer.end(outside.id)
    assert not list(node.places.outer.iterdir())
    assert not list(node.places.bindings.iterdir())


async def test_worker_first(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    always = node.shop.assets(SITE, run_worker_first=True)
    some = node.shop.assets(SITE, run_worker_first=("/about*", "!/docs/*"))
    first = await served(node, runtime, node.shop.instance("always", ECHO, assets=always))
    second = await served(node, runtime, node.shop.instance("some", ECHO, assets=some))
    assert await node.text(first, "/app.js") == "worker GET app.test/app.js"
    assert await node.text(second, "/about") == "worker GET app.test/about"
    assert await node.text(second, "/app.js") == "let a"


async def test_websockets_pass_through(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    address = await served(node, runtime, node.shop.instance("a", ECHO, assets=node.shop.assets(SITE)))
    reader, writer = await open_websocket(address)
    assert await say(reader, writer, b"hi") == b"echo hi"
    # Another app comes: a new assets process takes over, and the old one keeps what it has.
    await served(node, runtime, node.shop.instance("b", None, assets=node.shop.assets({"/index.html": "b"})))
    assert await say(reader, writer, b"still") == b"echo still"
    writer.close()


async def test_types_that_the_engine_does_not_know(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    names = {"/x.yaml": "application/yaml", "/y.tar.zst": "application/zstd", "/none": "application/null", "/z.css": "text/css"}
    files = tuple(
        AssetFile(path=path, digest=node.shop.put(b"x"), size=1, content_type=kind) for path, kind in sorted(names.items())
    )
    assets = Assets(manifest=node.shop.put(encode(files)), file_count=len(files), total_bytes=len(files))
    address = await served(node, runtime, node.shop.instance("a", None, assets=assets))
    found = {path: header((await node.exchange(address, path))[0], "Content-Type") for path in names}
    assert found == {
        "/x.yaml": "application/yaml",
        "/y.tar.zst": "application/zstd",
        "/none": None,
        "/z.css": "text/css; charset=utf-8",
    }


async def test_bad_settings_fail_one_app_and_not_its_neighbours(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    good = await served(node, runtime, node.shop.instance("good", None, assets=node.shop.assets(SITE)))
    bad = node.shop.instance("bad", None, assets=node.shop.assets(SITE, html_handling="nonsense"))
    seen = await runtime.start(bad)
    failed = await becomes(runtime, bad.id, "failed")
    assert "nonsense" in failed.detail
    assert await node.request(address_of(seen)) == 503
    assert await node.text(good, "/about") == "about us"
    later = await served(node, runtime, node.shop.instance("later", None, assets=node.shop.assets(SITE)))
    assert await node.text(later, "/about") == "about us"
    await runtime.stop(bad.id, grace_ms=100)
    assert await node.text(good, "/about") == "about us"


@pytest.mark.parametrize(
    "path", ["/../../../tmp/evil", "no-slash", "/a//b", "/a/./b", "/a\0b", "/" + "n" * 300, "/a\\..\\b", "/"]
)
async def test_paths_are_checked_again(node: WorkerdNode, runtime: WorkerdRuntime, path: str) -> None:
    files = (AssetFile(path=path, digest=node.shop.put(b"x"), size=1),)
    assets = Assets(manifest=node.shop.put(encode(files)), file_count=1, total_bytes=1)
    instance = node.shop.instance("a", None, assets=assets)
    await runtime.start(instance)
    assert "not a path" in (await becomes(runtime, instance.id, "failed")).detail


async def test_a_file_and_a_directory_of_one_name(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    instance = node.shop.instance("a", None, assets=node.shop.assets({"/x": "file", "/x/y": "below"}))
    await runtime.start(instance)
    assert "same name" in (await becomes(runtime, instance.id, "failed")).detail


async def test_no_requests_fail_while_apps_come_and_go(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    address = await served(node, runtime, node.shop.instance("a", None, assets=node.shop.assets(SITE)))
    statuses: list[int] = []

    async def ask() -> None:
        while not done.is_set():
            statuses.append(await node.request(address, "/about"))

    done = asyncio.Event()
    asking = asyncio.create_task(ask())
    for number in range(3):
        other = node.shop.instance(f"n{number}", None, assets=node.shop.assets({"/index.html": str(number)}))
        await served(node, runtime, other)
        await runtime.stop(other.id, grace_ms=100)
    done.set()
    await asking
    assert set(statuses) == {200}


async def test_the_next_agent_goes_on_with_the_same_process(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    with_worker = node.shop.instance("a", ECHO, assets=node.shop.assets(SITE), bindings=(AssetsBinding(name="ASSETS"),))
    alone = node.shop.instance("b", None, assets=node.shop.assets({"/index.html": "b"}))
    addresses = [await served(node, runtime, instance) for instance in (with_worker, alone)]
    await one_assets_process(node)  # one that makes way for another still accepts, and does not outlive its agent
    reader, writer = await open_websocket(addresses[0])
    await runtime.aclose(stop_instances=False)
    before = detached.names(node.places.processes)
    assert await node.text(addresses[1], "/") == "b"
    runtime = await node.open()
    after = [await becomes(runtime, instance.id, "running") for instance in (with_worker, alone)]
    assert [address_of(seen) for seen in after] == addresses
    assert detached.names(node.places.processes) == before
    assert await say(reader, writer, b"x") == b"echo x"
    assert await node.text(addresses[0], "/api/asset") == "about us"
    writer.close()
    for instance in (with_worker, alone):
        await runtime.stop(instance.id, grace_ms=100)
    assert await node.leftovers() == []


async def test_a_killed_assets_process_is_back(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    address = await served(node, runtime, node.shop.instance("a", None, assets=node.shop.assets(SITE)))
    for name in detached.names(node.places.processes):
        if name.startswith("assets."):
            process = detached.attach(name, records=node.places.processes)
            assert process is not None
            process.signal(9)
            await process.wait()
            process.close()
    assert await node.text(address, "/about") == "about us"


async def test_a_worker_behind_assets_need_not_read_what_is_sent_to_it(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    """Answers of a worker that refuses a body arrive, though the assets process is still sending it."""
    refuses = "export default { fetch() { return new Response('no', {status: 401}); } };"
    address = await served(node, runtime, node.shop.instance("a", refuses, assets=node.shop.assets(SITE)))
    for size in (1, 5000):
        answers = [(await node.exchange(address, "/api", method="POST", body=b"x" * size))[0].split()[1] for _ in range(100)]
        assert set(answers) == {"401"}
