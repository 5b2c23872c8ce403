"""What another plan would mean for an app: cities, instances, reserves and its users' way."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from skerry.core.geo.distance import site_rtt_ms
from skerry.core.placement.ledger import reservations
from skerry.core.placement.world import World
from skerry.core.types.app import Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan
from skerry.core.types.resources import Resources
from skerry.core.types.view import Amounts, AppDifference, RegionWay

Counts = Counter[tuple[SiteId, VersionId]]


def difference(before: Plan | None, after: Plan, world: World, versions: Mapping[VersionId, Version]) -> AppDifference | None:
    """None: the same instances in the same sites. `versions`: all that either plan names."""
    had, has = _counts(before), _counts(after)
    if had == has:
        return None
    ran, runs = {site for site, _ in had}, {site for site, _ in has}
    known = {(entry.place, entry.reason) for entry in before.rejections} if before else set[object]()
    weighed_by, weights = _weights(world)
    return AppDifference(
        account=after.account,
        app=after.app,
        gained=tuple(sorted(runs - ran)),
        lost=tuple(sorted(ran - runs)),
        instances_before=had.total(),
        instances_after=has.total(),
        started=(has - had).total(),
        ended=(had - has).total(),
        reserved_before=_reserved(before, versions),
        reserved_after=_reserved(after, versions),
        cost_before=_cost(had, world, versions),
        cost_after=_cost(has, world, versions),
        weighed_by=weighed_by,
        ways=tuple(_ways(world, weights, ran, runs)),
        rejections=tuple(entry for entry in after.rejections if (entry.place, entry.reason) not in known),
    )


def _counts(plan: Plan | None) -> Counts:
    found: Counts = Counter()
    for entry in plan.placements if plan else ():
        found[entry.site, entry.version] += entry.count
    return found


def _reserved(plan: Plan | None, versions: Mapping[VersionId, Version]) -> Amounts:
    total = Resources()
    for held in reservations(plan, versions) if plan else ():
        total += held.resources
    return Amounts.of(total)


def _cost(counts: Counts, world: World, versions: Mapping[VersionId, Version]) -> float:
    """In nodes."""
    shapes = {view.site.id: view.shaped() for view in world.sites}
    total = 0.0
    for (site, version), count in sorted(counts.items()):
        nodes, reserve = shapes.get(site), versions[version].limits.reserve
        if nodes and nodes.total.cpu_millicores and nodes.total.memory_mib:
            cpu = reserve.cpu_millicores * nodes.count / nodes.total.cpu_millicores
            total += count * 0.5 * (cpu + reserve.memory_mib * nodes.count / nodes.total.memory_mib)
    return round(total, 4)


def _weights(world: World) -> tuple[Literal["demand", "users", "cities"], Mapping[SiteId, float]]:
    if world.demand:
        return "demand", world.demand
    return ("users", world.users) if world.users else ("cities", {})


def _ways(world: World, weights: Mapping[SiteId, float], ran: set[SiteId], runs: set[SiteId]) -> Iterable[RegionWay]:
    """By region, those without any user left out; where nobody asks anywhere, all cities count the same."""
    sites = [view.site for view in world.sites]
    by_id = {site.id: site for site in sites}
    old, new = ([by_id[name] for name in sorted(names) if name in by_id] for names in (ran, runs))
    for region in sorted({site.region for site in sites}):
        cities = [site for site in sites if site.region == region]
        weight = [max(0.0, weights.get(city.id, 0.0)) for city in cities]
        if weights and sum(weight) <= 0.0:
            continue
        weight = weight if weights else [1.0] * len(cities)
        before, now = (_mean_ms(world, cities, weight, running) for running in (old, new))
        yield RegionWay(region=region, cities=len(cities), before_ms=before, after_ms=now)


def _mean_ms(world: World, cities: Sequence[Site], weight: Sequence[float], running: Sequence[Site]) -> float | None:
    if not running:
        return None
    ways = [min(_rtt_ms(world, city, site) for site in running) for city in cities]
    return round(sum(part * way for part, way in zip(weight, ways, strict=True)) / sum(weight), 1)


def _rtt_ms(world: World, here: Site, there: Site) -> float:
    measured = [row[to] for at, to in ((here.id, there.id), (there.id, here.id)) if (row := world.rtts_ms.get(at)) and to in row]
    return min(measured) if measured and here.id != there.id else site_rtt_ms(here, there)
