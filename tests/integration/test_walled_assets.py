"""A Worker in real gVisor behind its static assets, which the node's assets process serves."""

from collections.abc import AsyncIterator

import pytest

from skerry.adapters import tools
from skerry.core.types.app import AssetsBinding
from skerry.core.types.slices import NodeInstance
from skerry.testing.contracts.runtime import address_of, becomes, find
from skerry.testing.programs_node import missing
from skerry.testing.waiting import eventually
from skerry.testing.walled_node import WalledNode, walled

pytestmark = [
    pytest.mark.skipif(bool(missing("runsc")), reason=f"runsc: {missing('runsc')}"),
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.timeout(180),
]

SITE: dict[str, str | bytes] = {"/index.html": "<h1>home</h1>", "/about.html": "about us"}
CODE = """export default { fetch(request, env) {
  const url = new URL(request.url);
  return url.pathname === "/asset" ? env.ASSETS.fetch(new URL("/about", url)) : new Response("worker " + url.pathname);
} };"""


@pytest.fixture
async def node() -> AsyncIterator[WalledNode]:
    node = WalledNode()
    try:
        yield node
    finally:
        await node.clean_up()


def with_assets(node: WalledNode, name: str) -> NodeInstance:
    shop = node.workers.shop
    return walled(shop.instance(name, CODE, assets=shop.assets(SITE), bindings=(AssetsBinding(name="ASSETS"),)))


async def answers(node: WalledNode, address: str) -> list[str]:
    return [await node.workers.text(address, path) for path in ("/", "/about", "/api", "/asset")]


ANSWERS = ["<h1>home</h1>", "about us", "worker /api", "about us"]


async def test_files_come_first_and_the_worker_has_them_too(node: WalledNode) -> None:
    runtime = await node.open()
    wanted = with_assets(node, "a")
    await runtime.start(wanted)
    seen = await becomes(runtime, wanted.id, "running")
    assert await answers(node, address_of(seen)) == ANSWERS
    assert [one.id for one in runtime.observe()] == [wanted.id]


async def test_the_next_agent_goes_on_with_both_at_the_same_address(node: WalledNode) -> None:
    runtime = await node.open()
    wanted = with_assets(node, "a")
    await runtime.start(wanted)
    before = await becomes(runtime, wanted.id, "running")
    await node.kill_agent(runtime)
    assert await answers(node, address_of(before)) == ANSWERS
    runtime = await node.open()
    after = await becomes(runtime, wanted.id, "running")
    assert (after.address, after.pid) == (before.address, before.pid)
    assert await answers(node, address_of(after)) == ANSWERS


async def test_a_crashed_worker_is_waited_for_and_its_files_are_served_meanwhile(node: WalledNode) -> None:
    runtime = await node.open()
    wanted = with_assets(node, "a")
    await runtime.start(wanted)
    address = address_of(await becomes(runtime, wanted.id, "running"))
    await node.kill_process(runtime, wanted.id)
    assert await answers(node, address) == ANSWERS


async def test_nothing_is_left_of_it_and_its_neighbour_stays(node: WalledNode) -> None:
    runtime = await node.open()
    stays, goes = with_assets(node, "a"), with_assets(node, "b")
    for wanted in (stays, goes):
        await runtime.start(wanted)
    address = address_of(await becomes(runtime, stays.id, "running"))
    await becomes(runtime, goes.id, "running")
    await runtime.stop(goes.id, grace_ms=0)
    assert [one.id for one in runtime.observe()] == [stays.id]
    assert len(list(node.workers.places.outer.iterdir())) == len(list(node.workers.places.bindings.iterdir())) == 1
    assert await answers(node, address) == ANSWERS


async def test_files_whose_worker_nobody_knows_any_more_are_not_served_on(node: WalledNode) -> None:
    runtime = await node.open()
    wanted = with_assets(node, "a")
    await runtime.start(wanted)
    await becomes(runtime, wanted.id, "running")
    await node.kill_agent(runtime)
    for record in (node.programs.data / "records").iterdir():
        record.unlink()
    runtime = await node.open()
    assert runtime.observe() == ()
    assert not list(node.workers.places.outer.iterdir())
    assert not list(node.workers.places.bindings.iterdir())


async def test_files_that_cannot_be_had_keep_it_from_running_with_the_reason(node: WalledNode) -> None:
    runtime = await node.open()
    wanted = with_assets(node, "a")
    node.cut_off(True)
    await runtime.start(wanted)
    await eventually(lambda: "cannot be had" in find(runtime, wanted.id).detail, timeout_s=30)
    node.cut_off(False)
    seen = await becomes(runtime, wanted.id, "running")
    assert await answers(node, address_of(seen)) == ANSWERS
