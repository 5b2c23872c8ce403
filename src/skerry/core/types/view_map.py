"""What people and programs see of the map: see `core.types.view`."""

from typing import Literal

from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.view import RolloutState, SiteView, View


class MapApp(View):
    """One line of the map's list of apps."""

    account: AccountId
    account_name: str
    app: AppName
    url: str
    rollout: RolloutState
    sites: int  # with a serving instance
    instances: int
    serving: int


class WorldMap(View):
    """The map without an app chosen. `apps` are the first of `apps_total`, by account and name."""

    sites: tuple[SiteView, ...]
    apps: tuple[MapApp, ...]
    apps_total: int
    now_ms: int


class CopiesView(View):
    """An app's instances in one site, and how many of them take traffic."""

    site: SiteId
    instances: int
    serving: int


class MetroLatency(View):
    """A metro's users and the site that serves the app to them soonest; `site` and `rtt_ms` None: nobody does.

    `users` are its internet users, `activity` how active they are at this hour: 1 is the mean of their day.
    """

    metro: str
    city: str
    country: str
    region: str
    lat: float
    lon: float
    users: int
    activity: float
    site: SiteId | None
    rtt_ms: float | None


class RegionLatency(View):
    """Round trips of a region's users at this hour, each weighted by how active they are; None: nobody serves."""

    region: str
    users: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None


class CityRate(View):
    """Requests per second of an app's own users, as measured, by the city that they come in at."""

    site: SiteId
    rps: float


class AppMap(View):
    """Where one app answers and how far its users are. `source`: what the round trips are from.

    `metros` are ordered by code, `regions` by name; `world` is all of them. `asked` is what its own users ask for now, by site
    id, without cities where nobody does.
    """

    account: AccountId
    account_name: str
    app: AppName
    url: str
    copies: tuple[CopiesView, ...]
    metros: tuple[MetroLatency, ...]
    regions: tuple[RegionLatency, ...]
    world: RegionLatency
    source: Literal["modelled"]
    now_ms: int
    asked: tuple[CityRate, ...] = ()
