"""What an operator can set about the network of programs on a node, and where it keeps things."""

import ipaddress
from pathlib import Path

from skerry.kit.hashing import stable_id
from skerry.kit.record import Record
from skerry.ports.network import NetworkUnavailable

LEASE_PREFIX_MIN = 18  # a slot's number has three hex digits in a device's name
LEASE_PREFIX_MAX = 29


class Settings(Record):
    """Rates are per instance. Bandwidths in kbit/s; None: not limited.

    `pool` is private address space of which each node of a machine takes a block of `lease_prefix` for itself; four addresses
    are one instance's. `egress_allow` are networks that the operator opens to programs besides the public internet; an address of
    the machine itself only if it is named alone (`192.0.2.7/32`).
    """

    pool: str = "100.64.0.0/10"
    lease_prefix: int = 19  # 2,048 instances, and room for 512 nodes
    egress_allow: tuple[str, ...] = ()
    port_first: int = 20_000  # below the ports that the kernel hands out by itself, which are the workers' listeners
    port_count: int = 10_000
    egress_kbits_max: int | None = None
    ingress_kbits_max: int | None = None
    flows_max: int = 4096  # connections at once: the machine's table of them is shared by all
    new_flows_per_s: int = 1000
    dns_queries_per_s: int = 100
    dns_bulk_queries_per_s: int = 5  # of types that are made for carrying data (TXT, NULL)
    resolvers: tuple[str, ...] = ()  # of names, host or host:port; none: the machine's own
    waiting_max: int = 256  # connections that are held for an instance that does not serve yet; more wait in the kernel

    def __post_init__(self) -> None:
        pool = ipaddress.IPv4Network(self.pool)
        if not any(pool.subnet_of(network) for network in _PRIVATE):
            raise ValueError(
                f"pool {self.pool}: not private address space (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10)"
            )
        if not max(LEASE_PREFIX_MIN, pool.prefixlen) <= self.lease_prefix <= LEASE_PREFIX_MAX:
            raise ValueError(f"lease_prefix {self.lease_prefix}: {LEASE_PREFIX_MIN} to {LEASE_PREFIX_MAX}, within the pool")


_PRIVATE = tuple(ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))


class Places:
    """`data` stays over reboots; `run` does not, and mounts below it are found by whoever cleans up after the platform."""

    def __init__(self, data: Path, run: Path) -> None:
        self.data = data
        self.lease = data / "network" / "lease.json"
        self.records = data / "network" / "instances"
        self.processes = data / "network" / "processes"
        self.log = data / "network" / "resolver.log"
        self.run = run / "net"
        self.instances = self.run / "instances"
        self.askers = self.run / "askers"

    @property
    def tag(self) -> str:
        """In the names of all devices and of the table: whose they are."""
        return stable_id(str(self.data), length=8)

    def make(self) -> None:
        for path in (self.records, self.processes, self.run, self.instances, self.askers):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def record(self, instance_id: str) -> Path:
        return self.records / f"{instance_id}.json"

    def instance(self, instance_id: str) -> Path:
        return self.instances / instance_id

    def netns(self, instance_id: str) -> Path:
        return self.instances / instance_id / "netns"

    def asker(self, address: str) -> Path:
        return self.askers / f"{address}.json"


def parsed_networks(networks: tuple[str, ...]) -> tuple[ipaddress.IPv4Network, ...]:
    """The IPv4 ones: programs have no IPv6. Raises `NetworkUnavailable` for what is no network."""
    try:
        parsed = [ipaddress.ip_network(text, strict=False) for text in networks]
    except ValueError as error:
        raise NetworkUnavailable(f"--allow-egress: {error}; an example: 10.0.0.0/8") from error
    return tuple(network for network in parsed if isinstance(network, ipaddress.IPv4Network))
