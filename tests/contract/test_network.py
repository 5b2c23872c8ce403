"""The network's contract on every adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.network.linux.probe import probe
from skerry.adapters.network.simulated import SimulatedNetwork, SimulatedWires
from skerry.ports.network import InstanceNetwork, Network
from skerry.testing.contracts.network import PORT, NetworkContract
from skerry.testing.network_node import NetworkNode


class SimulatedHarness:
    public, other_public, private, node = "8.8.8.8", "9.9.9.9", "10.9.9.9", "127.0.0.1"

    def __init__(self) -> None:
        self._wires = SimulatedWires()

    async def open(self, *known: str) -> Network:
        network = SimulatedNetwork(self._wires)
        await network.attach(frozenset(known))
        return network

    async def kill_agent(self, network: Network) -> None:
        assert isinstance(network, SimulatedNetwork)
        network.abandon()

    async def serve(self, made: InstanceNetwork, answer: str) -> None:
        wire = next(wire for wire in self._wires.wires.values() if wire.address == made.address)
        wire.programs[PORT] = answer

    async def request(self, address: str) -> tuple[int, str]:
        return await self._wires.request(address)

    async def reaches(self, made: InstanceNetwork, host: str) -> bool:
        instance = next(name for name, wire in self._wires.wires.items() if wire.address == made.address)
        return self._wires.reaches(instance, host)

    async def leftovers(self) -> list[str]:
        return list(self._wires.wires)


class TestSimulatedNetwork(NetworkContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[SimulatedHarness]:
        yield SimulatedHarness()


@pytest.mark.skipif(not probe().usable, reason=f"network: {probe().rules}")
class TestLinuxNetwork(NetworkContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[NetworkNode]:
        node = NetworkNode(tmp_path)
        try:
            yield node
        finally:
            await node.clean_up()
