"""The real wrangler, unmodified, against the Cloudflare dialect on a real socket (store, blobs and engine are simulated)."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from skerry.apps.serving import bind, serving
from skerry.core.types.app import AssetFile, Version
from skerry.kit import record
from skerry.testing.dialect import Dialect, open_dialect
from skerry.testing.wrangler import NEWEST, OLDER, Absent, Outcome, Wrangler, find, wrangler

INDEX_TS = """
import text from "./greeting.txt";
import add from "./add.wasm";
interface Env { NAME: string; SETTINGS: { limit: number } }
export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const instance = await WebAssembly.instantiate(add, {});
    return new Response(`${text} ${env.NAME} ${env.SETTINGS.limit} ${Object.keys(instance.exports)}`);
  },
};
"""
SIMPLE_JS = 'export default { fetch() { return new Response("hi"); } };\n'


@dataclass(frozen=True)
class Bench:
    """One client, one API, one project directory."""

    dialect: Dialect
    run: Wrangler
    project: Path
    version: str

    async def ok(self, *arguments: str, stdin: str | None = None) -> str:
        outcome = await self.run(*arguments, cwd=self.project, stdin=stdin)
        assert outcome.code == 0, outcome.text
        return outcome.text

    async def fails(self, *arguments: str, **environment: str) -> str:
        outcome: Outcome = await self.run(*arguments, cwd=self.project, **environment)
        assert outcome.code != 0, outcome.text
        return outcome.text

    def configure(self, **settings: object) -> None:
        described = {"name": "hello", "main": "index.js", "compatibility_date": "2026-01-01", **settings}
        kept = {key: value for key, value in described.items() if value is not None}
        (self.project / "wrangler.json").write_text(json.dumps(kept))

    def write(self, name: str, content: str | bytes) -> None:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    async def deployed(self, name: str = "hello") -> Version:
        version = (await self.dialect.use_cases.apps.state(self.dialect.account.id, name)).deployed
        assert version is not None
        return version

    async def version_ids(self) -> list[str]:
        """Newest first."""
        state = await self.dialect.use_cases.apps.state(self.dialect.account.id, "hello")
        return [version.id for version in state.versions]


@pytest.fixture(params=[NEWEST, OLDER])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    try:
        find(request.param)
    except Absent as reason:
        pytest.skip(str(reason))
    dialect = await open_dialect()
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    home.mkdir()
    listener = bind("127.0.0.1:0")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(dialect.app, listener):
        run = wrangler(request.param, api_url=url, account=dialect.account.id, token=dialect.token, home=home)
        made = Bench(dialect=dialect, run=run, project=project, version=request.param)
        made.write("index.js", SIMPLE_JS)
        made.configure()
        yield made


def typescript_project(bench: Bench) -> None:
    bench.write("src/index.ts", INDEX_TS)
    bench.write("src/greeting.txt", "hello")
    bench.write("src/add.wasm", b"\0asm\1\0\0\0")
    bench.write("public/index.html", "<h1>hi</h1>")
    bench.write("public/css/a b.css", "a {}")
    bench.write("public/_headers", "/*\n  X-Served-By: skerry\n")
    bench.write("public/_redirects", "/old /new 302\n")
    bench.configure(
        main="src/index.ts",
        compatibility_flags=["nodejs_compat"],
        vars={"NAME": "world", "SETTINGS": {"limit": 3}},
        version_metadata={"binding": "VERSION"},
        observability={"enabled": True},
        placement={"mode": "smart"},
        limits={"cpu_ms": 100},
        assets={
            "directory": "public",
            "binding": "ASSETS",
            "html_handling": "drop-trailing-slash",
            "not_found_handling": "single-page-application",
            "run_worker_first": ["/api/*"],
        },
    )


async def test_a_typescript_project_with_everything_is_deployed(bench: Bench) -> None:
    typescript_project(bench)
    text = await bench.ok("deploy")
    assert "Worker Startup Time: 3 ms" in text
    assert "2 new or modified static assets" in text
    version = await bench.deployed()
    assert f"Current Version ID: {version.id}" in text
    assert version.worker is not None and version.assets is not None
    assert sorted(module.type for module in version.worker.modules) == ["esm", "text", "wasm"]
    assert {binding.name for binding in version.bindings} == {"NAME", "SETTINGS", "VERSION", "ASSETS"}
    assert version.compatibility_flags == ("nodejs_compat",)
    assets = version.assets
    assert (assets.html_handling, assets.not_found_handling) == ("drop-trailing-slash", "single-page-application")
    assert assets.run_worker_first == ("/api/*",)
    assert "X-Served-By" in assets.headers and "/old" in assets.redirects
    files = record.decode(await bench.dialect.blobs.get(assets.manifest), tuple[AssetFile, ...])
    contents = {file.path: await bench.dialect.blobs.get(file.digest) for file in files}
    assert contents["/index.html"] == b"<h1>hi</h1>"
    assert sorted(contents.values()) == [b"<h1>hi</h1>", b"a {}"]


async def test_the_second_deploy_sends_only_what_changed(bench: Bench) -> None:
    typescript_project(bench)
    await bench.ok("deploy")
    first = await bench.deployed()
    bench.write("public/new.html", "new")
    text = await bench.ok("deploy")
    assert "1 new or modified static asset " in text
    second = await bench.deployed()
    assert second.number == first.number + 1
    assert second.assets is not None and second.assets.file_count == 3


async def test_what_is_printed_as_address_is_not_a_strangers(bench: Bench) -> None:
    text = await bench.ok("deploy")
    (address,) = re.findall(r"^ +(\S*hello\.\S+)$", text, re.MULTILINE)
    if bench.version == NEWEST:
        assert address == "hello.default.localhost"
    else:
        assert address.removeprefix("https://").partition("/")[0] == "hello.default.localhost:8080"


async def test_assets_alone_and_service_worker_syntax(bench: Bench) -> None:
    bench.write("site/index.html", "<h1>only files</h1>")
    bench.configure(name="files", main=None, assets={"directory": "site"})
    await bench.ok("deploy")
    await bench.ok("deploy")
    version = await bench.deployed("files")
    assert version.worker is None and version.assets is not None and version.assets.file_count == 1
    bench.write("script.js", 'addEventListener("fetch", (e) => e.respondWith(new Response("sw")));')
    bench.configure(name="script", main="script.js")
    await bench.ok("deploy")
    version = await bench.deployed("script")
    assert version.worker is not None and version.worker.service_worker_syntax


async def test_secrets(bench: Bench) -> None:
    bench.configure(vars={"V": "1"})
    await bench.ok("deploy")
    assert "Uploaded secret PASSWORD" in await bench.ok("secret", "put", "PASSWORD", stdin="hunter2")
    bench.write("secrets.json", json.dumps({"A": "1", "B": "2"}))
    await bench.ok("secret", "bulk", "secrets.json")
    assert {entry["name"] for entry in json.loads(await bench.ok("secret", "list"))} == {"A", "B", "PASSWORD"}
    await bench.ok("secret", "delete", "A")
    await bench.ok("deploy")
    names = {binding.name for binding in (await bench.deployed()).bindings}
    assert names == {"V", "B", "PASSWORD"}
    assert "hunter2" not in await bench.ok("versions", "list")


async def test_a_secret_for_an_app_that_is_not_there_makes_it(bench: Bench) -> None:
    await bench.ok("secret", "put", "S", "--name", "draft", stdin="x")
    assert {binding.name for binding in (await bench.deployed("draft")).bindings} == {"S"}


async def test_versions_deployments_and_rollback(bench: Bench) -> None:
    await bench.ok("deploy")
    text = await bench.ok("versions", "upload", "--message", "try it", "--tag", "t1")
    newest, oldest = await bench.version_ids()
    assert f"Worker Version ID: {newest}" in text
    assert (await bench.deployed()).id == oldest
    listed = await bench.ok("versions", "list")
    assert newest in listed and "try it" in listed and "t1" in listed
    assert "2026-01-01" in await bench.ok("versions", "view", newest)
    await bench.ok("versions", "deploy", f"{newest}@30%", f"{oldest}@70%", "-y")
    status = await bench.ok("deployments", "status")
    assert f"(30%) {newest}" in status and f"(70%) {oldest}" in status
    await bench.ok("versions", "deploy", f"{newest}@100%", "-y")
    assert (await bench.deployed()).id == newest
    await bench.ok("rollback", oldest, "-y", "--message", "back")
    assert (await bench.deployed()).id == oldest
    listed = await bench.ok("deployments", "list")
    assert "back" in listed and listed.count("Created:") >= 4


async def test_secrets_in_versions_that_are_not_deployed(bench: Bench) -> None:
    await bench.ok("deploy")
    running = await bench.deployed()
    await bench.ok("versions", "secret", "put", "S", stdin="x")
    assert (await bench.deployed()).id == running.id
    newest = (await bench.version_ids())[0]
    assert "S" in await bench.ok("versions", "view", newest)
    refused = await bench.fails("secret", "delete", "S")
    assert "deployed" in refused
    await bench.ok("versions", "deploy", f"{newest}@100%", "-y")
    assert "S" in await bench.ok("versions", "secret", "list")


async def test_who_am_i_and_delete(bench: Bench) -> None:
    text = await bench.ok("whoami")
    assert bench.dialect.account.id in text and "default" in text
    await bench.ok("deploy")
    assert "Successfully deleted hello" in await bench.ok("delete", "--name", "hello")
    assert await bench.dialect.use_cases.apps.list_apps(bench.dialect.account.id) == ()
    await bench.ok("deploy")
    assert "Successfully deleted hello" in await bench.ok("delete", "--name", "hello", "--force")


async def test_code_that_does_not_start_leaves_what_runs(bench: Bench) -> None:
    await bench.ok("deploy")
    running = await bench.deployed()
    bench.write("index.js", "//! // simulated: fails Uncaught ReferenceError: nope is not defined\n" + SIMPLE_JS)
    text = await bench.fails("deploy", "--no-bundle")
    assert "Uncaught ReferenceError: nope is not defined" in text and "10021" in text
    assert await bench.deployed() == running


async def test_what_is_not_there_yet_is_said_in_words(bench: Bench) -> None:
    bench.configure(kv_namespaces=[{"binding": "CACHE", "id": "0" * 32}])
    text = await bench.fails("deploy")
    assert "'CACHE'" in text and "KV" in text and "not support" in text
    bench.configure(triggers={"crons": ["* * * * *"]})
    assert "cron" in await bench.fails("deploy")
    assert "Workers KV" in await bench.fails("kv", "namespace", "create", "x")


async def test_a_script_above_ten_mebibytes(bench: Bench) -> None:
    import random

    bench.write("big.txt", random.Random(1).randbytes(8 << 20).hex())
    bench.write("big2.txt", random.Random(2).randbytes(8 << 20).hex())
    bench.write("index.js", 'import a from "./big.txt"; import b from "./big2.txt";\n' + SIMPLE_JS + "export { a, b };\n")
    text = await bench.fails("deploy")
    assert "10027" in text and "10 MiB" in text


async def test_wrong_tokens(bench: Bench) -> None:
    assert "Authentication error [code: 10000]" in await bench.fails("deploy", CLOUDFLARE_API_TOKEN="skerry_wrong")
    reader = await bench.dialect.use_cases.accounts.create_token("reader", "read", account=bench.dialect.account.id)
    assert "[code: 10000]" in await bench.fails("deploy", CLOUDFLARE_API_TOKEN=reader.secret)
    other = await bench.dialect.use_cases.accounts.create_account("other")
    stranger = await bench.dialect.use_cases.accounts.create_token("stranger", "write", account=other.id)
    assert "[code: 10000]" in await bench.fails("deploy", CLOUDFLARE_API_TOKEN=stranger.secret)
    assert await bench.dialect.use_cases.apps.list_apps(bench.dialect.account.id) == ()


async def test_environments_are_apps_of_their_own(bench: Bench) -> None:
    bench.configure(env={"staging": {"vars": {"STAGE": "yes"}}})
    await bench.ok("deploy", "--env", "staging")
    await bench.ok("deploy", "--env", "staging")
    assert {binding.name for binding in (await bench.deployed("hello-staging")).bindings} == {"STAGE"}


async def test_a_body_of_200_mebibytes_over_a_socket() -> None:
    dialect = await open_dialect()
    listener = bind("127.0.0.1:0")
    host, port = listener.getsockname()
    head = (
        f"PUT {dialect.path('/workers/scripts/hello')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {dialect.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    )
    async with serving(dialect.app, listener), await anyio.connect_tcp(host, port) as stream:
        await stream.send(head.replace("{length}", str(200 << 20)).encode())
        for _ in range(200):
            await stream.send(b"x" * (1 << 20))
        answer = await stream.receive(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"10413" in answer or b"10413" in await stream.receive(65536)
