"""Everything at once: prices, every app by itself, repair to what sites have, improvement, and the certificate.

columns ─► prices of the crowd ─► each app alone (in parts, by whoever spreads them) ─► full sites relieved ─► apps with limits
anew ─► nodes packed ─► shared data where its callers are ─► apps far above their bound anew, in the room there is ─► others leave
for limits that are short ─► in a small world everybody once more ─► Solution
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from skerry.core.placement.solve.apart import first_home
from skerry.core.placement.solve.arrays import floats, ranked, upto
from skerry.core.placement.solve.batch import Market, Proof, app_parts, draft_of, solve_part
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.certify import Plan, Prover, proven
from skerry.core.placement.solve.columns import Columns, Instances, make_columns
from skerry.core.placement.solve.exchange import exchanged
from skerry.core.placement.solve.mend import repaired
from skerry.core.placement.solve.polish import polished
from skerry.core.placement.solve.prices import Giants, shadow_prices, soft_of
from skerry.core.placement.solve.repair import decide_anew
from skerry.core.placement.solve.shared import settle_shared, shared
from skerry.core.placement.solve.solution import Solution, app_totals, finished, in_callers_order
from skerry.core.placement.solve.spread import Spread
from skerry.core.types.problem import Floats, Problem


@dataclass(frozen=True)
class Settings:
    """How much work a whole plan is worth."""

    giants: Giants = field(default_factory=Giants)
    improved: int = 300  # apps that decide once more in the room that is left, the farthest above their bound first
    prices: int = 4  # that the bound is proven at, at most
    priced: int = 60_000  # apps that are looked at for more prices, in all: some seconds
    polished: int = (
        5_000  # apps times sites of a world, at most, in which all decide once more until nobody gains: below a second
    )
    gain_min: float = 0.001  # of an app's J: less is no reason to change what runs
    proves: bool = True  # a bound and its certificate


def place_all(problem: Problem, now: Instances | None = None, settings: Settings | None = None, spread: Spread = map) -> Solution:
    """A whole plan. Pure: the same for the same problem in any order of its rows, however `spread` runs the parts.

    `now`: what runs; the moves of J are counted against it. Raises nothing on a valid problem: what cannot be
    placed is in `unserved` and `short`.
    """
    settings = settings or Settings()
    columns = make_columns(problem, now)
    priced = shadow_prices(columns, settings.giants, spread)
    prover = Market.at(columns, columns.homes_now, priced.proving)
    market = Market.at(columns, priced.homes, priced.shadow, upto(columns.apps), losses=False, soft=soft_of(columns))
    chunks = app_parts(columns)
    solved = list(spread(partial(solve_part, market, prover), chunks))
    proofs = [proof for _, proof in solved]
    books = Books(columns, draft_of(columns, [part for part, _ in solved], priced.homes))
    repaired(books, market)
    if settle_shared(books):
        market = replace(market, homes=books.homes.copy())
    improved(books, market, proofs, settings)
    repaired(books, market)
    exchanged(books, market)
    if columns.apps * columns.sites <= settings.polished:
        polished(books, market)
    settle_shared(books)
    if not settings.proves:
        return in_callers_order(columns, books, priced.proving)
    elsewhere = priced.elsewhere
    plan = Plan(
        float(app_totals(columns, books).sum()), tuple(first_home(columns, int(app), books.homes) for app in elsewhere.apps)
    )
    most = min(settings.prices, 1 + settings.priced // max(1, columns.apps))
    proof = proven(Prover(columns, elsewhere.apps, spread, chunks), (prover, proofs), plan, elsewhere, most)
    return finished(columns, books, priced.proving, proof)


def improved(books: Books, market: Market, proofs: Sequence[Proof], settings: Settings) -> None:
    """Apps far above their bound decide again in the room there is, where that lowers J: those that were searched for, those
    not all served, and those whose data others may have moved. (Apps by the request are where the prices want them; all together
    they would only change places.)"""
    columns = books.columns
    bound, may = np.zeros(columns.apps), np.zeros(columns.apps, dtype=np.bool_)
    for proof in proofs:
        bound[proof.apps] = proof.least
        may[proof.apps] = proof.searched
    books.settle()
    may[books.unserved.app] = True
    may[columns.calls[0][np.isin(columns.calls[1], shared(columns))]] = True
    total = app_totals(columns, books) + _shadowed(columns, books, market.shadow)
    above = total - bound
    worth = np.flatnonzero(may & (above > settings.gain_min * np.abs(total)))
    order = worth[ranked(-above[worth], settings.improved)]
    decide_anew(books, market, order, only_better=lambda app, new: new < total[app] * (1.0 - settings.gain_min))


def _shadowed(columns: Columns, books: Books, shadow: Floats) -> Floats:
    """[A]: what each app's instances cost at shadow prices."""
    return floats(((books.counts @ shadow) * columns.reserve).sum(axis=1))
