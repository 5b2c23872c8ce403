"""What an app can see and reach: its own code, what it is bound to, and the public internet."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from skerry.adapters import tools
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.core.types.app import AssetsBinding, SecretBinding
from skerry.testing.contracts.runtime import address_of, becomes
from skerry.testing.workerd_node import TEST_SETTINGS, WorkerdNode

pytestmark = [
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="own uids need root")

CALLER = """import {connect} from 'cloudflare:sockets';
async function attempt(work) { try { return await work(); } catch (error) { return "refused " + error.message; } }
export default { async fetch(request, env) {
  const {url, tcp} = await request.json();
  if (tcp) return new Response(await attempt(async () => {
    const socket = connect(tcp);
    const writer = socket.writable.getWriter();
    await writer.write(new TextEncoder().encode("GET / HTTP/1.0\\r\\n\\r\\n"));
    const {value} = await socket.readable.getReader().read();
    return value ? "reached " + new TextDecoder().decode(value) : "refused: closed";
  }));
  return new Response(await attempt(async () => {
    const answer = await fetch(url, {redirect: "manual"});
    return (answer.status === 500 ? "refused " : "reached ") + answer.status + " " + await answer.text();
  }));
} };"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[WorkerdNode]:
    node = WorkerdNode(tmp_path)
    try:
        yield node
    finally:
        await node.clean_up()


@pytest.fixture
async def runtime(node: WorkerdNode) -> WorkerdRuntime:
    return await node.open()


class Service:
    """Something on this machine that no app may reach: counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        await reader.read(65536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
        await writer.drain()
        writer.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    server = await service.start()
    yield service
    server.close()


async def call(node: WorkerdNode, address: str, **what: object) -> str:
    _, body = await node.exchange(address, method="POST", body=json.dumps(what).encode())
    return body.decode()


LOOPBACK = [
    "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0.0.0.0", "127.255.255.254", "0",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "①②⑦.⓪.⓪.①", "127。0。0。1",
]  # fmt: skip
PRIVATE = [
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "169.254.0.1", "100.64.0.1",
    "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "[::ffff:10.0.0.1]", "[::ffff:a00:1]", "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fe80::1]", "[fc00::1]", "198.18.0.1", "198.19.255.255", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]", "[2002:a00:1::]",
    "224.0.0.1", "[ff02::1]", "240.0.0.1", "255.255.255.255", "192.0.0.1",
]  # fmt: skip


async def test_no_loopback_service_is_reached(node: WorkerdNode, runtime: WorkerdRuntime, service: Service) -> None:
    address = address_of(await runtime.start(node.shop.instance("a", CALLER)))
    for host in LOOPBACK:
        answer = await call(node, address, url=f"http://{host}:{service.port}/")
        assert answer.startswith("refused"), (host, answer)
        answer = await call(node, address, tcp=f"{host}:{service.port}")
        assert not answer.startswith("reached"), (host, answer)
    assert service.visits == 0


async def test_no_private_or_metadata_address_is_tried(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    """Refused at once: nothing is sent, so nothing times out."""
    address = address_of(await runtime.start(node.shop.instance("a", CALLER)))
    for host in PRIVATE:
        answer = await asyncio.wait_for(call(node, address, url=f"http://{host}/latest/meta-data"), 5)
        assert answer.startswith("refused"), (host, answer)
        answer = await asyncio.wait_for(call(node, address, tcp=f"{host}:80"), 5)
        assert not answer.startswith("reached"), (host, answer)


async def test_no_other_instance_is_reached(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    one, other = [address_of(await runtime.start(node.shop.instance(name, CALLER))) for name in "ab"]
    assert (await call(node, one, url=f"http://{other}/")).startswith("refused")


async def test_what_the_operator_allows_is_reached(node: WorkerdNode, service: Service) -> None:
    node.settings = msgspec.structs.replace(TEST_SETTINGS, egress_allow=("127.0.0.1/32",))
    runtime = await node.open()
    address = address_of(await runtime.start(node.shop.instance("a", CALLER)))
    assert await call(node, address, url=f"http://127.0.0.1:{service.port}/") == "reached 200 secret"
    assert (await call(node, address, tcp=f"127.0.0.1:{service.port}")).startswith("reached HTTP/1.1 200 OK")
    assert (await call(node, address, url="http://10.0.0.1/")).startswith("refused")


async def test_changed_rules_hold_for_instances_that_run(node: WorkerdNode, service: Service) -> None:
    node.settings = msgspec.structs.replace(TEST_SETTINGS, egress_allow=("127.0.0.1/32",))
    runtime = await node.open()
    wanted = node.shop.instance("a", CALLER)
    address = address_of(await runtime.start(wanted))
    pid = (await becomes(runtime, wanted.id, "running")).pid
    await runtime.aclose(stop_instances=False)
    node.settings = TEST_SETTINGS
    runtime = await node.open()
    assert (await becomes(runtime, wanted.id, "running")).pid == pid
    assert (await call(node, address, url=f"http://127.0.0.1:{service.port}/")).startswith("refused")


async def test_egress_is_back_after_a_kill(node: WorkerdNode, service: Service) -> None:
    node.settings = msgspec.structs.replace(TEST_SETTINGS, egress_allow=("127.0.0.1/32",))
    runtime = await node.open()
    address = address_of(await runtime.start(node.shop.instance("a", CALLER)))
    egress = detached.attach("egress.1", records=node.places.processes)
    assert egress is not None
    (inner,) = Path(f"/proc/{egress.pid}/task/{egress.pid}/children").read_text().split()
    os.kill(int(inner), 9)
    await egress.wait()
    egress.close()
    assert await call(node, address, url=f"http://127.0.0.1:{service.port}/") == "reached 200 secret"


async def test_the_sandbox_holds_nothing_but_the_engine(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    wanted = node.shop.instance("a", assets=node.shop.assets({"/index.html": "x"}), bindings=(AssetsBinding(name="ASSETS"),))
    other = node.shop.instance("b", assets=node.shop.assets({"/index.html": "y"}), bindings=(AssetsBinding(name="ASSETS"),))
    await runtime.start(other)
    await runtime.start(wanted)
    pid = (await becomes(runtime, wanted.id, "running")).pid
    root = Path(f"/proc/{pid}/root")
    if not os.access(root, os.R_OK):
        pytest.skip("an ordinary user cannot look into the sandbox from outside")
    files = {str(path)[len(str(root)) :] for path in root.rglob("*") if not path.is_dir()}
    libraries = {path for path in files if path.startswith(("/lib", "/usr/lib"))}
    assert files - libraries - {path for path in files if path.startswith("/sys/devices/system/cpu/")} == {
        "/workerd", "/setpriv", "/egress/egress.sock", "/egress/cache.sock", "/assets/assets.sock"
    }  # fmt: skip
    assert all(".so" in path for path in libraries)


def status(pid: int | None) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


async def test_processes_have_no_powers(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    wanted = [node.shop.instance(name) for name in "ab"]
    for one in wanted:
        await runtime.start(one)
    pids = [(await becomes(runtime, one.id, "running")).pid for one in wanted]
    for pid in pids:
        seen = status(pid)
        assert [int(seen[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
        assert seen["NoNewPrivs"] == "1"
        assert seen["Seccomp"] == "2"
        assert seen["NSpid"].split()[-1] == "1"  # sees itself alone
    for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup"):
        spaces = {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for pid in (*pids, "self")}
        assert len(spaces) == 3, kind
    for pid in pids:
        devices = [line.split(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]]
        assert [name for name in devices if name not in ("lo", "tunl0", "sit0", "gre0", "ip6tnl0")] == []
        mounts = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
        assert all("ro" in fields[3].split(",") for fields in mounts)


@needs_root
async def test_each_has_its_own_uid(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    wanted = [node.shop.instance(name) for name in "abc"]
    for one in wanted:
        await runtime.start(one)
    uids = {status((await becomes(runtime, one.id, "running")).pid)["Uid"].split()[0] for one in wanted}
    assert len(uids) == 3
    assert "0" not in uids


async def test_secrets_are_in_no_argv_log_or_file_of_others(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    source = "export default { fetch(request, env) { return new Response(env.KEY); } };"
    secret = "correct-horse-battery"
    wanted = node.shop.instance("a", source, bindings=(SecretBinding(name="KEY", text=secret),))
    address = address_of(await runtime.start(wanted))
    assert await node.text(address) == secret
    for pid in detached.find_tagged(node.places.tag):
        for name in ("cmdline", "environ"):
            assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    holding = [path for root in (node.places.data, node.places.run) for path in root.rglob("*") if path.is_file()]
    holding = [path for path in holding if secret.encode() in path.read_bytes()]
    assert [path.parent for path in holding] == [node.places.instances]
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)


async def test_engine_internals_are_out_of_reach(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    source = """const names = ["workerd:unsafe", "cloudflare-internal:d1-api", "/workerd/kv.js", "node:child_process"];
export default { async fetch() {
  const found = [];
  for (const name of names) { try { const m = await import(name); if (m.spawn) m.spawn("ls"); found.push(name); } catch {} }
  try { eval("1"); found.push("eval"); } catch {}
  return Response.json(found);
} };"""
    address = address_of(await runtime.start(node.shop.instance("a", source, flags=("nodejs_compat",))))
    assert json.loads(await node.text(address)) == []


async def test_node_fs_sees_no_host_files(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    source = """import fs from 'node:fs';
export default { fetch() {
  const found = [];
  for (const path of ["/etc/passwd", "/proc/self/maps", "/proc/1/environ", "/workerd", "/egress", "/health", "/lib", "/sys"]) {
    try { fs.statSync(path); found.push(path); } catch {}
  }
  return Response.json([found, fs.readdirSync("/")]);
} };"""
    instance = node.shop.instance("a", source, flags=("nodejs_compat",), date="2026-01-01")
    found, root = json.loads(await node.text(address_of(await runtime.start(instance))))
    assert found == []
    assert set(root) <= {"bundle", "tmp", "dev"}


async def test_the_cache_api_is_there_and_finds_nothing(node: WorkerdNode, runtime: WorkerdRuntime) -> None:
    source = """export default { async fetch(request) {
  await caches.default.put(request.url, new Response("x", {headers: {"Cache-Control": "max-age=60"}}));
  const named = await caches.open("mine");
  return Response.json([await caches.default.match(request.url) ?? null, await named.match(request.url) ?? null,
                        await caches.default.delete(request.url)]);
} };"""
    address = address_of(await runtime.start(node.shop.instance("a", source)))
    assert json.loads(await node.text(address)) == [None, None, False]


def test_the_machine_resolves_localhost() -> None:
    """Otherwise the tests above would pass for want of an address."""
    assert socket.gethostbyname("localhost").startswith("127.")
