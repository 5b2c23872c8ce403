"""What a request costs where: many apps at once, instances had by the request."""

import numpy as np
from numpy.typing import NDArray

from skerry.core.placement.solve.arrays import sums
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.columns import NO_OBJECTIVE_MS, Columns
from skerry.core.types.problem import PRIORITY_NEUTRAL, Bools, Floats

Small = NDArray[np.float32]
CHUNK = 2_048  # rows × sites that are looked at together: 3 MB a matrix at 340 sites
SINGLE = 1e-6  # relative: what single precision may err by in a sum of five terms


class Costs:
    """J per request of any app from any metro at every site, shadow prices included.

    `started`: an instance is a move as well, or saves one where the app runs now; what is cut off may keep what it has.
    `without`: data (by position) whose calls count nothing. `apps`: no others are asked for.
    """

    def __init__(
        self,
        columns: Columns,
        homes: Ints,
        shadow: Floats,
        *,
        started: bool = False,
        without: Ints | None = None,
        apps: Ints | None = None,
    ) -> None:
        weights = columns.problem.weights
        self._columns = columns
        self._row, table = columns.data_table(homes, without, apps)
        self._table = table.astype(np.float32)
        self._rtt = np.ascontiguousarray(columns.rtt.T, dtype=np.float32)
        self._latency = np.float32(weights.latency)
        self._late = (weights.late * columns.priority / PRIORITY_NEUTRAL).astype(np.float32)
        self._objective = columns.objective_ms.astype(np.float32)
        self._each = (1.0 / columns.rate).astype(np.float32)
        kinds, first, kind_of = np.unique(
            columns.policy_of * max(1, len(columns.shapes)) + columns.shape_of, return_index=True, return_inverse=True
        )
        price = columns.reserve[first] @ (columns.price + shadow).T
        runs = columns.may_run(first.astype(np.int64)) if len(kinds) else np.zeros((0, columns.sites), dtype=np.bool_)
        self._kind_of = kind_of.ravel()
        self._price = np.where(runs, price + (weights.move if started else 0.0), np.inf).astype(np.float32)  # [kinds, S] J
        self._now: Bools | None = None
        if started and len(columns.now.app):
            self._now = np.zeros((columns.apps, columns.sites), dtype=np.bool_)
            self._now[columns.now.app, columns.now.site] = True
            kept = columns.allowed[columns.policy_of[first]]
            self._kept = np.where(kept, np.maximum(0.0, price - weights.move), np.inf).astype(np.float32)

    def of(self, app: Ints, metro: Ints) -> Small:
        """[rows, S], infinite where policy, features or size forbid it."""
        cost = self.latency_of(app, metro)
        price = self._price[self._kind_of[app]]
        if self._now is not None:
            price = np.where(self._now[app], self._kept[self._kind_of[app]], price)
        cost += price * self._each[app][:, None]
        return cost

    def latency_of(self, app: Ints, metro: Ints) -> Small:
        """[rows, S]: latency and lateness alone."""
        cost = self._rtt[metro]
        row = self._row[app]
        calling = np.flatnonzero(row >= 0)
        if len(calling) == len(app):
            cost += self._table[row]
        elif len(calling):
            cost[calling] += self._table[row[calling]]
        late = np.flatnonzero(self._columns.objective_ms[app] < NO_OBJECTIVE_MS)
        if len(late):
            over = cost[late] - self._objective[app[late], None]
            np.maximum(over, 0.0, out=over)
            over *= self._late[app[late], None]
            if self._latency != 1.0:
                cost *= self._latency
            cost[late] += over
        elif self._latency != 1.0:
            cost *= self._latency
        return cost


def calls_per_request(columns: Columns) -> Floats:
    """[A]: of all data."""
    app, _, calls = columns.calls
    return sums(app, calls, columns.apps)
