"""The site controller's decision: who gives way, and what does not wait for ever."""

from msgspec.structs import replace
from tests.unit.core.site_at_once import V1, V2, Site, app_slice, decided, two_apps

from skerry.core.checks.site import site_violations
from skerry.core.packing.types import PackingSettings
from skerry.core.reconcile.site import decide_site
from skerry.core.reconcile.site_types import DRAIN_MAX_MS, SiteInput
from skerry.core.types.ids import AppName, InstanceId
from skerry.core.types.plan import Reason
from skerry.testing.builders import make_node, make_version


def test_an_app_of_a_higher_priority_takes_the_room_and_what_gave_way_drains_and_goes() -> None:
    site = Site(nodes=1)
    urgent = make_version(1, app="urgent", memory_mib=1010)
    low, high = two_apps(80, urgent)
    site.ask(low)
    site.settle(V1)
    site.ask(low, high)
    decision = decided(site)
    (entry,) = decision.preempted
    assert (entry.held.app, entry.by_app, entry.priority, entry.by_priority) == ("hello", "urgent", 50, 80)
    assert sorted(held.app for held in decision.memory.held) == ["hello", "urgent"]
    (refused,) = decision.refused
    assert (refused.app, refused.missing, refused.rejections[0].reason) == ("hello", 1, Reason.OUTRANKED)
    assert entry.held.instance in {entry.held.instance for entry in decision.memory.retiring}
    site.become(urgent, "running")
    site.decide()
    site.now_ms += DRAIN_MAX_MS
    decision = decided(site)
    assert (decision.memory.retiring, decision.preempted) == ((), ())
    assert sorted(held.app for held in decision.memory.held) == ["hello", "urgent"]
    assert decision.refused[0].rejections[0].reason is Reason.OUTRANKED, "the reason stays while it holds"


def test_what_gave_way_leaves_also_when_nothing_of_its_app_is_left() -> None:
    site = Site(nodes=1)
    urgent = make_version(1, app="urgent", memory_mib=1024)
    low, high = two_apps(80, urgent, count=1)
    site.ask(low)
    site.settle(V1)
    site.ask(low, high)
    decision = decided(site)
    (leaving,) = decision.memory.retiring
    assert leaving.drain_since_ms == site.now_ms
    assert [target.weight for route in decision.routes.routes for target in route.targets] == [0], "other cities serve it now"
    site.become(urgent, "running")
    site.now_ms += DRAIN_MAX_MS
    assert decided(site).memory.retiring == ()
    site.ask(low)
    decision = decided(site)
    assert [held.app for held in decision.memory.held] == ["hello"], "there is room again"
    assert decision.refused == ()


def test_what_gave_way_serves_until_its_replacement_does_but_not_for_ever() -> None:
    """It moves to the other node of the city, where the urgent app cannot run."""
    site = Site(nodes=2)
    site.nodes = [make_node("lhr-1", features=("kvm",)), make_node("lhr-2")]
    urgent = make_version(1, app="urgent", memory_mib=1024)
    low, high = two_apps(80, urgent, count=1)
    site.ask(low, draining_nodes=("lhr-2",))
    site.settle(V1)
    site.ask(low, replace(high, features=("kvm",)))
    decision = decided(site)
    assert [(entry.held.app, entry.held.node) for entry in decision.preempted] == [("hello", "lhr-1")]
    assert decision.refused == ()
    (leaving,) = decision.memory.retiring
    assert leaving.drain_since_ms is None, "it serves on: its replacement starts only now"
    assert decision.wake_ms == site.now_ms + DRAIN_MAX_MS
    site.now_ms += DRAIN_MAX_MS
    (leaving,) = decided(site).memory.retiring
    assert leaving.drain_since_ms == site.now_ms, "a replacement that does not come up keeps nobody's room"


def test_an_old_instance_whose_version_serves_elsewhere_does_not_wait_for_ever_for_another_version() -> None:
    """A share of traffic goes to a version that never starts; the node of the other one is drained."""
    site = Site(nodes=3)
    both = app_slice((V1, 1, 128), (V2, 1, 128))
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    (old,) = decided(site).memory.held
    site.ask(both, draining_nodes=(old.node,))
    site.decide()
    site.become(V1, "running")
    site.become(V2, "backoff")
    decision = decided(site)
    (leaving,) = decision.memory.retiring
    assert (leaving.held.instance, leaving.drain_since_ms) == (old.instance, None), "it stands in for the other version"
    assert decision.wake_ms == site.now_ms + DRAIN_MAX_MS
    site.now_ms += DRAIN_MAX_MS
    decision = decided(site)
    assert decision.memory.retiring[0].drain_since_ms == site.now_ms
    assert [target.weight for target in decision.routes.routes[0].targets if target.instance != old.instance] == [256]
    site.now_ms += DRAIN_MAX_MS
    assert decided(site).memory.retiring == ()


def test_an_old_instance_stays_while_what_serves_of_its_version_takes_no_traffic() -> None:
    site = Site(nodes=3)
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    (old,) = decided(site).memory.held
    site.ask(app_slice((V1, 1, 0), (V2, 1, 256)), draining_nodes=(old.node,))
    site.decide()
    site.become(V1, "running")
    site.become(V2, "backoff")
    decided(site)
    site.now_ms += DRAIN_MAX_MS
    (leaving,) = decided(site).memory.retiring
    assert leaving.drain_since_ms is None


def test_what_a_cut_off_node_runs_serves_until_it_is_replaced_elsewhere() -> None:
    site = Site(nodes=2)
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    (old,) = decided(site).memory.held
    site.cut_off = frozenset({old.node})
    decision = decided(site)
    assert [held.node for held in decision.memory.held] != [old.node]
    assert [(target.instance, target.weight) for target in decision.routes.routes[0].targets] == [(old.instance, 256)]
    site.become(V1, "running")
    site.decide()
    site.now_ms += DRAIN_MAX_MS
    assert decided(site).memory.retiring == ()


def test_equal_priorities_never_give_way() -> None:
    site = Site(nodes=1)
    urgent = make_version(1, app="urgent", memory_mib=1024)
    low, high = two_apps(50, urgent)
    site.ask(low)
    site.settle(V1)
    site.ask(low, high)
    decision = decided(site)
    assert decision.preempted == ()
    assert [(item.app, item.rejections[0].reason) for item in decision.refused] == [("urgent", Reason.NO_CAPACITY)]


def test_the_checks_find_planted_preemptions() -> None:
    site = Site(nodes=1)
    urgent = make_version(1, app="urgent", memory_mib=1010)
    low, high = two_apps(80, urgent)
    site.ask(low)
    site.settle(V1)
    site.ask(low, high)
    given = site.given()
    good = decide_site(given)
    assert site_violations(given, good) == ()
    (entry,) = good.preempted
    rank = {"hello": 50, "urgent": 80}

    def priorities(**changed: int) -> SiteInput:
        apps = tuple(replace(app, priority=changed.get(app.app, rank[app.app])) for app in given.slice_.apps)
        return replace(given, slice_=replace(given.slice_, apps=apps))

    leaving = good.memory.retiring[0]
    unsaid = replace(good, preempted=())
    refusing = replace(
        good,
        memory=replace(good.memory, held=tuple(held for held in good.memory.held if held.app != "urgent")),
        refused=(
            *good.refused,
            replace(good.refused[0], app=AppName("urgent"), version=urgent.id, missing=1),
        ),
    )
    wanted = replace(good, preempted=(replace(entry, held=good.memory.held[0]),))
    never = replace(good, preempted=(replace(entry, held=replace(entry.held, instance=InstanceId("nobody"))),))
    planted = [
        ("gave way to urgent of priority 50", priorities(urgent=50), good),
        ("gave way to urgent of priority 10", priorities(urgent=10), good),
        ("gave way to urgent of priority 80", replace(given, packing=PackingSettings(preempt_gap=None)), good),
        ("and nobody said so", given, unsaid),
        ("or lower priorities that hold it", given, refusing),
        ("and is wanted", given, wanted),
        ("and never ran", given, never),
    ]  # fmt: skip
    assert leaving.gave_way
    for expected, world, wrong in planted:
        found = site_violations(world, wrong)
        assert any(expected in violation for violation in found), (expected, found)
    calm = Site(nodes=1)
    calm.ask(low)
    calm.settle(V1)
    still = decide_site(calm.given())
    moved = replace(still.memory.held[0], instance=InstanceId("another"))
    swapped = replace(still, memory=replace(still.memory, held=(moved, *still.memory.held[1:])))
    assert any("could stay on lhr-1" in violation for violation in site_violations(calm.given(), swapped))
