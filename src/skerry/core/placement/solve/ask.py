"""One app's question over sites and metros, and the answer, as arrays."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skerry.core.types.app import PRIORITY_NEUTRAL
from skerry.core.types.problem import Bools, Floats, Weights

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ask:
    """What one app needs decided. M metros × S sites; ties go to the lower index, so give both in the order of their ids.

    `serve_ms[m, s]` is RTT[m, s] + Σ_data calls_per_request · RTT[s, home]. `price[s]` is what one instance adds to J there
    (w.cost · price · ½(cpu share + memory share)), `shadow[s]` what its resources are worth to other apps (0 when nobody
    waits for them). `room[s]`: how many instances of this app the site can hold in all, those it has now included; 0 where
    policy, features or the site's state forbid it. `least[s]` instances have to be there (at most `room`).
    """

    demand: Floats  # [M] rps
    serve_ms: Floats  # [M, S]
    price: Floats  # [S] J per instance
    shadow: Floats  # [S] J per instance
    room: Ints  # [S]
    now: Ints  # [S]
    least: Ints  # [S]
    rps_per_instance: float
    min_total: int = 0
    max_total: int | None = None
    min_site: int = 1
    max_site: int | None = None
    region_min: tuple[tuple[Bools, int], ...] = ()  # a mask over sites, and how many instances there
    survive_sites: int = 0
    latency_objective_ms: float | None = None
    priority: int = PRIORITY_NEUTRAL
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True)
class Choice:
    """Instances per site, who is served where, and each term of J (shadow prices apart) by site.

    `gain[s]`: what J (with shadow prices) would fall by, were one more instance (or the first `min_site`) run at `s` and all
    else left; negative where it would rise, -inf where there is no room. `short`: what could not be met, by the name of the
    limit, and by how many instances.
    """

    counts: Ints  # [S]
    flow_metro: Ints  # [F] ascending
    flow_site: Ints  # [F]
    flow_rps: Floats  # [F] above 0
    unserved: Floats  # [M] rps
    latency: Floats  # [S] J
    late: Floats  # [S] J
    cost: Floats  # [S] J
    move: Floats  # [S] J
    lost: float  # J of unserved demand
    gain: Floats  # [S] J
    short: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> float:
        """This app's part of J."""
        return float(self.latency.sum() + self.late.sum() + self.cost.sum() + self.move.sum() + self.lost)


def latency_cost(serve_ms: Floats, objective_ms: float | None, priority: int, weights: Weights) -> Floats:
    """J per rps served over so many ms: the latency term and the late term."""
    cost = weights.latency * serve_ms
    if objective_ms is not None:
        cost = cost + late_weight(priority, weights) * np.maximum(0.0, serve_ms - objective_ms)
    return cost


def late_weight(priority: int, weights: Weights) -> float:
    """J per rps·ms above the objective."""
    return weights.late * priority / PRIORITY_NEUTRAL


def unserved_cost(priority: int, weights: Weights) -> float:
    """J per rps that is not served."""
    return weights.unserved * priority / PRIORITY_NEUTRAL


def serving_order(ask: Ask, choice: Choice, metro: int) -> Ints:
    """The sites that run the app, in the order in which a request from `metro` should try them."""
    running = np.flatnonzero(choice.counts > 0)
    return running[np.argsort(ask.serve_ms[metro, running], kind="stable")]
