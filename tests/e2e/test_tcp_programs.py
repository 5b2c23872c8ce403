"""Programs that speak TCP on a real platform of three cities, as their authors and users meet them."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.testing.lines import LineClient, ask_once
from skerry.testing.oci_node import is_root
from skerry.testing.platform import ADDRESSES, Platform
from tests.e2e.test_programs import gone, skerry

ROOT = Path(__file__).parents[2]
SITES = ("lhr", "cur", "sin")
FIRST = 31_000 + os.getpid() % 700  # of the public ports, so that platforms side by side do not meet
SERVER = """
import os, socketserver
class Lines(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(f"{os.environ['SKERRY_SITE']} {os.environ['LEVEL']}\\n".encode())
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("", int(os.environ["PORT"])), Lines).serve_forever()
"""

pytestmark = [
    pytest.mark.usefixtures("engines"),
    pytest.mark.skipif(not is_root(), reason="programs need root"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "python.tar"
    subprocess.run([sys.executable, str(ROOT / "examples/images/pack.py"), "python", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
async def platform(engines: None) -> AsyncIterator[Platform]:
    options = ("--public-ports", f"{FIRST}-{FIRST + 9}")
    async with Platform(cities="lhr:1,cur:1,sin:1", options=options) as running:
        yield running


def run(image: Path, *options: str, name: str = "lines", level: int = 1) -> tuple[str, ...]:
    """The command that runs the server of lines."""
    return (
        "run", str(image), "--name", name, "--port", "7000/tcp", "--memory", "64M", "--env", f"LEVEL={level}",
        "--entrypoint", shlex.join(("/usr/bin/python3", "-c", SERVER)), *options,
    )  # fmt: skip


def at(site: str, port: int) -> str:
    return f"{ADDRESSES[SITES.index(site)]}:{port}"


async def port_of(platform: Platform, app: str) -> int:
    found = [item for item in (await platform.status())["apps"] if item["app"] == app]
    return int(found[0]["public_port"])


async def answers(platform: Platform, address: str, said: str) -> None:
    """Until a new connection is answered so."""

    async def holds() -> bool:
        return await ask_once(address) == said

    await platform.until(holds, what=lambda: f"{address}: {said}")


async def test_a_server_answers_in_each_city_at_one_port(platform: Platform, image: Path) -> None:
    said = await skerry(platform, *run(image, "--cities", "lhr,cur,sin", "--public-port", str(FIRST)))
    port = await port_of(platform, "lines")
    assert port == FIRST
    assert all(f"{at(site, port)} ({site})" in said for site in SITES), said
    await platform.settled("lines", set(SITES))
    for site in SITES:
        await answers(platform, at(site, port), f"{site} 1")


async def test_a_connection_outlives_other_apps_and_a_new_version_takes_the_new_ones(platform: Platform, image: Path) -> None:
    port = await port_of(platform, "lines")
    client = await LineClient.open(at("lhr", port))
    assert await client.ask() == "lhr 1"
    await skerry(platform, *run(image, "--cities", "lhr", "--public-port", str(FIRST + 5), name="other"))
    assert await port_of(platform, "other") == FIRST + 5
    await answers(platform, at("lhr", FIRST + 5), "lhr 1")
    assert await client.ask() == "lhr 1"
    assert "taken by the app other" in await skerry(
        platform, *run(image, "--public-port", str(FIRST + 5), name="third"), status=1
    )
    await skerry(platform, *run(image, level=2))
    await answers(platform, at("lhr", port), "lhr 2")
    await client.close()


async def test_a_killed_instance_is_missed_by_nobody_new(platform: Platform) -> None:
    port = await port_of(platform, "lines")
    victim = next(item for item in await platform.instances(app="lines", site="cur") if item["pid"])
    os.kill(victim["pid"], signal.SIGKILL)
    await answers(platform, at("cur", port), "cur 2")


async def test_a_city_without_an_instance_is_served_by_another(platform: Platform) -> None:
    assert await ask_once(at("sin", FIRST + 5)) == "lhr 1"


async def test_connections_are_demand(platform: Platform) -> None:
    port = await port_of(platform, "lines")
    clients = [await LineClient.open(at("sin", port)) for _ in range(30)]

    async def told() -> bool:
        account = await platform.account()
        found = await platform.api("GET", f"/v1/apps/{account}/lines/demand")
        return any(row["rps"] > 0 for row in found["cities"] if row["site"] == "sin")

    await platform.until(told, what=lambda: "no demand in sin")
    for client in clients:
        await client.close()


async def test_an_app_without_traffic_ends_and_the_first_connection_wakes_it(platform: Platform, image: Path) -> None:
    await skerry(platform, *run(image, "--cities", "cur", "--asleep-after", "1s", name="sleeper"))
    port = await port_of(platform, "sleeper")
    assert FIRST < port < FIRST + 10, "one that is free is given"

    async def ended() -> bool:
        found = await platform.instances(app="sleeper")
        return [item["state"] for item in found] == ["dead"]

    await platform.until(ended, limit_s=60)
    assert await ask_once(at("cur", port)) == "cur 1"
    client = await LineClient.open(at("cur", port))
    for _ in range(8):  # longer than it may be without traffic: an open connection is traffic
        assert await client.ask() == "cur 1"
        await asyncio.sleep(0.5)
    await client.close()
    await skerry(platform, "delete", "sleeper", "--yes")
    await gone(platform, "sleeper")


async def test_a_deleted_app_frees_its_port_in_every_city(platform: Platform, image: Path) -> None:
    await skerry(platform, "delete", "other", "--yes")
    await gone(platform, "other")

    async def closed() -> bool:
        for site in SITES:
            try:
                await ask_once(at(site, FIRST + 5))
            except ConnectionRefusedError:
                continue
            return False
        return True

    await platform.until(closed)
    await skerry(platform, *run(image, "--cities", "sin", "--public-port", str(FIRST + 5), name="next"))
    await answers(platform, at("lhr", FIRST + 5), "sin 1")
