"""What is wrong is refused in words that help, and what ran goes on running."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skerry.testing.load import Load
from skerry.testing.platform import Platform, free_ports
from skerry.testing.wrangler import NEWEST, Wrangler
from tests.e2e.projects import write_project

CITIES = {"lhr", "cur"}
ANSWER_S = 3
UPLOAD_BYTES = 200 << 20
CONTROL_GROWTH_KIB_MAX = 128 << 10  # the largest upload that is taken has 72 MiB
NEIGHBOUR = 'export default { fetch(): Response { return new Response("unharmed"); } };'

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    async with Platform(cities="lhr:1,cur:1", options=("--answer-seconds", str(ANSWER_S))) as running:
        await running.deploy(write_project(tmp_path_factory.mktemp("neighbour"), "neighbour", NEIGHBOUR))
        await running.settled("neighbour", CITIES)
        yield running


@dataclass
class Author:
    """A developer with a stock client."""

    run: Wrangler
    project: Path

    def writes(self, code: str, name: str = "bad", **config: object) -> None:
        """JavaScript that is uploaded as it is, as a module of its own: wrangler itself looks into the main one."""
        settings = {
            "name": name,
            "main": "index.js",
            "compatibility_date": "2026-11-01",
            "find_additional_modules": True,
            "rules": [{"type": "ESModule", "globs": ["code.js"]}],
            **config,
        }
        (self.project / "wrangler.json").write_text(json.dumps(settings))
        (self.project / "index.js").write_text('export * from "./code.js"; export { default } from "./code.js";')
        (self.project / "code.js").write_text(code)

    async def deploys(self) -> None:
        outcome = await self.run("deploy", "--no-bundle", cwd=self.project)
        assert outcome.code == 0, outcome.text

    async def fails(self, *arguments: str, **environment: str) -> str:
        """What a person sees."""
        outcome = await self.run(*(arguments or ("deploy", "--no-bundle")), cwd=self.project, **environment)
        assert outcome.code != 0, outcome.text
        return outcome.text


@pytest.fixture
async def author(platform: Platform, tmp_path: Path) -> Author:
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    home.mkdir()
    return Author(await platform.client(NEWEST, home), project)


@pytest.fixture(autouse=True)
async def unharmed(platform: Platform) -> AsyncIterator[None]:
    """Whatever a test does, another app's users notice nothing, and no process of the platform dies of it."""
    before = await processes(platform)
    loads = [Load(platform.base(site), "neighbour.default.localhost", clients=1, per_second=25) for site in sorted(CITIES)]
    async with loads[0], loads[1]:
        yield
        for load in loads:
            await load.requests(5)
    assert [load.failures for load in loads] == [[], []]
    assert [set(load.bodies) for load in loads] == [{b"unharmed"}] * 2
    assert await processes(platform) == before


async def processes(platform: Platform) -> dict[str, int]:
    """All planes and ingresses, and the neighbour's instances."""
    status = await platform.status()
    found = {"control": await platform.control_pid()}
    found |= {f"{site['site']}": site["pid"] for site in status["sites"]}
    found |= {f"{site['site']} ingress": site["ingress_pid"] for site in status["sites"]}
    found |= {node["node"]: node["pid"] for node in status["nodes"]}
    neighbours = [item for item in status["instances"] if (item["app"], item["account_name"]) == ("neighbour", "default")]
    return found | {item["instance"]: item["pid"] for item in neighbours}


async def no_app(platform: Platform, name: str) -> bool:
    apps = [app for app in (await platform.status())["apps"] if app["app"] == name]
    return not apps and (await platform.get("lhr", name)).status_code == 404


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("export default { fetch() { return new Response('x') ", ["SyntaxError", "10021"]),
        ("export default {}; throw new Error('boom at start');", ["Uncaught Error: boom at start", "10021"]),
        ("export default {}; while (true) {}", ["start", "limit", "10021"]),
        ("export default { fetch() { return nope; } }; nope();", ["ReferenceError: nope is not defined", "10021"]),
        ("import x from './absent.js'; export default {};", ["absent.js", "10021"]),
        ("export const nothing = 1;", ["10021"]),
    ],
)  # fmt: skip
async def test_code_that_does_not_start(platform: Platform, author: Author, code: str, said: list[str]) -> None:
    author.writes(code)
    text = await author.fails()
    assert [word for word in said if word not in text] == [], text
    assert await no_app(platform, "bad")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"compatibility_flags": ["no_such_flag"]}, "no_such_flag"),
        ({"compatibility_flags": ["experimental"]}, "experimental"),
        ({"compatibility_date": "2031-01-01"}, "2031-01-01"),
        ({"kv_namespaces": [{"binding": "CACHE", "id": "0" * 32}]}, "KV"),
        ({"d1_databases": [{"binding": "DB", "database_name": "db", "database_id": "0" * 32}]}, "D1"),
        ({"r2_buckets": [{"binding": "FILES", "bucket_name": "files"}]}, "R2"),
        (
            {
                "durable_objects": {"bindings": [{"name": "ROOM", "class_name": "Room"}]},
                "migrations": [{"tag": "v1", "new_sqlite_classes": ["Room"]}],
            },
            "Durable Object",
        ),
        ({"queues": {"producers": [{"binding": "JOBS", "queue": "jobs"}]}}, "ueue"),
    ],
)
async def test_what_is_not_there_is_refused_by_name(
    platform: Platform, author: Author, config: dict[str, object], said: str
) -> None:
    author.writes("export class Room {} export default { fetch() { return new Response('x'); } };", **config)
    text = await author.fails()
    assert said in text and "[code: " in text, text
    assert await no_app(platform, "bad")


async def test_a_wrong_token_and_another_accounts_app(platform: Platform, author: Author) -> None:
    author.writes("export default { fetch() { return new Response('stolen'); } };", name="neighbour")
    assert "Authentication error [code: 10000]" in await author.fails(
        "deploy", "--no-bundle", CLOUDFLARE_API_TOKEN="skerry_wrong"
    )
    assert "[code: 10000]" in await author.fails("secret", "list", CLOUDFLARE_API_TOKEN="skerry_wrong")
    await platform.api("POST", "/v1/accounts", {"name": "strangers"})
    made = await platform.api("POST", "/v1/tokens", {"name": "theirs", "scope": "write", "account": "strangers"})
    theirs = {"CLOUDFLARE_API_TOKEN": made["secret"]}
    for arguments in (
        ("deploy", "--no-bundle"),
        ("secret", "list"),
        ("versions", "list"),
        ("delete", "--name", "neighbour", "--force"),
    ):
        assert "[code: 10000]" in await author.fails(*arguments, **theirs)
    # The same name in the own account is another app.
    theirs["CLOUDFLARE_ACCOUNT_ID"] = await platform.account("strangers")
    assert "[code: 10007]" in await author.fails("versions", "list", **theirs)
    outcome = await author.run("deploy", "--no-bundle", cwd=author.project, **theirs)
    assert outcome.code == 0, outcome.text

    async def answers() -> bool:
        return (await platform.get("cur", "neighbour.strangers")).text == "stolen"

    await platform.until(answers)
    assert (await platform.get("cur", "neighbour")).text == "unharmed"


async def test_a_huge_upload_is_refused_and_does_not_grow_control(platform: Platform) -> None:
    account = await platform.account()
    control = await platform.control_pid()
    before_kib = peak_kib(control)
    head = (
        f"PUT /client/v4/accounts/{account}/workers/scripts/huge HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {platform.token()}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    )
    begin = b'--b\r\nContent-Disposition: form-data; name="big.txt"; filename="big.txt"\r\nContent-Type: text/plain\r\n\r\n'
    block = b"x" * (1 << 20)
    for declared in (True, False):
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.api_port)
        length = f"Content-Length: {len(begin) + UPLOAD_BYTES}" if declared else "Transfer-Encoding: chunked"
        writer.write(f"{head}{length}\r\n\r\n".encode())
        try:
            for piece in (begin, *[block] * (UPLOAD_BYTES >> 20)):
                writer.write(piece if declared else b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
        except ConnectionError:
            pass  # it was told already
        async with asyncio.timeout(20):
            answer = await reader.read(-1)
        assert answer.startswith(b"HTTP/1.1 413 ") and b"10413" in answer, answer
        writer.close()
    assert peak_kib(control) - before_kib < CONTROL_GROWTH_KIB_MAX
    assert await no_app(platform, "huge")


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


SLOW = """export default { async fetch(request) {
  const path = new URL(request.url).pathname;
  if (path === "/never") await new Promise((done) => setTimeout(done, 1e9));
  if (path === "/forever") for (;;) {}
  if (path === "/throws") throw new Error("in the handler");
  return new Response("fine");
} };"""


async def test_handlers_that_never_answer_loop_or_throw(platform: Platform, author: Author) -> None:
    author.writes(SLOW, name="slow")
    await author.deploys()
    await platform.settled("slow", CITIES)
    (before,) = await platform.instances(site="lhr", app="slow")

    page = await platform.get("lhr", "slow", "/never", timeout=30)
    assert page.status_code == 504 and "did not answer in time" in page.text and page.headers["cf-ray"] in page.text
    answer = await platform.get("lhr", "slow", "/never", timeout=30, headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timed_out")
    assert (await platform.get("lhr", "slow", "/throws")).status_code == 500
    assert (await platform.get("lhr", "slow", "/fine")).text == "fine"
    (now,) = await platform.instances(site="lhr", app="slow")
    assert now["pid"] == before["pid"]

    answer = await platform.request("POST", "lhr", "slow", "/forever", timeout=60)
    assert answer.status_code in (502, 503, 504)

    async def fine_again() -> bool:
        return (await platform.get("lhr", "slow", "/fine", timeout=30)).text == "fine"

    await platform.until(fine_again)
    (after,) = await platform.instances(site="lhr", app="slow")
    assert after["pid"] != before["pid"]


async def test_two_on_one_data_directory(platform: Platform) -> None:
    status, said = await platform.command("up", "--cities", "lhr:1", "--port", "0")
    assert status == 2 and "--port 0" in said
    status, said = await platform.command("up", "--cities", "lhr:1", "--no-example")
    assert status == 1
    assert f"a platform runs on {platform.data} already (pid {platform.pid})" in said
    assert "skerry down" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("host", "which", "option"),
    [
        ("127.0.0.1", "api", "--api-port"),
        ("127.0.0.1", "port", "--port"),
        ("127.0.2.1", "port", "--port"),
        ("127.0.1.1", "peer", "--port"),
    ],
)
async def test_taken_ports_are_named_with_their_holder(
    platform: Platform, tmp_path: Path, host: str, which: str, option: str
) -> None:
    with socket.socket() as holder:
        holder.bind((host, 0))
        holder.listen()
        taken = holder.getsockname()[1]
        offset = {"api": 0, "port": 0, "peer": 1}[which]
        ports = (
            ("--api-port", str(taken), "--port", "2") if which == "api" else ("--port", str(taken - offset), "--api-port", "2")
        )
        arguments = ("up", "--cities", "lhr:1,cur:1", "--no-example", *ports, "--data-dir", str(tmp_path / "data"))
        status, said = await platform.command(*arguments)
    assert status == 1
    assert f"port {taken} on {host} " in said and f"(pid {os.getpid()})" in said and option in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--cities", "xyz:1"), 2, "no city has the code 'xyz'"),
        (("--cities", "london:3"), 2, "did you mean lhr (London)"),
        (("--cities", "lhr:0"), 2, "1 to 100"),
        (("--cities", ""), 2, "at least one city"),
        (("--port", "70000"), 2, "--port 70000"),
        (("--suffix", "no_host"), 2, "--suffix 'no_host' is not a host name"),
        (("--allow-egress", "10.0.0.0/99"), 2, "--allow-egress 10.0.0.0/99"),
        (("--answer-seconds", "0"), 2, "--answer-seconds 0"),
        (("--node-memory", "0"), 2, "memory has to be at least 1"),
    ],
)
async def test_wrong_arguments_of_up(
    platform: Platform, tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    found, text = await platform.command("up", *arguments, "--data-dir", str(tmp_path / "data"))
    assert (found, said in text) == (status, True), text
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["a file", "other things", "below a file", "a store that is none", "records that are none"])
async def test_a_data_directory_that_is_none(platform: Platform, tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    expected = {
        "a file": f"{data} is not a directory",
        "below a file": f"{data} is not a directory",
        "other things": f"{data} is not empty and not a platform's",
        "a store that is none": "store.db",
        "records that are none": "",
    }[kind]
    match kind:
        case "a file":
            data.write_text("years of work")
        case "below a file":
            data.write_text("years of work")
            data = data / "deeper"
        case "other things":
            data.mkdir()
            (data / "thesis.txt").write_text("years of work")
        case "a store that is none":
            (data / "control").mkdir(parents=True)
            (data / "control/store.db").write_bytes(b"garbage " * 1000)
            (data / "lock").touch()
        case _:
            data.mkdir()
            (data / "platform.json").write_bytes(b"{garbage")
            (data / "example.json").write_bytes(b"\xff")
            (data / "lock").touch()
    port, api_port = free_ports()
    ports = ("--port", str(port), "--api-port", str(api_port))
    status, said = await platform.command("up", "--cities", "lhr:1", "--no-example", "--detach", *ports, "--data-dir", str(data))
    if expected:
        assert (status, expected in said) == (1, True), said
        assert "Traceback" not in said.split("it said:")[0]
    else:
        assert status == 0, said
    assert (await platform.command("down", "--data-dir", str(data)))[0] in (0, 1)


@pytest.mark.parametrize(
    "command",
    ["status", "env", "apps", "sites", "nodes", "explain x", "drain lhr", "undrain lhr", "account list", "account create x",
     "token list", "token create x", "token revoke x", "wrangler whoami"],
)  # fmt: skip
async def test_commands_when_nothing_runs(platform: Platform, tmp_path: Path, command: str) -> None:
    status, said = await platform.command(*command.split(), SKERRY_DATA_DIR=str(tmp_path / "nothing"))
    assert status == 3
    assert said == (
        f"skerry: no platform runs on {tmp_path / 'nothing'}\n  start one with `skerry up`, or name it with --data-dir\n"
    )
