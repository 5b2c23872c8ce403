"""The cities that a site can be in, by IATA code, and which region each belongs to."""

import csv
from collections.abc import Iterable

from skerry.kit.record import Record

WEST_OF_NORTH_AMERICA_LON = -100.0  # degrees; Denver is west, Dallas is east
_OCEANIA = frozenset(("AU", "FJ", "GU", "NC", "NZ", "PF"))
_CARIBBEAN_OF_SOUTH_AMERICA = frozenset(("BB", "CW", "GD", "TT"))
_CAUCASUS = frozenset(("AM", "AZ", "GE"))
_EASTERN_EUROPE = frozenset(
    "AL BG BY CY CZ EE GR HR HU KZ LT LV MD MK PL RO RS RU SI SK TR UA".split()  # noqa: SIM905 - reads as the list it is
)


class City(Record):
    """`code` is the IATA code in lower case, `region` one of Cloudflare's location hints (see `Site.region`)."""

    code: str
    name: str
    country: str  # ISO 3166 alpha-2
    region: str
    lat: float
    lon: float


def parse_cities_csv(lines: Iterable[str]) -> dict[str, City]:
    """From `edge-cities.csv` (columns iata, city, country, cc, region, lat, lon); ordered as in the file."""
    return {city.code: city for city in map(_parse_row, csv.DictReader(lines))}


def region_of(continent: str, country: str, lon: float) -> str:
    """The region of a place, by the continent that the table gives it and its country."""
    if country in _CAUCASUS:
        return "eeur"
    if continent in ("Asia", "Asia Pacific", "Oceania"):
        return "oc" if country in _OCEANIA else "apac"
    if continent == "North America" and country not in _CARIBBEAN_OF_SOUTH_AMERICA:
        return "wnam" if lon < WEST_OF_NORTH_AMERICA_LON else "enam"
    if continent == "Europe":
        return "eeur" if country in _EASTERN_EUROPE else "weur"
    return {"Africa": "afr", "Middle East": "me"}.get(continent, "sam")


def _parse_row(row: dict[str, str]) -> City:
    lon = float(row["lon"])
    return City(
        code=row["iata"].lower(),
        name=row["city"],
        country=row["cc"],
        region=region_of(row["region"], row["cc"], lon),
        lat=float(row["lat"]),
        lon=lon,
    )
