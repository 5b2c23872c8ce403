"""The runtime's contract on every adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.runtime.simulated import Faults, SimulatedMachine, SimulatedRuntime
from skerry.core.machines.instance import Backoff
from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import Runtime
from skerry.testing.contracts.runtime import RuntimeContract
from skerry.testing.workerd_node import WorkerdNode
from skerry.testing.workers import WorkerShop


class SimulatedHarness:
    def __init__(self) -> None:
        self._shop = WorkerShop()
        self._sim = SimulatedMachine(faults=Faults(start_ms_default=5))

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
