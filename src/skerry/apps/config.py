"""What the supervisor hands to each plane: one JSON file per process, mode 0600.

A plane is started as `python -m skerry.apps.<plane> --config FILE --liveness-fd N` (see `skerry.apps.plane`).
All paths are absolute; directories exist (0700) and the join secret is written before any plane starts.
`host:port` addresses are bound by the plane that has them under `listen`.
"""

from pathlib import Path
from typing import Literal

from skerry.core.packing.types import DEFAULTS, PackingSettings
from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.place import Node, Site
from skerry.core.types.public_port import PUBLIC_PORTS, PortRange
from skerry.kit.record import Record


class Engines(Record):
    """Programs that planes start; None: the plane looks for it itself (package, PATH)."""

    workerd: str | None = None
    haproxy: str | None = None
    bwrap: str | None = None


class EgressRules(Record):
    """What apps may reach besides the public internet: networks in CIDR form, by the operator's word."""

    allow: tuple[str, ...] = ()


class ControlConfig(Record):
    """`data_dir` is `<data>/control`: it holds store.db, blobs/, admin-token and join-secret.

    `sites` is the operator's list of cities; `public_port` and `suffix` make the apps' URLs.
    """

    listen: str  # host:port of the API: Cloudflare dialect, own dialect and internal links
    data_dir: str
    run_dir: str  # sockets and pids of this process alone, short enough for a Unix socket's path
    admin_token_path: str  # made by control at its first start, 0600
    join_secret_path: str
    suffix: str
    public_port: int
    sites: tuple[Site, ...]
    public_ports: tuple[PortRange, ...] = PUBLIC_PORTS  # of every city, for apps that speak TCP
    default_account: str = "default"  # made at the first start, so that there is one to deploy to
    engines: Engines = Engines()


def checks_dir(control_dir: Path) -> Path:
    """Of the processes in which control tries new versions, in its data directory."""
    return control_dir / "checks"


class SiteConfig(Record):
    """`site.address` is the users' ingress and `site.peer_address` the peers'; both are HAProxy's."""

    site: Site
    listen: str  # host:port of this controller's API, for its nodes
    shared_address: str | None  # host:port that every site of the machine binds with SO_REUSEPORT
    control_url: str  # http://host:port
    data_dir: str
    run_dir: str
    join_secret_path: str
    suffix: str
    nodes: tuple[NodeId, ...] = ()  # those expected to report; others are refused
    answer_s_max: int = 60  # how long an app may take to begin its answer
    packing: PackingSettings = DEFAULTS
    engines: Engines = Engines()


class Resting(Record):
    """What becomes of instances that nobody asks for; None: as the runtime has it by default. Times in ms without use."""

    sleep_after_ms: int | None = None  # asleep: memory squeezed, process alive
    dead_after_ms: int | None = None  # no process until the next request; by default never by time


class DiskRates(Record):
    """How fast one container may read and write the disk that the node's data is on, while its neighbours need it too."""

    read_mib_per_s: int = 200
    write_mib_per_s: int = 100
    read_ops_per_s: int = 4_000
    write_ops_per_s: int = 2_000


MicrovmEngine = Literal["auto", "firecracker", "qemu"]


class MicrovmRules(Record):
    """`engine` auto: Firecracker where it is installed and KVM runs guests, else QEMU."""

    engine: MicrovmEngine = "auto"
    warm_machines_max: int = 2  # of QEMU: paused, for the next starts; about 16 MiB each


class ProgramsRules(Record):
    """What a node gives to programs besides its capacity."""

    images_mib_max: int = 20_480  # of images on its disk, beyond those in use
    disk: DiskRates | None = DiskRates()  # of each container, gVisor's too; None: as fast as the disk is
    address_pool: str = "100.64.0.0/10"  # private address space that all nodes of a machine share
    microvm: MicrovmRules = MicrovmRules()


class HookConfig(Record):
    """A task that maintenance may have done on a node: `program` is an absolute path. `reboots`: it takes the machine down."""

    name: str
    program: str
    reboots: bool = False


class NodeConfig(Record):
    """`node.capacity` is what this node promises to instances: its share of the machine, times `node.overcommit`."""

    node: Node
    site_url: str  # http://host:port of the site controller's API
    data_dir: str
    run_dir: str
    join_secret_path: str
    egress: EgressRules = EgressRules()
    answer_s_max: int = 60  # an event loop that answers nothing for half as long is ended
    resting: Resting = Resting()
    programs: ProgramsRules = ProgramsRules()
    throttle: bool = True  # who uses more than its part of the CPU yields to the others
    hooks: tuple[HookConfig, ...] = ()
    engines: Engines = Engines()


class PlatformRecord(Record):
    """`<data>/platform.json`: where a running platform answers; written by `skerry up`, read by the CLI.

    `pid`, `start_time` (clock ticks since boot, /proc) and `boot_id` name the supervisor beyond doubt.
    """

    pid: int
    start_time: int
    boot_id: str
    data_dir: str
    run_dir: str
    api_url: str
    admin_token_path: str
    suffix: str
    public_port: int
    default_account: str
    sites: tuple[Site, ...]
    nodes: tuple[Node, ...]
    ready: bool = False

    def site_ids(self) -> tuple[SiteId, ...]:
        return tuple(site.id for site in self.sites)
