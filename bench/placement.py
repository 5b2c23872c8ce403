"""Global placement: how near to the best, how fast, against what others do. `--apps N`: another world; `--large`: 100,000 too.

Worlds are made from the packaged tables (round trips modelled): 340 cities, demand at 70 % of capacity. Baselines place in the
same world, with data in the homes of our plan, and their users are served by the nearest instances with room, as ours are:

static weights   instances in proportion to free capacity, as Karmada divides by free replicas
region counts    the same count in every region, as a multiregion job of Nomad
nearest k        every app in the 3 sites that are best for it alone, whoever else is there
everywhere       every app in every site that policy allows, in equal parts
"""

import argparse
import contextlib
import gc
import multiprocessing
import os
import resource
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from _exact import objective, optimum, sharing_world, small_world, violations
from _measure import Report, median, percentile
from skerry.adapters.forked import forked, processors
from skerry.adapters.worlds import make_problem
from skerry.core.placement.place import place, still_right
from skerry.core.placement.solve.again import place_again
from skerry.core.placement.solve.assign import assign
from skerry.core.placement.solve.batch import Market
from skerry.core.placement.solve.columns import make_columns
from skerry.core.placement.solve.one_app import decide
from skerry.core.placement.solve.whole import place_all
from skerry.core.placement.world import SiteView, World
from skerry.core.policy.shapes import shapes_of
from skerry.core.types.app import Scale
from skerry.core.types.resources import Resources
from skerry.testing.builders import make_app, make_evaluation, make_node, make_site, make_version


def timed(function):
    """What it returns, and its seconds by the clock and of processors (which neighbours on the machine do not lengthen)."""
    gc.collect()
    begun, used = time.perf_counter(), processor_seconds()
    found = function()
    return found, time.perf_counter() - begun, processor_seconds() - used


def processor_seconds():
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def bench_one(report, problem, plan):
    """Every app again by itself, as the running placer asks: at the plan's prices, from what runs now."""
    columns = make_columns(problem, plan.instances)
    shadow = plan.shadow[columns.order.sites]
    homes = np.argsort(columns.order.sites)[plan.homes][columns.order.data]
    market = Market.at(columns, homes, shadow)
    took = []
    for app in range(0, columns.apps, max(1, columns.apps // 1000)):
        ask = columns.ask(app, homes=homes, shadow=market.shadow, room=columns.room(app))
        fresh = replace(ask, now=np.zeros_like(ask.now))
        took.append(min(timed_ms(fresh) for _ in range(2)))
    report.table(
        f"one app, {columns.sites} sites, from nothing (ms)",
        [{"apps": len(took), "p50": percentile(took, 50), "p90": percentile(took, 90), "p99": percentile(took, 99)}],
    )
    report.claim("one app decided, p99", percentile(took, 99), at_most=5.0, unit="ms")


def bench_running(report, problem):
    """The decision of the running platform, whole: sites with their nodes, room, policy, the solver, placements with reasons."""
    draws = np.random.default_rng(7)
    views = tuple(site_view(site) for site in problem.sites)
    names = [view.site.id for view in views]
    users = {name: float(weight) for name, weight in zip(names, draws.pareto(1.2, len(names)), strict=True)}
    took, used, risen, risen_used, kept, looked = [], [], [], [], [], []
    gc.collect()
    gc.freeze()  # else each look begins with a walk over ten thousand apps of other rows, and with nothing in the caches
    for number in range(300):
        some = draws.choice(len(names), size=int(draws.integers(1, 120)), replace=False)
        demand = {names[at]: float(rps) for at, rps in zip(some, draws.pareto(1.1, len(some)) * 20, strict=True)}
        app = make_app(f"app-{number}", scale=Scale(min_per_site=0, rps_per_instance=50.0))
        world = World(sites=views, demand=demand, users=users)
        shares = ((make_version(1, app=f"app-{number}"), 100.0),)
        asked = {"evaluation": make_evaluation(f"app-{number}"), "now_ms": 0}
        plan, first, first_used = timed(partial(place, world, app, shares, parent=None, **asked))
        _, again, _ = timed(partial(place, world, app, shares, parent=plan, **asked))
        moved_world = msgspec.structs.replace(world, demand={name: rps * 1.5 for name, rps in demand.items()})
        _, moved, moved_used = timed(partial(place, moved_world, app, shares, parent=plan, **asked))
        _, look, _ = timed(partial(still_right, World(sites=views[:1], demand=demand), app, shares, plan))
        took.append(first * 1e3)
        used.append(first_used * 1e3)
        risen.append(moved * 1e3)
        risen_used.append(moved_used * 1e3)
        kept.append(again * 1e3)
        looked.append(look * 1e3)
    gc.unfreeze()
    rows = [
        {"": what, "p50": percentile(values, 50), "p90": percentile(values, 90), "p99": percentile(values, 99)}
        for what, values in (
            ("decided from nothing", took),
            ("  of the processor", used),
            ("decided again, demand 1.5 times as much", risen),
            ("  of the processor", risen_used),
            ("kept as it is", kept),
            ("held against one city", looked),
        )
    ]
    report.table(f"running platform: one app, {len(views)} sites (ms)", rows)
    report.claim("running platform: one app decided, p99", percentile(took, 99), at_most=5.0, unit="ms")


def site_view(site):
    """A city of the problem as control knows one, with three of its nodes."""
    node = msgspec.structs.replace(make_node(f"{site.id}-1"), capacity=site.node)
    nodes = tuple(msgspec.structs.replace(node, id=f"{site.id}-{number}") for number in (1, 2, 3))
    place_ = make_site(site.id)
    fields = {name: getattr(site, name) for name in ("country", "region", "lat", "lon")}
    return SiteView(site=msgspec.structs.replace(place_, **fields), nodes=nodes, others=Resources(), shapes=shapes_of(nodes))


def timed_ms(ask):
    begun = time.perf_counter()
    decide(ask)
    return (time.perf_counter() - begun) * 1e3


@contextlib.contextmanager
def memory_watched():
    """Yields a function for the end: the most bytes that this process and its children had together, by a look each while."""
    looking = multiprocessing.get_context("fork").Pipe()
    watcher = multiprocessing.get_context("fork").Process(target=watch_memory, args=(os.getpid(), looking[1]), daemon=True)
    watcher.start()

    def most_bytes():
        looking[0].send(None)
        return looking[0].recv()

    try:
        yield most_bytes
    finally:
        watcher.terminate()
        watcher.join()


def watch_memory(pid, asked):
    """Shared memory counts once (PSS); what this process itself has in common with the others is theirs."""
    found = 0
    while not asked.poll(0.5):
        with contextlib.suppress(OSError, ValueError):  # a child that has just ended
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found = max(found, sum(pss_bytes(one) for one in (pid, *children) if int(one) != os.getpid()))
    asked.send(found)


def pss_bytes(pid):
    return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]) * 1024


def bench_whole(report, problem, seconds_max):
    with memory_watched() as most_bytes:
        plan, seconds, used = timed(lambda: place_all(problem, spread=forked))
        memory_bytes = most_bytes()
    apps = len(problem.apps)
    report.table(
        f"full plan, {apps} apps × {len(problem.sites)} sites, {processors()} processes",
        [
            {
                "seconds": seconds,
                "of processors": used,
                "GiB": memory_bytes / 2**30,
                "instances": int(plan.instances.count.sum()),
                "J": plan.objective.total,
                "bound": plan.bound,
                "gap %": 100 * plan.gap,
                "unserved %": 100 * float(plan.unserved.rps.sum()) / float(problem.demand.rps.sum()),
                "limits short": len(plan.short),
            }
        ],
    )
    report.claim(f"full plan, {apps} apps", seconds, at_most=seconds_max, unit="s")
    report.claim("all its processes together", memory_bytes / 2**30, at_most=4.0, unit="GiB")
    report.claim("gap to the bound", 100 * plan.gap, at_most=2.0, unit="%")
    return plan


def bench_again(report, problem, plan):
    same = place_again(problem, plan)
    report.claim("moves on an unchanged world", same.objective.move / problem.weights.move, at_most=0)
    counts = np.bincount(plan.instances.site, minlength=len(problem.sites))
    site = int(counts.argmax())
    sites = list(problem.sites)
    sites[site] = msgspec.structs.replace(sites[site], state="down")
    dark = replace(problem, sites=tuple(sites))
    looks = [timed(lambda: place_again(dark, plan)) for _ in range(LOSSES)]
    after, seconds, used = looks[0][0], median([look[1] for look in looks]), median([look[2] for look in looks])
    there = plan.instances.site == site
    moved = round(after.objective.move / problem.weights.move)
    report.table(
        f"{sites[site].name} lost",
        [
            {
                "apps there": int(there.sum()),
                "instances there": int(plan.instances.count[there].sum()),
                "instances ended or started": moved,
                "seconds": seconds,
                "the first time": looks[0][1],
                "of processors": used,
                "unserved %": 100 * float(after.unserved.rps.sum()) / float(problem.demand.rps.sum()),
            }
        ],
    )
    report.claim(
        "re-placed after a city is lost, per 10,000 apps there",
        seconds * 10_000 / max(1, int(there.sum())),
        at_most=1.0,
        unit="s",
    )


LOSSES = 5  # times that a city is lost: one is too short a time to go by
BASELINES = ("static weights", "region counts", "nearest k", "everywhere")


def baseline(problem, name, plan):
    """(rps·ms, rps served) of all apps, placed one after the other, the largest first."""
    columns = make_columns(problem)
    homes = np.argsort(columns.order.sites)[plan.homes][columns.order.data]
    free = columns.capacity.copy()
    latency = served = 0.0
    demand = np.add.reduceat(columns.problem.demand.rps, columns.problem.demand.start[:-1])
    for app in np.argsort(-demand, kind="stable"):
        metros, rps = columns.problem.demand.of(int(app))
        reserve, rate = columns.reserve[app], columns.rate[app]
        fits = np.min([free[:, kind] // reserve[kind] for kind in range(3) if reserve[kind] > 0], axis=0)
        room = np.minimum(np.maximum(fits, 0), columns.room(int(app)))
        serve = columns.serve_ms(int(app), metros.astype(np.int64), homes)
        wanted = np.ceil(rps.sum() / rate)
        counts = np.minimum(shares(columns, name, room, serve, rps, wanted), room).astype(np.int64)
        pieces = assign(np.ascontiguousarray(serve.T), rps, counts * rate, 1e9)
        latency += float((pieces.rps * serve[pieces.metro, pieces.site]).sum())
        served += float(pieces.rps.sum())
        free -= counts[:, None] * reserve
    return latency, served


def shares(columns, name, room, serve, rps, wanted):
    open_sites = room > 0
    if not open_sites.any():
        return np.zeros(len(room))
    if name == "static weights":
        return np.ceil(wanted * room / room.sum())
    if name == "everywhere":
        return np.where(open_sites, np.ceil(wanted / open_sites.sum()), 0)
    if name == "nearest k":
        best = np.argsort(np.where(open_sites, rps @ serve, np.inf), kind="stable")[:3]
        return np.where(np.isin(np.arange(len(room)), best) & open_sites, np.ceil(wanted / 3), 0)
    counts = np.zeros(len(room))
    masks = [mask & open_sites for mask in columns.regions.values() if (mask & open_sites).any()]
    for mask in masks:
        counts += np.where(mask, np.ceil(wanted / len(masks) * room / room[mask].sum()), 0)
    return counts


def bench_baselines(report, problem, plan):
    serve = problem.rtt_ms[plan.flows.metro, plan.flows.site].copy()
    index = {data.data: at for at, data in enumerate(problem.data)}
    for app, asked in enumerate(problem.apps):
        for call in asked.calls:
            mine = slice(*np.searchsorted(plan.flows.app, (app, app + 1)))
            serve[mine] += call.per_request * problem.site_rtt_ms[plan.flows.site[mine], plan.homes[index[call.data]]]
    total = float(problem.demand.rps.sum())
    ours = float(plan.flows.rps @ serve) / float(plan.flows.rps.sum())
    rows = [{"who": "ours", "mean ms": ours, "ratio": 1.0, "unserved %": 100 * (1 - float(plan.flows.rps.sum()) / total)}]
    for name in BASELINES:
        latency, served = baseline(problem, name, plan)
        rows.append(
            {
                "who": name,
                "mean ms": latency / served,
                "ratio": ours / (latency / served),
                "unserved %": 100 * (1 - served / total),
            }
        )
    report.table("mean latency weighted by demand, data calls included", rows)
    full = [row for row in rows[1:] if row["unserved %"] <= rows[0]["unserved %"] + 0.1] or rows[1:]
    report.claim("latency against the best baseline that serves everybody", max(row["ratio"] for row in full), at_most=0.9)


def could_keep(problem, plan):
    """Whether some plan keeps all limits and serves as many."""
    served_as_many = float(plan.unserved.rps.sum()) + 1e-6 * float(problem.demand.rps.sum())
    return bool(np.isfinite(optimum(problem, seconds=30.0, unserved_rps_max=served_as_many)[0]))


def bench_exact(report, seeds, world, kind):
    """Worlds of six cities, where the exact optimum of J is known."""
    rows, broken, impossible = [], 0, 0
    for seed in range(seeds):
        problem = world(seed)
        plan = place_all(problem)
        best, least = optimum(problem, seconds=30.0)
        total = objective(problem, plan)
        broken += (
            bool(violations(problem, plan)) or plan.bound > best * (1 + 1e-9) or (not plan.short and total < least * (1 - 1e-6))
        )
        impossible += bool(plan.short) and not could_keep(problem, plan)
        if np.isfinite(best) and not plan.short:
            rows.append((plan.bound / best, total / best))
    bound, above = np.array(rows or [(np.nan, np.nan)]).T
    report.table(
        f"{seeds} {kind} against HiGHS ({len(rows)} with all limits kept, {impossible} that cannot and serve as many)",
        [
            {"": "bound / optimum", "least": float(bound.min()), "median": float(np.median(bound)), "most": float(bound.max())},
            {"": "plan / optimum", "least": float(above.min()), "median": float(np.median(above)), "most": float(above.max())},
        ],
    )
    report.claim(f"{kind} with a broken limit or a bound above the optimum", int(broken), at_most=0)
    report.claim(f"{kind} with all limits kept, where they can be", len(rows), at_least=seeds - impossible)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--large", action="store_true", help="also 100,000 apps")
    parser.add_argument("--running", action="store_true", help="only the running platform's decision about one app")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report = Report(asked.json)
    if asked.running:
        bench_running(report, make_problem(apps=10))
        return report.close()
    bench_exact(report, asked.seeds, small_world, "small worlds")
    bench_exact(report, asked.seeds, sharing_world, "small worlds with shared data")
    problem = make_problem(apps=asked.apps)
    plan = bench_whole(report, problem, 10.0 * asked.apps / 10_000)
    bench_one(report, problem, plan)
    bench_running(report, problem)
    bench_again(report, problem, plan)
    bench_baselines(report, problem, plan)
    if asked.large:
        del problem, plan
        bench_whole(report, make_problem(apps=100_000), 120.0)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
