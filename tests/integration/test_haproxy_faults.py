"""A site's HAProxy while things die, change and grow under it. Requests are counted, not timed."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.ingress.haproxy import files
from skerry.adapters.ingress.haproxy.ingress import HAProxyIngress
from skerry.adapters.ingress.haproxy.layout import assign, empty, lay_out
from skerry.adapters.ingress.haproxy.runtime import old_workers
from skerry.adapters.ingress.haproxy.settings import Limits
from skerry.ports.ingress import Unavailable
from skerry.testing.backends import Backend, Connection, fetch, free_addresses
from skerry.testing.haproxy_site import HAProxySite, route, table
from skerry.testing.waiting import eventually

pytestmark = pytest.mark.skipif(not tools.find_haproxy().usable, reason=f"haproxy: {tools.find_haproxy().problem}")
USERS = 8


class Load:
    """Users who each ask again and again on a connection of their own. `answers` are statuses and back ends."""

    def __init__(self, address: str, host: str, *, method: str = "GET") -> None:
        self.answers: list[tuple[int, str]] = []
        self.failures: list[str] = []
        self._address = address
        self._host = host
        self._method = method
        self._done = False

    async def more(self, count: int = 10 * USERS) -> None:
        """Until so many further answers came."""
        enough = len(self.answers) + count
        await eventually(lambda: len(self.answers) >= enough)

    async def _user(self) -> None:
        connection = Connection(self._address)
        while not self._done:
            try:
                reply = await connection.request(self._host, method=self._method)
                self.answers.append((reply.status, reply.by))
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(repr(error))
                await connection.close()
                await asyncio.sleep(0.01)
        await connection.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        tasks = [asyncio.create_task(self._user()) for _ in range(USERS)]
        try:
            await self.more()
            yield self
        finally:
            self._done = True
            await asyncio.gather(*tasks)

    @property
    def bad(self) -> list[object]:
        return [*self.failures, *(answer for answer in self.answers if answer[0] != 200)]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HAProxySite]:
    site = HAProxySite(tmp_path, limits=Limits(slots=8, peer_slots=4, idle_target_ms_max=100))
    try:
        yield site
    finally:
        site.remove()


@asynccontextmanager
async def opened(site: HAProxySite, **changes: object) -> AsyncIterator[HAProxyIngress]:
    ingress = await site.open(**changes)
    try:
        yield ingress
    finally:
        await ingress.aclose(stop=True)


@asynccontextmanager
async def backends(*names: str) -> AsyncIterator[list[Backend]]:
    found = [await Backend(name).start() for name in names]
    try:
        yield found
    finally:
        for backend in found:
            await backend.stop()


async def test_the_only_target_is_killed_under_load_and_no_user_notices(site: HAProxySite) -> None:
    async with opened(site) as ingress, backends("one", "sin") as (one, far):
        await ingress.apply(table("lhr", route("app", one, fallbacks=(far,))))
        async with Load(site.users, "app.test").running() as load:
            assert {by for _, by in load.answers} == {"one"}
            await one.stop()
            await load.more()
            await one.start(one.address)
            await eventually(lambda: load.answers[-1][1] == "one")  # the breaker closes by itself
        assert load.bad == []


async def test_every_target_of_many_is_killed_under_load_and_no_user_notices(site: HAProxySite) -> None:
    async with opened(site) as ingress, backends("a", "b", "c", "sin") as (a, b, c, far):
        await ingress.apply(table("lhr", route("app", a, b, c, fallbacks=(far,))))
        async with Load(site.users, "app.test").running() as load:
            for one in (a, b, c):
                await one.stop()
                await load.more()
        assert load.bad == []


async def test_the_pool_grows_under_load_and_long_connections_live_on(site: HAProxySite) -> None:
    async with opened(site) as ingress, backends("one", "two") as (one, two):
        await ingress.apply(table("lhr", route("app", one)))
        kept = Connection(site.users)
        assert (await kept.request("app.test")).status == 200
        long = await held_open(site, one)
        async with Load(site.users, "app.test").running() as load:
            apps = [route(f"more{number}", two) for number in range(20)]
            await ingress.apply(table("lhr", route("app", one), *apps))
            await load.more()
        assert load.bad == []
        assert await old_workers(site.settings.master_socket) != ()
        assert (await kept.request("more19.test")).by == "two"  # a connection of before knows the new table
        assert {stats.instance: stats.in_flight for stats in await ingress.stats()} == {"one": 1, "two": 0}
        await ingress.apply(table("lhr", route("app", two), *apps))
        one.release()
        assert (await long).by == "one"
        await kept.close()
        master = site.settings.master_socket
        async with asyncio.timeout(20):
            while await old_workers(master):
                await asyncio.sleep(0.02)


async def held_open(site: HAProxySite, one: Backend) -> asyncio.Task:
    """A request that takes as long as the test wants."""
    one.mode = "hold"
    one.arrived.clear()
    task = asyncio.create_task(fetch(site.users, "app.test", path="/long"))
    await one.arrived.wait()
    one.mode = "answer"
    return task


async def test_reloads_do_not_pile_up_workers(site: HAProxySite) -> None:
    limits = Limits(slots=8, peer_slots=4, old_workers_max=2)
    async with opened(site, limits=limits) as ingress, backends("one") as (one,):
        await ingress.apply(table("lhr", route("app", one)))
        held: list[asyncio.Task] = []
        for size in (10, 20, 40, 80):
            held.append(await held_open(site, one))
            await ingress.apply(table("lhr", route("app", one), *(route(f"more{number}") for number in range(size))))
        assert len(await old_workers(site.settings.master_socket)) <= 2
        one.release()
        ended = await asyncio.gather(*held, return_exceptions=True)
        assert [getattr(reply, "status", 0) for reply in ended[-2:]] == [200, 200]
        assert (await fetch(site.users, "app.test")).status == 200


@pytest.mark.parametrize("victim", ["master", "worker", "all"])
async def test_killed_haproxy_is_back_with_its_table_whatever_of_it_was_killed(site: HAProxySite, victim: str) -> None:
    async with opened(site) as ingress, backends("one") as (one,):
        await ingress.apply(table("lhr", route("app", one)))
        for _ in range(2):
            before = ingress.pid
            pids = site.processes()
            for pid in {"master": [before], "worker": set(pids) - {before}, "all": pids}[victim]:
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda before=before: ingress.pid not in {0, before})
            assert (await fetch(site.users, "app.test")).by == "one"
            assert not set(pids) & set(site.processes())


async def test_what_was_written_but_not_applied_when_the_controller_died_is_applied_by_the_next(site: HAProxySite) -> None:
    first = await site.open()
    async with backends("one", "two") as (one, two):
        await first.apply(table("lhr", route("app", one), route("old", one)))
        pid = first.pid
        await first.aclose(stop=False)
        later = table("lhr", route("app", two), *(route(f"more{number}", two) for number in range(20)))
        assignment = assign(files.read_state(site.settings).assignment, later, cooled=frozenset(), limits=site.settings.limits)
        layout = lay_out(assignment, later, limits=site.settings.limits)
        files.write_state(site.settings, files.State(assignment=assignment, layout=layout))
        async with opened(site) as second:
            assert second.pid == pid
            for host in ("app.test", "more19.test"):
                assert (await fetch(site.users, host)).by == "two"
            assert (await fetch(site.users, "old.test")).status == 404


async def test_a_damaged_state_file_is_as_none(site: HAProxySite) -> None:
    with open(site.settings.state_file, "w") as file:
        file.write("{")
    async with opened(site) as ingress, backends("one") as (one,):
        await ingress.apply(table("lhr", route("app", one)))
        assert (await fetch(site.users, "app.test")).by == "one"
        assert files.read_state(site.settings).layout.hosts == {"app.test": "app0000"}


async def test_new_settings_take_effect_in_a_running_haproxy(site: HAProxySite) -> None:
    first = await site.open()
    async with backends("one") as (one,):
        await first.apply(table("lhr", route("app", one)))
        pid = first.pid
        await first.aclose(stop=False)
        limits = Limits(slots=8, peer_slots=4, body_bytes_max=10)
        async with opened(site, limits=limits) as second:
            assert second.pid == pid
            assert (await fetch(site.users, "app.test", method="PUT", body=b"x" * 11)).status == 413


async def test_a_taken_port_is_named_with_its_holder(site: HAProxySite) -> None:
    host, _, port = site.users.rpartition(":")
    with socket.create_server((host, int(port))):
        with pytest.raises(Unavailable, match=rf"port {port} on {host} is taken by .*\(pid {os.getpid()}\)"):
            await site.open()
        assert site.processes() == ()


async def test_two_sites_share_one_address_and_either_serves_alone(tmp_path: Path) -> None:
    shared = free_addresses(1)
    sites: list[HAProxySite] = []
    for name in ("lhr", "sin"):
        (tmp_path / name).mkdir()
        sites.append(HAProxySite(tmp_path / name, name=name, shared=shared))
    async with opened(sites[0]) as lhr, opened(sites[1]) as sin, backends("one") as (one,):
        for ingress, name in ((lhr, "lhr"), (sin, "sin")):
            await ingress.apply(table(name, route("app", one)))
        served = {(await fetch(shared[0], "app.test")).headers["x-skerry-served-by"] for _ in range(40)}
        assert served == {"lhr", "sin"}
        await lhr.aclose(stop=True)
        assert {(await fetch(shared[0], "app.test")).headers["x-skerry-served-by"] for _ in range(10)} == {"sin"}
    for site in sites:
        site.remove()


async def test_a_table_with_a_bad_name_changes_nothing(site: HAProxySite) -> None:
    async with opened(site) as ingress, backends("one") as (one,):
        await ingress.apply(table("lhr", route("app", one)))
        with pytest.raises(ValueError, match="not a host name"):
            await ingress.apply(table("lhr", route("bad", one, hosts=("a b",))))
        assert (await fetch(site.users, "app.test")).by == "one"


async def test_more_apps_than_the_limit_are_refused_and_the_old_ones_serve_on(site: HAProxySite) -> None:
    async with opened(site, limits=Limits(slots=8, slots_max=8, peer_slots=2)) as ingress, backends("one") as (one,):
        await ingress.apply(table("lhr", route("app", one)))
        with pytest.raises(Unavailable, match="the limit is 8"):
            await ingress.apply(table("lhr", *(route(f"app{number}", one) for number in range(9))))
        assert (await fetch(site.users, "app.test")).by == "one"


async def test_an_app_that_left_leaves_no_server_behind(site: HAProxySite) -> None:
    async with opened(site) as ingress, backends("one", "two") as (one, two):
        await ingress.apply(table("lhr", route("app", one), route("next", two)))
        held = await held_open(site, one)
        await ingress.apply(table("lhr", route("next", two)))
        assert (await fetch(site.users, "app.test")).status == 404
        await ingress.apply(table("lhr", route("next", two), route("new", two)))
        assert files.read_state(site.settings).assignment.apps[f"{'a' * 32}/new"] == 2  # slot 0 has a request left
        one.release()
        assert (await held).by == "one"
        await eventually(lambda: not ingress._loaded.leaving)
        await ingress.apply(table("lhr", route("next", two), route("new", two), route("other", two)))
        assert files.read_state(site.settings).assignment.apps[f"{'a' * 32}/other"] == 0


def test_the_first_layout_fits_any_table() -> None:
    assert lay_out(empty(Limits()), table("lhr"), limits=Limits()).servers == {}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
async def test_workers_give_up_root_and_can_still_be_changed_and_reloaded(site: HAProxySite) -> None:
    async with opened(site) as ingress, backends("one", "sin") as (one, far):
        await ingress.apply(table("lhr", route("app", one, fallbacks=(far,))))
        for _ in range(2):
            workers = set(site.processes()) - {ingress.pid}
            assert {real_uid(pid) for pid in workers} == {65534}
            assert (await fetch(site.users, "app.test")).by == "one"
            await ingress.apply(table("lhr", route("app", one, fallbacks=(far,)), *(route(f"more{n}", one) for n in range(20))))
            assert (await fetch(site.users, "more19.test")).by == "one"
        await one.stop()
        assert (await fetch(site.users, "app.test")).by == "sin"
        assert {stats.instance for stats in await ingress.stats()} == {"one"}


def real_uid(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Uid:"))


async def test_sockets_of_one_killed_while_it_bound_are_removed(site: HAProxySite) -> None:
    ingress = await site.open()
    for half_bound in ("master.sock.4177.tmp", "master.sock.4177.bak"):
        (Path(site.settings.run_dir) / half_bound).touch()
    await ingress.aclose(stop=True)
    assert site.leftovers() == []
