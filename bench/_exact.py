"""The exact optimum of a small placement problem, by HiGHS, and what a plan has to keep.

Written from the definition of J alone; shares no code with the method.
"""

from dataclasses import replace
from itertools import combinations, product

import msgspec
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from skerry.adapters.worlds import make_problem
from skerry.core.types.resources import Resources

KINDS = ("cpu_millicores", "memory_mib", "disk_mib")
SMALL_LOAD = 0.5  # of the capacity of small worlds: room for losses in most of them, and whole numbers still matter

SMALL = Resources(cpu_millicores=50, memory_mib=64, disk_mib=16)


def small_world(seed):
    """Six cities and eight apps, each of which enough cities can run: without rules that these cannot meet, else small."""
    problem = make_problem(
        cities=6, apps=8, seed=seed, load=SMALL_LOAD, nodes_of_london=30 + seed % 40, node_scale=0.02 + 0.01 * (seed % 5)
    )
    return replace(problem, apps=tuple(possible(problem, app) for app in problem.apps))


SHARED = 0.6  # of the apps call data of another one


def sharing_world(seed):
    """The same, with data that two or three apps call, all data anywhere."""
    problem = make_problem(
        cities=6,
        apps=8,
        seed=seed,
        load=SMALL_LOAD,
        nodes_of_london=30 + seed % 40,
        node_scale=0.02 + 0.01 * (seed % 5),
        shared=SHARED,
    )
    homes = np.random.default_rng(seed).integers(len(problem.sites), size=len(problem.data))
    data = [msgspec.structs.replace(one, home=problem.sites[home].id) for one, home in zip(problem.data, homes, strict=True)]
    return replace(problem, apps=tuple(possible(problem, app) for app in problem.apps), data=tuple(data))


def possible(problem, app):
    def there():
        return [site for site in problem.sites if most(site, app) > 0]

    if len(there()) <= app.survive_sites:
        app = msgspec.structs.replace(app, allow=(), deny=(), features=(), jurisdiction=None)
    if len(there()) <= app.survive_sites:
        app = msgspec.structs.replace(app, reserve=SMALL)
    regions = {site.region for site in there()}
    return msgspec.structs.replace(app, region_min=tuple(entry for entry in app.region_min if entry.region in regions))


def may_run(site, app, now=0):
    names = {site.id, f"country:{site.country}", f"region:{site.region}"}
    return (
        not names & set(app.deny)
        and (not app.allow or bool(names & set(app.allow)))
        and (app.jurisdiction is None or app.jurisdiction in site.jurisdictions)
        and (site.state == "up" or (site.state == "cut_off" and now > 0))
        and set(app.features) <= set(site.features)
        and site.nodes > 0
    )


def usable(site):
    """Of one node, by kind."""
    return [int(getattr(site.node, kind) * (1 - site.reserve) + 1e-6) for kind in KINDS]


def most(site, app, now=0):
    """Instances that the site's nodes hold, were it empty."""
    if not may_run(site, app, now):
        return 0
    fits = [
        have // getattr(app.reserve, kind)
        for have, kind in zip(usable(site), KINDS, strict=False)
        if getattr(app.reserve, kind) > 0
    ]
    count = min(fits, default=10**6) * site.nodes
    count = min(count, now) if site.state == "cut_off" else count
    return count if app.max_site is None else min(count, app.max_site)


def price(problem, site, app):
    cpu, memory = app.reserve.cpu_millicores, app.reserve.memory_mib
    return problem.weights.cost * site.price * 0.5 * (cpu / site.node.cpu_millicores + memory / site.node.memory_mib)


def request_cost(problem, app, serve_ms):
    late = problem.weights.late * app.priority / 50 if app.latency_objective_ms is not None else 0.0
    return problem.weights.latency * serve_ms + late * np.maximum(0.0, serve_ms - (app.latency_objective_ms or 0.0))


def may_home(problem, data):
    sites = {site.id: at for at, site in enumerate(problem.sites)}
    if not data.movable:
        return [sites[data.home]]
    return [
        at
        for at, site in enumerate(problem.sites)
        if site.id == data.home
        or (site.state == "up" and site.nodes > 0 and (data.jurisdiction is None or data.jurisdiction in site.jurisdictions))
    ]


class Model:
    """Rows and columns of a mixed-integer program."""

    def __init__(self):
        self.cost, self.low, self.high, self.whole = [], [], [], []
        self.rows, self.columns, self.values, self.least, self.greatest = [], [], [], [], []

    def variable(self, cost, low=0.0, high=np.inf, whole=False):
        self.cost.append(cost)
        self.low.append(low)
        self.high.append(high)
        self.whole.append(int(whole))
        return len(self.cost) - 1

    def row(self, terms, least, greatest):
        for column, value in terms:
            self.rows.append(len(self.least))
            self.columns.append(column)
            self.values.append(value)
        self.least.append(least)
        self.greatest.append(greatest)

    def solve(self, seconds):
        matrix = coo_matrix((self.values, (self.rows, self.columns)), shape=(len(self.least), len(self.cost))).tocsr()
        return milp(
            np.array(self.cost) / self.scale(),
            constraints=LinearConstraint(matrix, self.least, self.greatest),
            integrality=self.whole,
            bounds=Bounds(self.low, self.high),
            options={"mip_rel_gap": 1e-6, "time_limit": seconds},
        )

    def scale(self):
        return max(1.0, float(np.median(np.abs(self.cost))))


def optimum(problem, now=None, seconds=60.0, unserved_rps_max=np.inf):
    """(J, a bound of it) of the best plan that keeps everything but packing on single nodes; (inf, inf) if there is none."""
    model, sites = Model(), range(len(problem.sites))
    unserved = []
    index = {data.data: at for at, data in enumerate(problem.data)}
    homes, used = {}, [[[] for _ in KINDS] for _ in sites]
    home_at = {site.id: at for at, site in enumerate(problem.sites)}
    for at, data in enumerate(problem.data):
        moved = problem.weights.home * data.size_gib
        homes[at] = {s: model.variable(0.0 if s == home_at[data.home] else moved, 0, 1, True) for s in may_home(problem, data)}
        model.row([(column, 1) for column in homes[at].values()], 1, 1)
    for a, app in enumerate(problem.apps):
        metros, rps = problem.demand.of(a)
        runs = [now[a][s] if now is not None else 0 for s in sites]
        x = []
        for s in sites:
            top = most(problem.sites[s], app, runs[s])
            x.append(model.variable(price(problem, problem.sites[s], app), 0, top, True))
            up, down = model.variable(problem.weights.move), model.variable(problem.weights.move)
            model.row([(x[s], 1), (up, -1), (down, 1)], runs[s], runs[s])
            if app.min_site > 1:
                opened = model.variable(0.0, 0, 1, True)
                model.row([(x[s], 1), (opened, -app.min_site)], 0, np.inf)
                model.row([(x[s], 1), (opened, -top)], -np.inf, 0)
            for kind, name in enumerate(KINDS):
                used[s][kind].append((x[s], getattr(app.reserve, name)))
        called = [index[call.data] for call in app.calls]
        choices = list(product(*(homes[data] for data in called)))
        flows = {}
        for c, choice in enumerate(choices):
            data_ms = sum(
                (call.per_request * problem.site_rtt_ms[:, h] for call, h in zip(app.calls, choice, strict=False)),
                np.zeros(len(problem.sites)),
            )
            for i, m in enumerate(metros):
                cost = request_cost(problem, app, problem.rtt_ms[m] + data_ms)
                for s in sites:
                    flows[c, i, s] = model.variable(cost[s])
        for i, d in enumerate(rps):
            lost = model.variable(problem.weights.unserved * app.priority / 50)
            unserved.append((lost, 1))
            model.row([(flows[c, i, s], 1) for c in range(len(choices)) for s in sites] + [(lost, 1)], d, d)
            for at, data in enumerate(called):
                for h, column in homes[data].items():
                    through = [(flows[c, i, s], 1) for c, choice in enumerate(choices) if choice[at] == h for s in sites]
                    model.row([*through, (column, -d)], -np.inf, 0)
        for s in sites:
            here = [(flows[c, i, s], 1) for c in range(len(choices)) for i in range(len(rps))]
            model.row([*here, (x[s], -app.rps_per_instance)], -np.inf, 0)
        model.row([(column, 1) for column in x], app.min_total, np.inf if app.max_total is None else app.max_total)
        for entry in app.region_min:
            model.row([(x[s], 1) for s in sites if problem.sites[s].region == entry.region], entry.count, np.inf)
        for gone in combinations(sites, min(app.survive_sites, len(problem.sites))) if app.survive_sites else ():
            left = [(x[s], app.rps_per_instance) for s in sites if s not in gone]
            model.row([*left, *((column, -1) for column in flows.values())], 0, np.inf)
    for s, site in enumerate(problem.sites):
        for kind, have in enumerate(usable(site)):
            model.row(used[s][kind], -np.inf, have * max(0, site.nodes))
    model.row(unserved, -np.inf, unserved_rps_max)
    found = model.solve(seconds)
    if found.x is None:
        return np.inf, np.inf
    return float(found.fun) * model.scale(), float(found.mip_dual_bound) * model.scale()


def counts_of(problem, solution):
    counts = np.zeros((len(problem.apps), len(problem.sites)), dtype=int)
    np.add.at(counts, (solution.instances.app, solution.instances.site), solution.instances.count)
    return counts


def violations(problem, solution, now=None):
    """Every hard constraint that the plan breaks; limits that it says it could not meet are its own business."""
    found, counts = [], counts_of(problem, solution)
    short = {(app, name) for app, name, _ in solution.short}
    for a, app in enumerate(problem.apps):
        mine = solution.flows.app == a
        metros, rps = problem.demand.of(a)
        asked = np.zeros(len(problem.metros))
        asked[metros] = rps
        served = np.bincount(solution.flows.metro[mine], solution.flows.rps[mine], len(problem.metros))
        out = solution.unserved.app == a
        lost = np.bincount(solution.unserved.metro[out], solution.unserved.rps[out], len(problem.metros))
        if not np.allclose(served + lost, asked, rtol=1e-6, atol=1e-6):
            found.append(f"{app.app}: demand does not add up")
        load = np.bincount(solution.flows.site[mine], solution.flows.rps[mine], len(problem.sites))
        if np.any(load > counts[a] * app.rps_per_instance * (1 + 1e-6) + 1e-6):
            found.append(f"{app.app}: more served than instances can")
        for s, site in enumerate(problem.sites):
            if counts[a, s] > most(site, app, now[a][s] if now is not None else 0):
                found.append(f"{app.app} at {site.id}: {counts[a, s]} instances")
            if 0 < counts[a, s] < app.min_site:
                found.append(f"{app.app} at {site.id}: below min_site")
        total = counts[a].sum()
        left = total - np.sort(counts[a])[::-1][: app.survive_sites].sum()
        checks = {
            "min_total": total >= app.min_total,
            "max_total": app.max_total is None or total <= app.max_total,
            "survive_sites": app.survive_sites == 0 or left * app.rps_per_instance >= served.sum() * (1 - 1e-6) - 1e-6,
            "region_min": all(
                sum(counts[a, s] for s, site in enumerate(problem.sites) if site.region == entry.region) >= entry.count
                for entry in app.region_min
            ),
        }
        found += [f"{app.app}: {name}" for name, holds in checks.items() if not holds and (a, name) not in short]
    for d, data in enumerate(problem.data):
        if int(solution.homes[d]) not in may_home(problem, data):
            found.append(f"{data.data}: home")
    for s, site in enumerate(problem.sites):
        if not packs(site, [(app.reserve, counts[a, s]) for a, app in enumerate(problem.apps) if counts[a, s]]):
            found.append(f"{site.id}: does not pack")
    return found


def packs(site, instances):
    """First fit, the largest first, one instance at a time."""
    nodes = [usable(site) for _ in range(max(0, site.nodes))]
    node = np.maximum(usable(site), 1)
    for reserve, count in sorted(
        instances, key=lambda one: -max(getattr(one[0], kind) / node[at] for at, kind in enumerate(KINDS))
    ):
        need = [getattr(reserve, kind) for kind in KINDS]
        first = 0
        for _ in range(count):
            while first < len(nodes) and any(have < want for have, want in zip(nodes[first], need, strict=False)):
                first += 1
            if first == len(nodes):
                return False
            nodes[first] = [have - want for have, want in zip(nodes[first], need, strict=False)]
    return True


def objective(problem, solution, now=None):
    """J, from the definition."""
    counts, total = counts_of(problem, solution), 0.0
    index = {data.data: at for at, data in enumerate(problem.data)}
    sites = {site.id: at for at, site in enumerate(problem.sites)}
    before = np.zeros_like(counts) if now is None else now
    for a, app in enumerate(problem.apps):
        mine = solution.flows.app == a
        metro, site, rps = solution.flows.metro[mine], solution.flows.site[mine], solution.flows.rps[mine]
        serve = problem.rtt_ms[metro, site]
        for call in app.calls:
            serve = serve + call.per_request * problem.site_rtt_ms[site, solution.homes[index[call.data]]]
        total += float(rps @ request_cost(problem, app, serve))
        total += problem.weights.unserved * app.priority / 50 * float(solution.unserved.rps[solution.unserved.app == a].sum())
        total += sum(price(problem, problem.sites[s], app) * counts[a, s] for s in np.flatnonzero(counts[a]))
    total += problem.weights.move * float(np.abs(counts - before).sum())
    moved = [data.size_gib for d, data in enumerate(problem.data) if int(solution.homes[d]) != sites[data.home]]
    return total + problem.weights.home * sum(moved)
