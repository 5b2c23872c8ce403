"""What is wrong is said in the words a person needs, and what ran goes on running."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from skerry.testing.load import Load
from skerry.testing.platform import Platform
from tests.e2e.projects import write_project

SITES = {"lhr", "cur"}
GOOD = 'export default { async fetch(): Promise<Response> { return new Response("good"); } };'

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.xdist_group("bad-input"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def platform(engines: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Platform]:
    project = write_project(tmp_path_factory.mktemp("good"), "good", GOOD)
    async with Platform(cities="lhr:1,cur:1") as running:
        await running.deploy(project)
        await running.settled("good", SITES)
        yield running


@pytest.fixture(autouse=True)
async def unharmed(platform: Platform) -> AsyncIterator[None]:
    """Whatever a test does, the app that ran before answers all the while."""
    async with Load(platform.base("lhr"), "good.default.localhost", clients=1, per_second=50) as load:
        await load.requests(5)
        yield
        await load.requests(5)
    assert load.failures == []


@pytest.mark.parametrize(
    ("code", "config", "said"),
    [
        ("export default { fetch() { return new Response('x' } };", {}, "Expected"),
        ("throw new Error('no luck today'); export default {};", {}, "no luck today"),
        ("while (true) {}\nexport default { fetch() { return new Response(''); } };", {}, "startup exceeded CPU time limit"),
        (GOOD, {"compatibility_flags": ["no_such_flag"]}, "no_such_flag"),
        (GOOD, {"compatibility_date": "2099-01-01"}, "2099-01-01"),
        (GOOD, {"kv_namespaces": [{"binding": "KV", "id": "0" * 32}]}, "KV"),
        (GOOD, {"d1_databases": [{"binding": "DB", "database_name": "d", "database_id": "0" * 32}]}, "DB"),
        (GOOD, {"r2_buckets": [{"binding": "FILES", "bucket_name": "files"}]}, "does not support R2 yet"),
        (
            "import { DurableObject } from 'cloudflare:workers';\nexport class C extends DurableObject {}\n" + GOOD,
            {
                "durable_objects": {"bindings": [{"name": "C", "class_name": "C"}]},
                "migrations": [{"tag": "v1", "new_sqlite_classes": ["C"]}],
            },
            "is Durable Objects",
        ),
    ],
)
async def test_a_version_that_cannot_run_is_refused_with_the_reason(
    platform: Platform, tmp_path: Path, code: str, config: dict[str, object], said: str
) -> None:
    project = write_project(tmp_path, "bad", code, **config)
    status, out = await platform.command("wrangler", "deploy", cwd=project)
    assert status != 0
    assert said in out
    assert all(app["app"] != "bad" for app in (await platform.status())["apps"])


async def test_a_bad_second_version_leaves_the_first_one_serving(platform: Platform, tmp_path: Path) -> None:
    project = write_project(tmp_path, "second", GOOD.replace("good", "first"))
    await platform.deploy(project)
    await platform.settled("second", SITES)
    write_project(tmp_path, "second", "throw new Error('broken'); export default {};")
    status, out = await platform.command("wrangler", "deploy", cwd=project)
    assert (status != 0, "broken" in out) == (True, True)
    assert {(await platform.get(site, "second")).text for site in SITES} == {"first"}


async def test_a_handler_that_never_answers_is_told_to_its_user_alone(platform: Platform, tmp_path: Path) -> None:
    code = "export default { async fetch() { await new Promise(() => {}); return new Response(''); } };"
    await platform.deploy(write_project(tmp_path, "never", code))
    await platform.settled("never", SITES)
    assert (await platform.get("lhr", "never", timeout=90)).status_code in (500, 504)


async def test_a_handler_that_loops_for_ever_stops_nobody_else(platform: Platform, tmp_path: Path) -> None:
    code = "export default { fetch(request) { while (request.url.endsWith('loop')) {} return new Response('ok'); } };"
    await platform.deploy(write_project(tmp_path, "loop", code))
    await platform.settled("loop", SITES)
    looping = asyncio.create_task(platform.get("lhr", "loop", "/loop", timeout=90))
    async with Load(platform.base("lhr"), "good.default.localhost", clients=2, per_second=100) as load:
        await load.requests(200)
    assert load.failures == []
    looping.cancel()
    await asyncio.gather(looping, return_exceptions=True)
    await platform.wrangler("delete", "--name", "loop", "--force", cwd=tmp_path)


async def test_an_upload_of_200_mb_is_refused(platform: Platform) -> None:
    account = (await platform.api("GET", "/v1/whoami"))["accounts"][0]["account"]
    url = f"http://127.0.0.1:{platform.api_port}/client/v4/accounts/{account}/workers/scripts/huge"

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="metadata"\r\n\r\n{}\r\n--b\r\n'
        yield b'content-disposition: form-data; name="a.js"; filename="a.js"\r\n\r\n'
        for _ in range(200):
            yield b"x" * (1 << 20)

    headers = {"authorization": f"Bearer {platform.token()}", "content-type": "multipart/form-data; boundary=b"}
    async with httpx.AsyncClient(timeout=60) as client:
        try:
            response = await client.put(url, content=body(), headers=headers)
            assert (response.status_code, response.json()["success"]) == (413, False)
        except httpx.WriteError:
            pass  # it hung up on us: nothing more is read than the limit
    assert (await platform.api("GET", "/v1/whoami"))["accounts"]


async def test_a_wrong_token_is_an_authentication_error(platform: Platform, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{platform.api_port}/client/v4/user/tokens/verify"
    async with httpx.AsyncClient() as client:
        response = await client.get(url, headers={"authorization": "Bearer skerry_wrong"})
    assert response.status_code == 401
    assert "Invalid API Token" in response.text or "Authentication" in response.text


async def test_another_accounts_app_is_out_of_reach(platform: Platform) -> None:
    status, out = await platform.command("account", "create", "other", "--json")
    assert status == 0, out
    status, out = await platform.command("token", "create", "theirs", "--account", "other", "--scope", "write", "--json")
    assert status == 0, out
    import json

    secret = json.loads(out)["secret"]
    default = next(a for a in (await platform.api("GET", "/v1/accounts"))["accounts"] if a["name"] == "default")["account"]
    base = f"http://127.0.0.1:{platform.api_port}"
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {secret}"}) as client:
        deleted = await client.delete(f"{base}/client/v4/accounts/{default}/workers/services/good?force=true")
        assert deleted.status_code == 403
        listed = (await client.get(f"{base}/v1/apps")).json()
        assert listed["apps"] == []
        explained = await client.get(f"{base}/v1/apps/default/good/explain")
        assert explained.status_code in (403, 404)


async def test_a_second_platform_on_the_same_directory_or_port_is_refused(platform: Platform, tmp_path: Path) -> None:
    status, out = await platform.command("up", "--no-example", "--port", str(platform.port + 10))
    assert status == 1
    assert str(platform.pid) in out
    other = str(tmp_path / "other")
    status, out = await platform.command("up", "--no-example", "--data-dir", other, "--port", str(platform.port))
    assert status == 1
    assert str(platform.port) in out
