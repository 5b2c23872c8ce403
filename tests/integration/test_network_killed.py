"""Agents that are killed in the middle, nodes side by side, and what is left of them: nothing."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.query
import pytest

from skerry.adapters.network.linux import devices, leftovers, namespaces
from skerry.adapters.network.linux.nft import Nft
from skerry.adapters.network.linux.probe import probe
from skerry.adapters.process.detached import kill_tagged
from skerry.apps.supervisor.layout import run_dir_of
from skerry.apps.supervisor.leftovers import find_leftovers, remove_leftovers
from skerry.ports.network import NetworkUnavailable
from skerry.testing.contracts.network import PORT, A, B, served, want
from skerry.testing.netlab import UPLINK, UPLINK_WORLD, NetworkLab
from skerry.testing.network_node import NetworkNode

pytestmark = pytest.mark.skipif(not probe().usable, reason=f"network: {probe().rules}")

STEPS_TRIED = 8
# An agent that dies before the n-th thing that it would do to the machine.
AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
from skerry.adapters.network.linux import devices, namespaces, network, nft, steps
from skerry.core.types.program import NetworkPolicy
from skerry.ports.network import NetworkWant

data, run, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
done = 0

def counted(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **named):
        global done
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return real(*arguments, **named)
    setattr(owner, name, call)

counted(nft.Nft, "run")
for name in ("make_link", "set_up_inside", "shape", "shape_inside", "hold_block", "remove_link", "write", "_make_tap"):
    counted(devices, name)
counted(namespaces, "_call")
for name in ("save", "write_private", "_file"):
    counted(steps, name)
counted(network, "save")

async def main():
    net = network.LinuxNetwork(address="127.0.1.11", data_dir=data, run_dir=run)
    await net.attach(frozenset())
    for instance, device in (("a" * 16, "kernel"), ("b" * 16, "tap")):
        await net.create(NetworkWant(instance=instance, account="0" * 32, device=device))
        await net.publish(instance, port=8000, protocol="http")
        await net.open(instance)
    await net.change_policy("a" * 16, NetworkPolicy(internet=False, egress_kbits_max=1000))
    await net.hold("b" * 16)
    await net.remove("b" * 16)
    print(done, flush=True)
    await asyncio.sleep(0)
    await net.aclose(remove_all=False)

asyncio.run(main())
"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NetworkNode]:
    node = NetworkNode(tmp_path)
    try:
        yield node
    finally:
        await node.clean_up()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[NetworkLab]:
    with NetworkLab(tmp_path / "lab") as lab:
        await lab.world_listens()
        yield lab


def run_agent(node: NetworkNode, at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AGENT, str(node.data), str(node.run), str(at)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


async def test_whatever_step_an_agent_is_killed_at_the_next_one_finds_all(node: NetworkNode) -> None:
    whole = run_agent(node, -1)
    assert whole.returncode == 0, whole.stderr
    steps = int(whole.stdout)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {steps} steps")
    for turn, at in enumerate(sorted(random.Random(seed).sample(range(steps), STEPS_TRIED))):
        await (await node.open()).aclose(remove_all=True)
        killed = run_agent(node, at)
        assert killed.returncode == -signal.SIGKILL, (at, killed.stderr)
        network = await node.open(A)
        if turn % 2:  # one that was made goes on; the other is nobody's
            made = await network.create(want(A))
            assert await network.publish(A, port=PORT, protocol="http")
            assert await node.reaches(made, node.public), at
            assert not await node.reaches(made, node.private), at
            assert [path.name for path in node.places.instances.iterdir()] == [A]
        await network.aclose(remove_all=True)
        assert await node.leftovers() == [], at


async def test_all_is_found_by_the_names_alone(node: NetworkNode) -> None:
    assert run_agent(node, 60).returncode == -signal.SIGKILL
    assert leftovers.find(node.data, node.run)
    await kill_tagged(node.places.tag)
    leftovers.remove(node.data, node.run)
    assert leftovers.find(node.data, node.run) == ()
    assert await node.leftovers() == []


async def test_the_platforms_end_removes_what_its_nodes_left(lab: NetworkLab, tmp_path: Path) -> None:
    data = tmp_path / "platform"
    node = NetworkNode(tmp_path, lab=lab, data=data / "nodes/lhr-1", run=run_dir_of(data) / "lhr-1")
    try:
        assert run_agent(node, 60).returncode == -signal.SIGKILL
        assert find_leftovers(data).networks
        assert not await remove_leftovers(data)
        assert leftovers.find(node.data, node.run) == ()
        assert not node.run.exists()
    finally:
        await node.clean_up()


async def test_nodes_of_one_machine_leave_each_other_alone(lab: NetworkLab, tmp_path: Path) -> None:
    first, second = (NetworkNode(tmp_path / name, lab=lab, address=f"127.0.1.{name}") for name in ("11", "12"))
    try:
        one, other = await asyncio.gather(first.open(), second.open())
        (made, address), (neighbour, its_address) = await served(one, first, A), await served(other, second, A)
        assert made.address != neighbour.address
        assert not await first.reaches(made, neighbour.address)
        assert not await lab.reaches(Path(made.netns), its_address)
        await other.create(want(B))
        await one.aclose(remove_all=True)
        assert await first.leftovers() == [found for found in await second.leftovers() if found.count(".") == 3]
        assert await second.request(its_address) == (200, A)
        assert await second.reaches(neighbour, second.public)
        with pytest.raises(ConnectionError):
            await first.request(address)
        assert devices.read(f"ipv4/conf/{UPLINK}/forwarding") == "1"
        await other.aclose(remove_all=True)
        assert await second.leftovers() == []
        assert devices.read(f"ipv4/conf/{UPLINK}/forwarding") == "0"
    finally:
        await first.clean_up()
        await second.clean_up()


async def test_instances_that_are_made_at_once_are_apart(node: NetworkNode) -> None:
    network = await node.open()
    made = await asyncio.gather(*(network.create(want(f"{number:016x}")) for number in range(20)))
    assert len({one.address for one in made}) == 20
    await asyncio.gather(*(network.publish(f"{number:016x}", port=PORT, protocol="http") for number in range(20)))
    await asyncio.gather(*(network.remove(f"{number:016x}") for number in range(20)))
    await network.aclose(remove_all=True)
    assert await node.leftovers() == []


async def test_eight_nodes_that_start_at_once_have_eight_blocks(lab: NetworkLab, tmp_path: Path) -> None:
    nodes = [NetworkNode(tmp_path / f"n{number}", lab=lab, address=f"127.0.1.{number}") for number in range(11, 19)]
    try:
        networks = await asyncio.gather(*(node.open() for node in nodes))
        made = [await network.create(want(A)) for network in networks]
        assert len({one.address for one in made}) == 8
        for network in networks:
            await network.aclose(remove_all=False)
        again = await asyncio.gather(*(node.open(A) for node in nodes))
        assert [await network.create(want(A)) for network in again] == made
    finally:
        for node in nodes:
            await node.clean_up()


async def test_after_a_boot_instances_have_their_addresses_again(node: NetworkNode) -> None:
    """Of the kernel's things and the run directory nothing is left, only records."""
    network = await node.open()
    _, address = await served(network, node)
    made = await network.create(want(A))
    await network.aclose(remove_all=False)
    await kill_tagged(node.places.tag)
    records = {path: path.read_bytes() for path in node.places.records.iterdir()}
    leftovers.remove(node.data, node.run)
    node.places.make()
    for path, content in records.items():
        path.write_bytes(content)
    network = await node.open(A)
    assert await network.create(want(A)) == made
    assert await network.publish(A, port=PORT, protocol="http") == address
    await node.serve(made, "again")
    await network.open(A)
    assert await node.request(address) == (200, "again")


async def test_a_table_of_another_version_is_replaced(node: NetworkNode) -> None:
    network = await node.open()
    await network.create(want(A))
    await network.aclose(remove_all=False)
    nft = Nft()
    table = f"inet skerry-{node.places.tag}"
    nft.run(f"delete table {table}\nadd table {table}\nadd set {table} pool {{ type ipv4_addr; flags interval; }}\n")
    nft.run(f"add element {table} pool {{ 100.64.0.0/19 }}\nadd set {table} flows {{ type ifname; }}\n")
    nft.close()
    network = await node.open(A)
    made = await network.create(want(A))
    assert await node.reaches(made, node.public)
    assert not await node.reaches(made, node.private)
    query = dns.message.make_query("example.org", "AAAA")
    await node.lab.inside(Path(made.netns), lambda: dns.query.udp(query, made.guest.gateway, timeout=10))


async def test_a_block_that_is_routed_is_not_taken(node: NetworkNode) -> None:
    def route_to(network: str) -> None:
        with devices.netlink() as route:
            route.route("add", dst=network, gateway=UPLINK_WORLD)

    first = await (await node.open()).create(want(A))
    await (await node.open(A)).aclose(remove_all=True)
    namespaces.inside(node.lab.machine, lambda: route_to(f"{first.address.rpartition('.')[0]}.0/24"))
    second = await (network := await node.open()).create(want(A))
    assert second.address != first.address
    await network.aclose(remove_all=True)
    namespaces.inside(node.lab.machine, lambda: route_to("100.64.0.0/10"))
    with pytest.raises(NetworkUnavailable, match="no free block"):
        await node.open()


async def test_without_root_it_says_what_to_do(node: NetworkNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NetworkUnavailable, match="root"):
        await node.open()
