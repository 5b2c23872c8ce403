"""A network without a kernel: policies are decided, connections are futures.

The wires (`SimulatedWires`) outlive the network, as namespaces and rules outlive an agent: a second `SimulatedNetwork` on them
attaches to what the first one made. Programs are there by script: `programs` says at which ports of an instance one answers.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from skerry.core.policy.reach import permits, reach_of, within
from skerry.core.types.program import NetworkPolicy
from skerry.core.types.program import Protocol as TrafficProtocol
from skerry.kit.record import Record
from skerry.ports.network import InstanceNetwork, NetworkError, NetworkUnavailable, NetworkWant, Traffic
from skerry.ports.sandbox import GuestNetwork

FIRST_PORT = 20_000
KNOCK_AGAIN_S = 0.05  # at a program that is not there any more


class Published(Record):
    address: str
    port: int
    protocol: TrafficProtocol


@dataclass
class Wire:
    """The network of one instance. `gate` is what the kernel does: `open`, or it is the agent's."""

    want: NetworkWant
    index: int
    published: Published | None = None
    is_open: bool = False
    programs: dict[int, str] = field(default_factory=dict[int, str])  # port → what it answers
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def address(self) -> str:
        return f"100.64.{self.index // 64}.{self.index % 64 * 4 + 2}"


@dataclass
class SimulatedWires:
    """What stays when an agent is killed. `agent` is the one that holds the doors now, None while it is away."""

    address: str = "127.0.0.1"
    unavailable: str = ""  # a fault by script: the text that `attach` and `create` refuse with
    wires: dict[str, Wire] = field(default_factory=dict[str, Wire])
    agent: "SimulatedNetwork | None" = None
    indexes: "itertools.count[int]" = field(default_factory=itertools.count)
    ports: "itertools.count[int]" = field(default_factory=lambda: itertools.count(FIRST_PORT))

    async def request(self, address: str) -> tuple[int, str]:
        """As a client at a published address: (status, text). Waits; raises `ConnectionError` when nobody answers."""
        wire = next((one for one in self.wires.values() if one.published and one.published.address == address), None)
        if wire is None or (not wire.is_open and self.agent is None):
            raise ConnectionRefusedError(address)
        while wire.is_open and wire.published is not None and wire.published.port not in wire.programs:  # noqa: ASYNC110
            await asyncio.sleep(KNOCK_AGAIN_S)  # as a client does: there is no event of nobody
        if not wire.is_open:
            assert self.agent is not None
            refusal = await self.agent.wait_at(wire)
            if refusal is not None:
                return 503, refusal
        assert wire.published is not None
        answer = wire.programs.get(wire.published.port)
        if answer is None:
            raise ConnectionResetError(address)
        traffic = wire.traffic
        wire.traffic = replace(
            traffic, received_bytes=traffic.received_bytes + 100, sent_bytes=traffic.sent_bytes + 100 + len(answer)
        )
        return 200, answer

    def reaches(self, instance_id: str, host: str) -> bool:
        """Whether the instance may call that address; refusals are counted. The node's own addresses are private ones here."""
        wire = self.wires[instance_id]
        reach = reach_of(wire.want.policy)
        allowed = permits((), host) and (reach.networks is None or within(reach.networks, host))
        if not allowed:
            wire.traffic = replace(wire.traffic, refused_packets=wire.traffic.refused_packets + 1)
        return allowed


class SimulatedNetwork:
    """See the port for the contract."""

    def __init__(self, wires: SimulatedWires) -> None:
        self._wires = wires
        self._modes: dict[str, tuple[str, str]] = {}  # instance → (hold, open or refuse; the reason)
        self._changed: dict[str, asyncio.Event] = {}
        self._ringing: dict[str, None] = {}
        self._rang = asyncio.Event()

    async def attach(self, known: frozenset[str]) -> None:
        self._check()
        self._wires.agent = self
        for instance_id in tuple(self._wires.wires):
            if instance_id in known:
                self._set(instance_id, "open" if self._wires.wires[instance_id].is_open else "hold")
            else:
                await self.remove(instance_id)

    async def create(self, want: NetworkWant) -> InstanceNetwork:
        self._check()
        wire = self._wires.wires.get(want.instance)
        if wire is None:
            wire = self._wires.wires[want.instance] = Wire(want=want, index=next(self._wires.indexes))
        wire.want = want
        guest = GuestNetwork(device="eth0", mac="02:00:00:00:00:02", address=f"{wire.address}/30", gateway="100.64.0.1")
        place = f"/run/simulated/{want.instance}"
        return InstanceNetwork(
            netns=f"{place}/netns",
            address=wire.address,
            guest=guest,
            resolv_conf=f"{place}/resolv.conf",
            hosts=f"{place}/hosts",
        )

    async def publish(self, instance_id: str, *, port: int, protocol: TrafficProtocol, address: str | None = None) -> str:
        wire = self._known(instance_id)
        had = wire.published
        if had is not None and (had.port, had.protocol) == (port, protocol):
            return had.address
        taken = {one.published.address for one in self._wires.wires.values() if one.published is not None and one is not wire}
        given = address or (had.address if had is not None else None)
        if given is None or given in taken:
            given = f"{self._wires.address}:{next(self._wires.ports)}"
        wire.published = Published(address=given, port=port, protocol=protocol)
        wire.is_open = False
        self._set(instance_id, "hold")
        return given

    async def open(self, instance_id: str) -> None:
        self._at_address(instance_id).is_open = True
        self._set(instance_id, "open")

    async def hold(self, instance_id: str) -> None:
        self._at_address(instance_id).is_open = False
        self._set(instance_id, "hold")

    async def refuse(self, instance_id: str, reason: str) -> None:
        self._at_address(instance_id).is_open = False
        self._set(instance_id, "refuse", reason)

    async def rings(self) -> AsyncIterator[str]:
        while True:
            while self._ringing:
                instance_id = next(iter(self._ringing))
                del self._ringing[instance_id]
                yield instance_id
            self._rang.clear()
            await self._rang.wait()

    def traffic(self, instance_id: str) -> Traffic:
        wire = self._wires.wires.get(instance_id)
        return wire.traffic if wire is not None else Traffic()

    async def change_policy(self, instance_id: str, policy: NetworkPolicy) -> None:
        wire = self._known(instance_id)
        wire.want = replace(wire.want, policy=policy)

    async def remove(self, instance_id: str) -> None:
        self._wires.wires.pop(instance_id, None)
        self._modes.pop(instance_id, None)
        self._ringing.pop(instance_id, None)
        self._tell(instance_id)

    async def aclose(self, *, remove_all: bool) -> None:
        if remove_all:
            for instance_id in tuple(self._wires.wires):
                await self.remove(instance_id)
        self.abandon()

    def abandon(self) -> None:
        """As kill -9 of the agent: who waits is cut off, what is open goes on."""
        if self._wires.agent is self:
            self._wires.agent = None
        self._modes.clear()
        for instance_id in tuple(self._changed):
            self._tell(instance_id)

    async def wait_at(self, wire: Wire) -> str | None:
        """A connection that came to the door: None when it is let in, else the reason of the refusal."""
        instance_id = wire.want.instance
        while True:
            mode, reason = self._modes.get(instance_id, ("gone", ""))
            if mode == "open":
                return None
            if mode == "refuse" and wire.published is not None and wire.published.protocol == "http":
                return reason
            if mode != "hold":
                raise ConnectionResetError(instance_id)
            self._ringing[instance_id] = None
            self._rang.set()
            await self._changed.setdefault(instance_id, asyncio.Event()).wait()

    def _set(self, instance_id: str, mode: str, reason: str = "") -> None:
        self._modes[instance_id] = (mode, reason)
        if mode != "hold":
            self._ringing.pop(instance_id, None)
        self._tell(instance_id)

    def _tell(self, instance_id: str) -> None:
        event = self._changed.pop(instance_id, None)
        if event is not None:
            event.set()

    def _check(self) -> None:
        if self._wires.unavailable:
            raise NetworkUnavailable(self._wires.unavailable)

    def _known(self, instance_id: str) -> Wire:
        wire = self._wires.wires.get(instance_id)
        if wire is None:
            raise NetworkError(f"instance {instance_id} has no network: create it first")
        return wire

    def _at_address(self, instance_id: str) -> Wire:
        wire = self._known(instance_id)
        if wire.published is None:
            raise NetworkError(f"instance {instance_id} has no address: publish it first")
        return wire
