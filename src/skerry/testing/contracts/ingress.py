"""The contract of `skerry.ports.ingress.Ingress`, as tests. Subclass it and give it a `harness` fixture."""

import asyncio
from typing import Protocol

from skerry.core.types.routes import Route
from skerry.ports.ingress import Counts, Ingress
from skerry.testing.backends import Mode
from skerry.testing.haproxy_site import table
from skerry.testing.waiting import eventually

DEADLINE_S = 30
NOT_HERE = 425


class Served(Protocol):
    """A target or another site's peer frontend. `mode` as in `skerry.testing.backends.Backend`."""

    name: str
    mode: Mode
    address: str

    async def stop(self) -> None: ...

    def release(self) -> None: ...

    @property
    def count(self) -> int:
        """Requests that arrived."""
        ...


class IngressHarness(Protocol):
    """How the suite reaches one adapter. All ingresses that it opens are the same site's, one after the other."""

    async def open(self) -> Ingress: ...

    async def target(self, name: str) -> Served: ...

    def route(
        self, app: str, *targets: Served | tuple[Served, int], fallbacks: tuple[Served, ...] = (), sticky: bool = False
    ) -> Route:
        """At `<app>.test`."""
        ...

    async def request(self, host: str, *, method: str = "GET", peer: bool = False, seat: str = "") -> tuple[int, str]:
        """Status, and the name of the target or site that answered. `seat`: who answered this user before."""
        ...

    def kill(self, ingress: Ingress) -> None:
        """As kill -9 of the engine's main process."""
        ...

    def leftovers(self) -> list[str]: ...


class IngressContract:
    async def test_an_unknown_host_is_a_404_and_an_app_without_targets_a_503(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        assert await harness.request("app.test") == (404, "")
        await ingress.apply(table("lhr", harness.route("app")))
        assert await harness.request("app.test") == (503, "")
        assert await harness.request("other.test") == (404, "")

    async def test_a_host_is_known_in_any_case_with_any_port(self, harness: IngressHarness) -> None:
        one = await harness.target("one")
        await (await harness.open()).apply(table("lhr", harness.route("app", one)))
        for host in ("app.test", "APP.test:8080", "app.test.", "App.Test.:1"):
            assert await harness.request(host) == (200, "one")

    async def test_applying_twice_changes_nothing_and_a_new_table_replaces_the_old(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        for _ in range(2):
            await ingress.apply(table("lhr", harness.route("app", one), harness.route("old", one)))
            assert await harness.request("app.test") == (200, "one")
        await ingress.apply(table("lhr", harness.route("app", two)))
        assert await harness.request("app.test") == (200, "two")
        assert await harness.request("old.test") == (404, "")

    async def test_weights_share_the_requests_and_zero_takes_none(self, harness: IngressHarness) -> None:
        one, two, off = [await harness.target(name) for name in ("one", "two", "off")]
        await (await harness.open()).apply(table("lhr", harness.route("app", (one, 192), (two, 64), (off, 0))))
        answers = [await harness.request("app.test") for _ in range(80)]
        assert {status for status, _ in answers} == {200}
        assert off.count == 0
        assert 50 <= sum(name == "one" for _, name in answers) <= 70

    async def test_a_user_of_a_sticky_route_stays_with_who_answered_first(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two, else_ = [await harness.target(name) for name in ("one", "two", "else")]
        other = harness.route("other", else_, sticky=True)
        await ingress.apply(table("lhr", harness.route("app", one, two, sticky=True), other))
        for seat in ("one", "two"):
            for peer in (False, True):
                assert {await harness.request("app.test", seat=seat, peer=peer) for _ in range(6)} == {(200, seat)}
        for stranger in ("else", "gone"):  # another app's, or nobody's
            assert {(await harness.request("app.test", seat=stranger))[1] for _ in range(6)} == {"one", "two"}
        await ingress.apply(table("lhr", harness.route("app", (one, 0), two, sticky=True), other))
        assert {await harness.request("app.test", seat="one") for _ in range(6)} == {(200, "two")}
        await ingress.apply(table("lhr", harness.route("app", one, two), other))
        assert {(await harness.request("app.test", seat="one"))[1] for _ in range(6)} == {"one", "two"}

    async def test_a_user_whose_instance_is_dead_is_served_by_another(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await ingress.apply(table("lhr", harness.route("app", one, two, sticky=True)))
        await one.stop()
        assert {await harness.request("app.test", seat="one", method=method) for method in ("GET", "POST") * 3} == {(200, "two")}

    async def test_a_drained_target_ends_what_it_has_and_the_statistics_tell_when(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await ingress.apply(table("lhr", harness.route("app", one)))
        one.mode = "hold"
        held = asyncio.create_task(harness.request("app.test"))
        await eventually(lambda: one.count)
        await ingress.apply(table("lhr", harness.route("app", (one, 0), two)))
        assert await harness.request("app.test") == (200, "two")
        assert await in_flight(ingress) == {"one": 1, "two": 0}
        one.release()
        assert await held == (200, "one")
        assert await in_flight(ingress) == {"one": 0, "two": 0}
        assert {stats.instance: stats.total >= 1 for stats in await ingress.stats()} == {"one": True, "two": True}

    async def test_a_request_in_a_target_that_is_removed_may_end(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await ingress.apply(table("lhr", harness.route("app", one)))
        one.mode = "hold"
        held = asyncio.create_task(harness.request("app.test"))
        await eventually(lambda: one.count)
        await ingress.apply(table("lhr", harness.route("app", two)))
        one.release()
        assert await held == (200, "one")
        await ingress.apply(table("lhr", harness.route("app", one)))  # wanted again, perhaps before the old one is gone
        assert await harness.request("app.test") == (200, "one")

    async def test_an_idempotent_request_without_an_answer_goes_to_another_target(self, harness: IngressHarness) -> None:
        one, two = await harness.target("one"), await harness.target("two")
        await (await harness.open()).apply(table("lhr", harness.route("app", one, two)))
        one.mode = "break"
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE") * 2:
            assert await harness.request("app.test", method=method) == (200, "two")

    async def test_another_request_is_never_sent_twice(self, harness: IngressHarness) -> None:
        one, two, far = [await harness.target(name) for name in ("one", "two", "sin")]
        await (await harness.open()).apply(table("lhr", harness.route("app", one, two, fallbacks=(far,))))
        one.mode = two.mode = "break"
        for sent in range(1, 5):
            assert await harness.request("app.test", method="POST") == (502, "")
            assert (one.count + two.count, far.count) == (sent, 0)

    async def test_any_request_that_was_refused_goes_to_another_target(self, harness: IngressHarness) -> None:
        one, two = await harness.target("one"), await harness.target("two")
        await (await harness.open()).apply(table("lhr", harness.route("app", one, two)))
        await one.stop()
        for method in ("POST", "GET") * 5:
            assert await harness.request("app.test", method=method) == (200, "two")

    async def test_fallbacks_serve_in_order_while_no_target_can(self, harness: IngressHarness) -> None:
        one, near, far = [await harness.target(name) for name in ("one", "cur", "sin")]
        await (await harness.open()).apply(table("lhr", harness.route("app", one, fallbacks=(near, far))))
        assert [await harness.request("app.test") for _ in range(300)] == [(200, "one")] * 300
        await one.stop()
        for method in ("GET", "POST") * 5:
            assert await harness.request("app.test", method=method) == (200, "cur")
        near.mode = "not_here"
        for method in ("GET", "POST") * 5:
            assert await harness.request("app.test", method=method) == (200, "sin")
        await near.stop()
        for method in ("GET", "POST") * 5:
            assert await harness.request("app.test", method=method) == (200, "sin")
        await far.stop()
        assert await harness.request("app.test") == (503, "")

    async def test_a_target_that_only_breaks_off_is_passed_over_for_a_fallback(self, harness: IngressHarness) -> None:
        one, far = await harness.target("one"), await harness.target("sin")
        await (await harness.open()).apply(table("lhr", harness.route("app", one, fallbacks=(far,))))
        one.mode = "break"
        assert [await harness.request("app.test") for _ in range(5)] == [(200, "sin")] * 5

    async def test_an_app_that_only_others_run_is_served_by_them(self, harness: IngressHarness) -> None:
        far = await harness.target("sin")
        await (await harness.open()).apply(table("lhr", harness.route("app", fallbacks=(far,))))
        assert [await harness.request("app.test") for _ in range(5)] == [(200, "sin")] * 5

    async def test_the_peer_frontend_never_uses_fallbacks(self, harness: IngressHarness) -> None:
        one, far = await harness.target("one"), await harness.target("sin")
        await (await harness.open()).apply(table("lhr", harness.route("app", one, fallbacks=(far,))))
        assert await harness.request("app.test", peer=True) == (200, "one")
        await one.stop()
        for method in ("GET", "POST") * 3:
            assert await harness.request("app.test", method=method, peer=True) == (NOT_HERE, "")
        assert await harness.request("other.test", peer=True) == (NOT_HERE, "")
        assert far.count == 0

    async def test_changing_targets_fails_no_request(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await ingress.apply(table("lhr", harness.route("app", one)))
        answers: list[int] = []

        async def user() -> None:
            while not done.is_set():
                answers.append((await harness.request("app.test"))[0])

        done = asyncio.Event()
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(user())
            for _ in range(3):
                for targets in ((one, two), ((one, 0), two), (two,), (two, one), (one,)):
                    await ingress.apply(table("lhr", harness.route("app", *targets)))
                    enough = len(answers) + 8
                    await eventually(lambda enough=enough: len(answers) >= enough)
            done.set()
        assert set(answers) == {200}

    async def test_users_requests_are_counted_once_by_app_and_by_instance(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await ingress.apply(table("lhr", harness.route("app", one, two), harness.route("other", two), harness.route("idle", one)))
        assert await ingress.take_counts() == Counts()
        for method in ("GET", "POST", "HEAD") * 4:
            await harness.request("app.test", method=method)
        for _ in range(3):
            await harness.request("OTHER.test:80")
            await harness.request("unknown.test")
        counts = await ingress.take_counts()
        assert asked(counts) == {"app": (12, 0), "other": (3, 0)}
        assert served(counts) == {"one": (one.count, 0), "two": (two.count, 0)}
        assert await ingress.take_counts() == Counts()

    async def test_what_is_tried_again_or_answered_elsewhere_counts_where_it_came_in(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two, far = [await harness.target(name) for name in ("one", "two", "sin")]
        await ingress.apply(
            table("lhr", harness.route("app", one, two, fallbacks=(far,)), harness.route("away", fallbacks=(far,)))
        )
        one.mode = "break"
        for _ in range(6):
            assert await harness.request("app.test") == (200, "two")
            assert await harness.request("away.test") == (200, "sin")
        counts = await ingress.take_counts()
        assert asked(counts) == {"app": (6, 0), "away": (6, 0)}
        assert served(counts)["two"] == (6, 0)

    async def test_other_sites_requests_are_their_users_and_not_ours(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        await ingress.apply(table("lhr", harness.route("app", await harness.target("one"))))
        for _ in range(4):
            assert await harness.request("app.test", peer=True) == (200, "one")
        counts = await ingress.take_counts()
        assert (asked(counts), served(counts)) == ({}, {"one": (4, 0)})

    async def test_errors_that_users_saw_are_counted_and_who_broke_off(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one = await harness.target("one")
        await ingress.apply(table("lhr", harness.route("app", one), harness.route("nowhere")))
        one.mode = "break"
        assert await harness.request("app.test", method="POST") == (502, "")
        assert await harness.request("nowhere.test") == (503, "")
        counts = await ingress.take_counts()
        assert asked(counts) == {"app": (1, 1), "nowhere": (1, 1)}
        assert served(counts) == {"one": (1, 1)}

    async def test_no_request_is_lost_to_the_count_or_counted_twice_while_apps_come_and_go(self, harness: IngressHarness) -> None:
        """So many come that an engine with a pool of slots has to reload."""
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        answered = 0
        found: list[Counts] = []

        async def user() -> None:
            nonlocal answered
            while not done.is_set():
                assert (await harness.request("app.test"))[0] == 200
                answered += 1

        done = asyncio.Event()
        await ingress.apply(table("lhr", harness.route("app", one)))
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(user())
            for apps in (5, 40, 3, 90):
                routes = [harness.route(f"app-{number}", two) for number in range(apps)]
                await ingress.apply(table("lhr", harness.route("app", one), *routes))
                enough = answered + 6
                await eventually(lambda enough=enough: answered >= enough)
                found.append(await ingress.take_counts())
            done.set()
        found.append(await ingress.take_counts())
        assert sum(asked(counts).get("app", (0, 0))[0] for counts in found) == answered
        assert {name for counts in found for name in asked(counts)} == {"app"}
        assert sum(served(counts).get("one", (0, 0))[0] for counts in found) == one.count == answered

    async def test_an_apps_requests_are_not_counted_for_the_next_one_in_its_place(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one = await harness.target("one")
        for number in range(4):
            await ingress.apply(table("lhr", harness.route(f"app-{number}", one)))
            for _ in range(number + 1):
                await harness.request(f"app-{number}.test")
        await ingress.apply(table("lhr"))
        counts = await ingress.take_counts()
        assert asked(counts) == {f"app-{number}": (number + 1, 0) for number in range(4)}

    async def test_a_killed_ingress_goes_on_counting_and_its_successor_counts_what_is_new(self, harness: IngressHarness) -> None:
        first = await harness.open()
        one = await harness.target("one")
        await first.apply(table("lhr", harness.route("app", one)))
        await harness.request("app.test")
        assert asked(await first.take_counts()) == {"app": (1, 0)}
        before = first.pid
        harness.kill(first)
        await eventually(lambda: first.pid not in {0, before})
        await harness.request("app.test")
        assert asked(await first.take_counts()) == {"app": (1, 0)}
        await first.aclose(stop=False)
        second = await harness.open()
        await harness.request("app.test")
        assert asked(await second.take_counts()) == {"app": (1, 0)}

    async def test_a_killed_ingress_comes_back_with_the_last_table(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await ingress.apply(table("lhr", harness.route("app", one), harness.route("other", one)))
        await ingress.apply(table("lhr", harness.route("app", two)))
        before = ingress.pid
        harness.kill(ingress)
        await eventually(lambda: ingress.pid not in {0, before})
        assert await harness.request("app.test") == (200, "two")
        assert await harness.request("other.test") == (404, "")
        await ingress.apply(table("lhr", harness.route("app", one)))
        assert await harness.request("app.test") == (200, "one")

    async def test_the_next_controller_takes_it_over_as_it_runs(self, harness: IngressHarness) -> None:
        first = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await first.apply(table("lhr", harness.route("app", one), harness.route("old", one)))
        pid = first.pid
        await first.aclose(stop=False)
        assert await harness.request("app.test") == (200, "one")
        second = await harness.open()
        assert second.pid == pid
        assert await harness.request("old.test") == (200, "one")
        await second.apply(table("lhr", harness.route("app", two)))
        assert await harness.request("app.test") == (200, "two")
        assert await harness.request("old.test") == (404, "")

    async def test_stopped_it_leaves_nothing(self, harness: IngressHarness) -> None:
        ingress = await harness.open()
        await ingress.apply(table("lhr", harness.route("app", await harness.target("one"))))
        await ingress.aclose(stop=True)
        assert ingress.pid == 0
        assert harness.leftovers() == []


def asked(counts: Counts) -> dict[str, tuple[int, int]]:
    """By app: requests, errors."""
    return {entry.app: (entry.requests, entry.errors) for entry in counts.apps}


def served(counts: Counts) -> dict[str, tuple[int, int]]:
    """By instance: requests, errors."""
    return {entry.instance: (entry.requests, entry.errors) for entry in counts.instances}


async def in_flight(ingress: Ingress) -> dict[str, int]:
    return {stats.instance: stats.in_flight for stats in await ingress.stats()}
