"""Placement: where an app runs, and the reason for every site where it does not."""

from msgspec.structs import replace

from skerry.core.checks.plan import plan_violations
from skerry.core.placement.explain import CHANGE_TEXT, explain
from skerry.core.placement.ledger import reservations
from skerry.core.placement.place import blocking, place, same_decision, still_right
from skerry.core.placement.world import SiteView, World
from skerry.core.types.app import App, RegionMin, Scale, Version
from skerry.core.types.ids import DeploymentId, SiteId
from skerry.core.types.plan import REASON_TEXT, EvaluationCause, Plan, Reason
from skerry.core.types.resources import Resources
from skerry.core.types.slices import Refused
from skerry.testing.builders import ACCOUNT, make_app, make_evaluation, make_node, make_version, make_view

V1, V2 = make_version(1), make_version(2)
THREE = World(sites=(make_view("lhr"), make_view("cur"), make_view("sin", 2)))


def decide(
    world: World,
    app: App | None = None,
    shares: tuple[tuple[Version, float], ...] = ((V1, 100.0),),
    *,
    parent: Plan | None = None,
    cause: EvaluationCause = "deploy",
) -> Plan:
    """A plan that `core.checks` has nothing against."""
    app = app or make_app()
    plan = place(world, app, shares, evaluation=make_evaluation(cause=cause), parent=parent, now_ms=1000)
    assert plan_violations(plan, world, app, shares, parent) == ()
    return plan


def counts(plan: Plan) -> dict[str, int]:
    return {f"{entry.site}/{entry.version}": entry.count for entry in plan.placements}


def reasons(plan: Plan) -> dict[str, Reason]:
    return {rejection.place: rejection.reason for rejection in plan.rejections}


def with_site(world: World, view: SiteView) -> World:
    return World(sites=tuple(view if old.site.id == view.site.id else old for old in world.sites))


def test_every_allowed_site_gets_its_minimum_of_every_version() -> None:
    plan = decide(THREE, make_app(scale=Scale(min_per_site=2)), ((V1, 90.0), (V2, 10.0)))
    assert counts(plan) == {f"{site}/{version.id}": 2 for site in ("cur", "lhr", "sin") for version in (V1, V2)}
    assert plan.rejections == ()
    assert (plan.generation, plan.parent, plan.cause) == (1, None, "deploy")


def test_every_site_not_chosen_has_its_reason() -> None:
    world = World(
        sites=(
            make_view("lhr"),
            make_view("cur", state="down"),
            make_view("sin", state="draining"),
            make_view("fra", state="cut_off"),
            make_view("nrt", nodes=0),
            make_view("aaa", others_mib=3 * 1024 - 11),
            make_view("bbb", memory_mib=11),
            make_view("ccc"),
        )
    )
    plan = decide(world, make_app(scale=Scale(deny=("ccc",))))
    assert counts(plan) == {"lhr/hello-v1": 1}
    assert reasons(plan) == {
        "cur": Reason.SITE_DOWN,
        "sin": Reason.SITE_DRAINING,
        "fra": Reason.SITE_CUT_OFF,
        "nrt": Reason.NO_NODES,
        "aaa": Reason.NO_CAPACITY,
        "bbb": Reason.TOO_LARGE,
        "ccc": Reason.DENIED,
    }
    details = {rejection.place: rejection.detail for rejection in plan.rejections}
    assert details["aaa"] == "0 of 1 instances placed; needs 12 MiB memory, 11 free"
    assert details["bbb"] == "largest node bbb-3: needs 12 MiB memory, 11 free"
    assert {rejection.place for rejection in blocking(plan)} == {"nrt", "aaa", "bbb"}  # a drain or an absence waits for nobody


def test_features_limit_the_nodes_that_count() -> None:
    gpu = SiteView(
        site=make_view("lhr").site,
        nodes=(make_node("lhr-1", memory_mib=20, features=("gpu",)), make_node("lhr-2", features=())),
        others=Resources(),
    )
    plan = decide(World(sites=(gpu, make_view("cur"))), make_app(scale=Scale(features=("gpu",), min_per_site=2)))
    assert counts(plan) == {"lhr/hello-v1": 1}
    assert reasons(plan) == {"cur": Reason.MISSING_FEATURE, "lhr": Reason.NO_CAPACITY}


def test_short_room_still_serves_every_version_and_says_how_much_is_missing() -> None:
    world = World(sites=(make_view("lhr", nodes=1, memory_mib=36),))
    plan = decide(world, make_app(scale=Scale(min_per_site=2)), ((V1, 90.0), (V2, 10.0)))
    assert counts(plan) == {"lhr/hello-v1": 2, "lhr/hello-v2": 1}
    assert plan.rejections[0].detail == "3 of 4 instances placed; needs 12 MiB memory, 0 free"


def test_max_total_prefers_pinned_then_running_sites() -> None:
    app = make_app(scale=Scale(max_total=1))
    first = decide(THREE, app)
    home = first.placements[0].site
    assert set(reasons(first).values()) == {Reason.MAX_TOTAL}
    assert same_decision(decide(World(sites=THREE.sites[::-1]), app, parent=first), first)
    other = next(view.site.id for view in THREE.sites if view.site.id != home)
    pinned = decide(THREE, make_app(scale=Scale(max_total=1, pin=(other,))), parent=first)
    assert [entry.site for entry in pinned.placements] == [other]


def total(plan: Plan) -> int:
    return sum(entry.count for entry in plan.placements)


def test_demand_chooses_but_an_app_that_is_on_runs_somewhere() -> None:
    plan = decide(THREE, make_app(scale=Scale(min_per_site=0)))
    assert total(plan) == 1
    assert list(reasons(plan).values()) == [Reason.NOT_NEEDED] * 2
    both = decide(THREE, make_app(scale=Scale(min_per_site=0)), ((V1, 90.0), (V2, 10.0)))
    assert sum(count for name, count in counts(both).items() if name.endswith("v2")) == 1


def test_minimums_in_all_and_by_region_are_reached_where_there_are_fewest() -> None:
    plan = decide(THREE, make_app(scale=Scale(min_total=7)))
    assert sorted(counts(plan).values()) == [2, 2, 3]
    assert plan.rejections == ()
    regional = Scale(min_per_site=0, region_min=(RegionMin(region="sam", count=2), RegionMin(region="apac", count=1)))
    assert counts(decide(THREE, make_app(scale=regional))) == {"cur/hello-v1": 2, "sin/hello-v1": 1}


def test_losing_sites_is_survived_in_other_sites() -> None:
    plan = decide(THREE, make_app(scale=Scale(min_per_site=0, survive_sites=1)))
    assert sorted(counts(plan).values()) == [1, 1]


def test_a_minimum_that_is_not_reached_has_a_reason_in_every_site() -> None:
    plan = decide(THREE, make_app(scale=Scale(min_total=7, max_per_site=2, deny=("lhr",))))
    assert counts(plan) == {"cur/hello-v1": 2, "sin/hello-v1": 2}
    assert reasons(plan) == {"cur": Reason.MAX_PER_SITE, "sin": Reason.MAX_PER_SITE, "lhr": Reason.DENIED}
    small = World(sites=(make_view("lhr", nodes=1, memory_mib=30), make_view("cur", state="down")))
    plan = decide(small, make_app(scale=Scale(min_total=4)))
    assert counts(plan) == {"lhr/hello-v1": 2}
    assert {r.place: r.detail for r in plan.rejections}["lhr"] == "2 placed, more are asked for; needs 12 MiB memory, 6 free"


def test_who_waits_for_room_that_nobody_asks_for_any_more_is_decided_again() -> None:
    """Operators read of it: demand rose and fell, and the plan went on to say that the city has too little room."""
    app = make_app(scale=Scale(rps_per_instance=100.0))
    small = World(sites=(make_view("lhr", nodes=1, memory_mib=15),))
    busy = decide(replace(small, demand={SiteId("lhr"): 150.0}), app)
    assert reasons(busy) == {"lhr": Reason.NO_CAPACITY}
    calm = decide(replace(small, demand={SiteId("lhr"): 50.0}), app, parent=busy)
    assert (counts(calm), reasons(calm)) == (counts(busy), {})
    assert not same_decision(calm, busy)


def test_a_jurisdiction_is_kept_to() -> None:
    world = World(sites=(make_view("lhr"), make_view("fra"), make_view("cur")))
    plan = decide(world, make_app(scale=Scale(jurisdiction="eu")))
    assert counts(plan) == {"fra/hello-v1": 1}
    assert reasons(plan) == {"lhr": Reason.JURISDICTION, "cur": Reason.JURISDICTION}
    said = explain(make_app(scale=Scale(jurisdiction="eu")), plan, world)
    (lhr,) = [verdict for verdict in said.verdicts if verdict.site == "lhr"]
    assert "outside the app's jurisdiction (needs eu; the site is in: none)" in lhr.reasons[0]


def test_every_reason_has_a_text_and_a_way_to_change_it() -> None:
    assert set(REASON_TEXT) == set(CHANGE_TEXT) == set(Reason)


def test_what_runs_stays_when_more_sites_become_possible() -> None:
    app = make_app(scale=Scale(max_total=2))
    before = decide(World(sites=(make_view("lhr"), make_view("cur"))), app)
    after = decide(World(sites=(make_view("aaa"), make_view("lhr"), make_view("cur"), make_view("bbb"))), app, parent=before)
    assert same_decision(before, after)
    assert after.generation == before.generation + 1
    assert after.parent == before.id


def test_a_cut_off_site_keeps_its_app_and_gets_the_new_version() -> None:
    before = decide(THREE)
    world = with_site(THREE, make_view("cur", state="cut_off"))
    app = make_app(deployment="d2")
    after = decide(world, app, ((V2, 100.0),), parent=before)
    assert counts(after)["cur/hello-v2"] == 1


def test_nothing_is_asked_of_an_app_that_is_off() -> None:
    for app in (make_app(enabled=False), make_app(deployment=None)):
        plan = decide(THREE, app)
        assert (plan.placements, plan.rejections) == ((), ())
        assert "runs nowhere" in plan.report[0]
    assert decide(THREE, make_app(), ()).placements == ()


def test_a_refusing_site_is_not_asked_the_same_again_until_it_has_more_free() -> None:
    app = make_app(scale=Scale(min_per_site=2))
    first = decide(THREE, app)
    refused = Refused(account=ACCOUNT, app=app.name, version=V1.id, plan_generation=first.generation, missing=1, rejections=())
    refusing = with_site(THREE, replace(make_view("cur"), refused=(refused,)))
    second = decide(refusing, app, parent=first, cause="refused")
    assert counts(second)["cur/hello-v1"] == 1
    assert reasons(second) == {"cur": Reason.REFUSED_BY_SITE}
    third = decide(THREE, app, parent=second, cause="capacity")
    assert same_decision(second, third)
    more = decide(with_site(THREE, make_view("cur", nodes=4)), app, parent=third, cause="capacity")
    assert counts(more)["cur/hello-v1"] == 2


def test_a_refusal_does_not_outlive_its_deployment() -> None:
    first = decide(THREE)
    refused = Refused(
        account=ACCOUNT, app=make_app().name, version=V1.id, plan_generation=first.generation, missing=1, rejections=()
    )
    second = decide(with_site(THREE, replace(make_view("cur"), refused=(refused,))), parent=first)
    assert "cur/hello-v1" not in counts(second)
    third = decide(THREE, make_app(deployment="d2"), ((V2, 100.0),), parent=second)
    assert counts(third)["cur/hello-v2"] == 1


def test_the_ledger_holds_what_the_plan_places() -> None:
    big = make_version(3, memory_mib=100)
    plan = decide(THREE, make_app(scale=Scale(min_per_site=2)), ((V1, 50.0), (big, 50.0)))
    held = reservations(plan, {V1.id: V1, big.id: big})
    assert [reservation.site for reservation in held] == ["cur", "lhr", "sin"]
    assert {reservation.resources.memory_mib for reservation in held} == {2 * 12 + 2 * 100}


def test_the_checks_find_planted_violations() -> None:
    app, shares = make_app(), ((V1, 100.0),)
    plan = decide(THREE)
    draining = with_site(THREE, make_view("cur", state="draining"))
    full = with_site(THREE, make_view("cur", others_mib=3 * 1024))
    twice = replace(plan.placements[0], count=2)
    planted: list[tuple[str, Plan, World, App]] = [
        ("placed although the site is draining", plan, draining, app),
        ("more is placed than the site has free", plan, full, app),
        ("denied", plan, THREE, make_app(scale=Scale(deny=("cur",)))),
        ("not allowed", plan, THREE, make_app(scale=Scale(allow=("lhr",)))),
        ("parent and generation", replace(plan, generation=7), THREE, app),
        ("another deployment", replace(plan, deployment=DeploymentId("dx")), THREE, app),
        ("without a reason", replace(plan, placements=plan.placements[1:]), THREE, app),
        ("more than minimums and demand ask for", replace(plan, placements=(twice, *plan.placements[1:])), THREE, app),
        ("two placements", replace(plan, placements=(*plan.placements, plan.placements[0])), THREE, app),
        ("more than max_total", plan, THREE, make_app(scale=Scale(max_total=2))),
        ("outside jurisdiction eu", plan, THREE, make_app(scale=Scale(jurisdiction="eu"))),
        ("more than max_per_site", replace(plan, placements=(twice,)), THREE, make_app(scale=Scale(max_per_site=1))),
        ("without a reason", plan, THREE, make_app(scale=Scale(min_total=4))),
        ("without a reason", plan, THREE, make_app(scale=Scale(region_min=(RegionMin(region="sam", count=2),)))),
        ("no such site", plan, World(sites=THREE.sites[:2]), app),
        ("no node can hold", plan, THREE, make_app(scale=Scale(features=("gpu",)))),
    ]
    for expected, wrong, world, asked in planted:
        found = plan_violations(wrong, world, asked, shares, None)
        assert any(expected in violation for violation in found), (expected, found)


def test_the_checks_do_not_believe_a_false_reason() -> None:
    plan = decide(with_site(THREE, make_view("cur", state="down")))
    found = plan_violations(plan, THREE, make_app(), ((V1, 100.0),), None)
    assert found == ("cur: rejected for site_down, which does not hold",)


def test_explain_says_why_not_and_what_would_have_to_change() -> None:
    world = with_site(THREE, make_view("cur", others_mib=3 * 1024))
    plan = decide(world)
    said = explain(make_app(), plan, world)
    verdicts = {verdict.site: verdict for verdict in said.verdicts}
    assert [verdict.site for verdict in said.verdicts] == ["cur", "lhr", "sin"]
    assert not verdicts["cur"].chosen
    assert "not enough free capacity" in verdicts["cur"].reasons[0]
    assert "needs 12 MiB memory, 0 free" in verdicts["cur"].reasons[0]
    assert "add a node there" in verdicts["cur"].reasons[0]
    assert verdicts["lhr"].chosen


def test_explain_of_one_site_shows_its_nodes_and_new_sites_are_honest() -> None:
    plan = decide(THREE)
    world = World(sites=(*THREE.sites, make_view("nrt")))
    said = explain(make_app(), plan, world, SiteId("nrt"))
    assert [verdict.site for verdict in said.verdicts] == ["nrt"]
    assert "joined after" in said.verdicts[0].reasons[0]
    assert [node.node for node in said.nodes] == ["nrt-1", "nrt-2", "nrt-3"]
    assert explain(make_app(), None, world).report == ("Nothing was decided yet.",)


def full(site: str) -> SiteView:
    return make_view(site, others_mib=3 * 1024 - 11)


def test_the_only_city_with_room_keeps_the_app_while_it_is_drained_and_says_so() -> None:
    """It used to be given up at once, and the app ran nowhere."""
    first = decide(World(sites=(make_view("lhr"), full("cur"))))
    draining = World(sites=(make_view("lhr", state="draining"), full("cur")))
    plan = decide(draining, parent=first, cause="drain")
    assert counts(plan) == {"lhr/hello-v1": 1}
    assert reasons(plan) == {"lhr": Reason.SITE_DRAINING, "cur": Reason.NO_CAPACITY}
    assert "stay until there is room elsewhere" in plan.rejections[1].detail
    assert same_decision(decide(draining, parent=plan, cause="drain"), plan), "and it stays so"
    room = World(sites=(make_view("lhr", state="draining"), make_view("cur")))
    assert counts(decide(room, parent=plan, cause="capacity")) == {"cur/hello-v1": 1}
    said = explain(make_app(), plan, draining)
    assert sum("being drained" in reason for verdict in said.verdicts for reason in verdict.reasons) == 1


def test_a_new_version_reaches_the_only_city_although_it_is_drained() -> None:
    first = decide(World(sites=(make_view("lhr"),)))
    draining = World(sites=(make_view("lhr", state="draining"),))
    assert counts(decide(draining, shares=((V2, 100.0),), parent=first)) == {"lhr/hello-v2": 1}


def test_a_drained_city_that_never_ran_the_app_gets_nothing() -> None:
    assert counts(decide(World(sites=(make_view("lhr", state="draining"),)))) == {}


def test_what_runs_on_drained_nodes_of_the_only_city_stays() -> None:
    view = make_view("lhr", nodes=1)
    first = decide(World(sites=(view,)))
    drained = replace(view, nodes=(replace(view.nodes[0], state="draining"),))
    plan = decide(World(sites=(drained,)), parent=first, cause="drain")
    assert counts(plan) == {"lhr/hello-v1": 1}
    assert reasons(plan) == {"lhr": Reason.NO_NODES}
    refused = Refused(account=ACCOUNT, app=make_app().name, version=V1.id, plan_generation=1, missing=1, rejections=())
    one_up = replace(view, nodes=(*drained.nodes, make_node("lhr-2", memory_mib=11)), refused=(refused,))
    plan = decide(World(sites=(one_up,)), parent=first, cause="refused")
    assert counts(plan) == {"lhr/hello-v1": 1}


def test_no_more_stays_in_a_drained_city_than_the_losses_need_that_the_app_is_to_survive() -> None:
    app = make_app(scale=Scale(min_per_site=1, survive_sites=1))
    first = decide(THREE, app)
    plan = decide(with_site(THREE, make_view("lhr", state="draining")), app, parent=first, cause="drain")
    assert counts(plan) == {"cur/hello-v1": 1, "sin/hello-v1": 1}
    world = with_site(with_site(THREE, make_view("lhr", state="draining")), make_view("cur", state="down"))
    one_node = with_site(world, make_view("sin", nodes=1, memory_mib=12))
    plan = decide(one_node, app, parent=first, cause="drain")
    assert counts(plan) == {"lhr/hello-v1": 1, "sin/hello-v1": 1}


def test_one_version_stays_on_a_drained_node_beside_another_that_has_room() -> None:
    """It used to be taken for more than the city has free, as neither was looked at alone."""
    shares = ((V1, 50.0), (V2, 50.0))
    lhr = make_view("lhr", nodes=2, memory_mib=12)
    first = decide(World(sites=(lhr, make_view("cur", nodes=1, memory_mib=12))), shares=shares)
    assert counts(first) == {"cur/hello-v1": 1, "lhr/hello-v1": 1, "lhr/hello-v2": 1}
    drained = replace(lhr, nodes=(replace(lhr.nodes[0], state="draining"), lhr.nodes[1]))
    plan = decide(World(sites=(drained, make_view("cur", nodes=1, memory_mib=12))), shares=shares, parent=first)
    assert counts(plan) == {"cur/hello-v1": 1, "lhr/hello-v1": 1, "lhr/hello-v2": 1}


def test_no_more_stays_than_a_city_may_have_of_one_version() -> None:
    app, shares = make_app(scale=Scale(max_per_site=1, survive_sites=1)), ((V1, 50.0), (V2, 50.0))
    lhr = make_view("lhr", nodes=2)
    first = decide(World(sites=(lhr,)), app, shares)
    drained = replace(lhr, nodes=(replace(lhr.nodes[0], state="draining"), lhr.nodes[1]))
    assert counts(decide(World(sites=(drained,)), app, shares, parent=first)) == {"lhr/hello-v1": 1, "lhr/hello-v2": 1}


def test_what_stayed_for_want_of_room_and_has_it_now_is_decided_again_and_moves_nothing() -> None:
    """It used to say for ever that more is asked for than has room."""
    shares = ((V1, 50.0), (V2, 50.0))
    lhr = make_view("lhr", nodes=2, others_mib=3 * 1024 // 2 + 300)
    first = decide(World(sites=(lhr,)), shares=shares)
    drained = World(sites=(replace(lhr, nodes=(replace(lhr.nodes[0], state="draining"), lhr.nodes[1])),))
    plan = decide(drained, shares=shares, parent=first, cause="drain")
    assert "stay until there is room elsewhere" in blocking(plan)[0].detail
    again = decide(World(sites=(lhr,)), shares=shares, parent=plan, cause="undrain")
    assert not still_right(World(sites=(lhr,)), make_app(), shares, plan)
    assert not same_decision(again, plan)
    assert again.placements == plan.placements
    assert blocking(again) == ()
    assert still_right(World(sites=(lhr,)), make_app(), shares, again)


def test_what_is_held_on_a_drained_node_does_not_stay_beside_a_version_that_took_its_room() -> None:
    """It used to be sold twice where others were still leaving."""
    lhr = make_view("lhr", nodes=2, memory_mib=26)
    first = decide(World(sites=(lhr,)))
    drained = (replace(lhr.nodes[0], state="draining"), lhr.nodes[1])
    # One place of the two that are not drained, and all the others are held, by some that leave.
    view = replace(lhr, nodes=drained, others=Resources(memory_mib=14), unsold=Resources(10**6, 18, 10**6))
    plan = decide(World(sites=(view,)), shares=((V2, 90.0), (V1, 10.0)), parent=first)
    assert counts(plan) == {"lhr/hello-v2": 1}
    roomy = replace(view, unsold=Resources(10**6, 24, 10**6))
    plan = decide(World(sites=(roomy,)), shares=((V2, 90.0), (V1, 10.0)), parent=first)
    assert counts(plan) == {"lhr/hello-v1": 1, "lhr/hello-v2": 1}


def test_a_new_version_that_has_room_nowhere_leaves_the_old_one_its_users() -> None:
    """It used to end what served, and the app was down until a node came back."""
    view = make_view("lhr", nodes=1)
    first = decide(World(sites=(view,)))
    drained = World(sites=(replace(view, nodes=(replace(view.nodes[0], state="draining"),)),))
    app, shares = make_app(deployment="d2"), ((V2, 100.0),)
    plan = decide(drained, app, shares, parent=first)
    assert counts(plan) == {"lhr/hello-v1": 1}
    assert same_decision(plan, first), "nothing is released"
    assert [rejection.reason for rejection in blocking(plan)] == [Reason.NO_NODES]
    assert any("goes on" in sentence for sentence in plan.report)
    assert not still_right(drained, app, shares, first), "it is looked at again whenever a site differs"
    assert counts(decide(World(sites=(view,)), app, shares, parent=first, cause="capacity")) == {"lhr/hello-v2": 1}


def test_a_version_that_is_too_large_for_every_node_does_not_end_the_one_that_serves() -> None:
    first = decide(THREE)
    large = replace(V2, limits=replace(V2.limits, reserve=Resources(cpu_millicores=1, memory_mib=1_000_000)))
    plan = decide(THREE, make_app(deployment="d2"), ((large, 100.0),), parent=first)
    assert same_decision(plan, first)
    assert set(reasons(plan).values()) == {Reason.TOO_LARGE}


def test_what_its_users_do_not_want_there_any_more_does_not_go_on_for_want_of_room() -> None:
    first = decide(World(sites=(make_view("lhr"), full("cur"))))
    denied = make_app(deployment="d2", scale=Scale(deny=("lhr",)))
    assert counts(decide(World(sites=(make_view("lhr"), full("cur"))), denied, ((V2, 100.0),), parent=first)) == {}
    off = make_app(deployment="d2", enabled=False)
    assert counts(decide(World(sites=(make_view("lhr"),)), off, ((V2, 100.0),), parent=first)) == {}
    down = World(sites=(make_view("lhr", state="down"), full("cur")))
    assert counts(decide(down, make_app(deployment="d2"), ((V2, 100.0),), parent=first)) == {}


def test_a_city_that_has_what_it_must_is_not_short_of_what_others_carry() -> None:
    """More there would save its users some way, and finds no room; all that they ask is served without it."""
    small = make_view("lhr", nodes=1, memory_mib=2 * 12 + 6)
    world = World(sites=(small, make_view("cur")), demand={SiteId("lhr"): 250.0, SiteId("cur"): 1.0})
    plan = decide(world, make_app(scale=Scale(min_per_site=1, rps_per_instance=200.0)), ((V1, 90.0), (V2, 10.0)))
    assert counts(plan) == {f"{site}/{version.id}": 1 for site in ("cur", "lhr") for version in (V1, V2)}
    assert (plan.rejections, plan.unserved_rps) == ((), 0.0)
