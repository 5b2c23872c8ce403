"""What an operator can set about programs of a node, and what the runtime stands on."""

from dataclasses import dataclass, field

import msgspec

from skerry.core.machines.instance import Backoff
from skerry.core.machines.strains import StrainSettings
from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.program import IsolationClass
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.images import Images
from skerry.ports.instancefiles import InstanceFiles
from skerry.ports.network import Network
from skerry.ports.probe import Prober
from skerry.ports.rootfs import RootFiles
from skerry.ports.sandbox import SandboxEngine
from skerry.ports.walled import NoWalled, Walled


class ProgramSettings(Record):
    """Times in ms, sizes as their names say."""

    backoff: Backoff = msgspec.field(default_factory=Backoff)
    image_ms_max: int = 900_000  # a large image over a slow link; then it is tried again, with what came kept
    start_ms_max: int = 60_000  # a microVM's boot on a busy machine
    look_every_ms: int = 1_000  # at use, traffic and logs
    log_bytes_max: int = 4 << 20  # of each instance
    images_mib_max: int = 20_480  # of this node's disk
    undo_pause_ms: int = 1_000  # before what could not be removed is tried again
    hurry_ms: int = 500  # for a process that is being ended while somebody waits for the next
    drop_grace_ms_max: int = 10_000  # for a process that is ended for lack of traffic
    strains: StrainSettings = msgspec.field(default_factory=StrainSettings)


@dataclass(frozen=True)
class Ground:
    """The ports, and who we are. An engine that cannot work on this machine leaves `engines` again."""

    site: SiteId
    node: NodeId
    engines: dict[IsolationClass, SandboxEngine]
    images: Images
    network: Network
    prober: Prober
    rootfs: RootFiles
    files: InstanceFiles
    clock: Clock
    settings: ProgramSettings
    walled: Walled = field(default_factory=NoWalled)
