"""The node's table of nftables, as text. Pure.

    from an instance ─▶ from_instances ─▶ (device, address) known? ─▶ i_<slot> ─▶ permitted ─▶ forward ─▶ srcnat ─▶ the world
                         nothing else        else dropped               refuse       refuse
    from the node    ─▶ published (out_nat) ─▶ instance        from others ─▶ published (in_nat) ─▶ forward ─▶ instance

One map element leads to an instance's own chain of about ten rules, so an instance costs the others nothing. The chain of
an instance is replaced in one transaction; its mark is new then, so what was let through before is judged again.

All of an instance's packets are judged before routing and before translation: to the node itself, to others, or forwarded.
"""

from collections.abc import Iterable

from skerry.adapters.network.linux.addresses import (
    DNS_PORT,
    GUEST_ADDRESS,
    GUEST_GATEWAY,
    INNER,
    MACHINE_PREFIX,
    TAP,
    Slot,
    device_prefix,
)
from skerry.adapters.network.linux.settings import Settings
from skerry.core.policy.reach import NOT_PUBLIC, Reach
from skerry.kit.record import Record

TABLE_PREFIX = "skerry-"
MARK_BASE = 0x53 << 24  # of connections that an instance was allowed, plus the number of its policy
INNER_TABLE = "skerry"
CHAIN_PREFIX = "i_"
REFUSALS_PER_S = 1000  # that are answered; the rest is dropped in silence
NAMES_MAX = 4096  # addresses of allowed names that one instance has at a time


class Base(Record):
    """What the rules of a node are made of. `uplinks`: devices that forward only because the node asked for it."""

    tag: str
    pool: str
    uplinks: tuple[str, ...]
    operator: tuple[str, ...]  # networks
    hosts: tuple[str, ...]  # addresses of this machine that the operator names alone
    settings: Settings


def table_of(tag: str) -> str:
    return f"inet {TABLE_PREFIX}{tag}"


def lease(tag: str, pool: str) -> str:
    """The table with nothing but the node's claim on its block of addresses."""
    table = table_of(tag)
    return f"create table {table}\nadd set {table} pool {{ type ipv4_addr; flags interval; elements = {{ {pool} }}; }}\n"


def base(facts: Base) -> str:
    """Make the table, or bring it to this state; instances in it stay. One transaction."""
    table, all_mine, all_ours = table_of(facts.tag), f'"{device_prefix(facts.tag)}*"', f'"{MACHINE_PREFIX}*"'
    sets = {
        "pool": ("type ipv4_addr; flags interval;", (facts.pool,)),
        "uplinks": ("type ifname;", tuple(f'"{name}"' for name in facts.uplinks)),
        "operator": ("type ipv4_addr; flags interval; auto-merge;", facts.operator),
        "hosts": ("type ipv4_addr;", facts.hosts),
        "not_public": ("type ipv4_addr; flags interval;", NOT_PUBLIC),
    }
    chains = _base_chains(facts, all_mine, all_ours)
    lines = [f"table {table} {{", *(f" set {name} {{ {kind} }}" for name, (kind, _) in sets.items())]
    lines += [
        " set refused { type ipv4_addr; flags dynamic; size 65536; counter; }",
        " set accepted { type ipv4_addr; flags dynamic; size 65536; counter; }",
        " set flows { type ipv4_addr; flags dynamic; size 65536; }",
        " set new_flows { type ipv4_addr; flags dynamic; size 65536; }",
        " set queries { type ipv4_addr; flags dynamic; size 65536; }",
        " map instances { type ifname . ipv4_addr : verdict; }",
        " map published { type ipv4_addr . inet_service : ipv4_addr . inet_service; }",
    ]
    lines += [" chain to_resolver { }", *(f" chain {name} {{ {hook} }}" for name, (hook, _) in chains.items())]
    lines.append("}")
    lines += [f"flush chain {table} {name}" for name in chains]
    lines += [f"flush set {table} {name}" for name in sets]
    lines += [f"add element {table} {name} {{ {', '.join(has)} }}" for name, (_, has) in sets.items() if has]
    lines += [f"add rule {table} {name} {rule}" for name, (_, rules) in chains.items() for rule in rules]
    return "\n".join(lines) + "\n"


def _base_chains(facts: Base, mine: str, ours: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name → (hook, rules)."""
    limits = facts.settings
    published = "tcp flags & (fin|syn|rst|ack) == syn dnat ip to ip daddr . tcp dport map @published"
    return {
        "refuse": (
            "",
            (
                "update @refused { ip saddr }",
                f"limit rate {REFUSALS_PER_S}/second burst {REFUSALS_PER_S} packets reject with icmp type admin-prohibited",
                "drop",
            ),
        ),
        "limited": (
            "",
            (
                "meta l4proto != { tcp, udp, icmp } goto refuse",
                f"update @new_flows {{ ip saddr limit rate over {limits.new_flows_per_s}/second"
                f" burst {2 * limits.new_flows_per_s} packets }} goto refuse",
                f"add @flows {{ ip saddr ct count over {limits.flows_max} }} goto refuse",
            ),
        ),
        "dns": (
            "",
            (
                f"update @queries {{ ip saddr limit rate over {limits.dns_queries_per_s}/second"
                f" burst {2 * limits.dns_queries_per_s} packets }} goto refuse",
                f"add @flows {{ ip saddr ct count over {limits.flows_max} }} goto refuse",
                "accept",
            ),
        ),
        # Returns for what the node permits.
        "permitted": (
            "",
            (
                "ip daddr @hosts return",
                "fib daddr type != unicast goto refuse",
                f"fib daddr oifname {ours} goto refuse",
                "ip daddr @operator return",
                "ip daddr @not_public goto refuse",
            ),
        ),
        "from_instances": (
            "type filter hook prerouting priority mangle; policy accept;",
            (
                f"iifname != {mine} accept",
                "meta nfproto != ipv4 drop",
                # Nobody takes a connection to a published address: its program has just died. Who is not told so knocks
                # again after a second, and comes to the door. (A sequence number of 0: the answer to a first packet.)
                "ct status dnat tcp flags & (syn | rst | ack) == rst | ack tcp sequence 0 drop",
                "iifname . ip saddr vmap @instances",
                "counter drop",
            ),
        ),
        "forward": (
            "type filter hook forward priority filter; policy accept;",
            (
                f"iifname {mine} oifname {ours} drop",
                f"iifname {mine} accept",
                f"oifname {mine} ct state established,related accept",
                f"oifname {mine} ct status dnat accept",
                f"oifname {mine} drop",
                # The machine forwards for its programs, and is nobody else's router for that.
                f"iifname @uplinks oifname != {ours} ct state new ct status & dnat == 0 drop",
            ),
        ),
        "in_nat": (
            "type nat hook prerouting priority dstnat; policy accept;",
            (
                f"iifname {mine} jump to_resolver",
                f"iifname {ours} accept",
                published,
            ),
        ),
        "out_nat": ("type nat hook output priority -100; policy accept;", (published,)),
        "srcnat": (
            "type nat hook postrouting priority srcnat; policy accept;",
            (
                f"oifname {mine} ct status dnat update @accepted {{ ip daddr }}",  # sees first packets alone
                f"oifname {mine} ip saddr 127.0.0.0/8 masquerade",  # or the answer would not leave the instance
                f"iifname {mine} oifname != {ours} masquerade",
            ),
        ),
    }


def resolver(tag: str, address: str) -> str:
    """Where questions to the gateways are led. The node's own port 53, whoever has it, is never reached by them."""
    chain, asked = f"{table_of(tag)} to_resolver", f"meta l4proto {{ tcp, udp }} th dport {DNS_PORT}"
    return f"flush chain {chain}\nadd rule {chain} fib daddr type local {asked} dnat ip to {address}\n"


def instance(tag: str, slot: Slot, reach: Reach, *, number: int) -> str:
    """The chain of one, made or replaced. `number` counts its policies."""
    table, chain, mark = table_of(tag), chain_of(slot), MARK_BASE + number
    rules = [
        "ct direction reply ct state established,related accept",
        "ct state invalid drop",
        *([f"ip daddr {slot.gateway} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} goto dns"] if reach.dns else []),
        f"ct state established,related ct mark {mark:#x} accept",
        "ct state new jump limited",
    ]
    accept = f"ct mark set {mark:#x} accept"
    if reach.networks is None:
        rules += ["jump permitted", accept]
    else:
        for match in (*([f"{{ {', '.join(reach.networks)} }}"] if reach.networks else []), f"@{names_of(slot.index)}"):
            rules += [f"ip daddr {match} jump permitted", f"ip daddr {match} {accept}"]
        rules.append("goto refuse")
    lines = [
        f"add set {table} {names_of(slot.index)} {{ type ipv4_addr; flags timeout; size {NAMES_MAX}; }}",
        f"add chain {table} {chain}",
        f"flush chain {table} {chain}",
        *(f"add rule {table} {chain} {rule}" for rule in rules),
        f"add element {table} instances {{ {_member(slot)} : goto {chain} }}",
    ]
    return "\n".join(lines) + "\n"


def no_instance(tag: str, slot: Slot) -> str:
    """Remove all of one, there or not."""
    table, chain = table_of(tag), chain_of(slot)
    lines = [
        f"add chain {table} {chain}",
        f"add element {table} instances {{ {_member(slot)} : goto {chain} }}",
        f"delete element {table} instances {{ {_member(slot)} }}",
        f"flush chain {table} {chain}",
        f"delete chain {table} {chain}",
        f"add set {table} {names_of(slot.index)} {{ type ipv4_addr; flags timeout; size {NAMES_MAX}; }}",
        f"delete set {table} {names_of(slot.index)}",
        *(
            f"{word} element {table} {counted} {{ {slot.address} }}"
            for counted in ("refused", "accepted")
            for word in ("add", "delete")
        ),
    ]
    return "\n".join(lines) + "\n"


def publish(tag: str, address: str, slot: Slot, port: int) -> str:
    """From now on new connections to `address` go to the instance."""
    return f"add element {table_of(tag)} published {{ {_published(address)} : {slot.address} . {port} }}\n"


def unpublish(tag: str, address: str, slot: Slot, port: int) -> str:
    """The way back, published or not."""
    return publish(tag, address, slot, port) + f"delete element {table_of(tag)} published {{ {_published(address)} }}\n"


def let_through(tag: str, slot: int, addresses: Iterable[str], *, valid_s: int) -> str:
    """Addresses of an allowed name, valid so long from now on. Deleted in between: one that is there would keep its old time."""
    place = f"element {table_of(tag)} {names_of(slot)}"
    lines: list[str] = []
    for address in addresses:
        add = f"add {place} {{ {address} timeout {valid_s}s }}\n"
        lines += [add, f"delete {place} {{ {address} }}\n", add]
    return "".join(lines)


def inside_tap(slot: Slot) -> str:
    """The table in the namespace of a microVM: outside, its fixed address is the slot's; the namespace itself it cannot reach."""
    guest = f'iifname "{TAP}"'
    return f"""
table inet {INNER_TABLE} {{
 chain check {{
  type filter hook prerouting priority mangle; policy accept;
  {guest} meta nfproto != ipv4 drop
  {guest} ip saddr != {GUEST_ADDRESS} drop
 }}
 chain own {{
  type filter hook input priority filter; policy accept;
  {guest} drop
 }}
 chain in_nat {{
  type nat hook prerouting priority dstnat; policy accept;
  iifname "{INNER}" ip daddr {slot.address} dnat ip to {GUEST_ADDRESS}
  {guest} ip daddr {GUEST_GATEWAY} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} dnat ip to {slot.gateway}
 }}
 chain srcnat {{
  type nat hook postrouting priority srcnat; policy accept;
  oifname "{INNER}" ip saddr {GUEST_ADDRESS} snat ip to {slot.address}
 }}
}}
"""


def chain_of(slot: Slot) -> str:
    return f"{CHAIN_PREFIX}{slot.index}"


def names_of(slot: int) -> str:
    return f"n_{slot}"


def _member(slot: Slot) -> str:
    return f'"{slot.device}" . {slot.address}'


def _published(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{host} . {port}"
