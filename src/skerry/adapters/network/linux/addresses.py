"""Who has which address, name and MAC. Pure.

An instance has a slot of its node's block: four addresses, of which the second is the node's end of a veth pair (the gateway)
and the third the instance's. MACs are alike everywhere, so that a snapshot finds the neighbours again that it knew: each link
joins two ends only.

    instance's namespace                              node
    program ── eth0 100.64.0.6/30 ══════════ skr<tag>001 100.64.0.5/30 ── rules ── the world
    guest 10.200.0.2 ── tap0 10.200.0.1/30 ┘   (a microVM: translated to eth0's address inside the namespace)
"""

import ipaddress
from typing import Literal

from skerry.kit.hashing import stable_hash
from skerry.kit.record import Record
from skerry.ports.sandbox import GuestNetwork

Device = Literal["kernel", "gvisor", "tap"]

MACHINE_PREFIX = "skr"  # devices of every node of this machine
INNER, TAP = "eth0", "tap0"
SLOT_ADDRESSES, SLOT_PREFIX = 4, 30
NODE_MAC, INSTANCE_MAC, TAP_MAC, GUEST_MAC = (f"02:53:4b:00:00:0{number}" for number in (1, 2, 3, 4))
# The same in every microVM: clones of a snapshot keep their address.
GUEST_ADDRESS, GUEST_GATEWAY = "10.200.0.2", "10.200.0.1"
DNS_PORT = 53


class Slot(Record):
    """The addresses of one instance."""

    index: int
    device: str
    gateway: str
    address: str


def device_prefix(tag: str) -> str:
    return f"{MACHINE_PREFIX}{tag}"


def slots_of(pool: ipaddress.IPv4Network) -> int:
    return pool.num_addresses // SLOT_ADDRESSES


def slot_at(pool: ipaddress.IPv4Network, tag: str, index: int) -> Slot:
    assert 0 <= index < slots_of(pool)
    base = pool.network_address + index * SLOT_ADDRESSES
    return Slot(index=index, device=f"{device_prefix(tag)}{index:03x}", gateway=str(base + 1), address=str(base + 2))


def free_slot(used: frozenset[int], last: int, count: int) -> int | None:
    """The next free one after `last`: an address rests as long as it can before another instance has it."""
    return next((index for step in range(1, count + 1) if (index := (last + step) % count) not in used), None)


def candidates(pool: ipaddress.IPv4Network, prefix: int, tag: str, first: str | None) -> list[ipaddress.IPv4Network]:
    """Blocks that a node may take, in the order in which it tries: the one that it had, then from a place of its own on."""
    blocks = list(pool.subnets(new_prefix=prefix))
    start = stable_hash(tag) % len(blocks)
    ordered = blocks[start:] + blocks[:start]
    had = ipaddress.IPv4Network(first) if first is not None else None
    return [had, *(block for block in ordered if block != had)] if had in blocks else ordered  # type: ignore[list-item]


def guest_of(slot: Slot, device: Device) -> GuestNetwork:
    """What a kernel of its own has to set up."""
    if device == "tap":
        return GuestNetwork(
            device=TAP,
            mac=GUEST_MAC,
            address=f"{GUEST_ADDRESS}/{SLOT_PREFIX}",
            gateway=GUEST_GATEWAY,
            gateway_mac=TAP_MAC,
            dns=(GUEST_GATEWAY,),
        )
    return GuestNetwork(
        device=INNER,
        mac=INSTANCE_MAC,
        address=f"{slot.address}/{SLOT_PREFIX}",
        gateway=slot.gateway,
        gateway_mac=NODE_MAC,
        dns=(slot.gateway,),
    )
