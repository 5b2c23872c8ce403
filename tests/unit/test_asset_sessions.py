"""Static assets through the Cloudflare dialect: manifest, upload, deploy."""

import base64
import hashlib
from collections.abc import Mapping

import httpx
import pytest

from skerry.core.types.app import AssetFile
from skerry.kit import record
from skerry.services.intents import limits
from skerry.testing.dialect import PREFIX, Dialect, form, open_dialect, simple_form


@pytest.fixture
async def dialect() -> Dialect:
    return await open_dialect()


def named(content: bytes) -> str:
    """The client's hash; any 32 hex digits will do."""
    return hashlib.md5(content).hexdigest()


SITE = {"/index.html": b"<h1>hi</h1>", "/css/a.css": b"a{}", "/again.html": b"<h1>hi</h1>", "/data.bin": b"\0\xff", "/empty": b""}


def manifest(files: Mapping[str, bytes]) -> dict[str, object]:
    return {"manifest": {path: {"hash": named(content), "size": len(content)} for path, content in files.items()}}


async def open_session(dialect: Dialect, body: object, name: str = "site") -> httpx.Response:
    async with dialect.client() as client:
        return await client.post(dialect.path(f"/workers/scripts/{name}/assets-upload-session"), json=body)


async def send(dialect: Dialect, token: str, contents: list[bytes], kind: str = "text/html") -> httpx.Response:
    files = [(named(c), (named(c), base64.b64encode(c), kind)) for c in contents]
    async with dialect.client(token) as client:
        return await client.post(f"{PREFIX}/accounts/{dialect.account.id}/workers/assets/upload?base64=true", files=files)


async def deploy(dialect: Dialect, token: str | None, name: str = "site", **config: object) -> httpx.Response:
    async with dialect.client() as client:
        files = form({"assets": {"jwt": token, "config": config}, "compatibility_date": "2026-01-01"})
        return await client.put(dialect.path(f"/workers/scripts/{name}"), files=files)


async def upload_all(dialect: Dialect, files: Mapping[str, bytes]) -> str:
    session = (await open_session(dialect, manifest(files))).json()["result"]
    by_hash = {named(content): content for content in files.values()}
    token = session["jwt"]
    for bucket in session["buckets"]:
        token = (await send(dialect, session["jwt"], [by_hash[name] for name in bucket])).json()["result"]["jwt"]
    return token


async def test_files_are_sent_once_and_deployed(dialect: Dialect) -> None:
    session = (await open_session(dialect, manifest(SITE))).json()["result"]
    asked = [name for bucket in session["buckets"] for name in bucket]
    assert sorted(asked) == sorted({named(content) for content in SITE.values()})
    assert session["jwt"].count(".") == 2
    contents = sorted(set(SITE.values()))
    first = await send(dialect, session["jwt"], contents[:1])
    assert (first.status_code, first.json()["result"]["jwt"]) == (202, None)
    assert (await deploy(dialect, session["jwt"])).json()["errors"][0]["code"] == 10021
    last = await send(dialect, session["jwt"], contents[1:], kind="application/null")
    assert last.status_code == 201
    token = last.json()["result"]["jwt"]
    config = {
        "html_handling": "none",
        "not_found_handling": "404-page",
        "run_worker_first": ["/api/*", "!/api/static/*"],
        "_headers": "/*\n  X-A: b\n",
        "_redirects": "/old /new 302\n",
    }
    response = await deploy(dialect, token, **config)
    assert response.status_code == 200, response.text
    assert response.json()["result"]["has_assets"] is True
    version = (await dialect.use_cases.apps.state(dialect.account.id, "site")).deployed
    assert version is not None and version.worker is None and version.assets is not None
    assets = version.assets
    assert (assets.html_handling, assets.not_found_handling) == ("none", "404-page")
    assert assets.run_worker_first == ("/api/*", "!/api/static/*")
    assert assets.headers == config["_headers"] and assets.redirects == config["_redirects"]
    files = record.decode(await dialect.blobs.get(assets.manifest), tuple[AssetFile, ...])
    assert [file.path for file in files] == sorted(SITE)
    assert (assets.file_count, assets.total_bytes) == (len(SITE), sum(len(content) for content in SITE.values()))
    for file in files:
        assert await dialect.blobs.get(file.digest) == SITE[file.path]
    kinds = {file.path: file.content_type for file in files}
    assert kinds["/css/a.css"] is None or kinds["/index.html"] is None


async def test_unchanged_files_are_not_asked_for_again(dialect: Dialect) -> None:
    assert (await deploy(dialect, await upload_all(dialect, SITE))).status_code == 200
    again = (await open_session(dialect, manifest(SITE))).json()["result"]
    assert again["buckets"] == []
    assert (await deploy(dialect, again["jwt"])).status_code == 200
    more = {**SITE, "/new.txt": b"new"}
    assert (await open_session(dialect, manifest(more))).json()["result"]["buckets"] == [[named(b"new")]]
    other_app = (await open_session(dialect, manifest(SITE), name="other")).json()["result"]
    assert other_app["buckets"] != []


async def test_files_whose_blobs_are_gone_are_asked_for_again(dialect: Dialect) -> None:
    await deploy(dialect, await upload_all(dialect, SITE))
    dialect.blobs.held.clear()
    assert (await open_session(dialect, manifest(SITE))).json()["result"]["buckets"] != []


async def test_an_upload_can_keep_the_assets_of_the_version_before(dialect: Dialect) -> None:
    await deploy(dialect, await upload_all(dialect, SITE), not_found_handling="404-page")
    async with dialect.client() as client:
        files = simple_form(keep_assets=True, bindings=[{"name": "ASSETS", "type": "assets"}])
        response = await client.put(dialect.path("/workers/scripts/site"), files=files)
    assert response.status_code == 200
    versions = (await dialect.use_cases.apps.state(dialect.account.id, "site")).versions
    assert versions[0].assets == versions[1].assets
    assert versions[0].worker is not None


async def test_an_empty_directory(dialect: Dialect) -> None:
    session = (await open_session(dialect, manifest({}))).json()["result"]
    assert session["buckets"] == []
    assert (await deploy(dialect, session["jwt"])).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "index.html",
        "",
        "/",
        "//a",
        "/a//b",
        "/a/",
        "/./a",
        "/../a",
        "/a/..",
        "/a\nb",
        "/a\0b",
        "/a\x7fb",
        "/a\\b",
        "/" + "a" * 1100,
        "/" + "é" * 200,
    ],
)
async def test_a_path_that_is_not_normal_is_refused(dialect: Dialect, path: str) -> None:
    response = await open_session(dialect, {"manifest": {path: {"hash": "0" * 32, "size": 1}}})
    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == 10021


@pytest.mark.parametrize("path", ["/a b.html", "/é.html", "/日本.html", "/a%2f..%2fb", "/.well-known/x", "/..a", "/a'\"<>"])
async def test_unusual_but_good_paths(dialect: Dialect, path: str) -> None:
    assert (await open_session(dialect, {"manifest": {path: {"hash": "0" * 32, "size": 1}}})).status_code == 200


@pytest.mark.parametrize(
    "entry",
    [
        {"hash": "0" * 31, "size": 1},
        {"hash": "G" * 32, "size": 1},
        {"hash": "../" + "0" * 29, "size": 1},
        {"hash": "0" * 32, "size": -1},
        {"hash": "0" * 32, "size": limits.ASSET_BYTES_MAX + 1},
        {"hash": "0" * 32, "size": 1.5},
        {"hash": "0" * 32, "size": "1"},
        {"hash": "0" * 32},
        {"hash": None, "size": 1},
        [],
        {"hash": "0" * 32, "size": 10**400},
    ],
)
async def test_a_bad_manifest_entry_is_refused(dialect: Dialect, entry: object) -> None:
    response = await open_session(dialect, {"manifest": {"/a": entry}})
    assert 400 <= response.status_code < 500


async def test_more_files_than_allowed(dialect: Dialect) -> None:
    entries = {f"/{n}": {"hash": f"{n:032x}", "size": 0} for n in range(limits.ASSET_FILES_MAX + 1)}
    response = await open_session(dialect, {"manifest": entries})
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 10037)
    del entries["/0"]
    session = await open_session(dialect, {"manifest": entries})
    assert session.status_code == 200
    assert sum(len(bucket) for bucket in session.json()["result"]["buckets"]) == limits.ASSET_FILES_MAX


async def test_buckets_stay_within_what_one_request_may_have(dialect: Dialect) -> None:
    entries = {f"/{n}": {"hash": f"{n:032x}", "size": 9 << 20} for n in range(7)}
    session = (await open_session(dialect, {"manifest": entries})).json()["result"]
    assert [len(bucket) for bucket in session["buckets"]] == [2, 2, 2, 1]


async def test_files_that_are_not_what_the_manifest_said(dialect: Dialect) -> None:
    token = (await open_session(dialect, manifest({"/a": b"12345"}))).json()["result"]["jwt"]
    async with dialect.client(token) as client:
        url = f"{PREFIX}/accounts/{dialect.account.id}/workers/assets/upload?base64=true"
        bad = [
            {named(b"12345"): ("x", base64.b64encode(b"1234"), "text/plain")},
            {named(b"other"): ("x", base64.b64encode(b"other"), "text/plain")},
            {named(b"12345"): ("x", b"not base64!", "text/plain")},
            {named(b"12345"): ("x", b"\xff\xff", "text/plain")},
        ]
        for files in bad:
            response = await client.post(url, files=files)
            assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 10021)


@pytest.mark.parametrize("token", ["x", "a.b.c", "..", "e30.e30.x", "skerry_developer", "a" * 2000])
async def test_a_wrong_session_token_is_refused_before_the_body_is_read(dialect: Dialect, token: str) -> None:
    response = await send(dialect, token, [b"x"])
    assert (response.status_code, response.json()["errors"][0]["code"]) == (401, 10058)
    assert (await deploy(dialect, token)).json()["errors"][0]["code"] == 10058


async def test_a_session_token_opens_nothing_else(dialect: Dialect) -> None:
    token = (await open_session(dialect, manifest(SITE))).json()["result"]["jwt"]
    async with dialect.client(token) as client:
        assert (await client.get(dialect.path("/workers/scripts"))).status_code == 401
    assert (await send(dialect, dialect.token, [b"x"])).status_code == 401
    forged = token[:-4] + "AAAA"
    assert (await send(dialect, forged, [b"x"])).status_code == 401


async def test_a_session_belongs_to_one_app_and_one_account(dialect: Dialect) -> None:
    token = await upload_all(dialect, SITE)
    assert (await deploy(dialect, token, name="other")).json()["errors"][0]["code"] == 10058
    stranger = await dialect.use_cases.accounts.create_account("stranger")
    secret = (await dialect.use_cases.accounts.create_token("t", "write", account=stranger.id)).secret
    async with dialect.client(secret) as client:
        files = form({"assets": {"jwt": token}})
        response = await client.put(f"{PREFIX}/accounts/{stranger.id}/workers/scripts/site", files=files)
    assert response.json()["errors"][0]["code"] == 10058


@pytest.mark.parametrize(
    "config",
    [
        {"html_handling": "magic"},
        {"not_found_handling": "magic"},
        {"run_worker_first": ["api"]},
        {"run_worker_first": ["!/only-negative"]},
        {"run_worker_first": ["/" + "a" * 200]},
        {"run_worker_first": [f"/{n}" for n in range(101)]},
        {"run_worker_first": "yes"},
        {"_headers": "x" * (limits.HEADERS_FILE_BYTES_MAX + 1)},
        {"_redirects": "x" * (limits.REDIRECTS_FILE_BYTES_MAX + 1)},
        {"_headers": 1},
        {"base_path": "/docs"},
    ],
)
async def test_a_bad_configuration_is_refused(dialect: Dialect, config: dict[str, object]) -> None:
    response = await deploy(dialect, await upload_all(dialect, SITE), **config)
    assert 400 <= response.status_code < 500
    assert response.json()["errors"][0]["message"]


async def test_sessions_end_and_are_swept(dialect: Dialect) -> None:
    class Later:
        def __init__(self, ms: int) -> None:
            self.ms = ms

        def now_ms(self) -> int:
            return self.ms

        def monotonic_ms(self) -> int:
            return self.ms

        async def sleep_ms(self, delay_ms: int) -> None:
            self.ms += delay_ms

    clock = Later(1_790_000_000_000)
    dialect = await open_dialect(clock=clock)
    token = await upload_all(dialect, SITE)
    assert len((await dialect.store.range("asset-sessions/")).entries) == 1
    clock.ms += limits.ASSET_SESSION_MS
    assert (await deploy(dialect, token)).json()["errors"][0]["code"] == 10058
    await open_session(dialect, manifest({"/a": b"a"}))
    assert len((await dialect.store.range("asset-sessions/")).entries) == 1
    assert (await dialect.store.range("asset-batches/")).entries == ()


async def test_assets_alone_are_nothing_to_put_into_gvisor(dialect: Dialect) -> None:
    token = await upload_all(dialect, SITE)
    files = form({"assets": {"jwt": token}, "compatibility_date": "2026-01-01", "skerry": {"isolation": "gvisor"}})
    async with dialect.client() as client:
        answer = await client.put(dialect.path("/workers/scripts/site"), files=files)
    assert (answer.status_code, "There is no code to put into gVisor" in answer.text) == (400, True)
