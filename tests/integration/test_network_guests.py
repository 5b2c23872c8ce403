"""Devices for kernels of their own: a microVM's tap, gVisor's veth."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.query
import pytest
from msgspec.structs import replace

from skerry.adapters.network.linux import devices, namespaces
from skerry.adapters.network.linux.addresses import GUEST_ADDRESS, GUEST_GATEWAY, GUEST_MAC, INNER, TAP_MAC
from skerry.adapters.network.linux.network import LinuxNetwork
from skerry.adapters.network.linux.probe import probe
from skerry.ports.network import NetworkWant
from skerry.testing import netlab_raw as raw
from skerry.testing.contracts.network import PORT, A, B, served, want
from skerry.testing.netlab import PORT as WORLD_PORT
from skerry.testing.netlab import PRIVATE, PUBLIC, PUBLIC_2, UPLINK, UPLINK_HOST
from skerry.testing.network_node import NetworkNode
from skerry.testing.waiting import eventually

pytestmark = [
    pytest.mark.skipif(not probe().usable, reason=f"network: {probe().rules}"),
    pytest.mark.skipif(bool(probe().tap), reason=f"tap: {probe().tap}"),
]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NetworkNode]:
    node = NetworkNode(tmp_path)
    try:
        yield node
    finally:
        await node.clean_up()


@pytest.fixture
async def network(node: NetworkNode) -> LinuxNetwork:
    return await node.open()


def wanted(instance: str, device: str = "tap", **policy: object) -> NetworkWant:
    return replace(want(instance, **policy), device=device)


async def test_a_guest_is_reached_and_reaches_what_its_policy_allows(
    network: LinuxNetwork, node: NetworkNode, tmp_path: Path
) -> None:
    made = await network.create(wanted(A))
    neighbour = await network.create(want(B))
    await node.serve(neighbour, "neighbour")
    guest = raw.Guest(tmp_path / "guest", made)
    try:
        await node.lab.listen(guest.netns, PORT, "guest")
        address = await network.publish(A, port=PORT, protocol="http")
        await network.open(A)
        assert await node.request(address) == (200, "guest")
        assert await node.lab.reaches(guest.netns, f"{PUBLIC}:{WORLD_PORT}")
        for target in (PRIVATE, UPLINK_HOST, made.guest.gateway, made.address, "169.254.169.254"):
            assert not await node.lab.reaches(guest.netns, f"{target}:{WORLD_PORT}"), target
        assert not await node.lab.reaches(guest.netns, f"{neighbour.address}:{PORT}")
        assert Path(made.resolv_conf).read_text() == f"nameserver {GUEST_GATEWAY}\n"
        query = dns.message.make_query("example.org", "AAAA")
        await node.lab.inside(guest.netns, lambda: dns.query.udp(query, GUEST_GATEWAY, timeout=10))
        await node.lab.inside(guest.netns, lambda: dns.query.tcp(query, GUEST_GATEWAY, timeout=10))
    finally:
        guest.close()


async def test_clones_have_one_address_and_do_not_meet(network: LinuxNetwork, node: NetworkNode, tmp_path: Path) -> None:
    made = [await network.create(wanted(instance)) for instance in (A, B)]
    assert made[0].guest == made[1].guest
    assert made[0].address != made[1].address
    guests = [raw.Guest(tmp_path / one.address, one) for one in made]
    try:
        for instance, guest in zip((A, B), guests, strict=True):
            await node.lab.listen(guest.netns, PORT, instance)
            address = await network.publish(instance, port=PORT, protocol="http")
            await network.open(instance)
            assert await node.request(address) == (200, instance)
            assert await node.lab.reaches(guest.netns, f"{PUBLIC}:{WORLD_PORT}")
    finally:
        for guest in guests:
            guest.close()


async def test_a_guest_that_lies_is_not_heard(network: LinuxNetwork, node: NetworkNode, tmp_path: Path) -> None:
    made, neighbour = await network.create(wanted(A)), await network.create(want(B))
    guest = raw.Guest(tmp_path / "guest", made)
    sniffer = raw.Sniffer(node.lab.world, UPLINK)
    try:
        for source in (made.address, neighbour.address, UPLINK_HOST, "1.2.3.4", "10.200.0.1", "127.0.0.1"):
            guest.send(raw.ethernet(raw.ETH_IP, raw.udp(source, PUBLIC, 7000), source=GUEST_MAC, target=TAP_MAC))
        guest.send(raw.arp_reply(GUEST_GATEWAY, of="02:66:66:66:66:66", to=GUEST_ADDRESS, to_mac=TAP_MAC))
        guest.send(raw.ethernet(raw.ETH_IP, raw.udp(GUEST_ADDRESS, PUBLIC_2, 7000), source=GUEST_MAC, target=TAP_MAC))
        arrived: set[str] = set()
        await eventually(lambda: arrived.update(sniffer.destinations()) or PUBLIC_2 in arrived)
        assert PUBLIC not in arrived
    finally:
        sniffer.close()
        guest.close()


async def test_both_sides_know_each_other_from_the_start(network: LinuxNetwork) -> None:
    """So a first packet waits for no answer, and none can be given falsely."""
    made = await network.create(wanted(A))
    assert (made.guest.mac, made.guest.gateway_mac) == (GUEST_MAC, TAP_MAC)

    def known() -> dict[str, str]:
        with devices.netlink() as route:
            entries = route.get_neighbours(family=2)  # type: ignore[attr-defined]
            return {str(entry.get("NDA_DST")): str(entry.get("NDA_LLADDR")) for entry in entries if entry["state"] == 0x80}

    assert namespaces.inside(Path(made.netns), known)[GUEST_ADDRESS] == GUEST_MAC


async def test_gvisor_gets_its_address_back_before_each_start(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(wanted(A, "gvisor"))

    def taken() -> None:
        with devices.netlink() as route:
            index = devices.index_of(route, INNER)
            route.addr("del", index=index, address=made.address, prefixlen=30)

    namespaces.inside(Path(made.netns), taken)
    assert not await node.reaches(made, PUBLIC)
    assert await network.create(wanted(A, "gvisor")) == made
    assert await node.reaches(made, PUBLIC)


@pytest.mark.parametrize("device", ["kernel", "tap"])
async def test_bandwidth_is_limited_both_ways(network: LinuxNetwork, node: NetworkNode, device: str) -> None:
    made = await network.create(wanted(A, device, egress_kbits_max=8_000, ingress_kbits_max=16_000))

    def limits() -> list[int]:
        with devices.netlink() as route:
            shapers = [entry for entry in route.get_qdiscs() if entry.get("TCA_KIND") == "tbf"]  # type: ignore[attr-defined]
            return [entry.get("TCA_OPTIONS").get("TCA_TBF_PARMS")["rate"] for entry in shapers]

    assert namespaces.inside(Path(made.netns), limits) == [1_000_000]
    assert namespaces.inside(node.lab.machine, limits) == [2_000_000]
    await network.change_policy(A, want(egress_kbits_max=4_000).policy)
    assert namespaces.inside(Path(made.netns), limits) == [500_000]
    assert namespaces.inside(node.lab.machine, limits) == []


async def test_open_connections_are_counted(network: LinuxNetwork, node: NetworkNode) -> None:
    """Those that the kernel carries and those in the agent's hands; a health check of the instance's own address is none."""
    made, address = await served(network, node)
    host, _, port = address.rpartition(":")
    _, direct = await asyncio.open_connection(made.address, PORT)
    assert await node.request(address) == (200, A)
    _, through = await asyncio.open_connection(host, int(port))
    await eventually(lambda: network.traffic(A).connections == 1)
    through.close()
    direct.close()
    await eventually(lambda: network.traffic(A).connections == 0)
    await network.hold(A)
    _, waiting = await asyncio.open_connection(host, int(port))
    await eventually(lambda: network.traffic(A).connections == 1)
    waiting.close()
