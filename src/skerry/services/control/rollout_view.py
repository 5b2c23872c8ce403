"""A rollout as people see it: waves, cities, and what its health gate has counted."""

from collections.abc import Mapping

from skerry.core.machines.rollout import SiteFacts, demand_shares, gate_numbers, versions_of
from skerry.core.placement.executed import released_sites
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.plan import Release
from skerry.core.types.view import RolloutDetail, RolloutSiteView, RolloutView, WaveState, WaveView
from skerry.services.control.rollouts import Rollouts


def rollout_detail(rollouts: Rollouts, release: Release, view: RolloutView) -> RolloutDetail:
    """`view` is the rollout in short."""
    plan = rollouts.plan(release, release.plan)
    previous = rollouts.plan(release, release.previous) if release.previous else None
    facts = rollouts.facts(release, plan) if plan else {}
    sites = frozenset(site for wave in release.waves for site in wave)
    shares = demand_shares(sites, rollouts.demand(plan) if plan else None)
    before = versions_of(previous) if previous else frozenset[VersionId]()
    after = versions_of(plan) if plan else frozenset[VersionId]()
    return RolloutDetail(
        account=release.account,
        app=release.app,
        rollout=view,
        generation=plan.generation if plan else 0,
        gated=release.gated,
        old_versions=tuple(sorted(before - after)),
        new_versions=tuple(sorted(after - before)),
        waves=tuple(
            WaveView(wave=number, state=_state(release, number - 1), sites=wave, share=sum(shares[site] for site in wave))
            for number, wave in enumerate(release.waves, start=1)
        ),
        sites=_sites(release, facts, shares),
        gate=gate_numbers(release, facts, rollouts.settings),
        since_ms=release.wave_since_ms,
    )


def _sites(release: Release, facts: Mapping[SiteId, SiteFacts], shares: Mapping[SiteId, float]) -> tuple[RolloutSiteView, ...]:
    released = released_sites(release) if release.state == "running" else frozenset(shares)
    back = release.state == "rolled_back"
    return tuple(
        RolloutSiteView(
            site=site,
            wave=number,
            released=site in released and not back,
            ready=site in facts and facts[site].ready,
            detail=facts[site].detail if site in facts else "",
            share=shares[site],
        )
        for number, wave in enumerate(release.waves, start=1)
        for site in wave
    )


def _state(release: Release, index: int) -> WaveState:
    if release.state != "running":
        return "done" if index <= release.wave else "waiting"
    return "done" if index < release.wave else "current" if index == release.wave else "waiting"
