"""What a plan costs at each site, term by term, by today's demand and prices; and what one instance more would change."""

from collections import Counter

import numpy as np

from skerry.core.placement.choose import Question, make_question, units_of
from skerry.core.placement.place import make_case, make_seats
from skerry.core.placement.solve.arrays import sums
from skerry.core.placement.solve.ask import Choice, latency_cost, unserved_cost
from skerry.core.placement.solve.one_app import review
from skerry.core.placement.world import World
from skerry.core.types.app import App, Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.plan import Plan
from skerry.core.types.view_placing import SiteTerms

DIGITS = 2


def site_terms(world: World, app: App, shares: tuple[tuple[Version, float], ...], plan: Plan | None) -> dict[SiteId, SiteTerms]:
    """By site; empty when nothing is asked of the app. Sites that may not run it have their users' way, and no more."""
    case = make_case(world, app, shares, plan)
    if not case.wanted:
        return {}
    had: dict[SiteId, Counter[VersionId]] = {}
    for placement in plan.placements if plan else ():
        had.setdefault(placement.site, Counter())[placement.version] += placement.count
    seats = make_seats(case, had)
    question = make_question(world, app.scale, case.wanted, seats, had)
    for seat in seats:
        seat.fill(had.get(seat.site.id, {}))
    return _terms([seat.site.id for seat in seats], question, units_of(seats))


def _terms(names: list[SiteId], question: Question, units: np.ndarray) -> dict[SiteId, SiteTerms]:
    ask = question.ask
    choice = review(ask)
    served = sums(choice.flow_site, choice.flow_rps, len(names))
    opening = (ask.price + ask.shadow + ask.weights.move) * ask.min_site
    nearest = _nearest(question, choice)
    saves = np.where(np.isfinite(choice.gain), choice.gain + opening, 0.0)
    found: dict[SiteId, SiteTerms] = {}
    for at, name in enumerate(names):
        way = nearest[at]
        found[name] = SiteTerms(
            asked_rps=round(float(ask.demand[at]), 3),
            known=question.known,
            served_rps=round(float(served[at]), 3),
            latency=_round(choice.latency[at]),
            late=_round(choice.late[at]),
            cost=_round(choice.cost[at]),
            shadow=_round(ask.shadow[at] * units[at]),
            saves=_round(max(0.0, float(saves[at]))),
            costs=_round(opening[at]),
            may_run=bool(ask.room[at] > 0),
            nearest=None if way is None else names[way],
            rtt_ms=None if way is None else round(float(question.ground.rtt_ms[at, way]), 1),
            measured=way is not None and bool(question.ground.measured[at, way]),
        )
    return found


def _nearest(question: Question, choice: Choice) -> list[int | None]:
    """By site: which site serves its users best, of those that run the app."""
    ask = question.ask
    running = np.flatnonzero(choice.counts > 0)
    if not len(running):
        return [None] * len(ask.price)
    cost = latency_cost(ask.serve_ms[:, running], ask.latency_objective_ms, ask.priority, ask.weights)
    worth_it = cost.min(axis=1) < unserved_cost(ask.priority, ask.weights)
    return [int(running[at]) if ok else None for at, ok in zip(cost.argmin(axis=1), worth_it, strict=True)]


def _round(value: float) -> float:
    return round(float(value), DIGITS)
