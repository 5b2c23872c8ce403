"""The `skerry` program over a real platform: what it prints, and that draining costs no request."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from skerry.testing.load import Load
from skerry.testing.platform import Platform
from skerry.testing.wrangler import NEWEST, find
from tests.e2e.projects import write_project

CITIES = {"lhr", "cur"}
HOST = "hello.default.localhost"
HELLO = "export default { fetch() { return new Response('hello'); } };"

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None) -> AsyncIterator[Platform]:
    async with Platform(cities="lhr:2,cur:1") as running:
        assert await running.upload("hello", HELLO) == 200
        await running.settled("hello", CITIES)
        yield running


async def printed(platform: Platform, *arguments: str, cwd: Path | None = None, **env: str) -> str:
    status, said = await platform.command(*arguments, cwd=cwd, **env)
    assert status == 0, said
    return said


async def decoded(platform: Platform, *arguments: str, **env: str) -> dict[str, Any]:
    """With --json: exactly one line, which is an object."""
    (line,) = (await printed(platform, *arguments, "--json", **env)).splitlines()
    return json.loads(line)


FIELDS = {
    # command: list → fields of each item
    "status": {
        "sites": {"site", "city", "country", "address", "state", "pid", "ingress_pid", "nodes", "nodes_up"},
        "nodes": {"node", "site", "address", "state", "pid", "capacity", "reserved", "instances"},
        "instances": {"instance", "account", "app", "version", "site", "node", "state", "pid", "since_ms"},
        "apps": {"account", "app", "version", "url", "rollout", "sites"},
    },
    "sites": {"sites": {"site", "city", "address", "state"}},
    "nodes": {"nodes": {"node", "site", "state", "pid", "capacity", "reserved"}},
    "apps": {"apps": {"account", "app", "version", "url", "rollout"}},
    "account list": {"accounts": {"account", "name", "created_ms"}},
    "token list": {"tokens": {"token", "name", "scope", "account", "created_ms", "expires_ms"}},
}


@pytest.mark.parametrize("command", FIELDS)
async def test_json_has_its_fields(platform: Platform, command: str) -> None:
    found = await decoded(platform, *command.split())
    for name, fields in FIELDS[command].items():
        items = found[name]
        assert isinstance(items, list) and items
        assert all(fields <= item.keys() for item in items)
    assert (await printed(platform, *command.split())).strip()


async def test_status_tells_the_truth(platform: Platform) -> None:
    status = await decoded(platform, "status")
    assert [site["site"] for site in status["sites"]] == ["cur", "lhr"]
    for node in status["nodes"]:
        assert Path(f"/proc/{node['pid']}/cmdline").read_bytes().startswith(os.fsencode(sys.executable))
        assert node["reserved"]["memory_mib"] <= node["capacity"]["memory_mib"]
    instances = [item for item in status["instances"] if item["app"] == "hello"]
    assert {item["site"] for item in instances} == CITIES
    for item in instances:
        assert item["state"] in ("running", "asleep") and Path(f"/proc/{item['pid']}").exists()
        assert item["node"].startswith(item["site"])
    shown = await printed(platform, "status", COLUMNS="200")
    for word in ("London", "Willemstad", "lhr-2", "default/hello", f"http://{HOST}:{platform.port}"):
        assert word in shown


async def test_top_asks_every_node_what_its_instances_use(platform: Platform) -> None:
    assert (await platform.get("lhr", "hello")).status_code == 200  # awake
    found = (await decoded(platform, "top", "hello"))["instances"]
    assert {line["city"] for line in found} == CITIES
    for usage in (line["usage"] for line in found if line["state"] in ("running", "asleep")):
        assert usage["granted_millicores"] == usage["limit_millicores"] >= usage["share_millicores"] > 0
        assert usage["held"] == ""
        assert usage["cpu_us"] > 0 or os.geteuid() != 0  # groups count it
    text = await printed(platform, "top", "--once")
    assert all(line["instance"][:8] in text for line in found)


async def test_explain_says_where_and_why(platform: Platform) -> None:
    shown = await printed(platform, "explain", "hello", "lhr", COLUMNS="200")
    assert "lhr" in shown and "cur" in shown and "chosen" in shown and "lhr-1" in shown
    said = await decoded(platform, "explain", "hello")
    assert {verdict["site"]: verdict["chosen"] for verdict in said["verdicts"]} == {"lhr": True, "cur": True}
    assert all(verdict["reasons"] for verdict in said["verdicts"])
    status, refused = await platform.command("explain", "nobody")
    assert status == 1 and "skerry apps" in refused


async def test_the_map_knows_where_an_app_answers_and_how_far_its_users_are(platform: Platform) -> None:
    assert {site["site"]: site["state"] for site in (await decoded(platform, "map"))["sites"]} == dict.fromkeys(CITIES, "up")
    said = await decoded(platform, "map", "hello")
    assert {held["site"] for held in said["copies"] if held["serving"]} == CITIES
    nearest = {metro["metro"]: metro["site"] for metro in said["metros"]}
    assert (nearest["cdg"], nearest["bog"]) == ("lhr", "cur")
    status, refused = await platform.command("map", "nobody", "--json")
    assert status == 1 and "skerry apps" in refused


async def test_a_drained_node_is_left_without_a_failed_request(platform: Platform) -> None:
    (before,) = await platform.instances(site="lhr", app="hello")
    node = before["node"]

    async def moved() -> bool:
        now = await platform.instances(site="lhr", app="hello")
        return [item["state"] for item in now] == ["running"] and now[0]["node"] != node

    async with Load(platform.base("lhr"), HOST, clients=2, per_second=100) as load:
        await load.requests(50)
        drained = await decoded(platform, "drain", node)
        assert (drained["target"], drained["kind"], drained["state"]) == (node, "node", "draining")
        await platform.until(moved)
        await load.requests(50)
        shown = await printed(platform, "explain", "hello", "lhr", COLUMNS="200")
        assert "drain" in shown
        assert f"node {node} is up" in await printed(platform, "undrain", node)
        await load.requests(50)
    assert load.failures == []
    assert {n["node"]: n["state"] for n in (await platform.status())["nodes"]}[node] == "up"


async def test_a_drained_city_sends_its_users_to_a_neighbour(platform: Platform) -> None:
    async def served_by(sites: set[str]) -> bool:
        return {item["site"] for item in await platform.instances(app="hello")} == sites

    async with (
        Load(platform.base("lhr"), HOST, clients=2, per_second=100) as lhr,
        Load(platform.base("cur"), HOST, clients=2, per_second=100) as cur,
    ):
        await lhr.requests(50)
        assert "site lhr is draining" in await printed(platform, "drain", "lhr")
        await platform.until(lambda: served_by({"cur"}))
        await asyncio.gather(lhr.requests(100), cur.requests(100))
        assert {metro["site"] for metro in (await decoded(platform, "map", "hello"))["metros"]} == {"cur"}
        said = await decoded(platform, "explain", "hello")
        verdicts = {verdict["site"]: verdict for verdict in said["verdicts"]}
        assert not verdicts["lhr"]["chosen"] and "drain" in " ".join(verdicts["lhr"]["reasons"])
        assert (await decoded(platform, "undrain", "lhr"))["state"] == "up"
        await platform.until(lambda: served_by(CITIES))
        await platform.settled("hello", CITIES)
        await asyncio.gather(lhr.requests(50), cur.requests(50))
    assert (lhr.failures, cur.failures) == ([], [])


async def test_tenants_see_only_their_own(platform: Platform) -> None:
    made = await decoded(platform, "account", "create", "team-a")
    secret = (await printed(platform, "token", "create", "ci", "--account", "team-a", "--days", "30")).splitlines()[0]
    theirs = {"SKERRY_API_URL": f"http://127.0.0.1:{platform.api_port}", "SKERRY_API_TOKEN": secret}
    nothing = await decoded(platform, "status", **theirs)
    assert (nothing["apps"], nothing["instances"], nothing["nodes"]) == ([], [], [])
    assert (await decoded(platform, "apps", **theirs))["apps"] == []
    assert (await decoded(platform, "account", "list", **theirs))["accounts"] == [made]
    tokens = (await decoded(platform, "token", "list", **theirs))["tokens"]
    assert [(token["name"], token["secret"]) for token in tokens] == [("ci", None)]
    assert secret not in await printed(platform, "token", "list")
    for arguments in (
        ("nodes",), ("drain", "lhr"), ("undrain", "lhr"), ("account", "create", "x"), ("token", "create", "x"),
        ("explain", "hello"), ("explain", "hello", "--account", "default"), ("env", "--account", "default"),
        ("token", "revoke", tokens[0]["token"]),
    ):  # fmt: skip
        status, said = await platform.command(*arguments, **theirs)
        assert status == 1 and said.startswith("skerry: "), said
        assert "hello" not in said or arguments[0] == "explain"
    revoked = await printed(platform, "token", "revoke", tokens[0]["token"])
    assert "is revoked" in revoked
    status, said = await platform.command("apps", **theirs)
    assert status == 1 and "unknown, revoked or expired" in said


async def test_wrangler_needs_nothing_but_what_env_prints(platform: Platform, tmp_path: Path) -> None:
    node, wrangler = find(NEWEST)
    project = write_project(tmp_path / "project", "by-env", "export default { fetch() { return new Response('by env'); } };")
    script = f'eval "$(cat)" && "{node}" "{wrangler}" whoami && "{node}" "{wrangler}" deploy'
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-euc", script, cwd=project,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate((await printed(platform, "env")).encode())
    assert process.returncode == 0, out.decode()
    assert (await platform.account()).encode() in out
    await platform.settled("by-env", CITIES)
    assert (await platform.get("lhr", "by-env")).text == "by env"


@pytest.mark.parametrize("form", ["--data-dir {} wrangler deploy", "wrangler --data-dir {} --account {account} deploy"])
async def test_our_wrangler_takes_our_options(platform: Platform, tmp_path: Path, form: str) -> None:
    name = "ours-first" if form.startswith("--data-dir") else "ours-second"
    project = write_project(tmp_path, name, "export default { fetch() { return new Response('ours'); } };")
    account = "default"
    if "account" in form:
        account = "team-w"
        await printed(platform, "account", "create", account)
    arguments = form.format(platform.data, account=account).split()
    said = await printed(platform, *arguments, cwd=project, SKERRY_DATA_DIR=str(tmp_path / "nowhere"))
    assert f"On this platform {name} answers at http://{name}.{account}.localhost:{platform.port}" in said
    assert {item["state"] for item in await platform.instances(app=name)} & {"running", "asleep"}  # it waits for that

    async def answers() -> bool:
        return (await platform.get("cur", f"{name}.{account}")).text == "ours"

    await platform.until(answers)
    status, said = await platform.command(*arguments[:-1], "--version", cwd=project)
    assert status == 0 and said.strip()


async def test_a_scale_by_config_and_by_command(platform: Platform, tmp_path: Path) -> None:
    def project(**scale: object) -> Path:
        section = {"metadata": {"skerry": {"scale": scale}}}
        return write_project(tmp_path, "scaled", "export default { fetch() { return new Response('scaled'); } };", unsafe=section)

    async def settles(sites: set[str]) -> None:
        await platform.settled("scaled", sites)
        assert {item["site"] for item in await platform.instances(app="scaled")} == sites
        assert {(await platform.get(site, "scaled")).text for site in CITIES} == {"scaled"}

    await printed(platform, "wrangler", "deploy", cwd=project(deny=["cur"]))
    await settles({"lhr"})
    assert (await decoded(platform, "scale", "scaled"))["set_fields"] == ["deny"]
    assert (await decoded(platform, "scale", "scaled", "--max", "2", "--reset", "deny"))["set_fields"] == ["max_total"]
    await settles(CITIES)
    status, said = await platform.command("wrangler", "deploy", cwd=project(min_total=3))
    assert status != 0 and "max_total (2) is below min_total (3)" in said
    assert (await decoded(platform, "scale", "scaled"))["set_fields"] == ["max_total"]


async def test_doctor_finds_this_machine_complete(platform: Platform) -> None:
    found = await decoded(platform, "doctor", "--required")
    assert found


COMMANDS = (
    "up", "down", "status", "env", "wrangler", "apps", "explain", "sites", "nodes", "drain", "undrain",
    "account create", "account list", "token create", "token list", "token revoke", "doctor", "scale",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
async def test_help_shows_an_example(platform: Platform, command: str) -> None:
    shown = await printed(platform, *command.split(), "--help")
    assert f"Example: skerry {command}" in shown or ("Example: " in shown and f"skerry {command}" in shown)
    assert "--json" in shown or command == "wrangler"
