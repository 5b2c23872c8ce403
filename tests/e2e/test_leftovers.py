"""Nothing is left of a platform, however it ends; and what it knew is there again when it starts anew."""

import asyncio
import json
import os
import random
import signal
import subprocess
import termios
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.testing.platform import Platform, program
from skerry.testing.websockets import open_websocket, say
from tests.e2e.footprint import Footprint

CITIES = {"lhr", "cur"}
END_S_MAX = 5.0
SEEDS = range(4)
CODE = """export default { fetch(request) {
  if (request.headers.get("upgrade") !== "websocket") return new Response("still here");
  const [client, server] = Object.values(new WebSocketPair());
  server.accept();
  server.addEventListener("message", (event) => server.send("echo " + event.data));
  return new Response(null, { status: 101, webSocket: client });
} };"""

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None) -> AsyncIterator[Platform]:
    """With two apps; every test ends it in its own way."""
    async with Platform(cities="lhr:2,cur:1") as running:
        for app in ("one", "two"):
            assert await running.upload(app, CODE) == 200
        for app in ("one", "two"):
            await running.settled(app, CITIES)
        yield running


@pytest.fixture(autouse=True)
async def whole(platform: Platform) -> AsyncIterator[None]:
    """Runs at the beginning of each test, and is what it was: the same versions, which answer."""
    await ensure_running(platform)
    before = await versions(platform)
    yield
    await ensure_running(platform)
    assert await versions(platform) == before
    for app in ("one", "two"):
        await platform.settled(app, CITIES)
        assert {(await platform.get(site, app)).text for site in CITIES} == {"still here"}


async def ensure_running(platform: Platform) -> None:
    if not platform.is_running:
        await platform.start()


async def versions(platform: Platform) -> dict[str, str]:
    return {app["app"]: app["version"] for app in (await platform.status())["apps"]}


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_within_five_seconds(platform: Platform, number: int) -> None:
    footprint = Footprint(platform.data)
    assert len(footprint.pids) > 15 and len(footprint.listening) > 10
    reader, writer = await open_websocket(platform.base("lhr"), host="one.default.localhost")
    assert await say(reader, writer, b"x") == b"echo x"  # a connection that would last does not keep it
    began_s = time.monotonic()
    assert await platform.stop(number) == 0
    assert time.monotonic() - began_s < END_S_MAX
    writer.close()
    assert footprint.left() == []
    assert "nothing is left behind" in platform.log().splitlines()[-1]


async def test_two_signals_end_it_at_once(platform: Platform) -> None:
    footprint = Footprint(platform.data)
    process = platform.process
    process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.05)
    assert await platform.stop() == 0, platform.log()[-2000:]
    assert footprint.left() == []


async def test_down_and_status_of_one_in_the_foreground(platform: Platform) -> None:
    footprint = Footprint(platform.data)
    process = platform.process
    assert (await platform.command("status"))[0] == 0
    assert await platform.command("down") == (0, "ended\n")
    assert await process.wait() == 0
    assert footprint.left() == []
    assert (await platform.command("status"))[0] == 3
    assert await platform.command("down") == (0, f"nothing runs on {platform.data}\n")
    await platform.stop()


async def test_a_killed_supervisor_takes_its_planes_with_it(platform: Platform) -> None:
    footprint = Footprint(platform.data)
    await platform.kill()

    async def gone() -> bool:
        # Empty control groups and files are for the next start or `down`: there is nobody left to remove them.
        return not [line for line in footprint.left() if line.startswith(("process", "network", "mount", "somebody", "unix"))]

    await platform.until(gone, what=lambda: repr(footprint.left()))
    assert (await platform.command("status"))[0] == 3
    status, said = await platform.command("down")
    assert status == 0 and ("nothing runs" in said or "removed what an earlier run left" in said)
    assert footprint.left() == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_everything_killed_in_any_order(platform: Platform, seed: int) -> None:
    chance = random.Random(seed)
    footprint = Footprint(platform.data)
    victims = list(footprint.pids)
    chance.shuffle(victims)
    spared = set() if seed == 0 else set(victims[: chance.randrange(len(victims))]) - {platform.pid}
    for pid in victims:
        if pid not in spared:
            kill(pid)
            await asyncio.sleep(chance.choice((0, 0, 0.002, 0.02)))
    await platform.kill()
    if seed % 2:
        await platform.start()  # the next one clears up first
        assert not set(footprint.pids) & set(Footprint(platform.data).pids)
        return
    status, said = await platform.command("down")
    assert status == 0, said
    assert footprint.left() == []


@pytest.mark.parametrize("moment", ["platform.json", "control", "lhr-1", "all"])
async def test_ctrl_c_while_it_starts(platform: Platform, moment: str) -> None:
    assert await platform.stop() == 0, platform.log()[-2000:]
    said_before = len(platform.log())

    async def reached() -> bool:
        said = platform.log()[said_before:]
        if moment == "platform.json":
            return (platform.data / "platform.json").exists()
        if moment == "all":
            return all(f"{name}: ready" in said for name in ("control", "lhr", "cur", "lhr-1", "lhr-2", "cur-1"))
        return f"{moment}: ready" in said

    await platform.begin()
    await platform.until(reached, what=platform.log)
    footprint = Footprint(platform.data)
    began_s = time.monotonic()
    assert await platform.stop() == 0, platform.log()[-2000:]
    assert time.monotonic() - began_s < END_S_MAX
    assert footprint.left() == []


async def test_a_killed_start_is_cleaned_up_by_the_next(platform: Platform) -> None:
    await platform.stop()
    said_before = len(platform.log())

    async def reached() -> bool:
        return "lhr-2: ready" in platform.log()[said_before:]

    await platform.begin()
    await platform.until(reached, what=platform.log)
    footprint = Footprint(platform.data)
    for pid in footprint.pids:
        kill(pid)
    await platform.kill()
    await platform.start()
    assert not set(footprint.pids) & set(Footprint(platform.data).pids)


async def test_ctrl_c_at_a_terminal(platform: Platform) -> None:
    """The terminal sends the signal to everybody in the foreground; the picture shows cities, apps and the way in."""
    await platform.stop()
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (50, 160))
    process = subprocess.Popen(
        ["setsid", "--ctty", *program(), *platform.up_arguments()],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**platform.env, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = ""
    try:
        wanted = ("London", "Willemstad", "one.default.localhost", "two.default.localhost", "skerry env")

        async def drawn() -> bool:
            nonlocal shown
            shown += _read(ours)
            return all(word in shown for word in wanted)

        await platform.until(drawn, what=lambda: shown[-3000:])
        footprint = Footprint(platform.data)
        os.write(ours, b"\x03")
        began_s = time.monotonic()
        while process.poll() is None:
            shown += _read(ours)
            await asyncio.sleep(0.01)
        assert time.monotonic() - began_s < END_S_MAX
        assert process.returncode == 0, shown[-3000:]
        assert footprint.left() == []
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 1 << 20).decode("utf-8", "replace")
    except (BlockingIOError, OSError):  # EIO: the other side is closed
        return ""


async def test_detached_outlives_who_started_it(platform: Platform) -> None:
    await platform.stop()
    arguments = [*platform.up_arguments(), "--detach", "--json"]
    status, said = await platform.command(*arguments)
    assert status == 0, said
    started = json.loads(said.splitlines()[-1])
    try:
        assert Path(f"/proc/{started['pid']}").exists()
        footprint = Footprint(platform.data)
        assert started["pid"] in footprint.pids
        assert (await platform.get("cur", "two")).text == "still here"
        assert f"(pid {started['pid']})" in (await platform.command(*arguments))[1]
    finally:
        assert await platform.command("down") == (0, "ended\n")
    assert footprint.left() == []
