"""Images and programs by the own API: what is taken, what is refused and with which words."""

import asyncio
import json
from collections.abc import Mapping
from hashlib import sha256

import pytest

from skerry.core.types.app import SecretBinding, TextBinding
from skerry.core.types.public_port import PortRange
from skerry.services.intents.errors import IntentError
from skerry.testing.own import OwnPlatform, make_own_platform

LAYER = b"not looked at here: nodes unpack layers"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}, "config": {}}
).encode()


def manifest(config: bytes = CONFIG, layer: bytes = LAYER, layer_type: str = LAYER_TYPE, **fields: object) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"digest": f"sha256:{digest(config)}", "size": len(config), "mediaType": "x"},
            "layers": [{"digest": f"sha256:{digest(layer)}", "size": len(layer), "mediaType": layer_type}],
            **fields,
        }
    ).encode()


@pytest.fixture
async def platform() -> OwnPlatform:
    return await make_own_platform()


async def send(platform: OwnPlatform, *blobs: bytes, account: str = "default", token: str | None = None) -> None:
    async with platform.client(token) as client:
        for blob in blobs:
            answer = await client.put(f"/v1/images/{account}/blobs/{digest(blob)}", content=blob)
            assert answer.status_code == 200, answer.text


async def deploy(
    platform: OwnPlatform, body: Mapping[str, object], *, app: str = "web", account: str = "default"
) -> tuple[int, dict]:
    async with platform.client() as client:
        answer = await client.put(f"/v1/apps/default/{app}/program", json=body)
    return answer.status_code, answer.json()


async def deploy_good(platform: OwnPlatform, **fields: object) -> tuple[int, dict]:
    await send(platform, LAYER, CONFIG, manifest())
    return await deploy(platform, {"image": digest(manifest()), "image_name": "web:1", "port": 8080, **fields})


async def message(platform: OwnPlatform, **fields: object) -> str:
    status, answer = await deploy_good(platform, **fields)
    assert status in (400, 413), answer
    return str(answer["error"]["message"])


async def names(platform: OwnPlatform) -> list[str]:
    return [app.name for app in await platform.apps.list_apps(platform.account.id)]


async def test_an_image_is_brought_once_and_runs_as_a_version(platform: OwnPlatform) -> None:
    wanted = sorted(digest(blob) for blob in (LAYER, CONFIG, manifest()))
    async with platform.client() as client:
        path = "/v1/images/default/missing"
        assert (await client.post(path, json={"digests": wanted})).json() == {"missing": wanted}
        await send(platform, LAYER, CONFIG, manifest())
        assert (await client.post(path, json={"digests": wanted})).json() == {"missing": []}
    status, version = await deploy_good(platform, isolation="gvisor")
    assert status == 200
    assert (version["number"], version["image"], version["isolation"], version["port"]) == (1, "web:1", "gvisor", 8080)
    state = await platform.apps.state(platform.account.id, "web")
    assert state.latest is not None and state.latest.program is not None
    assert [(layer.digest, layer.compression) for layer in state.latest.program.image.layers] == [(digest(LAYER), "gzip")]
    assert state.deployment is not None


async def test_what_another_account_brought_is_not_there(platform: OwnPlatform) -> None:
    await send(platform, LAYER, CONFIG, manifest(), account="other")
    async with platform.client() as client:
        answer = await client.post("/v1/images/default/missing", json={"digests": [digest(LAYER)]})
        assert answer.json() == {"missing": [digest(LAYER)]}
    await send(platform, CONFIG, manifest())
    status, answer = await deploy(platform, {"image": digest(manifest())})
    assert status == 400
    assert digest(LAYER) in answer["error"]["message"]


async def test_a_tenant_brings_nothing_to_another_account(platform: OwnPlatform) -> None:
    async with platform.client(platform.token) as client:
        assert (await client.put(f"/v1/images/other/blobs/{digest(LAYER)}", content=LAYER)).status_code == 404
        assert (await client.put("/v1/apps/other/web/program", json={"image": digest(LAYER)})).status_code == 404


async def test_a_blob_that_is_not_its_digest_is_not_kept(platform: OwnPlatform) -> None:
    async with platform.client() as client:
        answer = await client.put(f"/v1/images/default/blobs/{digest(LAYER)}", content=b"something else")
        assert answer.status_code == 400
        assert "digest" in answer.json()["error"]["message"]
        assert (await client.put("/v1/images/default/blobs/nonsense", content=b"")).status_code == 400
        answer = await client.post("/v1/images/default/missing", json={"digests": [digest(LAYER)]})
        assert answer.json() == {"missing": [digest(LAYER)]}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (b"{", "manifest is not one"),
        (b"[" * 100_000, "manifest is not one"),
        (manifest(layers=[]), "has 0 layers"),
        (manifest(mediaType="application/vnd.oci.image.index.v1+json"), "is not an image"),
        (manifest(layer_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "cannot be unpacked"),
        (manifest(config=b"{}"), "configuration is not one"),
        (manifest(config=CONFIG.replace(b"linux", b"plan9")), "only linux runs here"),
        (manifest(config=CONFIG.replace(b'["sha256:', b'["sha256:' + b"2" * 64 + b'", "sha256:')), "its configuration names 2"),
        (manifest(config=CONFIG.replace(b"sha256:1", b"sha512:1")), "is not a SHA-256"),
    ],
)
async def test_an_image_that_cannot_be_run_is_refused(platform: OwnPlatform, made: bytes, said: str) -> None:
    configs = (b"{}", CONFIG.replace(b"linux", b"plan9"), CONFIG.replace(b"sha256:1", b"sha512:1"))
    two = CONFIG.replace(b'["sha256:', b'["sha256:' + b"2" * 64 + b'", "sha256:')
    await send(platform, LAYER, CONFIG, two, *configs, made)
    status, answer = await deploy(platform, {"image": digest(made)})
    assert status == 400
    assert said in answer["error"]["message"]
    assert await names(platform) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"memory_mib": 4}, "memory is 4 MiB; a container has 8"),
        ({"memory_mib": 64, "isolation": "microvm"}, "a microvm has 96"),
        ({"isolation": "sandbox"}, "is for Workers"),
        ({"isolation": "chroot"}, "isolation"),
        ({"cpu_millicores": 0}, "cpu is 0 millicores"),
        ({"port": 0}, "port is 0"),
        ({"protocol": "tcp", "port": None}, "tcp needs a port"),
        ({"public_port": 30_000}, "for programs that speak TCP"),
        ({"protocol": "tcp", "public_port": 22}, "none that apps may have: there are 30000-30999, and an operator"),
        ({"port": None, "asleep_after_s": 60}, "needs a port"),
        ({"command": []}, "command is empty"),
        ({"command": ["a\0b"]}, "NUL"),
        ({"args": ["x" * 40_000]}, "args has more than"),
        ({"user": "root; reboot"}, "is not of the form"),
        ({"working_dir": "../etc"}, "is no absolute path"),
        ({"files": [{"path": "/proc/self/mem", "text": "x"}]}, "lies in"),
        ({"files": [{"path": "/etc/../x", "text": "x"}]}, "no absolute path"),
        ({"files": [{"path": "/a", "text": "x"}, {"path": "/a", "text": "y"}]}, "twice"),
        ({"network": {"allow": ["10.0.0.1/8"]}}, "neither an IPv4 network"),
        ({"network": {"allow": ["exa mple.org"]}}, "neither an IPv4 network"),
        ({"network": {"only_allowed": True, "allow": ["2001:db8::/32"]}}, "neither an IPv4 network"),
        ({"network": {"allow": ["example.org"]}}, "has no effect"),
        ({"network": {"egress_kbits_max": 1}}, "egress_kbits_max is 1"),
        ({"health": {"check": {"kind": "exec", "command": []}}}, "command is empty"),
        ({"health": {"check": {"kind": "http", "path": "health"}}}, "does not start with a slash"),
        ({"health": {"check": {"kind": "tcp"}, "interval_ms": 1}}, "interval_ms is 1"),
        ({"writable_mib": 0}, "writable_mib is 0"),
        ({"pids_max": 1}, "pids_max is 1"),
        ({"env": {"A B": "x"}}, "binding name"),
        ({"env": {"A": "x" * 6000}}, "bytes"),
        ({"env": {"A": "x"}, "secrets": {"A": "y"}}, "both a variable and a secret"),
        ({"env": {"A": "x\0y"}}, "environment"),
        ({"scale": {"min_total": 5, "max_total": 2}}, "below min_total"),
        ({"scale": {"minimum": 5}}, "no field of a scale"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_a_program_that_makes_no_sense_is_refused_with_the_reason(
    platform: OwnPlatform, fields: dict[str, object], said: str
) -> None:
    assert said in await message(platform, **fields)
    assert await names(platform) == []


async def test_a_secret_stays_until_it_is_named_again_and_is_never_shown(platform: OwnPlatform) -> None:
    await deploy_good(platform, env={"A": "1"}, secrets={"KEY": "hidden-1"}, files=[{"path": "/run/key", "text": "hidden-2"}])
    status, answer = await deploy_good(platform, env={"B": "2"})
    assert status == 200
    latest = (await platform.apps.state(platform.account.id, "web")).latest
    assert latest is not None
    assert latest.bindings == (TextBinding(name="B", text="2"), SecretBinding(name="KEY", text="hidden-1"))
    assert "hidden" not in json.dumps(answer)
    await deploy_good(platform, keep_secrets=False)
    latest = (await platform.apps.state(platform.account.id, "web")).latest
    assert latest is not None and latest.bindings == ()


async def test_a_name_is_a_workers_or_an_images(platform: OwnPlatform) -> None:
    await platform.apps.deploy(platform.account.id, "hello", platform.upload, source="api", author="dev")
    await deploy_good(platform)
    status, answer = await deploy(platform, {"image": digest(manifest())}, app="hello")
    assert status == 400
    assert "is a Worker" in answer["error"]["message"]
    with pytest.raises(IntentError, match="runs an image"):
        await platform.apps.deploy(platform.account.id, "web", platform.upload, source="api", author="dev")


async def test_an_app_is_deleted_by_its_name(platform: OwnPlatform) -> None:
    await deploy_good(platform)
    async with platform.client() as client:
        assert (await client.delete("/v1/apps/default/web")).json() == {"deleted": "web"}
        assert (await client.delete("/v1/apps/default/web")).status_code == 404


async def port_of(platform: OwnPlatform, app: str, **fields: object) -> int:
    """The public port of a TCP program that is deployed now."""
    await send(platform, LAYER, CONFIG, manifest())
    status, answer = await deploy(platform, {"image": digest(manifest()), "port": 6379, "protocol": "tcp", **fields}, app=app)
    assert status == 200, answer
    port = (await platform.apps.app(platform.account.id, app)).public_port
    assert port is not None
    return port


async def test_every_tcp_program_has_a_public_port_of_its_own_and_keeps_it(platform: OwnPlatform) -> None:
    first, second = await port_of(platform, "one"), await port_of(platform, "two")
    assert first != second
    assert {first, second} <= set(range(30_000, 31_000))
    assert await port_of(platform, "one") == first


async def test_a_public_port_that_is_asked_for_is_given_unless_another_app_has_it(platform: OwnPlatform) -> None:
    assert await port_of(platform, "one", public_port=30_007) == 30_007
    status, answer = await deploy_good(platform, protocol="tcp", public_port=30_007)
    assert (status, answer["error"]["code"]) == (409, "port_taken")
    assert "30007 is taken by the app one" in answer["error"]["message"]
    assert await names(platform) == ["one"]
    assert await port_of(platform, "one", public_port=30_008) == 30_008, "it moves"
    assert await port_of(platform, "two", public_port=30_007) == 30_007, "the old one is free"


async def test_a_version_that_only_waits_moves_no_port(platform: OwnPlatform) -> None:
    await port_of(platform, "web", public_port=30_007)
    body = {"image": digest(manifest()), "port": 6379, "protocol": "tcp", "public_port": 30_008}
    async with platform.client() as client:
        answer = await client.put("/v1/apps/default/web/program?deploy=false", json=body)
    assert (answer.status_code, "changes with what is deployed" in answer.text) == (400, True)


async def test_a_deleted_app_frees_its_public_port(platform: OwnPlatform) -> None:
    port = await port_of(platform, "one")
    await platform.apps.delete(platform.account.id, "one")
    assert await port_of(platform, "two", public_port=port) == port


async def test_two_who_ask_for_one_port_at_once_do_not_both_get_it(platform: OwnPlatform) -> None:
    await send(platform, LAYER, CONFIG, manifest())
    body = {"image": digest(manifest()), "port": 6379, "protocol": "tcp", "public_port": 30_001}
    answers = await asyncio.gather(*(deploy(platform, body, app=f"app-{number}") for number in range(4)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409]


async def test_an_app_stays_with_what_it_speaks(platform: OwnPlatform) -> None:
    await port_of(platform, "web")
    assert "web speaks tcp, not http" in await message(platform)


async def test_where_no_port_is_free_that_is_said(platform: OwnPlatform) -> None:
    few = await make_own_platform(public_ports=(PortRange(first=7, last=8),))
    assert {await port_of(few, "one"), await port_of(few, "two")} == {7, 8}
    assert "No public port is free: there are 7-8" in await message(few, protocol="tcp")
    none = await make_own_platform(public_ports=())
    assert "No public port is free: there are none" in await message(none, protocol="tcp")
