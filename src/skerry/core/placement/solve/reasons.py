"""Why a site does not run an app."""

import numpy as np

from skerry.core.placement.solve.columns import BARRED, FREE, make_columns, per_node
from skerry.core.placement.solve.solution import Solution
from skerry.core.types.plan import Reason
from skerry.core.types.problem import Problem


def rejected(problem: Problem, solution: Solution) -> dict[int, dict[int, Reason]]:
    """By app and site, both by index: policy, state, size, or no room for one more instance.

    A site that neither runs an app nor stands here is not needed: it would cost more than it saves.
    """
    columns = make_columns(problem, solution.instances)
    order, placed = columns.order, columns.now
    free = columns.capacity - columns.usage(placed)
    no_room = np.stack([np.any((reserve > 0) & (free < reserve), axis=1) for reserve in columns.shapes]) if columns.apps else None
    too_large = np.stack([per_node(columns.node, reserve) == 0 for reserve in columns.shapes]) if columns.apps else None
    barred = columns.policy != FREE
    found: dict[int, dict[int, Reason]] = {}
    for app in range(columns.apps):
        assert no_room is not None
        assert too_large is not None
        shape, policy = columns.shape_of[app], int(columns.policy_of[app])
        out = barred[policy] | too_large[shape] | no_room[shape]
        out[placed.site[columns.now_start[app] : columns.now_start[app + 1]]] = False
        reasons: dict[int, Reason] = {}
        for site in np.flatnonzero(out).tolist():
            why = int(columns.policy[policy, site])
            size = Reason.TOO_LARGE if too_large[shape, site] else Reason.NO_CAPACITY
            reasons[int(order.sites[site])] = BARRED[why] if why != FREE else size
        found[int(order.apps[app])] = reasons
    return found
