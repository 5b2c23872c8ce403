"""Uploads through the Cloudflare dialect: what is taken, and what is refused with which words."""

import json
import random
from collections.abc import Mapping

import httpx
import pytest

from skerry.core.policy.isolation import features_of
from skerry.core.policy.scale import GVISOR_WORKER_MIB
from skerry.services.intents import limits
from skerry.testing.dialect import MAIN, MODULE, Dialect, form, open_dialect, simple_form


@pytest.fixture
async def dialect() -> Dialect:
    return await open_dialect()


async def put(dialect: Dialect, files: object, name: str = "hello") -> httpx.Response:
    async with dialect.client() as client:
        return await client.put(dialect.path(f"/workers/scripts/{name}"), files=files)  # type: ignore[arg-type]


def refusal(response: httpx.Response) -> tuple[int, int, str]:
    """(status, code, message) of an envelope that says no."""
    body = response.json()
    assert body["success"] is False
    assert body["result"] is None
    return response.status_code, body["errors"][0]["code"], body["errors"][0]["message"]


async def current_bindings(dialect: Dialect, name: str = "hello") -> dict[str, dict[str, object]]:
    async with dialect.client() as client:
        settings = (await client.get(dialect.path(f"/workers/scripts/{name}/settings"))).json()["result"]
    return {binding["name"]: binding for binding in settings["bindings"]}


async def test_a_first_upload_answers_what_wrangler_prints(dialect: Dialect) -> None:
    response = await put(dialect, simple_form())
    assert response.status_code == 200
    body = response.json()
    assert body["success"] is True
    assert body["errors"] == [] and body["messages"] == []
    result = body["result"]
    assert result["id"] == "hello"
    assert result["startup_time_ms"] == 3
    assert len(result["deployment_id"]) == 36
    assert result["handlers"] == ["fetch"]
    assert result["last_deployed_from"] == "wrangler"


async def test_every_type_of_module_and_binding_that_is_there(dialect: Dialect) -> None:
    metadata = {
        "main_module": "index.js",
        "compatibility_date": "2026-01-01",
        "compatibility_flags": ["nodejs_compat"],
        "bindings": [
            {"name": "T", "type": "plain_text", "text": "x"},
            {"name": "J", "type": "json", "json": {"a": [1, None, "é"]}},
            {"name": "NULL", "type": "json", "json": None},
            {"name": "S", "type": "secret_text", "text": "hidden"},
            {"name": "VM", "type": "version_metadata"},
            {"name": "W", "type": "wasm_module", "part": "w"},
            {"name": "TB", "type": "text_blob", "part": "tb"},
            {"name": "DB", "type": "data_blob", "part": "db"},
        ],
        "placement": {"mode": "smart"},
        "limits": {"cpu_ms": 100},
        "observability": {"enabled": True},
        "annotations": {"workers/message": "first", "workers/tag": "v1"},
    }
    modules = {
        "index.js": (MAIN, MODULE),
        "./lib/a.js": (b"export default 1", MODULE),
        "c.cjs": (b"module.exports = 1", "application/javascript"),
        "a.wasm": (b"\0asm\1\0\0\0", "application/wasm"),
        "t.txt": ("é".encode(), "text/plain; charset=utf-8"),
        "d.bin": (b"\xff\0", "application/octet-stream"),
        "j.json": (b"{}", "application/json"),
        "index.js.map": (b"{}", "application/source-map"),
        "w": (b"\0asm\1\0\0\0", "application/wasm"),
        "tb": (b"text", "text/plain"),
        "db": (b"\0\1", "application/octet-stream"),
    }
    response = await put(dialect, form(metadata, modules))
    assert response.status_code == 200, response.text
    state = await dialect.use_cases.apps.state(dialect.account.id, "hello")
    version = state.deployed
    assert version is not None and version.worker is not None
    assert {m.name: m.type for m in version.worker.modules} == {
        "index.js": "esm",
        "./lib/a.js": "esm",
        "c.cjs": "commonjs",
        "a.wasm": "wasm",
        "t.txt": "text",
        "d.bin": "data",
        "j.json": "json",
    }
    assert version.message == "first" and version.tag == "v1"
    assert json.loads(version.recorded) == {"placement": {"mode": "smart"}, "limits": {"cpu_ms": 100}}
    assert state.app.observability is True
    shown = await current_bindings(dialect)
    assert shown["J"]["json"] == {"a": [1, None, "é"]}
    assert shown["NULL"]["json"] is None
    assert shown["S"] == {"name": "S", "type": "secret_text"}
    assert shown["W"]["type"] == "wasm_module"


async def test_service_worker_syntax(dialect: Dialect) -> None:
    code = b'addEventListener("fetch", (event) => event.respondWith(new Response("hi")))'
    metadata = {"body_part": "worker.js", "bindings": [{"name": "t_txt", "type": "text_blob", "part": "t_txt"}]}
    modules = {"worker.js": (code, "application/javascript"), "t_txt": (b"text", "text/plain")}
    assert (await put(dialect, form(metadata, modules))).status_code == 200
    version = (await dialect.use_cases.apps.state(dialect.account.id, "hello")).deployed
    assert version is not None and version.worker is not None
    assert version.worker.service_worker_syntax
    assert version.compatibility_date == "2021-11-02"


async def test_modules_that_an_sdk_names_by_their_file_names(dialect: Dialect) -> None:
    files = [
        ("metadata", (None, json.dumps({"main_module": "worker.mjs"}).encode(), "application/json")),
        ("files", ("worker.mjs", MAIN, MODULE)),
        ("files", ("other.mjs", b"export {}", MODULE)),
    ]
    assert (await put(dialect, files)).status_code == 200


UNSUPPORTED = [
    {"type": "kv_namespace", "namespace_id": "x"},
    {"type": "r2_bucket", "bucket_name": "b"},
    {"type": "d1", "id": "x"},
    {"type": "durable_object_namespace", "class_name": "C"},
    {"type": "queue", "queue_name": "q"},
    {"type": "service", "service": "s"},
    {"type": "browser"},
    {"type": "ai"},
    {"type": "vectorize", "index_name": "i"},
    {"type": "hyperdrive", "id": "h"},
    {"type": "analytics_engine", "dataset": "d"},
    {"type": "dispatch_namespace", "namespace": "n"},
    {"type": "send_email"},
    {"type": "workflow", "workflow_name": "w", "class_name": "C"},
    {"type": "ratelimit", "namespace_id": "1", "simple": {"limit": 1, "period": 10}},
    {"type": "invented_tomorrow"},
]


@pytest.mark.parametrize("binding", UNSUPPORTED, ids=lambda binding: binding["type"])
async def test_what_is_not_there_yet_is_refused_by_the_name_of_its_binding(dialect: Dialect, binding: dict[str, object]) -> None:
    response = await put(dialect, simple_form(bindings=[{"name": "MY_BINDING", **binding}]))
    status, code, message = refusal(response)
    assert (status, code) == (400, 10021)
    assert "'MY_BINDING'" in message and str(binding["type"]) in message and "not support" in message
    async with dialect.client() as client:
        assert (await client.get(dialect.path("/workers/scripts/hello"))).status_code == 404


@pytest.mark.parametrize(
    "field",
    [
        {"migrations": {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["C"]}]}},
        {"containers": [{"class_name": "C"}]},
        {"tail_consumers": [{"service": "s"}]},
        {"exports": {"C": {"type": "durable-object"}}},
        {"capnp_schema": "x"},
        {"logpush": True},
    ],
    ids=lambda field: next(iter(field)),
)
async def test_fields_that_would_change_behaviour_are_refused(dialect: Dialect, field: dict[str, object]) -> None:
    status, code, message = refusal(await put(dialect, simple_form(**field)))
    assert (status, code) == (400, 10021)
    assert next(iter(field)) in message


async def test_python_is_refused(dialect: Dialect) -> None:
    files = form({"main_module": "index.py"}, {"index.py": (b"x", "text/x-python")})
    status, code, message = refusal(await put(dialect, files))
    assert (status, code) == (400, 10021)
    assert "Python" in message


async def test_code_that_does_not_start_is_refused_with_the_engines_words(dialect: Dialect) -> None:
    await put(dialect, simple_form())
    bad = b"// simulated: fails Uncaught TypeError: boom is not a function\n  at index.js:1:1\n" + MAIN
    assert refusal(await put(dialect, simple_form(bad))) == (400, 10021, "Uncaught TypeError: boom is not a function")
    state = await dialect.use_cases.apps.state(dialect.account.id, "hello")
    assert len(state.versions) == 1


async def test_an_engine_that_is_not_there_is_not_the_authors_fault(dialect: Dialect) -> None:
    response = await put(dialect, simple_form(b"// simulated: unavailable no memory\n" + MAIN))
    assert response.status_code == 503
    assert response.headers["retry-after"]


BAD_METADATA: list[tuple[str, Mapping[str, object], int]] = [
    ("no main module", {"main_module": None}, 10021),
    ("unknown main module", {"main_module": "other.js"}, 10021),
    ("both kinds of main", {"body_part": "index.js"}, 10021),
    ("a date that is none", {"compatibility_date": "2026-02-30"}, 10021),
    ("a date in words", {"compatibility_date": "yesterday"}, 10021),
    ("a date in the future", {"compatibility_date": "2999-01-01"}, 10021),
    ("a flag that is none", {"compatibility_flags": ["No Such Flag"]}, 10021),
    ("a flag twice", {"compatibility_flags": ["a", "a"]}, 10021),
    ("too many flags", {"compatibility_flags": [f"f{n}" for n in range(101)]}, 10021),
    ("bindings that are no list", {"bindings": {"a": 1}}, 10021),
    ("a binding without a name", {"bindings": [{"type": "plain_text", "text": "x"}]}, 10021),
    ("a text that is a number", {"bindings": [{"type": "plain_text", "name": "A", "text": 1}]}, 10021),
    ("a text that is absent", {"bindings": [{"type": "plain_text", "name": "A"}]}, 10021),
    ("a json that is absent", {"bindings": [{"type": "json", "name": "A"}]}, 10021),
    ("a part that is absent", {"bindings": [{"type": "wasm_module", "name": "A", "part": "p"}]}, 10021),
    ("a name that is empty", {"bindings": [{"type": "plain_text", "name": "", "text": "x"}]}, 10021),
    ("a name with a line break", {"bindings": [{"type": "plain_text", "name": "A\nB", "text": "x"}]}, 10021),
    ("a name that is a trap", {"bindings": [{"type": "plain_text", "name": "__proto__", "text": "x"}]}, 10021),
    ("a name that is too long", {"bindings": [{"type": "plain_text", "name": "A" * 256, "text": "x"}]}, 10021),
    ("a value that is too large", {"bindings": [{"type": "plain_text", "name": "A", "text": "x" * 5121}]}, 10021),
    ("a secret that is too large", {"bindings": [{"type": "secret_text", "name": "A", "text": "x" * 5121}]}, 10021),
    ("assets that are absent", {"bindings": [{"type": "assets", "name": "A"}]}, 10021),
    ("a name twice", {"bindings": [{"type": "plain_text", "name": "A", "text": "x"}] * 2}, 10053),
    ("nothing to inherit", {"bindings": [{"type": "inherit", "name": "A"}]}, 10057),
    ("too many", {"bindings": [{"type": "plain_text", "name": f"A{n}", "text": "x"} for n in range(129)]}, 10037),
    ("assets without a token", {"assets": {"config": {}}}, 10021),
    ("a wrong asset token", {"assets": {"jwt": "a.b.c"}}, 10058),
    ("a message that is too long", {"annotations": {"workers/message": "x" * 1001}}, 10021),
    ("a message that is a list", {"annotations": {"workers/message": []}}, 10021),
    ("recorded settings that are too large", {"placement": {"mode": "x" * 17000}}, 10021),
]


@pytest.mark.parametrize(("metadata", "code"), [case[1:] for case in BAD_METADATA], ids=[case[0] for case in BAD_METADATA])
async def test_bad_metadata_is_refused_with_a_reason(dialect: Dialect, metadata: Mapping[str, object], code: int) -> None:
    response = await put(dialect, simple_form(**metadata))
    status, actual, message = refusal(response)
    assert 400 <= status < 500
    assert actual == code
    assert message


@pytest.mark.parametrize("name", ["Upper", "under_score", "-a", "a-", "a" * 64, "a.b", "%00", "..", "a b"])
async def test_a_name_that_cannot_be_a_host_name_is_refused(dialect: Dialect, name: str) -> None:
    response = await put(dialect, simple_form(), name=name)
    assert response.status_code in (400, 404)
    assert response.json()["errors"][0]["code"] in (10016, 7003)


@pytest.mark.parametrize("name", ["../up.js", "/abs.js", "a/../../b.js", "back\\slash.js", "\u202e.js", "n" * 600])
async def test_module_names_that_lead_elsewhere_are_refused(dialect: Dialect, name: str) -> None:
    files = form({"main_module": "index.js"}, {"index.js": (MAIN, MODULE), name: (b"export {}", MODULE)})
    assert refusal(await put(dialect, files))[:2] == (400, 10021)


async def test_modules_are_text_in_utf8_and_named_once(dialect: Dialect) -> None:
    latin = form({"main_module": "index.js"}, {"index.js": (b"// \xe9\n" + MAIN, MODULE)})
    assert refusal(await put(dialect, latin))[:2] == (400, 10021)
    twice = [*simple_form(), ("index.js", ("index.js", MAIN, MODULE))]
    assert "twice" in refusal(await put(dialect, twice))[2]
    unknown = form({"main_module": "index.js"}, {"index.js": (MAIN, "image/png")})
    assert "content type" in refusal(await put(dialect, unknown))[2]


async def test_too_many_modules(dialect: Dialect) -> None:
    modules = {f"m{n}.js": (b"", MODULE) for n in range(limits.MODULES_MAX)} | {"index.js": (MAIN, MODULE)}
    assert refusal(await put(dialect, form({"main_module": "index.js"}, modules)))[:2] == (400, 10021)


async def test_ten_mebibytes_are_counted_after_compression(dialect: Dialect) -> None:
    dense = random.Random(1).randbytes(limits.SCRIPT_GZIP_BYTES_MAX + 1)
    files = form({"main_module": "index.js"}, {"index.js": (MAIN, MODULE), "d.bin": (dense, "application/octet-stream")})
    status, code, message = refusal(await put(dialect, files))
    assert (status, code) == (413, 10027)
    assert "10 MiB" in message
    sparse = b"\0" * (limits.SCRIPT_GZIP_BYTES_MAX + 1)
    files = form({"main_module": "index.js"}, {"index.js": (MAIN, MODULE), "d.bin": (sparse, "application/octet-stream")})
    assert (await put(dialect, files)).status_code == 200


async def test_a_version_that_is_more_than_a_record_says_what_to_shorten(dialect: Dialect) -> None:
    bindings = [{"type": "plain_text", "name": f"A{n}", "text": "\x01" * 5000} for n in range(120)]
    status, code, message = refusal(await put(dialect, simple_form(bindings=bindings)))
    assert (status, code) == (413, 10413)
    assert "Shorten" in message


async def test_kept_and_inherited_bindings(dialect: Dialect) -> None:
    first = [
        {"name": "S", "type": "secret_text", "text": "hidden"},
        {"name": "V", "type": "plain_text", "text": "1"},
        {"name": "J", "type": "json", "json": 1},
    ]
    await put(dialect, simple_form(bindings=first))
    second = [{"name": "V", "type": "plain_text", "text": "2"}, {"name": "COPY", "type": "inherit", "old_name": "J"}]
    response = await put(dialect, simple_form(bindings=second, keep_bindings=["secret_text", "secret_key"]))
    assert response.status_code == 200
    shown = await current_bindings(dialect)
    assert shown["V"]["text"] == "2"
    assert shown["COPY"]["json"] == 1
    assert set(shown) == {"S", "V", "COPY"}
    assert (await put(dialect, simple_form())).status_code == 200
    assert set(await current_bindings(dialect)) == {"S"}
    assert (await put(dialect, simple_form(keep_bindings=[]))).status_code == 200
    assert await current_bindings(dialect) == {}


async def test_the_code_can_be_downloaded_without_its_secrets(dialect: Dialect) -> None:
    await put(dialect, simple_form(bindings=[{"name": "S", "type": "secret_text", "text": "very-hidden"}]))
    async with dialect.client() as client:
        for path in ("/workers/scripts/hello", "/workers/scripts/hello/content/v2"):
            response = await client.get(dialect.path(path))
            assert response.headers["content-type"].startswith("multipart/form-data")
            assert response.headers["cf-entrypoint"] == "index.js"
            assert MAIN in response.content
            assert b"very-hidden" not in response.content


async def test_a_worker_may_ask_for_gvisor_and_reserves_what_that_takes(dialect: Dialect) -> None:
    assert (await put(dialect, simple_form())).status_code == 200
    assert (await put(dialect, simple_form(skerry={"isolation": "gvisor"}))).status_code == 200
    strict, plain = (await dialect.use_cases.apps.state(dialect.account.id, "hello")).versions
    assert (plain.isolation, strict.isolation) == ("sandbox", "gvisor")
    assert features_of(strict) == ("gvisor",)
    assert strict.limits.reserve.memory_mib - plain.limits.reserve.memory_mib == GVISOR_WORKER_MIB
    assert plain.digest != strict.digest


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"skerry": {"isolation": "microvm"}}, "isolation"),
        ({"skerry": {"wall": "gvisor"}}, "wall"),
    ],
)
async def test_another_wall_is_refused(dialect: Dialect, metadata: dict[str, object], said: str) -> None:
    status, code, message = refusal(await put(dialect, simple_form(**metadata)))
    assert (status, code) == (400, 10021)
    assert said in message
