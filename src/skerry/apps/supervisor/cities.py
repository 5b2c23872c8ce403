"""What `--cities` may say: `lhr:3,cur:3,sin:2`, IATA codes of known cities with a number of nodes each."""

import re
from collections.abc import Mapping
from importlib import resources

from skerry.apps.supervisor.errors import UpError
from skerry.core.geo.cities import City, parse_cities_csv
from skerry.kit.record import Record

DEFAULT_CITIES = "lhr:3,cur:3,sin:2"
SITES_MAX = 64  # processes of one machine: a city takes one controller and one HAProxy, and so on below
NODES_MAX = 128  # 50 MiB each
NODES_PER_SITE_MAX = 100  # addresses 127.0.k.11 to 127.0.k.110
TEXT_CHARS_MAX = 4096
GUESSES_SHOWN = 5

_PART = re.compile(r"([a-z]{3})(?::([0-9]{1,4}))?\Z")


class CityAsk(Record):
    """A city that is asked for, with this many nodes."""

    city: City
    nodes: int


def load_cities() -> dict[str, City]:
    """The table that ships with the package."""
    text = resources.files("skerry.data").joinpath("edge-cities.csv").read_text("utf-8")
    return parse_cities_csv(text.splitlines())


def parse_cities(text: str, table: Mapping[str, City]) -> tuple[CityAsk, ...]:
    """In the order given; `:N` defaults to one node. `table` is by lower-case code. Raises `UpError` (usage)."""
    parts = [part.strip().lower() for part in text[: TEXT_CHARS_MAX + 1].split(",")]
    if len(text) > TEXT_CHARS_MAX or not any(parts):
        raise _usage("--cities needs at least one city")
    asks = [_parse_part(part, table) for part in parts]
    codes = [ask.city.code for ask in asks]
    twice = sorted({code for code in codes if codes.count(code) > 1})
    if twice:
        raise _usage(f"--cities names {', '.join(twice)} twice")
    if len(asks) > SITES_MAX:
        raise _usage(f"--cities names {len(asks)} cities; one machine takes at most {SITES_MAX}")
    total = sum(ask.nodes for ask in asks)
    if total > NODES_MAX:
        raise _usage(f"--cities asks for {total} nodes; one machine takes at most {NODES_MAX}")
    return tuple(asks)


def _parse_part(part: str, table: Mapping[str, City]) -> CityAsk:
    found = _PART.match(part)
    if found is None:
        raise _usage(f"--cities: {part[:40]!r} is not CODE:NODES", hint=_by_name(part, table))
    code, nodes = found.group(1), int(found.group(2) or 1)
    city = table.get(code)
    if city is None:
        near = [other for other in table if sum(a == b for a, b in zip(code, other, strict=True)) == 2]
        raise _usage(f"--cities: no city has the code {code!r}", hint=_did_you_mean(near, table))
    if not 1 <= nodes <= NODES_PER_SITE_MAX:
        raise _usage(f"--cities: {code} with {nodes} nodes; a city has 1 to {NODES_PER_SITE_MAX}")
    return CityAsk(city=city, nodes=nodes)


def _by_name(part: str, table: Mapping[str, City]) -> str:
    """A hint for those who wrote `london:3`."""
    name = part.partition(":")[0].strip()
    return _did_you_mean([code for code, city in table.items() if len(name) > 2 and name in city.name.lower()], table)


def _did_you_mean(codes: list[str], table: Mapping[str, City]) -> str:
    shown = [f"{code} ({table[code].name})" for code in codes[:GUESSES_SHOWN]]
    return f"did you mean {' or '.join(shown)}?" if shown else ""


def _usage(message: str, *, hint: str = "") -> UpError:
    return UpError(message, hint=hint or f"an example: --cities {DEFAULT_CITIES}", code=2)
