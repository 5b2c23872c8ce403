"""`apps.jsonl`, `data.jsonl` and `weights.json`: what apps ask, who uses them, and what they call."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.core.types.app import PRIORITY_NEUTRAL, DataCalls, RegionMin
from skerry.core.types.problem import Demand, Metro, ProblemApp, ProblemData, ProblemSite, Weights
from skerry.core.types.resources import Resources
from skerry.core.worlds.faults import meant, refuse, shown
from skerry.core.worlds.places import DISK_GIB_MAX, MEMORY_MIB_MAX, MILLICORES_MAX
from skerry.core.worlds.tables import LINE_BYTES_MAX, NAME, NAME_ALLOWED
from skerry.kit.record import Record

APPS, DATA, WEIGHTS = "apps.jsonl", "data.jsonl", "weights.json"
APPS_MAX = 500_000
DATA_MAX = 1_000_000
DEMAND_MAX = 200_000_000  # entries of all apps: 2.4 GB
RPS_MAX = 1e9  # of one app in one metro
COUNT_MAX = 10_000_000  # instances
PRIORITY_MAX = 1_000
SURVIVE_MAX = 20
CALLS_MAX = 64  # kinds of data of one app
NAMES_MAX = 1_000  # entries of allow and deny each
PER_REQUEST_MAX = 10_000.0
OBJECTIVE_MS_MAX = 60_000.0
SIZE_GIB_MAX = 1e9
WEIGHT_MAX = 1e12


class AppLine(Record):
    """One line of `apps.jsonl`, in its words."""

    app: str
    cpu_millicores: int
    memory_mib: int
    rps_per_instance: float
    demand: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    disk_gib: float = 0.0
    priority: int = PRIORITY_NEUTRAL
    min_total: int = 0
    max_total: int | None = None
    min_site: int = 1
    max_site: int | None = None
    region_min: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    jurisdiction: str | None = None
    features: tuple[str, ...] = ()
    latency_objective_ms: float | None = None
    survive_sites: int = 0
    calls: dict[str, float] = msgspec.field(default_factory=dict[str, float])


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("cpu_millicores", 0, MILLICORES_MAX),
    ("memory_mib", 0, MEMORY_MIB_MAX),
    ("disk_gib", 0.0, DISK_GIB_MAX),
    ("rps_per_instance", 1e-6, RPS_MAX),
    ("priority", 1, PRIORITY_MAX),
    ("min_total", 0, COUNT_MAX),
    ("max_total", 0, COUNT_MAX),
    ("min_site", 1, COUNT_MAX),
    ("max_site", 1, COUNT_MAX),
    ("latency_objective_ms", 0.0, OBJECTIVE_MS_MAX),
    ("survive_sites", 0, SURVIVE_MAX),
)


def parse_weights(text: bytes) -> Weights:
    weights = _decode(WEIGHTS, 0, text, _weights_decoder, Weights)
    for name in Weights.__struct_fields__:
        value = getattr(weights, name)
        if not 0.0 <= value <= WEIGHT_MAX:
            refuse(WEIGHTS, 0, name, f"{value} is not allowed; allowed: a number from 0 to {WEIGHT_MAX:g}")
    return weights


def parse_data(lines: Iterable[bytes], sites: Sequence[ProblemSite]) -> tuple[ProblemData, ...]:
    by_id = {site.id: site for site in sites}
    found: dict[str, ProblemData] = {}
    for number, line in _lines(DATA, lines, DATA_MAX):
        item = _decode(DATA, number, line, _data_decoder, ProblemData)
        if not NAME.fullmatch(item.data):
            refuse(DATA, number, "data", f"{shown(item.data)} is no name; {NAME_ALLOWED}")
        if item.data in found:
            refuse(DATA, number, "data", f"{shown(item.data)} is there twice")
        if item.home not in by_id:
            refuse(DATA, number, "home", f"{shown(item.home)} is no site of sites.csv; {meant(item.home, by_id)}")
        if not 0.0 <= item.size_gib <= SIZE_GIB_MAX:
            refuse(DATA, number, "size_gib", f"{item.size_gib} is not allowed; allowed: 0 to {SIZE_GIB_MAX:g}")
        if item.jurisdiction is not None and item.jurisdiction not in by_id[item.home].jurisdictions and not item.movable:
            said = f"{item.home} is not in {item.jurisdiction!r}, and {item.data} may not move"
            refuse(DATA, number, "jurisdiction", said)
        _check_jurisdiction(DATA, number, item.jurisdiction, sites)
        found[item.data] = item
    return tuple(found.values())


@dataclass
class Known:
    """What names in an app's line may mean."""

    metros: Mapping[str, int]
    data: frozenset[str]
    places: frozenset[str]
    regions: frozenset[str]
    features: frozenset[str]
    sites: Sequence[ProblemSite]
    largest: Resources

    @staticmethod
    def of(sites: Sequence[ProblemSite], metros: Sequence[Metro], data: Iterable[ProblemData]) -> "Known":
        regions = {site.region for site in sites}
        countries = {f"country:{site.country}" for site in sites}
        largest = Resources()
        for site in sites:
            largest = largest.or_more(usable(site))
        return Known(
            metros={metro.id: at for at, metro in enumerate(metros)},
            data=frozenset(item.data for item in data),
            places=frozenset({site.id for site in sites} | countries | {f"region:{region}" for region in regions}),
            regions=frozenset(regions),
            features=frozenset(feature for site in sites for feature in site.features),
            sites=sites,
            largest=largest,
        )


def usable(site: ProblemSite) -> Resources:
    """What of one node is not kept free."""
    part = 1.0 - site.reserve
    return Resources(
        cpu_millicores=math.floor(site.node.cpu_millicores * part + 1e-9),
        memory_mib=math.floor(site.node.memory_mib * part + 1e-9),
        disk_mib=math.floor(site.node.disk_mib * part + 1e-9),
    )


@dataclass
class _Columns:
    """Demand as it grows."""

    start: list[int] = field(default_factory=lambda: [0])
    metro: list[NDArray[np.int32]] = field(default_factory=list[NDArray[np.int32]])
    rps: list[NDArray[np.float64]] = field(default_factory=list[NDArray[np.float64]])
    keys: tuple[str, ...] = ()
    index: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    order: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def demand(self) -> Demand:
        return Demand(
            start=np.array(self.start, dtype=np.int64),
            metro=np.concatenate([np.zeros(0, dtype=np.int32), *self.metro]),
            rps=np.concatenate([np.zeros(0), *self.rps]),
        )


def parse_apps(lines: Iterable[bytes], known: Known) -> tuple[tuple[ProblemApp, ...], Demand]:
    """Apps in the order of their lines; demand of 0 is left out."""
    apps: list[ProblemApp] = []
    seen: set[str] = set()
    columns = _Columns()
    for number, line in _lines(APPS, lines, APPS_MAX):
        said = _decode(APPS, number, line, _app_decoder, AppLine)
        if said.app in seen:
            refuse(APPS, number, "app", f"{shown(said.app)} is there twice")
        seen.add(said.app)
        apps.append(_app(number, said, known))
        _take_demand(number, said.demand, known.metros, columns)
    return tuple(apps), columns.demand()


def parse_app(text: bytes, known: Known, file: str = APPS) -> tuple[ProblemApp, Demand]:
    """One app, as a line of `apps.jsonl`."""
    said = _decode(file, 1, text, _app_decoder, AppLine)
    columns = _Columns()
    _take_demand(1, said.demand, known.metros, columns)
    return _app(1, said, known), columns.demand()


def _app(number: int, said: AppLine, known: Known) -> ProblemApp:
    if not NAME.fullmatch(said.app):
        refuse(APPS, number, "app", f"{shown(said.app)} is no name; {NAME_ALLOWED}")
    for name, low, high in _RANGES:
        value = getattr(said, name)
        if value is not None and not low <= value <= high:
            refuse(APPS, number, name, f"{value} is not allowed; allowed: {low:g} to {high:g}")
    reserve = Resources(cpu_millicores=said.cpu_millicores, memory_mib=said.memory_mib, disk_mib=round(said.disk_gib * 1024))
    _check_size(number, reserve, known.largest)
    _check_limits(number, said)
    _check_names(number, said, known)
    return ProblemApp(
        app=said.app,
        reserve=reserve,
        rps_per_instance=said.rps_per_instance,
        priority=said.priority,
        min_total=said.min_total,
        max_total=said.max_total,
        min_site=said.min_site,
        max_site=said.max_site,
        region_min=tuple(RegionMin(region=region, count=count) for region, count in sorted(said.region_min.items())),
        allow=said.allow,
        deny=said.deny,
        jurisdiction=said.jurisdiction,
        features=tuple(sorted(set(said.features))),
        latency_objective_ms=said.latency_objective_ms,
        survive_sites=said.survive_sites,
        calls=tuple(DataCalls(data=data, per_request=per) for data, per in sorted(said.calls.items())),
    )


def _take_demand(number: int, demand: dict[str, float], metros: Mapping[str, int], columns: _Columns) -> None:
    keys = tuple(demand)
    if keys != columns.keys:  # neighbours often name the same metros
        try:
            columns.index = np.fromiter(map(metros.__getitem__, keys), dtype=np.int32, count=len(keys))
        except KeyError:
            wrong = next(key for key in keys if key not in metros)
            refuse(APPS, number, f"demand.{wrong}", f"is no metro of metros.csv; {meant(wrong, metros)}")
        columns.order = np.argsort(columns.index, kind="stable")
        columns.index = columns.index[columns.order]
        columns.keys = keys
    rps = np.fromiter(demand.values(), dtype=np.float64, count=len(keys))
    if not ((rps >= 0.0) & (rps <= RPS_MAX)).all():
        wrong, value = next((key, value) for key, value in demand.items() if not 0.0 <= value <= RPS_MAX)
        refuse(APPS, number, f"demand.{wrong}", f"{value} is not allowed; allowed: 0 to {RPS_MAX:g} requests per second")
    rps, index = rps[columns.order], columns.index
    if not rps.all():
        index, rps = index[rps > 0.0], rps[rps > 0.0]
    columns.metro.append(index)
    columns.rps.append(rps)
    columns.start.append(columns.start[-1] + len(rps))
    if columns.start[-1] > DEMAND_MAX:
        refuse(APPS, number, "demand", f"all apps together have demand in more than {DEMAND_MAX} metros; that is the limit")


def _check_size(number: int, reserve: Resources, largest: Resources) -> None:
    for name in ("cpu_millicores", "memory_mib", "disk_mib"):
        asked, most = getattr(reserve, name), getattr(largest, name)
        if asked > most:
            shown_name = "disk_gib" if name == "disk_mib" else name
            unit = 1024 if name == "disk_mib" else 1
            said = f"{asked / unit:g} is more than any node has ({most / unit:g} besides its reserve)"
            refuse(APPS, number, shown_name, said)


def _check_limits(number: int, said: AppLine) -> None:
    least = max(said.min_total, said.min_site if said.min_total else 0, sum(said.region_min.values()))
    if said.max_total is not None and said.max_total < least:
        refuse(APPS, number, "max_total", f"{said.max_total} is less than the minimums ask for ({least})")
    if said.max_site is not None and said.max_site < said.min_site:
        refuse(APPS, number, "max_site", f"{said.max_site} is less than min_site ({said.min_site})")


def _check_names(number: int, said: AppLine, known: Known) -> None:
    _check_places(number, said, known.places)
    for region, count in said.region_min.items():
        if region not in known.regions:
            refuse(APPS, number, f"region_min.{region}", f"is no region of sites.csv; {meant(region, known.regions)}")
        if not 0 <= count <= COUNT_MAX:
            refuse(APPS, number, f"region_min.{region}", f"{count} is not allowed; allowed: 0 to {COUNT_MAX}")
    for feature in said.features:
        if feature not in known.features:
            refuse(APPS, number, "features", f"no site has {shown(feature)}; {meant(feature, known.features)}")
    _check_jurisdiction(APPS, number, said.jurisdiction, known.sites)
    _check_calls(number, said.calls, known.data)


def _check_places(number: int, said: AppLine, known: frozenset[str]) -> None:
    for name, places in (("allow", said.allow), ("deny", said.deny)):
        if len(places) > NAMES_MAX:
            refuse(APPS, number, name, f"has {len(places)} entries; at most {NAMES_MAX}")
        for place in places:
            if place not in known:
                hint = meant(place, known)
                refuse(APPS, number, name, f"{shown(place)} is no site, country:XX or region:NAME of sites.csv; {hint}")
    both = sorted(set(said.allow) & set(said.deny))
    if both:
        refuse(APPS, number, "deny", f"{both[0]!r} is also in allow; one of them has to go")


def _check_calls(number: int, calls: Mapping[str, float], known: frozenset[str]) -> None:
    if len(calls) > CALLS_MAX:
        refuse(APPS, number, "calls", f"names {len(calls)} kinds of data; at most {CALLS_MAX}")
    for data, per in calls.items():
        if data not in known:
            refuse(APPS, number, f"calls.{data}", f"is not in {DATA}; {meant(data, known)}")
        if not 0.0 <= per <= PER_REQUEST_MAX:
            refuse(APPS, number, f"calls.{data}", f"{per} is not allowed; allowed: 0 to {PER_REQUEST_MAX:g} per request")


def _check_jurisdiction(file: str, number: int, name: str | None, sites: Sequence[ProblemSite]) -> None:
    if name is not None and not any(name in site.jurisdictions for site in sites):
        known = {item for site in sites for item in site.jurisdictions}
        refuse(file, number, "jurisdiction", f"no site is in {shown(name)}; {meant(name, known)}")


def _lines(file: str, lines: Iterable[bytes], lines_max: int) -> Iterator[tuple[int, bytes]]:
    count = 0
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_BYTES_MAX:
            refuse(file, number, "", f"is longer than {LINE_BYTES_MAX} bytes")
        if not line.strip():
            continue
        count += 1
        if count > lines_max:
            refuse(file, number, "", f"more than {lines_max} lines; that is the limit")
        yield number, line


_app_decoder = msgspec.json.Decoder(AppLine)
_data_decoder = msgspec.json.Decoder(ProblemData)
_weights_decoder = msgspec.json.Decoder(Weights)

T = TypeVar("T", AppLine, ProblemData, Weights)


def _decode(file: str, line: int, text: bytes, decoder: "msgspec.json.Decoder[T]", kind: type[T]) -> T:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        said = str(error)
        path = re.search(r" - at `\$\.?([^`]*)`", said)
        message = said[: path.start()] if path else said
        unknown = re.search(r"unknown field `(.*)`", message)
        if unknown and not (path and path.group(1)):
            name = unknown.group(1)
            refuse(file, line, name, f"is not known here; {meant(name, kind.__struct_fields__)}")
        refuse(file, line, path.group(1) if path else "", message)
    except msgspec.DecodeError as error:
        wrong = _not_a_number(text)
        if wrong:
            refuse(file, line, wrong, "is not a number (NaN or Infinity); allowed: a number")
        refuse(file, line, "", f"is no JSON object: {error}")


def _not_a_number(text: bytes) -> str:
    """The path of the first NaN or Infinity, which Python's parser takes though JSON has none."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return ""

    def search(value: object, path: str) -> str:
        if isinstance(value, float) and not math.isfinite(value):
            return path
        if isinstance(value, dict):
            found = (search(item, f"{path}.{key}" if path else str(key)) for key, item in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
            return next(filter(None, found), "")
        return ""

    return search(value, "")
