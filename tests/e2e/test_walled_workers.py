"""Workers in gVisor on a real platform, as their authors and users meet them."""

import os
import signal
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from skerry.adapters import tools
from skerry.testing.oci_node import is_root
from skerry.testing.platform import Platform

SITES = ("lhr", "cur")
ALLOWED = "127.0.93.1"
CODE = """
export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    if (url.pathname === "/out") return new Response(String((await fetch(url.searchParams.get("to"))).status));
    if (url.pathname === "/body") return new Response(await request.arrayBuffer());
    console.log("asked for", url.pathname);
    return Response.json({ greeting: env.GREETING, colo: request.cf.colo, ray: request.headers.get("cf-ray") });
  }
};
"""
CONFIG = """{ "name": "walled", "main": "index.js", "compatibility_date": "2026-11-01", "vars": { "GREETING": "hello" },
  "unsafe": { "metadata": { "skerry": { "isolation": "gvisor" } } } }"""

pytestmark = [
    pytest.mark.usefixtures("engines"),
    pytest.mark.skipif(not is_root(), reason="gVisor needs root here"),
    pytest.mark.timeout(240),
]
RUNSC = tools.find_runsc()
gvisor = pytest.mark.skipif(not RUNSC.usable, reason=f"runsc: {RUNSC.problem}")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walled")
    (path / "wrangler.jsonc").write_text(CONFIG)
    (path / "index.js").write_text(CODE)
    return path


@pytest.fixture(scope="module")
async def platform(engines: None, project: Path) -> AsyncIterator[Platform]:
    async with Platform(cities="lhr:1,cur:1", options=("--allow-egress", f"{ALLOWED}/32")) as running:
        await running.deploy(project)
        yield running


async def one(platform: Platform, site: str) -> dict[str, Any]:
    (found,) = await platform.instances(app="walled", site=site)
    return found


async def answers(platform: Platform, site: str) -> None:
    """Until the city's own instance does."""

    async def holds() -> bool:
        answer = await platform.get(site, "walled", "/x", timeout=60)
        return answer.status_code == 200 and answer.json()["colo"] == site.upper()

    await platform.until(holds, limit_s=60)


@gvisor
async def test_it_answers_in_each_city_with_its_variables_and_logs(platform: Platform) -> None:
    await platform.settled("walled", set(SITES), limit_s=90)
    for site in SITES:
        await answers(platform, site)
        answer = (await platform.get(site, "walled", "/x")).json()
        assert answer["greeting"] == "hello"
        assert answer["ray"].endswith(site.upper())
        pid = (await one(platform, site))["pid"]
        assert b"runsc-sandbox" in Path(f"/proc/{pid}/cmdline").read_bytes()
    sent = os.urandom(300_000)
    assert (await platform.request("POST", "cur", "walled", "/body", content=sent)).content == sent
    status, said = await platform.command("logs", "walled")
    assert (status, "asked for /x" in said) == (0, True)


@gvisor
async def test_its_only_way_out_is_the_nodes(platform: Platform) -> None:
    class Served(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    async def out(to: str) -> str:
        return (await platform.get("lhr", "walled", f"/out?to={to}")).text

    with ThreadingHTTPServer((ALLOWED, 0), Served) as allowed, ThreadingHTTPServer(("127.0.0.1", 0), Served) as refused:
        for server in (allowed, refused):
            Thread(target=server.serve_forever, daemon=True).start()
        assert await out(f"http://{ALLOWED}:{allowed.server_port}/") == "204"
        assert await out(f"http://127.0.0.1:{refused.server_port}/") == "500"
        for server in (allowed, refused):
            server.shutdown()


@gvisor
async def test_a_killed_one_is_back_at_its_address(platform: Platform) -> None:
    before = await one(platform, "lhr")
    os.kill(before["pid"], signal.SIGKILL)
    await answers(platform, "lhr")
    after = await one(platform, "lhr")
    assert (after["instance"], after["address"]) == (before["instance"], before["address"])
    assert after["pid"] != before["pid"]


@gvisor
async def test_a_killed_agent_finds_it(platform: Platform) -> None:
    before = await one(platform, "cur")
    agent = next(node["pid"] for node in (await platform.status())["nodes"] if node["node"] == "cur-1")
    os.kill(agent, signal.SIGKILL)
    assert (await platform.get("cur", "walled", "/x")).status_code == 200  # without an agent too

    async def back() -> bool:
        node = next(node for node in (await platform.status())["nodes"] if node["node"] == "cur-1")
        return node["pid"] not in (agent, None) and node["state"] == "up"

    await platform.until(back)
    after = await one(platform, "cur")
    assert (after["instance"], after["pid"], after["address"]) == (before["instance"], before["pid"], before["address"])


async def test_where_no_node_has_gvisor_it_is_blocked_with_that_reason(engines: None, project: Path, tmp_path: Path) -> None:
    hidden = {
        "SKERRY_RUNSC": str(tmp_path / "no-runsc"),
        "XDG_CACHE_HOME": str(tmp_path),
        "PATH": without_runsc(os.environ["PATH"]),
    }
    async with Platform(cities="lhr:1", env=hidden) as without:
        status, said = await without.command("wrangler", "deploy", cwd=project)
        assert status == 1 and "walled finds no place" in said
        _, said = await without.command("explain", "walled")
        assert "lhr" in said and "gvisor" in said
        assert (await without.get("lhr", "walled")).status_code == 503


def without_runsc(path: str) -> str:
    return ":".join(place for place in path.split(":") if not Path(place, "runsc").exists())
