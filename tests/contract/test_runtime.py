"""The runtime's contract on every adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.runtime import simulated
from skerry.adapters.runtime.simulated import Faults, SimulatedRuntime
from skerry.core.machines.instance import Backoff
from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import Runtime
from skerry.ports.sandbox import SandboxStats
from skerry.services.node.composite import CompositeRuntime
from skerry.services.node.programs.settings import ProgramSettings
from skerry.testing.contracts.runtime import ProgramRuntimeContract, RuntimeContract
from skerry.testing.machine.agentry import Agentry
from skerry.testing.machine.machine import Behaviour, SimulatedMachine
from skerry.testing.machine.node import program_runtime
from skerry.testing.programs import program_instance
from skerry.testing.workerd_node import WorkerdNode
from skerry.testing.workers import WorkerShop


class SimulatedHarness:
    def __init__(self) -> None:
        self._shop = WorkerShop()
        self._sim = simulated.SimulatedMachine(faults=Faults(start_ms_default=5))

    async def open(self) -> Runtime:
        self._runtime = SimulatedRuntime(self._sim, SystemClock(), fetch=self._shop.fetch, backoff=Backoff(first_ms=50))
        await self._runtime.attach()
        return self._runtime

    async def kill_agent(self, runtime: Runtime) -> None:
        await runtime.aclose(stop_instances=False)

    def good(self, name: str) -> NodeInstance:
        return self._shop.instance(name)

    def broken(self, name: str) -> NodeInstance:
        instance = self._shop.instance(name)
        self._sim.faults.own_fault[instance.version.id] = "boom"
        return instance

    def cut_off(self, is_so: bool) -> None:
        self._shop.reachable = not is_so

    def fetches(self) -> int:
        return len(self._shop.fetched)

    async def request(self, address: str) -> int:
        return (await self._runtime.request(address)).status

    async def kill_process(self, runtime: Runtime, instance_id: InstanceId) -> None:
        self._sim.crash(instance_id)

    async def leftovers(self) -> list[str]:
        return [str(key) for key in self._sim.cells]


class TestSimulatedRuntime(RuntimeContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[SimulatedHarness]:
        yield SimulatedHarness()


class ProgramsHarness:
    """Programs on a simulated machine."""

    def __init__(self) -> None:
        self._machine = SimulatedMachine(usual=Behaviour(opens_ms=5, says=b"hello\n"))

    async def open(self) -> Runtime:
        self._hold = Agentry(self._machine)
        settings = ProgramSettings(backoff=Backoff(first_ms=50), look_every_ms=50)
        runtime = program_runtime(self._hold, clock=SystemClock(), settings=settings)
        await runtime.attach()
        return runtime

    async def kill_agent(self, runtime: Runtime) -> None:
        self._hold.kill()
        await runtime.aclose(stop_instances=False)

    def good(self, name: str) -> NodeInstance:
        return program_instance(name)

    def broken(self, name: str) -> NodeInstance:
        instance = program_instance(name)
        assert instance.version.program is not None
        self._machine.behaviours[instance.version.program.image.manifest] = Behaviour(start_error="boom")
        return instance

    def filling(self, name: str) -> NodeInstance:
        instance = program_instance(name)
        assert instance.version.program is not None
        full = SandboxStats(disk_bytes=256 << 20, disk_bytes_max=256 << 20)
        self._machine.behaviours[instance.version.program.image.manifest] = Behaviour(opens_ms=5, uses=full)
        return instance

    def cut_off(self, is_so: bool) -> None:
        self._machine.usual.image_away = "cut off" if is_so else ""

    def fetches(self) -> int:
        return self._machine.fetches

    async def request(self, address: str) -> int:
        return await self._machine.request(address)

    async def kill_process(self, runtime: Runtime, instance_id: InstanceId) -> None:
        self._machine.crash(instance_id)

    async def leftovers(self) -> list[str]:
        return self._machine.left()


class CompositeHarness(ProgramsHarness):
    """The same programs, on a node that has workers too."""

    def __init__(self) -> None:
        super().__init__()
        self._workers = simulated.SimulatedMachine()

    async def open(self) -> Runtime:
        self._hold = Agentry(self._machine)
        settings = ProgramSettings(backoff=Backoff(first_ms=50), look_every_ms=50)
        programs = program_runtime(self._hold, clock=SystemClock(), settings=settings)
        runtime = CompositeRuntime(SimulatedRuntime(self._workers, SystemClock(), fetch=WorkerShop().fetch), programs)
        await runtime.attach()
        return runtime


class TestCompositeRuntime(ProgramRuntimeContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[CompositeHarness]:
        yield CompositeHarness()


class TestProgramsOnASimulatedMachine(ProgramRuntimeContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[ProgramsHarness]:
        yield ProgramsHarness()


@pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}")
@pytest.mark.skipif(not tools.find_bwrap().usable, reason=f"bubblewrap: {tools.find_bwrap().problem}")
class TestWorkerdRuntime(RuntimeContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[WorkerdNode]:
        node = WorkerdNode(tmp_path)
        try:
            yield node
        finally:
            await node.clean_up()
