"""A real platform is maintained and drained: nodes reboot, control is killed meanwhile, and no request fails."""

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from skerry.testing.load import Load
from skerry.testing.platform import Platform

CITIES = {"lhr", "cur"}
HOST = "hello.default.localhost"

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    hook = tmp_path_factory.mktemp("hooks") / "mend"
    hook.write_text('#!/bin/sh\necho "$SKERRY_NODE is beyond repair"\ntest "$SKERRY_NODE" != lhr-2\n')
    hook.chmod(0o755)
    async with Platform(cities="lhr:2,cur:1", options=("--hook", f"mend={hook}")) as running:
        await running.upload("hello", "export default { fetch() { return new Response('hi'); } };")
        await running.settled("hello", CITIES)
        yield running


async def maintenance(platform: Platform) -> dict[str, Any]:
    return await platform.api("GET", "/v1/maintenance")


async def until(platform: Platform, *states: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def over() -> bool:
        found.update(await maintenance(platform))
        return found["state"] in states

    await platform.until(over, limit_s=150.0, what=lambda: str(found))
    return found


async def agents(platform: Platform) -> dict[str, int]:
    return {node["node"]: node["pid"] for node in (await platform.status())["nodes"]}


async def test_every_node_is_rebooted_while_control_is_killed_and_nobody_notices(platform: Platform) -> None:
    before = await agents(platform)
    async with Load(platform.base("lhr"), HOST, clients=2, per_second=50) as load:
        begun = await platform.api("POST", "/v1/maintenance", {"action": "start", "task": "reboot"})
        assert [node["node"] for node in begun["nodes"]] == ["cur-1", "lhr-1", "lhr-2"]

        async def first_is_done() -> bool:
            return (await maintenance(platform))["done"] >= 1

        await platform.until(first_is_done, limit_s=60.0)
        os.kill(await platform.control_pid(), signal.SIGKILL)
        done = await until(platform, "done", "stopped")
    assert (done["state"], done["detail"]) == ("done", "")
    assert load.failures == []
    assert all(pid != before[node] for node, pid in (await agents(platform)).items())


async def test_a_hook_that_fails_on_a_node_stops_it_and_an_abort_gives_the_node_back(platform: Platform) -> None:
    await platform.api("POST", "/v1/maintenance", {"action": "start", "task": "mend", "sites": ["lhr"]})
    stopped = await until(platform, "stopped", "done")
    assert "lhr-2: mend failed" in stopped["detail"]
    assert "lhr-2 is beyond repair" in stopped["detail"]
    code, shown = await platform.command("maintenance", "status")
    assert (code, "beyond repair" in shown, "skerry maintenance resume" in shown) == (0, True, True)
    await platform.api("POST", "/v1/maintenance", {"action": "abort"})
    await until(platform, "aborted")

    async def all_up() -> bool:
        return all(node["state"] == "up" for node in (await platform.status())["nodes"])

    await platform.until(all_up)


async def test_draining_all_cities_takes_no_app_down(platform: Platform) -> None:
    """The last one that runs it goes on, and says so."""
    async with Load(platform.base("lhr"), HOST, clients=2, per_second=50) as load:
        for city in ("cur", "lhr"):
            await platform.api("POST", "/v1/drain", {"target": city})

        async def one_city() -> bool:
            found = await platform.instances(app="hello")
            return len(found) == 1 and found[0]["state"] in ("running", "asleep")

        await platform.until(one_city)
        last = (await platform.instances(app="hello"))[0]["site"]
        code, shown = await platform.command("explain", "hello", last)
        assert (code, "until there is room elsewhere" in shown) == (0, True)
        for city in ("cur", "lhr"):
            await platform.api("POST", "/v1/undrain", {"target": city})
        await platform.settled("hello", CITIES)
    assert load.failures == []
