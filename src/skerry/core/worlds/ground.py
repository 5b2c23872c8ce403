"""Cities of a made world: which, how large, with what nodes and prices.

Nobody publishes how many machines a city has; here they follow the users of the city's own country that are nearest to
it, a little faster than in proportion, since hubs serve their neighbours too: London two thousand, Curaçao three.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.cities import City
from skerry.core.geo.demand import Audience
from skerry.core.types.problem import Metro, ProblemSite
from skerry.core.types.resources import Resources

NODES_OF_LONDON = 2_000
NODES_MIN = 3
GROWTH = 1.15  # exponent of nodes over users
USERS_OF_LONDON = 25e6
SIZES = (  # from so many nodes (of a full-size world) on, a node is so large
    (0, Resources(cpu_millicores=32_000, memory_mib=128 * 1024, disk_mib=2_000 * 1024)),
    (30, Resources(cpu_millicores=64_000, memory_mib=256 * 1024, disk_mib=4_000 * 1024)),
    (600, Resources(cpu_millicores=128_000, memory_mib=512 * 1024, disk_mib=8_000 * 1024)),
)
PRICE_BY_REGION = {"weur": 1.0, "eeur": 0.9, "enam": 1.0, "wnam": 1.1, "apac": 1.3, "me": 1.5, "afr": 1.8, "sam": 1.7, "oc": 1.6}
RESERVE = 0.1
GPU_FROM_NODES = 400
_EUROPEAN_UNION = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()  # noqa: SIM905 - as a list
)


def choose_cities(cities: Mapping[str, City], users: Mapping[str, float], count: int) -> tuple[City, ...]:
    """`count` of them: London and Curaçao, then from each region in turn the one with the most users; by code."""
    waiting: dict[str, list[City]] = {}
    for city in sorted(
        cities.values(), key=lambda city: (city.code not in ("lhr", "cur"), -users.get(city.code, 0.0), city.code)
    ):
        waiting.setdefault(city.region, []).append(city)
    regions = sorted(waiting, key=lambda region: (region not in ("weur", "sam"), region))
    chosen: list[City] = []
    while len(chosen) < count and any(waiting.values()):
        chosen += [waiting[region].pop(0) for region in regions if waiting[region]][: count - len(chosen)]
    return tuple(sorted(chosen, key=lambda city: city.code))


def make_metros(cities: Sequence[City]) -> tuple[Metro, ...]:
    """One per city, with a name of its own: `rtt.csv` has to tell users in London from machines in London."""
    return tuple(Metro(id=f"m-{city.code}", name=city.name, lat=city.lat, lon=city.lon, country=city.country) for city in cities)


def make_sites(
    cities: Sequence[City], audience: Audience, nodes_of_london: int = NODES_OF_LONDON, node_scale: float = 1.0
) -> tuple[ProblemSite, ...]:
    """One site per city; `audience` has the same order. `node_scale` below 1 makes every node smaller."""
    full = node_counts(audience.domestic)
    part = nodes_of_london / NODES_OF_LONDON
    return tuple(_site(city, int(size), part, node_scale) for city, size in zip(cities, full, strict=True))


def node_counts(users: NDArray[np.float64]) -> NDArray[np.int64]:
    """Nodes of a city of the full-size world by its users."""
    return np.maximum(NODES_MIN, np.rint(NODES_OF_LONDON * (users / USERS_OF_LONDON) ** GROWTH)).astype(np.int64)


def _site(city: City, full: int, part: float, node_scale: float) -> ProblemSite:
    jurisdictions = ("eu",) if city.country in _EUROPEAN_UNION else ("fedramp",) if city.country == "US" else ()
    node = _scaled(next(node for least, node in reversed(SIZES) if full >= least), node_scale)
    return ProblemSite(
        id=city.code,
        name=city.name,
        lat=city.lat,
        lon=city.lon,
        country=city.country,
        region=city.region,
        nodes=max(NODES_MIN, round(full * part)),
        node=node,
        price=round(PRICE_BY_REGION.get(city.region, 1.0) * node.cpu_millicores / 32_000, 4),
        jurisdictions=jurisdictions,
        features=("gpu", "gvisor", "kvm") if full >= GPU_FROM_NODES else ("gvisor", "kvm"),
        reserve=RESERVE,
    )


def _scaled(node: Resources, scale: float) -> Resources:
    return Resources(
        cpu_millicores=max(1, round(node.cpu_millicores * scale)),
        memory_mib=max(1, round(node.memory_mib * scale)),
        disk_mib=max(1, round(node.disk_mib * scale)),
    )
