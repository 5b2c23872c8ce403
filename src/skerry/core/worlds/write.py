"""A `Problem` as the files of a world directory, so that anybody can read and edit it. Reading them back gives the same."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.core.types.problem import Metro, Problem, ProblemApp, ProblemSite
from skerry.core.types.resources import Resources
from skerry.core.worlds.applines import APPS, DATA, WEIGHTS, AppLine
from skerry.core.worlds.faults import refuse
from skerry.core.worlds.places import (
    METRO_COLUMNS,
    METROS,
    RTT,
    RTT_COLUMNS,
    RTT_OPTIONAL,
    SITES,
)
from skerry.kit.record import encode

SITE_HEAD = (
    "site", "name", "lat", "lon", "country", "region", "jurisdictions", "nodes", "cpu_millicores", "memory_mib", "disk_gib",
    "features", "price", "state", "reserve",
)  # fmt: skip
METRO_HEAD = ("metro", "name", *METRO_COLUMNS[1:])

_encoder = msgspec.json.Encoder()


def format_world(problem: Problem) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Names of files and their lines. Modelled round trips are written too, and marked, so that a reader needs no model."""
    yield SITES, _table(SITE_HEAD, map(_site, problem.sites))
    yield METROS, _table(METRO_HEAD, map(_metro, problem.metros))
    yield RTT, _table((*RTT_COLUMNS, *RTT_OPTIONAL), _trips(problem))
    yield APPS, format_apps(problem)
    yield DATA, (encode(item) + b"\n" for item in problem.data)
    yield WEIGHTS, (_encoder.encode({name: getattr(problem.weights, name) for name in problem.weights.__struct_fields__}), b"\n")


def format_apps(problem: Problem) -> Iterator[bytes]:
    names = [metro.id for metro in problem.metros]
    for index, app in enumerate(problem.apps):
        metros, rps = problem.demand.of(index)
        demand: dict[str, float] = dict(zip((names[int(metro)] for metro in metros), map(float, rps), strict=True))
        yield _encoder.encode(app_line(app, demand)) + b"\n"


def app_line(app: ProblemApp, demand: dict[str, float]) -> AppLine:
    return AppLine(
        app=app.app,
        cpu_millicores=app.reserve.cpu_millicores,
        memory_mib=app.reserve.memory_mib,
        disk_gib=app.reserve.disk_mib / 1024,
        rps_per_instance=app.rps_per_instance,
        demand=demand,
        priority=app.priority,
        min_total=app.min_total,
        max_total=app.max_total,
        min_site=app.min_site,
        max_site=app.max_site,
        region_min={item.region: item.count for item in app.region_min},
        allow=app.allow,
        deny=app.deny,
        jurisdiction=app.jurisdiction,
        features=app.features,
        latency_objective_ms=app.latency_objective_ms,
        survive_sites=app.survive_sites,
        calls={item.data: item.per_request for item in app.calls},
    )


def _site(site: ProblemSite) -> Sequence[object]:
    return (
        site.id, site.name, site.lat, site.lon, site.country, site.region, " ".join(site.jurisdictions), site.nodes,
        *_resources(site.node), " ".join(site.features), site.price, site.state, site.reserve,
    )  # fmt: skip


def _metro(metro: Metro) -> Sequence[object]:
    return metro.id, metro.name, metro.lat, metro.lon, metro.country


def _resources(node: Resources) -> tuple[int, int, str]:
    return node.cpu_millicores, node.memory_mib, repr(node.disk_mib / 1024).removesuffix(".0")


def _trips(problem: Problem) -> Iterator[Sequence[object]]:
    sites = [site.id for site in problem.sites]
    metros = [metro.id for metro in problem.metros]
    both = sorted(set(sites) & set(metros))
    if both:
        refuse(METROS, 0, "metro", f"{both[0]!r} is a site too; rtt.csv could not tell them apart: rename the metro")
    yield from _rows(metros, sites, problem.rtt_ms, problem.rtt_measured)
    yield from _rows(sites, sites, problem.site_rtt_ms, problem.site_rtt_measured)


def _rows(
    here: Sequence[str], there: Sequence[str], ms: NDArray[np.float64], measured: NDArray[np.bool_]
) -> Iterator[Sequence[object]]:
    for line, name in enumerate(here):
        for column, (value, known) in enumerate(zip(ms[line].tolist(), measured[line].tolist(), strict=True)):
            if name != there[column]:
                yield name, there[column], value, "measured" if known else "modelled"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in chain((head,), rows):
        writer.writerow(row)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
