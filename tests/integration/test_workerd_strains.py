"""Each abuse of a Worker is told by the limit that it comes to; a calm neighbour is told nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from skerry.adapters import tools
from skerry.adapters.cgroup.probe import find_tree
from skerry.core.machines.strains import StrainSettings
from skerry.core.types.app import Limits
from skerry.core.types.strain import Limit
from skerry.testing.contracts.runtime import address_of, becomes, find
from skerry.testing.waiting import eventually
from skerry.testing.workerd_node import TEST_SETTINGS, WorkerdNode

pytestmark = [
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}"),
    pytest.mark.skipif(find_tree("skerry-probe")[0] is None, reason="limits need root and control groups"),
]

SETTINGS = msgspec.structs.replace(
    TEST_SETTINGS, look_every_ms=100, log_bytes_max=64 << 10, strains=StrainSettings(told_ms=2_000, cpu_window_ms=1_000)
)
WORKER = """export default { fetch(request) {
  const path = new URL(request.url).pathname;
  if (path === "/cpu") { let n = 0; while (n < 4e9) n++; }
  if (path === "/memory") { const held = []; while (true) held.push(new Uint8Array(1 << 20).fill(1)); }
  if (path === "/log") { for (let n = 0; n < 4000; n++) console.log("x".repeat(1000)); }
  return new Response("ok");
} };"""
ABUSES: tuple[Limit, ...] = ("cpu", "memory", "log")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[WorkerdNode]:
    node = WorkerdNode(tmp_path, SETTINGS)
    try:
        yield node
    finally:
        await node.clean_up()


@pytest.mark.parametrize("abuse", ABUSES)
async def test_it_is_told_and_after_a_while_forgotten(node: WorkerdNode, abuse: Limit) -> None:
    runtime = await node.open()
    wanted, calm = node.shop.instance("a", WORKER), node.shop.instance("b", WORKER)
    limits = Limits(memory_mib_max=64, cpu_millicores_max=100 if abuse == "cpu" else 1000)
    wanted = msgspec.structs.replace(wanted, version=msgspec.structs.replace(wanted.version, limits=limits))

    def told(instance_id: str) -> list[str]:
        seen = find(runtime, instance_id)
        return [strain.limit for strain in seen.strains] if seen is not None else []

    for one in (wanted, calm):
        await runtime.start(one)
        await becomes(runtime, one.id, "running")
    asked = asyncio.create_task(node.text(address_of(await becomes(runtime, wanted.id, "running")), f"/{abuse}"))
    try:
        await eventually(lambda: abuse in told(wanted.id), timeout_s=60)
    finally:
        asked.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await asked
    assert told(calm.id) == []
    if abuse != "cpu":  # that one is still at it
        await eventually(lambda: told(wanted.id) == [], timeout_s=60)
