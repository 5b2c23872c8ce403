"""Any table after any other: every step of a change is as good as what was before and what comes after."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.adapters.ingress.haproxy.layout import Assignment, Layout, app_backend, assign, empty, lay_out
from skerry.adapters.ingress.haproxy.plan import Delete, Loaded, Plan, applied, loaded, plan
from skerry.adapters.ingress.haproxy.settings import Limits
from skerry.core.types.ids import AccountId, AppName, InstanceId, SiteId
from skerry.core.types.routes import Route, RouteTable, Target

LIMITS = Limits(slots=8, peer_slots=4, fallbacks_max=2)
ADDRESSES = st.sampled_from(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.2:1"])


@st.composite
def routes(draw: st.DrawFn, app: str) -> Route:
    names = draw(st.lists(st.sampled_from("123"), unique=True, max_size=3))
    targets = tuple(
        Target(instance=InstanceId(f"{app}{name}"), address=draw(ADDRESSES), weight=draw(st.sampled_from([0, 1, 128, 256])))
        for name in names
    )
    public_port = draw(st.sampled_from([None, None, 30_001, 30_002, 30_003]))
    sites = draw(st.lists(st.sampled_from(["cur", "sin", "nrt"]), unique=True, max_size=3))
    return Route(
        account=AccountId("a"),
        app=AppName(app),
        hosts=() if public_port else tuple(f"{host}.{app}.test" for host in draw(st.lists(st.sampled_from("xy"), unique=True))),
        targets=targets,
        fallbacks=tuple((SiteId(site), draw(ADDRESSES)) for site in sites),
        sticky=draw(st.booleans()),
        public_port=public_port,
    )


@st.composite
def tables(draw: st.DrawFn) -> RouteTable:
    apps = draw(st.lists(st.sampled_from("bcdefg"), unique=True, max_size=6))
    return RouteTable(site=SiteId("lhr"), routes=tuple(draw(routes(app)) for app in apps))


def next_layout(before: Assignment, table: RouteTable, *, cooled: bool) -> tuple[Assignment, Layout]:
    backends = frozenset(app_backend(slot) for slot in before.cooling) if cooled else frozenset[str]()
    assignment = assign(before, table, cooled=backends, limits=LIMITS)
    return assignment, lay_out(assignment, table, limits=LIMITS)


def able(state: Loaded, backend: str) -> list[str]:
    return [name for name, server in state.servers.get(backend, {}).items() if server.weight > 0]


def check_step(state: Loaded, old: Layout, new: Layout) -> None:
    for host, backend in state.hosts.items():
        owner = host.split(".")[1]
        assert all(name[0] == owner for name in state.servers.get(backend, {})), "an app's host leads to another's servers"
        if host in old.hosts and host in new.hosts and able(loaded(old), backend) and able(loaded(new), backend):
            assert able(state, backend), "a host has nobody, who had before and will have again"
        if host in old.hosts and host in new.hosts and backend in old.fallbacks and backend in new.fallbacks:
            assert backend in state.fallbacks
    assert (old.hosts.keys() & new.hosts.keys()) <= state.hosts.keys()
    for instance, backend in state.seats.items():
        assert instance in able(state, backend), "a user is sent back to who takes nobody"
    for name, door in new.doors.items():
        if name in state.doors:
            assert all(server[0] == door.app for server in state.servers.get(name, {})), "a port leads to another app"
    for backends in state.fallbacks.values():
        assert all(state.servers.get(peer) for peer in backends.split("/"))


@settings(deadline=None, max_examples=150)
@given(st.lists(tables(), min_size=2, max_size=6), st.data())
def test_every_step_of_every_change_serves(story: list[RouteTable], data: st.DataObject) -> None:
    assignment, layout = next_layout(empty(LIMITS), story[0], cooled=True)
    state = loaded(layout)
    for table in story[1:]:
        cooled = not state.leaving
        new_assignment, new = next_layout(assignment, table, cooled=cooled)
        todo = plan(state, new)
        if todo.reload:
            state = loaded(new)
        for command in todo.commands:
            if isinstance(command, Delete) and data.draw(st.booleans(), label="still has requests"):
                continue
            state = applied(state, command)
            check_step(state, layout, new)
        wanted = loaded(new)
        assert {backend: servers for backend, servers in state.servers.items() if servers} == wanted.servers
        found = (state.hosts, state.fallbacks, state.seats, state.doors)
        assert found == (wanted.hosts, wanted.fallbacks, wanted.seats, wanted.doors)
        assert plan(state, new) == Plan()
        assignment, layout = new_assignment, new


@settings(deadline=None, max_examples=100)
@given(tables(), tables())
def test_slots_belong_to_one_app_each(first: RouteTable, second: RouteTable) -> None:
    before, _ = next_layout(empty(LIMITS), first, cooled=True)
    after, _ = next_layout(before, second, cooled=False)
    slots = [*after.apps.values(), *after.cooling]
    assert len(slots) == len(set(slots))
    assert set(after.apps) == {f"{route.account}/{route.app}" for route in second.routes if route.public_port is None}
    assert not {slot for owner, slot in after.apps.items() if owner not in before.apps} & set(before.apps.values())


@given(tables())
def test_the_same_table_asks_for_nothing(table: RouteTable) -> None:
    assignment, layout = next_layout(empty(LIMITS), table, cooled=True)
    assert next_layout(assignment, table, cooled=False) == (assignment, layout)
    assert plan(loaded(layout), layout) == Plan()
    assert plan(msgspec.structs.replace(loaded(layout), app_slots=1), layout) == Plan(reload=True)
