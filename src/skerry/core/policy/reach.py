"""Whom a program may call: its own policy, met in what its node permits. IPv4 alone; programs have no IPv6."""

import ipaddress
from collections.abc import Iterable, Iterator

from skerry.core.types.program import NetworkPolicy
from skerry.kit.record import Record

# What is not the public internet: the registry of RFC 6890, benchmarking, 6to4's relays, multicast, reserved.
NOT_PUBLIC = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
)  # fmt: skip
_NOT_PUBLIC = tuple(ipaddress.IPv4Network(text) for text in NOT_PUBLIC)
ALLOW_MAX = 64  # entries of one program
KBITS_MIN, KBITS_MAX = 64, 100_000_000
NAME_CHARS_MAX = 253
LABEL_CHARS_MAX = 63


class Reach(Record):
    """All that the node permits (`networks` None), or of that these networks and names alone."""

    networks: tuple[str, ...] | None
    names: tuple[str, ...] = ()

    @property
    def dns(self) -> bool:
        """It has a use for names."""
        return self.networks is None or bool(self.names)


def reach_of(policy: NetworkPolicy) -> Reach:
    """A program's own list never opens what its node keeps shut."""
    if policy.internet and not policy.only_allowed:
        return Reach(networks=None)
    networks: list[ipaddress.IPv4Network] = []
    names: set[str] = set()
    for text in policy.allow:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            names.add(text.lower().rstrip("."))
            continue
        if isinstance(network, ipaddress.IPv4Network):
            networks.append(network)
    return Reach(networks=tuple(str(one) for one in ipaddress.collapse_addresses(networks)), names=tuple(sorted(names)))


def may_ask(reach: Reach, name: str) -> bool:
    """Whether a DNS name may be asked for. `*.example.org` is every name below example.org, and not itself."""
    if reach.networks is None:
        return True
    asked = name.lower().rstrip(".")
    return any(asked == one or (one.startswith("*.") and asked.endswith(one[1:])) for one in reach.names)


def permits(operator: Iterable[str], address: str) -> bool:
    """What a node lets any program reach, its own addresses aside: the public internet, and what its operator opened."""
    parsed = ipaddress.IPv4Address(address)
    return not any(parsed in network for network in _NOT_PUBLIC) or within(operator, address)


def within(networks: Iterable[str], address: str) -> bool:
    parsed = ipaddress.IPv4Address(address)
    return any(parsed in ipaddress.IPv4Network(network) for network in networks)


def policy_faults(policy: NetworkPolicy) -> Iterator[str]:
    """What is wrong with it, in sentences for its author."""
    if len(policy.allow) > ALLOW_MAX:
        yield f"network.allow has {len(policy.allow)} entries; at most {ALLOW_MAX} are allowed"
    yield from (
        f"network.allow: {text[:80]!r} is neither an IPv4 network (192.0.2.0/24) nor a name (example.org, *.example.org)"
        for text in policy.allow
        if not _is_network(text) and not _is_name(text)
    )
    if policy.allow and policy.internet and not policy.only_allowed:
        yield "network.allow has no effect: without only_allowed the whole internet may be called"
    for field, kbits in (("egress_kbits_max", policy.egress_kbits_max), ("ingress_kbits_max", policy.ingress_kbits_max)):
        if kbits is not None and not KBITS_MIN <= kbits <= KBITS_MAX:
            yield f"network.{field} is {kbits}; it is {KBITS_MIN} to {KBITS_MAX:,}"


def _is_network(text: str) -> bool:
    try:
        ipaddress.IPv4Network(text)
    except ValueError:
        return False
    return True


def _is_name(text: str) -> bool:
    labels = text.removeprefix("*.").removesuffix(".").split(".")
    return (
        len(text) <= NAME_CHARS_MAX
        and len(labels) > 1
        and not labels[-1].isdigit()
        and all(
            0 < len(label) <= LABEL_CHARS_MAX
            and label.isascii()
            and label.replace("-", "").replace("_", "").isalnum()
            and not label.startswith("-")
            and not label.endswith("-")
            for label in labels
        )
    )
