"""Who gets which directory, address and share of the machine. Nothing is touched here; `make_directories` does.

<data>/ lock platform.json example.json logs/ control/ sites/<site>/ nodes/<node>/
<run>/  planes/ (records) config/ control/ <site>/ <node>/      sockets and pids, removed at the end
"""

import ipaddress
import os
import re
import shutil
import stat
from pathlib import Path

from skerry.adapters.network.linux.settings import Settings as NetworkSettings
from skerry.apps.config import (
    ControlConfig,
    DiskRates,
    EgressRules,
    Engines,
    HookConfig,
    NodeConfig,
    ProgramsRules,
    Resting,
    SiteConfig,
)
from skerry.apps.supervisor.cities import DEFAULT_CITIES, CityAsk
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.ports import Wanted
from skerry.core.policy.public_ports import holds, parse_ports, shown
from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.place import Node, Overcommit, Site
from skerry.core.types.public_port import PUBLIC_PORTS, PortRange
from skerry.core.types.resources import Resources
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record

SHARED_HOST = "127.0.0.1"  # every site binds it: the machine's "anycast" address
PORTS_PER_SITE = 4  # users, peers, the controller's API, peers' TCP connections
PLATFORM_MEMORY_PERCENT = 20  # of the machine: planes, HAProxy, page cache
CPU_OVERCOMMIT = 8.0  # an idle worker reserves 10 millicores and uses none; busy ones share by weight
OVERCOMMIT_MIN, OVERCOMMIT_MAX = 0.1, 64.0  # of what a node has
MEMORY_MIB_MIN = 64
DISK_RATE_MAX = 1_000_000
ANSWER_S_LIMIT = 3600  # every request that waits holds a connection
REST_MS_MIN, REST_MS_MAX = 100, 30 * 86_400_000
RUN_PATH_CHARS_MAX = 60  # a Unix socket's path has 107 bytes, and planes put their own names behind it


LOCK_FILE = "lock"
HOOK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Options(Record):
    """What the operator asked for; `None` capacities are computed from the machine."""

    data_dir: str
    cities: str = DEFAULT_CITIES
    port: int = 8080
    api_port: int = 8787
    suffix: str = "localhost"
    example: bool = True
    zram: bool = True  # make swap in compressed memory, where root and the kernel allow it and there is none
    fine_turns: bool = True  # have turns on the CPU end exactly, where those who yield are no group of their own
    node_cpu_millicores: int | None = None
    node_memory_mib: int | None = None
    overcommit_cpu: float | None = None  # None: `CPU_OVERCOMMIT`, but 1 of what was given
    overcommit_memory: float = 1.0
    egress_allow: tuple[str, ...] = ()
    public_ports: str = shown(PUBLIC_PORTS)
    answer_s_max: int = 60
    resting: Resting = Resting()
    programs: ProgramsRules = ProgramsRules()
    hooks: tuple[HookConfig, ...] = ()


class Layout(Record):
    """Everything that is decided before the first process starts."""

    options: Options
    run_dir: str
    sites: tuple[Site, ...]
    nodes: tuple[Node, ...]

    @property
    def data(self) -> Path:
        return Path(self.options.data_dir)

    @property
    def run(self) -> Path:
        return Path(self.run_dir)

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def records(self) -> Path:
        return self.run / "planes"

    @property
    def configs(self) -> Path:
        return self.run / "config"

    @property
    def admin_token(self) -> Path:
        return self.data / "control/admin-token"

    @property
    def join_secret(self) -> Path:
        return self.data / "control/join-secret"

    @property
    def tag(self) -> str:
        """In the environment of every plane."""
        return platform_tag(self.data)

    @property
    def api_address(self) -> str:
        return f"{SHARED_HOST}:{self.options.api_port}"

    @property
    def api_url(self) -> str:
        return f"http://{self.api_address}"

    def site_dir(self, site: SiteId) -> Path:
        return self.data / "sites" / site

    def node_dir(self, node: NodeId) -> Path:
        return self.data / "nodes" / node

    def nodes_of(self, site: SiteId) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.site == site)


def plan_layout(options: Options, asks: tuple[CityAsk, ...], machine: Resources) -> Layout:
    """`machine` is what all nodes share. Raises `UpError` (usage)."""
    _check(options)
    total = sum(ask.nodes for ask in asks)
    overcommit = _overcommit(options)
    capacity = _share(options, machine, total).percent(cpu=overcommit.cpu_percent, memory=overcommit.memory_percent)
    sites: list[Site] = []
    nodes: list[Node] = []
    for index, ask in enumerate(asks, start=1):
        site = _site(options, ask, host=f"127.0.{index}.1")
        sites.append(site)
        addresses = enumerate((f"127.0.{index}.{10 + number}" for number in range(1, ask.nodes + 1)), start=1)
        nodes += [_node(site, number, address, capacity, overcommit) for number, address in addresses]
    data = Path(options.data_dir)
    return Layout(options=options, run_dir=str(run_dir_of(data)), sites=tuple(sites), nodes=tuple(nodes))


def _check(options: Options) -> None:
    for name, port, room in (("--port", options.port, PORTS_PER_SITE - 1), ("--api-port", options.api_port, 0)):
        if not 1 <= port <= 65535 - room:
            raise UpError(f"{name} {port}: a port is 1 to {65535 - room} here", code=2)
    if options.port == options.api_port:
        raise UpError(f"--port and --api-port are both {options.port}", hint="they are two listeners on one address", code=2)
    if not options.suffix or len(options.suffix) > 200 or not _is_host(options.suffix):
        raise UpError(f"--suffix {options.suffix[:60]!r} is not a host name", hint="an example: --suffix localhost", code=2)
    if any(holds(_public_ports(options), options.port + offset) for offset in range(PORTS_PER_SITE)):
        said = f"--public-ports {options.public_ports} has a port that --port {options.port} uses"
        raise UpError(said, hint=f"--port takes {options.port} and the {PORTS_PER_SITE - 1} after it", code=2)
    for network in options.egress_allow:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise UpError(
                f"--allow-egress {network[:60]}: {error}", hint="an example: --allow-egress 10.0.0.0/8", code=2
            ) from None
    if not 1 <= options.answer_s_max <= ANSWER_S_LIMIT:
        raise UpError(f"--answer-seconds {options.answer_s_max}: it is 1 to {ANSWER_S_LIMIT}", code=2)
    for name, value in (("--sleep-after", options.resting.sleep_after_ms), ("--dead-after", options.resting.dead_after_ms)):
        if value is not None and not REST_MS_MIN <= value <= REST_MS_MAX:
            allowed = f"{REST_MS_MIN / 1000} to {REST_MS_MAX // 1000}"
            raise UpError(f"{name} {value / 1000:g}: {allowed} seconds", hint="an example: --sleep-after 60", code=2)
    _check_pool(options.programs.address_pool)
    for hook in options.hooks:
        _check_hook(hook)
    _check_nodes(options)


def _public_ports(options: Options) -> tuple[PortRange, ...]:
    try:
        return parse_ports(options.public_ports)
    except ValueError as error:
        raise UpError(f"--public-ports: {error}", hint="an example: --public-ports 5432,30000-30999", code=2) from None


def _check_nodes(options: Options) -> None:
    for name, value in (("cpu", options.node_cpu_millicores), ("memory", options.node_memory_mib)):
        if value is not None and value < 1:
            raise UpError(f"a node's {name} has to be at least 1", code=2)
    for name, ratio in (("cpu", options.overcommit_cpu), ("memory", options.overcommit_memory)):
        if ratio is not None and not OVERCOMMIT_MIN <= ratio <= OVERCOMMIT_MAX:
            said = f"--overcommit-{name} {ratio:g}: it is {OVERCOMMIT_MIN:g} to {OVERCOMMIT_MAX:g}"
            raise UpError(said, hint=f"an example: --overcommit-{name} 1.5", code=2)


def _check_pool(pool: str) -> None:
    """As nodes will, which only say it in their logs."""
    try:
        NetworkSettings(pool=pool)
    except ValueError as error:
        each = f"each node takes a /{NetworkSettings().lease_prefix} of it"
        raise UpError(
            f"--address-pool {pool[:60]}: {error}", hint=f"an example: --address-pool 10.96.0.0/12; {each}", code=2
        ) from None


def parse_disk(text: str) -> DiskRates | None:
    """READ,WRITE,READS,WRITES, or "none". Raises `UpError` (usage)."""
    if text == "none":
        return None
    words = text.split(",")
    if len(words) != 4 or not all(word.isascii() and word.isdigit() and 0 < int(word) <= DISK_RATE_MAX for word in words):
        said = f"--disk-limits {text[:60]}: four numbers of 1 to {DISK_RATE_MAX}, or none"
        raise UpError(said, hint="an example: --disk-limits 200,100,4000,2000", code=2)
    read, write, reads, writes = (int(word) for word in words)
    return DiskRates(read_mib_per_s=read, write_mib_per_s=write, read_ops_per_s=reads, write_ops_per_s=writes)


def parse_hook(text: str) -> HookConfig:
    """NAME=PROGRAM; `plan_layout` checks it."""
    name, _, program = text.partition("=")
    return HookConfig(name=name, program=program)


def _check_hook(hook: HookConfig) -> None:
    example = "an example: --hook kernel=/usr/local/sbin/new-kernel"
    if not HOOK_NAME.fullmatch(hook.name):
        raise UpError(f"--hook {hook.name[:60]!r}: a name has lower-case letters, digits and dashes", hint=example, code=2)
    path = Path(hook.program)
    if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
        raise UpError(f"--hook {hook.name}: {hook.program[:200]} is no program with an absolute path", hint=example, code=2)


def _is_host(text: str) -> bool:
    labels = text.split(".")
    return all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "").isalnum() and label.lower() == label
        for label in labels
    ) and not any(label.startswith("-") or label.endswith("-") for label in labels)


def _overcommit(options: Options) -> Overcommit:
    cpu = options.overcommit_cpu or (CPU_OVERCOMMIT if options.node_cpu_millicores is None else 1.0)
    return Overcommit(cpu_percent=round(cpu * 100), memory_percent=round(options.overcommit_memory * 100))


def _share(options: Options, machine: Resources, nodes: int) -> Resources:
    memory = machine.memory_mib * (100 - PLATFORM_MEMORY_PERCENT) // 100 // nodes
    return Resources(
        cpu_millicores=options.node_cpu_millicores or max(1, machine.cpu_millicores // nodes),
        memory_mib=options.node_memory_mib or max(MEMORY_MIB_MIN, memory),
        disk_mib=max(1, machine.disk_mib // nodes),
    )


def _site(options: Options, ask: CityAsk, *, host: str) -> Site:
    return Site(
        id=SiteId(ask.city.code),
        city=ask.city.name,
        country=ask.city.country,
        region=ask.city.region,
        lat=ask.city.lat,
        lon=ask.city.lon,
        address=f"{host}:{options.port}",
        peer_address=f"{host}:{options.port + 1}",
        peer_tcp_address=f"{host}:{options.port + 3}",
    )


def _node(site: Site, number: int, address: str, capacity: Resources, overcommit: Overcommit) -> Node:
    return Node(id=NodeId(f"{site.id}-{number}"), site=site.id, address=address, capacity=capacity, overcommit=overcommit)


def controller_address(site: Site) -> str:
    """Where the site controller's API is: beside its ingress."""
    host, _, port = site.peer_address.rpartition(":")
    return f"{host}:{int(port) + 1}"


def wanted_ports(layout: Layout) -> tuple[Wanted, ...]:
    options = layout.options
    wanted = [
        Wanted(host=SHARED_HOST, port=options.api_port, use="the API", option="--api-port"),
        Wanted(host=SHARED_HOST, port=options.port, use="apps in every city", option="--port"),
    ]
    uses = ("apps", "other cities' requests", "its nodes", "other cities' connections")
    for site in layout.sites:
        host = site.address.rpartition(":")[0]
        for offset, use in enumerate(uses):
            wanted.append(Wanted(host=host, port=options.port + offset, use=f"{use} in {site.id}", option="--port"))
    return tuple(wanted)


def control_config(layout: Layout, engines: Engines) -> ControlConfig:
    return ControlConfig(
        listen=layout.api_address,
        data_dir=str(layout.data / "control"),
        run_dir=str(layout.run / "control"),
        admin_token_path=str(layout.admin_token),
        join_secret_path=str(layout.join_secret),
        suffix=layout.options.suffix,
        public_port=layout.options.port,
        public_ports=_public_ports(layout.options),
        sites=layout.sites,
        engines=engines,
    )


def site_config(layout: Layout, site: Site, engines: Engines) -> SiteConfig:
    return SiteConfig(
        site=site,
        listen=controller_address(site),
        shared_address=f"{SHARED_HOST}:{layout.options.port}",
        control_url=layout.api_url,
        data_dir=str(layout.site_dir(site.id)),
        run_dir=str(layout.run / site.id),
        join_secret_path=str(layout.join_secret),
        suffix=layout.options.suffix,
        nodes=tuple(node.id for node in layout.nodes_of(site.id)),
        answer_s_max=layout.options.answer_s_max,
        engines=engines,
    )


def node_config(layout: Layout, node: Node, engines: Engines) -> NodeConfig:
    site = next(site for site in layout.sites if site.id == node.site)
    return NodeConfig(
        node=node,
        site_url=f"http://{controller_address(site)}",
        data_dir=str(layout.node_dir(node.id)),
        run_dir=str(layout.run / node.id),
        join_secret_path=str(layout.join_secret),
        egress=EgressRules(allow=layout.options.egress_allow),
        answer_s_max=layout.options.answer_s_max,
        resting=layout.options.resting,
        programs=layout.options.programs,
        hooks=layout.options.hooks,
        engines=engines,
    )


def measure_machine(data: Path) -> Resources:
    """Cores, memory and free disk that this process may use."""
    memory_kib = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    )
    existing = next(path for path in (data, *data.parents) if path.exists())
    return Resources(
        cpu_millicores=len(os.sched_getaffinity(0)) * 1000,
        memory_mib=memory_kib // 1024,
        disk_mib=shutil.disk_usage(existing).free >> 20,
    )


def default_data_dir() -> Path:
    """/var/lib/skerry for root, else the user's own data directory."""
    chosen = os.environ.get("SKERRY_DATA_DIR")
    if chosen:
        return Path(chosen).resolve()
    if os.geteuid() == 0:
        return Path("/var/lib/skerry")
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local/share") / "skerry"


def platform_tag(data: Path) -> str:
    return stable_id(str(data), length=8)


def run_parent() -> Path:
    """Where this user's platforms have their sockets: short, and gone after a boot."""
    if os.geteuid() == 0:
        return Path("/run/skerry")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and len(runtime) < RUN_PATH_CHARS_MAX - 20 and os.access(runtime, os.W_OK):
        return Path(runtime) / "skerry"
    return Path(f"/tmp/skerry-{os.geteuid()}")  # noqa: S108 - made private, and refused if it is another's


def run_dir_of(data: Path) -> Path:
    return run_parent() / platform_tag(data)


def make_directories(layout: Layout) -> None:
    """All of them, 0700, and what is above the run directory passable. Raises `UpError`: one is another user's, or cannot be."""
    planes = ["control", *(site.id for site in layout.sites), *(node.id for node in layout.nodes)]
    private = [
        layout.data,
        layout.logs,
        layout.data / "control",
        layout.data / "sites",
        layout.data / "nodes",
        *(layout.site_dir(site.id) for site in layout.sites),
        *(layout.node_dir(node.id) for node in layout.nodes),
        layout.run,
        layout.records,
        layout.configs,
        *(layout.run / name for name in planes),
    ]
    make_private(layout.run.parent, passable=os.geteuid() == 0)
    for path in private:
        make_private(path)


def prepare_data(data: Path) -> None:
    """Make the data directory, or see that it is a platform's. Raises `UpError`."""
    if data.is_dir() and not (data / LOCK_FILE).exists() and {entry.name for entry in data.iterdir()} - {"logs"}:
        raise UpError(f"{data} is not empty and not a platform's", hint="give an empty directory to --data-dir")
    make_private(data)
    make_private(data / "logs")


def make_private(path: Path, *, passable: bool = False) -> None:
    """A directory that only this user enters; parents as usual. Raises `UpError`.

    `passable`: others enter what it holds and do not see what that is. Programs' users, who are nobody on this machine, have
    their root file systems below it.
    """
    mode = 0o711 if passable else 0o700
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)
        found = path.lstat()
    except (FileExistsError, NotADirectoryError) as error:
        file = next((place for place in (path, *path.parents) if place.exists()), path)
        raise UpError(f"{file} is not a directory", hint="choose another with --data-dir") from error
    except OSError as error:
        raise UpError(f"{path}: {(error.strerror or 'cannot be made').lower()}", hint="choose another with --data-dir") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UpError(f"{path} is not a directory of this user's", hint="remove it, or choose another with --data-dir")
    if found.st_mode & 0o777 != mode:
        path.chmod(mode)
