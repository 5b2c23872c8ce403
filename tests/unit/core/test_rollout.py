"""Rollouts: waves, health gates, going back."""

from msgspec.structs import replace

from skerry.core.machines.rollout import RolloutSettings, SiteFacts, abort, brings_new_version, pause, resume, step, waves
from skerry.core.placement.executed import executed_plan
from skerry.core.placement.place import place
from skerry.core.placement.world import World
from skerry.core.types.app import Scale, Version
from skerry.core.types.gate import VersionFacts
from skerry.core.types.ids import PlanId, SiteId
from skerry.core.types.plan import Plan, Release
from skerry.testing.builders import ACCOUNT, make_app, make_evaluation, make_site, make_version, make_view

V1, V2 = make_version(1), make_version(2)
NAMES = ("lhr", "cur", "sin")
SITES = tuple(make_site(name) for name in NAMES)
SETTINGS = RolloutSettings()


def plan_of(version: Version, *names: str, parent: Plan | None = None) -> Plan:
    world = World(sites=tuple(make_view(name) for name in names or NAMES))
    shares = ((version, 100.0),)
    return place(world, make_app(scale=Scale()), shares, evaluation=make_evaluation(), parent=parent, now_ms=0)


def release_of(plan: Plan, previous: Plan | None, **changes: object) -> Release:
    release = Release(
        account=ACCOUNT,
        app=plan.app,
        plan=plan.id,
        previous=previous.id if previous else None,
        state="running",
        waves=waves(plan, previous, SITES),
        wave=0,
        wave_since_ms=0,
    )
    return replace(release, **changes)


def facts(*names: str, ready: bool = True, failed: bool = False, detail: str = "") -> dict[SiteId, SiteFacts]:
    return {SiteId(n): SiteFacts(site=SiteId(n), ready=ready, failed=failed, detail=detail) for n in names}


def test_the_first_deployment_goes_everywhere_at_once() -> None:
    assert waves(plan_of(V1), None, SITES) == (("cur", "lhr", "sin"),)


def test_a_plan_without_a_new_version_goes_everywhere_at_once() -> None:
    first = plan_of(V1)
    again = plan_of(V1, parent=first)
    assert not brings_new_version(again, first)
    assert waves(again, first, SITES) == (("cur", "lhr", "sin"),)


def test_sites_lose_an_app_when_those_that_keep_it_are_ready() -> None:
    first = plan_of(V1)
    assert waves(plan_of(V1, "lhr", parent=first), first, SITES) == (("lhr",), ("cur", "sin"))
    assert waves(plan_of(V1, "sin", parent=plan_of(V1, "sin")), plan_of(V1, "sin"), SITES) == (("sin",),)


def test_an_app_that_moves_is_there_before_it_leaves() -> None:
    first = plan_of(V1, "lhr")
    assert waves(plan_of(V1, "sin", parent=first), first, SITES) == (("sin",), ("lhr",))


def test_a_new_version_goes_to_one_canary_first_and_losing_sites_go_last() -> None:
    first = plan_of(V1)
    second = plan_of(V2, "lhr", "cur", parent=first)
    canary, rest = waves(second, first, SITES)
    assert len(canary) == 1
    assert canary[0] in {"lhr", "cur"}
    assert set(canary) | set(rest) == set(NAMES)
    assert "sin" in rest


def test_the_canary_is_a_site_that_can_be_heard() -> None:
    first, second = plan_of(V1), plan_of(V2)
    (canary,), _ = waves(second, first, SITES)
    down = tuple(replace(site, state="down") if site.id == canary else site for site in SITES)
    assert waves(second, first, down)[0] != (canary,)


def test_many_sites_go_in_growing_shares_each_once() -> None:
    names = [f"s{n:02d}" for n in range(40)]
    first, second = plan_of(V1, *names), plan_of(V2, *names)
    groups = waves(second, first, tuple(make_site(name) for name in names))
    assert [len(group) for group in groups] == [1, 3, 11, 25]
    assert sorted(site for group in groups for site in group) == names


def test_an_app_that_runs_nowhere_is_done_at_once() -> None:
    world = World(sites=())
    nothing = place(world, make_app(), ((V1, 100.0),), evaluation=make_evaluation(), parent=None, now_ms=0)
    assert waves(nothing, None, ()) == ()
    assert step(release_of(nothing, None), {}, now_ms=0, settings=SETTINGS).state == "done"


def test_a_wave_moves_on_only_after_it_was_ready_for_the_settle_time() -> None:
    first, second = plan_of(V1), plan_of(V2)
    release = release_of(second, first)
    canary = release.waves[0]
    ready = step(release, facts(*canary), now_ms=1000, settings=SETTINGS)
    assert (ready.wave, ready.ready_ms) == (0, 1000)
    assert step(ready, facts(*canary), now_ms=1199, settings=SETTINGS) == ready
    wobbled = step(ready, facts(*canary, ready=False), now_ms=1100, settings=SETTINGS)
    assert wobbled.ready_ms is None
    moved = step(ready, facts(*canary), now_ms=1200, settings=SETTINGS)
    assert (moved.wave, moved.wave_since_ms, moved.state) == (1, 1200, "running")
    waiting = {**facts(*canary), **facts(*moved.waves[1], ready=False)}
    assert step(moved, waiting, now_ms=1300, settings=SETTINGS) == moved
    settled = step(step(moved, facts(*NAMES), now_ms=1400, settings=SETTINGS), facts(*NAMES), now_ms=1600, settings=SETTINGS)
    assert settled.state == "done"
    assert step(settled, facts(*NAMES, failed=True), now_ms=9999, settings=SETTINGS) == settled


def test_a_failed_site_takes_the_release_back() -> None:
    first, second = plan_of(V1), plan_of(V2)
    release = release_of(second, first)
    back = step(release, facts(*release.waves[0], ready=False, failed=True, detail="boom"), now_ms=5, settings=SETTINGS)
    assert (back.state, back.detail) == ("rolled_back", f"{release.waves[0][0]}: boom")
    assert all(executed_plan(back, SiteId(name)) == first.id for name in NAMES)


def test_a_failure_in_a_site_not_released_yet_means_nothing() -> None:
    first, second = plan_of(V1), plan_of(V2)
    release = release_of(second, first)
    canary, rest = release.waves
    assert step(release, {**facts(*canary, ready=False), **facts(*rest, failed=True)}, now_ms=5, settings=SETTINGS) == release


def test_a_wave_that_is_late_takes_the_release_back() -> None:
    first, second = plan_of(V1), plan_of(V2)
    release = release_of(second, first)
    late = facts(*release.waves[0], ready=False)
    assert step(release, late, now_ms=29_999, settings=SETTINGS) == release
    back = step(release, late, now_ms=30_000, settings=SETTINGS)
    assert back.state == "rolled_back"
    assert "not ready within 30000 ms" in back.detail


def test_silent_sites_do_not_hold_a_wave_up() -> None:
    first, second = plan_of(V1), plan_of(V2)
    release = release_of(second, first, ready_ms=0)
    assert step(release, {}, now_ms=200, settings=SETTINGS).wave == 1


def test_a_plan_without_a_new_version_never_goes_back() -> None:
    first = plan_of(V1, "lhr", "cur")
    second = plan_of(V1, parent=first)
    release = release_of(second, first, gated=False)
    trouble = facts("sin", ready=False, failed=True, detail="disk full")
    assert step(release, trouble, now_ms=100, settings=SETTINGS) == release
    late = step(release, trouble, now_ms=30_000, settings=SETTINGS)
    assert late.state == "done"
    assert "disk full" in late.detail


def test_sites_follow_the_plan_wave_by_wave() -> None:
    first, second = plan_of(V1), plan_of(V2)
    release = release_of(second, first)
    (canary,), rest = release.waves
    assert executed_plan(release, canary) == second.id
    assert {executed_plan(release, site) for site in rest} == {first.id}
    assert {executed_plan(replace(release, wave=1), site) for site in rest} == {second.id}


def test_with_nothing_to_go_back_to_what_works_goes_on() -> None:
    only = plan_of(V1)
    release = replace(release_of(only, None), state="rolled_back")
    assert executed_plan(release, SiteId("lhr")) == only.id
    assert executed_plan(replace(release, previous=PlanId("p0")), SiteId("lhr")) == "p0"


FORTY = tuple(f"s{n:02d}" for n in range(40))


def forty(**changes: object) -> Release:
    first, second = plan_of(V1, *FORTY), plan_of(V2, *FORTY)
    sites = tuple(make_site(name) for name in FORTY)
    return replace(release_of(second, first), waves=waves(second, first, sites), **changes)


def counted(release: Release, *, failing: float = 0.0, requests: int = 500) -> dict[SiteId, SiteFacts]:
    """All ready; every city has had 5,000 requests to the old version, and those released so many to the new."""
    released = {site for wave in release.waves[: release.wave + 1] for site in wave}
    old = VersionFacts(requests=5_000, errors=5, latency_ms_sum=1e5)
    new = VersionFacts(requests=requests, errors=int(requests * failing), latency_ms_sum=requests * 20.0)
    known = facts(*FORTY)
    return {
        site: replace(known[site], old=old, new=new if site in released else VersionFacts(), ready=site in released)
        for site in known
    }


def at_its_beginning(release: Release) -> Release:
    return step(release, counted(release, requests=0), now_ms=0, settings=SETTINGS)


def test_waves_grow_by_share_of_demand_and_the_canary_is_small_but_busy() -> None:
    demand = {SiteId(name): 1.0 + (40.0 if name == "s07" else 3.0 if name == "s11" else 0.0) for name in FORTY}
    first, second = plan_of(V1, *FORTY), plan_of(V2, *FORTY)
    groups = waves(second, first, tuple(make_site(name) for name in FORTY), demand)
    whole = sum(demand.values())
    shares = [sum(demand[site] for site in group) / whole for group in groups]
    assert groups[0] == ("s11",), "the busiest city under a twentieth of the demand"
    assert shares == sorted(shares)
    assert all(share <= limit + 1e-9 for share, limit in zip(shares[1:-1], (0.1, 0.3), strict=True))
    assert "s07" in groups[-1], "half of all users wait for the last wave"


def test_the_canary_has_users_if_any_city_has() -> None:
    first, second = plan_of(V1), plan_of(V2)
    sites = tuple(make_site(name) for name in NAMES)
    for busy in NAMES:
        for quiet in {*NAMES} - {busy}:
            demand = {SiteId(busy): 100.0, SiteId(quiet): 30.0}
            assert waves(second, first, sites, demand)[0] == (quiet,)
        assert waves(second, first, sites, {SiteId(busy): 100.0})[0] == (busy,)


def test_hundreds_of_cities_have_a_small_wave_more() -> None:
    names = [f"s{n:03d}" for n in range(340)]
    groups = waves(plan_of(V2, *names), plan_of(V1, *names), tuple(make_site(name) for name in names))
    assert [len(group) for group in groups] == [1, 10, 33, 101, 195]


def test_a_version_that_fails_its_users_goes_back_from_the_canary() -> None:
    release = at_its_beginning(forty())
    assert len(release.marks) == 40
    back = step(release, counted(release, failing=0.4), now_ms=500, settings=SETTINGS)
    assert back.state == "rolled_back"
    assert "40.00 % of 500 requests failed" in back.detail


def test_a_wave_with_traffic_waits_until_the_new_version_is_shown_to_be_good() -> None:
    release = at_its_beginning(forty())
    few = counted(release, requests=20)
    waiting = step(release, few, now_ms=500, settings=SETTINGS)
    assert step(waiting, few, now_ms=10_000, settings=SETTINGS).wave == 0
    assert step(waiting, counted(release, requests=3_000), now_ms=10_000, settings=SETTINGS).wave == 1
    assert step(waiting, few, now_ms=30_500, settings=SETTINGS).wave == 1, "it does not wait for ever"


def in_three(release: Release, *, rps: float, requests: int = 0, failing: float = 0.0) -> dict[SiteId, SiteFacts]:
    """All ready, with users in every city."""
    old = VersionFacts(requests=5_000, errors=5, latency_ms_sum=1e5)
    new = VersionFacts(requests=requests, errors=int(requests * failing), latency_ms_sum=requests * 20.0)
    return {site: replace(fact, old=old, new=new, rps=rps) for site, fact in facts(*NAMES).items()}


def test_in_a_few_cities_a_wave_waits_some_seconds_if_there_are_users_to_show_something() -> None:
    first, second = plan_of(V1), plan_of(V2)
    begun = release_of(second, first)
    release = step(begun, in_three(begun, rps=10), now_ms=0, settings=SETTINGS)
    release = step(release, in_three(release, rps=10), now_ms=100, settings=SETTINGS)
    assert step(release, in_three(release, rps=10), now_ms=5_000, settings=SETTINGS).wave == 0
    assert step(release, in_three(release, rps=10), now_ms=5_100, settings=SETTINGS).wave == 1, "it does not wait for ever"
    assert step(release, in_three(release, rps=10, requests=500), now_ms=400, settings=SETTINGS).wave == 1, "it is good"
    back = step(release, in_three(release, rps=10, requests=30, failing=1.0), now_ms=400, settings=SETTINGS)
    assert back.state == "rolled_back"
    assert step(release, in_three(release, rps=0.5), now_ms=400, settings=SETTINGS).wave == 1, "of whom should it hear?"


def test_in_a_few_busy_cities_a_wave_waits_until_latencies_can_be_compared() -> None:
    """A slow version on a busy machine was waved on: fewer than a hundred of its answers were counted in the usual seconds."""
    first, second = plan_of(V1), plan_of(V2)
    begun = release_of(second, first)
    release = step(begun, in_three(begun, rps=50), now_ms=0, settings=SETTINGS)
    few = in_three(release, rps=50, requests=60)
    release = step(release, few, now_ms=100, settings=SETTINGS)
    assert step(release, few, now_ms=10_000, settings=SETTINGS).wave == 0
    slow = {site: replace(fact, new=replace(fact.new, latency_ms_sum=120 * 400.0, requests=120)) for site, fact in few.items()}
    back = step(release, slow, now_ms=10_000, settings=SETTINGS)
    assert (back.state, "answers take" in back.detail) == ("rolled_back", True)
    assert step(release, few, now_ms=30_100, settings=SETTINGS).wave == 1, "it does not wait for ever"


def test_a_version_that_comes_back_is_not_judged_by_what_it_did_before() -> None:
    release = forty()
    stained = {site: replace(fact, new=VersionFacts(requests=1_000, errors=900)) for site, fact in counted(release).items()}
    release = step(release, stained, now_ms=0, settings=SETTINGS)
    assert step(release, stained, now_ms=100, settings=SETTINGS).state == "running"


def test_a_pause_means_that_nothing_moves_until_it_is_resumed() -> None:
    held = pause(at_its_beginning(forty()))
    for now_ms in (0, 1_000, 100_000):
        for given in (counted(held), counted(held, failing=1.0), facts(*FORTY, ready=False, failed=True)):
            assert step(held, given, now_ms=now_ms, settings=SETTINGS) == held
    resumed = resume(held, 100_000)
    assert (resumed.paused, resumed.wave_since_ms) == (False, 100_000)
    assert step(resumed, facts(*FORTY, ready=False), now_ms=100_001, settings=SETTINGS).state == "running", "it is not late"


def test_an_abort_goes_back_also_from_a_pause() -> None:
    back = abort(pause(forty()), "aborted by an operator")
    assert (back.state, back.detail, back.paused) == ("rolled_back", "aborted by an operator", False)
    without = forty(gated=False)
    assert abort(without, "why") == without


def test_a_release_that_was_made_while_it_was_held_begins_with_its_first_wave() -> None:
    held = forty(wave=-1, paused=True)
    assert executed_plan(held, held.waves[0][0]) == held.previous
    begun = resume(held, 0)
    settled = step(step(begun, {}, now_ms=0, settings=SETTINGS), {}, now_ms=200, settings=SETTINGS)
    assert (settled.wave, settled.state) == (0, "running")
