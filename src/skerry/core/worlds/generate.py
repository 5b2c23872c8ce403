"""Worlds made by a seed, for tests, benches, simulation and `skerry world make`.

`make_problem` needs the packaged tables; `skerry.adapters.worlds.make_problem(cities=…, apps=…, seed=…)` passes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.cities import City
from skerry.core.geo.demand import Audience, MetroUsers
from skerry.core.types.problem import Demand, Problem, ProblemApp, ProblemSite, Weights
from skerry.core.worlds.ground import NODES_OF_LONDON, choose_cities, make_metros, make_sites
from skerry.core.worlds.mix import FAR_METROS, HOME_PART, KINDS, METROS_LEAST, Mix, choose, make_mix
from skerry.core.worlds.places import fill
from skerry.kit.draws import Draws

Floats = NDArray[np.float64]

DIGITS_KEPT = 4  # of a demand, so that files stay small and the same on every machine
LOAD_DEFAULT = 0.7
METROS_PER_POPULARITY = 3.0  # an app of mean popularity has demand in so many of its metros' square roots
BISECTIONS = 60


@dataclass(frozen=True)
class Catalogue:
    """The tables a world is made from: cities by code, and users of each."""

    cities: Mapping[str, City]
    users: tuple[MetroUsers, ...]


@dataclass(frozen=True)
class WorldAsk:
    """What kind of world. `load` is the share of all capacity that the demand of the busiest hour takes (by the scarcer of
    cpu and memory); `hour` (UTC) another hour of the same world, None the busiest. `metros` None: one per city.
    `nodes_of_london` below 2,000 shrinks every city (to three nodes at least), `node_scale` below 1 every node: with both, a
    small world has few instances, and whole numbers matter. `shared`: the part of apps that call another's data, too."""

    cities: int = 340
    apps: int = 1_000
    seed: int = 1
    load: float = LOAD_DEFAULT
    hour: float | None = None
    metros: int | None = None
    nodes_of_london: int = NODES_OF_LONDON
    node_scale: float = 1.0
    shared: float = 0.0


def make_problem(ask: WorldAsk, catalogue: Catalogue) -> Problem:
    """A whole problem, the same for the same ask and tables; round trips are modelled."""
    homes = _users_of(catalogue)
    cities = choose_cities(catalogue.cities, homes, ask.cities)
    metro_cities = choose_cities(catalogue.cities, homes, ask.cities if ask.metros is None else ask.metros)
    audience = _audience(metro_cities, catalogue)
    sites = make_sites(cities, _audience(cities, catalogue), ask.nodes_of_london, ask.node_scale)
    mix = make_mix(Draws(ask.seed, "apps"), ask.apps, sites, _audience(cities, catalogue).total, ask.shared)
    demand = _demand(ask, mix, sites, metro_cities, audience)
    metros = make_metros(metro_cities)
    none = np.full((len(metros), len(sites)), np.nan), np.full((len(sites), len(sites)), np.nan)
    trips = fill(sites, metros, *none)
    return Problem(
        sites=sites,
        metros=metros,
        rtt_ms=trips.rtt_ms,
        rtt_measured=trips.rtt_measured,
        site_rtt_ms=trips.site_rtt_ms,
        site_rtt_measured=trips.site_rtt_measured,
        apps=mix.apps,
        demand=demand,
        data=mix.data,
        weights=Weights(),
    )


def _users_of(catalogue: Catalogue) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in catalogue.users:
        if row.country == catalogue.cities[row.metro].country:
            total[row.metro] = total.get(row.metro, 0.0) + row.users
    return total


def _audience(cities: Sequence[City], catalogue: Catalogue) -> Audience:
    return Audience.of([(city.code, city.country) for city in cities], catalogue.users)


def _demand(ask: WorldAsk, mix: Mix, sites: Sequence[ProblemSite], metros: Sequence[City], audience: Audience) -> Demand:
    """Each app's mean demand per metro, scaled to the load, at the hour."""
    peak = audience.active(audience.peak_hour())
    now = peak if ask.hour is None else audience.active(ask.hour)
    spread = _Spread(Draws(ask.seed, "demand"), mix, sites, metros, audience.total)
    factor = np.divide(now, audience.total, out=np.zeros_like(now), where=audience.total > 0)
    factor_peak = np.divide(peak, audience.total, out=np.zeros_like(now), where=audience.total > 0)
    shares = [spread.of(app) for app in range(len(mix.apps))]
    at_peak = mix.popularity * np.array([float((share * factor_peak[metro]).sum()) for metro, share in shares])
    scale = _scale(at_peak, mix.apps, _capacity(sites), ask.load)
    kept = [_rounded(metro, share * factor[metro] * (scale * mix.popularity[app])) for app, (metro, share) in enumerate(shares)]
    start = np.zeros(len(kept) + 1, dtype=np.int64)
    start[1:] = np.cumsum([len(metro) for metro, _ in kept])
    none = np.zeros(0)
    return Demand(
        start=start,
        metro=np.concatenate([none, *(metro for metro, _ in kept)]).astype(np.int32),
        rps=np.concatenate([none, *(rps for _, rps in kept)]),
    )


def _rounded(metro: NDArray[np.int64], rps: Floats) -> tuple[NDArray[np.int64], Floats]:
    kept = rps > 0
    metro, rps = metro[kept], rps[kept]
    digits = 10.0 ** (DIGITS_KEPT - 1 - np.floor(np.log10(rps))) if len(rps) else rps
    return metro, np.round(rps * digits) / digits


def _capacity(sites: Sequence[ProblemSite]) -> tuple[float, float]:
    """Millicores and MiB of all sites, less the reserve."""
    part = [site.nodes * (1.0 - site.reserve) for site in sites]
    cpu = sum(share * site.node.cpu_millicores for share, site in zip(part, sites, strict=True))
    return cpu, sum(share * site.node.memory_mib for share, site in zip(part, sites, strict=True))


def _scale(weight: Floats, apps: Sequence[ProblemApp], capacity: tuple[float, float], load: float) -> float:
    """Requests per second of all weight 1, so that the instances they need take `load` of the scarcer resource."""
    rps = np.array([app.rps_per_instance for app in apps])
    least = np.array([app.min_total for app in apps], dtype=np.float64)
    cpu = np.array([app.reserve.cpu_millicores for app in apps], dtype=np.float64) / capacity[0]
    memory = np.array([app.reserve.memory_mib for app in apps], dtype=np.float64) / capacity[1]

    def taken(scale: float) -> float:
        instances = np.maximum(scale * weight / rps, least)
        return float(max((instances * cpu).sum(), (instances * memory).sum()))

    low, high = 0.0, 1.0
    while len(apps) and taken(high) < load and high < 1e15:
        high *= 2.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle) < load else (low, middle)
    return low


class _Spread:
    """How an app's demand divides over metros: by users, with the app's own taste, at home or everywhere."""

    def __init__(self, draws: Draws, mix: Mix, sites: Sequence[ProblemSite], metros: Sequence[City], users: Floats) -> None:
        self._draws, self._mix, self._users = draws, mix, users
        index = {metro.code: at for at, metro in enumerate(metros)}
        self._anchor = np.array([index.get(site.id, at % len(metros)) for at, site in enumerate(sites)], dtype=np.int64)
        regions = [metro.region for metro in metros]
        countries = [metro.country for metro in metros]
        self._region = {name: np.flatnonzero([region == name for region in regions]) for name in regions}
        self._country = {name: np.flatnonzero([country == name for country in countries]) for name in countries}
        self._metros = metros
        self._everywhere = np.arange(len(metros), dtype=np.int64)

    def of(self, app: int) -> tuple[NDArray[np.int64], Floats]:
        """Metros, ascending, and their shares, which add up to 1."""
        kind, anchor = KINDS[int(self._mix.kind[app])][0], int(self._anchor[self._mix.anchor[app]])
        metro = self._metros[anchor]
        home = {
            "global": self._everywhere,
            "region": self._region[metro.region],
            "country": self._country[metro.country],
            "city": np.array([anchor], dtype=np.int64),
        }[kind]
        shares = np.zeros(len(self._users))
        shares[home] = self._taste(app, home)
        if kind != "global":
            far = choose(self._draws.uniform("far", FAR_METROS, app * FAR_METROS), self._users)
            np.add.at(shares, far, (1.0 - HOME_PART) / HOME_PART / FAR_METROS * shares.sum())
        self._forget(app, shares)
        found = np.flatnonzero(shares).astype(np.int64)
        return found, shares[found] / shares.sum()

    def _taste(self, app: int, home: NDArray[np.int64]) -> Floats:
        """Users of the home metros, each times a log-normal number of the app's own."""
        taste = np.exp(0.6 * self._draws.normal("taste", len(home), app * len(self._users)))
        return np.maximum(self._users[home], 1.0) * taste

    def _forget(self, app: int, shares: Floats) -> None:
        """A little-used app has users in few metros: keep the largest."""
        mean = 1.0 / len(self._mix.apps)
        wide = METROS_PER_POPULARITY * np.sqrt(self._mix.popularity[app] / mean) * np.sqrt(len(shares))
        keep = max(METROS_LEAST, int(wide))
        if keep < np.count_nonzero(shares):
            shares[np.argsort(-shares, kind="stable")[keep:]] = 0.0
