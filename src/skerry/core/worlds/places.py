"""`sites.csv`, `metros.csv` and `rtt.csv`: where machines and users are, and how far apart."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.rtt import Located, Points, modelled_rtts_ms, user_rtts_ms
from skerry.core.types.place import PlaceState
from skerry.core.types.problem import Metro, ProblemSite
from skerry.core.types.resources import Resources
from skerry.core.worlds.faults import meant, refuse, shown
from skerry.core.worlds.tables import Row, rows

SITES, METROS, RTT = "sites.csv", "metros.csv", "rtt.csv"
SITES_MAX = 2_000  # a table of RTTs between them is 32 MB
METROS_MAX = 10_000
NODES_MAX = 100_000  # in one city
MILLICORES_MAX = 10_000_000  # of one node: ten thousand cores
MEMORY_MIB_MAX = 1 << 28  # 256 TiB
DISK_GIB_MAX = float(1 << 24)
RTT_MS_MAX = 10_000.0  # ten seconds; the moon is nearer
RTT_DIGITS = 3
PRICE_MAX = 1e9
RESERVE_MAX = 0.99

SITE_COLUMNS = ("site", "lat", "lon", "country", "region", "nodes", "cpu_millicores", "memory_mib", "disk_gib")
SITE_OPTIONAL = ("name", "jurisdictions", "features", "price", "state", "reserve")
METRO_COLUMNS, METRO_OPTIONAL = ("metro", "lat", "lon", "country"), ("name",)
RTT_COLUMNS, RTT_OPTIONAL = ("from", "to", "rtt_ms"), ("source",)
STATES: tuple[PlaceState, ...] = ("up", "draining", "down", "cut_off")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RoundTrips:
    """From metros and from sites, to sites; what is not measured is modelled."""

    rtt_ms: Floats
    rtt_measured: Bools
    site_rtt_ms: Floats
    site_rtt_measured: Bools


def parse_sites(lines: Iterable[bytes]) -> tuple[ProblemSite, ...]:
    found: dict[str, ProblemSite] = {}
    for row in rows(SITES, lines, SITE_COLUMNS, SITE_OPTIONAL, rows_max=SITES_MAX):
        site = _site(row)
        if site.id in found:
            row.refuse("site", f"{shown(site.id)} is there twice")
        found[site.id] = site
    if not found:
        refuse(SITES, 0, "", "names no site; it needs one at least")
    return tuple(found.values())


def parse_metros(lines: Iterable[bytes]) -> tuple[Metro, ...]:
    found: dict[str, Metro] = {}
    for row in rows(METROS, lines, METRO_COLUMNS, METRO_OPTIONAL, rows_max=METROS_MAX):
        metro = row.name("metro")
        if metro in found:
            row.refuse("metro", f"{shown(metro)} is there twice")
        lat, lon, country = _position(row)
        found[metro] = Metro(id=metro, name=row.text("name", metro), lat=lat, lon=lon, country=country)
    if not found:
        refuse(METROS, 0, "", "names no metro; it needs one at least")
    return tuple(found.values())


def parse_rtts(lines: Iterable[bytes], sites: Sequence[ProblemSite], metros: Sequence[Metro]) -> RoundTrips:
    """Rows hold for the direction they name; between two sites for both, unless the other direction has a row too."""
    table = _Table(sites, metros)
    for row in rows(RTT, lines, RTT_COLUMNS, RTT_OPTIONAL, rows_max=(len(sites) + len(metros)) * len(sites)):
        table.take(row)
    return fill(sites, metros, table.users_ms, table.sites_ms, table.modelled)


def fill(
    sites: Sequence[ProblemSite],
    metros: Sequence[Located],
    users_ms: Floats,
    sites_ms: Floats,
    modelled: tuple[Bools, Bools] | None = None,
) -> RoundTrips:
    """Model what is NaN in the tables (metros × sites, sites × sites). Zero between a site and itself."""
    here, there = Points.of(metros), Points.of(sites)
    sites_ms = np.where(np.isnan(sites_ms), sites_ms.T, sites_ms)
    np.fill_diagonal(sites_ms, 0.0)
    users_known, sites_known = ~np.isnan(users_ms), ~np.isnan(sites_ms)
    users_ms = np.where(users_known, users_ms, np.round(user_rtts_ms(here, there), RTT_DIGITS))
    sites_ms = np.where(sites_known, sites_ms, np.round(modelled_rtts_ms(there, there), RTT_DIGITS))
    if modelled is not None:
        users_known &= ~modelled[0]
        sites_known &= ~modelled[1]
    return RoundTrips(users_ms, users_known, sites_ms, sites_known)


class _Table:
    def __init__(self, sites: Sequence[ProblemSite], metros: Sequence[Metro]) -> None:
        self._sites = {site.id: at for at, site in enumerate(sites)}
        self._metros = {metro.id: at for at, metro in enumerate(metros)}
        self.users_ms = np.full((len(metros), len(sites)), math.nan)
        self.sites_ms = np.full((len(sites), len(sites)), math.nan)
        self.modelled = (np.zeros(self.users_ms.shape, dtype=np.bool_), np.zeros(self.sites_ms.shape, dtype=np.bool_))

    def take(self, row: Row) -> None:
        from_, to = row.text("from"), row.text("to")
        column = self._sites.get(to)
        if column is None:
            row.refuse("to", f"{shown(to)} is no site of {SITES}; {meant(to, self._sites)}")
        line, table = self._line(row, from_)
        ms = row.number("rtt_ms", 0.0, RTT_MS_MAX)
        if table == 1 and line == column:
            if ms != 0.0:
                row.refuse("rtt_ms", f"{from_} to itself is 0, not {ms:g}")
            return
        values = (self.users_ms, self.sites_ms)[table]
        if not math.isnan(values[line, column]):
            row.refuse("from", f"the pair {from_},{to} is there twice")
        values[line, column] = ms
        self.modelled[table][line, column] = _source(row)

    def _line(self, row: Row, name: str) -> tuple[int, int]:
        metro, site = self._metros.get(name), self._sites.get(name)
        if metro is not None and site is not None:
            row.refuse(
                "from", f"{shown(name)} is a metro and a site; give the metro another name in {METROS}, such as 'm-{name}'"
            )
        if metro is not None:
            return metro, 0
        if site is None:
            known = (*self._metros, *self._sites)
            row.refuse("from", f"{shown(name)} is neither a metro nor a site; {meant(name, known)}")
        return site, 1


def _source(row: Row) -> bool:
    source = row.text("source", "measured")
    if source not in ("measured", "modelled"):
        row.refuse("source", f"{shown(source)} is not allowed; allowed: measured, modelled")
    return source == "modelled"


def _site(row: Row) -> ProblemSite:
    site = row.name("site")
    lat, lon, country = _position(row)
    return ProblemSite(
        id=site,
        name=row.text("name", site),
        lat=lat,
        lon=lon,
        country=country,
        region=row.name("region"),
        nodes=row.whole("nodes", 1, NODES_MAX),
        node=Resources(
            cpu_millicores=row.whole("cpu_millicores", 1, MILLICORES_MAX),
            memory_mib=row.whole("memory_mib", 1, MEMORY_MIB_MAX),
            disk_mib=round(row.number("disk_gib", 0.0, DISK_GIB_MAX) * 1024),
        ),
        price=row.number("price", 0.0, PRICE_MAX, 1.0),
        jurisdictions=row.words("jurisdictions"),
        features=row.words("features"),
        state=_state(row),
        reserve=row.number("reserve", 0.0, RESERVE_MAX, 0.0),
    )


def _state(row: Row) -> PlaceState:
    text = row.text("state", "up")
    for state in STATES:
        if state == text:
            return state
    return row.refuse("state", f"{shown(text)} is not allowed; allowed: {', '.join(STATES)}")


def _position(row: Row) -> tuple[float, float, str]:
    lat, lon, country = row.number("lat", -90.0, 90.0), row.number("lon", -180.0, 180.0), row.text("country")
    if not re.fullmatch(r"[A-Z]{2}", country):
        row.refuse("country", f"{shown(country)} is not allowed; allowed: two capital letters (ISO 3166), such as GB")
    return lat, lon, country
