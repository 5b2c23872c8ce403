"""The working arrays of one app's search: sites that may run it, metros that ask for it, and what a set of sites costs."""

from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.solve.arrays import floats
from skerry.core.placement.solve.ask import Ask, Ints, latency_cost, unserved_cost
from skerry.core.placement.solve.assign import Pieces, assign
from skerry.core.types.problem import Bools, Floats

COUNT_SLACK = 1e-9  # instances: loads this far above a whole number are rounding


@dataclass(frozen=True)
class State:
    """A set of sites (positions on the desk, ascending), the instances there, and all it costs, shadow prices included."""

    sites: Ints
    counts: Ints
    pieces: Pieces  # sites in it are positions in `sites`
    total: float

    @property
    def instances(self) -> int:
        return int(self.counts.sum())


class Desk:
    """Sites × metros, reduced to what can matter."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        most = ask.room if ask.max_site is None else np.minimum(ask.room, ask.max_site)
        if ask.max_total is not None:
            most = np.minimum(most, ask.max_total)
        self.columns = np.flatnonzero(most >= max(1, ask.min_site))
        self.rows = np.flatnonzero(ask.demand > 0.0)
        self.most = most[self.columns]
        self.least = np.minimum(ask.least[self.columns], self.most)
        self.now = ask.now[self.columns]
        self.demand = ask.demand[self.rows]
        self.rate = ask.rps_per_instance
        self.lost = unserved_cost(ask.priority, ask.weights)
        self.move = ask.weights.move
        serve = np.ascontiguousarray(ask.serve_ms[np.ix_(self.rows, self.columns)].T)
        self.cost = latency_cost(serve, ask.latency_objective_ms, ask.priority, ask.weights)
        self.min_site = max(1, ask.min_site)
        self.fits_one = float(self.demand.sum()) <= self.rate * self.min_site
        self.moved_away = self.move * float(ask.now.sum() - self.now.sum())  # from sites that may not run it any more

        self._price(ask.price + ask.shadow)

    def _price(self, price: Floats) -> None:
        self.price = price[self.columns]
        self.one_more = self.price + self.move  # an instance above those there now
        self.opening = self.running(np.full(len(self.columns), self.min_site)) - self.move * self.now  # the first, against none
        self.rate_price = self.one_more / self.rate  # per request, where instances are full

    def running(self, counts: Floats | Ints) -> Floats:
        """What `counts` instances per site cost: their price and the moves."""
        return floats(self.price * counts) + self.move * np.abs(counts - self.now)

    def counts_for(self, sites: Ints, loads: Floats) -> Ints:
        """The fewest instances that serve the loads; what runs now stays where that is cheaper than to stop it."""
        need = np.ceil(loads / self.rate - COUNT_SLACK).astype(np.int64)
        need = np.where(need > 0, np.maximum(need, self.min_site), 0)
        kept = np.where(self.price[sites] < self.move, self.now[sites], 0)
        kept = np.where(kept >= self.min_site, kept, 0)
        return np.minimum(np.maximum(np.maximum(need, kept), self.least[sites]), self.most[sites])

    def at_prices(self, shadow: Floats) -> "Desk":
        """The same desk at other shadow prices [S], of all sites."""
        desk = copy(self)
        desk._price(self.ask.price + shadow)
        return desk

    def evaluate(self, chosen: Bools) -> State:
        """Everything served from these sites, as many instances as that takes."""
        sites = np.flatnonzero(chosen)
        pieces = assign(self.cost[sites], self.demand, floats(self.most[sites] * self.rate), self.lost)
        counts = self.counts_for(sites, pieces.loads(len(sites)))
        return State(sites, counts, pieces, pieces.cost + self._cost_of(sites, counts))

    def evaluate_counts(self, sites: Ints, counts: Ints) -> State:
        """Everything served by just these instances."""
        pieces = assign(self.cost[sites], self.demand, floats(counts * self.rate), self.lost)
        return State(sites, counts, pieces, pieces.cost + self._cost_of(sites, counts))

    def valued(self, state: State) -> State:
        """A state of another desk with the same sites and metros, at the prices of this one."""
        return replace(state, total=state.pieces.cost + self._cost_of(state.sites, state.counts))

    def all_counts(self, state: State) -> Ints:
        """Instances by position on the desk."""
        counts = np.zeros(len(self.columns), dtype=np.int64)
        counts[state.sites] = state.counts
        return counts

    def with_counts(self, counts: Ints) -> State:
        """`counts` by position on the desk."""
        sites = np.flatnonzero(counts)
        return self.evaluate_counts(sites, counts[sites])

    def add_gains(self, state: State) -> Floats:
        """What J falls by, at most, with one more instance per site (the first `min_site` where there is none)."""
        counts = self.all_counts(state)
        after = np.where(counts > 0, counts + 1, self.min_site)
        return np.where(after <= self.most, self.unlimited_gains(state), -np.inf)

    def unlimited_gains(self, state: State) -> Floats:
        """As `add_gains`, also where there is no room."""
        pieces = state.pieces
        out = np.flatnonzero(pieces.unserved > 0.0)
        metro = np.concatenate((pieces.metro, out))
        rps = np.concatenate((pieces.rps, pieces.unserved[out]))
        paid = np.concatenate((self.cost[state.sites[pieces.site], pieces.metro], np.full(len(out), self.lost)))
        counts = self.all_counts(state)
        after = np.where(counts > 0, counts + 1, self.min_site)
        price = self.running(after) - self.running(counts)
        return profit(paid - self.cost[:, metro], rps, price, floats(self.rate * (after - counts)))

    def _cost_of(self, sites: Ints, counts: Ints) -> float:
        here = self.price[sites] * counts + self.move * np.abs(counts - self.now[sites])
        stopped = self.move * float(self.now.sum() - self.now[sites].sum())
        return float(here.sum()) + stopped + self.moved_away


def profit(better: Floats, rps: Floats, price: Floats, capacity: Floats | float) -> Floats:
    """At most what opening `capacity` rps for `price` saves, per row of `better` (J per rps saved, where positive).

    The least over μ of Σ rps · max(0, better − μ) + capacity · μ, less the price: each μ ≥ 0 bounds the knapsack from above.
    """
    rate = np.maximum(price, 0.0) / capacity
    found = np.maximum(better, 0.0) @ rps
    for part in (0.5, 1.0):
        mu = part * rate
        found = np.minimum(found, np.maximum(better - mu[:, None], 0.0) @ rps + mu * capacity)
    return found - price
