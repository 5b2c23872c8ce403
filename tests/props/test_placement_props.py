"""Placement over any small world: allowed by the checks, independent of order, quiet when nothing changes."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from skerry.core.checks.plan import plan_violations
from skerry.core.machines.rollout import waves
from skerry.core.placement.explain import explain
from skerry.core.placement.ledger import reservations
from skerry.core.placement.place import place, same_decision, still_holds
from skerry.core.placement.world import SiteView, World
from skerry.core.types.app import App, RegionMin, Scale, Version
from skerry.core.types.ids import SiteId
from skerry.core.types.plan import Plan
from skerry.core.types.resources import Resources
from skerry.core.types.settings import SitePrices
from skerry.core.types.slices import Refused
from skerry.testing.builders import ACCOUNT, make_app, make_evaluation, make_node, make_site, make_version

NAMES = ("lhr", "cur", "sin", "fra", "nrt")
STATES = st.sampled_from(("up", "up", "up", "draining", "down", "cut_off"))
PLACES = (*NAMES, "country:GB", "region:weur", "region:apac")
VERSIONS = tuple(make_version(number, memory_mib=memory) for number, memory in ((1, 12), (2, 40), (3, 100)))


@st.composite
def views(draw: st.DrawFn, name: str) -> SiteView:
    nodes = tuple(
        make_node(
            f"{name}-{number}",
            memory_mib=draw(st.sampled_from((8, 50, 120, 1000))),
            state=draw(st.sampled_from(("up", "up", "draining", "down"))),
            features=draw(st.sampled_from(((), ("kvm",), ("kvm", "gpu")))),
        )
        for number in range(1, draw(st.integers(0, 3)) + 1)
    )
    others = Resources(memory_mib=draw(st.sampled_from((0, 0, 30, 100, 2000))))
    return SiteView(site=make_site(name, state=draw(STATES)), nodes=nodes, others=others)


DEMANDS = st.dictionaries(
    st.sampled_from((*map(SiteId, NAMES), SiteId("gone"))),
    st.sampled_from((0.0, 0.01, 3.0, 199.0, 200.0, 201.0, 2000.0)),
    max_size=4,
)
PRICES = st.builds(SitePrices, memory_mib=st.sampled_from((0.0, 0.5, 50.0)), cpu_millicores=st.sampled_from((0.0, 3.0)))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    return World(
        sites=tuple(draw(views(name)) for name in NAMES),
        demand=draw(st.none() | DEMANDS),
        users={SiteId(name): draw(st.sampled_from((0.0, 1.0, 7.0))) for name in NAMES},
        prices={SiteId(name): draw(PRICES) for name in NAMES[:3]},
        rtts_ms={SiteId("lhr"): {SiteId("sin"): draw(st.sampled_from((20.0, 400.0)))}},
    )


@st.composite
def scales(draw: st.DrawFn) -> Scale:
    return Scale(
        min_per_site=draw(st.integers(0, 3)),
        max_per_site=draw(st.none() | st.integers(1, 4)),
        min_total=draw(st.sampled_from((0, 0, 2, 7))),
        max_total=draw(st.none() | st.integers(0, 8)),
        region_min=tuple(
            RegionMin(region=region, count=draw(st.integers(1, 4)))
            for region in draw(st.lists(st.sampled_from(("weur", "apac", "me")), max_size=2, unique=True))
        ),
        jurisdiction=draw(st.sampled_from((None, None, "eu", "fedramp"))),
        survive_sites=draw(st.sampled_from((0, 0, 1, 3))),
        allow=tuple(draw(st.lists(st.sampled_from(PLACES), max_size=3, unique=True))),
        deny=tuple(draw(st.lists(st.sampled_from(PLACES), max_size=2, unique=True))),
        features=draw(st.sampled_from(((), (), ("kvm",), ("gpu", "kvm")))),
        pin=tuple(SiteId(name) for name in draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True))),
        latency_objective_ms=draw(st.sampled_from((None, None, 50.0))),
        priority=draw(st.sampled_from((0, 50, 100))),
    )


SHARES = st.lists(
    st.tuples(st.sampled_from(VERSIONS), st.sampled_from((0.5, 10.0, 90.0))), max_size=3, unique_by=lambda s: s[0].id
)


def decide(world: World, app: App, shares: tuple[tuple[Version, float], ...], parent: Plan | None) -> Plan:
    plan = place(world, app, shares, evaluation=make_evaluation(), parent=parent, now_ms=0)
    assert plan_violations(plan, world, app, shares, parent) == ()
    return plan


@settings(max_examples=300, deadline=None)
@given(data=st.data(), before=worlds(), after=worlds(), scale=scales(), shares=SHARES)
def test_every_plan_keeps_the_promises_in_any_order_and_stays(
    data: st.DataObject, before: World, after: World, scale: Scale, shares: list[tuple[Version, float]]
) -> None:
    app = make_app(scale=scale)
    first = decide(before, app, tuple(shares), None)
    second = decide(after, app, tuple(shares), first)
    shuffled = replace(after, sites=tuple(data.draw(st.permutations(after.sites))))
    assert decide(shuffled, app, tuple(data.draw(st.permutations(shares))), first) == second
    assert same_decision(decide(after, app, tuple(shares), second), second)
    assert {held.site for held in reservations(second, {version.id: version for version in VERSIONS})} == {
        entry.site for entry in second.placements
    }
    groups = waves(second, first, tuple(view.site for view in after.sites))
    assert sorted(site for group in groups for site in group) == sorted(
        {entry.site for entry in first.placements} | {entry.site for entry in second.placements}
    )
    said = explain(app, second, after)
    assert all(verdict.reasons for verdict in said.verdicts)


@settings(max_examples=100, deadline=None)
@given(world=worlds(), count=st.integers(1, 3), missing=st.integers(1, 3), name=st.sampled_from(NAMES))
def test_refusals_come_to_rest(world: World, count: int, missing: int, name: str) -> None:
    """A site that goes on refusing is asked for less each time, and the decision stops changing."""
    app, shares = make_app(scale=Scale(min_per_site=count)), ((VERSIONS[0], 100.0),)
    plan = decide(world, app, shares, None)
    for _ in range(count + 20):  # users ask for up to some ten more
        placed = sum(entry.count for entry in plan.placements if entry.site == name)
        refused = Refused(
            account=ACCOUNT,
            app=app.name,
            version=VERSIONS[0].id,
            plan_generation=plan.generation,
            missing=min(missing, placed),
            rejections=(),
        )
        refusing = replace(
            world, sites=tuple(replace(v, refused=(refused,) if placed and v.site.id == name else ()) for v in world.sites)
        )
        plan = decide(refusing, app, shares, plan)
    left = any(node.state == "draining" for view in world.sites if view.site.id == name for node in view.nodes)
    assert left or not [entry for entry in plan.placements if entry.site == name]  # what is drained may have no other place
    rested = decide(world, app, shares, plan)
    assert rested.placements == plan.placements
    assert same_decision(decide(world, app, shares, rested), rested)


def room_in_curacao(memory_mib: int, *, demand: float | None = None, state: str = "up") -> World:
    """And nodes nowhere else."""
    nodes = (make_node("cur-1", memory_mib=memory_mib),) if memory_mib else ()
    return World(
        sites=tuple(
            SiteView(
                site=make_site(name, state=state if name == "cur" else "up"),
                nodes=nodes if name == "cur" else (),
                others=Resources(),
            )
            for name in NAMES
        ),
        demand=None if demand is None else {SiteId("cur"): demand},
        users={SiteId(name): 0.0 for name in NAMES},
    )


def test_what_stays_in_a_draining_site_grows_with_no_decision() -> None:
    minimums = (RegionMin(region="weur", count=1), RegionMin(region="apac", count=4))
    app = make_app(scale=Scale(min_per_site=0, region_min=minimums))
    shares = ((VERSIONS[0], 50.0), (VERSIONS[1], 50.0))
    first = decide(room_in_curacao(50), app, shares, None)
    drained = room_in_curacao(120, state="draining")
    second = decide(drained, app, shares, first)
    assert second.placements
    assert same_decision(decide(drained, app, shares, second), second)


def test_one_version_that_has_more_than_its_minimum_is_no_excuse_for_the_other_that_has_none() -> None:
    app = make_app(scale=Scale(min_per_site=1, region_min=(RegionMin(region="weur", count=2),)))
    plan = decide(room_in_curacao(120, demand=0.01), app, ((VERSIONS[1], 50.0), (VERSIONS[2], 50.0)), None)
    assert plan.unserved_rps > 0.0


def test_a_plan_holds_though_another_city_could_run_it_by_now_until_something_else_is_asked() -> None:
    app, shares = make_app(scale=Scale(min_per_site=0, min_total=1)), ((VERSIONS[0], 100.0),)
    here = room_in_curacao(120, demand=3.0)
    plan = decide(here, app, shares, None)
    opened = replace(
        here,
        sites=tuple(replace(view, nodes=(make_node(f"{view.site.id}-1", memory_mib=120),)) for view in here.sites),
    )
    assert still_holds(here, app, shares, plan)
    assert still_holds(opened, app, shares, plan)
    assert not still_holds(replace(opened, demand={SiteId("cur"): 300.0}), app, shares, plan)
    assert not still_holds(room_in_curacao(8, demand=3.0), app, shares, plan)
