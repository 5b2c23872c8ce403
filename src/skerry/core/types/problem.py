"""The question of placement as columns: sites, metros, round trips, apps with their demand, data, weights.

What `sites.csv`, `metros.csv`, `rtt.csv`, `apps.jsonl`, `data.jsonl` and `weights.json` say, and what the running
platform derives from its store. Arrays have a row per metro and a column per site, in the order of the tuples;
whoever makes a `Problem` has validated it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skerry.core.types.app import PRIORITY_NEUTRAL, DataCalls, RegionMin
from skerry.core.types.place import PlaceState
from skerry.core.types.resources import Resources
from skerry.core.types.settings import Weights
from skerry.kit.record import Record

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class ProblemSite(Record):
    """A city with `nodes` equal nodes of `node` each; `price` is of one node; `reserve` a fraction that is kept free."""

    id: str
    name: str
    lat: float
    lon: float
    country: str
    region: str
    nodes: int
    node: Resources
    price: float
    jurisdictions: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    state: PlaceState = "up"
    reserve: float = 0.0


class Metro(Record):
    """Where users are."""

    id: str
    name: str
    lat: float
    lon: float
    country: str


class ProblemApp(Record):
    """One app as placement sees it. None: no such limit. `min_site` applies where the app runs at all."""

    app: str
    reserve: Resources  # of one instance
    rps_per_instance: float
    priority: int = PRIORITY_NEUTRAL
    min_total: int = 0
    max_total: int | None = None
    min_site: int = 1
    max_site: int | None = None
    region_min: tuple[RegionMin, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    jurisdiction: str | None = None
    features: tuple[str, ...] = ()
    latency_objective_ms: float | None = None
    survive_sites: int = 0
    calls: tuple[DataCalls, ...] = ()


class ProblemData(Record):
    """A database, bucket or object class and the site of its primary."""

    data: str
    home: str
    movable: bool = False
    size_gib: float = 0.0
    jurisdiction: str | None = None


@dataclass(frozen=True)
class Demand:
    """Requests per second of all apps, sparse: app `a` has `rps[start[a]:start[a+1]]` in metros `metro[start[a]:start[a+1]]`."""

    start: NDArray[np.int64]  # one more than apps
    metro: NDArray[np.int32]  # ascending inside an app
    rps: Floats  # above 0

    def of(self, app: int) -> tuple[NDArray[np.int32], Floats]:
        """The metros of one app and their demand."""
        part = slice(int(self.start[app]), int(self.start[app + 1]))
        return self.metro[part], self.rps[part]


@dataclass(frozen=True)
class Problem:
    """Everything a placement is decided on."""

    sites: tuple[ProblemSite, ...]
    metros: tuple[Metro, ...]
    rtt_ms: Floats  # metros × sites
    rtt_measured: Bools  # False: modelled
    site_rtt_ms: Floats  # sites × sites, diagonal 0
    site_rtt_measured: Bools
    apps: tuple[ProblemApp, ...]
    demand: Demand
    data: tuple[ProblemData, ...] = ()
    weights: Weights = field(default_factory=Weights)
