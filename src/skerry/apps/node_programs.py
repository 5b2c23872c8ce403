"""What a node's programs stand on, put together: engines that are on the machine, images, network, files.

<node>/programs/ records/ snapshots-made/ logs/ snapshots/ images/… layers/…      <node>/network/
"""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from skerry.adapters.blobs.kept import Stream
from skerry.adapters.cgroup.base import DiskLimits, disk_of
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.images.overlay import OverlayImages
from skerry.adapters.instancefiles.directory import DirectoryFiles
from skerry.adapters.link.http import HttpSiteLink
from skerry.adapters.network.linux.network import LinuxNetwork
from skerry.adapters.network.linux.settings import Settings as NetworkSettings
from skerry.adapters.probe.sockets import SocketProber
from skerry.adapters.recordfile import JsonFolder
from skerry.adapters.rootfs.directory import DirectoryRootFiles
from skerry.adapters.runtime.workerd.gvisor import GvisorWorkers
from skerry.adapters.sandbox.microvm import kvm
from skerry.adapters.sandbox.oci import runtimes
from skerry.adapters.sandbox.oci.engine import OciEngine
from skerry.adapters.sandbox.oci.places import RUN
from skerry.adapters.sandbox.oci.places import Places as ContainerPlaces
from skerry.apps import microvm_engine
from skerry.apps.config import DiskRates, MicrovmRules, NodeConfig
from skerry.core.types.ids import Digest
from skerry.core.types.program import IsolationClass
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record
from skerry.ports.sandbox import EngineUnavailable, SandboxEngine
from skerry.services.node.programs.records import Kept, SnapshotRecord
from skerry.services.node.programs.runtime import ProgramRuntime
from skerry.services.node.programs.settings import Ground, ProgramSettings

ANY_ENGINE = MicrovmRules()
CONTAINER_RUNTIMES: tuple[runtimes.Name, ...] = ("crun", "runc")  # the first that is here: crun starts in half the time


def open_programs(config: NodeConfig, link: HttpSiteLink, walled: GvisorWorkers) -> tuple[ProgramRuntime | None, str]:
    """The runtime of this node's programs, or None and why there is none. `walled`: Workers among them."""
    if os.geteuid() != 0:
        return None, "programs need root, for networks, mounts and user ids of their own: sudo skerry up"
    base = programs_dir(Path(config.data_dir))
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk = disk_limits(base, config.programs.disk)
    engines, missing = find_engines(base, Path(config.run_dir), config.programs.microvm, disk)
    if not engines:
        return None, "; ".join(f"{isolation}: {reason}" for isolation, reason in missing)
    ground = Ground(
        site=config.node.site,
        node=config.node.id,
        engines=engines,
        images=OverlayImages(base, _own_first(walled, link), run_dir=images_run_dir(base)),
        network=LinuxNetwork(
            address=config.node.address,
            data_dir=Path(config.data_dir),
            run_dir=Path(config.run_dir),
            settings=NetworkSettings(egress_allow=config.egress.allow, pool=config.programs.address_pool),
        ),
        prober=SocketProber(),
        rootfs=DirectoryRootFiles(),
        files=DirectoryFiles(base),
        clock=SystemClock(),
        settings=ProgramSettings(images_mib_max=config.programs.images_mib_max),
        walled=walled,
    )
    records = JsonFolder(base / "records", Kept)
    return ProgramRuntime(ground, records, JsonFolder(base / "snapshots-made", SnapshotRecord), missing=missing), ""


def _own_first(walled: GvisorWorkers, link: HttpSiteLink) -> Stream:
    """Blobs of the engine's image are here; all others come from the site."""

    async def stream(digest: Digest) -> AsyncIterator[bytes]:
        own = await walled.image.stream(digest)
        async for chunk in own if own is not None else link.stream(digest):
            yield chunk

    return stream


def disk_limits(base: Path, rates: DiskRates | None) -> DiskLimits | None:
    """None where the node's data does not lie on one disk."""
    device = disk_of(base)
    if device is None or rates is None:
        return None
    return DiskLimits(
        device=device,
        read_bytes_per_s=rates.read_mib_per_s << 20,
        write_bytes_per_s=rates.write_mib_per_s << 20,
        read_ops_per_s=rates.read_ops_per_s,
        write_ops_per_s=rates.write_ops_per_s,
    )


def find_engines(
    base: Path, run: Path, microvm: MicrovmRules = ANY_ENGINE, disk: DiskLimits | None = None
) -> tuple[dict[IsolationClass, SandboxEngine], tuple[tuple[IsolationClass, str], ...]]:
    """One engine for each isolation class that this machine has; the others with what is missing and how to get it."""
    engines: dict[IsolationClass, SandboxEngine] = {}
    missing: list[tuple[IsolationClass, str]] = []
    classes: tuple[tuple[IsolationClass, Callable[[], SandboxEngine]], ...] = (
        ("container", lambda: _container(base, disk)),
        ("gvisor", lambda: OciEngine(runtimes.find("runsc"), base, disk=disk)),
        ("microvm", lambda: microvm_engine.open_engine(base, run, microvm, disk)),
    )
    for isolation, find in classes:
        try:
            engines[isolation] = find()
        except EngineUnavailable as error:
            missing.append((isolation, str(error)))
    return engines, tuple(missing)


def _container(base: Path, disk: DiskLimits | None) -> SandboxEngine:
    reasons: list[str] = []
    for name in CONTAINER_RUNTIMES:
        try:
            return OciEngine(runtimes.find(name), base, disk=disk)
        except EngineUnavailable as error:
            reasons.append(str(error))
    raise EngineUnavailable("; ".join(reasons))


def has_kvm() -> bool:
    return kvm.probe().usable


class Left(Record):
    """What programs of a node leave when all of it is killed: by the tag in processes and groups, and where there are mounts."""

    tags: tuple[str, ...]
    runs: tuple[Path, ...]


def left_by(node_dir: Path) -> Left:
    """By name alone, whatever engines the machine has now. `node_dir` is the node's data directory."""
    base = programs_dir(node_dir)
    containers = [ContainerPlaces(base, name) for name in ("crun", "runc", "runsc")]
    microvms = [microvm_engine.places_of(base, Path(), name) for name in microvm_engine.DIRECTORIES]
    return Left(
        tags=(*(places.tag for places in containers), *(places.tag for places in microvms)),
        runs=(*(places.run for places in containers), images_run_dir(base)),
    )


def images_run_dir(base: Path) -> Path:
    """Where root file systems are mounted: mapped users, who are nobody on this machine, have to pass all that is above."""
    return RUN / stable_id("images", str(base.resolve()))


def programs_dir(node_dir: Path) -> Path:
    """Of a node's data directory."""
    return node_dir / "programs"
