"""A program runtime on a simulated machine, put together."""

from skerry.adapters.clock.simulated import LoopClock
from skerry.core.types.ids import NodeId, SiteId
from skerry.ports.clock import Clock
from skerry.services.node.programs.records import Kept, SnapshotRecord
from skerry.services.node.programs.runtime import ProgramRuntime
from skerry.services.node.programs.settings import Ground, ProgramSettings
from skerry.testing.machine.agentry import (
    Agentry,
    Fetch,
    SimEngine,
    SimFiles,
    SimImages,
    SimNetwork,
    SimProber,
    SimRecords,
    SimRootFiles,
)


def program_runtime(
    hold: Agentry,
    *,
    node: str = "lhr-1",
    clock: Clock | None = None,
    settings: ProgramSettings | None = None,
    engines: tuple[SimEngine, ...] = (),
    fetch: Fetch | None = None,
) -> ProgramRuntime:
    """`engines`: one for each isolation class; by default one for containers."""
    ground = Ground(
        site=SiteId(node.rpartition("-")[0]),
        node=NodeId(node),
        engines={engine.facts.isolation: engine for engine in engines or (SimEngine(hold),)},
        images=SimImages(hold, fetch),
        network=SimNetwork(hold),
        prober=SimProber(hold),
        rootfs=SimRootFiles(),
        files=SimFiles(hold),
        clock=clock or LoopClock(),
        settings=settings or ProgramSettings(),
    )
    return ProgramRuntime(ground, SimRecords(hold, "instances", Kept), SimRecords(hold, "snapshots", SnapshotRecord))
