"""Packing: which instance on which node of a site."""

import pytest

from skerry.core.packing.pack import pack
from skerry.core.packing.types import Ask, Held, PackingSettings
from skerry.core.types.app import Version
from skerry.core.types.ids import AppName
from skerry.core.types.plan import Reason
from skerry.testing.builders import ACCOUNT, make_node, make_version

V1, V2 = make_version(1), make_version(2)
NODES = tuple(make_node(f"lhr-{n}") for n in (1, 2, 3))


def ask(version: Version, count: int, *, features: tuple[str, ...] = ()) -> Ask:
    return Ask(account=ACCOUNT, app=AppName(version.app), version=version, count=count, plan_generation=1, features=features)


def on_nodes(held: tuple[Held, ...]) -> list[str]:
    return sorted(item.node for item in held)


def test_an_app_is_spread_over_nodes_before_two_share_one() -> None:
    assert on_nodes(pack(NODES, (ask(V1, 3),), ()).held) == ["lhr-1", "lhr-2", "lhr-3"]
    assert sorted(on_nodes(pack(NODES, (ask(V1, 5),), ()).held).count(f"lhr-{n}") for n in (1, 2, 3)) == [1, 2, 2]


def test_what_runs_stays_where_it_is() -> None:
    before = pack(NODES, (ask(V1, 2),), ()).held
    after = pack((*NODES, make_node("lhr-4", memory_mib=9999)), (ask(V1, 3),), before).held
    assert set(before) <= set(after)
    assert pack(NODES, (ask(V1, 3),), after).held != ()


def test_fewer_are_asked_and_the_rest_stays_spread() -> None:
    before = pack(NODES, (ask(V1, 6),), ()).held
    after = pack(NODES, (ask(V1, 3),), before).held
    assert set(after) <= set(before)
    assert on_nodes(after) == ["lhr-1", "lhr-2", "lhr-3"]


@pytest.mark.parametrize("full", ["lhr-1", "lhr-2"])
def test_of_two_that_run_the_one_that_has_room_stays(full: str) -> None:
    """Else the one without room would be given up, and the other be replaced by yet another, at every decision."""
    nodes = tuple(make_node(name, memory_mib=26) for name in ("lhr-1", "lhr-2"))
    both = pack(nodes, (ask(V1, 2),), ()).held
    large = make_version(1, app="large", memory_mib=26)
    filling = pack(tuple(node for node in nodes if node.id == full), (ask(large, 1),), ()).held
    packed = pack(nodes, (ask(V1, 1), ask(large, 1)), (*both, *filling)).held
    assert set(packed) <= {*both, *filling}
    assert len(packed) == 2


@pytest.mark.parametrize(("state", "reason"), [("draining", Reason.NODE_DRAINING), ("down", Reason.NODE_DOWN)])
def test_nodes_that_are_not_up_are_left_with_a_reason(state: str, reason: Reason) -> None:
    before = pack(NODES[:1], (ask(V1, 1),), ()).held
    gone = make_node("lhr-1", state=state)  # type: ignore[arg-type]
    assert on_nodes(pack((gone, NODES[1]), (ask(V1, 1),), before).held) == ["lhr-2"]
    refused = pack((gone,), (ask(V1, 1),), before).refused
    assert [(item.missing, item.rejections[0].reason) for item in refused] == [(1, reason)]


def test_every_node_has_its_reason_when_something_does_not_fit() -> None:
    nodes = (
        make_node("lhr-1", memory_mib=8),
        make_node("lhr-2", memory_mib=20),
        make_node("lhr-3", memory_mib=20, features=()),
    )
    packing = pack(nodes, (ask(V1, 3),), ())
    assert on_nodes(packing.held) == ["lhr-2", "lhr-3"]
    (refused,) = packing.refused
    assert (refused.missing, refused.plan_generation) == (1, 1)
    assert [(r.place, r.reason, r.detail) for r in refused.rejections] == [
        ("lhr-1", Reason.TOO_LARGE, "needs 12 MiB memory, 8 free"),
        ("lhr-2", Reason.NO_CAPACITY, "needs 12 MiB memory, 8 free"),
        ("lhr-3", Reason.NO_CAPACITY, "needs 12 MiB memory, 8 free"),
    ]


def test_only_nodes_with_the_feature_run_what_needs_it() -> None:
    nodes = (make_node("lhr-1"), make_node("lhr-2", features=("kvm",)))
    packing = pack(nodes, (ask(V1, 2, features=("kvm",)),), ())
    assert on_nodes(packing.held) == ["lhr-2", "lhr-2"]
    assert pack(nodes[:1], (ask(V1, 1, features=("kvm",)),), ()).refused[0].rejections[0].reason is Reason.MISSING_FEATURE


def test_a_swap_on_a_full_node_is_possible_because_the_old_does_not_count() -> None:
    node = make_node("lhr-1", memory_mib=12)
    old = pack((node,), (ask(V1, 1),), ()).held
    packing = pack((node,), (ask(V2, 1),), old)
    assert [item.version for item in packing.held] == [V2.id]
    assert packing.refused == ()


def test_a_node_that_shrank_keeps_only_what_fits() -> None:
    before = pack((make_node("lhr-1"),), (ask(V1, 2),), ()).held
    packing = pack((make_node("lhr-1", memory_mib=12), make_node("lhr-2", memory_mib=12)), (ask(V1, 2),), before)
    assert on_nodes(packing.held) == ["lhr-1", "lhr-2"]


def test_ids_are_unique_and_are_not_those_of_what_still_retires() -> None:
    first = pack(NODES[:1], (ask(V1, 3),), ()).held
    assert len({item.instance for item in first}) == 3
    assert pack(NODES[:1], (ask(V1, 3),), ()).held == first


def test_asking_twice_for_one_version_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="two asks"):
        pack(NODES, (ask(V1, 1), ask(V1, 2)), ())


def test_what_gave_way_to_keep_room_free_does_not_come_back_at_once() -> None:
    """It was taken back at the next look, since what runs may use the room that is kept free."""
    node = make_node("lhr-1", memory_mib=60)
    settings = PackingSettings(keep_free_percent=50, preempt_gap=1)
    low = Ask(account=ACCOUNT, app=AppName("low"), version=make_version(1, app="low"), count=1, plan_generation=1, priority=10)
    large = make_version(1, app="high", memory_mib=30)
    high = Ask(account=ACCOUNT, app=AppName("high"), version=large, count=1, plan_generation=1, priority=50)
    before = pack((node,), (low,), (), settings)
    first = pack((node,), (low, high), before.held, settings)
    assert [entry.held.app for entry in first.preempted] == ["low"]
    assert pack((node,), (low, high), first.held, settings, retiring=before.held).held == first.held
