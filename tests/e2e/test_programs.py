"""Programs from images on a real platform, in every isolation class of this machine, as authors and users meet them."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skerry.apps.node_programs import find_engines
from skerry.testing.images import File, build
from skerry.testing.load import Load
from skerry.testing.oci_node import busybox, busybox_tree, is_root
from skerry.testing.platform import Platform
from tests.e2e.footprint import Footprint

ROOT = Path(__file__).parents[2]
CITIES = "lhr:1,cur:1"
CLASSES = ("container", "gvisor", "microvm")
SERVE = ("sh", "-c", "echo version $LEVEL; exec httpd -f -p $PORT -h /www")

pytestmark = [
    pytest.mark.usefixtures("engines"),
    pytest.mark.skipif(not is_root(), reason="programs need root"),
    pytest.mark.skipif(busybox() is None, reason="busybox: no static one (apt-get install busybox-static)"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `web.tar` (the example), `small.tar` (busybox's httpd) and images that nobody can run."""
    folder = tmp_path_factory.mktemp("images")
    subprocess.run([sys.executable, str(ROOT / "examples/images/pack.py"), "python", str(folder / "web.tar")], check=True)
    program = busybox()
    assert program is not None
    tree = {**busybox_tree(program.read_bytes()), "www/index.html": File(content=b"served\n")}
    build([tree], command=SERVE).save(folder / "small.tar")
    build([{"bin/true": File(content=b"x", mode=0o755)}], command=("/bin/true",), architecture="s390x").save(folder / "other.tar")
    (folder / "noise.tar").write_bytes(os.urandom(4096))
    return folder


@pytest.fixture(scope="module")
def offered() -> dict[str, str]:
    """Classes that this machine lacks, with the reason."""
    with tempfile.TemporaryDirectory() as scratch:
        return dict(find_engines(Path(scratch, "base"), Path(scratch, "run"))[1])


@pytest.fixture(scope="module")
async def platform(engines: None, images: Path, offered: dict[str, str]) -> AsyncIterator[Platform]:
    """With the example in every class that the machine has, as `web-CLASS`."""
    async with Platform(cities=CITIES) as running:
        for name in CLASSES:
            if name not in offered:
                await skerry(running, "run", str(images / "web.tar"), "--name", f"web-{name}", "--isolation", name,
                             "--port", "8080", "--cities", "lhr", "--memory", "128M")  # fmt: skip
        yield running


@pytest.fixture(params=CLASSES)
def isolation(request: pytest.FixtureRequest, offered: dict[str, str]) -> str:
    if request.param in offered:
        pytest.skip(f"{request.param}: {offered[request.param]}")
    return request.param


async def skerry(platform: Platform, *arguments: str, status: int = 0, **options: Any) -> str:
    """A command with that exit status; what it said."""
    got, said = await platform.command(*arguments, **options)
    assert got == status, f"{arguments}: {got}: {said}"
    return said


async def one(platform: Platform, app: str) -> dict[str, Any]:
    """Its only instance."""
    found = await platform.instances(app=app)
    assert len(found) == 1, found
    return found[0]


async def gone(platform: Platform, app: str) -> None:
    """Until there is neither the app nor an instance of it."""

    async def nothing() -> bool:
        status = await platform.status()
        return not [item for kind in ("apps", "instances") for item in status[kind] if item["app"] == app]

    await platform.until(nothing)


async def test_serves_in_its_city_and_through_the_next(platform: Platform, isolation: str) -> None:
    for site in ("lhr", "cur"):
        answer = await platform.get(site, f"web-{isolation}", "/where")
        assert answer.status_code == 200
        assert answer.json()["path"] == "/where"
        assert answer.json()["user"] == 65534
    sent = os.urandom(100_000)
    assert (await platform.request("POST", "cur", f"web-{isolation}", content=sent)).content == sent


async def test_exec_and_logs(platform: Platform, isolation: str) -> None:
    code = "import os, sys; print(os.environ['SKERRY_SITE'], sys.stdin.read()); print('bad', file=sys.stderr); sys.exit(7)"
    said = await skerry(platform, "exec", f"web-{isolation}", "--", "/usr/bin/python3", "-c", code, status=7, stdin="typed")
    assert "lhr typed" in said and "bad" in said
    assert "serving on 8080" in await skerry(platform, "logs", f"web-{isolation}")


async def test_files_in_and_out(platform: Platform, isolation: str, images: Path, tmp_path: Path) -> None:
    app = f"files-{isolation}"  # gVisor copies by the image's own tar
    await skerry(platform, "run", str(images / "small.tar"), "--name", app, "--isolation", isolation, "--port", "8080",
                 "--cities", "lhr", "--memory", "96M", "--env", "LEVEL=1")  # fmt: skip
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "folder/deep/one.bin").write_bytes(content := os.urandom(3 << 20))
    await skerry(platform, "cp", str(tmp_path / "folder"), f"{app}:/www")
    assert (await platform.get("lhr", app, "/folder/deep/one.bin")).content == content
    await skerry(platform, "cp", f"{app}:/www/folder", str(tmp_path / "back"))
    assert [path.read_bytes() for path in (tmp_path / "back").rglob("one.bin")] == [content]
    assert "No such file" in await skerry(platform, "cp", f"{app}:/nothing", str(tmp_path), status=1)
    await skerry(platform, "delete", app, "--yes")
    await gone(platform, app)


async def test_a_new_version_takes_over_without_a_failed_request(platform: Platform, isolation: str, images: Path) -> None:
    app = f"web-{isolation}"
    before = await one(platform, app)
    async with Load(platform.base("lhr"), f"{app}.default.localhost", clients=2, per_second=20) as users:
        await users.requests(5)
        said = await skerry(platform, "run", str(images / "web.tar"), "--name", app, "--isolation", isolation,
                             "--port", "8080", "--memory", "128M", "--env", "LEVEL=2")  # fmt: skip
        assert "version 2" in said

        async def alone() -> bool:
            found = await platform.instances(app=app)
            return len(found) == 1 and found[0]["version"] != before["version"] and found[0]["state"] == "running"

        await platform.until(alone, limit_s=60)
        await users.requests(10)
    assert users.failures == []
    level = "import os; print('level', os.environ['LEVEL'])"
    assert "level 2" in await skerry(platform, "exec", app, "--", "/usr/bin/python3", "-c", level)


async def test_a_killed_program_is_served_again_at_its_address(platform: Platform, isolation: str) -> None:
    app = f"web-{isolation}"
    before = await one(platform, app)
    os.kill(before["pid"], signal.SIGKILL)
    answer = await platform.get("lhr", app, timeout=60)  # the first who asks waits, behind whatever wall
    assert answer.status_code == 200, answer.text

    async def again() -> bool:
        found = await one(platform, app)
        return found["restarts"] == 1 and found["state"] == "running"

    await platform.until(again)
    after = await one(platform, app)
    assert (after["instance"], after["address"]) == (before["instance"], before["address"])
    assert after["pid"] != before["pid"]


async def test_a_killed_agent_finds_its_programs(platform: Platform, offered: dict[str, str]) -> None:
    def told(found: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
        return {item["app"]: (item["instance"], item["pid"], item["address"]) for item in found if item["app"].startswith("web-")}

    before = told(await platform.instances())
    agent = next(node["pid"] for node in (await platform.status())["nodes"] if node["node"] == "lhr-1")
    os.kill(agent, signal.SIGKILL)
    for app in before:
        answer = await platform.get("lhr", app)  # without an agent too
        assert answer.status_code == 200, answer.text

    async def back() -> bool:
        node = next(node for node in (await platform.status())["nodes"] if node["node"] == "lhr-1")
        return node["pid"] not in (agent, None) and node["state"] == "up"

    await platform.until(back)
    assert told(await platform.instances()) == before

    async def commands_reach(app: str) -> bool:  # the next agent has to ask for calls first
        status, said = await platform.command("exec", app, "--", "/usr/bin/python3", "-c", "print('kept')")
        return status == 0 and "kept" in said

    for app in before:
        await platform.until(partial(commands_reach, app))


async def test_a_file_of_apps_that_sleeps_and_wakes(platform: Platform, images: Path, tmp_path: Path) -> None:
    (tmp_path / "skerry.toml").write_text(
        f"""[apps.sleeper]
        image = "{images}/small.tar"
        port = 8080
        memory = "16M"
        cities = ["cur"]
        asleep_after = "1s"
        env = {{ LEVEL = "toml" }}
        health = {{ http = "/index.html" }}
        """
    )
    assert "sleeper: version 1 (container)" in await skerry(platform, "deploy", str(tmp_path))

    async def ended() -> bool:
        found = await one(platform, "sleeper")
        return found["state"] == "dead" and found["pid"] is None

    await platform.until(ended)
    assert "no instance of sleeper runs: dead" in await skerry(platform, "exec", "sleeper", "--", "ls", status=1)
    async with Load(platform.base("lhr"), "sleeper.default.localhost", path="/index.html", clients=3, per_second=30) as users:
        await users.requests(9)
    assert users.failures == []
    assert (await one(platform, "sleeper"))["state"] in ("running", "dead")
    await skerry(platform, "delete", "sleeper", "--yes")
    await gone(platform, "sleeper")


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        ("missing.tar", [], "no such file"),
        ("noise.tar", [], "noise.tar: neither an OCI archive nor what `docker save` writes"),
        ("other.tar", [], "no image for linux/"),
        ("small.tar", ["--isolation", "jail"], "jail: container, gvisor or microvm"),
        ("small.tar", ["--memory", "1M"], "memory is 1 MiB; a container has 8 to"),
        ("small.tar", ["--isolation", "gvisor", "--memory", "16M"], "memory is 16 MiB; a gvisor has 32 to"),
        ("small.tar", ["--isolation", "microvm", "--memory", "32M"], "memory is 32 MiB; a microvm has 96 to"),
        ("small.tar", ["--port", "70000"], "port"),
        ("small.tar", ["--cities", "xyz"], "xyz"),
    ],
)
async def test_what_cannot_run_is_refused_and_leaves_nothing(
    platform: Platform, images: Path, image: str, options: list[str], said: str
) -> None:
    refused = await skerry(platform, "run", str(images / image), "--name", "bad", *options, status=1)
    assert said in refused
    assert "Traceback" not in refused
    status = await platform.status()
    assert [item for kind in ("apps", "instances") for item in status[kind] if item["app"] == "bad"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--entrypoint", "/no/such"], "/no/such"),
        (["--entrypoint", "sh -c 'echo my last word; exit 3'", "--restart", "never"], "its last words: my last word"),
        (["--user", "nobody-knows"], "nobody-knows"),
    ],
)  # fmt: skip
async def test_what_does_not_start_says_why_and_leaves_nothing(
    platform: Platform, images: Path, options: list[str], said: str
) -> None:
    arguments = ("run", str(images / "small.tar"), "--name", "bad", "--port", "8080", "--memory", "16M", "--cities", "cur")
    assert said in await skerry(platform, *arguments, *options, status=1)
    assert said in await skerry(platform, "instances", "bad")
    assert "no instance of bad runs" in await skerry(platform, "exec", "bad", "--", "ls", status=1)
    assert (await platform.get("cur", "bad")).status_code == 503
    await skerry(platform, "delete", "bad", "--yes")
    await gone(platform, "bad")


async def test_what_never_opens_its_port_says_so(platform: Platform, images: Path, tmp_path: Path) -> None:
    (tmp_path / "skerry.toml").write_text(
        f"""[apps.mute]
        image = "{images}/small.tar"
        command = ["sleep", "1000000"]
        port = 8080
        memory = "16M"
        cities = ["cur"]
        stop_grace = "1s"
        health = {{ tcp = true, grace = "1s" }}
        """
    )
    assert "port 8080 never opened in 1 s" in await skerry(platform, "deploy", str(tmp_path), status=1)
    await skerry(platform, "delete", "mute", "--yes")
    await gone(platform, "mute")


async def test_nothing_is_left(platform: Platform, offered: dict[str, str]) -> None:
    """The last one: first without its apps, then without the platform."""
    for name in CLASSES:
        if name not in offered:
            await skerry(platform, "delete", f"web-{name}", "--yes")
            await gone(platform, f"web-{name}")
    nodes = platform.data / "nodes"
    kept = ("records", "logs", "writable", "instances", "microvm/processes")

    async def clean() -> bool:
        return left_of_instances() == []

    def left_of_instances() -> list[str]:
        paths = [path for node in nodes.iterdir() for name in kept for path in (node / "programs" / name).glob("*")]
        paths += list(nodes.glob("*/network/instances/*"))
        return sorted(map(str, paths))

    await platform.until(clean, what=lambda: repr(left_of_instances()))
    footprint = Footprint(platform.data)
    running = footprint.left()
    assert [kind for kind in ("process", "control group", "table") if not any(line.startswith(kind) for line in running)] == []
    assert await platform.command("down") == (0, "ended\n")
    await platform.stop()
    assert footprint.left() == []
