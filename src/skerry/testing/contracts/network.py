"""The contract of `skerry.ports.network.Network`, as tests. Subclass it and give it a `harness` fixture."""

import asyncio
from typing import Protocol

import pytest

from skerry.core.types.ids import AccountId
from skerry.core.types.program import NetworkPolicy
from skerry.ports.network import InstanceNetwork, Network, NetworkError, NetworkWant
from skerry.testing.waiting import eventually

DEADLINE_S = 30  # for what would otherwise wait for ever when the contract is broken
A, B = "a" * 16, "b" * 16
PORT = 8000


class NetworkHarness(Protocol):
    """How the suite reaches one adapter. All networks that it opens stand for agents of the same node, one after the other."""

    public: str  # addresses of the world outside, in which somebody answers
    other_public: str
    private: str
    node: str  # an address of the node itself

    async def open(self, *known: str) -> Network:
        """A new agent's, attached. The one before was closed, or abandoned by `kill_agent`."""
        ...

    async def kill_agent(self, network: Network) -> None:
        """As kill -9 of the agent's process: nothing is cleaned up."""
        ...

    async def serve(self, made: InstanceNetwork, answer: str) -> None:
        """A program in the instance begins to answer at `PORT`."""
        ...

    async def request(self, address: str) -> tuple[int, str]:
        """(status, text) of the answer at a published address. Raises `ConnectionError` when there is none."""
        ...

    async def reaches(self, made: InstanceNetwork, host: str) -> bool:
        """A program in the instance gets a connection to that address."""
        ...

    async def leftovers(self) -> list[str]:
        """What there is of this node: namespaces, devices, rules, addresses, sockets, records."""
        ...


def want(instance: str = A, **policy: object) -> NetworkWant:
    return NetworkWant(instance=instance, account=AccountId("0" * 32), policy=NetworkPolicy(**policy))  # type: ignore[arg-type]


async def rung(network: Network) -> str:
    async with asyncio.timeout(DEADLINE_S):
        async for instance_id in network.rings():
            return instance_id
    raise AssertionError("rings ended")


async def served(network: Network, harness: NetworkHarness, instance: str = A) -> tuple[InstanceNetwork, str]:
    """An instance whose program answers with its id, and its address; open."""
    made = await network.create(want(instance))
    address = await network.publish(instance, port=PORT, protocol="http")
    await harness.serve(made, instance)
    await network.open(instance)
    return made, address


class NetworkContract:
    @pytest.fixture
    async def network(self, harness: NetworkHarness) -> Network:
        return await harness.open()

    async def test_create_is_idempotent(self, network: Network) -> None:
        assert await network.create(want()) == await network.create(want())

    async def test_by_default_it_reaches_the_public_internet_alone(self, network: Network, harness: NetworkHarness) -> None:
        made, other = await network.create(want(A)), await network.create(want(B))
        await harness.serve(other, "other")
        assert await harness.reaches(made, harness.public)
        assert not await harness.reaches(made, harness.private)
        assert not await harness.reaches(made, harness.node)
        assert not await harness.reaches(made, other.address)

    async def test_without_internet_it_reaches_nobody(self, network: Network, harness: NetworkHarness) -> None:
        made = await network.create(want(internet=False))
        assert not await harness.reaches(made, harness.public)
        assert not await harness.reaches(made, harness.private)

    async def test_only_allowed_means_these_alone(self, network: Network, harness: NetworkHarness) -> None:
        made = await network.create(want(only_allowed=True, allow=(f"{harness.public}/32",)))
        assert await harness.reaches(made, harness.public)
        assert not await harness.reaches(made, harness.other_public)

    async def test_a_programs_own_list_opens_nothing_private(self, network: Network, harness: NetworkHarness) -> None:
        made = await network.create(want(allow=("0.0.0.0/0", f"{harness.private}/32", f"{harness.node}/32")))
        assert not await harness.reaches(made, harness.private)
        assert not await harness.reaches(made, harness.node)
        await network.change_policy(A, want(internet=False, allow=("0.0.0.0/0",)).policy)
        assert not await harness.reaches(made, harness.private)
        assert await harness.reaches(made, harness.public)

    async def test_a_changed_policy_holds_at_once(self, network: Network, harness: NetworkHarness) -> None:
        made = await network.create(want(internet=False))
        await network.change_policy(A, NetworkPolicy())
        assert await harness.reaches(made, harness.public)
        await network.change_policy(A, NetworkPolicy(internet=False))
        assert not await harness.reaches(made, harness.public)

    async def test_connections_wait_ring_and_are_let_in(self, network: Network, harness: NetworkHarness) -> None:
        made = await network.create(want())
        address = await network.publish(A, port=PORT, protocol="http")
        waiting = asyncio.create_task(harness.request(address))
        assert await rung(network) == A
        await harness.serve(made, "here")
        assert not waiting.done()
        await network.open(A)
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting == (200, "here")
            assert await harness.request(address) == (200, "here")

    async def test_each_that_comes_rings(self, network: Network, harness: NetworkHarness) -> None:
        await network.create(want())
        address = await network.publish(A, port=PORT, protocol="http")
        first = asyncio.create_task(harness.request(address))
        assert await rung(network) == A
        second = asyncio.create_task(harness.request(address))
        assert await rung(network) == A
        await network.refuse(A, "never")
        assert {(await first)[0], (await second)[0]} == {503}

    async def test_hold_is_the_way_back(self, network: Network, harness: NetworkHarness) -> None:
        _, address = await served(network, harness)
        await network.hold(A)
        waiting = asyncio.create_task(harness.request(address))
        assert await rung(network) == A
        assert not waiting.done()
        await network.open(A)
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting == (200, A)

    async def test_who_knocks_where_a_program_has_just_died_waits(self, network: Network, harness: NetworkHarness) -> None:
        made = await network.create(want())
        address = await network.publish(A, port=PORT, protocol="http")
        await network.open(A)  # as if it had died since
        knocking = asyncio.create_task(harness.request(address))
        await asyncio.wait((knocking,), timeout=0.1)  # there is no event of a packet that comes to nobody
        await network.hold(A)
        async with asyncio.timeout(DEADLINE_S):
            assert await rung(network) == A
            await harness.serve(made, "back")
            await network.open(A)
            assert await knocking == (200, "back")

    async def test_refusals_come_at_once_with_their_reason(self, network: Network, harness: NetworkHarness) -> None:
        await network.create(want())
        address = await network.publish(A, port=PORT, protocol="http")
        waiting = asyncio.create_task(harness.request(address))
        assert await rung(network) == A
        await network.refuse(A, "it does not start")
        async with asyncio.timeout(DEADLINE_S):
            for status, text in (await waiting, await harness.request(address)):
                assert status == 503
                assert "it does not start" in text

    async def test_what_is_not_http_is_reset(self, network: Network, harness: NetworkHarness) -> None:
        await network.create(want())
        address = await network.publish(A, port=PORT, protocol="tcp")
        await network.refuse(A, "never")
        with pytest.raises(ConnectionError):
            await harness.request(address)

    async def test_addresses_are_apart(self, network: Network, harness: NetworkHarness) -> None:
        _, first = await served(network, harness, A)
        _, second = await served(network, harness, B)
        assert await harness.request(first) == (200, A)
        assert await harness.request(second) == (200, B)

    async def test_publish_keeps_the_address(self, network: Network) -> None:
        await network.create(want())
        address = await network.publish(A, port=PORT, protocol="http")
        assert await network.publish(A, port=PORT, protocol="http") == address
        assert await network.publish(A, port=PORT + 1, protocol="http") == address

    async def test_what_was_not_made_has_no_address(self, network: Network) -> None:
        with pytest.raises(NetworkError):
            await network.publish(A, port=PORT, protocol="http")
        await network.create(want())
        with pytest.raises(NetworkError):
            await network.open(A)

    async def test_open_goes_on_while_the_agent_is_away(self, network: Network, harness: NetworkHarness) -> None:
        made, address = await served(network, harness)
        await harness.kill_agent(network)
        assert await harness.request(address) == (200, A)
        assert not await harness.reaches(made, harness.private)
        network = await harness.open(A)
        assert await harness.request(address) == (200, A)
        assert await network.create(want()) == made
        assert await network.publish(A, port=PORT, protocol="http") == address
        await network.hold(A)
        waiting = asyncio.create_task(harness.request(address))
        assert await rung(network) == A
        await network.open(A)
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting == (200, A)

    async def test_the_next_agent_removes_what_it_does_not_know(self, network: Network, harness: NetworkHarness) -> None:
        _, kept = await served(network, harness, A)
        _, lost = await served(network, harness, B)
        await harness.kill_agent(network)
        network = await harness.open(A)
        assert await harness.request(kept) == (200, A)
        with pytest.raises(ConnectionError):
            await harness.request(lost)
        await network.remove(A)
        await network.aclose(remove_all=True)
        assert await harness.leftovers() == []

    async def test_an_address_that_was_not_open_waits_for_the_next_agent(self, network: Network, harness: NetworkHarness) -> None:
        await network.create(want())
        address = await network.publish(A, port=PORT, protocol="http")
        await harness.kill_agent(network)
        network = await harness.open(A)
        waiting = asyncio.create_task(harness.request(address))
        assert await rung(network) == A
        await network.refuse(A, "no")
        assert (await waiting)[0] == 503

    async def test_remove_is_idempotent(self, network: Network, harness: NetworkHarness) -> None:
        await network.remove(A)
        _, address = await served(network, harness)
        await network.remove(A)
        await network.remove(A)
        with pytest.raises(ConnectionError):
            await harness.request(address)
        made, again = await served(network, harness)
        assert await harness.request(again) == (200, A)
        assert await harness.reaches(made, harness.public)

    async def test_closing_with_removal_leaves_nothing(self, network: Network, harness: NetworkHarness) -> None:
        await served(network, harness, A)
        await network.create(want(B))
        await network.aclose(remove_all=True)
        assert await harness.leftovers() == []

    async def test_closing_alone_leaves_instances_going(self, network: Network, harness: NetworkHarness) -> None:
        _, address = await served(network, harness)
        await network.aclose(remove_all=False)
        assert await harness.request(address) == (200, A)
        await harness.open(A)
        assert await harness.request(address) == (200, A)

    async def test_traffic_is_counted(self, network: Network, harness: NetworkHarness) -> None:
        assert network.traffic(A).sent_bytes == 0
        made, address = await served(network, harness)
        await harness.request(address)
        await harness.reaches(made, harness.private)

        def counted() -> bool:
            seen = network.traffic(A)
            return bool(seen.sent_bytes and seen.received_bytes and seen.refused_packets)

        await eventually(counted)
        await network.remove(A)
        assert network.traffic(A).sent_bytes == 0
