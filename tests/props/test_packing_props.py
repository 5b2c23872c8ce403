"""Packing over any small site: never over capacity, independent of order, quiet when nothing changes; and the fast packer
decides exactly what the readable one does, whatever the settings."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from skerry.core.packing.pack import pack
from skerry.core.packing.readable import pack_readably
from skerry.core.packing.types import Ask, Facts, Held, Packing, PackingSettings
from skerry.core.types.app import Module, Version, Worker
from skerry.core.types.ids import AppName, Digest
from skerry.core.types.place import Node
from skerry.core.types.plan import Reason
from skerry.core.types.resources import Resources
from skerry.testing.builders import ACCOUNT, make_node, make_version

MODULES = {app: Module(name="main.js", type="esm", digest=Digest(app * 64), size=1) for app in ("a", "b", "c")}
PRIORITY = {"a": 50, "b": 50, "c": 80}


def version(number: int, app: str, memory: int, cpu: int) -> Version:
    plain = make_version(number, app=app, memory_mib=memory, cpu_millicores=cpu)
    return replace(plain, worker=Worker(main_module="main.js", modules=(MODULES[app],)))


VERSIONS = tuple(
    version(number, app, memory, cpu)
    for app in ("a", "b", "c")
    for number, memory, cpu in ((1, 12, 10), (2, 40, 10), (3, 30, 700), (4, 25, 0))
)
ALL_SETTINGS = st.builds(
    PackingSettings,
    fit=st.sampled_from(("emptiest", "fullest", "aligned")),
    spread_racks=st.booleans(),
    spread_nodes=st.booleans(),
    per_node_max=st.none() | st.integers(1, 3),
    per_rack_max=st.none() | st.integers(1, 4),
    keep_free_percent=st.sampled_from((0, 0, 10, 50)),
    preempt_gap=st.none() | st.sampled_from((1, 10, 40)),
)


@st.composite
def sites(draw: st.DrawFn, most: int = 4, racks: tuple[str, ...] = ("",)) -> tuple[Node, ...]:
    return tuple(
        replace(
            make_node(
                f"lhr-{number}",
                memory_mib=draw(st.sampled_from((10, 60, 60, 200))),
                state=draw(st.sampled_from(("up", "up", "up", "up", "draining", "down"))),
                features=draw(st.sampled_from(((), ("kvm",), ("gpu", "kvm")))),
            ),
            rack=draw(st.sampled_from(racks)),
        )
        for number in range(1, draw(st.integers(0, most)) + 1)
    )


@st.composite
def asks(draw: st.DrawFn, most: int = 4, priorities: tuple[int, ...] = (), starts: tuple[bool, ...] = (True,)) -> tuple[Ask, ...]:
    chosen = draw(st.lists(st.sampled_from(VERSIONS), max_size=6, unique_by=lambda v: v.id))
    priority = {app: draw(st.sampled_from(priorities)) if priorities else PRIORITY[app] for app in ("a", "b", "c")}
    return tuple(
        Ask(
            account=ACCOUNT,
            app=AppName(version.app),
            version=version,
            count=draw(st.integers(0, most)),
            plan_generation=1,
            features=draw(st.sampled_from(((), ("kvm",)))),
            priority=priority[version.app],
            starts=draw(st.sampled_from(starts)),
        )
        for version in chosen
    )


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    names = [f"lhr-{number}" for number in range(1, 13)]
    digests = st.frozensets(st.sampled_from([module.digest for module in MODULES.values()]))
    return Facts(
        noise=draw(st.dictionaries(st.sampled_from(names), st.integers(0, 20), max_size=4)),
        images=draw(st.dictionaries(st.sampled_from(names), digests, max_size=4)),
    )


def check(nodes: tuple[Node, ...], wanted: tuple[Ask, ...], packing: Packing) -> None:
    by_id = {node.id: node for node in nodes}
    used = {node.id: Resources() for node in nodes}
    for held in (*packing.held, *packing.reserved):
        used[held.node] += held.reserve
        assert by_id[held.node].state == "up"
    assert all(used[name].fits_in(by_id[name].capacity) for name in used)
    every = (*packing.held, *packing.reserved)
    assert len({held.instance for held in every}) == len(every)
    for ask in wanted:
        mine = [held for held in every if held.version == ask.version.id]
        assert all(held in (packing.held if ask.starts else packing.reserved) for held in mine)
        missing = [refused for refused in packing.refused if refused.version == ask.version.id]
        assert len(mine) + sum(refused.missing for refused in missing) == ask.count
        assert all({r.place for r in refused.rejections} == set(by_id) for refused in missing)
        assert all(set(ask.features) <= set(by_id[held.node].features) for held in mine)
        for rejection in (rejection for refused in missing for rejection in refused.rejections):
            node, reserve = by_id[rejection.place], ask.version.limits.reserve
            free = node.capacity.less(used[node.id])
            assert {
                Reason.NODE_DOWN: node.state == "down",
                Reason.NODE_DRAINING: node.state == "draining",
                Reason.MISSING_FEATURE: not set(ask.features) <= set(node.features),
                Reason.TOO_LARGE: not reserve.fits_in(node.capacity),
                Reason.NO_CAPACITY: not reserve.fits_in(free),
                Reason.OUTRANKED: not reserve.fits_in(free),
            }[rejection.reason]


def check_preemption(nodes: tuple[Node, ...], wanted: tuple[Ask, ...], before: tuple[Held, ...], packing: Packing) -> None:
    """Only a higher priority makes an instance give way; it ran, it is gone, and it could not have stayed."""
    priority = {ask.version.id: ask.priority for ask in wanted}
    now = {held.instance for held in packing.held}
    free = {node.id: node.capacity for node in nodes}
    for held in packing.held:
        free[held.node] = free[held.node].less(held.reserve)
    for entry in packing.preempted:
        assert entry.priority == priority[entry.held.version] < entry.by_priority
        assert entry.held in before
        assert entry.held.instance not in now
        assert not entry.held.reserve.fits_in(free[entry.held.node]), "it could have stayed"
        mine = [ask for ask in wanted if (ask.account, ask.app) == (entry.by_account, entry.by_app)]
        assert any(ask.priority == entry.by_priority for ask in mine)
        assert any(held.node == entry.held.node and held.app == entry.by_app for held in (*packing.held, *packing.reserved))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), nodes=sites(), changed=sites(), first=asks(), second=asks())
def test_packing_holds_in_any_order_and_stays(
    data: st.DataObject, nodes: tuple[Node, ...], changed: tuple[Node, ...], first: tuple[Ask, ...], second: tuple[Ask, ...]
) -> None:
    before = pack(nodes, first, ())
    check(nodes, first, before)
    after = pack(changed, second, before.held)
    check(changed, second, after)
    again = pack(
        tuple(data.draw(st.permutations(changed))),
        tuple(data.draw(st.permutations(second))),
        tuple(data.draw(st.permutations(before.held))),
    )
    assert again == after
    assert pack(changed, second, after.held).held == after.held


@settings(max_examples=100, deadline=None)
@given(nodes=sites(), wanted=asks())
def test_nothing_valid_is_moved(nodes: tuple[Node, ...], wanted: tuple[Ask, ...]) -> None:
    """With the same asks and one more node, what ran goes on where it was."""
    before = pack(nodes, wanted, ()).held
    more = (*nodes, make_node("lhr-9", memory_mib=500, features=("kvm",)))
    after: tuple[Held, ...] = pack(more, wanted, before).held
    assert set(before) <= set(after)


@settings(max_examples=600, deadline=None)
@given(
    nodes=sites(most=12, racks=("", "r1", "r2", "r3")),
    changed=sites(most=12, racks=("", "r1")),
    first=asks(most=12, priorities=(10, 50, 55, 90), starts=(True, True, False)),
    second=asks(most=12, priorities=(10, 50, 55, 90), starts=(True, True, False)),
    chosen=ALL_SETTINGS,
    known=facts(),
)
def test_the_fast_packer_decides_what_the_readable_one_does(
    nodes: tuple[Node, ...],
    changed: tuple[Node, ...],
    first: tuple[Ask, ...],
    second: tuple[Ask, ...],
    chosen: PackingSettings,
    known: Facts,
) -> None:
    before = pack(nodes, first, (), chosen, known)
    assert before == pack_readably(nodes, first, (), chosen, known)
    held = (*before.held, *before.reserved)
    kept, retiring = held[::2], held[1::2]
    after = pack(changed, second, kept, chosen, known, retiring=retiring)
    assert after == pack_readably(changed, second, kept, chosen, known, retiring=retiring)
    now = (*after.held, *after.reserved)
    leaving = tuple(entry for entry in retiring if entry not in now)
    again = pack(changed, second, now, chosen, known, retiring=leaving)
    assert (again.held, again.reserved) == (after.held, after.reserved), "a second look decides something else"


@settings(max_examples=400, deadline=None)
@given(
    nodes=sites(most=5),
    first=asks(most=6, priorities=(10, 50)),
    second=asks(most=6, priorities=(10, 50, 90)),
)
def test_who_gives_way_had_to_and_nobody_does_twice(
    nodes: tuple[Node, ...], first: tuple[Ask, ...], second: tuple[Ask, ...]
) -> None:
    before = pack(nodes, first, ()).held
    after = pack(nodes, second, before)
    check(nodes, second, after)
    check_preemption(nodes, second, before, after)
    retiring = tuple(entry.held for entry in after.preempted)
    for leaving in ((), retiring):
        again = pack(nodes, second, after.held, retiring=leaving)
        assert (again.held, again.preempted) == (after.held, ())
    without = pack(nodes, second, before, PackingSettings(preempt_gap=None))
    assert without.preempted == ()
    if not any(refused.app == ask.app for refused in without.refused for ask in second if ask.priority > 10):
        assert after == without, "there was room, and yet something gave way"


@settings(max_examples=200, deadline=None)
@given(nodes=sites(most=6), wanted=asks(most=6), chosen=ALL_SETTINGS)
def test_reserved_room_is_where_it_starts_later(
    nodes: tuple[Node, ...], wanted: tuple[Ask, ...], chosen: PackingSettings
) -> None:
    first = pack(nodes, tuple(replace(ask, starts=False) for ask in wanted), (), chosen)
    assert first.held == ()
    assert pack(nodes, wanted, first.reserved, chosen).held == first.reserved
