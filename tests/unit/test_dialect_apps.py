"""Versions, deployments, secrets, settings, listings and access through the Cloudflare dialect."""

import httpx
import pytest

from skerry.core.types.ids import AccountId
from skerry.testing.dialect import MAIN, PREFIX, Dialect, open_dialect, simple_form
from skerry.wire.cloudflare.use_cases import Addresses


@pytest.fixture
async def dialect() -> Dialect:
    return await open_dialect()


class Caller:
    """Short words for the tests below."""

    def __init__(self, dialect: Dialect, token: str | None = None) -> None:
        self.dialect = dialect
        self.token = token

    async def __call__(self, method: str, path: str, **kwargs: object) -> httpx.Response:
        async with self.dialect.client(self.token) as client:
            return await client.request(method, self.dialect.path("/workers" + path), **kwargs)  # type: ignore[arg-type]

    async def result(self, method: str, path: str, **kwargs: object) -> object:
        response = await self(method, path, **kwargs)
        assert response.status_code == 200, response.text
        return response.json()["result"]

    async def deploy(self, name: str = "hello", code: bytes = MAIN, **metadata: object) -> str:
        response = await self("PUT", f"/scripts/{name}", files=simple_form(code, **metadata))
        assert response.status_code == 200, response.text
        return response.json()["result"]["deployment_id"]

    async def upload(self, name: str = "hello", **metadata: object) -> str:
        response = await self("POST", f"/scripts/{name}/versions", files=simple_form(**metadata))
        assert response.status_code == 200, response.text
        return response.json()["result"]["id"]


@pytest.fixture
def call(dialect: Dialect) -> Caller:
    return Caller(dialect)


def error_of(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["errors"][0]["code"]


async def shares(call: Caller) -> list[dict[str, object]]:
    deployments = (await call.result("GET", "/scripts/hello/deployments"))["deployments"]  # type: ignore[index]
    return deployments[0]["versions"]


async def test_a_deploy_replaces_the_version_that_runs(call: Caller) -> None:
    first = await call.deploy()
    second = await call.deploy()
    assert first != second
    assert await shares(call) == [{"version_id": second, "percentage": 100}]
    versions = (await call.result("GET", "/scripts/hello/versions"))["items"]  # type: ignore[index]
    assert [(v["id"], v["number"]) for v in versions] == [(second, 2), (first, 1)]


async def test_an_uploaded_version_waits_for_its_deployment(call: Caller) -> None:
    first = await call.deploy()
    second = await call.upload(annotations={"workers/message": "try", "workers/tag": "t"})
    assert await shares(call) == [{"version_id": first, "percentage": 100}]
    split = [{"version_id": first, "percentage": 70}, {"version_id": second, "percentage": 30}]
    body = {"strategy": "percentage", "versions": split, "annotations": {"workers/message": "canary"}}
    made = await call.result("POST", "/scripts/hello/deployments", json=body)
    assert made["annotations"] == {"workers/message": "canary"}  # type: ignore[index]
    assert await shares(call) == split
    shown = await call.result("GET", f"/scripts/hello/versions/{second}")
    assert shown["annotations"]["workers/tag"] == "t"  # type: ignore[index]
    assert await call.result("GET", f"/scripts/hello/deployments/{made['id']}") == made  # type: ignore[index]


async def test_uploading_a_version_of_an_app_that_is_not_there(call: Caller) -> None:
    assert error_of(await call("POST", "/scripts/hello/versions", files=simple_form())) == (404, 10007)


@pytest.mark.parametrize(
    "versions",
    [
        [],
        [("A", 100), ("A", 0.5)],
        [("A", 99)],
        [("A", 101)],
        [("A", -1), ("B", 101)],
        [("A", 50), ("B", 49.5)],
        [("A", 1e308), ("B", 1)],
        [("unknown", 100)],
        [("A", 40), ("B", 30), ("unknown", 30)],
        [("A", 50), ("A", 50)],
    ],
)
async def test_a_deployment_that_cannot_be(call: Caller, versions: list[tuple[str, float]]) -> None:
    ids = {"A": await call.deploy(), "B": await call.upload()}
    body = {"versions": [{"version_id": ids.get(name, name), "percentage": percent} for name, percent in versions]}
    status, _ = error_of(await call("POST", "/scripts/hello/deployments", json=body))
    assert status in (400, 404)
    assert await shares(call) == [{"version_id": ids["A"], "percentage": 100}]


async def test_secrets_come_and_go_without_being_shown(call: Caller, dialect: Dialect) -> None:
    await call.deploy(bindings=[{"name": "V", "type": "plain_text", "text": "1"}])
    secret = {"name": "S", "text": "hunter2", "type": "secret_text"}
    assert await call.result("PUT", "/scripts/hello/secrets", json=secret) == {"name": "S", "type": "secret_text"}
    bulk = {"secrets": {"A": {"name": "A", "text": "1", "type": "secret_text"}, "S": None, "NOT_THERE": None}}
    assert await call.result("PATCH", "/scripts/hello/secrets-bulk", json=bulk) == [{"name": "A", "type": "secret_text"}]
    assert await call.result("GET", "/scripts/hello/secrets/A") == {"name": "A", "type": "secret_text"}
    await call.result("DELETE", "/scripts/hello/secrets/A")
    assert await call.result("GET", "/scripts/hello/secrets") == []
    assert error_of(await call("DELETE", "/scripts/hello/secrets/A")) == (404, 10056)
    assert error_of(await call("GET", "/scripts/hello/secrets/A")) == (404, 10056)
    await call.result("PUT", "/scripts/hello/secrets", json=secret)
    for path in ("/scripts/hello/settings", "/scripts/hello/versions", "/scripts/hello/secrets", "/services/hello"):
        assert "hunter2" not in (await call("GET", path)).text
    state = await dialect.use_cases.apps.state(dialect.account.id, "hello")
    assert state.deployed is not None and state.deployed.number == 5
    assert {binding.name for binding in state.deployed.bindings} == {"S", "V"}


async def test_a_secret_cannot_take_a_variables_name(call: Caller) -> None:
    await call.deploy(bindings=[{"name": "V", "type": "plain_text", "text": "1"}])
    body = {"name": "V", "text": "x", "type": "secret_text"}
    assert error_of(await call("PUT", "/scripts/hello/secrets", json=body)) == (400, 10053)
    assert error_of(await call("PUT", "/scripts/hello/secrets", json={**body, "type": "secret_key"})) == (400, 6007)


async def test_secrets_of_what_runs_are_not_changed_behind_a_newer_version(call: Caller) -> None:
    await call.deploy()
    await call.upload()
    body = {"name": "S", "text": "x", "type": "secret_text"}
    assert error_of(await call("PUT", "/scripts/hello/secrets", json=body)) == (400, 10215)


async def test_secrets_of_the_newest_version_without_deploying(call: Caller) -> None:
    first = await call.deploy()
    body = {"env": {"S": {"type": "secret_text", "text": "x"}}, "annotations": {"workers/message": "m", "workers/tag": "t"}}
    made = await call.result("PATCH", "/workers/hello/versions/latest", json=body)
    assert made["resources"]["bindings"] == [{"name": "S", "type": "secret_text"}]  # type: ignore[index]
    assert await shares(call) == [{"version_id": first, "percentage": 100}]
    made = await call.result("PATCH", "/workers/hello/versions/latest", json={"env": {"S": None}})
    assert made["resources"]["bindings"] == []  # type: ignore[index]


async def test_settings_patch_keeps_what_is_named_without_a_value(call: Caller) -> None:
    await call.deploy(
        bindings=[{"name": "V", "type": "plain_text", "text": "1"}, {"name": "X", "type": "plain_text", "text": "2"}]
    )
    bindings = '{"bindings":[{"type":"plain_text","name":"V"},{"type":"secret_text","name":"A","text":"s"}]}'
    result = await call.result("PATCH", "/scripts/hello/settings", files={"settings": (None, bindings)})
    assert result["bindings"] == [  # type: ignore[index]
        {"name": "A", "type": "secret_text"},
        {"name": "V", "type": "plain_text", "text": "1"},
    ]
    bad = '{"bindings":[{"type":"kv_namespace","name":"K","namespace_id":"x"}]}'
    assert error_of(await call("PATCH", "/scripts/hello/settings", files={"settings": (None, bad)})) == (400, 10021)
    bad = '{"bindings":[{"type":"plain_text","name":"GONE"}]}'
    assert error_of(await call("PATCH", "/scripts/hello/settings", files={"settings": (None, bad)})) == (400, 10057)


async def test_script_settings_belong_to_the_app(call: Caller, dialect: Dialect) -> None:
    version = await call.deploy()
    body = {"observability": {"enabled": True, "head_sampling_rate": 1}, "tags": ["a"], "logpush": None}
    result = await call.result("PATCH", "/scripts/hello/script-settings", json=body)
    assert result["observability"] == {"enabled": True} and result["tags"] == ["a"]  # type: ignore[index]
    assert (await dialect.use_cases.apps.app(dialect.account.id, "hello")).observability
    assert await shares(call) == [{"version_id": version, "percentage": 100}]
    for refused in ({"logpush": True}, {"tail_consumers": [{"service": "x"}]}):
        assert error_of(await call("PATCH", "/scripts/hello/script-settings", json=refused)) == (400, 10021)


async def test_turning_the_host_name_off_is_a_reason_to_decide_again(call: Caller, dialect: Dialect) -> None:
    await call.deploy()
    assert await call.result("GET", "/scripts/hello/subdomain") == {"enabled": True, "previews_enabled": False}
    off = {"enabled": False, "previews_enabled": False}
    assert await call.result("POST", "/scripts/hello/subdomain", json=off) == off
    evaluations = await dialect.store.range("evaluations/")
    assert len(evaluations.entries) == 2
    await call.result("POST", "/scripts/hello/subdomain", json=off)
    assert len((await dialect.store.range("evaluations/")).entries) == 2


async def test_the_worker_tells_its_address(dialect: Dialect) -> None:
    dialect = await open_dialect(addresses=Addresses(suffix="apps.example", port=80))
    call = Caller(dialect)
    await call.deploy()
    worker = await call.result("GET", "/workers/hello")
    assert worker["subdomain"]["url"] == "http://hello.default.apps.example"  # type: ignore[index]
    assert Addresses().url("hello", "default") == "http://hello.default.localhost:8080"


async def test_delete_leaves_nothing_and_the_name_free(call: Caller, dialect: Dialect) -> None:
    await call.deploy()
    tag = (await dialect.use_cases.apps.app(dialect.account.id, "hello")).tag
    await call.deploy()
    await call.result("DELETE", "/scripts/hello")
    assert error_of(await call("GET", "/services/hello")) == (404, 10090)
    assert error_of(await call("DELETE", "/services/hello?force=true")) == (404, 10007)
    for prefix in ("apps/", "versions/", "deployments/"):
        assert (await dialect.store.range(prefix)).entries == ()
    await call.deploy()
    state = await dialect.use_cases.apps.state(dialect.account.id, "hello")
    assert state.app.tag != tag
    assert [version.number for version in state.versions] == [1]


async def test_lists_end_with_an_empty_page(call: Caller) -> None:
    for name in ("b", "a", "c"):
        await call.deploy(name)
    first = (await call("GET", "/scripts?page=1&per_page=2")).json()
    assert [script["id"] for script in first["result"]] == ["a", "b"]
    assert first["result_info"] == {"page": 1, "per_page": 2, "count": 2, "total_count": 3, "total_pages": 2}
    second = (await call("GET", "/scripts?page=2&per_page=2")).json()
    assert [script["id"] for script in second["result"]] == ["c"]
    third = (await call("GET", "/scripts?page=3&per_page=2")).json()
    assert third["result"] == [] and third["success"] is True
    for query in ("page=0", "page=-1", "page=x", "page=²", "page=1e9", "per_page=0", "per_page=1001", "page=99999999999999"):
        assert (await call("GET", f"/scripts?{query}")).status_code == 400


async def test_who_am_i(dialect: Dialect) -> None:
    async with dialect.client() as client:
        assert (await client.get(f"{PREFIX}/user/tokens/verify")).json()["result"]["status"] == "active"
        assert "@" in (await client.get(f"{PREFIX}/user")).json()["result"]["email"]
        accounts = (await client.get(f"{PREFIX}/accounts")).json()["result"]
        memberships = (await client.get(f"{PREFIX}/memberships")).json()["result"]
        assert (await client.get(f"{PREFIX}/accounts?page=2")).json()["result"] == []
    assert [account["id"] for account in accounts] == [dialect.account.id]
    assert [membership["account"]["id"] for membership in memberships] == [dialect.account.id]


READS = ["/workers/scripts", "/workers/scripts/hello", "/workers/scripts/hello/secrets", "/workers/services/hello", ""]


async def test_one_account_never_sees_or_changes_another(dialect: Dialect) -> None:
    call = Caller(dialect)
    await call.deploy()
    other = await dialect.use_cases.accounts.create_account("other")
    stranger = (await dialect.use_cases.accounts.create_token("t", "write", account=other.id)).secret
    async with dialect.client(stranger) as client:
        for path in READS:
            assert error_of(await client.get(dialect.path(path))) == (403, 10000)
        put = await client.put(dialect.path("/workers/scripts/hello"), files=simple_form())
        assert error_of(put) == (403, 10000)
        assert error_of(await client.delete(dialect.path("/workers/scripts/hello"))) == (403, 10000)
        accounts = (await client.get(f"{PREFIX}/accounts")).json()["result"]
        assert [account["id"] for account in accounts] == [other.id]
        mine = f"{PREFIX}/accounts/{other.id}/workers/scripts"
        assert (await client.get(mine)).json()["result"] == []
        assert error_of(await client.get(f"{mine}/hello")) == (404, 10007)
    assert (await call("GET", "/scripts/hello")).status_code == 200


async def test_a_reader_changes_nothing(dialect: Dialect) -> None:
    call = Caller(dialect)
    await call.deploy()
    reader = (await dialect.use_cases.accounts.create_token("r", "read", account=dialect.account.id)).secret
    writes = [
        ("PUT", "/scripts/hello"),
        ("DELETE", "/scripts/hello"),
        ("DELETE", "/services/hello"),
        ("PUT", "/scripts/hello/secrets"),
        ("POST", "/scripts/hello/versions"),
        ("POST", "/scripts/hello/deployments"),
        ("PATCH", "/scripts/hello/settings"),
        ("PATCH", "/scripts/hello/script-settings"),
        ("POST", "/scripts/hello/subdomain"),
        ("POST", "/scripts/hello/assets-upload-session"),
        ("PATCH", "/workers/hello/versions/latest"),
    ]
    for method, path in writes:
        assert error_of(await Caller(dialect, reader)(method, path)) == (403, 10000)
    assert (await Caller(dialect, reader)("GET", "/scripts/hello")).status_code == 200
    assert len((await dialect.use_cases.apps.state(dialect.account.id, "hello")).versions) == 1


async def test_an_operator_reaches_every_account(dialect: Dialect) -> None:
    await Caller(dialect, dialect.admin).deploy()
    assert (await Caller(dialect)("GET", "/scripts/hello")).status_code == 200
    async with dialect.client(dialect.admin) as client:
        unknown = await client.get(f"{PREFIX}/accounts/{AccountId('0' * 32)}/workers/scripts")
        strange = await client.get(f"{PREFIX}/accounts/..%2f..%2ftokens/workers/scripts")
    assert error_of(unknown) == (404, 7003)
    assert error_of(strange) == (404, 7003)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (401, 9106)),
        ("Bearer skerry_wrong", (401, 10000)),
        ("Bearer", (400, 6003)),
        ("Basic dXNlcjpwYXNz", (400, 6003)),
        ("Bearer a b", (400, 6003)),
        ("Bearer " + "a" * 3000, (400, 6003)),
        ("Bearer \xff\xfe", (400, 6003)),
    ],
)
async def test_wrong_credentials(dialect: Dialect, header: str | None, expected: tuple[int, int]) -> None:
    async with dialect.client() as client:
        del client.headers["authorization"]
        headers = {} if header is None else {"authorization": header.encode("latin-1")}
        assert error_of(await client.get(dialect.path("/workers/scripts"), headers=headers)) == expected  # type: ignore[arg-type]


async def test_a_wrong_token_has_its_own_code_when_it_is_verified(dialect: Dialect) -> None:
    async with dialect.client("skerry_wrong") as client:
        assert error_of(await client.get(f"{PREFIX}/user/tokens/verify")) == (401, 1000)


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/storage/kv/namespaces", "Workers KV"),
        ("POST", "/d1/database", "D1"),
        ("PUT", "/r2/buckets/b/objects/o", "R2"),
        ("POST", "/queues", "Queues"),
        ("POST", "/workers/scripts/hello/tails", "tail"),
        ("PUT", "/workers/scripts/hello/domains/records", "custom domains"),
        ("POST", "/workers/dispatch/namespaces", "dispatch"),
        ("POST", "/workers/workers/hello/previews", "previews"),
        ("GET", "/pages/projects", "Pages"),
    ],
)
async def test_products_that_are_not_there_say_so(dialect: Dialect, method: str, path: str, words: str) -> None:
    async with dialect.client() as client:
        response = await client.request(method, dialect.path(path))
    assert error_of(response) == (404, 7003)
    assert words in response.json()["errors"][0]["message"]


async def test_unknown_paths_and_methods_answer_in_the_envelope(dialect: Dialect) -> None:
    async with dialect.client() as client:
        unknown = await client.get(f"{PREFIX}/nothing/here")
        wrong = await client.request("PROPFIND", dialect.path("/workers/scripts"))
        not_allowed = await client.post(dialect.path("/workers/scripts"))
    assert error_of(unknown) == (404, 7003)
    assert [error["code"] for error in unknown.json()["errors"]] == [7003, 7000]
    assert 400 <= wrong.status_code < 500
    assert error_of(not_allowed) == (405, 10405)
    assert not_allowed.headers["allow"] == "GET"


async def test_schedules_and_routes_can_be_emptied_only(call: Caller) -> None:
    await call.deploy()
    assert await call.result("PUT", "/scripts/hello/schedules", json=[]) == {"schedules": []}
    assert error_of(await call("PUT", "/scripts/hello/schedules", json=[{"cron": "* * * * *"}])) == (400, 10021)
    assert await call.result("PUT", "/scripts/hello/routes", json=[]) == []
    assert error_of(await call("PUT", "/scripts/hello/routes", json=[{"pattern": "x"}])) == (400, 10021)
