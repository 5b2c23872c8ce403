"""kill -9 of control between any two steps of a deployment: the old state or the new one, never a mixture."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.apps.control import FAULT_VARIABLE
from skerry.testing.load import Load
from skerry.testing.platform import Platform

CITIES = ("lhr", "cur")
STEPS = 5  # upload, plan, and the release's waves: more than a deployment has

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def trigger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fault") / "trigger"


@pytest.fixture(scope="module")
async def platform(engines: None, trigger: Path) -> AsyncIterator[Platform]:
    async with Platform(cities="lhr:1,cur:1", env={FAULT_VARIABLE: str(trigger)}) as running:
        await upload(running, "v0")
        await running.settled("hello", set(CITIES))
        yield running


async def upload(platform: Platform, text: str) -> int:
    return await platform.upload("hello", f'export default {{ fetch() {{ return new Response("{text}"); }} }};')


async def served(platform: Platform) -> set[str]:
    return {(await platform.get(site, "hello")).text for site in CITIES}


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("commit", range(1, STEPS + 1))
async def test_control_killed_at_a_commit(platform: Platform, trigger: Path, side: str, commit: int) -> None:
    (old,) = await served(platform)
    new = f"{side}-{commit}"
    async with Load(platform.base("lhr"), "hello.default.localhost", clients=2, per_second=100) as load:
        trigger.write_text(f"{side}:{commit}")
        status = await upload(platform, new)
        assert status in (0, 200)

        async def killed_and_back() -> bool:
            return not trigger.exists() and bool((await platform.status())["sites"])

        if await _reached(trigger):
            await platform.until(killed_and_back)
        trigger.unlink(missing_ok=True)  # the deployment had fewer steps

        async def one_version() -> bool:
            await platform.settled("hello", set(CITIES))
            return len(await served(platform)) == 1

        await platform.until(one_version)
        (now,) = await served(platform)
        assert now in ((new,) if status == 200 else (old, new))
        assert await upload(platform, f"{new}-again") == 200  # it can be repeated

        async def repeated() -> bool:
            return await served(platform) == {f"{new}-again"}

        await platform.until(repeated)
        await platform.settled("hello", set(CITIES))
    assert load.failures == []


async def _reached(trigger: Path) -> bool:
    for _ in range(40):
        if not trigger.exists():
            return True
        await asyncio.sleep(0.05)
    return False
