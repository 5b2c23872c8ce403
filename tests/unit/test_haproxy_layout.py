"""Slots, servers and maps: what HAProxy is given for a table."""

import pytest

from skerry.adapters.ingress.haproxy.layout import (
    LOW_WATER,
    Assignment,
    Full,
    app_backend,
    assign,
    empty,
    lay_out,
    once,
    peer_backend,
    peer_tcp_backend,
    scaled,
)
from skerry.adapters.ingress.haproxy.settings import Limits
from skerry.core.types.ids import AccountId, AppName, InstanceId, SiteId
from skerry.core.types.routes import Route, RouteTable, Target

LIMITS = Limits(slots=16, peer_slots=4, slots_max=64, fallbacks_max=2)
NOTHING_COOLED = frozenset[str]()


def target(name: str, weight: int = 256, address: str = "127.0.0.1:1") -> Target:
    return Target(instance=InstanceId(name), address=address, weight=weight)


def route(app: str, *targets: Target, hosts: tuple[str, ...] = (), sites: tuple[str, ...] = (), account: str = "a") -> Route:
    fallbacks = tuple((SiteId(site), "127.0.0.2:2") for site in sites)
    return Route(account=AccountId(account), app=AppName(app), hosts=hosts, targets=targets, fallbacks=fallbacks)


def table(*routes: Route) -> RouteTable:
    return RouteTable(site=SiteId("lhr"), routes=routes)


def assigned(*routes: Route, before: Assignment | None = None, cooled: frozenset[str] = NOTHING_COOLED) -> Assignment:
    return assign(before or empty(LIMITS), table(*routes), cooled=cooled, limits=LIMITS)


def test_apps_keep_their_slots_and_new_ones_take_free_ones() -> None:
    first = assigned(route("b"), route("c"))
    second = assigned(route("a"), route("c"), route("b"), before=first)
    assert first.apps == {"a/b": 0, "a/c": 1}
    assert second.apps == {"a/b": 0, "a/c": 1, "a/a": 2}


def test_a_slot_that_was_given_up_is_given_out_only_after_it_cooled() -> None:
    gone = assigned(route("new"), before=assigned(route("old")))
    assert (gone.apps, gone.cooling) == ({"a/new": 1}, (0,))
    still = assigned(route("new"), route("next"), before=gone)
    assert (still.apps["a/next"], still.cooling) == (2, (0,))
    cooled = assigned(route("new"), route("next"), before=gone, cooled=frozenset({app_backend(0)}))
    assert (cooled.apps["a/next"], cooled.cooling) == (0, ())


def test_a_peer_slot_cools_in_all_its_backends() -> None:
    gone = assigned(route("app"), before=assigned(route("app", sites=("cur",))))
    assert assigned(before=gone, cooled=frozenset({peer_backend(0)})).peers_cooling == (0,)
    assert assigned(before=gone, cooled=frozenset({peer_backend(0), once(peer_backend(0))})).peers_cooling == (0,)
    all_of_it = frozenset({peer_backend(0), once(peer_backend(0)), peer_tcp_backend(0)})
    assert assigned(before=gone, cooled=all_of_it).peers_cooling == ()


def test_the_pool_doubles_before_it_is_empty_and_never_shrinks() -> None:
    many = assigned(*(route(f"app{number}") for number in range(16 - 4 + 1)))
    assert many.app_slots == 32
    assert assigned(before=many).app_slots == 32
    assert min(LOW_WATER, 16 // 4) == 4


def test_more_apps_than_the_limit_are_refused() -> None:
    with pytest.raises(Full, match="65 apps need 128 slots, the limit is 64"):
        assigned(*(route(f"app{number}") for number in range(65)))


def test_a_layout_has_servers_hosts_and_fallbacks_by_backend() -> None:
    routes = (route("web", target("i2"), target("i1"), hosts=("Web.Test", "www.test."), sites=("cur", "sin", "nrt")),)
    layout = lay_out(assigned(*routes), table(*routes), limits=LIMITS)
    assert [server.name for server in layout.servers["app0000"]] == ["i1", "i2"]
    assert layout.hosts == {"web.test": "app0000", "www.test": "app0000"}
    assert layout.fallbacks == {"app0000": "peer00/peer01"}
    assert set(layout.servers) == {"app0000", "peer00", "peer00once", "peer01", "peer01once"}


def test_a_host_that_two_apps_claim_stays_with_the_first() -> None:
    routes = (route("b", hosts=("x.test",)), route("a", hosts=("x.test",)))
    assignment = assigned(*routes)
    assert lay_out(assignment, table(*routes), limits=LIMITS).hosts == {"x.test": app_backend(assignment.apps["a/a"])}


def test_weights_are_scaled_so_that_loops_have_no_share_to_speak_of() -> None:
    servers = scaled((target("a", 1), target("b", 3), target("c", 0)))
    assert [server.weight for server in servers] == [85, 256, 0]
    assert [server.weight for server in scaled((target("a", 0),))] == [0]
    assert [server.weight for server in scaled((target("a", 1), target("b", 256)))] == [1, 256]


@pytest.mark.parametrize("host", ["", "a b", "a\nb", "a;b", "x" * 254, "-a", "ä.test", "*.test"])
def test_what_is_no_host_name_is_refused(host: str) -> None:
    routes = (route("a", hosts=(host,)),)
    with pytest.raises(ValueError, match="not a host name"):
        lay_out(assigned(*routes), table(*routes), limits=LIMITS)


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1", "127.0.0.1:1 backup", "1.1.1.1:2;x", "unix@/x:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    routes = (route("a", target("i", address=address)),)
    with pytest.raises(ValueError, match="not a address"):
        lay_out(assigned(*routes), table(*routes), limits=LIMITS)


@pytest.mark.parametrize("name", ["again1", "a b", "", "x/y", "x;y"])
def test_what_is_no_instance_name_is_refused(name: str) -> None:
    routes = (route("a", target(name)),)
    with pytest.raises(ValueError, match="not a instance"):
        lay_out(assigned(*routes), table(*routes), limits=LIMITS)


def test_a_host_may_begin_as_a_loop_is_named() -> None:
    routes = (route("a", hosts=("again.test",)),)
    assert lay_out(assigned(*routes), table(*routes), limits=LIMITS).hosts == {"again.test": "app0000"}
