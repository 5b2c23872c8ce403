"""What another plan would mean for an app: cities, instances, reserves and its users' way."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from skerry.core.geo.distance import site_rtt_ms
from skerry.core.placement.ledger import reservations
from skerry.core.types.app import Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan
from skerry.core.types.resources import Resources
from skerry.core.types.view import Amounts, AppDifference, RegionWay

Counts = Counter[tuple[SiteId, VersionId]]


def difference(
    before: Plan | None, after: Plan, sites: Sequence[Site], versions: Mapping[VersionId, Version]
) -> AppDifference | None:
    """None: the same instances in the same sites. `versions`: all that either plan names."""
    had, has = _counts(before), _counts(after)
    if had == has:
        return None
    ran, runs = {site for site, _ in had}, {site for site, _ in has}
    known = {(entry.place, entry.reason) for entry in before.rejections} if before else set[object]()
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
        ways=tuple(_ways(sites, ran, runs)),
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


def _ways(sites: Sequence[Site], ran: set[SiteId], runs: set[SiteId]) -> Iterable[RegionWay]:
    """By region: the mean of its cities' round trips to the nearest site that runs the app. All cities count the same."""
    by_id = {site.id: site for site in sites}
    old, new = ([by_id[name] for name in sorted(names) if name in by_id] for names in (ran, runs))
    for region in sorted({site.region for site in sites}):
        cities = [site for site in sites if site.region == region]
        yield RegionWay(region=region, cities=len(cities), before_ms=_mean_ms(cities, old), after_ms=_mean_ms(cities, new))


def _mean_ms(cities: Sequence[Site], running: Sequence[Site]) -> float | None:
    if not running:
        return None
    return round(sum(min(site_rtt_ms(city, site) for site in running) for city in cities) / len(cities), 1)
