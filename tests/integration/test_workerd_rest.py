"""Instances that nobody asks anything of, and those that do not answer: asleep, dead, replaced, ended."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from skerry.adapters import tools
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd import watch
from skerry.core.types.app import Limits
from skerry.testing.contracts.runtime import address_of, becomes, find
from skerry.testing.waiting import eventually
from skerry.testing.websockets import open_websocket, say
from skerry.testing.workerd_node import TEST_SETTINGS, WorkerdNode

pytestmark = [
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}"),
]
GROUPS = find_tree("skerry-probe")[0] is not None
needs_groups = pytest.mark.skipif(not GROUPS, reason="limits need root and control groups")
needs_zram = pytest.mark.skipif(
    os.geteuid() != 0 or not GROUPS or not Path("/sys/class/zram-control").is_dir(),
    reason="sleep needs root, control groups and zram",
)

FAST = msgspec.structs.replace(TEST_SETTINGS, look_every_ms=50, sleep_after_ms=150)
TALK = """let n = 0;
export default { fetch(request) {
  if (request.headers.get("Upgrade") === "websocket") {
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.addEventListener("message", event => server.send("echo " + event.data));
    return new Response(null, {status: 101, webSocket: client});
  }
  const path = new URL(request.url).pathname;
  if (path === "/spin") while (true) {}
  if (path === "/eat") { const held = []; while (true) held.push(new Uint8Array(1 << 20).fill(1)); }
  if (path === "/grow") { globalThis.held = new Uint8Array(100 << 20).fill(1); }
  return new Response(String(++n));
} };"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[WorkerdNode]:
    node = WorkerdNode(tmp_path, FAST)
    try:
        yield node
    finally:
        await node.clean_up()


@needs_zram
async def test_idle_falls_asleep_and_a_request_wakes_it(swap: None, node: WorkerdNode) -> None:
    runtime = await node.open()
    assert runtime.capabilities.sleep
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    assert await node.text(address_of(seen)) == "1"
    asleep = await becomes(runtime, wanted.id, "asleep")
    assert asleep.memory_bytes < 3_500_000
    assert await node.text(address_of(seen)) == "2"  # the same process, with what it held
    awake = await becomes(runtime, wanted.id, "running")
    assert awake.pid == asleep.pid


@needs_zram
async def test_a_sleeping_app_is_left_alone(swap: None, node: WorkerdNode) -> None:
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    await runtime.start(wanted)
    pid = (await becomes(runtime, wanted.id, "asleep")).pid
    before = switches(pid)
    await asyncio.sleep(0.5)  # ten looks
    assert switches(pid) == before


@needs_zram
async def test_a_websocket_survives_sleep(swap: None, node: WorkerdNode) -> None:
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    reader, writer = await open_websocket(address_of(seen))
    await becomes(runtime, wanted.id, "asleep")
    assert await say(reader, writer, b"hi") == b"echo hi"
    writer.close()


async def test_dropped_by_time_and_woken_by_a_held_request(node: WorkerdNode) -> None:
    node.settings = msgspec.structs.replace(FAST, drop_after_ms=300, enable_sleep=False)
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    dead = await becomes(runtime, wanted.id, "dead")
    assert (dead.pid, dead.address) == (None, seen.address)
    answers = await asyncio.gather(*(node.text(address_of(seen)) for _ in range(5)))
    assert sorted(answers) == ["1", "2", "3", "4", "5"]  # a fresh process, once
    await becomes(runtime, wanted.id, "dead")
    await eventually(lambda: not detached.find_tagged(node.places.tag) or find(runtime, wanted.id) is not None)


async def test_dead_ones_stay_dead_over_agents(node: WorkerdNode) -> None:
    node.settings = msgspec.structs.replace(FAST, drop_after_ms=300, enable_sleep=False)
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    await runtime.start(wanted)
    dead = await becomes(runtime, wanted.id, "dead")
    await runtime.aclose(stop_instances=False)
    runtime = await node.open()
    seen = find(runtime, wanted.id)
    assert seen is not None
    assert (seen.state, seen.pid, seen.address) == ("dead", None, dead.address)
    assert await node.text(address_of(seen)) == "1"


async def test_open_connections_keep_a_process(node: WorkerdNode) -> None:
    node.settings = msgspec.structs.replace(FAST, drop_after_ms=200, enable_sleep=False)
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    reader, writer = await open_websocket(address_of(seen))
    await asyncio.sleep(0.6)
    assert await say(reader, writer, b"hi") == b"echo hi"
    writer.close()
    await becomes(runtime, wanted.id, "dead")


async def test_dropped_when_memory_is_short(node: WorkerdNode) -> None:
    node.settings = msgspec.structs.replace(FAST, drop_below_available_bytes=1 << 60, enable_sleep=False)
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    await runtime.start(wanted)
    assert "memory" in (await becomes(runtime, wanted.id, "dead")).detail


async def test_a_bloated_idle_process_is_replaced_without_a_gap(node: WorkerdNode) -> None:
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    before = await becomes(runtime, wanted.id, "running")
    assert await node.text(address_of(seen), "/grow") == "1"
    assert watch.private_bytes(before.pid or 0) > FAST.bloat_bytes
    await eventually(lambda: (find(runtime, wanted.id) or before).pid != before.pid)
    after = await becomes(runtime, wanted.id, "running", "asleep")
    assert (after.restarts, after.address) == (0, before.address)
    await eventually(lambda: not Path(f"/proc/{before.pid}").exists())
    assert await node.text(address_of(seen)) == "1"


async def test_an_event_loop_that_hangs_is_ended(node: WorkerdNode) -> None:
    node.settings = msgspec.structs.replace(FAST, hang_ms_max=300)
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    before = await becomes(runtime, wanted.id, "running")
    with pytest.raises(ConnectionResetError):
        await node.exchange(address_of(seen), "/spin", method="POST")
    again = await becomes(runtime, wanted.id, "starting", "backoff")
    assert again.detail == "Worker exceeded CPU time limit."
    assert (await becomes(runtime, wanted.id, "running")).pid != before.pid
    assert await node.text(address_of(seen)) == "1"


async def test_one_that_hangs_with_little_cpu_is_ended_when_somebody_waits(
    node: WorkerdNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is low, or it yields to its neighbours: it never looks busy."""
    node.settings = msgspec.structs.replace(FAST, look_every_ms=400, hang_ms_max=300)
    runtime = await node.open()
    monkeypatch.setattr(watch, "BUSY_SHARE", float("inf"))
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    before = await becomes(runtime, wanted.id, "running")
    hangs = asyncio.create_task(node.exchange(address_of(seen), "/spin", method="POST"))
    await eventually(lambda: watch.cpu_ns(before.pid or 0) > 50_000_000)
    assert await node.text(address_of(seen)) == "1"
    assert (await becomes(runtime, wanted.id, "running", "asleep")).pid != before.pid
    with pytest.raises(ConnectionResetError):
        await hangs


async def test_a_stopped_process_is_ended_when_somebody_waits(node: WorkerdNode) -> None:
    node.settings = msgspec.structs.replace(FAST, hang_ms_max=200, enable_sleep=False)
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK)
    seen = await runtime.start(wanted)
    running = await becomes(runtime, wanted.id, "running")
    os.kill(running.pid or 0, signal.SIGSTOP)
    assert await node.text(address_of(seen)) == "1"


@needs_groups
async def test_a_memory_bomb_ends_its_own_process_alone(node: WorkerdNode) -> None:
    runtime = await node.open()
    bomb = node.shop.instance("bomb", TALK, limits=Limits(memory_mib_max=96))
    neighbour = node.shop.instance("neighbour", TALK)
    addresses = [address_of(await runtime.start(instance)) for instance in (bomb, neighbour)]
    pid = (await becomes(runtime, neighbour.id, "running", "asleep")).pid
    with pytest.raises(ConnectionResetError):
        await node.exchange(addresses[0], "/eat", method="POST")
    assert (await becomes(runtime, bomb.id, "starting", "backoff")).detail == "Worker exceeded memory limit."
    assert await node.text(addresses[1]) == "1"
    assert (await becomes(runtime, neighbour.id, "running", "asleep")).pid == pid
    await becomes(runtime, bomb.id, "running", "asleep")
    assert await node.text(addresses[0]) == "1"


@needs_groups
async def test_cpu_is_limited(node: WorkerdNode) -> None:
    runtime = await node.open()
    wanted = node.shop.instance("a", TALK, limits=Limits(cpu_millicores_max=200))
    seen = await runtime.start(wanted)
    await becomes(runtime, wanted.id, "running")
    spinning = asyncio.ensure_future(node.exchange(address_of(seen), "/spin", method="POST"))
    tree, _ = find_tree(f"skerry-{node.places.tag}")
    assert tree is not None
    group = next(name for name in tree.names() if name.startswith(wanted.id))
    began, used = asyncio.get_running_loop().time(), tree.open(group).usage().cpu_us
    await asyncio.sleep(1)
    share = (tree.open(group).usage().cpu_us - used) / 1e6 / (asyncio.get_running_loop().time() - began)
    assert share < 0.3
    await runtime.stop(wanted.id, grace_ms=0)
    with pytest.raises(ConnectionResetError):
        await spinning


async def test_logs_are_bounded(node: WorkerdNode) -> None:
    node.settings = msgspec.structs.replace(FAST, log_bytes_max=64 << 10)
    runtime = await node.open()
    noisy = (
        "export default { fetch() { for (let i = 0; i < 20000; i++) console.log('x'.repeat(100)); return new Response('ok'); } };"
    )
    wanted = node.shop.instance("a", noisy)
    seen = await runtime.start(wanted)
    for _ in range(3):
        assert await node.text(address_of(seen)) == "ok"
    await eventually(lambda: sum(path.stat().st_size for path in node.places.logs.glob(f"{wanted.id}*")) <= 3 * (64 << 10))
    assert await node.text(address_of(seen)) == "ok"


def switches(pid: int | None) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if "ctxt_switches" in line]
