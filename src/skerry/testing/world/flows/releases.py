"""New versions in waves, by `core.machines.rollout`. Instances are swapped in place: the old serves until the new does."""

import numpy as np

from skerry.core.machines.rollout import RolloutSettings, SiteFacts, planned_demand, step, waves
from skerry.core.placement.executed import released_sites
from skerry.core.types.ids import AppName, DeploymentId, EvaluationId, PlanId, SiteId, VersionId
from skerry.core.types.plan import Placement, Plan, Release
from skerry.kit.record import Record
from skerry.testing.builders import ACCOUNT
from skerry.testing.world.flows.engine import FlowWorld
from skerry.testing.world.flows.routing import site_of
from skerry.testing.world.flows.story import VersionKind

TICK_MS = 200


class Outcome(Record):
    """How a deployment ended. `cities_reached`: those that tried the new version, of `cities`."""

    app: str
    version: VersionKind
    state: str
    seconds: float
    waves: int
    cities_reached: int
    cities: int
    demand_reached: float  # share of the app's requests that these cities serve
    detail: str = ""


class Releases:
    """One release per app."""

    def __init__(self, world: FlowWorld) -> None:
        self._world = world
        self.outcomes: list[Outcome] = []

    def begin(self, app: int, version: VersionKind) -> None:
        """Of the app as it runs now."""
        release, plan = self._release(app)
        self._tick(app, version, release, plan, self._world.now_ms)

    def _tick(self, app: int, version: VersionKind, release: Release, plan: Plan, begun_ms: int) -> None:
        now_ms = self._world.now_ms
        facts = {site: self._facts(site, version, release) for site in released_sites(release)}
        after = step(release, facts, now_ms=now_ms, settings=RolloutSettings())
        if after.state != "running":
            self._end(app, version, after, plan, now_ms - begun_ms)
        else:
            self._world.after(TICK_MS, lambda: self._tick(app, version, after, plan, begun_ms))

    def _facts(self, site: SiteId, version: VersionKind, release: Release) -> SiteFacts:
        pace = self._world.pace
        started = self._world.now_ms - release.wave_since_ms >= pace.push_ms + pace.start_ms
        earlier = site not in release.waves[release.wave]
        fails = version == "crashes" and started
        return SiteFacts(
            site=site,
            ready=version == "good" and (started or earlier),
            failed=fails,
            detail="it crashes when it starts" if fails else "",
        )

    def _release(self, app: int) -> tuple[Release, Plan]:
        world = self._world
        counts = world.plan[app]
        name = world.problem.apps[app].app
        placed = {world.problem.sites[int(at)].id: int(counts[at]) for at in np.flatnonzero(counts)}
        old, new = _plan(name, placed, "1", None), _plan(name, placed, "2", "1")
        lost = world.belief.lost
        sites = tuple(site_of(site, "down" if site.id in lost else "up") for site in world.problem.sites)
        release = Release(
            account=ACCOUNT,
            app=AppName(name),
            plan=new.id,
            previous=old.id,
            state="running",
            waves=waves(new, old, sites, planned_demand(new)),
            wave=0,
            wave_since_ms=world.now_ms,
        )
        return release, new

    def _end(self, app: int, version: VersionKind, release: Release, plan: Plan, took_ms: int) -> None:
        world = self._world
        reached = released_sites(release)
        everywhere = [placement.site for placement in plan.placements]
        counts = world.plan[app]
        here = [at for at, site in enumerate(world.problem.sites) if site.id in reached]
        self.outcomes.append(
            Outcome(
                app=world.problem.apps[app].app,
                version=version,
                state=release.state,
                seconds=took_ms / 1000,
                waves=len(release.waves),
                cities_reached=len(reached),
                cities=len(everywhere),
                demand_reached=round(float(counts[here].sum()) / max(1, int(counts.sum())), 4),
                detail=release.detail,
            )
        )


def _plan(app: str, placed: dict[str, int], version: str, parent: str | None) -> Plan:
    return Plan(
        id=PlanId(f"{app}-{version}"),
        parent=PlanId(f"{app}-{parent}") if parent else None,
        generation=int(version),
        account=ACCOUNT,
        app=AppName(app),
        created_ms=0,
        evaluation=EvaluationId(f"{app}-{version}"),
        deployment=DeploymentId(f"d{version}"),
        placements=tuple(
            Placement(site=SiteId(site), version=VersionId(f"{app}-v{version}"), count=count) for site, count in placed.items()
        ),
    )
