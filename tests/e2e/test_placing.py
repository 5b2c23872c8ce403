"""Instances follow users on a real platform: load in one city, a drain, and what explain says at each step."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from skerry.testing.platform import Platform

APP = "follow"
CODE = "export default { fetch() { return new Response('here'); } };"
BURST = 20  # requests at once
PAUSE_S = 0.4

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None) -> AsyncIterator[Platform]:
    async with Platform(options=("--cities", "lhr:1,cur:2,sin:1")) as running:
        assert await running.upload(APP, CODE) == 200
        await running.settled(APP, {"lhr", "cur", "sin"})
        yield running


@contextlib.asynccontextmanager
async def users(platform: Platform, site: str) -> AsyncIterator[list[int]]:
    """Some 50 requests per second that come in at one city; the statuses that were none of the good."""
    failed: list[int] = []

    async def ask() -> None:
        while True:
            answers = await asyncio.gather(*(platform.get(site, APP) for _ in range(BURST)), return_exceptions=True)
            failed.extend(0 if isinstance(a, BaseException) else a.status_code for a in answers)
            failed[:] = [status for status in failed if status != 200]
            await asyncio.sleep(PAUSE_S)

    task = asyncio.ensure_future(ask())
    try:
        yield failed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def running(platform: Platform) -> Counter[str]:
    found = await platform.instances(app=APP)
    return Counter(item["site"] for item in found if item["state"] in ("running", "asleep", "dead"))


async def until(platform: Platform, wanted: Callable[[Counter[str]], bool], limit_s: float = 60.0) -> Counter[str]:
    """Until `wanted` holds of the counts by city."""
    deadline = time.monotonic() + limit_s
    while True:
        found = await running(platform)
        if wanted(found):
            return found
        assert time.monotonic() < deadline, (found, await explained(platform))
        await asyncio.sleep(0.2)


async def explained(platform: Platform) -> dict[str, Any]:
    account = await platform.account()
    return await platform.api("GET", f"/v1/apps/{account}/{APP}/explain")


def reasons(said: dict[str, Any], site: str) -> str:
    return " ".join(next(verdict["reasons"] for verdict in said["verdicts"] if verdict["site"] == site))


async def test_instances_go_where_users_are_leave_a_drained_city_and_every_step_has_its_reason(platform: Platform) -> None:
    account = await platform.account()
    code, out = await platform.command("scale", APP, "--min-per-site", "0", "--rps", "10")
    assert code == 0, out
    await until(platform, lambda n: n["cur"] == 0 and n.total() > 0)  # few users are nearest to Curaçao
    said = await explained(platform)
    assert any("nobody has asked yet" in line for line in said["report"])

    async with users(platform, "cur") as failed:
        await until(platform, lambda n: n["cur"] >= 3)
        said = await explained(platform)
        assert said["cause"] == "demand"
        assert any("measured by the city whose users ask: cur" in line for line in said["report"])
        assert "it serves" in reasons(said, "cur") and "served on the spot" in reasons(said, "cur")
        assert "would save" in reasons(said, "sin")

        preview = await platform.api("POST", f"/v1/plan?account={account}", {"sites": {"cur": {"state": "draining"}}})
        (foretold,) = preview["apps"]
        assert foretold["lost"] == ["cur"] and foretold["weighed_by"] == "demand"

        code, out = await platform.command("drain", "cur")
        assert code == 0, out
        await until(platform, lambda n: n["cur"] == 0 and n.total() >= 3)
        said = await explained(platform)
        assert "drained" in reasons(said, "cur")
        assert set(foretold["gained"]) <= {verdict["site"] for verdict in said["verdicts"] if verdict["chosen"]}

        code, out = await platform.command("undrain", "cur")
        assert code == 0, out
        await until(platform, lambda n: n["cur"] >= 3)
    assert failed == []


async def test_settings_are_changed_by_a_command_and_read_by_the_api(platform: Platform) -> None:
    code, out = await platform.command("settings", "--set", "move=35", "--rtt", "lhr-sin=171.5", "--json")
    assert code == 0, out
    found = await platform.api("GET", "/v1/settings")
    assert found["settings"]["move"] == 35 and found["set_fields"] == ["move"] and found["measured_rtts"] == 1
    code, out = await platform.command("settings", "--set", "mvoe=35")
    assert code == 1 and "no setting" in out
    code, out = await platform.command("settings", "--reset", "move", "--rtt", "lhr-sin=")
    assert code == 0, out
    assert (await platform.api("GET", "/v1/settings"))["set_fields"] == []
