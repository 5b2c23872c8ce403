"""The contract of `skerry.ports.ingress.Ingress` for public ports, as tests. Subclass it and give it a `harness` fixture."""

from typing import Protocol

import pytest

from skerry.core.types.routes import Route
from skerry.ports.ingress import Counts, Ingress
from skerry.testing.contracts.ingress import asked, served
from skerry.testing.haproxy_site import table
from skerry.testing.waiting import eventually

PORT, OTHER = 30_001, 30_002


class TcpServed(Protocol):
    """A target, or another site's listener for connections."""

    name: str
    address: str

    async def stop(self) -> None: ...

    @property
    def count(self) -> int:
        """Connections that arrived."""
        ...


class TcpHarness(Protocol):
    """How the suite reaches one adapter. All ingresses that it opens are the same site's, one after the other."""

    async def open(self) -> Ingress: ...

    async def target(self, name: str) -> TcpServed: ...

    async def far(self, name: str) -> TcpServed:
        """Another site."""
        ...

    def route(
        self, app: str, port: int, *targets: TcpServed | tuple[TcpServed, int], fallbacks: tuple[TcpServed, ...] = ()
    ) -> Route: ...

    async def ask(self, port: int, *, peer: bool = False) -> str:
        """The name of who answers on a new connection, from a user or another site. Raises `OSError`."""
        ...

    def kill(self, ingress: Ingress) -> None: ...

    def leftovers(self) -> list[str]: ...


class IngressTcpContract:
    async def test_a_port_leads_to_its_app_as_long_as_it_has_it(self, harness: TcpHarness) -> None:
        ingress = await harness.open()
        one, two = await harness.target("one"), await harness.target("two")
        await ingress.apply(table("lhr", harness.route("db", PORT, one), harness.route("mail", OTHER, two)))
        assert (await harness.ask(PORT), await harness.ask(OTHER)) == ("one", "two")
        await ingress.apply(table("lhr", harness.route("mail", PORT, two)))
        assert await harness.ask(PORT) == "two"
        with pytest.raises(OSError):
            await harness.ask(OTHER)
        await ingress.apply(table("lhr"))
        with pytest.raises(OSError):
            await harness.ask(PORT)

    async def test_targets_share_connections_and_weight_zero_takes_none(self, harness: TcpHarness) -> None:
        one, two, off = [await harness.target(name) for name in ("one", "two", "off")]
        await (await harness.open()).apply(table("lhr", harness.route("db", PORT, one, two, (off, 0))))
        assert {await harness.ask(PORT) for _ in range(20)} == {"one", "two"}
        assert off.count == 0

    async def test_who_refuses_is_passed_over_for_another_and_then_for_the_nearest_site(self, harness: TcpHarness) -> None:
        one, two = await harness.target("one"), await harness.target("two")
        near, next_near = await harness.far("cur"), await harness.far("sin")
        await (await harness.open()).apply(table("lhr", harness.route("db", PORT, one, two, fallbacks=(near, next_near))))
        await one.stop()
        assert [await harness.ask(PORT) for _ in range(4)] == ["two"] * 4
        await two.stop()
        assert await harness.ask(PORT) == "cur"
        assert next_near.count == 0

    async def test_an_app_that_only_others_run_is_served_by_them(self, harness: TcpHarness) -> None:
        far = await harness.far("sin")
        await (await harness.open()).apply(table("lhr", harness.route("db", PORT, fallbacks=(far,))))
        assert [await harness.ask(PORT) for _ in range(3)] == ["sin"] * 3

    async def test_what_comes_from_another_site_goes_to_no_third_one(self, harness: TcpHarness) -> None:
        one, far = await harness.target("one"), await harness.far("sin")
        await (await harness.open()).apply(table("lhr", harness.route("db", PORT, one, fallbacks=(far,))))
        assert await harness.ask(PORT, peer=True) == "one"
        await one.stop()
        with pytest.raises(OSError):
            await harness.ask(PORT, peer=True)
        with pytest.raises(OSError):
            await harness.ask(OTHER, peer=True)
        assert far.count == 0

    async def test_connections_are_counted_by_app_where_they_come_in_and_by_instance(self, harness: TcpHarness) -> None:
        ingress = await harness.open()
        one, far = await harness.target("one"), await harness.far("sin")
        await ingress.apply(table("lhr", harness.route("db", PORT, one), harness.route("away", OTHER, fallbacks=(far,))))
        assert await ingress.take_counts() == Counts()
        for _ in range(5):
            await harness.ask(PORT)
        for _ in range(3):
            await harness.ask(OTHER)
            await harness.ask(PORT, peer=True)
        counts = await ingress.take_counts()
        assert (asked(counts), served(counts)) == ({"db": (5, 0), "away": (3, 0)}, {"one": (8, 0)})
        assert await ingress.take_counts() == Counts()

    async def test_who_reaches_nobody_is_counted_as_an_error(self, harness: TcpHarness) -> None:
        ingress = await harness.open()
        await ingress.apply(table("lhr", harness.route("db", PORT)))
        with pytest.raises(OSError):
            await harness.ask(PORT)
        assert asked(await ingress.take_counts()) == {"db": (1, 1)}

    async def test_a_killed_ingress_comes_back_with_its_ports(self, harness: TcpHarness) -> None:
        ingress = await harness.open()
        one = await harness.target("one")
        await ingress.apply(table("lhr", harness.route("db", PORT, one)))
        before = ingress.pid
        harness.kill(ingress)
        await eventually(lambda: ingress.pid not in {0, before})
        assert await harness.ask(PORT) == "one"

    async def test_stopped_it_leaves_nothing(self, harness: TcpHarness) -> None:
        ingress = await harness.open()
        await ingress.apply(table("lhr", harness.route("db", PORT, await harness.target("one"))))
        await ingress.aclose(stop=True)
        assert harness.leftovers() == []
        with pytest.raises(OSError):
            await harness.ask(PORT)
