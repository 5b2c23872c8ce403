"""Packing over any small site: never over capacity, independent of order, quiet when nothing changes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.packing.simple import Ask, Held, Packing, pack
from skerry.core.types.ids import AppName
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.testing.builders import ACCOUNT, make_node, make_version

VERSIONS = tuple(
    make_version(number, app=app, memory_mib=memory, cpu_millicores=cpu)
    for app in ("a", "b")
    for number, memory, cpu in ((1, 12, 10), (2, 40, 10), (3, 30, 700))
)


@st.composite
def sites(draw: st.DrawFn) -> tuple[Node, ...]:
    return tuple(
        make_node(
            f"lhr-{number}",
            memory_mib=draw(st.sampled_from((10, 60, 200))),
            state=draw(st.sampled_from(("up", "up", "up", "draining", "down"))),
            features=draw(st.sampled_from(((), ("kvm",)))),
        )
        for number in range(1, draw(st.integers(0, 4)) + 1)
    )


@st.composite
def asks(draw: st.DrawFn) -> tuple[Ask, ...]:
    return tuple(
        Ask(
            account=ACCOUNT,
            app=AppName(version.app),
            version=version,
            count=draw(st.integers(0, 4)),
            plan_generation=1,
            features=draw(st.sampled_from(((), ("kvm",)))),
        )
        for version in draw(st.lists(st.sampled_from(VERSIONS), max_size=5, unique_by=lambda v: v.id))
    )


def check(nodes: tuple[Node, ...], wanted: tuple[Ask, ...], packing: Packing) -> None:
    by_id = {node.id: node for node in nodes}
    used = {node.id: Resources() for node in nodes}
    for held in packing.held:
        used[held.node] += held.reserve
        assert by_id[held.node].state == "up"
    assert all(used[name].fits_in(by_id[name].capacity) for name in used)
    assert len({held.instance for held in packing.held}) == len(packing.held)
    for ask in wanted:
        mine = [held for held in packing.held if held.version == ask.version.id]
        missing = [refused for refused in packing.refused if refused.version == ask.version.id]
        assert len(mine) + sum(refused.missing for refused in missing) == ask.count
        assert all({r.place for r in refused.rejections} == set(by_id) for refused in missing)
        assert all(set(ask.features) <= set(by_id[held.node].features) for held in mine)


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
