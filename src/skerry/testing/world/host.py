"""The machine of a simulated node: its workers' half and its programs' half, seen as one."""

from collections.abc import Mapping
from typing import Protocol, final

from skerry.adapters.runtime import simulated
from skerry.adapters.runtime.simulated import Faults
from skerry.core.machines.instance import Life
from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import NodeInstance
from skerry.kit.record import decode
from skerry.services.node.programs.records import Kept
from skerry.testing.machine.machine import Behaviours, Box, SimulatedMachine


class Cell(Protocol):
    """One instance, as the machine and the disk have it. `process` tells one process of it from the next."""

    @property
    def instance(self) -> NodeInstance: ...

    @property
    def life(self) -> Life: ...

    @property
    def address(self) -> str | None: ...

    @property
    def pid(self) -> int | None: ...

    @property
    def process(self) -> int: ...


@final
class ProgramCell:
    def __init__(self, kept: Kept, machine: SimulatedMachine) -> None:
        self.instance = kept.instance
        self.life = kept.life
        self.address = kept.address
        self._machine = machine

    @property
    def pid(self) -> int | None:
        box = self._box()
        return box.pid if box is not None and box.ended is None else None

    @property
    def process(self) -> int:
        box = self._box()
        return box.pid if box is not None else 0

    def _box(self) -> Box | None:
        return self._machine.boxes.get(self.instance.id)


@final
class HostMachine:
    def __init__(self, address: str, faults: Faults, behaviours: Behaviours) -> None:
        self.faults = faults
        self.workers = simulated.SimulatedMachine(address=address, faults=faults)
        self.programs = SimulatedMachine(address=address, behaviours=behaviours)
        self._decoded: dict[str, tuple[bytes, ProgramCell]] = {}

    @property
    def cells(self) -> Mapping[InstanceId, Cell]:
        found: dict[InstanceId, Cell] = dict(self.workers.cells)
        for (kind, name), data in self.programs.records.items():
            if kind == "instances":
                found[InstanceId(name)] = self._cell(name, data)
        return found

    def crash(self, instance_id: InstanceId) -> None:
        """Its process ends now; nobody is told but by looking."""
        if instance_id in self.workers.cells:
            self.workers.crash(instance_id)
        else:
            self.programs.crash(instance_id)

    def power_off(self) -> None:
        self.workers.power_off()
        self.programs.power_off()

    async def request(self, address: str) -> int:
        """To a program, whether the agent lives or not: the kernel carries what is open."""
        return await self.programs.request(address)

    def has_program(self, instance_id: InstanceId) -> bool:
        return ("instances", instance_id) in self.programs.records

    def is_open(self, instance_id: InstanceId) -> bool:
        namespace = self.programs.namespaces.get(instance_id)
        return namespace is not None and namespace.mode == "open"

    def _cell(self, name: str, data: bytes) -> ProgramCell:
        held = self._decoded.get(name)
        if held is None or held[0] is not data:
            held = self._decoded[name] = (data, ProgramCell(decode(data, Kept), self.programs))
        return held[1]
