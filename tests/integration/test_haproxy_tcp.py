"""Public ports of a site's real HAProxy: connections that stay, ports that others hold, limits and what is counted of them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from skerry.adapters import tools
from skerry.adapters.ingress.haproxy.settings import Limits
from skerry.core.types.ids import AccountId
from skerry.ports.ingress import Ingress
from skerry.testing.contracts.ingress import asked
from skerry.testing.haproxy_site import HAProxySite, table, tcp_route
from skerry.testing.lines import LineClient, Lines, ask_once
from skerry.testing.waiting import eventually

pytestmark = pytest.mark.skipif(not tools.find_haproxy().usable, reason=f"haproxy: {tools.find_haproxy().problem}")
PORT, OTHER = 30_001, 30_002


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HAProxySite]:
    site = HAProxySite(tmp_path, limits=Limits(slots=4, peer_slots=4))
    try:
        yield site
    finally:
        site.remove()


@pytest.fixture
async def far_site(tmp_path: Path) -> AsyncIterator[HAProxySite]:
    site = HAProxySite(tmp_path / "far", name="cur", limits=Limits(slots=4, peer_slots=4))
    try:
        yield site
    finally:
        site.remove()


@pytest.fixture
async def one() -> AsyncIterator[Lines]:
    server = await Lines("one").start()
    yield server
    await server.stop()


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def in_flight(ingress: Ingress) -> dict[str, int]:
    return {stats.instance: stats.in_flight for stats in await ingress.stats()}


async def test_open_connections_stay_while_other_ports_come_and_go_and_their_own_is_closed(site: HAProxySite, one: Lines) -> None:
    ingress = await site.open()
    await ingress.apply(table("lhr", tcp_route("db", PORT, one)))
    client = await LineClient.open(site.at(PORT))
    assert await client.ask() == "one"
    await ingress.apply(table("lhr", tcp_route("db", PORT, one), tcp_route("mail", OTHER, one)))
    assert await client.ask() == "one"
    assert await ask_once(site.at(PORT)) == await ask_once(site.at(OTHER)) == "one"
    assert (await in_flight(ingress))["one"] == 1
    await ingress.apply(table("lhr", tcp_route("mail", OTHER, one)))
    assert await client.ask() == "one"
    with pytest.raises(OSError):
        await ask_once(site.at(PORT))
    await client.close()
    await ingress.aclose(stop=True)


async def test_a_draining_instance_keeps_its_connections_and_tells_when_the_last_has_ended(site: HAProxySite, one: Lines) -> None:
    ingress = await site.open()
    two = await Lines("two").start()
    await ingress.apply(table("lhr", tcp_route("db", PORT, one)))
    client = await LineClient.open(site.at(PORT))
    assert await client.ask() == "one"
    await ingress.apply(table("lhr", tcp_route("db", PORT, (one, 0), two)))
    assert await ask_once(site.at(PORT)) == "two"
    assert (await client.ask(), await in_flight(ingress)) == ("one", {"one": 1, "two": 0})
    await client.close()
    while (await in_flight(ingress))["one"]:  # HAProxy tells nobody
        await asyncio.sleep(0.01)
    await two.stop()
    await ingress.aclose(stop=True)


async def test_the_next_controller_takes_over_open_connections_and_ports(site: HAProxySite, one: Lines) -> None:
    first = await site.open()
    await first.apply(table("lhr", tcp_route("db", PORT, one)))
    client = await LineClient.open(site.at(PORT))
    assert await client.ask() == "one"
    await eventually(lambda: len(site.processes()) == 2)  # the one from before the port was asked for has ended
    pid, processes = first.pid, site.processes()
    await first.aclose(stop=False)
    second = await site.open()
    await second.apply(table("lhr", tcp_route("db", PORT, one)))
    assert (second.pid, await client.ask(), await ask_once(site.at(PORT))) == (pid, "one", "one")
    assert site.processes() == processes, "it was reloaded, though nothing changed"
    await client.close()
    await second.aclose(stop=True)


async def test_a_port_that_changes_hands_leads_nobody_to_the_one_before(site: HAProxySite, one: Lines) -> None:
    ingress = await site.open()
    two = await Lines("two").start()
    await ingress.apply(table("lhr", tcp_route("db", PORT, one)))
    client = await LineClient.open(site.at(PORT))
    assert await client.ask() == "one"
    await ingress.apply(table("lhr", tcp_route("db", PORT, two, account=AccountId("b" * 32))))
    assert (await client.ask(), await ask_once(site.at(PORT))) == ("one", "two")
    await client.close()
    await two.stop()
    await ingress.aclose(stop=True)


async def test_a_port_that_a_stranger_holds_is_left_out_until_it_is_free_and_all_else_is_served(
    site: HAProxySite, one: Lines
) -> None:
    ingress = await site.open()
    with socket.create_server((site.at(PORT).rpartition(":")[0], PORT)):
        await ingress.apply(table("lhr", tcp_route("db", PORT, one), tcp_route("mail", OTHER, one)))
        assert await ask_once(site.at(OTHER)) == "one"
        assert [PORT in map(int, problem.split()[1:2]) for problem in ingress.problems] == [True]
    await eventually(lambda: not ingress.problems and listens(site.at(PORT)))
    assert await ask_once(site.at(PORT)) == "one"
    await ingress.aclose(stop=True)


async def test_one_apps_connections_have_a_limit_and_those_above_it_are_errors(site: HAProxySite, one: Lines) -> None:
    limits = Limits(slots=4, peer_slots=4, connections_max=100, tcp_share_percent=10, tcp_app_share_percent=50)
    ingress = await site.open(limits=limits)
    await ingress.apply(table("lhr", tcp_route("db", PORT, one), tcp_route("mail", OTHER, one)))
    clients = [await LineClient.open(site.at(PORT)) for _ in range(5)]
    assert [await client.ask() for client in clients] == ["one"] * 5
    with pytest.raises(OSError):
        await ask_once(site.at(PORT))
    assert await ask_once(site.at(OTHER)) == "one"
    requests, errors = asked(await ingress.take_counts())["db"]
    assert requests >= 6  # and what they are worth that stay
    assert errors == 1
    for client in clients:
        await client.close()
    await ingress.aclose(stop=True)


async def test_a_connection_that_stays_open_is_use_also_in_a_worker_of_before(site: HAProxySite, one: Lines) -> None:
    ingress = await site.open()
    await ingress.apply(table("lhr", tcp_route("db", PORT, one)))
    clients = [await LineClient.open(site.at(PORT)) for _ in range(60)]
    assert {await client.ask() for client in clients} == {"one"}
    assert asked(await ingress.take_counts())["db"][0] >= 60
    await ingress.apply(table("lhr", tcp_route("db", PORT, one), tcp_route("mail", OTHER, one)))
    await ingress.take_counts()
    counted = 0
    while not counted:  # each of them is worth a request in ten seconds, so all of them six in one
        await asyncio.sleep(0.05)
        counted += asked(await ingress.take_counts()).get("db", (0, 0))[0]
    for client in clients:
        await client.close()
    await ingress.aclose(stop=True)


async def test_two_sites_help_each_other_and_never_pass_a_connection_round(
    site: HAProxySite, far_site: HAProxySite, one: Lines
) -> None:
    here, there = await site.open(), await far_site.open()
    peer_here = Peer("lhr", site.settings.site.peer_tcp_address)
    peer_there = Peer("cur", far_site.settings.site.peer_tcp_address)
    await here.apply(table("lhr", tcp_route("db", PORT, fallbacks=(peer_there,))))
    await there.apply(table("cur", tcp_route("db", PORT, one, fallbacks=(peer_here,))))
    assert await ask_once(site.at(PORT)) == await ask_once(far_site.at(PORT)) == "one"
    await one.stop()
    for address in (site.at(PORT), far_site.at(PORT)):
        with pytest.raises(OSError):
            await ask_once(address)
    for ingress in (here, there):
        await ingress.aclose(stop=True)


class Peer(msgspec.Struct):
    name: str
    address: str
