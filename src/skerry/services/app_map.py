"""One app on the world map: where it answers, and how far its users are from there.

Users are those of the packaged table at this hour (population × internet share), round trips are modelled; what the app's own
users ask for is counted, by the city that they come in at.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from skerry.core.geo.cities import City
from skerry.core.geo.demand import HOURS, Audience
from skerry.core.geo.latency import nearest_ms, spread
from skerry.core.geo.rtt import Floats, Points
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.place import Site
from skerry.core.types.slices import SERVING_STATES, SiteInstance
from skerry.core.types.view_map import AppMap, CityRate, CopiesView, MetroLatency, RegionLatency
from skerry.core.worlds.generate import Catalogue

HOUR_MS = 3_600_000
WORLD = "world"


def copies_of(account: AccountId, app: AppName, held: Mapping[SiteId, Sequence[SiteInstance]]) -> tuple[CopiesView, ...]:
    """What each site holds of the app, by site; sites without any are left out."""
    copies: list[CopiesView] = []
    for site in sorted(held):
        own = [item.instance for item in held[site] if (item.instance.account, item.instance.app) == (account, app)]
        if own:
            serving = sum(instance.state in SERVING_STATES for instance in own)
            copies.append(CopiesView(site=site, instances=len(own), serving=serving))
    return tuple(copies)


def make_app_map(
    *,
    account: AccountId,
    account_name: str,
    app: AppName,
    url: str,
    copies: tuple[CopiesView, ...],
    sites: Mapping[SiteId, Site],
    catalogue: Catalogue,
    now_ms: int,
    asked: tuple[CityRate, ...] = (),
) -> AppMap:
    """`sites` are those that answer; every metro's users go to the nearest of them that serves the app."""
    cities = tuple(sorted(catalogue.cities.values(), key=lambda city: city.code))
    audience = Audience.of([(city.code, city.country) for city in cities], catalogue.users)
    active = audience.active(now_ms / HOUR_MS % HOURS)
    serving = [sites[held.site] for held in copies if held.serving]
    nearest, rtts_ms = nearest_ms(Points.of(cities), Points.of(serving)) if serving else (None, None)
    return AppMap(
        account=account,
        account_name=account_name,
        app=app,
        url=url,
        copies=copies,
        metros=tuple(
            _metro(
                city,
                users=float(audience.total[at]),
                active=float(active[at]),
                site=None if nearest is None else serving[int(nearest[at])].id,
                rtt_ms=None if rtts_ms is None else float(rtts_ms[at]),
            )
            for at, city in enumerate(cities)
        ),
        regions=_regions(cities, audience.total, active, rtts_ms),
        world=_region(WORLD, audience.total, active, rtts_ms),
        source="modelled",
        now_ms=now_ms,
        asked=asked,
    )


def _metro(city: City, *, users: float, active: float, site: SiteId | None, rtt_ms: float | None) -> MetroLatency:
    return MetroLatency(
        metro=city.code,
        city=city.name,
        country=city.country,
        region=city.region,
        lat=city.lat,
        lon=city.lon,
        users=round(users),
        activity=round(active / users, 2) if users else 0.0,
        site=site,
        rtt_ms=None if rtt_ms is None else round(rtt_ms, 1),
    )


def _regions(cities: Sequence[City], users: Floats, active: Floats, rtts_ms: Floats | None) -> tuple[RegionLatency, ...]:
    of_city = np.array([city.region for city in cities])
    views: list[RegionLatency] = []
    for region in sorted({city.region for city in cities}):
        of_region = of_city == region
        views.append(_region(region, users[of_region], active[of_region], None if rtts_ms is None else rtts_ms[of_region]))
    return tuple(views)


def _region(region: str, users: Floats, active: Floats, rtts_ms: Floats | None) -> RegionLatency:
    found = None if rtts_ms is None else spread(rtts_ms, active)
    return RegionLatency(
        region=region,
        users=round(float(users.sum())),
        mean_ms=round(found.mean_ms, 1) if found else None,
        p50_ms=round(found.p50_ms, 1) if found else None,
        p95_ms=round(found.p95_ms, 1) if found else None,
    )
