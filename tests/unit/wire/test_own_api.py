"""The own API as operators and developers use it."""

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from skerry.ports.operations import Unavailable
from skerry.testing.own import OwnPlatform, make_own_platform


@pytest.fixture
async def platform() -> OwnPlatform:
    return await make_own_platform()


EVERYTHING = [
    ("GET", "/metrics"), ("GET", "/v1/whoami"), ("GET", "/v1/status"), ("GET", "/v1/sites"), ("GET", "/v1/nodes"),
    ("GET", "/v1/apps"), ("GET", "/v1/apps/default/hello/explain"), ("GET", "/v1/apps/default/hello/scale"),
    ("PATCH", "/v1/apps/default/hello/scale"), ("GET", "/v1/apps/default/hello/rollout"),
    ("PUT", "/v1/apps/default/web/program"), ("DELETE", "/v1/apps/default/hello"),
    ("POST", "/v1/images/default/missing"), ("PUT", f"/v1/images/default/blobs/{'0' * 64}"),
    ("POST", "/v1/apps/default/hello/rollout"), ("POST", "/v1/plan"), ("POST", "/v1/drain"), ("POST", "/v1/undrain"),
    ("GET", "/v1/map"), ("GET", "/v1/map/default/hello"), ("GET", "/v1/apps/default/hello/demand"), ("GET", "/v1/demand"),
    ("GET", "/v1/settings"), ("PATCH", "/v1/settings"),
    ("GET", "/v1/maintenance"), ("POST", "/v1/maintenance"),
    ("GET", "/v1/accounts"), ("POST", "/v1/accounts"), ("GET", "/v1/tokens"), ("POST", "/v1/tokens"),
    ("DELETE", "/v1/tokens/00112233445566778899aabbccddeeff"),
]  # fmt: skip
OPERATORS_ONLY = [
    ("GET", "/metrics"), ("GET", "/v1/nodes"), ("POST", "/v1/drain"), ("POST", "/v1/undrain"), ("POST", "/v1/accounts"),
    ("POST", "/v1/tokens"), ("DELETE", "/v1/tokens/00112233445566778899aabbccddeeff"), ("PATCH", "/v1/settings"),
    ("GET", "/v1/maintenance"), ("POST", "/v1/maintenance"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize("token", ["", "wrong", "x" * 5000])
async def test_nothing_is_told_without_a_good_token(platform: OwnPlatform, method: str, path: str, token: str) -> None:
    async with platform.client(token) as client:
        answer = await client.request(method, path, json={"target": "lhr"} if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("method", "path"), OPERATORS_ONLY)
async def test_a_tenant_may_not_do_what_is_the_operators(platform: OwnPlatform, method: str, path: str) -> None:
    async with platform.client(platform.token) as client:
        answer = await client.request(method, path, json={"target": "lhr", "name": "x"} if method == "POST" else None)
    assert answer.status_code == 403
    assert answer.json()["error"]["hint"]


async def test_an_operator_who_may_only_read_changes_nothing(platform: OwnPlatform) -> None:
    async with platform.client(platform.overseer) as client:
        assert (await client.get("/v1/status")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.post("/v1/drain", json={"target": "lhr"})).status_code == 403
        assert (await client.get("/v1/maintenance")).json()["id"] is None
        assert (await client.post("/v1/maintenance", json={"action": "start", "task": "reboot"})).status_code == 403
        assert (await client.post("/v1/tokens", json={"name": "more", "scope": "admin"})).status_code == 403


async def test_status_has_the_documented_fields(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        status = (await client.get("/v1/status")).json()
    assert {"site", "city", "address", "state"} <= status["sites"][0].keys()
    assert {"node", "site", "state", "pid", "capacity", "reserved"} <= status["nodes"][0].keys()
    assert {"account", "app", "version", "site", "node", "state", "pid", "since_ms"} <= status["instances"][0].keys()
    assert {"account", "app", "version", "url", "rollout"} <= status["apps"][0].keys()
    assert {app["account_name"] for app in status["apps"]} == {"default", "other"}
    assert status["nodes"][0]["capacity"] == {"cpu_millicores": 2000, "memory_mib": 1024, "disk_mib": 1000}


async def test_a_tenant_sees_its_own_account_and_no_machines(platform: OwnPlatform) -> None:
    async with platform.client(platform.token) as client:
        status = (await client.get("/v1/status")).json()
        assert {item["account"] for item in status["instances"] + status["apps"]} == {platform.account.id}
        assert status["nodes"] == []
        assert len(status["sites"]) == 2
        assert [app["account"] for app in (await client.get("/v1/apps")).json()["apps"]] == [platform.account.id]
        assert [a["name"] for a in (await client.get("/v1/accounts")).json()["accounts"]] == ["default"]
        tokens = (await client.get("/v1/tokens")).json()["tokens"]
        assert {token["account"] for token in tokens} == {platform.account.id}
        who = (await client.get("/v1/whoami")).json()
        assert (who["scope"], who["account"]) == ("write", platform.account.id)


async def test_another_account_does_not_exist_for_a_tenant(platform: OwnPlatform) -> None:
    async with platform.client(platform.token) as client:
        own = await client.get("/v1/apps/default/hello/explain")
        assert own.status_code == 200
        assert (await client.get("/v1/map/default/hello")).status_code == 200
        for name in ("other", platform.other.id, "nobody"):
            answer = await client.get(f"/v1/apps/{name}/hello/explain")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
            assert (await client.get(f"/v1/map/{name}/hello")).status_code == 404
            assert (await client.get("/v1/tokens", params={"account": name})).status_code == 404


async def test_an_app_is_explained_by_name_or_id_and_per_site(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        by_name = await client.get("/v1/apps/default/hello/explain")
        by_id = await client.get(f"/v1/apps/{platform.account.id}/hello/explain", params={"site": "lhr"})
        assert by_name.json()["verdicts"] == by_id.json()["verdicts"]
        assert (await client.get("/v1/apps/default/goodbye/explain")).status_code == 404
        assert (await client.get("/v1/apps/default/hello/explain", params={"site": "nrt"})).status_code == 404


async def test_a_node_or_a_site_is_drained_and_undrained(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        drained = await client.post("/v1/drain", json={"target": "lhr-1"})
        assert drained.json() == {"target": "lhr-1", "kind": "node", "state": "draining", "moving": 1}
        states = {node["node"]: node["state"] for node in (await client.get("/v1/nodes")).json()["nodes"]}
        assert states == {"lhr-1": "draining", "lhr-2": "up", "cur-1": "up"}
        assert (await client.post("/v1/undrain", json={"target": "lhr-1"})).json()["state"] == "up"
        unknown = await client.post("/v1/drain", json={"target": "nrt"})
        assert unknown.status_code == 404
        assert unknown.json()["error"]["hint"]


async def test_accounts_are_made_once_and_named_as_host_names(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        made = await client.post("/v1/accounts", json={"name": "team-a"})
        assert made.status_code == 201
        assert made.json()["name"] == "team-a"
        again = await client.post("/v1/accounts", json={"name": "team-a"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "name_taken")
        for name in ("", "Team", "a.b", "-a", "a" * 64, "é"):
            assert (await client.post("/v1/accounts", json={"name": name})).status_code == 400


async def test_a_token_is_shown_once_works_and_is_revoked(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        made = (await client.post("/v1/tokens", json={"name": "ci", "scope": "read", "account": "default"})).json()
        listed = (await client.get("/v1/tokens", params={"account": "default"})).json()["tokens"]
        assert made["secret"]
        assert made["token"] in [token["token"] for token in listed]
        assert all(token["secret"] is None for token in listed)
        async with platform.client(made["secret"]) as holder:
            assert (await holder.get("/v1/status")).status_code == 200
            assert (await client.delete(f"/v1/tokens/{made['token']}")).status_code == 200
            assert (await holder.get("/v1/status")).status_code == 401
        assert (await client.delete(f"/v1/tokens/{made['token']}")).status_code == 404


async def test_an_operator_cannot_lock_itself_out(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        own = (await client.get("/v1/whoami")).json()["token"]
        assert (await client.delete(f"/v1/tokens/{own}")).status_code == 409
        assert (await client.get("/v1/whoami")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"name": 3}', b'{"nom": "x"}', b'{"name": "x", "extra": 1}', b"\xff\xfe", b"[" * 60_000,
        b'{"name": "x", "scope": "root"}', b'{"name": "x", "expires_ms": 1}', b'{"name": "x", "expires_ms": 1e400}',
        b'{"name": "x", "account": "default", "scope": "admin"}', b'{"name": ""}', b'{"name": "a\\u0000b"}',
    ],
)  # fmt: skip
async def test_what_is_not_asked_for_is_refused_in_words(platform: OwnPlatform, body: bytes) -> None:
    async with platform.client() as client:
        answer = await client.post("/v1/tokens", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


async def test_a_large_body_is_refused(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        answer = await client.post("/v1/accounts", content=b'{"name": "' + b"x" * 100_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_unknown_paths_and_methods_are_answered_in_the_same_form(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        assert (await client.get("/v1/planets")).json()["error"]["code"] == "not_found"
        wrong = await client.put("/v1/status")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
        assert "GET" in wrong.headers["allow"]


async def test_health_needs_no_token_and_metrics_count(platform: OwnPlatform) -> None:
    async with platform.client("") as nobody:
        assert (await nobody.get("/healthz")).json() == {"status": "ok"}
    async with platform.client() as client:
        await client.get("/v1/status")
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'skerry_node_capacity_memory_bytes{node="lhr-1",site="lhr"} 1.073741824e+09' in lines
    assert 'skerry_instances{site="cur",state="running"} 2.0' in lines
    assert 'skerry_api_requests_total{handler="status",status="200"} 1.0' in lines


async def test_an_outage_is_told_as_one_and_a_fault_is_not_explained_to_strangers(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        platform.operations.raises = Unavailable("the store does not answer")
        assert (await client.get("/v1/status")).status_code == 503
        platform.operations.raises = ZeroDivisionError("secret detail")
        broken = await client.get("/v1/status")
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in broken.text


async def test_answers_with_secrets_are_not_kept_by_caches(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        made = await client.post("/v1/tokens", json={"name": "ci", "account": "default"})
    assert made.headers["cache-control"] == "no-store"


async def test_the_map_lists_sites_with_their_places_and_apps_by_name(platform: OwnPlatform) -> None:
    platform.operations.states["cur"] = "down"
    async with platform.client() as client:
        said = (await client.get("/v1/map")).json()
    assert {(site["site"], site["state"], site["region"]) for site in said["sites"]} == {
        ("lhr", "up", "weur"),
        ("cur", "down", "sam"),
    }
    assert all(-90 <= site["lat"] <= 90 and -180 <= site["lon"] <= 180 for site in said["sites"])
    assert [(app["account_name"], app["app"], app["sites"]) for app in said["apps"]] == [
        ("default", "hello", 2),
        ("other", "hello", 2),
    ]
    assert said["apps_total"] == 2


async def test_the_map_of_a_tenant_shows_its_apps_only(platform: OwnPlatform) -> None:
    async with platform.client(platform.token) as client:
        said = (await client.get("/v1/map")).json()
    assert [app["account"] for app in said["apps"]] == [platform.account.id]


async def test_the_map_of_an_app_has_its_copies_and_its_users(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        said = (await client.get("/v1/map/default/hello")).json()
        assert [copies["site"] for copies in said["copies"]] == ["cur", "lhr"]
        assert {"metro", "lat", "lon", "users", "activity", "site", "rtt_ms"} <= said["metros"][0].keys()
        assert {region["region"] for region in said["regions"]} >= {"weur", "sam", "afr"}
        assert said["world"]["p50_ms"] <= said["world"]["p95_ms"]
        assert (await client.get("/v1/map/default/goodbye")).status_code == 404


async def test_the_page_of_the_map_runs_nothing_but_its_own_script(platform: OwnPlatform) -> None:
    async with platform.client("") as nobody:
        answer = await nobody.get("/map")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert [policy[kind]] == [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in inside]
    assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert {"{{", "innerHTML", "style="} & set(re.findall(r"{{|innerHTML|style=", answer.text)) == set()
    assert set(re.findall(r"https?://[^\s\"'/]+", answer.text)) <= {"http://www.w3.org"}, "nothing from elsewhere"


async def test_a_rollout_is_shown_held_and_resumed_by_those_who_may_deploy(platform: OwnPlatform) -> None:
    path = "/v1/apps/default/hello/rollout"
    async with platform.client(platform.token) as client:
        assert (await client.get(path)).json()["rollout"]["state"] == "running"
        assert (await client.post(path, json={"action": "pause"})).json()["rollout"]["state"] == "paused"
        assert (await client.post(path, json={"action": "resume"})).json()["rollout"]["state"] == "running"
        refused = await client.post(path, json={"action": "abort"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert (await client.post(path, json={"action": "stop"})).status_code == 400
        assert (await client.get("/v1/apps/default/goodbye/rollout")).status_code == 404
        assert (await client.get("/v1/apps/other/hello/rollout")).status_code == 404
    async with platform.client(platform.overseer) as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.post(path, json={"action": "pause"})).status_code == 403


async def test_maintenance_is_begun_looked_at_and_held(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        begun = await client.post("/v1/maintenance", json={"action": "start", "task": "reboot", "sites": ["lhr"]})
        assert (begun.status_code, begun.json()["state"]) == (200, "running")
        assert [node["node"] for node in begun.json()["nodes"]] == ["lhr-1", "lhr-2"]
        assert (await client.get("/v1/maintenance")).json() == begun.json()
        assert (await client.post("/v1/maintenance", json={"action": "pause"})).json()["state"] == "paused"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"action": "start"}, "task is the name"),
        ({"action": "start", "task": "reboot; rm -rf /"}, "task is the name"),
        ({"action": "start", "task": "reboot", "max_unavailable_percent": 0}, "is 1 to 50"),
        ({"action": "start", "task": "reboot", "max_unavailable_percent": 100}, "is 1 to 50"),
        ({"action": "start", "task": "reboot", "sites": ["x"] * 2000}, "at most 1000 places"),
        ({"action": "start", "task": "reboot", "command": "id"}, "unknown field"),
        ({"action": "explode"}, "action"),
    ],
)
async def test_maintenance_takes_names_and_shares_only(platform: OwnPlatform, body: dict[str, object], said: str) -> None:
    async with platform.client() as client:
        answer = await client.post("/v1/maintenance", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


async def test_one_maintenance_at_a_time(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        unknown = await client.post("/v1/maintenance", json={"action": "start", "task": "dance"})
        assert (unknown.status_code, "may do" in unknown.json()["error"]["message"]) == (400, True)
        assert (await client.post("/v1/maintenance", json={"action": "resume"})).status_code == 409
        await client.post("/v1/maintenance", json={"action": "start", "task": "reboot"})
        assert (await client.post("/v1/maintenance", json={"action": "start", "task": "reboot"})).status_code == 409
