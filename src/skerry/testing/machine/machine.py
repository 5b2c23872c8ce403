"""What there is on the machine, and what its programs do by script."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from skerry.core.types.ids import Digest
from skerry.ports.network import InstanceNetwork, NetworkWant
from skerry.ports.sandbox import Exit, SandboxLimits, SandboxSpec, SandboxStats

FIRST_PID, FIRST_PORT = 5000, 30_000


@dataclass
class Behaviour:
    """What programs of one image do. `opens_ms`: from start to open port; None: never. `exits`: after how long, and how.

    `start_error`: the engine's word why it cannot start. `bad_image`: why the image never runs; `image_away`: why it is not to
    be had for now. `status`: of answers to requests and HTTP checks.
    """

    opens_ms: int | None = 20
    exits: tuple[int, Exit] | None = None
    start_error: str = ""
    bad_image: str = ""
    image_away: str = ""
    stop_ms: int = 1  # from its stop signal to its end
    status: int = 200
    says: bytes = b""
    uses: SandboxStats = field(default_factory=lambda: SandboxStats(memory_bytes=8 << 20, private_bytes=8 << 20, pids=1))


Behaviours = dict[Digest, Behaviour]
"""By the digest of an image's manifest."""


@dataclass
class Box:
    """One sandbox."""

    spec: SandboxSpec
    image: Digest
    pid: int
    behaviour: Behaviour
    started_s: float
    limits: SandboxLimits
    state: dict[str, bytes] = field(default_factory=dict[str, bytes])  # its files
    paused: bool = False
    ended: Exit | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def open(self) -> bool:
        opens_ms = self.behaviour.opens_ms
        now_s = asyncio.get_running_loop().time()
        return self.ended is None and opens_ms is not None and now_s - self.started_s >= opens_ms / 1000

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def end(self, how: Exit) -> None:
        if self.ended is None:
            self.ended = how
            self.tell()


@dataclass
class Namespace:
    """One instance's network. `mode`: what becomes of connections; None: nothing is published."""

    want: NetworkWant
    network: InstanceNetwork
    port: int = 0
    address: str | None = None
    mode: str | None = None
    reason: str = ""
    waiting: int = 0
    connections: int = 0
    accepted: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, mode: str, reason: str = "") -> None:
        self.mode, self.reason = mode, reason
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class SimulatedMachine:
    address: str = "127.0.0.1"
    behaviours: Behaviours = field(default_factory=dict[Digest, Behaviour])
    usual: Behaviour = field(default_factory=Behaviour)
    boxes: dict[str, Box] = field(default_factory=dict[str, Box])
    mounts: dict[str, Digest] = field(default_factory=dict[str, Digest])
    images: set[Digest] = field(default_factory=set[Digest])
    namespaces: dict[str, Namespace] = field(default_factory=dict[str, Namespace])
    logs: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    snapshots: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    records: dict[tuple[str, str], bytes] = field(default_factory=dict[tuple[str, str], bytes])
    fetches: int = 0
    no_network: str = ""  # the network's word why it cannot now
    busy_mounts: int = 0  # so many times an unmount fails
    ring: asyncio.Event = field(default_factory=asyncio.Event)
    pids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(FIRST_PID))
    ports: "itertools.count[int]" = field(default_factory=lambda: itertools.count(FIRST_PORT))
    violations: list[str] = field(default_factory=list[str])
    points: int = 0
    on_point: Callable[[str, int], bool] = lambda name, number: False

    def must(self, holds: bool, otherwise: str) -> None:
        """An order of steps that no machine would forgive. Kept too, since a runtime takes every error for a reason."""
        if not holds:
            self.violations.append(otherwise)
            raise AssertionError(otherwise)

    def behaviour(self, image: Digest) -> Behaviour:
        return self.behaviours.get(image, self.usual)

    def begin(self, spec: SandboxSpec, image: Digest, state: dict[str, bytes]) -> Box:
        behaviour = self.behaviour(image)
        loop = asyncio.get_running_loop()
        box = Box(spec, image, next(self.pids), behaviour, loop.time(), spec.limits, dict(state))
        self.boxes[spec.id] = box
        self.log(spec.id, behaviour.says)
        if behaviour.exits is not None:
            after_ms, how = behaviour.exits
            loop.call_later(after_ms / 1000, box.end, how)
        if behaviour.opens_ms is not None:
            loop.call_later(behaviour.opens_ms / 1000, box.tell)
        return box

    def log(self, instance_id: str, data: bytes) -> None:
        self.logs.setdefault(instance_id, bytearray()).extend(data)

    def crash(self, instance_id: str, how: Exit | None = None) -> None:
        """Its process ends; nobody is told but by looking."""
        self.boxes[instance_id].end(how or Exit(code=137))

    def power_off(self) -> None:
        """Only what is on disk stays."""
        for box in self.boxes.values():
            box.end(Exit(code=None))
        self.boxes.clear()
        self.mounts.clear()
        for namespace in self.namespaces.values():
            namespace.set("gone")
        self.namespaces.clear()

    async def request(self, address: str) -> int:
        """A client at an instance's address. Raises `ConnectionRefusedError` when nobody listens there."""
        while True:
            namespace = next((one for one in self.namespaces.values() if one.address == address), None)
            if namespace is None:
                raise ConnectionRefusedError(address)
            if namespace.mode == "refuse":
                return 503
            box = self.boxes.get(namespace.want.instance)
            if namespace.mode == "open":
                if box is None or not box.open:
                    raise ConnectionRefusedError(f"{address}: nothing listens inside")
                if not box.paused:
                    namespace.accepted += 1
                    return box.behaviour.status
                await box.changed.wait()
                continue
            await self._wait(namespace)

    async def _wait(self, namespace: Namespace) -> None:
        namespace.waiting += 1
        self.ring.set()
        try:
            await namespace.changed.wait()
        finally:
            namespace.waiting -= 1

    def left(self) -> list[str]:
        """All that is there of instances."""
        return [
            *(f"sandbox {name}" for name in self.boxes),
            *(f"mount {name}" for name in self.mounts),
            *(f"namespace {name}" for name in self.namespaces),
            *(f"log {name}" for name in self.logs),
            *(f"record {name}" for kind, name in self.records if kind == "instances"),
            *(f"snapshot {name}" for name in self.snapshots),
        ]


def limited(box: Box, limits: SandboxLimits) -> None:
    box.limits = limits
    box.spec = replace(box.spec, limits=limits)
