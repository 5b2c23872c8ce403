"""What every app holds where, and what is free: the mutable middle of a whole decision."""

import numpy as np

from skerry.core.placement.solve.arrays import floats, ordered, sums
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Decided, collect, without
from skerry.core.placement.solve.columns import KINDS, Columns, Instances, by_app_and_site
from skerry.core.placement.solve.plan import Draft, Flows, Unserved
from skerry.core.types.problem import Bools, Floats

PLENTY = 2**31 - 1


class Books:
    """Dense counts per app and site; flows as columns. `free` may be negative until repair is done.

    What single apps decide anew is kept apart and written into the flows by `settle`.
    """

    def __init__(self, columns: Columns, draft: Draft, *, free: Floats | None = None, closed: Bools | None = None) -> None:
        self.columns = columns
        self.counts = np.zeros((columns.apps, columns.sites), dtype=np.int32)
        self.counts[draft.placed.app, draft.placed.site] = draft.placed.count
        self.flows = draft.flows
        self.unserved = draft.unserved
        self.homes = draft.homes.copy()
        self.free = columns.capacity - columns.usage(draft.placed) if free is None else free
        self.closed = (
            np.zeros(columns.sites, dtype=np.bool_) if closed is None else closed
        )  # their nodes take nothing more, whatever the sums say
        self._anew: dict[int, Decided] = {}

    def draft(self) -> Draft:
        """All of it, settled."""
        self.settle()
        app, site = np.nonzero(self.counts)
        placed = by_app_and_site(app.astype(np.int64), site.astype(np.int64), self.counts[app, site].astype(np.int64))
        return Draft(placed, self.flows, self.unserved, self.homes)

    def room(self, app: int) -> Ints:
        """How many instances of the app each site may run, its own included."""
        whole = self.counts[app] + self.more(self.columns.reserve[app])
        return np.maximum(np.minimum(whole, self.columns.room(app)), 0)

    def more(self, reserve: Floats) -> Ints:
        """[S]: how many more instances the sums allow; negative where too many are there already."""
        more = self.holds(reserve, self.free)
        return np.where(self.closed, np.minimum(more, 0), more)

    def holds(self, reserve: Floats, free: Floats) -> Ints:
        """[S]: how many instances go into `free` [S, KINDS]; negative where that is."""
        fits = np.full(self.columns.sites, float(PLENTY))
        for kind in range(KINDS):
            if reserve[kind] > 0.0:
                np.minimum(fits, free[:, kind] / reserve[kind], out=fits)
        fits += 1e-9
        return np.maximum(np.minimum(np.floor(fits), PLENTY), -PLENTY).astype(np.int64)

    def copied(self) -> "Books":
        """As they are now, settled."""
        return Books(self.columns, self.draft(), free=self.free.copy(), closed=self.closed.copy())

    def restore(self, kept: "Books") -> None:
        """Back to what was `copied`."""
        self.counts, self.free, self.closed = kept.counts.copy(), kept.free.copy(), kept.closed.copy()
        self.flows, self.unserved, self.homes = kept.flows, kept.unserved, kept.homes.copy()
        self._anew = {}

    def free_of_sums(self) -> Floats:
        """[S, KINDS]: what is not reserved, whether nodes can hold anything there or not."""
        app, site = np.nonzero(self.counts)
        placed = Instances(app.astype(np.int64), site.astype(np.int64), self.counts[app, site].astype(np.int64))
        return floats(self.columns.capacity - self.columns.usage(placed))

    def over(self) -> Bools:
        """[S]: where more is placed than there is."""
        return np.asarray((self.free < -1e-6).any(axis=1), dtype=np.bool_)

    def set_counts(self, app: int, counts: Ints) -> None:
        """Change what an app holds; its flows are somebody else's matter."""
        change = (counts - self.counts[app]).astype(np.float64)
        self.free -= change[:, None] * self.columns.reserve[app]
        self.counts[app] = counts

    def decide(self, one: Decided) -> None:
        """Put what an app decided in the place of what it held."""
        self.set_counts(one.app, one.counts(self.columns.sites))
        own = self.columns.own[one.app]
        self.homes[own] = one.homes[own]
        self._anew[one.app] = one

    def settle(self) -> None:
        """Write the flows of apps that decided anew."""
        if not self._anew:
            return
        apps = np.array(sorted(self._anew), dtype=np.int64)
        rest = without(
            self.columns, Draft(by_app_and_site(apps[:0], apps[:0], apps[:0]), self.flows, self.unserved, self.homes), apps
        )
        new = collect([self._anew[int(app)] for app in apps], self.columns)
        flow = [np.concatenate((rest.flows[0], new.flows[0])), np.concatenate((rest.flows[1], new.flows[1]))]
        flow.append(np.concatenate((rest.flows[2], new.flows[2])))
        rps = np.concatenate((rest.flows[3], new.flows[3]))
        order = ordered(flow[0], flow[1], flow[2])
        self.flows = Flows(flow[0][order], flow[1][order], flow[2][order], rps[order])
        lost = [np.concatenate((rest.unserved[0], new.unserved[0])), np.concatenate((rest.unserved[1], new.unserved[1]))]
        lost_rps = np.concatenate((rest.unserved[2], new.unserved[2]))
        order = ordered(lost[0], lost[1])
        self.unserved = Unserved(lost[0][order], lost[1][order], lost_rps[order])
        self._anew = {}

    def loads(self) -> Floats:
        """[A, S] rps served."""
        self.settle()
        shape = (self.columns.apps, self.columns.sites)
        keys = self.flows.app * shape[1] + self.flows.site
        return floats(sums(keys, self.flows.rps, shape[0] * shape[1]).reshape(shape))
