"""What an app asks for, by wrangler's configuration and by the own API: the last word on each field holds."""

import json
from typing import Any

import pytest

from skerry.core.types.app import Scale
from skerry.core.types.plan import Evaluation
from skerry.kit import record
from skerry.ports.store import entries_under
from skerry.services.control import keys
from skerry.services.control.declare import declare_sites
from skerry.testing.builders import make_site
from skerry.testing.dialect import Dialect, open_dialect, simple_form
from skerry.testing.own import OwnPlatform, make_own_platform

CODE = b"export default { fetch() { return new Response('2') } }"


@pytest.fixture
async def dialect() -> Dialect:
    made = await open_dialect()
    await declare_sites(made.store, (make_site("lhr"), make_site("cur"), make_site("sin")))
    return made


async def put(dialect: Dialect, scale: Any = None, code: bytes = CODE, path: str = "/workers/scripts/hello") -> tuple[int, str]:
    section = {} if scale is None else {"skerry": {"scale": scale}}
    method = "POST" if path.endswith("/versions") else "PUT"
    async with dialect.client() as client:
        answer = await client.request(method, dialect.path(path), files=simple_form(code, **section))
    return answer.status_code, answer.text


async def scale_of(dialect: Dialect) -> Scale:
    return (await dialect.use_cases.apps.app(dialect.account.id, "hello")).scale


async def evaluations(dialect: Dialect) -> list[str]:
    return [record.decode(entry.value, Evaluation).cause async for entry in entries_under(dialect.store, keys.EVALUATIONS)]


async def test_a_deploy_sets_the_fields_that_it_names(dialect: Dialect) -> None:
    assert (await put(dialect, {"max_total": 2, "deny": ["sin"]}))[0] == 200
    assert await scale_of(dialect) == Scale(max_total=2, deny=("sin",))
    await dialect.use_cases.apps.scales.change(dialect.account.id, "hello", {"max_total": 3, "priority": 80})
    assert (await put(dialect, {"max_total": 2}))[0] == 200
    assert await scale_of(dialect) == Scale(max_total=2, deny=("sin",), priority=80)
    assert (await put(dialect))[0] == 200
    assert await scale_of(dialect) == Scale(max_total=2, deny=("sin",), priority=80)


async def test_a_change_asks_for_a_plan_and_no_change_does_not(dialect: Dialect) -> None:
    await put(dialect)
    before = await evaluations(dialect)
    app = await dialect.use_cases.apps.scales.change(dialect.account.id, "hello", {"max_total": 2})
    assert sorted([*before, "scale"]) == sorted(await evaluations(dialect))
    again = await dialect.use_cases.apps.scales.change(dialect.account.id, "hello", {"max_total": 2})
    assert again == app


async def test_a_version_without_a_deployment_leaves_the_scale(dialect: Dialect) -> None:
    await put(dialect)
    asked = {"max_total": 1, "resources": {"memory_mib": 64}}
    assert (await put(dialect, asked, path="/workers/scripts/hello/versions"))[0] == 200
    assert await scale_of(dialect) == Scale()
    newest = (await dialect.use_cases.apps.state(dialect.account.id, "hello")).versions[0]
    assert newest.limits.reserve.memory_mib == 12


async def test_resources_hold_from_the_next_version_on(dialect: Dialect) -> None:
    await put(dialect)
    await dialect.use_cases.apps.scales.change(dialect.account.id, "hello", {"resources": {"memory_mib": 64}})
    await put(dialect)
    newest, oldest = (await dialect.use_cases.apps.state(dialect.account.id, "hello")).versions
    assert (newest.limits.reserve.memory_mib, oldest.limits.reserve.memory_mib) == (64, 12)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"scale": {"max_total": 1, "min_total": 2}}, ("max_total (1)", "min_total (2)")),
        ({"scale": {"allow": ["lhr"], "deny": ["lhr"]}}, ("'lhr'", "both allowed and denied")),
        ({"scale": {"allow": ["nrt"]}}, ("'nrt'", "names no site")),
        ({"scale": {"survive_sites": 3}}, ("survive_sites (3)", "4 sites")),
        ({"scale": {"latency_objective_ms": 0}}, ("latency_objective_ms",)),
        ({"scale": {"maximum": 1}}, ("'maximum'", "max_total")),
        ({"scale": {"max_total": "1"}}, ("max_total",)),
        ({"scale": 3}, ("scale",)),
        ({"scael": {}}, ("scael",)),
        ([], ("skerry",)),
    ],
)
async def test_what_makes_no_sense_is_refused_whole(dialect: Dialect, section: Any, words: tuple[str, ...]) -> None:
    async with dialect.client() as client:
        answer = await client.put(dialect.path("/workers/scripts/hello"), files=simple_form(CODE, skerry=section))
        assert answer.status_code == 400
        said = answer.json()["errors"][0]["message"]
        assert all(word in said for word in words), said
        assert (await client.get(dialect.path("/workers/scripts/hello"))).status_code == 404


async def test_settings_of_a_script_do_not_swallow_a_scale(dialect: Dialect) -> None:
    await put(dialect)
    async with dialect.client() as client:
        settings = ("settings", (None, json.dumps({"skerry": {"scale": {"max_total": 1}}}).encode(), "application/json"))
        answer = await client.patch(dialect.path("/workers/scripts/hello/settings"), files=[settings])
    assert answer.status_code == 400
    assert "skerry scale" in answer.text


# The own API.

PATH = "/v1/apps/default/hello/scale"


@pytest.fixture
async def platform() -> OwnPlatform:
    made = await make_own_platform()
    for account in (made.account, made.other):
        await made.apps.deploy(account.id, "hello", made.upload, source="test", author="test")
    return made


async def test_the_scale_is_shown_whole_and_changed_by_field(platform: OwnPlatform) -> None:
    async with platform.client(platform.token) as client:
        shown = (await client.get(PATH)).json()
        assert set(shown["scale"]) == set(Scale.__struct_fields__)
        assert shown["set_fields"] == []
        changed = await client.patch(PATH, json={"scale": {"max_total": 1, "allow": ["lhr"], "latency_objective_ms": 5}})
        assert changed.status_code == 200
        said = changed.json()
        assert (said["scale"]["max_total"], said["scale"]["allow"]) == (1, ["lhr"])
        assert said["set_fields"] == ["max_total", "allow", "latency_objective_ms"]
        assert "cur" in said["warnings"][0]
        assert (await client.get(PATH)).json() == said
        again = (await client.patch(PATH, json={"scale": {"latency_objective_ms": None}})).json()
        assert (again["set_fields"], again["warnings"]) == (["max_total", "allow"], [])


async def test_only_who_may_write_an_account_changes_its_scales(platform: OwnPlatform) -> None:
    body = {"scale": {"max_total": 1}}
    async with platform.client(platform.overseer) as client:
        assert (await client.get(PATH)).status_code == 200
        assert (await client.patch(PATH, json=body)).status_code == 403
    async with platform.client(platform.other_token) as client:
        assert (await client.get(PATH)).status_code == 404
        assert (await client.patch(PATH, json=body)).status_code == 404
    async with platform.client("") as client:
        assert (await client.patch(PATH, json=body)).status_code == 401
    async with platform.client() as client:
        assert (await client.get(PATH)).json()["set_fields"] == []
        assert (await client.patch("/v1/apps/default/nobody/scale", json=body)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [{}, {"scale": 1}, {"scale": {"max_total": 1.5}}, {"scale": {"deny": ["lhr", "cur"]}}, {"scale": {}, "more": 1}, []],
)
async def test_a_bad_change_is_refused_with_a_reason_and_changes_nothing(platform: OwnPlatform, body: Any) -> None:
    async with platform.client() as client:
        answer = await client.patch(PATH, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")
        assert answer.json()["error"]["message"]
        assert (await client.get(PATH)).json()["set_fields"] == []
