"""What all of a simulated world stands on: time, engines, faults, and a record of what happened."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

from skerry.adapters.blobs.simulated import SimulatedBlobs
from skerry.adapters.clock.simulated import LoopClock
from skerry.adapters.ingress.simulated import SimulatedIngress
from skerry.adapters.runtime.simulated import Faults
from skerry.adapters.store.simulated import Engine
from skerry.adapters.store.simulated import Faults as StoreFaults
from skerry.core.types.app import Version
from skerry.core.types.ids import Digest, NodeId, SiteId
from skerry.core.types.resources import Resources
from skerry.services.control.rollouts import Counts
from skerry.testing.dialect import seeded
from skerry.testing.machine.machine import Behaviours
from skerry.testing.world.host import HostMachine
from skerry.testing.world.promises import PLANE, Violation

VIOLATIONS_MAX = 20  # the first ones say what is wrong


class Trace:
    """What happened, in order: the same seed gives the same digest. The last `keep` lines stay readable."""

    def __init__(self, *, keep: int = 0) -> None:
        self._hasher = hashlib.sha256()
        self._keep = keep
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self._hasher.update(line.encode() + b"\n")
        if self._keep:
            self.lines.append(line)
            del self.lines[: -self._keep]

    def digest(self) -> str:
        return self._hasher.hexdigest()


class Host(Protocol):
    """A machine and the agent on it, as the network and the checks see them."""

    machine: HostMachine
    powered: bool
    booted_ms: int
    started_ms: int

    @property
    def id(self) -> NodeId: ...

    @property
    def site(self) -> SiteId: ...

    @property
    def capacity(self) -> Resources: ...

    @property
    def alive(self) -> bool:
        """Whether its agent runs."""
        ...

    async def request(self, address: str) -> int:
        """The status of an instance's answer. Raises `ConnectionRefusedError`."""
        ...


class Ground:
    """`plan`: nodes per site. `violations` are promises that were broken."""

    def __init__(self, plan: Mapping[str, int], *, seed: int, trace_lines: int) -> None:
        self.plan = dict(plan)
        self.clock = LoopClock()
        self.random_bytes = seeded(seed)
        self.engine = Engine()
        self.store_faults = StoreFaults()
        self.blobs = SimulatedBlobs()
        self.faults = Faults()
        self.behaviours: Behaviours = {}
        self.trace = Trace(keep=trace_lines)
        self.violations: list[Violation] = []
        self.lost_sites: set[str] = set()
        self.counts: Counts | None = None
        self.hosts: dict[str, Host] = {}
        self.ingresses: dict[str, SimulatedIngress] = {}

    def note(self, line: str) -> None:
        self.trace.add(f"{self.clock.monotonic_ms():>8} {line}")

    def violate(self, promise: int, what: str) -> None:
        self.note(f"VIOLATION of {promise}: {what}")
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(at_ms=self.clock.monotonic_ms(), promise=promise, what=what))

    def fault_of(self, plane: str) -> Callable[[Exception], None]:
        """Hears when a plane answers a call as none should."""
        return lambda error: self.violate(PLANE, f"{plane} answered with a fault: {error!r}")


def main_digest(version: Version) -> Digest | None:
    """What a version's code is told by: its main module, or its image."""
    if version.program is not None:
        return version.program.image.manifest
    return version.worker.modules[0].digest if version.worker is not None else None
