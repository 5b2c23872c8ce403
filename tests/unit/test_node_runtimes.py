"""A node of several runtimes, what it offers by them, and what its agent tells of what cannot begin."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from skerry.adapters.clock.simulated import LoopClock
from skerry.adapters.link.simulated import SimulatedSiteLink, Wire
from skerry.adapters.runtime import simulated
from skerry.adapters.runtime.simulated import SimulatedRuntime
from skerry.core.types.ids import Digest
from skerry.core.types.slices import NodeInstance, NodeSlice
from skerry.ports.runtime import Unavailable, Unsupported
from skerry.ports.sandbox import ExecSpec
from skerry.services.node.agent import Agent
from skerry.services.node.composite import CompositeRuntime
from skerry.testing.builders import make_node, make_version
from skerry.testing.contracts.runtime import becomes
from skerry.testing.machine.agentry import Agentry, SimEngine
from skerry.testing.machine.machine import SimulatedMachine
from skerry.testing.machine.node import program_runtime
from skerry.testing.programs import program_instance
from skerry.testing.virtual_loop import run_virtual
from skerry.testing.world.planes import MemoryFile

WORKER = NodeInstance(id="0" * 16, version=make_version(1))  # pyright: ignore[reportArgumentType]
PROGRAM, STRICT = program_instance("app"), program_instance("strict", isolation="gvisor")


async def fetch(digest: Digest) -> bytes:
    return b""


def composite(machine: SimulatedMachine, *classes: str) -> CompositeRuntime:
    hold = Agentry(machine)
    engines = tuple(SimEngine(hold, name) for name in classes)  # pyright: ignore[reportArgumentType]
    return CompositeRuntime(
        SimulatedRuntime(simulated.SimulatedMachine(), LoopClock(), fetch=fetch), program_runtime(hold, engines=engines)
    )


async def agent_of(runtime: CompositeRuntime, *instances: NodeInstance) -> AsyncIterator[Agent]:
    """It runs until the generator is closed."""
    node = make_node("lhr-1", features=("ssd",))
    file = MemoryFile[NodeSlice](lambda before, after: None)
    agent = Agent(
        node, runtime, SimulatedSiteLink(Wire(LoopClock()), node.id, lambda: None), LoopClock(), file, epoch="e", kvm=True
    )
    await runtime.attach()
    file.save(NodeSlice(node=node.id, generation=1, instances=instances))
    task = asyncio.ensure_future(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await runtime.aclose(stop_instances=True)


def test_each_goes_to_its_own() -> None:
    async def story() -> None:
        runtime = composite(SimulatedMachine(), "container")
        async for agent in agent_of(runtime, WORKER, PROGRAM):
            for one in (WORKER, PROGRAM):
                await becomes(runtime, one.id, "running")
            with pytest.raises(Unsupported, match="not for a worker; programs in containers and microVMs can"):
                await runtime.exec(WORKER.id, ExecSpec(argv=("sh",)))
            assert await (await runtime.exec(PROGRAM.id, ExecSpec(argv=("true",)))).wait() == 0
            assert {seen.id for seen in agent.report().instances} == {WORKER.id, PROGRAM.id}
            break

    run_virtual(story())


def test_it_offers_what_its_engines_are() -> None:
    async def story() -> None:
        async for agent in agent_of(composite(SimulatedMachine(), "container", "microvm")):
            assert agent.report().node.features == ("amd64", "container", "kvm", "microvm", "ssd")
            break

    run_virtual(story())


def test_what_cannot_begin_is_told_with_its_reason_until_it_is_not_wanted_any_more() -> None:
    async def story() -> None:
        runtime = composite(SimulatedMachine(), "container")
        async for agent in agent_of(runtime, STRICT):
            await asyncio.sleep(10)
            (seen,) = agent.report().instances
            assert (seen.state, seen.detail) == ("backoff", "gvisor is not offered here; offered: container")
            assert seen.restarts >= 3
            agent.accept(NodeSlice(node=agent.report().node.id, generation=2))
            assert agent.report().instances == ()
            break

    run_virtual(story())


def test_where_programs_cannot_be_workers_go_on() -> None:
    async def story() -> None:
        machine = SimulatedMachine()
        hold = Agentry(machine)
        runtime = CompositeRuntime(
            SimulatedRuntime(simulated.SimulatedMachine(), LoopClock(), fetch=fetch), None, no_programs="programs need root"
        )
        await runtime.attach()
        await runtime.start(WORKER)
        await becomes(runtime, WORKER.id, "running")
        with pytest.raises(Unavailable, match="this node runs no programs: programs need root"):
            await runtime.start(PROGRAM)
        assert ("programs", "programs need root") in runtime.capabilities.missing
        assert runtime.capabilities.classes == ()
        hold.kill()
        await runtime.aclose(stop_instances=True)

    run_virtual(story())
