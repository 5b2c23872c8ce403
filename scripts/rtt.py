#!/usr/bin/env python3
"""Fit the model of round trips to pings, or make a world's table of what pings measured.

    rtt.py fit PINGS SERVERS [--write]     the model's numbers and its cross-validated error by region; --write: into the package
    rtt.py measured PINGS SERVERS > rtt.csv

PINGS has the columns source, destination, min (ms); SERVERS has id, latitude, longitude: as WonderNetwork publishes them.
`measured` prints rows for the packaged cities with a server within 100 km, from the pair's own servers; what is not in it a
world's reader models. Pings may have a licence of their own: only the fitted numbers go into the package.

The fit is by least absolute error (iteratively reweighted least squares), on the least of both directions of each pair:
first one line below and one above 1,000 km for everybody, then for each pair of regions what is left, as a line that counts in
full from 1,000 km on and is drawn towards zero where there are few pairs. Cross-validation leaves servers out, a tenth at a
time: a pair is judged by a model that saw neither of its ends.
"""

import argparse
import csv
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.cities import City, parse_cities_csv
from skerry.core.geo.fitted import FULL_KM, LIGHT_MS_PER_KM
from skerry.core.geo.model import REGIONS, RttModel
from skerry.core.geo.rtt import Points, distances_km

OUT = Path(__file__).resolve().parent.parent / "src/skerry/core/geo/fitted.py"
SAME_PLACE_KM = 1.0
SERVED_KM_MAX = 100.0  # a city's nearest server stands for it up to here
FOLDS = 10
PAIRS_MIN = 30  # of two regions: fewer say nothing
RIDGE = 1.0
CORRECTION_MS_MIN, CORRECTION_SLOPE_MIN = -18.0, -4.0  # so that a longer way is never modelled as a shorter one
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pings:
    """One entry for each pair of servers; `region` by server, an index into `REGIONS`."""

    points: Points
    region: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    km: Floats
    ms: Floats


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "measured"])
    parser.add_argument("pings", type=Path)
    parser.add_argument("servers", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    cities = packaged_cities()
    pings = read(options.pings, options.servers, cities)
    if options.what == "measured":
        print_measured(pings, cities)
        return 0
    model = fit(pings, np.ones(len(pings.ms), dtype=bool))
    report(pings, model)
    if options.write:
        OUT.write_text(source(model), "ascii")
        print(f"written: {OUT}")
    return 0


def packaged_cities() -> list[City]:
    text = files("skerry.data").joinpath("edge-cities.csv").read_text("utf-8")
    return list(parse_cities_csv(text.splitlines()).values())


def read(pings: Path, servers: Path, cities: list[City]) -> Pings:
    """Servers without a position are left out; a server is in the region of the packaged city that is nearest to it."""
    places = [row for row in csv.DictReader(servers.open(encoding="utf-8")) if row["latitude"] and row["longitude"]]
    index = {row["id"]: at for at, row in enumerate(places)}
    lat, lon = (np.array([float(row[name]) for row in places]) for name in ("latitude", "longitude"))
    points = Points(lat=lat, lon=lon, country=("",) * len(places))
    nearest = distances_km(points, Points.of(cities)).argmin(axis=1)
    table = np.full((len(places), len(places)), np.inf)
    for row in csv.DictReader(pings.open(encoding="utf-8")):
        source, destination = index.get(row["source"]), index.get(row["destination"])
        if source is not None and destination is not None:
            table[source, destination] = min(table[source, destination], float(row["min"]))
    table = np.minimum(table, table.T)
    km = distances_km(points, points)
    a, b = np.triu_indices(len(places), 1)
    kept = np.isfinite(table[a, b]) & (km[a, b] > SAME_PLACE_KM)
    a, b = a[kept], b[kept]
    region = np.array([REGIONS.index(cities[at].region) for at in nearest])
    return Pings(points=points, region=region, a=a, b=b, km=km[a, b], ms=table[a, b])


def fit(pings: Pings, used: NDArray[np.bool_]) -> RttModel:
    """From those pairs that are `used`."""
    near = used & (pings.km < FULL_KM)
    far = used & (pings.km >= FULL_KM)
    near_base, near_slope = line(pings.km[near], pings.ms[near])
    far_base, far_slope = line(pings.km[far], pings.ms[far])
    zero = np.zeros((len(REGIONS) + 1, len(REGIONS) + 1))
    model = RttModel(near=(near_base, near_slope), far=(far_base, far_slope), offset_ms=zero, slope_ms=zero.copy())
    rest = pings.ms - modelled(pings, model)
    for here in range(len(REGIONS)):
        for there in range(here, len(REGIONS)):
            mine = far & between(pings, here, there)
            if mine.sum() >= PAIRS_MIN:
                offset, slope = line(pings.km[mine], rest[mine], ridge=RIDGE)
                offset, slope = max(offset, CORRECTION_MS_MIN), max(slope * 1000, CORRECTION_SLOPE_MIN)
                model.offset_ms[[here, there], [there, here]] = round(offset, 1)
                model.slope_ms[[here, there], [there, here]] = round(slope, 2)
    return model


def between(pings: Pings, here: int, there: int) -> NDArray[np.bool_]:
    a, b = pings.region[pings.a], pings.region[pings.b]
    return ((a == here) & (b == there)) | ((a == there) & (b == here))


def line(km: Floats, ms: Floats, *, ridge: float = 0.0) -> tuple[float, float]:
    """Base in ms and ms for each km, by least absolute error; `ridge` draws both towards zero (the second in ms per 1,000 km)."""
    columns = np.stack([np.ones_like(km), km / 1000], axis=1)
    found = np.linalg.lstsq(columns, ms, rcond=None)[0]
    for _ in range(100):
        weight = 1 / np.maximum(np.abs(ms - columns @ found), 0.1)
        left = columns.T @ (columns * weight[:, None]) + ridge * np.eye(2)
        found = np.linalg.solve(left, columns.T @ (weight * ms))
    return round(float(found[0]), 2), round(float(found[1]) / 1000, 5)


def modelled(pings: Pings, model: RttModel) -> Floats:
    return model.ms(pings.km, pings.region[pings.a], pings.region[pings.b])


def report(pings: Pings, model: RttModel) -> None:
    """Errors of pairs whose ends the model never saw, by the region of either end."""
    lines_only, full = np.zeros_like(pings.ms), np.zeros_like(pings.ms)
    fold = np.random.default_rng(0).integers(0, FOLDS, len(pings.region))
    for number in range(FOLDS):
        held = (fold[pings.a] == number) | (fold[pings.b] == number)
        seen = fit(pings, ~held)
        full[held] = modelled(pings, seen)[held]
        plain = RttModel(near=seen.near, far=seen.far, offset_ms=seen.offset_ms * 0, slope_ms=seen.slope_ms * 0)
        lines_only[held] = modelled(pings, plain)[held]
    print(f"{len(pings.region)} servers, {len(pings.ms)} pairs; below {FULL_KM:g} km {model.near[0]} ms + {model.near[1]} ms/km,")
    print(f"above {model.far[0]} ms + {model.far[1]} ms/km, and a line for each pair of regions")
    print("\ncross-validated, median error     by distance alone     with regions")
    print("region    pairs                      ms       %          ms       %    p90 ms")
    for name in (*REGIONS, "all"):
        code = REGIONS.index(name) if name in REGIONS else -1
        mine = (pings.region[pings.a] == code) | (pings.region[pings.b] == code) if code >= 0 else np.ones_like(pings.ms, bool)
        first, second = (np.abs(found[mine] - pings.ms[mine]) for found in (lines_only, full))
        shares = [100 * np.median(error / pings.ms[mine]) for error in (first, second)]
        print(
            f"{name:8} {mine.sum():6}              {np.median(first):10.1f} {shares[0]:7.1f} {np.median(second):11.1f} "
            f"{shares[1]:7.1f} {np.quantile(second, 0.9):9.1f}"
        )


def source(model: RttModel) -> str:
    """The package's module."""

    def rows(table: Floats) -> str:
        return "".join("    (" + ", ".join(f"{value:g}" for value in row) + "),\n" for row in table[:-1, :-1])

    return (
        '"""Written by `scripts/rtt.py fit --write`: what it fitted to the WonderNetwork pings of 2020-07-19."""\n\n'
        f"NEAR = {model.near}  # ms, ms for each km\n"
        f"FAR = {model.far}\n"
        f"LIGHT_MS_PER_KM = {LIGHT_MS_PER_KM}  # in fibre, there and back\n"
        f"FULL_KM = {FULL_KM}  # from here on the regions count in full: below, both ends share most of their way\n"
        "REGIONS = (" + ", ".join(f'"{name}"' for name in REGIONS) + ")  # of rows and columns\n"
        f"OFFSET_MS = (\n{rows(model.offset_ms)})  # fmt: skip\n"
        f"SLOPE_MS = (  # for each 1,000 km\n{rows(model.slope_ms)})  # fmt: skip\n"
    )


def print_measured(pings: Pings, cities: list[City]) -> None:
    """In the format of a made world's rtt.csv, users of a city (`m-lhr`) as its server; a city to itself is left out."""
    km = distances_km(Points.of(cities), pings.points)
    server = km.argmin(axis=1)
    there = [at for at in range(len(cities)) if km[at, server[at]] <= SERVED_KM_MAX]
    known = dict(zip(zip(pings.a.tolist(), pings.b.tolist(), strict=True), pings.ms.tolist(), strict=True))
    print("from,to,rtt_ms,source")
    for here in there:
        for other in there:
            ends = sorted((int(server[here]), int(server[other])))
            if here != other and (ends[0], ends[1]) in known:
                way = f"{cities[here].code},{cities[other].code},{known[ends[0], ends[1]]:.1f},measured"
                print(f"{way}\nm-{way}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
