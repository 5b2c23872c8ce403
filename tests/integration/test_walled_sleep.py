"""A Worker in real gVisor that nobody asks sleeps in compressed memory, undisturbed, and wakes by a request."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from skerry.adapters import tools
from skerry.testing.contracts.runtime import address_of, becomes
from skerry.testing.programs_node import missing
from skerry.testing.walled_node import WalledNode, walled
from skerry.testing.workerd_node import TEST_SETTINGS

pytestmark = [
    pytest.mark.skipif(bool(missing("runsc")), reason=f"runsc: {missing('runsc')}"),
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not Path("/sys/class/zram-control").is_dir(), reason="sleep needs zram"),
    pytest.mark.timeout(180),
]

COUNTER = """let n = 0; const held = new Uint8Array(8 << 20).fill(7);
export default { fetch() { return new Response(`${++n} ${held[5 << 20]}`); } };"""


@pytest.fixture
async def node(swap: None) -> AsyncIterator[WalledNode]:
    node = WalledNode(replace(TEST_SETTINGS, sleep_after_ms=1_000))
    try:
        yield node
    finally:
        await node.clean_up()


async def test_it_falls_asleep_and_a_request_finds_all_that_it_held(node: WalledNode) -> None:
    runtime = await node.open()
    wanted = walled(node.workers.shop.instance("a", COUNTER))
    seen = await runtime.start(wanted)
    seen = await becomes(runtime, wanted.id, "running")
    assert await node.workers.text(address_of(seen)) == "1 7"
    awake = runtime.stats(wanted.id).memory_bytes
    asleep = await becomes(runtime, wanted.id, "asleep")
    assert asleep.memory_bytes < awake // 2
    assert await node.workers.text(address_of(asleep)) == "2 7"
    assert (await becomes(runtime, wanted.id, "running")).pid == asleep.pid
    await becomes(runtime, wanted.id, "asleep")


async def test_it_ends_where_the_operator_wants_that_and_a_request_starts_it(swap: None) -> None:
    node = WalledNode(replace(TEST_SETTINGS, drop_after_ms=2_000))
    try:
        runtime = await node.open()
        wanted = walled(node.workers.shop.instance("a", COUNTER))
        await runtime.start(wanted)
        dead = await becomes(runtime, wanted.id, "dead")
        assert await node.workers.text(address_of(dead)) == "1 7"
    finally:
        await node.clean_up()
