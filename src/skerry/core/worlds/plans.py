"""`plan.json`: a whole plan by names, so that other solvers, checkers and people can read it, and ours can go on from it."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import msgspec
import numpy as np

from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.columns import Instances
from skerry.core.placement.solve.plan import Flows, Terms, Unserved
from skerry.core.placement.solve.solution import Certificate, SitePrices, Solution
from skerry.core.types.problem import Problem
from skerry.core.worlds.faults import WorldError, meant, refuse, shown
from skerry.kit.record import Record

COUNT_MAX = 10_000_000  # instances of an app in a site
_encoder = msgspec.json.Encoder()


class ObjectiveLine(Record, omit_defaults=False):
    """J and its terms."""

    total: float
    latency: float
    late: float
    unserved: float
    cost: float
    move: float
    home: float


class AppPrices(Record):
    """What proves an app's part of the bound. `metro`: J per rps; `homes`: of movable data, where it is for these prices;
    `tangents`: homes that the tangent of its lateness lies between."""

    metro: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    max_total: float = 0.0  # J per instance
    min_total: float = 0.0
    homes: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    tangents: tuple[str, ...] = ()


Levels = dict[str, dict[str, float]]


class SitePricesLine(Record):
    """Prices of sites. Of each: J per millicore, per MiB of memory and per MiB of disk. `levels`: app, home, J per request."""

    sites: dict[str, tuple[float, float, float]]
    levels: Levels = msgspec.field(default_factory=dict[str, dict[str, float]])


class CertificateLine(SitePricesLine):
    """Prices that prove the bound; `others` do it together with these, where the homes of the apps `apart` are others."""

    apart: tuple[str, ...] = ()
    others: tuple[SitePricesLine, ...] = ()
    apps: dict[str, AppPrices] = msgspec.field(default_factory=dict[str, AppPrices])


class PlanFile(Record):
    """The whole file. `short`: limits that could not be met (app, limit, instances missing)."""

    instances: tuple[tuple[str, str, int], ...]
    flows: tuple[tuple[str, str, str, float], ...]
    unserved: tuple[tuple[str, str, float], ...] = ()
    homes: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    objective: ObjectiveLine | None = None
    bound: float | None = None
    gap: float | None = None
    certificate: CertificateLine | None = None
    modelled_pairs: int = 0
    rejected: dict[str, dict[str, str]] = msgspec.field(default_factory=dict[str, dict[str, str]])
    short: tuple[tuple[str, str, int], ...] = ()
    seconds: float = 0.0


_decoder = msgspec.json.Decoder(PlanFile)


def format_plan(
    problem: Problem, solution: Solution, rejected: Mapping[int, Mapping[int, str]], seconds: float
) -> Iterator[bytes]:
    """The lines of the file: a field or a row each. `rejected`: app, then site, by index, with the reason."""
    sites, metros = [site.id for site in problem.sites], [metro.id for metro in problem.metros]
    apps = [app.app for app in problem.apps]
    placed, flows, lost = solution.instances, solution.flows, solution.unserved
    yield b"{\n"
    yield from _rows("instances", zip(_named(apps, placed.app), _named(sites, placed.site), placed.count.tolist(), strict=True))
    flow = (_named(apps, flows.app), _named(metros, flows.metro), _named(sites, flows.site), flows.rps.tolist())
    yield from _rows("flows", zip(*flow, strict=True))
    yield from _rows("unserved", zip(_named(apps, lost.app), _named(metros, lost.metro), lost.rps.tolist(), strict=True))
    yield _field("homes", {item.data: sites[int(at)] for item, at in zip(problem.data, solution.homes, strict=True)})
    yield _field("objective", objective_line(solution.objective))
    yield _field("bound", solution.bound)
    yield _field("gap", solution.gap)
    yield from _certificate(problem, solution)
    yield _field("modelled_pairs", modelled_pairs(problem))
    by_name = {apps[app]: {sites[site]: why for site, why in found.items()} for app, found in rejected.items() if found}
    yield from _mapping("rejected", by_name)
    yield _field("short", [(apps[app], limit, missing) for app, limit, missing in solution.short])
    yield _field("seconds", round(seconds, 3), last=True)
    yield b"}\n"


def modelled_pairs(problem: Problem) -> int:
    """Round trips between two places that nobody measured."""
    return int((~problem.rtt_measured).sum() + (~problem.site_rtt_measured & ~np.eye(len(problem.sites), dtype=np.bool_)).sum())


def with_homes(problem: Problem, homes: Ints) -> Problem:
    """The problem with its data where a plan put it: what the next decision goes on from."""
    sites = [problem.sites[int(at)].id for at in homes]
    data = (msgspec.structs.replace(item, home=home) for item, home in zip(problem.data, sites, strict=True))
    return replace(problem, data=tuple(data))


def parse_plan(file: str, text: bytes, problem: Problem) -> Solution:
    """A plan for this world as what runs now. Its bound and its costs are not taken over: they are of another day.

    Raises `WorldError` where it is no plan, or names what the world does not have.
    """
    said = _decoded(file, text)
    names = _Names(file, problem)
    instances = names.rows("instances", said.instances, ("app", "site"))
    flows = names.rows("flows", said.flows, ("app", "metro", "site"))
    lost = names.rows("unserved", said.unserved, ("app", "metro"))
    for at, row in enumerate(said.instances):
        if not 0 < row[2] <= COUNT_MAX:
            refuse(file, 0, f"instances[{at}][2]", f"{row[2]} is not allowed; allowed: 1 to {COUNT_MAX}")
    for field, rows in (("flows", said.flows), ("unserved", said.unserved)):
        for at, row in enumerate(rows):
            if not 0.0 <= row[-1] <= 1e12:
                refuse(file, 0, f"{field}[{at}]", f"{row[-1]} is not allowed; allowed: 0 to 1e12 requests per second")
    placed = np.lexsort((instances[1], instances[0]))
    shadow = np.zeros((len(problem.sites), 3))
    if said.certificate is not None:
        for site, price in said.certificate.sites.items():
            shadow[names.index("certificate.sites", "site", site)] = np.maximum(0.0, price)
    return Solution(
        instances=Instances(
            instances[0][placed], instances[1][placed], np.array([row[2] for row in said.instances], dtype=np.int64)[placed]
        ),
        flows=Flows(flows[0], flows[1], flows[2], np.array([row[3] for row in said.flows], dtype=np.float64)),
        unserved=Unserved(lost[0], lost[1], np.array([row[2] for row in said.unserved], dtype=np.float64)),
        homes=names.homes(said.homes),
        objective=Terms(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        short=(),
        shadow=shadow,
    )


class _Names:
    """Names of the file as indices of the problem."""

    def __init__(self, file: str, problem: Problem) -> None:
        self._file, self._problem = file, problem
        self._known = {
            "app": {app.app: at for at, app in enumerate(problem.apps)},
            "site": {site.id: at for at, site in enumerate(problem.sites)},
            "metro": {metro.id: at for at, metro in enumerate(problem.metros)},
            "data": {item.data: at for at, item in enumerate(problem.data)},
        }

    def index(self, field: str, kind: str, name: str) -> int:
        found = self._known[kind].get(name)
        if found is None:
            refuse(self._file, 0, field, f"{shown(name)} is no {kind} of this world; {meant(name, self._known[kind])}")
        return found

    def rows(self, field: str, rows: Sequence[tuple[object, ...]], kinds: tuple[str, ...]) -> list[Ints]:
        """The name columns; no row twice."""
        found = np.empty((len(rows), len(kinds)), dtype=np.int64)
        seen: set[tuple[object, ...]] = set()
        for at, row in enumerate(rows):
            key = row[: len(kinds)]
            for column, (kind, name) in enumerate(zip(kinds, key, strict=True)):
                found[at, column] = self.index(f"{field}[{at}][{column}]", kind, str(name))
            if key in seen:
                refuse(self._file, 0, f"{field}[{at}]", f"{', '.join(map(str, key))} is there twice")
            seen.add(key)
        return [np.ascontiguousarray(found[:, column]) for column in range(len(kinds))]

    def homes(self, homes: Mapping[str, str]) -> Ints:
        """Of all data; what the plan does not name is where the world says."""
        for name in homes:
            self.index(f"homes.{name}", "data", name)
        said = [homes.get(item.data, item.home) for item in self._problem.data]
        return np.array([self.index("homes", "site", site) for site in said], dtype=np.int64)


def _decoded(file: str, text: bytes) -> PlanFile:
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        path = re.search(r" - at `\$\.?([^`]*)`", str(error))
        message = str(error)[: path.start()] if path else str(error)
        unknown = re.search(r"unknown field `(.*)`", message)
        if unknown:
            refuse(file, 0, unknown.group(1), f"is not known here; {meant(unknown.group(1), PlanFile.__struct_fields__)}")
        refuse(file, 0, path.group(1) if path else "", message)
    except msgspec.DecodeError as error:
        _refuse_json(file, text, error)


def _refuse_json(file: str, text: bytes, error: msgspec.DecodeError) -> NoReturn:
    at = re.search(r"byte (\d+)", str(error))
    line = text.count(b"\n", 0, int(at.group(1)) if at else len(text)) + 1
    raise WorldError(file, line, "", f"is no JSON: {error}") from error


def _named(names: list[str], index: Ints) -> list[str]:
    return [names[at] for at in index.tolist()]


def objective_line(terms: Terms) -> ObjectiveLine:
    """J as the file says it."""
    return ObjectiveLine(
        total=terms.total,
        latency=terms.latency,
        late=terms.late,
        unserved=terms.unserved,
        cost=terms.cost,
        move=terms.move,
        home=terms.home,
    )


def _certificate(problem: Problem, solution: Solution) -> Iterator[bytes]:
    """Without a proof, the prices alone: who goes on from the plan decides at them."""
    proof = solution.certificate
    prices = (SitePrices(solution.shadow),) if proof is None else proof.prices
    first, *others = [_site_prices(problem, one) for one in prices]
    yield b'"certificate": {"sites": ' + _encoder.encode(first.sites) + b",\n"
    yield _field("levels", first.levels)
    yield _field("apart", [problem.apps[app].app for app in proof.apart] if proof is not None else [])
    yield _field("others", others)
    yield from _mapping("apps", _app_prices(problem, proof) if proof is not None else {}, last=True)
    yield b"},\n"


def _site_prices(problem: Problem, prices: SitePrices) -> SitePricesLine:
    levels: Levels = {}
    for app, home, level in prices.levels:
        levels.setdefault(problem.apps[app].app, {})[problem.sites[home].id] = level
    named = zip(problem.sites, prices.price.tolist(), strict=True)
    return SitePricesLine(sites={site.id: tuple(row) for site, row in named if any(row)}, levels=levels)


def _app_prices(problem: Problem, proof: Certificate) -> dict[str, object]:
    metros = [metro.id for metro in problem.metros]
    homes: dict[int, dict[str, str]] = {}
    for app, data, site in proof.homes:
        homes.setdefault(app, {})[problem.data[data].data] = problem.sites[site].id
    tangents = {app: tuple(problem.sites[site].id for site in sites) for app, sites in proof.tangents}
    apps: dict[str, object] = {}
    for at, app in enumerate(problem.apps):
        part = slice(int(problem.demand.start[at]), int(problem.demand.start[at + 1]))
        high, low = proof.count_price[at].tolist()
        named = _named(metros, problem.demand.metro[part].astype(np.int64))
        said = zip(named, proof.metro_price[part].tolist(), strict=True)
        prices = {metro: price for metro, price in said if not math.isnan(price)}
        apps[app.app] = AppPrices(
            metro=prices, max_total=high, min_total=low, homes=homes.get(at, {}), tangents=tangents.get(at, ())
        )
    return apps


def _field(name: str, value: object, *, last: bool = False) -> bytes:
    return _encoder.encode(name) + b": " + _encoder.encode(value) + (b"\n" if last else b",\n")


def _rows(name: str, rows: Iterator[tuple[object, ...]]) -> Iterator[bytes]:
    yield _encoder.encode(name) + b": ["
    mark = b"\n"
    for row in rows:
        yield mark + _encoder.encode(row)
        mark = b",\n"
    yield b"],\n"


def _mapping(name: str, values: Mapping[str, object], *, last: bool = False) -> Iterator[bytes]:
    yield _encoder.encode(name) + b": {"
    mark = b"\n"
    for key, value in values.items():
        yield mark + _encoder.encode(key) + b": " + _encoder.encode(value)
        mark = b",\n"
    yield b"}\n" if last else b"},\n"
