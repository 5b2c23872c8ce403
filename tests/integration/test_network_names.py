"""Names of programs, on real namespaces: a DNS server in the world, the node's resolver in between."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from skerry.adapters.network.linux import namespaces
from skerry.adapters.network.linux.network import LinuxNetwork
from skerry.adapters.network.linux.nft import Nft
from skerry.adapters.network.linux.probe import probe
from skerry.adapters.network.linux.settings import Settings
from skerry.adapters.process import detached
from skerry.core.types.program import NetworkPolicy
from skerry.ports.network import InstanceNetwork
from skerry.testing.contracts.network import A, B, want
from skerry.testing.netlab import PRIVATE, PUBLIC, PUBLIC_2
from skerry.testing.network_node import NetworkNode
from skerry.testing.waiting import eventually

pytestmark = pytest.mark.skipif(not probe().usable, reason=f"network: {probe().rules}")

ZONE = {
    ("good.example.org.", "A"): [PUBLIC_2],
    ("good.example.org.", "AAAA"): ["2001:db8::1"],
    ("other.example.org.", "A"): [PUBLIC_2],
    ("alias.example.org.", "CNAME"): ["target.example.net."],
    ("target.example.net.", "A"): [PUBLIC_2],
    ("rebound.example.org.", "A"): [PRIVATE, "169.254.169.254", "127.0.0.1", "100.64.0.1"],
    ("half.example.org.", "A"): [PRIVATE, PUBLIC],
    ("big.example.org.", "TXT"): [f'"{letter * 250}"' for letter in "abcdefghijkl"],
    ("9.9.9.10.in-addr.arpa.", "PTR"): ["secret.example.org."],
    ("many.example.org.", "A"): [f"9.8.{index // 250}.{index % 250}" for index in range(600)],
}


class World:
    """Answers from `ZONE`, with what aliases lead to; over UDP what fits into 1,232 bytes."""

    def __init__(self, node: NetworkNode) -> None:
        self.asked: list[str] = []
        self._udp = namespaces.inside(node.lab.world, lambda: _bound(socket.SOCK_DGRAM))
        self._tcp = namespaces.inside(node.lab.world, lambda: _bound(socket.SOCK_STREAM))

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._serve_tcp, sock=self._tcp)
        self._task = asyncio.create_task(self._serve_udp(loop))

    def close(self) -> None:
        self._task.cancel()
        self._server.close()
        self._udp.close()

    def _answer(self, data: bytes, *, udp: bool) -> bytes:
        query = dns.message.from_wire(data)
        name, kind = query.question[0].name.to_text().lower(), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append(name)
        response = dns.message.make_response(query)
        for owner, owned in ((name, kind), (name, "CNAME"), *((to, kind) for to in ZONE.get((name, "CNAME"), []))):
            if (owner, owned) in ZONE:
                response.answer.append(dns.rrset.from_text_list(owner, 30, "IN", owned, ZONE[owner, owned]))
        if not response.answer:
            response.set_rcode(dns.rcode.NXDOMAIN)
        wire = response.to_wire(max_size=65535)
        if udp and len(wire) > 1232:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        return wire

    async def _serve_udp(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            data, client = await loop.sock_recvfrom(self._udp, 4096)
            await loop.sock_sendto(self._udp, self._answer(data, udp=True), client)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = self._answer(await reader.readexactly(length), udp=False)
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()


def _bound(kind: socket.SocketKind) -> socket.socket:
    bound = socket.socket(socket.AF_INET, kind)
    bound.setblocking(False)
    bound.bind((PUBLIC, 53))
    if kind == socket.SOCK_STREAM:
        bound.listen()
    return bound


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NetworkNode]:
    node = NetworkNode(tmp_path, settings=Settings(resolvers=(PUBLIC,)))
    try:
        yield node
    finally:
        await node.clean_up()


@pytest.fixture
async def world(node: NetworkNode) -> AsyncIterator[World]:
    world = World(node)
    await world.serve()
    yield world
    world.close()


@pytest.fixture
async def network(node: NetworkNode, world: World) -> LinuxNetwork:
    return await node.open()


async def ask(
    node: NetworkNode, made: InstanceNetwork, name: str, kind: str = "A", *, tcp: bool = False, timeout_s: float = 10
) -> dns.message.Message:
    """From inside the instance, of its own resolver."""
    query = dns.message.make_query(name, kind, use_edns=0)
    send = dns.query.tcp if tcp else dns.query.udp
    return await node.lab.inside(Path(made.netns), lambda: send(query, made.guest.dns[0], timeout=timeout_s))


def texts(reply: dns.message.Message) -> list[str]:
    return sorted(rdata.to_text() for rrset in reply.answer for rdata in rrset)


async def test_names_are_found(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    assert Path(made.resolv_conf).read_text() == f"nameserver {made.guest.gateway}\n"
    assert texts(await ask(node, made, "good.example.org")) == [PUBLIC_2]
    assert texts(await ask(node, made, "good.example.org", tcp=True)) == [PUBLIC_2]
    assert (await ask(node, made, "nothing.example.org")).rcode() == dns.rcode.NXDOMAIN


async def test_there_is_no_ipv6(network: LinuxNetwork, node: NetworkNode, world: World) -> None:
    made = await network.create(want())
    reply = await ask(node, made, "good.example.org", "AAAA")
    assert (reply.rcode(), texts(reply), world.asked) == (dns.rcode.NOERROR, [], [])


async def test_a_public_name_is_never_bound_to_a_private_address(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    assert texts(await ask(node, made, "rebound.example.org")) == []
    assert texts(await ask(node, made, "half.example.org")) == [PUBLIC]
    assert texts(await ask(node, made, "9.9.9.10.in-addr.arpa", "PTR")) == []


async def test_an_allowed_name_opens_its_addresses_to_who_asked(network: LinuxNetwork, node: NetworkNode, world: World) -> None:
    made = await network.create(want(A, only_allowed=True, allow=("good.example.org",)))
    other = await network.create(want(B, only_allowed=True, allow=("good.example.org",)))
    assert not await node.reaches(made, PUBLIC_2)
    assert (await ask(node, made, "other.example.org")).rcode() == dns.rcode.NXDOMAIN
    assert world.asked == []
    assert texts(await ask(node, made, "GOOD.example.org")) == [PUBLIC_2]
    assert await node.reaches(made, PUBLIC_2)
    assert not await node.reaches(made, PUBLIC)
    assert not await node.reaches(other, PUBLIC_2)


async def test_aliases_and_wildcards_lead_to_addresses(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want(internet=False, allow=("*.example.org",)))
    assert PUBLIC_2 in texts(await ask(node, made, "alias.example.org"))
    assert await node.reaches(made, PUBLIC_2)
    assert (await ask(node, made, "target.example.net")).rcode() == dns.rcode.NXDOMAIN


async def test_an_allowed_name_opens_no_private_address(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want(only_allowed=True, allow=("half.example.org",)))
    await ask(node, made, "half.example.org")
    assert await node.reaches(made, PUBLIC)
    assert not await node.reaches(made, PRIVATE)


async def test_addresses_are_let_through_for_as_long_as_the_answer_is_valid(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want(only_allowed=True, allow=("good.example.org",)))
    for _ in range(2):  # a second answer prolongs the first
        await ask(node, made, "good.example.org")
    nft = Nft()
    (found,) = (entry["set"]["elem"] for entry in nft.read(f"list set inet skerry-{node.places.tag} n_0") if "set" in entry)
    nft.close()
    (element,) = found
    assert (element["elem"]["val"], element["elem"]["timeout"]) == (PUBLIC_2, 90)


async def test_a_connection_outlives_the_answer_and_ends_with_the_policy(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want(only_allowed=True, allow=("good.example.org",)))
    await ask(node, made, "good.example.org")
    client = await node.lab.inside(Path(made.netns), lambda: socket.create_connection((PUBLIC_2, 80), timeout=5))
    nft = Nft()
    nft.run(f"flush set inet skerry-{node.places.tag} n_0")  # as time does
    nft.close()
    assert not await node.reaches(made, PUBLIC_2)
    client.sendall(b"GET / HTTP/1.1\r\n")
    await network.change_policy(A, NetworkPolicy(internet=False))
    client.sendall(b"\r\n")
    client.settimeout(1)
    with pytest.raises(OSError):
        assert await node.lab.inside(Path(made.netns), lambda: client.recv(1)) == b""
        raise TimeoutError
    client.close()


async def test_without_internet_there_are_no_names(network: LinuxNetwork, node: NetworkNode, world: World) -> None:
    made = await network.create(want(internet=False))
    with pytest.raises((OSError, dns.exception.Timeout)):
        await ask(node, made, "good.example.org", timeout_s=1)
    assert world.asked == []


async def test_large_answers_come_over_tcp(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    reply = await ask(node, made, "big.example.org", "TXT")
    assert reply.flags & dns.flags.TC
    assert not reply.answer
    assert len(texts(await ask(node, made, "big.example.org", "TXT", tcp=True))) == 12


async def test_of_a_huge_answer_a_part_is_let_through(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want(only_allowed=True, allow=("many.example.org",)))
    assert len(texts(await ask(node, made, "many.example.org", tcp=True))) == 600
    nft = Nft()
    (found,) = (entry["set"]["elem"] for entry in nft.read(f"list set inet skerry-{node.places.tag} n_0") if "set" in entry)
    nft.close()
    assert len(found) == 32


async def test_types_that_carry_data_are_few(network: LinuxNetwork, node: NetworkNode, world: World) -> None:
    made = await network.create(want())
    codes = [(await ask(node, made, f"x{number}.example.org", "TXT")).rcode() for number in range(60)]
    assert dns.rcode.REFUSED in codes
    assert len(world.asked) < 60
    assert texts(await ask(node, made, "good.example.org")) == [PUBLIC_2]


async def test_a_flood_of_questions_is_cut_off(network: LinuxNetwork, node: NetworkNode, world: World) -> None:
    made, other = await network.create(want(A)), await network.create(want(B))

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(3000):
                query = dns.message.make_query(f"x{number}.example.org", "A")
                try:
                    sender.sendto(query.to_wire(), (made.guest.gateway, 53))
                except OSError:
                    continue

    await node.lab.inside(Path(made.netns), flood)
    assert texts(await ask(node, other, "good.example.org")) == [PUBLIC_2]
    assert len(world.asked) < 1500  # two seconds' worth at once, and what its rate gave it meanwhile
    await eventually(lambda: network.traffic(A).refused_packets > 1000)


@pytest.mark.parametrize("garbage", [b"", b"\0", b"\xff" * 600, b"\0" * 12, bytes(range(256)) * 3])
async def test_garbage_does_no_harm(network: LinuxNetwork, node: NetworkNode, garbage: bytes) -> None:
    made = await network.create(want())

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(garbage, (made.guest.gateway, 53))
        with socket.create_connection((made.guest.gateway, 53), timeout=5) as sender:
            sender.sendall(len(garbage).to_bytes(2, "big") + garbage)

    await node.lab.inside(Path(made.netns), send)
    assert texts(await ask(node, made, "good.example.org")) == [PUBLIC_2]


async def test_names_are_found_while_the_agent_is_away(network: LinuxNetwork, node: NetworkNode) -> None:
    made = await network.create(want())
    await ask(node, made, "good.example.org")
    await node.kill_agent(network)
    assert texts(await ask(node, made, "good.example.org")) == [PUBLIC_2]
    await node.open(A)
    assert texts(await ask(node, made, "good.example.org")) == [PUBLIC_2]


@pytest.mark.parametrize("agent", ["the same", "the next"])
async def test_a_killed_resolver_is_back(network: LinuxNetwork, node: NetworkNode, agent: str) -> None:
    made = await network.create(want())
    await ask(node, made, "good.example.org")
    if agent == "the next":
        await node.kill_agent(network)
        network = await node.open(A)
    (pid,) = detached.find_tagged(node.places.tag)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: detached.find_tagged(node.places.tag) not in ((pid,), ()))
    assert texts(await ask(node, made, "good.example.org")) == [PUBLIC_2]
