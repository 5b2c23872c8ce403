"""The site controller's decision: make before break, drains, lost nodes, restarts, weights."""

from msgspec.structs import replace

from skerry.core.checks.site import site_violations
from skerry.core.packing.types import PackingSettings
from skerry.core.reconcile.site import decide_site, remember
from skerry.core.reconcile.site_types import DRAIN_MAX_MS, DRAIN_MIN_MS, NodeHeard, SiteDecision, SiteInput, SiteMemory
from skerry.core.types.app import Version
from skerry.core.types.ids import AppName, InstanceId, NodeId, SiteId
from skerry.core.types.plan import Reason
from skerry.core.types.resources import Resources
from skerry.core.types.routes import RouteTable
from skerry.core.types.slices import InstanceState, ObservedInstance, Peer, SiteSlice, SliceApp, SliceVersion
from skerry.testing.builders import ACCOUNT, make_node, make_observed, make_report, make_version

V1, V2 = make_version(1), make_version(2)
PEERS = (Peer(site=SiteId("cur"), address="cur.test:8081"), Peer(site=SiteId("sin"), address="sin.test:8081"))


def app_slice(*versions: tuple[Version, int, int], name: str = "hello") -> SliceApp:
    return SliceApp(
        account=ACCOUNT,
        account_name="acme",
        app=AppName(name),
        plan_generation=1,
        versions=tuple(SliceVersion(version=version, count=count, weight=weight) for version, count, weight in versions),
        hosts=(f"{name}.acme.localhost",),
        fallbacks=(SiteId("cur"), SiteId("sin")),
    )


class Site:
    """A site whose nodes do at once what their slices say; what is new takes until `ready` names its version."""

    def __init__(self, nodes: int = 2) -> None:
        self.nodes = [make_node(f"lhr-{n}") for n in range(1, nodes + 1)]
        self.slice = SiteSlice(site=SiteId("lhr"), generation=1, peers=PEERS)
        self.memory = SiteMemory()
        self.running: dict[str, dict[InstanceId, ObservedInstance]] = {node.id: {} for node in self.nodes}
        self.silent: set[NodeId] = set()
        self.lost: frozenset[NodeId] = frozenset()
        self.cut_off: frozenset[NodeId] = frozenset()
        self.in_flight: dict[InstanceId, int] | None = {}
        self.now_ms = 1000
        self.decision: SiteDecision | None = None

    def ask(self, *apps: SliceApp, draining_nodes: tuple[str, ...] = ()) -> None:
        self.slice = replace(
            self.slice,
            generation=self.slice.generation + 1,
            apps=apps,
            draining_nodes=tuple(NodeId(node) for node in draining_nodes),
        )

    def given(self) -> SiteInput:
        reports = tuple(
            NodeHeard(report=make_report(node, tuple(self.running[node.id].values())), heard_ms=self.now_ms)
            for node in self.nodes
            if node.id not in self.silent
        )
        return SiteInput(
            slice_=self.slice,
            memory=self.memory,
            reports=reports,
            lost=self.lost,
            in_flight=self.in_flight,
            now_ms=self.now_ms,
            cut_off=self.cut_off,
        )

    def decide(self) -> RouteTable:
        given = self.given()
        self.decision = decide_site(given)
        assert site_violations(given, self.decision) == ()
        self.memory = self.decision.memory
        for contents in self.decision.slices:
            old = self.running[contents.node]
            self.running[contents.node] = {
                entry.id: old.get(entry.id, make_observed(entry.id, entry.version, "starting")) for entry in contents.instances
            }
        return self.decision.routes

    def become(self, version: Version, state: InstanceState, *, only: int = 99) -> None:
        for instances in self.running.values():
            for name, seen in instances.items():
                if seen.version == version.id and only > 0 and seen.state != state:
                    instances[name] = replace(seen, state=state)
                    only -= 1

    def settle(self, version: Version) -> RouteTable:
        """Decide, let `version` come up, decide again."""
        self.decide()
        self.become(version, "running")
        return self.decide()

    def versions(self) -> list[str]:
        return sorted(seen.version for instances in self.running.values() for seen in instances.values())


def weights(table: RouteTable, site: Site) -> dict[str, list[int]]:
    version_of = {name: seen.version for instances in site.running.values() for name, seen in instances.items()}
    found: dict[str, list[int]] = {}
    for route in table.routes:
        for target in route.targets:
            found.setdefault(version_of.get(target.instance, "?"), []).append(target.weight)
    return found


def test_an_instance_is_routed_when_it_serves_and_not_before() -> None:
    site = Site()
    site.ask(app_slice((V1, 2, 256)))
    assert weights(site.decide(), site) == {}
    site.become(V1, "running", only=1)
    assert weights(site.decide(), site) == {"hello-v1": [256]}
    for state in ("running", "asleep", "dead"):
        site.become(V1, state)
        assert weights(site.decide(), site) == {"hello-v1": [256, 256]}
    site.become(V1, "backoff", only=1)
    assert weights(site.decide(), site) == {"hello-v1": [256]}


def test_one_that_is_woken_keeps_its_route_while_it_starts() -> None:
    site = Site()
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    site.become(V1, "dead")
    site.decide()
    site.become(V1, "starting")
    assert weights(site.decide(), site) == {"hello-v1": [256]}
    site.become(V1, "backoff")
    assert weights(site.decide(), site) == {}
    site.become(V1, "starting")
    assert weights(site.decide(), site) == {}


def test_fallbacks_are_always_listed_and_alone_where_only_others_run_the_app() -> None:
    site = Site()
    site.ask(app_slice((V1, 1, 256)), app_slice(name="far"))
    routes = {route.app: route for route in site.settle(V1).routes}
    assert routes["hello"].fallbacks == (("cur", "cur.test:8081"), ("sin", "sin.test:8081"))
    assert routes["far"].targets == ()
    assert routes["far"].fallbacks == routes["hello"].fallbacks
    assert routes["far"].hosts == ("far.acme.localhost",)


def test_the_old_version_serves_until_the_new_one_does_then_drains_then_goes() -> None:
    site = Site()
    site.ask(app_slice((V1, 2, 256)))
    site.settle(V1)
    site.ask(app_slice((V2, 2, 256)))
    assert weights(site.decide(), site) == {"hello-v1": [256, 256]}
    site.become(V2, "running", only=1)
    assert weights(site.decide(), site) == {"hello-v1": [128, 128], "hello-v2": [256]}
    site.become(V2, "running")
    assert weights(site.decide(), site) == {"hello-v1": [0, 0], "hello-v2": [256, 256]}
    assert site.decision is not None
    assert site.decision.wake_ms == 1000 + DRAIN_MIN_MS
    site.now_ms += DRAIN_MIN_MS - 1
    site.decide()
    assert site.versions() == ["hello-v1"] * 2 + ["hello-v2"] * 2
    site.now_ms += 1
    assert weights(site.decide(), site) == {"hello-v2": [256, 256]}
    assert site.versions() == ["hello-v2"] * 2


def test_a_drain_waits_for_requests_in_flight_but_not_for_ever() -> None:
    for unknown in (False, True):
        site = Site(nodes=1)
        site.ask(app_slice((V1, 1, 256)))
        site.settle(V1)
        (old,) = site.running["lhr-1"]
        site.ask(app_slice((V2, 1, 256)))
        site.settle(V2)
        site.in_flight = None if unknown else {old: 1}
        site.now_ms += DRAIN_MAX_MS - 1
        site.decide()
        assert old in site.running["lhr-1"]
        assert site.decision is not None
        assert site.decision.wake_ms == site.now_ms + 1
        site.now_ms += 1
        site.decide()
        assert old not in site.running["lhr-1"]


def test_a_drain_is_taken_back_when_the_replacement_falls() -> None:
    site = Site(nodes=1)
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    site.ask(app_slice((V2, 1, 256)))
    assert weights(site.settle(V2), site)["hello-v1"] == [0]
    site.become(V2, "backoff")
    assert weights(site.decide(), site) == {"hello-v1": [256]}


def test_a_version_that_never_comes_up_changes_nothing_for_users() -> None:
    site = Site()
    site.ask(app_slice((V1, 2, 256)))
    site.settle(V1)
    site.ask(app_slice((V2, 2, 256)))
    site.decide()
    site.become(V2, "failed")
    site.now_ms += 10 * DRAIN_MAX_MS
    assert weights(site.decide(), site) == {"hello-v1": [256, 256]}
    site.ask(app_slice((V1, 2, 256)))
    before = {name for instances in site.running.values() for name, seen in instances.items() if seen.version == V1.id}
    site.decide()
    assert {name for instances in site.running.values() for name in instances} == before


def test_an_app_no_longer_asked_drains_at_once_without_hosts() -> None:
    site = Site()
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    site.ask()
    (route,) = site.decide().routes
    assert (route.hosts, [target.weight for target in route.targets]) == ((), [0])
    site.now_ms += DRAIN_MIN_MS
    assert site.decide().routes == ()
    assert site.versions() == []


def test_an_app_that_moved_away_drains_while_others_serve_it() -> None:
    site = Site()
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    site.ask(app_slice())
    (route,) = site.decide().routes
    assert route.hosts == ("hello.acme.localhost",)
    assert [target.weight for target in route.targets] == [0]
    assert [name for name, _ in route.fallbacks] == ["cur", "sin"]


def test_instances_on_a_lost_node_leave_the_routes_at_once_and_are_replaced() -> None:
    site = Site(nodes=2)
    site.ask(app_slice((V1, 2, 256)))
    site.settle(V1)
    site.silent = {NodeId("lhr-1")}
    assert weights(site.decide(), site)["hello-v1"] == [256, 256]
    site.lost = frozenset({NodeId("lhr-1")})
    table = site.decide()
    assert [target.weight for route in table.routes for target in route.targets] == [256]
    assert len(site.running["lhr-2"]) == 2
    assert site.running["lhr-1"] == {}
    site.lost, site.silent = frozenset(), set()
    site.become(V1, "running")
    assert len(next(iter(site.decide().routes)).targets) == 2


def test_a_node_is_drained_without_a_gap() -> None:
    site = Site(nodes=2)
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    home = next(node for node, instances in site.running.items() if instances)
    site.ask(app_slice((V1, 1, 256)), draining_nodes=(home,))
    assert weights(site.decide(), site) == {"hello-v1": [256]}
    site.become(V1, "running")
    site.decide()
    site.now_ms += DRAIN_MIN_MS
    site.decide()
    assert site.running[home] == {}
    assert site.versions() == ["hello-v1"]


def test_a_drain_with_nowhere_to_go_keeps_serving_and_says_why() -> None:
    site = Site(nodes=1)
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    site.ask(app_slice((V1, 1, 256)), draining_nodes=("lhr-1",))
    assert weights(site.decide(), site) == {"hello-v1": [256]}
    assert site.decision is not None
    assert [(refused.missing, refused.rejections[0].reason) for refused in site.decision.refused] == [(1, "node_draining")]


def test_a_restarted_controller_neither_moves_nor_unroutes_what_it_has_not_heard_of() -> None:
    site = Site(nodes=2)
    site.ask(app_slice((V1, 2, 256)))
    before = site.settle(V1)
    memory = site.memory
    site.silent = {NodeId("lhr-1"), NodeId("lhr-2")}
    assert site.decide() == before
    assert site.memory.held == memory.held


def test_what_went_while_its_node_was_silent_is_forgotten_whole() -> None:
    site = Site(nodes=1)
    site.ask(app_slice((V1, 1, 256)))
    site.settle(V1)
    site.silent = {NodeId("lhr-1")}
    site.ask()
    site.decide()
    site.now_ms += DRAIN_MIN_MS
    site.decide()
    assert (site.memory.held, site.memory.retiring, site.memory.serving, site.memory.versions) == ((), (), (), ())


def test_a_controller_without_memory_takes_over_what_runs() -> None:
    site = Site(nodes=2)
    site.ask(app_slice((V1, 2, 256)))
    before = site.settle(V1)
    held = site.memory.held
    site.memory = remember(site.slice, site.given().reports)
    assert site.decide() == before
    assert site.memory.held == held


def test_versions_share_traffic_by_their_weights_however_many_instances_each_has() -> None:
    site = Site()
    site.ask(app_slice((V1, 9, 230), (V2, 1, 26)))
    site.decide()
    site.become(V1, "running")
    site.become(V2, "running")
    found = weights(site.decide(), site)
    assert sum(found["hello-v1"]) / (sum(found["hello-v1"]) + sum(found["hello-v2"])) > 0.895
    assert len(found["hello-v1"]) == 9
    assert min(found["hello-v1"]) >= 1


def test_nodes_tell_what_is_promised_on_them() -> None:
    site = Site(nodes=1)
    site.ask(app_slice((V1, 2, 256)))
    site.decide()
    assert site.decision is not None
    assert [node.reserved.memory_mib for node in site.decision.nodes] == [24]


def decided(site: Site) -> SiteDecision:
    site.decide()
    assert site.decision is not None
    return site.decision


def two_apps(priority: int, other: Version, *, count: int = 2) -> tuple[SliceApp, SliceApp]:
    return app_slice((V1, count, 256)), replace(app_slice((other, 1, 256), name="urgent"), priority=priority)


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


def test_the_checks_find_planted_violations() -> None:
    site = Site(nodes=2)
    site.ask(app_slice((V1, 2, 256)))
    site.settle(V1)
    given = site.given()
    good = decide_site(given)
    held = good.memory.held
    route = good.routes.routes[0]
    wrong_address = replace(route.targets[0], address="elsewhere:80")
    unknown = replace(route.targets[0], instance=InstanceId("nobody"))
    silent = replace(
        given,
        reports=tuple(
            replace(
                heard, report=replace(heard.report, instances=tuple(replace(i, state="failed") for i in heard.report.instances))
            )
            for heard in given.reports
        ),
    )

    def table(*routes: object) -> SiteDecision:
        return replace(good, routes=replace(good.routes, routes=routes))

    shrunk = tuple(replace(node, capacity=Resources()) for node in good.nodes)
    planted = [
        ("more is promised than the node has", given, replace(good, nodes=shrunk)),
        ("on a lost node", replace(given, lost=frozenset({held[0].node})), good),
        ("draining node", replace(given, slice_=replace(given.slice_, draining_nodes=(held[0].node,))), good),
        ("stands 2 times", given, replace(good, slices=(*good.slices, good.slices[0]))),
        ("belongs on", given, replace(good, slices=good.slices[1:])),
        ("2 asked, 1 held, 0 refused", given, replace(good, memory=replace(good.memory, held=held[1:]))),
        ("which does not serve there", given, table(replace(route, targets=(wrong_address,)))),
        ("which nobody runs", given, table(replace(route, targets=(unknown,)))),
        ("which does not serve there", silent, good),
        ("has 2 routes", given, table(route, route)),
        ("weight 300", given, table(replace(route, targets=(replace(route.targets[0], weight=300),)))),
        ("could serve, none is routed", given, table(replace(route, targets=()))),
        ("falls back on its own site", given, table(replace(route, fallbacks=((SiteId("lhr"), "x"),)))),
    ]  # fmt: skip
    assert site_violations(given, good) == ()
    for expected, world, wrong in planted:
        found = site_violations(world, wrong)
        assert any(expected in violation for violation in found), (expected, found)
