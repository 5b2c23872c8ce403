"""Hostile programs: as root in their namespace, with raw sockets. More than any program has that Skerry runs."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from skerry.adapters.network.linux import devices, namespaces
from skerry.adapters.network.linux.addresses import GUEST_MAC, INNER, INSTANCE_MAC, NODE_MAC
from skerry.adapters.network.linux.network import LinuxNetwork
from skerry.adapters.network.linux.probe import probe
from skerry.adapters.network.linux.settings import Settings
from skerry.core.types.program import NetworkPolicy
from skerry.ports.network import InstanceNetwork
from skerry.testing import netlab_raw as raw
from skerry.testing.contracts.network import PORT, A, B, served, want
from skerry.testing.netlab import PORT as WORLD_PORT
from skerry.testing.netlab import PRIVATE, PUBLIC, PUBLIC_2, UPLINK, UPLINK_HOST, UPLINK_WORLD, WORLD
from skerry.testing.network_node import NetworkNode
from skerry.testing.waiting import eventually

pytestmark = pytest.mark.skipif(not probe().usable, reason=f"network: {probe().rules}")

ECHO_PORT, CONTROL_PORT = 9999, 8787
FLOWS_MAX, NEW_PER_S = 100, 50
SHUT = [address for address in WORLD if address not in (PUBLIC, PUBLIC_2)]
# The same addresses as libraries, parsers and people write them.
SPELLINGS = [
    "127.1", "0x7f000001", "2130706433", "017700000001", "0", "localhost", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376",
    "::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::ffff:10.9.9.9", "::169.254.169.254",
    "64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2002:0a09:0909::1", "fe80::1%eth0",
    "fe80::53:4bff:fe00:1%eth0", "fd00:ec2::254", "ff02::1%eth0", "2001:4860:4860::8888",
]  # fmt: skip


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NetworkNode]:
    node = NetworkNode(tmp_path, settings=Settings(flows_max=FLOWS_MAX, new_flows_per_s=NEW_PER_S))
    try:
        yield node
    finally:
        await node.clean_up()


@pytest.fixture
async def network(node: NetworkNode) -> LinuxNetwork:
    return await node.open()


def echo(netns: Path, address: str = "0.0.0.0") -> Callable[[], None]:
    """Answers datagrams; the returned function ends it."""
    answering = namespaces.inside(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    answering.setblocking(False)
    answering.bind((address, ECHO_PORT))
    loop = asyncio.get_running_loop()

    def answer() -> None:
        data, client = answering.recvfrom(2048)
        answering.sendto(data, client)

    loop.add_reader(answering, answer)

    def end() -> None:
        loop.remove_reader(answering)
        answering.close()

    return end


async def inside(node: NetworkNode, made: InstanceNetwork, work: Callable[[], object]) -> object:
    return await node.lab.inside(Path(made.netns), work)


async def test_every_address_that_is_not_public_by_tcp_udp_and_icmp(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want(A))
    neighbour, published = await served(network, node, B)
    await node.lab.listen(node.lab.machine, CONTROL_PORT, "control")
    ends = [echo(place) for place in (node.lab.machine, Path(neighbour.netns))]
    ends += [echo(node.lab.world, address) for address in WORLD]
    hosts = (UPLINK_HOST, made.guest.gateway, neighbour.guest.gateway, "127.0.0.1", node.address)
    others = (neighbour.address, UPLINK_WORLD, "255.255.255.255", "10.77.0.255", "224.0.0.1", "239.255.255.250", "0.0.0.0")
    ports = (WORLD_PORT, CONTROL_PORT, PORT, int(published.rpartition(":")[2]))

    async def reached(target: str) -> list[str]:
        by_tcp = [str(port) for port in ports if await node.lab.reaches(Path(made.netns), f"{target}:{port}")]
        by_udp = await inside(node, made, lambda: raw.answers_udp(target, ECHO_PORT))
        by_icmp = await inside(node, made, lambda: raw.ping(target))
        return [*by_tcp, *(["udp"] if by_udp else []), *(["icmp"] if by_icmp else [])]

    own = {"127.0.0.1": ["icmp"], node.address: ["icmp"]}  # the program's own loopback
    targets = (*SHUT, *hosts, *others)
    assert dict(zip(targets, await asyncio.gather(*map(reached, targets)), strict=True)) == {
        target: own.get(target, []) for target in targets
    }
    for target in (PUBLIC, PUBLIC_2):  # so that all of the above could have failed
        assert await reached(target) == [str(WORLD_PORT), "udp", "icmp"]
    for end in ends:
        end()


async def test_every_spelling_of_them(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    await node.lab.listen(node.lab.machine, CONTROL_PORT, "control")

    def connects(spelling: str, port: int) -> bool:
        try:
            with socket.create_connection((spelling, port), timeout=0.5):
                return True
        except OSError:
            return False

    def any_connects() -> list[str]:
        return [spelling for spelling in SPELLINGS for port in (WORLD_PORT, CONTROL_PORT) if connects(spelling, port)]

    assert await inside(node, made, any_connects) == []
    assert await inside(node, made, lambda: connects(str(int.from_bytes(socket.inet_aton(PUBLIC), "big")), WORLD_PORT))


async def test_packets_to_the_nodes_loopback(network: LinuxNetwork, node: NetworkNode) -> None:
    """As they come if a program writes frames by itself: the veth takes such addresses, for the answers of what is published."""
    made = await network.create(want())
    heard: list[bytes] = []
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setblocking(False)
    listener.bind(("0.0.0.0", ECHO_PORT))
    asyncio.get_running_loop().add_reader(listener, lambda: heard.append(listener.recv(2048)))
    targets = ("127.0.0.1", "127.0.0.53", node.address, UPLINK_HOST, made.guest.gateway, "255.255.255.255")
    sources = (made.address, "127.0.0.1", made.guest.gateway, PUBLIC)
    packets = [raw.udp(source, target, ECHO_PORT) for target in targets for source in sources]
    await inside(node, made, lambda: raw.send_frames([raw.ethernet(raw.ETH_IP, packet) for packet in packets]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.sendto(b"own", ("127.0.0.1", ECHO_PORT))
    await eventually(lambda: heard)
    assert heard == [b"own"]
    asyncio.get_running_loop().remove_reader(listener)
    listener.close()


async def test_nobody_speaks_for_another(network: LinuxNetwork, node: NetworkNode) -> None:
    made, neighbour = await network.create(want(A)), await network.create(want(B))
    sniffer = raw.Sniffer(node.lab.world, UPLINK)
    sources = (neighbour.address, made.guest.gateway, UPLINK_HOST, "127.0.0.1", PRIVATE, "1.2.3.4", "0.0.0.0", "255.255.255.255")
    packets = [raw.udp(source, PUBLIC, 7000) for source in sources]
    packets += [raw.syn(source, PUBLIC, WORLD_PORT, source_port=5000) for source in sources]
    frames = [raw.ethernet(raw.ETH_IP, packet) for packet in packets]
    frames += [raw.ethernet(raw.ETH_IP, raw.udp(made.address, PUBLIC_2, 7000))]  # the one honest packet
    await inside(node, made, lambda: raw.send_frames(frames))
    arrived: set[str] = set()
    await eventually(lambda: arrived.update(sniffer.destinations()) or PUBLIC_2 in arrived)
    assert PUBLIC not in arrived
    sniffer.close()


async def test_other_protocols_do_not_leave(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    sniffer = raw.Sniffer(node.lab.world, UPLINK)
    inner = raw.udp(made.address, PRIVATE, 7000)
    packets = [raw.ipv4(made.address, PUBLIC, protocol, inner) for protocol in (2, 4, 41, 47, 50, 88, 89, 112, 132, 255)]
    frames = [raw.ethernet(raw.ETH_IP, packet) for packet in packets]
    frames += [raw.ethernet(kind, inner) for kind in (raw.ETH_IPV6, 0x8100, 0x8847, 0x8863, 0x88CC)]
    frames += [raw.ethernet(raw.ETH_IP, raw.udp(made.address, PUBLIC_2, 7000))]
    await inside(node, made, lambda: raw.send_frames(frames))
    arrived: list[bytes] = []

    def last_arrived() -> bool:
        arrived.extend(sniffer.seen())
        return any(socket.inet_aton(PUBLIC_2) in frame for frame in arrived)

    await eventually(last_arrived)
    assert not [frame for frame in arrived if frame[12:14] == b"\x08\x00" and frame[30:34] == socket.inet_aton(PUBLIC)]
    sniffer.close()


async def test_fragments_are_judged_whole(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    sniffer = raw.Sniffer(node.lab.world, UPLINK)
    datagram = raw.udp(made.address, PRIVATE, 7000, b"x" * 1600)[20:]
    more, last = raw.ipv4(made.address, PRIVATE, raw.UDP, datagram[:800], fragment=0x2000), datagram[800:]
    frames = [more, raw.ipv4(made.address, PRIVATE, raw.UDP, last, fragment=100), raw.udp(made.address, PUBLIC_2, 7000)]
    await inside(node, made, lambda: raw.send_frames([raw.ethernet(raw.ETH_IP, frame) for frame in frames]))
    arrived: set[str] = set()
    await eventually(lambda: arrived.update(sniffer.destinations()) or PUBLIC_2 in arrived)
    assert PRIVATE not in arrived
    sniffer.close()


async def test_ipv6_is_closed_even_when_it_is_switched_on_inside(network: LinuxNetwork, node: NetworkNode) -> None:
    made, neighbour = await network.create(want(A)), await network.create(want(B))

    def switch_on() -> None:
        for name in ("all", "default", INNER):
            devices.write(f"ipv6/conf/{name}/disable_ipv6", "0")

    for one in (made, neighbour):
        await inside(node, one, switch_on)
    sniffers = [raw.Sniffer(node.lab.world, UPLINK), raw.Sniffer(Path(neighbour.netns), INNER)]

    def try_all() -> list[str]:
        found: list[str] = []
        for target in ("fe80::53:4bff:fe00:1", "ff02::1"):
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0.3)
                try:
                    sender.sendto(b"x", (target, ECHO_PORT, 0, socket.if_nametoindex(INNER)))
                    found += [target] if sender.recv(10) else []
                except OSError:
                    continue
        return found

    assert await inside(node, made, try_all) == []
    assert not [
        frame
        for sniffer in sniffers
        for frame in sniffer.seen()
        if frame[12:14] == b"\x86\xdd" and frame[6:12] == raw.mac(NODE_MAC)
    ]
    for sniffer in sniffers:
        sniffer.close()


async def test_arp_changes_nothing(network: LinuxNetwork, node: NetworkNode) -> None:
    made, neighbour = await network.create(want(A)), await network.create(want(B))
    await node.serve(neighbour, "neighbour")
    before = await asyncio.get_running_loop().run_in_executor(None, lambda: namespaces.inside(node.lab.machine, neighbours))
    evil = "02:66:66:66:66:66"
    claims = (made.guest.gateway, neighbour.address, neighbour.guest.gateway, UPLINK_WORLD, UPLINK_HOST, made.address)
    frames = [raw.arp_reply(claim, of=evil, to=to, to_mac=NODE_MAC) for claim in claims for to in (made.guest.gateway, claim)]
    await inside(node, made, lambda: raw.send_frames(frames))
    after = await asyncio.get_running_loop().run_in_executor(None, lambda: namespaces.inside(node.lab.machine, neighbours))
    assert evil not in after.values()
    assert before == {address: after[address] for address in before}
    assert await node.reaches(neighbour, PUBLIC)


def neighbours() -> dict[str, str]:
    with devices.netlink() as route:
        entries = route.get_neighbours(family=2)  # type: ignore[attr-defined]
        found = {str(entry.get("NDA_DST")): str(entry.get("NDA_LLADDR")) for entry in entries}
    return {
        address: mac for address, mac in found.items() if mac in (INSTANCE_MAC, NODE_MAC, GUEST_MAC) or mac.startswith("02:66")
    }


async def test_who_takes_anothers_address_is_not_heard(network: LinuxNetwork, node: NetworkNode) -> None:
    made, neighbour = await network.create(want(A)), await network.create(want(B))

    def take(address: str) -> None:
        with devices.netlink() as route:
            index = devices.index_of(route, INNER)
            route.addr("del", index=index, address=made.address, prefixlen=30)
            route.addr("add", index=index, address=address, prefixlen=24)
            route.route("add", dst=f"{PUBLIC}/32", oif=index)
            route.neigh("replace", dst=PUBLIC, lladdr=NODE_MAC, ifindex=index, state="permanent")

    await inside(node, made, lambda: take(neighbour.address))
    assert not await node.reaches(made, PUBLIC)
    await node.serve(neighbour, "the real one")
    await network.publish(B, port=PORT, protocol="http")
    await network.open(B)
    assert (await node.request(await network.publish(B, port=PORT, protocol="http")))[1] == "the real one"


async def test_floods_take_no_more_than_their_share_of_the_connection_table(network: LinuxNetwork, node: NetworkNode) -> None:
    made, other = await network.create(want(A)), await network.create(want(B))
    syns = [raw.syn(made.address, PUBLIC, WORLD_PORT, source_port=1024 + number) for number in range(4000)]
    datagrams = [raw.udp(made.address, PUBLIC, 1024 + number) for number in range(4000)]
    frames = [raw.ethernet(raw.ETH_IP, packet) for packet in (*syns, *datagrams)]
    await inside(node, made, lambda: raw.send_frames(frames))
    assert int(devices.read("netfilter/nf_conntrack_count")) <= FLOWS_MAX + 20
    assert await node.reaches(other, PUBLIC)
    await eventually(lambda: network.traffic(A).refused_packets > 4000)


async def test_a_flood_to_what_is_shut_fills_nothing(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    packets = [raw.udp(made.address, PRIVATE, 1024 + number) for number in range(4000)]
    await inside(node, made, lambda: raw.send_frames([raw.ethernet(raw.ETH_IP, packet) for packet in packets]))
    assert int(devices.read("netfilter/nf_conntrack_count")) < 20


async def test_connections_that_are_held_are_few(network: LinuxNetwork, node: NetworkNode) -> None:
    """A flood of clients at a published address waits in the kernel, beyond what the agent takes."""
    await network.create(want())
    address = await network.publish(A, port=PORT, protocol="http")
    host, _, port = address.rpartition(":")
    clients = [await asyncio.open_connection(host, int(port)) for _ in range(300)]
    await network.refuse(A, "no")
    for reader, writer in clients:
        assert (await reader.read(12)) == b"HTTP/1.1 503"
        writer.close()


async def test_the_operators_word_opens_a_network_and_no_more(tmp_path: Path) -> None:
    node = NetworkNode(
        tmp_path, settings=Settings(egress_allow=(f"{PRIVATE}/32", "192.168.0.0/16", "10.77.0.0/24", "100.64.0.0/10"))
    )
    try:
        network = await node.open()
        made, neighbour = await network.create(want(A)), await network.create(want(B))
        await node.serve(neighbour, "neighbour")
        assert await node.reaches(made, PRIVATE)
        assert await node.reaches(made, "192.168.7.7")
        assert await node.reaches(made, UPLINK_WORLD)
        assert not await node.reaches(made, UPLINK_HOST)  # it is the machine itself: only if named alone
        assert not await node.reaches(made, "172.16.5.5")
        assert not await node.lab.reaches(Path(made.netns), f"{neighbour.address}:{PORT}")
        await network.change_policy(A, NetworkPolicy(internet=False))
        assert not await node.reaches(made, PRIVATE)
        await network.change_policy(A, NetworkPolicy(internet=False, allow=(f"{PRIVATE}/32",)))
        assert await node.reaches(made, PRIVATE)
    finally:
        await node.clean_up()


async def test_the_operator_may_open_one_address_of_the_machine(tmp_path: Path) -> None:
    node = NetworkNode(tmp_path, settings=Settings(egress_allow=(f"{UPLINK_HOST}/32",)))
    try:
        network = await node.open()
        made = await network.create(want(A))
        assert await node.reaches(made, UPLINK_HOST)
        assert not await node.reaches(made, made.guest.gateway)
    finally:
        await node.clean_up()


async def test_the_machine_is_nobodys_router(network: LinuxNetwork, node: NetworkNode) -> None:
    """It forwards for its programs; a stranger on its network who sends packets through it gets nowhere."""
    made = await network.create(want())
    await node.serve(made, "program")

    def through(target: str) -> None:
        with devices.netlink() as route:
            route.route("replace", dst=f"{target}/32", gateway=UPLINK_HOST)

    for target in (made.address, "10.200.1.1"):
        await node.lab.inside(node.lab.world, lambda target=target: through(target))
    sniffer = raw.Sniffer(node.lab.world, UPLINK)
    assert not await node.lab.reaches(node.lab.world, f"{made.address}:{PORT}")
    assert not await node.lab.reaches(node.lab.world, "10.200.1.1:80")
    assert "10.200.1.1" not in sniffer.destinations()
    sniffer.close()
