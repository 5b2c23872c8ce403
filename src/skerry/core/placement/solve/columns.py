"""A `Problem` as the columns that the method works on: who may run where, what fits, and what an instance costs there."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skerry.core.placement.solve.arrays import floats, ordered, sums, upto
from skerry.core.placement.solve.ask import Ask, Ints
from skerry.core.types.plan import Reason
from skerry.core.types.problem import Bools, Demand, Floats, Problem, ProblemApp, ProblemSite
from skerry.core.types.resources import Resources

KINDS = 3  # cpu, memory, disk
NO_OBJECTIVE_MS = 1e18
SHAPES_KEPT = 1_024  # for how many it is remembered what fits: 3 MB at 340 sites
EVERY_COUNT = 10**9  # "any number of instances" of something that reserves nothing
FREE = -1
BARRED = (
    Reason.DENIED,
    Reason.NOT_ALLOWED,
    Reason.JURISDICTION,
    Reason.SITE_DOWN,
    Reason.SITE_DRAINING,
    Reason.NO_NODES,
    Reason.MISSING_FEATURE,
    Reason.SITE_CUT_OFF,
)  # the first that holds is said


@dataclass(frozen=True)
class Order:
    """Where the rows of the caller's problem went: `sites[i]` is the caller's index of our site i, and so on."""

    sites: Ints
    metros: Ints
    apps: Ints
    pairs: Ints
    data: Ints


@dataclass(frozen=True)
class Instances:
    """Counts as columns, by app, then site."""

    app: Ints
    site: Ints
    count: Ints

    def of(self, apps: int) -> Ints:
        """Where each app's rows start; one more than apps."""
        return np.asarray(np.searchsorted(self.app, np.arange(apps + 1)), dtype=np.int64)


@dataclass(frozen=True)
class Totals:
    """Instances in all that the apps ask for, and those of them with limits per site or region as well."""

    least: Ints  # [A]
    most: Ints  # [A]
    more_limits: tuple[int, ...]


@dataclass(frozen=True)
class Columns:
    """Everything per app and site, in the order of ids."""

    problem: Problem
    order: Order
    rtt: Floats  # [S, M]
    site_rtt: Floats  # [S, S]
    node: Floats  # [S, KINDS] of one node, less the reserve
    capacity: Floats  # [S, KINDS] of all nodes, less the reserve
    reserve: Floats  # [A, KINDS] of one instance
    shapes: Floats  # [shapes, KINDS]: every different reserve
    shape_of: Ints  # [A]
    price: Floats  # [S, KINDS] J per unit of the kind
    policy: NDArray[np.int8]  # [classes, S]: FREE, or why not, in BARRED
    allowed: Bools  # [classes, S]
    policy_of: Ints  # [A] class
    regions: dict[str, Bools]  # masks over sites
    node_counts: Ints  # [S]
    cut_off: Bools  # [S]
    data_index: dict[str, int]
    homes_now: Ints  # [data] site
    own: tuple[Ints, ...]  # per app: movable data that no other app calls
    loose: tuple[Ints, ...]  # per app: movable data that it calls
    calls: tuple[Ints, Ints, Floats]  # app, data, calls per request; by app
    rate: Floats  # [A] rps per instance
    priority: Floats  # [A]
    objective_ms: Floats  # [A], beyond all reach where there is none
    now: Instances
    now_start: Ints

    @property
    def apps(self) -> int:
        return len(self.problem.apps)

    @property
    def sites(self) -> int:
        return len(self.problem.sites)

    def instance_price(self, app: int) -> Floats:
        """J per instance and site."""
        return self.price @ self.reserve[app]

    def running_now(self, app: int) -> Ints:
        counts = np.zeros(self.sites, dtype=np.int64)
        rows = slice(int(self.now_start[app]), int(self.now_start[app + 1]))
        counts[self.now.site[rows]] = self.now.count[rows]
        return counts

    def fits(self, app: int) -> Ints:
        """How many instances an empty site holds, by what fits one of its nodes; policy apart."""
        shape = int(self.shape_of[app])
        found = self._fits.get(shape)
        if found is None:
            found = per_node(self.node, self.shapes[shape]) * self.node_counts
            if len(self._fits) < SHAPES_KEPT:
                self._fits[shape] = found
        return found

    @cached_property
    def _fits(self) -> dict[int, Ints]:
        """By shape, as they are asked for."""
        return {}

    def room(self, app: int) -> Ints:
        """How many instances an otherwise empty site may run; what is cut off keeps at most what it has."""
        room = np.where(self.allowed[self.policy_of[app]], self.fits(app), 0)
        if not self.cut_off.any():
            return room
        return np.where(self.cut_off, np.minimum(room, self.running_now(app)), room)

    def may_run(self, apps: Ints) -> Bools:
        """[rows, S]: policy allows it and an empty node holds it; where new instances may start."""
        classes, rows = np.unique(self.shape_of[apps], return_inverse=True)
        fits = (
            np.stack([per_node(self.node, self.shapes[at]) > 0 for at in classes])
            if len(classes)
            else np.zeros((0, self.sites), bool)
        )
        allowed = self.allowed[self.policy_of[apps]] & ~self.cut_off
        return allowed & fits[np.asarray(rows, dtype=np.int64)]

    def serve_ms(self, app: int, metros: Ints, homes: Ints) -> Floats:
        """[metros, S]: round trip and data calls per request."""
        serve = self.rtt[:, metros].T
        calls = self.problem.apps[app].calls
        return serve + self.data_ms(app, homes) if calls else serve

    def data_table(self, homes: Ints, without: Ints | None = None, apps: Ints | None = None) -> tuple[Ints, Floats]:
        """What data calls add to a request: the row of each app (−1: it calls none), and [rows, S] in ms.

        `without`: data whose calls count nothing. `apps`: only of these.
        """
        app, data, calls = self.calls
        if without is not None:
            counted = np.ones(len(self.problem.data), dtype=np.bool_)
            counted[without] = False
            calls = np.where(counted[data], calls, 0.0)
        if apps is not None:
            some = np.flatnonzero(np.isin(app, apps))
            app, data, calls = app[some], data[some], calls[some]
        callers, start = np.unique(app, return_index=True)
        row = np.full(self.apps, -1, dtype=np.int64)
        row[callers] = upto(len(callers))
        if not len(callers):
            return row, np.zeros((0, self.sites))
        return row, floats(np.add.reduceat(calls[:, None] * self.site_rtt.T[homes[data]], start, axis=0))

    def data_ms(self, app: int, homes: Ints) -> Floats:
        """[S]: what data calls add to a request; `homes` by position in the problem's data."""
        found = np.zeros(self.sites)
        for call in self.problem.apps[app].calls:
            found = found + call.per_request * self.site_rtt[:, homes[self.data_index[call.data]]]
        return found

    def ask(self, app: int, *, homes: Ints, shadow: Floats, room: Ints) -> Ask:
        """The question of one app. `shadow` [S, KINDS] in J per unit."""
        asked = self.problem.apps[app]
        metros, rps = self.problem.demand.of(app)
        return Ask(
            demand=rps,
            serve_ms=self.serve_ms(app, metros.astype(np.int64), homes),
            price=self.instance_price(app),
            shadow=shadow @ self.reserve[app],
            room=room,
            now=self.running_now(app),
            least=np.zeros(self.sites, dtype=np.int64),
            rps_per_instance=asked.rps_per_instance,
            min_total=asked.min_total,
            max_total=asked.max_total,
            min_site=asked.min_site,
            max_site=asked.max_site,
            region_min=tuple((self.region(entry.region), entry.count) for entry in asked.region_min),
            survive_sites=asked.survive_sites,
            latency_objective_ms=asked.latency_objective_ms,
            priority=asked.priority,
            weights=self.problem.weights,
        )

    def ask_for_homes(self, app: int, homes: Ints, shadow: Floats) -> Ask:
        """The question with the movable data that the app calls at no distance."""
        metros = self.problem.demand.of(app)[0].astype(np.int64)
        serve = self.serve_ms(app, metros, homes)
        for data, calls in zip(self.loose[app], self.calls_of(app, self.loose[app]), strict=True):
            serve = serve - calls * self.site_rtt[:, homes[data]]
        return replace(self.ask(app, homes=homes, shadow=shadow, room=self.room(app)), serve_ms=serve)

    def moved_homes_cost(self, app: int, homes: Ints) -> float:
        """J of moving the app's own data."""
        moved = [int(data) for data in self.own[app] if homes[data] != self.homes_now[data]]
        return self.problem.weights.home * sum(self.problem.data[data].size_gib for data in moved)

    @cached_property
    def home_sites(self) -> Bools:
        """[S]: where a home may move to, jurisdictions apart."""
        return np.array([site.state == "up" and site.nodes > 0 for site in self.problem.sites], dtype=np.bool_)

    def in_jurisdiction(self, name: str) -> Bools:
        """[S]"""
        return np.array([name in site.jurisdictions for site in self.problem.sites], dtype=np.bool_)

    @cached_property
    def site_rtt_single(self) -> NDArray[np.float32]:
        """[S, S] ms, in single precision."""
        return self.site_rtt.astype(np.float32)

    @cached_property
    def shortest(self) -> NDArray[np.float32]:
        """[metros, S]: at most ms of any way from a metro over one site to another, but for single precision."""
        found = np.full((self.rtt.shape[1], self.sites), np.inf, dtype=np.float32)
        rtt = self.rtt.astype(np.float32)
        for site in range(self.sites):
            np.minimum(found, rtt[site][:, None] + self.site_rtt_single[site], out=found)
        return found

    @cached_property
    def callers(self) -> Ints:
        """[data]: how many apps call it."""
        return np.asarray(np.bincount(self.calls[1], minlength=len(self.problem.data)), dtype=np.int64)

    @cached_property
    def asked_rps(self) -> Floats:
        """[A]: from all metros."""
        demand = self.problem.demand
        return sums(np.repeat(upto(self.apps), np.diff(demand.start)), demand.rps, self.apps)

    @cached_property
    def totals(self) -> Totals:
        """What `broken` looks at first."""
        apps = self.problem.apps
        return Totals(
            least=np.array([app.min_total for app in apps], dtype=np.int64),
            most=np.array([EVERY_COUNT if app.max_total is None else app.max_total for app in apps], dtype=np.int64),
            more_limits=tuple(
                at for at, app in enumerate(apps) if app.max_site is not None or app.min_site > 1 or app.region_min
            ),
        )

    def calls_of(self, app: int, data: Ints) -> Floats:
        """Calls per request of the app to each of the data."""
        found = {self.data_index[call.data]: call.per_request for call in self.problem.apps[app].calls}
        return np.array([found[int(at)] for at in data], dtype=np.float64)

    @cached_property
    def capacity_exact(self) -> Floats:
        """[S, KINDS]: of all nodes, less the reserve to the last part of a unit; never less than `capacity`."""
        node = np.array([_amounts(site.node) for site in self.problem.sites], dtype=np.float64).reshape(self.sites, KINDS)
        part = np.array([max(0, site.nodes) * (1.0 - site.reserve) for site in self.problem.sites])
        return np.maximum(self.capacity, node * part[:, None])

    def region(self, name: str) -> Bools:
        """Which sites are in it; a region nobody knows has none."""
        return self.regions.get(name, np.zeros(self.sites, dtype=np.bool_))

    def usage(self, placed: Instances) -> Floats:
        """[S, KINDS]: what is reserved at each site."""
        amounts = self.reserve[placed.app] * placed.count[:, None]
        return np.stack([sums(placed.site, floats(amounts[:, kind]), self.sites) for kind in range(KINDS)], axis=1)


def per_node(node: Floats, reserve: Floats) -> Ints:
    """Instances that one node of each site holds: [S]."""
    counts = np.full(len(node), EVERY_COUNT, dtype=np.int64)
    for kind in range(KINDS):
        if reserve[kind] > 0:
            counts = np.minimum(counts, (node[:, kind] // reserve[kind]).astype(np.int64))
    return np.where(counts >= EVERY_COUNT, 1_000_000, counts)


def make_columns(problem: Problem, now: Instances | None = None) -> Columns:
    """`now` in the caller's indices. All rows are in the order of ids, so that the order of input decides nothing."""
    problem, order = _ordered(problem)
    sites = problem.sites
    node = np.array([_usable(site) for site in sites], dtype=np.float64).reshape(len(sites), KINDS)
    counts = np.array([site.nodes for site in sites], dtype=np.float64)
    keys: dict[object, int] = {}
    policy_of = np.array([keys.setdefault(_policy_key(app), len(keys)) for app in problem.apps], dtype=np.int64)
    firsts = [int(np.flatnonzero(policy_of == at)[0]) for at in range(len(keys))]
    named = _Named(sites)
    policy = [named.barred(problem.apps[first]) for first in firsts]
    allowed = np.array([(row == FREE) | (row == BARRED.index(Reason.SITE_CUT_OFF)) for row in policy], dtype=np.bool_)
    running = _reordered(now, order) if now is not None else Instances(upto(0), upto(0), upto(0))
    reserve = np.array([_amounts(app.reserve) for app in problem.apps], dtype=np.float64).reshape(len(problem.apps), KINDS)
    shapes, shape_of = np.unique(reserve, axis=0, return_inverse=True)
    names = sorted({site.region for site in sites})
    site_index = {site.id: at for at, site in enumerate(sites)}
    data_index = {data.data: at for at, data in enumerate(problem.data)}
    calls = _calls(problem, data_index)
    return Columns(
        problem=problem,
        order=order,
        rtt=np.ascontiguousarray(problem.rtt_ms.T),
        site_rtt=problem.site_rtt_ms,
        node=node,
        capacity=node * counts[:, None],
        reserve=reserve,
        shapes=shapes,
        shape_of=np.asarray(shape_of, dtype=np.int64).ravel(),
        price=problem.weights.cost * np.array([_unit_price(site) for site in sites]).reshape(len(sites), KINDS),
        policy=np.array(policy, dtype=np.int8).reshape(len(keys), len(sites)),
        allowed=allowed.reshape(len(keys), len(sites)),
        policy_of=policy_of,
        regions={name: np.array([site.region == name for site in sites], dtype=np.bool_) for name in names},
        node_counts=np.array([max(0, site.nodes) for site in sites], dtype=np.int64),
        cut_off=np.array([site.state == "cut_off" for site in sites], dtype=np.bool_),
        data_index=data_index,
        homes_now=np.array([site_index[data.home] for data in problem.data], dtype=np.int64),
        own=_movable(problem, calls, shared=False),
        loose=_movable(problem, calls, shared=True),
        calls=calls,
        rate=np.array([app.rps_per_instance for app in problem.apps], dtype=np.float64),
        priority=np.array([app.priority for app in problem.apps], dtype=np.float64),
        objective_ms=np.array([_objective(app) for app in problem.apps], dtype=np.float64),
        now=running,
        now_start=running.of(len(problem.apps)),
    )


class _Named:
    """Which sites a name stands for: `place_reason` for all sites at once."""

    def __init__(self, sites: tuple[ProblemSite, ...]) -> None:
        self._none = np.zeros(len(sites), dtype=np.bool_)
        self._places: dict[str, Bools] = {}
        self._jurisdictions: dict[str, Bools] = {}
        self._features: dict[str, Bools] = {}
        for at, site in enumerate(sites):
            for names, of in (
                ((site.id, f"country:{site.country}", f"region:{site.region}"), self._places),
                (site.jurisdictions, self._jurisdictions),
                (site.features, self._features),
            ):
                for name in names:
                    of.setdefault(name, self._none.copy())[at] = True
        states = np.array([site.state for site in sites], dtype=np.str_)
        self._empty = np.array([site.nodes <= 0 for site in sites], dtype=np.bool_)
        self._down, self._draining, self._cut_off = (states == state for state in ("down", "draining", "cut_off"))

    def barred(self, app: ProblemApp) -> NDArray[np.int8]:
        """[S]: FREE, or the first reason why not."""
        found = np.full(len(self._none), FREE, dtype=np.int8)
        some = np.ones(len(self._none), dtype=np.bool_)
        inside = some if app.jurisdiction is None else self._jurisdictions.get(app.jurisdiction, self._none)
        lacking = ~np.logical_and.reduce([some, *(self._features.get(name, self._none) for name in app.features)])
        checks = {
            Reason.DENIED: self._any(app.deny),
            Reason.NOT_ALLOWED: ~self._any(app.allow) if app.allow else self._none,
            Reason.JURISDICTION: ~inside,
            Reason.SITE_DOWN: self._down,
            Reason.SITE_DRAINING: self._draining,
            Reason.NO_NODES: self._empty,
            Reason.MISSING_FEATURE: lacking,
            Reason.SITE_CUT_OFF: self._cut_off,
        }
        for at, reason in enumerate(BARRED):
            found[checks[reason] & (found == FREE)] = at
        return found

    def _any(self, names: tuple[str, ...]) -> Bools:
        return np.logical_or.reduce([self._none, *(self._places.get(name, self._none) for name in names)])


def place_reason(site: ProblemSite, app: ProblemApp) -> Reason | None:
    """Why policy or the site's state keeps the app away. SITE_CUT_OFF keeps only new instances away."""
    names = {site.id, f"country:{site.country}", f"region:{site.region}"}
    checks = (
        (bool(names.intersection(app.deny)), Reason.DENIED),
        (bool(app.allow) and not names.intersection(app.allow), Reason.NOT_ALLOWED),
        (app.jurisdiction is not None and app.jurisdiction not in site.jurisdictions, Reason.JURISDICTION),
        (site.state == "down", Reason.SITE_DOWN),
        (site.state == "draining", Reason.SITE_DRAINING),
        (site.nodes <= 0, Reason.NO_NODES),
        (not set(app.features) <= set(site.features), Reason.MISSING_FEATURE),
        (site.state == "cut_off", Reason.SITE_CUT_OFF),
    )
    return next((reason for holds, reason in checks if holds), None)


def _calls(problem: Problem, data_index: dict[str, int]) -> tuple[Ints, Ints, Floats]:
    rows = [(at, data_index[call.data], call.per_request) for at, app in enumerate(problem.apps) for call in app.calls]
    return (
        np.array([app for app, _, _ in rows], dtype=np.int64),
        np.array([data for _, data, _ in rows], dtype=np.int64),
        np.array([calls for _, _, calls in rows], dtype=np.float64),
    )


def _movable(problem: Problem, calls: tuple[Ints, Ints, Floats], *, shared: bool) -> tuple[Ints, ...]:
    """Of each app; without `shared`, only what no other app calls."""
    app, data, _ = calls
    callers = np.bincount(data, minlength=len(problem.data))
    movable = np.array([item.movable for item in problem.data], dtype=np.bool_)
    mine = np.flatnonzero((shared | (callers[data] == 1)) & movable[data]) if len(data) else upto(0)
    start = np.searchsorted(app[mine], np.arange(len(problem.apps) + 1))
    return tuple(data[mine[start[at] : start[at + 1]]] for at in range(len(problem.apps)))


def _objective(app: ProblemApp) -> float:
    return NO_OBJECTIVE_MS if app.latency_objective_ms is None else app.latency_objective_ms


def _policy_key(app: ProblemApp) -> object:
    return (tuple(sorted(app.allow)), tuple(sorted(app.deny)), app.jurisdiction, tuple(sorted(app.features)))


def _usable(site: ProblemSite) -> tuple[int, ...]:
    """Of one node: whole units, so that what fits here fits whatever way it is counted."""
    return tuple(int(amount * (1.0 - site.reserve) + 1e-6) for amount in _amounts(site.node))


def _amounts(amount: Resources) -> tuple[int, int, int]:
    return (amount.cpu_millicores, amount.memory_mib, amount.disk_mib)


def _unit_price(site: ProblemSite) -> tuple[float, float, float]:
    """Price · ½ per share of a node's cpu and memory; disk is free."""
    cpu, memory, _ = _amounts(site.node)
    return (0.5 * site.price / cpu if cpu else 0.0, 0.5 * site.price / memory if memory else 0.0, 0.0)


def _ordered(problem: Problem) -> tuple[Problem, Order]:
    sites = _by_id([site.id for site in problem.sites])
    metros = _by_id([metro.id for metro in problem.metros])
    apps = _by_id([app.app for app in problem.apps])
    data = _by_id([item.data for item in problem.data])
    demand, pairs = _ordered_demand(problem.demand, apps, metros)
    ordered = replace(
        problem,
        sites=tuple(problem.sites[at] for at in _list(sites)),
        metros=tuple(problem.metros[at] for at in _list(metros)),
        rtt_ms=problem.rtt_ms[np.ix_(metros, sites)],
        site_rtt_ms=problem.site_rtt_ms[np.ix_(sites, sites)],
        apps=tuple(problem.apps[at] for at in _list(apps)),
        demand=demand,
        data=tuple(problem.data[at] for at in _list(data)),
    )
    return ordered, Order(sites, metros, apps, pairs, data)


def _list(positions: Ints) -> list[int]:
    return [int(at) for at in positions]


def _by_id(names: list[str]) -> Ints:
    return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)


def _ordered_demand(demand: Demand, apps: Ints, metros: Ints) -> tuple[Demand, Ints]:
    place = np.empty(len(metros), dtype=np.int64)
    place[metros] = upto(len(metros))
    lengths = np.diff(demand.start)
    owner = np.empty(len(apps), dtype=np.int64)
    owner[apps] = upto(len(apps))
    rows = np.repeat(owner, lengths)
    metro = place[demand.metro.astype(np.int64)]
    pairs = ordered(rows, metro)
    start = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths[apps])))
    return Demand(start=start, metro=metro[pairs].astype(np.int32), rps=demand.rps[pairs]), np.asarray(pairs, dtype=np.int64)


def _reordered(now: Instances, order: Order) -> Instances:
    app, site = np.empty(len(order.apps), dtype=np.int64), np.empty(len(order.sites), dtype=np.int64)
    app[order.apps], site[order.sites] = upto(len(order.apps)), upto(len(order.sites))
    return by_app_and_site(app[now.app], site[now.site], now.count)


def by_app_and_site(app: Ints, site: Ints, count: Ints) -> Instances:
    """Sorted, without empty rows."""
    there = np.flatnonzero(count > 0)
    rows = there[ordered(app[there], site[there])]
    return Instances(app[rows], site[rows], count[rows])
