"""All flows of a world at one moment, kept up to date app by app."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skerry.core.types.problem import Bools, Floats, Problem
from skerry.testing.world.flows.measure import Histogram
from skerry.testing.world.flows.routing import positions, serve

Ints = NDArray[np.int64]


@dataclass
class Sums:
    """Rates per second. By metro, by site, by region and latency."""

    metros: int
    sites: int
    regions: int
    offered: float = 0.0
    refused: float = 0.0
    histogram: Histogram = field(init=False)

    def __post_init__(self) -> None:
        self.histogram = Histogram(self.regions)
        self.metro_rps = np.zeros(self.metros)
        self.metro_weighted = np.zeros(self.metros)
        self.metro_refused = np.zeros(self.metros)
        self.site_rps = np.zeros(self.sites)

    def grow(self, other: "Sums", times: float) -> None:
        self.offered += other.offered * times
        self.refused += other.refused * times
        self.histogram.grow(other.histogram, times)
        self.metro_rps += other.metro_rps * times
        self.metro_weighted += other.metro_weighted * times
        self.metro_refused += other.metro_refused * times
        self.site_rps += other.site_rps * times


@dataclass(frozen=True)
class _Part:
    """What one app adds to the sums."""

    offered: float
    metro: Ints
    site: Ints
    latency_ms: Floats
    rps: Floats
    lost_metro: Ints
    lost: Floats

    @property
    def refused(self) -> float:
        return float(self.lost.sum())


class Traffic:
    """Demand meets instances. `visible`: cities that users are led to; `living`: those that answer."""

    def __init__(self, problem: Problem, *, spill: bool) -> None:
        self._problem = problem
        self._spill = spill
        self._position = positions(problem.sites)
        regions = sorted({site.region for site in problem.sites})
        nearest = np.argmin(problem.rtt_ms, axis=1)
        self.regions = tuple(regions)
        self.region_of_metro = np.array([regions.index(problem.sites[int(at)].region) for at in nearest], dtype=np.int64)
        sites = len(problem.sites)
        self.rtt_ms = problem.rtt_ms.copy()
        self.site_rtt_ms = problem.site_rtt_ms.copy()
        self.visible: Bools = np.ones(sites, dtype=np.bool_)
        self.living: Bools = np.ones(sites, dtype=np.bool_)
        self.factor = np.ones((len(problem.apps), len(problem.metros)))
        self.instances = np.zeros((len(problem.apps), sites))
        self.ghosts = np.zeros((len(problem.apps), sites))
        self.rates = np.array([app.rps_per_instance for app in problem.apps])
        self.now = Sums(len(problem.metros), sites, len(regions))
        self._parts: dict[int, _Part] = {}
        self._dirty: set[int] = set(range(len(problem.apps)))
        index = {site.id: at for at, site in enumerate(problem.sites)}
        self._data = {item.data: at for at, item in enumerate(problem.data)}
        self.homes: Ints = np.array([index[item.home] for item in problem.data], dtype=np.int64)
        self._data_ms = np.zeros((len(problem.apps), sites))
        self._entry = np.zeros(len(problem.metros), dtype=np.int64)
        self.roads_changed()

    def roads_changed(self) -> None:
        """Round trips, or who is visible or living: everything is to be routed again."""
        problem = self._problem
        entry = np.argmin(np.where(self.visible[None, :], problem.rtt_ms, np.inf), axis=1)
        self._entry = np.where(self.living[entry] & self.visible[entry], entry, -1)
        for at, app in enumerate(problem.apps):
            if app.calls:
                self._data_ms[at] = sum(c.per_request * self.site_rtt_ms[:, self.homes[self._data[c.data]]] for c in app.calls)
        self._dirty = set(range(len(problem.apps)))

    def touch(self, apps: NDArray[np.int64] | None = None) -> None:
        """Demand or instances of these apps (None: of all) are others."""
        self._dirty.update(range(len(self._problem.apps)) if apps is None else (int(app) for app in apps))

    def demand(self, app: int) -> tuple[Ints, Floats]:
        metro, rps = self._problem.demand.of(app)
        return metro.astype(np.int64), rps * self.factor[app, metro]

    def refused_share(self, app: int) -> float:
        part = self._parts.get(app)
        return part.refused / part.offered if part and part.offered > 0 else 0.0

    def settle(self) -> bool:
        """Route what changed; whether anything did."""
        if not self._dirty:
            return False
        for app in sorted(self._dirty):
            before = self._parts.pop(app, None)
            if before is not None:
                self._count(before, -1.0)
            self._parts[app] = self._route(app)
            self._count(self._parts[app], 1.0)
        self._dirty = set()
        return True

    def _route(self, app: int) -> _Part:
        metro, rps = self.demand(app)
        ghosts, alive = self.ghosts[app], self.instances[app] * self.living
        capacity = (alive + ghosts) * self.rates[app]
        found = serve(metro, rps, self._entry[metro], capacity, self._position, spill=self._spill)
        broken = np.divide(ghosts, alive + ghosts, out=np.zeros_like(ghosts), where=ghosts > 0)[found.site]
        latency = self.rtt_ms[found.metro, found.entry] + self.site_rtt_ms[found.entry, found.site]
        latency = latency + self._data_ms[app, found.site]
        return _Part(
            offered=float(rps.sum()),
            metro=found.metro,
            site=found.site,
            latency_ms=latency,
            rps=found.rps * (1.0 - broken),
            lost_metro=np.concatenate((metro, found.metro)),
            lost=np.concatenate((found.unserved, found.rps * broken)),
        )

    def _count(self, part: _Part, sign: float) -> None:
        sums, rps = self.now, part.rps * sign
        sums.offered += part.offered * sign
        sums.refused += part.refused * sign
        sums.histogram.add(self.region_of_metro[part.metro], part.latency_ms, rps)
        np.add.at(sums.metro_rps, part.metro, rps)
        np.add.at(sums.metro_weighted, part.metro, rps * part.latency_ms)
        np.add.at(sums.metro_refused, part.lost_metro, part.lost * sign)
        np.add.at(sums.site_rps, part.site, rps)
