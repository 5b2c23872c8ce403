"""The site controller's decision: make before break, drains, lost nodes, restarts, weights."""

from msgspec.structs import replace
from tests.unit.core.site_at_once import PEERS, V1, V2, Site, app_slice, decided, weights

from skerry.core.checks.site import site_violations
from skerry.core.reconcile.site import decide_site, remember
from skerry.core.reconcile.site_types import DRAIN_MAX_MS, DRAIN_MIN_MS, SiteDecision
from skerry.core.types.ids import InstanceId, NodeId, SiteId
from skerry.core.types.program import Program
from skerry.core.types.resources import Resources
from skerry.testing.programs import image


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


def test_a_program_without_a_port_is_replaced_without_a_gap_and_never_routed() -> None:
    site = Site()
    old, new = (replace(version, program=Program(image=image("job")), isolation="container") for version in (V1, V2))
    site.nodes = [replace(node, features=("amd64", "container")) for node in site.nodes]
    site.ask(app_slice((old, 1, 256)))
    site.decide()
    site.become(old, "running")
    site.decide()
    site.ask(app_slice((new, 1, 256)))
    site.decide()
    assert site.versions() == sorted((old.id, new.id))
    site.become(new, "starting")
    site.now_ms += DRAIN_MAX_MS - 1
    site.decide()
    assert site.versions() == sorted((old.id, new.id))
    site.become(new, "done")  # it did what it is for
    assert weights(site.decide(), site) == {}
    site.now_ms += DRAIN_MIN_MS
    site.decide()
    assert site.versions() == [new.id]


def test_versions_of_one_app_need_different_nodes() -> None:
    site = Site(nodes=3)
    features = (("amd64", "container"), ("amd64", "container", "gvisor"), ())
    site.nodes = [replace(node, features=offered) for node, offered in zip(site.nodes, features, strict=True)]
    program = Program(image=image("app"), port=80)
    plain, strict = replace(V1, program=program, isolation="container"), replace(V2, program=program, isolation="gvisor")
    site.ask(app_slice((plain, 2, 128), (strict, 2, 128)))
    decision = decided(site)
    where = {
        version.id: {held.node for held in decision.memory.held if held.version == version.id} for version in (plain, strict)
    }
    assert where == {plain.id: {"lhr-1", "lhr-2"}, strict.id: {"lhr-2"}}
    site.nodes = [replace(node, features=("amd64", "container")) for node in site.nodes]
    (refused,) = [item for item in decided(site).refused if item.version == strict.id]
    assert {(r.place, r.reason, r.detail) for r in refused.rejections} == {
        (f"lhr-{n}", "missing_feature", "needs amd64, gvisor") for n in (1, 2, 3)
    }


def test_a_public_port_leads_to_other_sites_where_they_take_connections() -> None:
    site = Site()
    site.slice = replace(site.slice, peers=(PEERS[0], replace(PEERS[1], tcp_address="sin.test:8083")))
    site.ask(replace(app_slice((V1, 1, 256)), hosts=(), public_port=30_001))
    (route,) = site.decide().routes
    assert (route.public_port, route.hosts, route.fallbacks) == (30_001, (), (("sin", "sin.test:8083"),))


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


def test_an_instance_that_joins_others_is_warmed_before_it_takes_its_share() -> None:
    site = Site()
    site.now_ms = 10_300
    site.ask(app_slice((V1, 1, 256)))
    assert weights(site.settle(V1), site) == {"hello-v1": [256]}, "alone it takes all"
    site.now_ms += 60_000
    site.ask(app_slice((V1, 2, 256)))
    grown = [(sorted(weights(site.settle(V1), site)["hello-v1"]), site.decision.wake_ms)] if site.decision else []
    while site.decision is not None and site.decision.wake_ms is not None:
        site.now_ms = site.decision.wake_ms
        grown.append((sorted(weights(site.decide(), site)["hello-v1"]), site.decision.wake_ms))
    assert grown == [
        ([51, 256], 71_000),
        ([102, 256], 72_000),
        ([154, 256], 73_000),
        ([205, 256], 74_000),
        ([256, 256], None),
    ]


def test_an_instance_whose_process_starts_anew_is_warmed_again() -> None:
    site = Site()
    site.ask(app_slice((V1, 2, 256)))
    assert weights(site.settle(V1), site) == {"hello-v1": [256, 256]}, "none is warmer than the other"
    site.now_ms += 60_000
    site.become(V1, "starting", only=1)
    assert sorted(weights(site.decide(), site)["hello-v1"]) == [51, 256]
    site.now_ms += 1_000
    site.become(V1, "running")
    assert sorted(weights(site.decide(), site)["hello-v1"]) == [102, 256]
    site.now_ms += 10_000
    assert weights(site.decide(), site) == {"hello-v1": [256, 256]}


def test_a_version_has_its_share_however_warm_its_instances_are() -> None:
    site = Site()
    site.ask(app_slice((V1, 2, 128), (V2, 1, 128)))
    site.decide()
    site.become(V1, "running", only=1)
    site.become(V2, "running")
    site.decide()
    site.now_ms += 60_000
    site.become(V1, "running")
    found = weights(site.decide(), site)
    assert sum(found["hello-v1"]) == sum(found["hello-v2"])
    assert len(set(found["hello-v1"])) == 2


def test_nodes_tell_what_is_promised_on_them() -> None:
    site = Site(nodes=1)
    site.ask(app_slice((V1, 2, 256)))
    site.decide()
    assert site.decision is not None
    assert [node.reserved.memory_mib for node in site.decision.nodes] == [24]


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
