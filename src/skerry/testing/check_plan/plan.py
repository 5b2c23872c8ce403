"""A plan's rows, J from its definition, and every limit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from skerry.testing.check_plan.bound import bound_of
from skerry.testing.check_plan.files import File
from skerry.testing.check_plan.world import App, Floats, World

TERMS = ("latency", "late", "unserved", "cost", "move", "home")
TOLERANCE = 1e-6


@dataclass
class Finding:
    """Something that is not as it should be. `said`: the plan names it itself, as a limit that could not be met."""

    what: str
    said: bool = False


@dataclass
class Plan:
    """A plan's rows by app."""

    counts: dict[str, dict[str, float]]
    flows: dict[str, list[tuple[str, str, float]]]
    unserved: dict[str, dict[str, float]]
    file: File

    @staticmethod
    def read(path: Path) -> "Plan":
        return Plan.of(msgspec.json.decode(path.read_bytes(), type=File))

    @staticmethod
    def of(file: File) -> "Plan":
        counts: dict[str, dict[str, float]] = {}
        flows: dict[str, list[tuple[str, str, float]]] = {}
        unserved: dict[str, dict[str, float]] = {}
        for app, site, count in file.instances:
            counts.setdefault(app, {})[site] = counts.get(app, {}).get(site, 0) + count
        for app, metro, site, rps in file.flows:
            flows.setdefault(app, []).append((metro, site, rps))
        for app, metro, rps in file.unserved:
            unserved.setdefault(app, {})[metro] = rps
        return Plan(counts, flows, unserved, file)


def check(world: World, plan: Plan, before: Plan | None = None) -> tuple[list[Finding], dict[str, float]]:
    """All that is wrong with it, and J term by term (nothing where the plan speaks of what the world does not have)."""
    if before is not None:
        for name, home in before.file.homes.items():
            world.data[name].home = home
    found = [Finding(f"{name} is no {kind} of the world") for kind, name in _strangers(world, plan)]
    if found:
        return found, {}
    said = {(app, limit) for app, limit, _ in plan.file.short}
    for name, app in world.apps.items():
        found += _demand(name, app, plan)
        found += _counts(world, name, plan, before.counts.get(name, {}) if before is not None else {})
        found += _totals(world, name, plan, said)
    found += _homes(world, plan)
    found += [
        Finding(f"{site}: what is placed there does not fit its nodes") for site in world.sites if not packs(world, plan, site)
    ]
    terms = objective(world, plan, before)
    found += _objective(terms, plan)
    found += _bound(world, plan, before, sum(terms.values()))
    return found, terms


def _strangers(world: World, plan: Plan) -> Iterator[tuple[str, str]]:
    for kind, known, names in (
        ("app", world.apps, {*plan.counts, *plan.flows, *plan.unserved}),
        ("site", world.sites, {site for row in plan.counts.values() for site in row} | set(plan.file.homes.values())),
        ("site", world.sites, {site for rows in plan.flows.values() for _, site, _ in rows}),
        ("metro", world.metros, {metro for rows in plan.flows.values() for metro, _, _ in rows}),
        ("metro", world.metros, {metro for row in plan.unserved.values() for metro in row}),
        ("data", world.data, set(plan.file.homes)),
    ):
        yield from ((kind, name) for name in sorted(names - set(known)))


def _demand(name: str, app: App, plan: Plan) -> Iterator[Finding]:
    """Every request is served or said not to be, and nothing serves more than its instances can."""
    total = dict(plan.unserved.get(name, {}))
    load: dict[str, float] = {}
    for metro, site, rps in plan.flows.get(name, []):
        total[metro] = total.get(metro, 0.0) + rps
        load[site] = load.get(site, 0.0) + rps
        if rps < 0.0:
            yield Finding(f"{name}: {metro} to {site}: {rps} requests per second")
    demand = app.demand
    for metro in sorted({*total, *demand}):
        asked, given = demand.get(metro, 0.0), total.get(metro, 0.0)
        if abs(asked - given) > TOLERANCE * (1.0 + asked):
            yield Finding(f"{name}: {metro} asks {asked}, the plan speaks of {given}")
    for site, rps in load.items():
        can = plan.counts.get(name, {}).get(site, 0) * app.rps_per_instance
        if rps > can * (1.0 + TOLERANCE) + TOLERANCE:
            yield Finding(f"{name} at {site}: serves {rps}, its instances can {can}")


def _counts(world: World, name: str, plan: Plan, now: dict[str, float]) -> Iterator[Finding]:
    """Where it runs, and how many there."""
    app = world.apps[name]
    for site, count in plan.counts.get(name, {}).items():
        why = world.sites[site].barred(app)
        if why and not (why == "cut_off" and count <= now.get(site, 0)):
            yield Finding(f"{name} runs at {site}: {why}")
        if count != int(count) or count <= 0:
            yield Finding(f"{name} at {site}: {count} instances")
        if count < app.min_site:
            yield Finding(f"{name} at {site}: {count} instances, min_site is {app.min_site}")
        if app.max_site is not None and count > app.max_site:
            yield Finding(f"{name} at {site}: {count} instances, max_site is {app.max_site}")


def _totals(world: World, name: str, plan: Plan, said: set[tuple[str, str]]) -> Iterator[Finding]:
    """Totals, regions and losses; a plan may say itself that it could not keep one of these."""
    app, counts = world.apps[name], plan.counts.get(name, {})
    total, most = sum(counts.values()), app.max_total
    served = sum(rps for _, _, rps in plan.flows.get(name, []))
    losses = app.survive_sites
    left = total - sum(sorted(counts.values(), reverse=True)[:losses])
    survives = losses == 0 or left * app.rps_per_instance >= served * (1.0 - TOLERANCE) - TOLERANCE
    regions = {
        region: sum(count for site, count in counts.items() if world.sites[site].region == region) for region in app.region_min
    }
    for limit, holds, numbers in (
        ("min_total", total >= app.min_total, total),
        ("max_total", most is None or total <= most, total),
        ("region_min", all(there >= app.region_min[region] for region, there in regions.items()), regions),
        ("survive_sites", survives, f"{left} instances would be left for {served:g} requests per second"),
    ):
        if not holds:
            yield Finding(f"{name}: {limit} is not kept: {numbers}", (name, limit) in said)


def _homes(world: World, plan: Plan) -> Iterator[Finding]:
    for name, item in world.data.items():
        home = plan.file.homes.get(name, item.home)
        if home == item.home:
            continue
        if not item.movable:
            yield Finding(f"{name} may not move, and has its home at {home}")
        if item.jurisdiction and item.jurisdiction not in world.sites[home].jurisdictions:
            yield Finding(f"{name} has its home at {home}, outside {item.jurisdiction}")
        if world.sites[home].state != "up":
            yield Finding(f"{name} moves to {home}, which is {world.sites[home].state}")


def packs(world: World, plan: Plan, site: str) -> bool:
    """First fit on equal nodes, the largest first: by their largest share of a node, else by the sum of shares."""
    node, nodes = world.sites[site].usable(), world.sites[site].nodes
    there = [(world.apps[app].needs(), row[site]) for app, row in plan.counts.items() if row.get(site)]
    shapes: dict[tuple[float, ...], float] = {}
    for need, count in there:
        shapes[tuple(need)] = shapes.get(tuple(need), 0) + count
    return any(
        _first_fit(node, nodes, sorted(shapes.items(), key=lambda shape: -size(np.array(shape[0]) / np.maximum(node, 1e-9))))
        for size in (np.max, np.sum)
    )


def _first_fit(node: Floats, nodes: int, shapes: Sequence[tuple[tuple[float, ...], float]]) -> bool:
    free = np.tile(node, (nodes, 1))
    for shape, count in shapes:
        need = np.array(shape)
        asks = need > 0
        fits = np.floor(free[:, asks] / need[asks] + 1e-9).min(axis=1) if asks.any() else np.full(nodes, float(count))
        taken = np.clip(count - (np.cumsum(fits) - fits), 0.0, fits)
        if taken.sum() < count:
            return False
        free -= taken[:, None] * need
    return True


def objective(world: World, plan: Plan, before: Plan | None = None) -> dict[str, float]:
    """J, term by term, from its definition."""
    weights = world.weights
    terms: dict[str, float] = dict.fromkeys(TERMS, 0.0)
    for name, app in world.apps.items():
        priority = app.weight()
        flows = plan.flows.get(name, [])
        metro = np.array([world.metro_at[metro] for metro, _, _ in flows], dtype=np.int64)
        site = np.array([world.site_at[site] for _, site, _ in flows], dtype=np.int64)
        rps = np.array([rps for _, _, rps in flows])
        ms = world.rtt[metro, site]
        for data, calls in app.calls.items():
            ms = ms + calls * world.site_rtt[site, world.site_at[plan.file.homes.get(data, world.data[data].home)]]
        terms["latency"] += weights.latency * float(rps @ ms)
        if app.latency_objective_ms is not None:
            terms["late"] += weights.late * priority * float(rps @ np.maximum(0.0, ms - app.latency_objective_ms))
        terms["unserved"] += weights.unserved * priority * sum(plan.unserved.get(name, {}).values())
        counts = plan.counts.get(name, {})
        terms["cost"] += weights.cost * sum(count * world.sites[at].instance_price(app) for at, count in counts.items())
        now = before.counts.get(name, {}) if before is not None else {}
        terms["move"] += weights.move * sum(abs(counts.get(at, 0) - now.get(at, 0)) for at in {*counts, *now})
    moved = [item for name, item in world.data.items() if plan.file.homes.get(name, item.home) != item.home]
    terms["home"] = weights.home * sum(item.size_gib for item in moved)
    return terms


def _objective(terms: dict[str, float], plan: Plan) -> Iterator[Finding]:
    said = plan.file.objective
    total = sum(terms.values())
    for name, value in {**terms, "total": total}.items():
        if abs(value - said.get(name, np.nan)) > TOLERANCE * (1.0 + abs(value)) or name not in said:
            yield Finding(f"objective.{name} is {value:.9g}, the plan says {said.get(name)}")


def _bound(world: World, plan: Plan, before: Plan | None, total: float) -> Iterator[Finding]:
    said = plan.file.bound
    if said is None or plan.file.certificate is None:
        return
    proven = bound_of(world, plan.file.certificate, before.counts if before is not None else {})
    if said > proven + TOLERANCE * (1.0 + abs(proven)):
        yield Finding(f"the certificate proves {proven:.9g}, the plan says its bound is {said:.9g}")
    if said > total * (1.0 + TOLERANCE):
        yield Finding(f"the bound {said:.9g} is above J, {total:.9g}")
    gap = (total - said) / said if said > 0.0 else None
    if gap is not None and abs(gap - (plan.file.gap or 0.0)) > TOLERANCE * (1.0 + gap):
        yield Finding(f"gap is {gap:.6g}, the plan says {plan.file.gap}")
