"""What a node keeps on disk of apps: all that it needs, and nothing of those that have gone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from skerry.adapters import tools
from skerry.core.types.app import AssetsBinding
from skerry.core.types.slices import NodeInstance
from skerry.testing.contracts.runtime import address_of, becomes, find
from skerry.testing.waiting import eventually
from skerry.testing.workerd_node import TEST_SETTINGS, WorkerdNode

pytestmark = [
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}"),
]
CODE = "export default { fetch(request, env) { return env.ASSETS.fetch(request); } };"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[WorkerdNode]:
    node = WorkerdNode(tmp_path, msgspec.structs.replace(TEST_SETTINGS, collect_after_ms=1))
    try:
        yield node
    finally:
        await node.clean_up()


def app(node: WorkerdNode, name: str) -> NodeInstance:
    """Each with files of its own beside one that all have."""
    files: dict[str, str | bytes] = {"/shared.txt": "shared", "/own.txt": f"only {name}"}
    files |= {f"/many/{number}.txt": f"{name} {number}" for number in range(150)}
    return node.shop.instance(name, f"{CODE} // {name}", assets=node.shop.assets(files), bindings=(AssetsBinding(name="ASSETS"),))


def files_with(node: WorkerdNode, text: str) -> list[Path]:
    places = (node.places.blobs, node.places.trees)
    return [path for place in places for path in place.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


async def test_nothing_stays_of_what_has_gone_and_everything_of_what_is_there(node: WorkerdNode) -> None:
    runtime = await node.open()
    kept, gone = app(node, "kept"), app(node, "gone")
    for instance in (kept, gone):
        await runtime.start(instance)
    for instance in (kept, gone):
        await becomes(runtime, instance.id, "running")
    await runtime.stop(gone.id, grace_ms=0)
    await eventually(lambda: not files_with(node, "gone"))
    assert files_with(node, "shared") and files_with(node, "only kept") and files_with(node, "// kept")
    seen = find(runtime, kept.id)
    assert seen is not None
    assert await node.text(address_of(seen), "/shared.txt") == "shared"
    assert await node.text(address_of(seen), "/own.txt") == "only kept"


async def test_what_begins_while_others_go_finds_its_files(node: WorkerdNode) -> None:
    runtime = await node.open()
    for number in range(6):
        old, new = app(node, f"old-{number}"), app(node, f"new-{number}")
        await runtime.start(old)
        await becomes(runtime, old.id, "running")
        await asyncio.gather(runtime.stop(old.id, grace_ms=0), runtime.start(new))
        await becomes(runtime, new.id, "running")
        seen = find(runtime, new.id)
        assert seen is not None
        assert await node.text(address_of(seen), "/own.txt") == f"only new-{number}"
    assert [item.restarts for item in runtime.observe()] == [0] * 6
    await eventually(lambda: not files_with(node, "old-"))
    assert len(files_with(node, "only new-")) == 12
