"""What users notice of failures: kill -9 of anything, one at a time, under constant load."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from skerry.testing.load import Load
from skerry.testing.platform import Platform
from tests.e2e.projects import write_project

CITIES = {"lhr", "cur", "sin"}
HOST = "hello.default.localhost"
CODE = 'export default { async fetch(): Promise<Response> { return new Response("v1"); } };'

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    project = write_project(tmp_path_factory.mktemp("hello"), "hello", CODE)
    async with Platform() as running:
        await running.deploy(project)
        await running.settled("hello", CITIES)
        # Load is as fast as the machine is: without this, demand would ask for more than one instance in a city.
        await running.api("PATCH", "/v1/apps/default/hello/scale", {"scale": {"max_per_site": 1}})
        yield running


@pytest.fixture(autouse=True)
async def converged(platform: Platform) -> AsyncIterator[None]:
    """Every test begins and ends with a whole world."""
    yield
    await platform.until(lambda: whole(platform), limit_s=60, what=lambda: "the world does not converge")


async def whole(platform: Platform) -> bool:
    status = await platform.status()
    one_each = sorted(i["site"] for i in status["instances"] if i["state"] in ("running", "asleep")) == sorted(CITIES)
    return one_each and all(n["state"] == "up" for n in status["nodes"]) and all(s["ingress_pid"] for s in status["sites"])


async def instance_in(platform: Platform, site: str) -> dict[str, object]:
    return (await platform.instances(site=site, app="hello"))[0]


def kill(*pids: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


async def test_a_killed_instance_costs_no_request(platform: Platform) -> None:
    before = await instance_in(platform, "lhr")
    async with Load(platform.base("lhr"), HOST) as load:
        await load.requests(100)
        kill(int(str(before["pid"])))
        await platform.until(lambda: _new_pid(platform, before))
        await load.requests(100)
    assert load.failures == []


async def _new_pid(platform: Platform, before: dict[str, object]) -> bool:
    now = await instance_in(platform, "lhr")
    return now["state"] == "running" and now["pid"] not in (None, before["pid"])


async def test_a_killed_agent_costs_no_request_and_keeps_its_instances(platform: Platform) -> None:
    before = await instance_in(platform, "lhr")
    node = next(n for n in (await platform.status())["nodes"] if n["node"] == before["node"])
    async with Load(platform.base("lhr"), HOST) as load:
        await load.requests(100)
        kill(node["pid"])
        await platform.until(lambda: _agent_back(platform, node))
        await load.requests(100)
    assert load.failures == []
    after = await instance_in(platform, "lhr")
    assert (after["pid"], after["node"]) == (before["pid"], before["node"])


async def _agent_back(platform: Platform, node: dict[str, object]) -> bool:
    now = next(n for n in (await platform.status())["nodes"] if n["node"] == node["node"])
    return now["state"] == "up" and now["pid"] not in (None, node["pid"])


async def test_a_killed_ingress_is_back_within_a_second(platform: Platform) -> None:
    site = next(s for s in (await platform.status())["sites"] if s["site"] == "lhr")
    async with Load(platform.base("lhr"), HOST) as load:
        await load.requests(100)
        kill(site["ingress_pid"])
        await load.requests(300)
    assert load.longest_gap_s < 1.0
    assert load.answered > 100


async def test_a_killed_site_controller_costs_no_request(platform: Platform) -> None:
    site = next(s for s in (await platform.status())["sites"] if s["site"] == "lhr")
    before = await platform.instances(app="hello")

    async def back() -> bool:
        now = next(s for s in (await platform.status())["sites"] if s["site"] == "lhr")
        return now["pid"] not in (None, site["pid"]) and now["ingress_pid"] == site["ingress_pid"]

    async with Load(platform.base("lhr"), HOST) as load:
        await load.requests(100)
        kill(site["pid"])
        await platform.until(back)
        await load.requests(100)
    assert load.failures == []
    assert [i["pid"] for i in await platform.instances(app="hello")] == [i["pid"] for i in before]


async def test_a_killed_node_costs_no_request(platform: Platform) -> None:
    before = await instance_in(platform, "lhr")
    pids = await platform.node_processes(str(before["node"]))
    assert before["pid"] in pids
    async with Load(platform.base("lhr"), HOST) as load:
        await load.requests(100)
        kill(*pids)
        await platform.until(lambda: whole(platform), limit_s=60)
        await load.requests(100)
    assert load.failures == []


async def test_a_killed_city_is_noticed_by_nobody_elsewhere(platform: Platform) -> None:
    pids = await platform.site_processes("lhr")
    async with Load(platform.base("cur"), HOST) as cur, Load(platform.base("sin"), HOST) as sin:
        await cur.requests(50)
        kill(*pids)
        # Its users go to a neighbour's address, as their DNS or anycast route then leads them.
        async with Load(platform.base("cur"), HOST) as moved:
            await moved.requests(100)
        await platform.until(lambda: whole(platform), limit_s=60)
        await sin.requests(50)
    assert (cur.failures, sin.failures, moved.failures) == ([], [], [])
    assert (await platform.get("lhr", "hello")).status_code == 200


async def _city_back(platform: Platform, name: str, killed: list[int]) -> bool:
    """Control shows what a site last said until it says more: only new processes say that it is back."""
    site = next(s for s in (await platform.status())["sites"] if s["site"] == name)
    return site["pid"] not in killed and site["ingress_pid"] not in killed and await whole(platform)


async def test_a_stopped_control_costs_no_request(platform: Platform) -> None:
    control = await platform.control_pid()
    loads = [Load(platform.base(site), HOST, clients=1, per_second=50) for site in sorted(CITIES)]
    instance = await instance_in(platform, "cur")
    for load in loads:
        await load.__aenter__()
    try:
        os.kill(control, signal.SIGSTOP)
        await asyncio.sleep(5)
        kill(int(str(instance["pid"])))  # sites go on by themselves
        await asyncio.sleep(25)
    finally:
        os.kill(control, signal.SIGCONT)
        for load in loads:
            await load.__aexit__(None, None, None)
    assert [load.failures for load in loads] == [[], [], []]
    assert all(load.answered > 500 for load in loads)
