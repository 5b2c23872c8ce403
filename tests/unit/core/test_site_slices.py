"""Control's answer to a site: what it runs and routes, wave by wave."""

from msgspec.structs import replace

from skerry.core.checks.slices import slice_violations
from skerry.core.placement.order import fallback_order
from skerry.core.placement.place import place
from skerry.core.placement.world import World
from skerry.core.reconcile.control import share_weight, site_slice_apps
from skerry.core.reconcile.site_routes import route_table
from skerry.core.types.app import App, Deployment, Scale, Share, Version
from skerry.core.types.ids import AppName, DeploymentId, NodeId, SiteId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan, Release
from skerry.core.types.slices import NodeInstance, NodeSlice, SiteSlice, SliceApp
from skerry.testing.builders import ACCOUNT, make_app, make_evaluation, make_site, make_version, make_view

V1, V2 = make_version(1), make_version(2)
SITES = (make_site("lhr"), make_site("cur"), make_site("sin"))


def deployment(name: str, *shares: tuple[Version, float]) -> Deployment:
    return Deployment(
        id=DeploymentId(name),
        account=ACCOUNT,
        app=make_app().name,
        created_ms=0,
        shares=tuple(Share(version=version.id, percent=percent) for version, percent in shares),
    )


D1, D2 = deployment("d1", (V1, 100.0)), deployment("d2", (V1, 90.0), (V2, 10.0))


def plan_of(which: Deployment, *names: str) -> Plan:
    versions = {V1.id: V1, V2.id: V2}
    shares = tuple((versions[share.version], share.percent) for share in which.shares)
    world = World(sites=tuple(make_view(name) for name in names))
    app = make_app(deployment=which.id)
    return place(world, app, shares, evaluation=make_evaluation(), parent=None, now_ms=0)


def slices(
    release: Release,
    plans: tuple[Plan, ...],
    *,
    site: str = "lhr",
    app: App | None = None,
    sites: tuple[Site, ...] = SITES,
    lost: dict[str, int] | None = None,
) -> tuple[SliceApp, ...]:
    here = next(item for item in sites if item.id == site)
    asked = app or make_app()
    return site_slice_apps(
        here,
        (release,),
        {plan.id: plan for plan in plans},
        {V1.id: V1, V2.id: V2},
        {(ACCOUNT, asked.name): asked} if app is not False else {},
        {ACCOUNT: "acme"},
        {D1.id: D1, D2.id: D2},
        sites,
        "localhost",
        {SiteId(name): since_ms for name, since_ms in (lost or {}).items()},
    )


def release_of(plan: Plan, previous: Plan | None = None, *waves: tuple[str, ...], state: str = "done", wave: int = 0) -> Release:
    return Release(
        account=ACCOUNT,
        app=plan.app,
        plan=plan.id,
        previous=previous.id if previous else None,
        state=state,  # type: ignore[arg-type]
        waves=tuple(tuple(SiteId(name) for name in group) for group in waves),
        wave=wave,
        wave_since_ms=0,
    )


def test_an_app_with_a_public_port_answers_there_in_place_of_a_host_name_as_long_as_it_is_enabled() -> None:
    plan = plan_of(D1, "cur")
    spoken = replace(make_app(), public_port=30_001)
    (app,) = slices(release_of(plan), (plan,), app=spoken)
    assert (app.hosts, app.public_port, app.versions, app.fallbacks) == ((), 30_001, (), ("cur",))
    assert slices(release_of(plan), (plan,), app=replace(spoken, enabled=False)) == ()
    (off,) = slices(release_of(plan), (plan,), site="cur", app=replace(spoken, enabled=False))
    assert (off.hosts, off.public_port, len(off.versions)) == ((), None, 1)
    twice = SiteSlice(site=SiteId("lhr"), generation=1, apps=(app, replace(app, app=AppName("other"))))
    assert slice_violations(None, twice) == ("public port 30001 has two apps",)


def test_a_site_gets_its_versions_hosts_and_fallbacks_nearest_first() -> None:
    plan = plan_of(D2, "lhr", "cur", "sin")
    (app,) = slices(release_of(plan), (plan,))
    assert [(entry.version.id, entry.count, entry.weight) for entry in app.versions] == [(V1.id, 1, 230), (V2.id, 1, 26)]
    assert app.hosts == ("hello.acme.localhost",)
    assert app.fallbacks == ("cur", "sin")
    assert app.plan_generation == 1


def test_a_sticky_app_has_a_sticky_route() -> None:
    plan = plan_of(D1, "lhr")
    for sticky in (True, False):
        (app,) = slices(release_of(plan), (plan,), app=make_app(scale=Scale(sticky=sticky)))
        (route,) = route_table(SiteSlice(site=SiteId("lhr"), generation=1, apps=(app,)), (), (), {}).routes
        assert (app.sticky, route.sticky) == (sticky, sticky)


def test_released_sites_follow_the_new_plan_and_the_others_the_previous() -> None:
    old, new = plan_of(D1, "lhr", "cur"), plan_of(D2, "cur", "sin")
    release = release_of(new, old, ("cur",), ("lhr", "sin"), state="running")
    at = {site: slices(release, (old, new), site=site)[0] for site in ("lhr", "cur", "sin")}
    assert [entry.version.id for entry in at["lhr"].versions] == [V1.id]
    assert [entry.version.id for entry in at["cur"].versions] == [V1.id, V2.id]
    assert at["sin"].versions == ()
    assert at["sin"].fallbacks == fallback_order(SITES[2], (SITES[0], SITES[1]))


def test_an_app_that_only_others_run_is_routed_by_fallbacks_alone() -> None:
    plan = plan_of(D1, "cur")
    (app,) = slices(release_of(plan), (plan,))
    assert (app.versions, app.fallbacks) == ((), ("cur",))


def test_who_is_let_go_is_the_last_resort_until_the_release_is_over() -> None:
    """It may be cut off, and run on; and where the app goes on a node may have just died."""
    old, new = plan_of(D1, "lhr", "cur", "sin"), plan_of(D1, "lhr", "sin")
    release = release_of(new, old, ("cur", "lhr", "sin"), state="running")
    assert slices(release, (old, new))[0].fallbacks == ("sin", "cur")
    assert slices(replace(release, state="done"), (old, new))[0].fallbacks == ("sin",)
    denied = make_app(scale=Scale(deny=("cur",)))
    assert slices(release, (old, new), app=denied)[0].fallbacks == ("sin",), "it may not run there any more"


def test_sites_that_are_down_are_no_fallback_and_cut_off_ones_are_the_last() -> None:
    plan = plan_of(D1, "lhr", "cur", "sin")
    sites = (SITES[0], replace(SITES[1], state="cut_off"), SITES[2])
    assert slices(release_of(plan), (plan,), sites=sites)[0].fallbacks == ("sin", "cur")
    sites = (SITES[0], replace(SITES[1], state="down"), SITES[2])
    assert slices(release_of(plan), (plan,), sites=sites)[0].fallbacks == ("sin",)


def test_a_city_that_was_given_up_is_the_last_resort_of_apps_that_it_ran_and_may_run() -> None:
    everywhere, without = plan_of(D1, "lhr", "cur", "sin"), replace(plan_of(D1, "lhr", "sin"), generation=2, created_ms=100_000)
    plans, done = (everywhere, without), release_of(without)
    assert slices(done, plans)[0].fallbacks == ("sin",)
    assert slices(done, plans, lost={"cur": 99_000})[0].fallbacks == ("sin", "cur"), "it left for the loss"
    assert slices(done, plans, lost={"cur": 110_000})[0].fallbacks == ("sin", "cur"), "it was silent by then"
    assert slices(done, plans, lost={"cur": 130_000})[0].fallbacks == ("sin",), "it left before that"
    denied = make_app(scale=Scale(deny=("cur",)))
    assert slices(done, plans, app=denied, lost={"cur": 99_000})[0].fallbacks == ("sin",)
    assert slices(release_of(everywhere), plans, lost={"cur": 99_000})[0].fallbacks == ("cur", "sin"), "it is still planned there"


def test_a_deleted_app_is_gone_and_a_disabled_one_has_no_hosts() -> None:
    plan = plan_of(D1, "lhr")
    release = release_of(plan)
    gone = site_slice_apps(SITES[0], (release,), {plan.id: plan}, {}, {}, {ACCOUNT: "acme"}, {}, SITES, "localhost")
    assert gone == ()
    off = slices(release, (plan,), app=make_app(enabled=False))
    assert [(app.hosts, len(app.versions)) for app in off] == [((), 1)]


def test_a_version_that_runs_gets_traffic_however_small_its_share() -> None:
    assert [share_weight(percent) for percent in (100.0, 50.0, 0.01, 0.0)] == [256, 128, 1, 1]


def test_fallbacks_are_ordered_by_distance_without_the_site_itself() -> None:
    names = ("nrt", "fra", "lhr", "sin", "cur")
    assert fallback_order(make_site("lhr"), tuple(make_site(name) for name in names)) == ("fra", "cur", "nrt", "sin")


def test_a_generation_never_goes_back_and_names_one_content() -> None:
    first = SiteSlice(site=SiteId("lhr"), generation=5)
    draining = replace(first, state="draining")
    assert slice_violations(None, first) == ()
    assert slice_violations(first, first) == ()
    assert slice_violations(first, replace(draining, generation=6)) == ()
    assert slice_violations(first, replace(first, generation=4)) == ("generation 4 follows 5",)
    assert slice_violations(first, draining) == ("generation 5 has two contents",)
    assert slice_violations(first, replace(first, site=SiteId("cur"))) != ()


def test_a_slice_names_each_instance_and_each_host_once() -> None:
    twice = NodeInstance(id="i1", version=V1)  # type: ignore[arg-type]
    node = NodeSlice(node=NodeId("lhr-1"), generation=1, instances=(twice, twice))
    assert slice_violations(None, node) == ("instance i1 stands twice",)
    plan = plan_of(D1, "lhr")
    (app,) = slices(release_of(plan), (plan,))
    site = SiteSlice(site=SiteId("lhr"), generation=1, apps=(app, app))
    assert slice_violations(None, site) == (
        f"app {ACCOUNT}/hello stands twice",
        "host hello.acme.localhost has two apps",
    )
