"""Agents that are killed between any two steps: instances go on, and in the end nothing is left behind."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd import process as processes
from skerry.core.types.app import AssetsBinding
from skerry.core.types.slices import NodeInstance
from skerry.kit.record import encode
from skerry.testing.contracts.runtime import address_of, becomes, find
from skerry.testing.waiting import eventually
from skerry.testing.workerd_node import WorkerdNode

pytestmark = [
    pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}"),
    pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}"),
]

PROGRAM = Path(__file__).parent / "programs/worker_agent.py"
CYCLES = 30
LIFE_MS_MAX = 500  # of one agent after it began: in its attach, in a start, in a stop


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[WorkerdNode]:
    node = WorkerdNode(tmp_path)
    try:
        yield node
    finally:
        await node.clean_up()


def instances(node: WorkerdNode) -> tuple[NodeInstance, ...]:
    site = node.shop.assets({"/index.html": "home"})
    return (
        node.shop.instance("plain"),
        node.shop.instance("second"),
        node.shop.instance("behind", assets=site, bindings=(AssetsBinding(name="ASSETS"),)),
        node.shop.instance("static", None, assets=site),
        node.broken("broken"),
    )


class Agents:
    """Runs agents on one node, one after the other, each until it is killed."""

    def __init__(self, node: WorkerdNode, root: Path) -> None:
        self.last: asyncio.subprocess.Process | None = None
        self._node = node
        self._wanted = root / "instances.json"
        self._blobs = root / "blobs"
        self._blobs.mkdir()
        self._wanted.write_bytes(encode(instances(node)))
        for digest, data in node.shop.blobs.items():
            (self._blobs / digest).write_bytes(data)

    async def begin(self, seed: int) -> asyncio.subprocess.Process:
        places = self._node.places
        command = [sys.executable, str(PROGRAM), *map(str, (places.data, places.run, self._blobs, self._wanted, seed))]
        agent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=os.environ)
        self.last = agent
        assert agent.stdout is not None
        assert await agent.stdout.readline() == b"begin\n"
        return agent


@pytest.fixture
async def agents(node: WorkerdNode, tmp_path: Path) -> AsyncIterator[Agents]:
    agents = Agents(node, tmp_path)
    yield agents
    if agents.last is not None and agents.last.returncode is None:
        await kill(agents.last)  # otherwise it would start instances as fast as the clean-up ends them


async def kill(agent: asyncio.subprocess.Process) -> None:
    agent.send_signal(signal.SIGKILL)
    assert await agent.wait() == -signal.SIGKILL


async def test_instances_outlive_a_killed_agent(node: WorkerdNode, agents: Agents) -> None:
    wanted = node.good("a")
    runtime = await node.open()
    await runtime.start(wanted)
    before = await becomes(runtime, wanted.id, "running")
    await runtime.aclose(stop_instances=False)
    agent = await agents.begin(seed=1)
    assert agent.stdout is not None
    assert await agent.stdout.readline() == b"attached\n"
    await kill(agent)
    assert await node.request(address_of(before)) == 200
    runtime = await node.open()
    assert (await becomes(runtime, wanted.id, "running")).pid == before.pid


@pytest.mark.timeout(300)
async def test_nothing_is_left_by_agents_killed_anywhere(node: WorkerdNode, agents: Agents) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for cycle in range(CYCLES):
        agent = await agents.begin(seed + cycle)
        await asyncio.sleep(rng.random() * LIFE_MS_MAX / 1000)
        await kill(agent)
    runtime = await node.open()
    for wanted in instances(node):
        await runtime.start(wanted)
    for wanted in instances(node):
        seen = await becomes(runtime, wanted.id, "running", "failed")
        expected = 503 if wanted.version.app == "broken" else 200
        assert await node.request(address_of(seen)) == expected, wanted.version.app
    assert processes_of(node) == {seen.pid for seen in runtime.observe() if seen.pid}
    for wanted in instances(node):
        await runtime.stop(wanted.id, grace_ms=100)
    await eventually(lambda: processes_of(node) == set())
    assert await node.leftovers() == []
    await runtime.aclose(stop_instances=True)
    assert detached.find_tagged(node.places.tag) == ()
    assert not node.places.run.exists()


def processes_of(node: WorkerdNode) -> set[int]:
    """Pids of workerd of instances, found without the runtime: all that have this node's tag and serve no platform."""
    platform: set[int] = set()
    for name in detached.names(node.places.processes):
        record = detached.attach(name, records=node.places.processes)
        if record is not None:
            if name.startswith(("egress.", "assets.")):
                platform |= {record.pid, *processes.children(record.pid)}
            else:
                platform.add(record.pid)  # bubblewrap itself
            record.close()
    return set(detached.find_tagged(node.places.tag)) - platform


async def test_a_process_ended_from_outside_in_its_first_moments(node: WorkerdNode) -> None:
    """kill -9 of bubblewrap while it sets up must leave no sandbox behind."""
    runtime = await node.open()
    rng = random.Random(7)
    for _ in range(10):
        wanted = node.good("a")
        await runtime.start(wanted)
        await asyncio.sleep(rng.random() * 0.02)
        for name in detached.names(node.places.processes):
            if name.startswith(wanted.id):
                outer = detached.attach(name, records=node.places.processes)
                if outer is not None:
                    outer.signal(signal.SIGKILL)
                    outer.close()
        await runtime.stop(wanted.id, grace_ms=0)
        assert find(runtime, wanted.id) is None
        await eventually(lambda: processes_of(node) == set(), timeout_s=5)
    assert await node.leftovers() == []
