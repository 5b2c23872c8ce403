"""Users counted on real ingresses: whose demand it is, what the next control knows of it, and what errors do to a rollout."""

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from skerry.testing.load import Load
from skerry.testing.platform import Platform

CITIES = {"lhr", "cur", "sin"}
HOST = "hello.default.localhost"
RPS = 60.0

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None) -> AsyncIterator[Platform]:
    async with Platform() as running:
        assert await upload(running, "v1") == 200
        await running.settled("hello", CITIES)
        yield running


async def upload(platform: Platform, text: str, status: int = 200, *, slow_ms: int = 0) -> int:
    wait = f"await new Promise((done) => setTimeout(done, {slow_ms})); " if slow_ms else ""
    return await platform.upload(
        "hello", f'export default {{ async fetch() {{ {wait}return new Response("{text}", {{ status: {status} }}); }} }};'
    )


async def demand(platform: Platform) -> dict[str, dict[str, Any]]:
    found = await platform.api("GET", f"/v1/apps/{await platform.account()}/hello/demand")
    return {city["site"]: city for city in found["cities"]}


def load(platform: Platform, site: str, clients: int = 2) -> Load:
    return Load(platform.base(site), HOST, clients=clients, per_second=RPS)


async def known(platform: Platform, site: str) -> bool:
    """A busy machine sends less than it is asked to."""
    city = (await demand(platform)).get(site)  # none while a control has yet to hear the city
    return city is not None and RPS / 2 < city["rps"] < RPS * 1.2


async def test_users_of_one_city_are_its_demand_and_the_next_control_knows_of_them(platform: Platform) -> None:
    async with load(platform, "sin") as users:
        await platform.until(lambda: known(platform, "sin"))
        found = await demand(platform)
        assert {site: city["rps"] > 0 for site, city in found.items()} == {"lhr": False, "cur": False, "sin": True}
        assert found["sin"]["asked_rps"] > found["sin"]["smoothed_rps"]
        status, shown = await platform.command("demand", "hello")
        assert status == 0
        assert [line.split()[0] for line in shown.splitlines() if "running" in line] == ["cur", "lhr", "sin"]
        status, shown = await platform.command("explain", "hello", "sin")
        assert "users who come in here ask for" in shown

        killed = await platform.control_pid()
        os.kill(killed, signal.SIGKILL)

        async def back() -> bool:
            return await platform.control_pid() != killed and await known(platform, "sin")

        await platform.until(back)
        after = await demand(platform)
        assert after["sin"]["errors"] == 0
        assert after["sin"]["requests"] >= found["sin"]["requests"]
    assert users.failures == []


async def test_a_version_that_answers_with_errors_goes_back_by_itself(platform: Platform) -> None:
    async with Load(platform.base("sin"), HOST, clients=4, per_second=3 * RPS), load(platform, "lhr"):
        await platform.until(lambda: known(platform, "lhr"))
        assert await upload(platform, "broken", 500) == 200
        await goes_back(platform, "requests failed")


async def test_a_version_that_is_slow_goes_back_by_itself_though_none_of_its_requests_fails(platform: Platform) -> None:
    """Enough clients that the slow version is asked as often as the one before."""
    async with Load(platform.base("sin"), HOST, clients=4, per_second=3 * RPS) as sin, load(platform, "lhr", 60) as lhr:
        await platform.until(lambda: known(platform, "lhr"))
        await lhr.requests(200)
        assert await upload(platform, "slow", slow_ms=400) == 200
        await goes_back(platform, "answers take")
    assert (sin.failures, lhr.failures) == ([], [])


async def goes_back(platform: Platform, why: str) -> None:
    """The rollout under way is taken back for this reason, before others than the users of its canary have seen it."""
    path = f"/v1/apps/{await platform.account()}/hello/rollout"
    seen: list[dict[str, Any]] = []

    async def taken_back() -> bool:
        seen.append(await platform.api("GET", path))
        return seen[-1]["rollout"]["detail"].find(why) >= 0

    await platform.until(taken_back, what=lambda: repr(seen[-1:]))

    async def all_of_before() -> bool:
        return {(await platform.get(site, "hello")).text for site in CITIES} == {"v1"}

    await platform.until(all_of_before)
    under_way = [rollout for rollout in seen if rollout["gated"] and rollout["rollout"]["state"] == "running"]
    touched = {site["site"] for rollout in under_way for site in rollout["sites"] if site["released"]}
    assert touched <= {"lhr"}, "a few users saw it, and none of the others"
