"""The steps that make and remove an instance's network, in the kernel's thread. Idempotent, and safe to be killed in.

Made: rules, namespace, link, what is inside. Removed: the same from the other end. So no device is up without its rules.
"""

import ipaddress
import re
import shutil
from pathlib import Path
from typing import Any, Literal

from skerry.adapters.network.linux import devices, lease, namespaces, rules
from skerry.adapters.network.linux.addresses import Slot, device_prefix, guest_of, slot_at
from skerry.adapters.network.linux.asking import Asker
from skerry.adapters.network.linux.kernel import Hands
from skerry.adapters.network.linux.nft import Nft, NftError
from skerry.adapters.network.linux.records import InstanceRecord, LeaseRecord, load_lease, save
from skerry.adapters.network.linux.settings import Places, Settings, parsed_networks
from skerry.adapters.process.detached import write_private
from skerry.core.policy.reach import reach_of
from skerry.kit.record import encode
from skerry.ports.network import InstanceNetwork

HOST_PREFIX = 32
# Of a line of the kernel's table: whom a connection was opened to, and who answers it.
_TRACKED = re.compile(r" ESTABLISHED src=\S+ dst=(\S+) .*? src=(\S+) dst=")


def prepare(hands: Hands, places: Places, settings: Settings) -> str:
    """The node's table and block of addresses; the block."""
    with lease.machine_mutex():
        pool = lease.claim(hands.nft, hands.route, places.tag, settings, load_lease(places.lease))
        uplinks = lease.open_uplinks(hands.nft, hands.route, places.tag)
        base = rules.base(_facts(places, settings, pool, uplinks))
        try:
            hands.nft.run(base)
        except NftError:  # a table of another version of ours: its instances' rules follow at once, what was open is opened again
            hands.nft.run(f"delete table {rules.table_of(places.tag)}\n{base}")
        lease.forward(uplinks)
    devices.hold_block(hands.route, pool)
    save(places.lease, LeaseRecord(pool=pool))
    return pool


def _facts(places: Places, settings: Settings, pool: str, uplinks: tuple[str, ...]) -> rules.Base:
    """A program's 127.0.0.0/8 is its own, so the operator's word for workers cannot mean it."""
    allowed = [network for network in parsed_networks(settings.egress_allow) if not network.is_loopback]
    return rules.Base(
        tag=places.tag,
        pool=pool,
        uplinks=uplinks,
        operator=tuple(str(network) for network in allowed),
        hosts=tuple(str(network.network_address) for network in allowed if network.prefixlen == HOST_PREFIX),
        settings=settings,
    )


def make(hands: Hands, places: Places, settings: Settings, pool: str, record: InstanceRecord) -> InstanceNetwork:
    slot = slot_at(ipaddress.IPv4Network(pool), places.tag, record.slot)
    directory, netns = places.instance(record.instance), places.netns(record.instance)
    judge(hands, places, slot, record)
    directory.mkdir(mode=0o755, exist_ok=True)
    namespaces.make(netns)
    devices.make_link(hands.route, slot, netns, f"skerry {places.tag} {record.instance}")
    devices.set_up_inside(netns, slot, record.device)
    if record.device == "tap":
        namespaces.inside(netns, lambda: _rules_inside(slot))
    shape(hands, places, settings, pool, record)
    return describe(places, slot, record)


def take_over(hands: Hands, places: Places, settings: Settings, pool: str, records: tuple[InstanceRecord, ...]) -> None:
    """What stands of an earlier agent's is judged anew, all in one transaction; what is half made is made."""
    network = ipaddress.IPv4Network(pool)
    slots = {record.instance: slot_at(network, places.tag, record.slot) for record in records}
    texts = [
        rules.instance(places.tag, slots[record.instance], reach_of(record.policy), number=record.policies) for record in records
    ]
    hands.nft.run("".join(texts))
    names = set(devices.names_with(hands.route, device_prefix(places.tag)))
    for record in records:
        if slots[record.instance].device not in names or not _stands(places, record):
            make(hands, places, settings, pool, record)


def _stands(places: Places, record: InstanceRecord) -> bool:
    """The last step of `record` was done: see `shape`."""
    try:
        made = _made(places, record).read_text()
    except OSError:
        return False
    return made == str(record.policies) and namespaces.exists(places.netns(record.instance))


def _made(places: Places, record: InstanceRecord) -> Path:
    return places.instance(record.instance) / "made"


def judge(hands: Hands, places: Places, slot: Slot, record: InstanceRecord) -> None:
    """Its policy, for the kernel and for the resolver."""
    reach = reach_of(record.policy)
    hands.nft.run(rules.instance(places.tag, slot, reach, number=record.policies))
    write_private(places.asker(slot.address), encode(Asker(instance=record.instance, slot=slot.index, reach=reach)))


def shape(hands: Hands, places: Places, settings: Settings, pool: str, record: InstanceRecord) -> None:
    """Its bandwidths: each direction at the end where it leaves. The last step of all."""
    slot = slot_at(ipaddress.IPv4Network(pool), places.tag, record.slot)
    policy = record.policy
    devices.shape(hands.route, slot.device, _least(policy.ingress_kbits_max, settings.ingress_kbits_max))
    devices.shape_inside(places.netns(record.instance), _least(policy.egress_kbits_max, settings.egress_kbits_max))
    _made(places, record).write_text(str(record.policies))


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _rules_inside(slot: Slot) -> None:
    nft = Nft()
    try:
        table = f"inet {rules.INNER_TABLE}"
        nft.run(f"add table {table}\ndelete table {table}\n{rules.inside_tap(slot)}")
    finally:
        nft.close()


def describe(places: Places, slot: Slot, record: InstanceRecord) -> InstanceNetwork:
    """Write the instance's two files and tell of all."""
    guest = guest_of(slot, record.device)
    directory = places.instance(record.instance)
    own_address = guest.address.partition("/")[0]
    resolv_conf = _file(directory / "resolv.conf", f"nameserver {guest.dns[0]}\n")
    hosts = _file(directory / "hosts", f"127.0.0.1 localhost\n{own_address} {record.instance}\n")
    netns = str(places.netns(record.instance))
    return InstanceNetwork(netns=netns, address=slot.address, guest=guest, resolv_conf=resolv_conf, hosts=hosts)


def _file(path: Path, text: str) -> str:
    if not path.exists() or path.read_text() != text:
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(text)
        temporary.chmod(0o644)  # read by the program, whoever it runs as
        temporary.rename(path)
    return str(path)


def unmake(hands: Hands, places: Places, pool: str, record: InstanceRecord) -> None:
    slot = slot_at(ipaddress.IPv4Network(pool), places.tag, record.slot)
    if record.published is not None:
        hands.nft.run(rules.unpublish(places.tag, record.published.address, slot, record.published.port))
    devices.remove_link(hands.route, slot.device)
    _remove_directory(places, record.instance)
    places.asker(slot.address).unlink(missing_ok=True)
    hands.nft.run(rules.no_instance(places.tag, slot))


def _remove_directory(places: Places, instance_id: str) -> None:
    namespaces.remove(places.netns(instance_id))
    shutil.rmtree(places.instance(instance_id), ignore_errors=True)


def published(hands: Hands, places: Places) -> dict[str, str]:
    """host:port of the node → host:port of the instance, for those that are open."""
    found: dict[str, str] = {}
    for entry in hands.nft.read(f"list map {rules.table_of(places.tag)} published"):
        for key, value in entry.get("map", {}).get("elem", []):
            found[_address(key)] = _address(value)
    return found


def _address(concatenation: dict[str, Any]) -> str:
    host, port = concatenation["concat"]
    return f"{host}:{port}"


def sweep(hands: Hands, places: Places, pool: str, kept: tuple[InstanceRecord, ...]) -> None:
    """Remove what belongs to no instance of `kept`: devices, namespaces, chains, sets and elements."""
    network = ipaddress.IPv4Network(pool)
    slots = [slot_at(network, places.tag, record.slot) for record in kept]
    names = {slot.device for slot in slots}
    for name in devices.names_with(hands.route, device_prefix(places.tag)):
        if name not in names:
            devices.remove_link(hands.route, name)
    ids = {record.instance for record in kept}
    for path in places.instances.glob("*"):
        if path.name not in ids:
            _remove_directory(places, path.name)
    for path in places.askers.glob("*.json"):
        if path.stem not in {slot.address for slot in slots}:
            path.unlink()
    _sweep_rules(hands, places, network, {slot.index for slot in slots}, {slot.address for slot in slots})


def _sweep_rules(hands: Hands, places: Places, network: ipaddress.IPv4Network, indexes: set[int], addresses: set[str]) -> None:
    for address, target in published(hands, places).items():
        if target.rpartition(":")[0] not in addresses:
            host, _, port = address.rpartition(":")
            hands.nft.run(f"delete element {rules.table_of(places.tag)} published {{ {host} . {port} }}")
    for entry in hands.nft.read(f"list chains {rules.table_of(places.tag).partition(' ')[0]}"):
        chain = entry.get("chain", {})
        if chain.get("table") == rules.table_of(places.tag).partition(" ")[2] and chain["name"].startswith(rules.CHAIN_PREFIX):
            index = int(chain["name"].removeprefix(rules.CHAIN_PREFIX))
            if index not in indexes:
                hands.nft.run(rules.no_instance(places.tag, slot_at(network, places.tag, index)))


def remove_everything(hands: Hands, places: Places) -> None:
    """Of this node, known or not; the table last, since it tells what there is."""
    for name in devices.names_with(hands.route, device_prefix(places.tag)):
        devices.remove_link(hands.route, name)
    for path in places.instances.glob("*"):
        _remove_directory(places, path.name)
    lease.release(hands.nft, hands.route, places.tag)
    for path in (places.run, places.records, places.processes):
        shutil.rmtree(path, ignore_errors=True)


def counted(hands: Hands, tag: str, what: Literal["refused", "accepted"]) -> dict[str, int]:
    """Packets refused, or connections let in, by the instance's address."""
    try:
        found = hands.nft.read(f"list set {rules.table_of(tag)} {what}")
    except NftError:
        return {}
    elements = [element["elem"] for entry in found for element in entry.get("set", {}).get("elem", [])]
    return {element["val"]: element["counter"]["packets"] for element in elements}


def device_bytes(tag: str) -> dict[str, tuple[int, int]]:
    """Device → (bytes to the instance, bytes from it); of the namespace that the calling thread is in."""
    found: dict[str, tuple[int, int]] = {}
    try:
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, numbers = line.strip().partition(":")
        if name.startswith(device_prefix(tag)):
            fields = numbers.split()
            found[name] = (int(fields[8]), int(fields[0]))
    return found


def connections(addresses: frozenset[str]) -> dict[str, int] | None:
    """Open ones to programs by their published address, by the instance's; None where the kernel does not list them."""
    try:
        text = Path("/proc/thread-self/net/nf_conntrack").read_text()
    except OSError:
        return None
    found: dict[str, int] = {}
    for called, answering in _TRACKED.findall(text):
        if answering in addresses and called != answering:
            found[answering] = found.get(answering, 0) + 1
    return found
