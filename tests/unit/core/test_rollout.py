"""Rollouts: waves, health gates, going back."""

from msgspec.structs import replace

from skerry.core.machines.rollout import RolloutSettings, SiteFacts, brings_new_version, step, waves
from skerry.core.placement.executed import executed_plan
from skerry.core.placement.simple import place
from skerry.core.placement.world import World
from skerry.core.types.app import Scale, Version
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
    assert [len(group) for group in groups] == [1, 4, 12, 23]
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
