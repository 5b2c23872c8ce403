"""Many apps of the running platform as one problem, for a whole plan: what each of them has and asks, and the room they share.

A city is one large node with what nobody else holds of it: whether its real nodes can pack what is chosen is decided when a move
is made. Users are counted by the city that they come in at. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclasses_replace
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from skerry.core.placement.bundles import Change
from skerry.core.placement.choose import PRIORITY_SERVED, demand_of, make_question, value
from skerry.core.placement.ground import ground_of
from skerry.core.placement.place import make_case, make_seats
from skerry.core.placement.solve.columns import Instances, by_app_and_site
from skerry.core.placement.world import World
from skerry.core.policy.scale import instances_min
from skerry.core.policy.shapes import Shapes
from skerry.core.types.app import App, Version
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan
from skerry.core.types.problem import Demand, Floats, Metro, Problem, ProblemApp, ProblemData, ProblemSite
from skerry.core.types.resources import Resources
from skerry.core.types.settings import Settings
from skerry.kit.record import Record


class Room(Record):
    """A site, what its nodes that are up add up to, and what of that apps hold that stay as they are."""

    site: Site
    shapes: Shapes
    held: Resources


class Gain(NamedTuple):
    """J without moves: as it is, and at the prices that room has now."""

    bare: float
    priced: float


@dataclass(frozen=True)
class Member:
    """One app: the problem's row, what it runs by site, and what is asked of it by site."""

    account: AccountId
    app: AppName
    row: ProblemApp
    has: Mapping[SiteId, int]
    demand: Mapping[SiteId, float]


def may_move(app: App, shares: Sequence[tuple[Version, float]]) -> bool:
    """Whether a whole plan can speak for it: one version, whose cities demand alone chooses."""
    scale = app.scale
    return app.enabled and app.deployment is not None and len(shares) == 1 and not scale.min_per_site and not scale.pin


def member(world: World, app: App, shares: tuple[tuple[Version, float], ...], plan: Plan) -> Member | None:
    """Of an app that `may_move`. Sites that may not run it are denied by name, whatever the reason.

    None: it runs where it may not be any more, or a site has just refused it; that is decided by itself.
    """
    case, scale = make_case(world, app, shares, plan), app.scale
    had, seats = plan.counts(), make_seats(case, {})
    barred = [seat.site.id for seat in seats if seat.excluded is not None]
    if case.caps or any(site in had for site in barred) or had.keys() - {seat.site.id for seat in seats}:
        return None
    rps, _ = demand_of(world, seats)
    row = ProblemApp(
        app=f"{app.account}/{app.name}",
        reserve=shares[0][0].limits.reserve,
        rps_per_instance=scale.rps_per_instance,
        priority=max(PRIORITY_SERVED, scale.priority),
        min_total=instances_min(scale),
        max_total=scale.max_total,
        max_site=scale.max_per_site,
        region_min=scale.region_min,
        deny=tuple(barred),
        latency_objective_ms=scale.latency_objective_ms,
        survive_sites=scale.survive_sites,
        calls=tuple(call for call in scale.calls if call.data in world.homes),
    )
    asked = {seat.site.id: float(rps[at]) for at, seat in enumerate(seats) if float(rps[at]) > 0.0}
    return Member(app.account, app.name, row, had, asked)


def problem_of(
    rooms: Sequence[Room],
    members: Sequence[Member],
    *,
    rtts_ms: Mapping[SiteId, Mapping[SiteId, float]],
    homes: Mapping[str, SiteId],
    settings: Settings,
) -> tuple[Problem, Instances]:
    """And what runs, by the members' and the rooms' order. Raises nothing."""
    at = {room.site.id: number for number, room in enumerate(rooms)}
    ground = ground_of([room.site for room in rooms], rtts_ms)
    called = sorted({call.data for one in members for call in one.row.calls if homes.get(call.data) in at})
    problem = Problem(
        sites=tuple(_site(room) for room in rooms),
        metros=tuple(_metro(room.site) for room in rooms),
        rtt_ms=ground.rtt_ms,
        rtt_measured=ground.measured,
        site_rtt_ms=ground.rtt_ms,
        site_rtt_measured=ground.measured,
        apps=tuple(replace(one.row, calls=tuple(c for c in one.row.calls if c.data in called)) for one in members),
        demand=_demand(members, at),
        data=tuple(ProblemData(data=name, home=homes[name]) for name in called),
        weights=settings.weights,
    )
    rows = [(app, at[site], count) for app, one in enumerate(members) for site, count in one.has.items() if site in at]
    app, site, count = np.array(rows, dtype=np.int64).reshape(len(rows), 3).T
    return problem, by_app_and_site(app, site, count)


def named(change: Change, rooms: Sequence[Room]) -> tuple[dict[SiteId, int], dict[SiteId, int]]:
    """What it had and would have, by site."""
    had, has = ({rooms[at].site.id: count for at, count in sorted(counts.items())} for counts in (change.had, change.has))
    return had, has


def _site(room: Room) -> ProblemSite:
    """One node of all that the others leave; an instance costs there what its share of a mean node does."""
    site, total = room.site, room.shapes.total
    free = total.less(room.held)
    parts = [
        have / whole
        for have, whole in ((free.cpu_millicores, total.cpu_millicores), (free.memory_mib, total.memory_mib))
        if whole > 0
    ]
    return ProblemSite(
        id=site.id,
        name=site.id,
        lat=site.lat,
        lon=site.lon,
        country=site.country,
        region=site.region,
        nodes=1 if room.shapes.count and free != Resources() else 0,
        node=free,
        price=room.shapes.count * sum(parts) / len(parts) if parts else 0.0,
        state=site.state,
    )


def _metro(site: Site) -> Metro:
    return Metro(id=site.id, name=site.id, lat=site.lat, lon=site.lon, country=site.country)


def _demand(members: Sequence[Member], at: Mapping[SiteId, int]) -> Demand:
    rows = [sorted((at[site], rps) for site, rps in one.demand.items() if site in at) for one in members]
    start = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    rps: Floats = np.array([amount for row in rows for _, amount in row], dtype=np.float64)
    return Demand(start=start, metro=np.array([metro for row in rows for metro, _ in row], dtype=np.int32), rps=rps)


def exact_gain(world: World, app: App, shares: tuple[tuple[Version, float], ...], plan: Plan, has: Mapping[SiteId, int]) -> Gain:
    """What the app saves when it runs `has`, by the running platform's own count."""
    version, had = shares[0][0].id, plan.counts()
    seats = make_seats(make_case(world, app, shares, plan), {})
    question = make_question(world, app.scale, shares, seats, {site: {version: count} for site, count in had.items()})
    before, after = (np.array([counts.get(seat.site.id, 0) for seat in seats]) for counts in (had, has))
    plain = dataclasses_replace(question, ask=dataclasses_replace(question.ask, shadow=np.zeros_like(question.ask.shadow)))
    priced, bare = (value(each, before) - value(each, after) for each in (question, plain))
    return Gain(bare, priced)
