"""A world's files, read anew: only the model of round trips, which fills what rtt.csv leaves out, is the package's."""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.rtt import Points, modelled_rtts_ms, user_rtts_ms

Floats = NDArray[np.float64]
Line = TypeVar("Line")

PRIORITY_NEUTRAL = 50
STATES = {"site-lost": "down", "site-draining": "draining", "site-cut-off": "cut_off", "site-back": "up"}


class App(msgspec.Struct):
    """A line of apps.jsonl."""

    app: str
    cpu_millicores: float
    memory_mib: float
    rps_per_instance: float
    disk_gib: float = 0.0
    demand: dict[str, float] = {}
    priority: float = PRIORITY_NEUTRAL
    min_total: int = 0
    max_total: int | None = None
    min_site: int = 1
    max_site: int | None = None
    region_min: dict[str, int] = {}
    allow: list[str] = []
    deny: list[str] = []
    jurisdiction: str | None = None
    features: list[str] = []
    latency_objective_ms: float | None = None
    survive_sites: int = 0
    calls: dict[str, float] = {}

    def needs(self) -> Floats:
        """cpu, memory, disk of one instance, in whole units."""
        return np.array([self.cpu_millicores, self.memory_mib, round(self.disk_gib * 1024)], dtype=np.float64)

    def weight(self) -> float:
        return self.priority / PRIORITY_NEUTRAL


class Data(msgspec.Struct):
    """A line of data.jsonl."""

    data: str
    home: str
    movable: bool = False
    size_gib: float = 0.0
    jurisdiction: str | None = None


class Weights(msgspec.Struct):
    """weights.json"""

    latency: float = 1.0
    late: float = 5.0
    unserved: float = 10_000.0
    cost: float = 100.0
    move: float = 20.0
    home: float = 200.0


@dataclass
class Place:
    """A row of metros.csv."""

    lat: float
    lon: float
    country: str


@dataclass
class Site:
    """A row of sites.csv."""

    site: str
    lat: float
    lon: float
    country: str
    region: str
    nodes: int
    node: Floats  # cpu, memory, disk
    price: float
    state: str
    reserve: float
    jurisdictions: list[str]
    features: list[str]

    def usable(self) -> Floats:
        """Of one node, in whole units."""
        return np.floor(self.node * (1.0 - self.reserve) + 1e-6)

    def instance_price(self, app: App) -> float:
        return self.price * 0.5 * (app.cpu_millicores / float(self.node[0]) + app.memory_mib / float(self.node[1]))

    def barred(self, app: App) -> str:
        """Why policy or state keep new instances away; empty: they do not."""
        names = {self.site, f"country:{self.country}", f"region:{self.region}"}
        if names & set(app.deny):
            return "denied"
        if app.allow and not names & set(app.allow):
            return "not allowed"
        if app.jurisdiction and app.jurisdiction not in self.jurisdictions:
            return "outside the jurisdiction"
        if not set(app.features) <= set(self.features):
            return "without a feature"
        return "" if self.state == "up" else self.state


@dataclass
class World:
    """The files, as they are."""

    sites: dict[str, Site]
    metros: dict[str, Place]
    apps: dict[str, App]
    data: dict[str, Data]
    weights: Weights
    rtt: Floats  # metros × sites
    site_rtt: Floats
    site_at: dict[str, int]
    metro_at: dict[str, int]


def read(directory: Path) -> World:
    sites = {row["site"]: _site(row) for row in _table(directory / "sites.csv")}
    metros = {
        row["metro"]: Place(float(row["lat"]), float(row["lon"]), row["country"]) for row in _table(directory / "metros.csv")
    }
    path = directory / "weights.json"
    weights = msgspec.json.decode(path.read_bytes(), type=Weights) if path.exists() else Weights()
    site_at, metro_at = ({name: at for at, name in enumerate(names)} for names in (sites, metros))
    users, between = _measured(directory / "rtt.csv", site_at, metro_at)
    here, there = Points.of(list(metros.values())), Points.of(list(sites.values()))
    return World(
        sites=sites,
        metros=metros,
        apps={item.app: item for item in _lines(directory / "apps.jsonl", App)},
        data={item.data: item for item in _lines(directory / "data.jsonl", Data)},
        weights=weights,
        rtt=np.where(np.isnan(users), np.round(user_rtts_ms(here, there), 3), users),
        site_rtt=np.where(np.isnan(between), np.round(modelled_rtts_ms(there, there), 3), between),
        site_at=site_at,
        metro_at=metro_at,
    )


def _table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _lines(path: Path, kind: type[Line]) -> Iterator[Line]:
    if path.exists():
        with path.open("rb") as file:
            yield from (msgspec.json.decode(line, type=kind) for line in file if line.strip())


def _site(row: dict[str, str]) -> Site:
    return Site(
        site=row["site"],
        lat=float(row["lat"]),
        lon=float(row["lon"]),
        country=row["country"],
        region=row["region"],
        nodes=int(row["nodes"]),
        node=np.array([float(row["cpu_millicores"]), float(row["memory_mib"]), round(float(row["disk_gib"]) * 1024)]),
        price=float(row.get("price") or 1.0),
        state=row.get("state") or "up",
        reserve=float(row.get("reserve") or 0.0),
        jurisdictions=(row.get("jurisdictions") or "").split(),
        features=(row.get("features") or "").split(),
    )


def _measured(path: Path, site_at: dict[str, int], metro_at: dict[str, int]) -> tuple[Floats, Floats]:
    """What rtt.csv says; between two sites a row holds for both directions, unless the other has its own."""
    users, between = np.full((len(metro_at), len(site_at)), np.nan), np.full((len(site_at), len(site_at)), np.nan)
    for row in _table(path):
        from_, to = row["from"], site_at[row["to"]]
        if from_ in metro_at:
            users[metro_at[from_], to] = float(row["rtt_ms"])
        else:
            between[site_at[from_], to] = float(row["rtt_ms"])
    between = np.where(np.isnan(between), between.T, between)
    np.fill_diagonal(between, 0.0)
    return users, between


def apply_event(world: World, text: str) -> None:
    """Ends the program where there is no such event."""
    kind, *words = text.split()
    if kind in STATES:
        world.sites[words[0]].state = STATES[kind]
    elif kind == "demand":
        world.apps[words[0]].demand[words[1]] = float(words[2])
    else:
        sys.exit(f"no such event: {text}")
