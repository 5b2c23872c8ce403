"""Everything at once: prices, every app by itself, repair to what sites have, improvement, and the certificate.

columns ─► prices of the crowd ─► each app alone (in parts, by whoever spreads them) ─► full sites relieved ─► apps with limits
anew ─► nodes packed ─► apps far above their bound anew, in the room there is ─► Solution
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, Proof, Spread, draft_of, solve_part
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.columns import KINDS, Columns, make_columns
from skerry.core.placement.solve.homes import best_homes
from skerry.core.placement.solve.prices import (
    COARSE_MS,
    COARSE_STEPS,
    FINE_MS,
    FINE_STEPS,
    Rows,
    app_rows,
    balanced,
    crowd_rows,
    drawn_by_data,
    drawn_rows,
    joined,
    largest,
    spread_cost,
    thinned,
)
from skerry.core.placement.solve.repair import decide_anew, repaired
from skerry.core.placement.solve.solution import Solution, app_totals, finished
from skerry.core.types.problem import Floats, Problem

AGAIN_STEPS = 12  # of prices that are nearly right


@dataclass(frozen=True)
class Settings:
    """How much work a whole plan is worth."""

    priced_alone: int = 150  # the largest apps have rows of their own in the prices
    home_rounds: int = 5  # of homes by prices and prices by homes
    improved: int = 1_500  # apps that decide once more in the room that is left, the farthest above their bound first
    part: int = 256  # apps in a part
    gain_min: float = 0.001  # of an app's J: less is no reason to change what runs


def place_all(
    problem: Problem, current: Solution | None = None, settings: Settings | None = None, spread: Spread = map
) -> Solution:
    """A whole plan. Pure: the same for the same problem in any order of its rows, however `spread` runs the parts.

    `current`: what runs now; the moves of J are counted against it. Raises nothing on a valid problem: what cannot be
    placed is in `unserved` and `short`.
    """
    settings = settings or Settings()
    columns = make_columns(problem, current.instances if current is not None else None)
    priced = shadow_prices(columns, settings)
    prover = Market.at(columns, columns.homes_now, priced.proving)
    market = Market.at(columns, priced.homes, priced.shadow, priced.settled, losses=False)
    chunks = [upto(columns.apps)[start : start + settings.part] for start in range(0, columns.apps, settings.part)]
    solved = list(spread(partial(solve_part, market, prover), chunks))
    proofs = [proof for _, proof in solved]
    books = Books(columns, draft_of(columns, [part for part, _ in solved], priced.homes))
    repaired(books, market)
    improved(books, market, proofs, settings)
    repaired(books, market)
    return finished(columns, books, prover, proofs)


@dataclass(frozen=True)
class Priced:
    """Prices that prove, prices to decide at, and homes of the apps that had a say in them."""

    proving: Floats
    shadow: Floats
    homes: Ints
    settled: Ints


def shadow_prices(columns: Columns, settings: Settings) -> Priced:
    """From all demand together; then with the largest apps, and those that follow their data, by themselves.

    Homes come whole, and a large app that moves its home moves the prices. So the proof is at prices where the homes that were
    wanted in turn all have a part; and of the homes wanted in turn those are kept for which everything costs least.
    """
    shadow = balanced(columns, crowd_rows(columns, upto(0)), np.zeros((columns.sites, KINDS)), COARSE_MS, COARSE_STEPS)
    large = largest(columns, settings.priced_alone)
    drawn = np.setdiff1d(drawn_by_data(columns), large)
    alone = np.union1d(large, drawn)
    crowd = crowd_rows(columns, alone)
    large_moves, large_stays = _by_own_data(columns, large)
    drawn_moves, drawn_stays = _by_own_data(columns, drawn)
    here = columns.homes_now
    stays = joined([crowd, app_rows(columns, large_stays, here), drawn_rows(columns, drawn_stays, here)], columns.sites)
    found: list[tuple[float, int, Ints, Floats]] = []
    parts: list[Rows] = []
    homes = columns.homes_now.copy()
    for at in range(settings.home_rounds if len(large_moves) + len(drawn_moves) else 1):
        homes = _homes_at(columns, alone if at == 0 else large, homes, shadow, at)
        parts.append(joined([app_rows(columns, large_moves, homes), drawn_rows(columns, drawn_moves, homes)], columns.sites))
        whole = joined([stays, parts[-1]], columns.sites)
        shadow = balanced(columns, whole, shadow, FINE_MS if at == 0 else FINE_MS[2:], FINE_STEPS if at == 0 else AGAIN_STEPS)
        found.append((spread_cost(columns, whole, shadow) + _moving_cost(columns, homes), at, homes, shadow))
    _, _, homes, shadow = min(found, key=lambda entry: entry[:2])
    mixed = joined([stays, *(thinned(rows, len(parts)) for rows in parts)], columns.sites)
    proving = balanced(columns, mixed, shadow, FINE_MS[1:], AGAIN_STEPS)
    return Priced(proving, shadow, homes, alone)


def _by_own_data(columns: Columns, apps: Ints) -> tuple[Ints, Ints]:
    """Those whose homes are theirs to move, and the others."""
    moves = np.array([len(columns.own[int(app)]) > 0 for app in apps], dtype=np.bool_)
    return apps[moves], apps[~moves]


def _moving_cost(columns: Columns, homes: Ints) -> float:
    moved = np.flatnonzero(homes != columns.homes_now)
    return columns.problem.weights.home * sum(columns.problem.data[int(data)].size_gib for data in moved)


def _homes_at(columns: Columns, apps: Ints, homes: Ints, shadow: Floats, turn: int) -> Ints:
    """The best homes of each app's own data if instances were had by the request; from the second turn on, every other app."""
    found = homes.copy()
    mine = [int(app) for app in apps if len(columns.own[int(app)]) and len(columns.own[int(app)]) == len(columns.loose[int(app)])]
    for app in [app for at, app in enumerate(mine) if turn == 0 or (at + turn) % 2 == 0]:
        found[columns.own[app]] = best_homes(columns, app, columns.homes_now, shadow)
    return found


def improved(books: Books, market: Market, proofs: Sequence[Proof], settings: Settings) -> None:
    """First what is not served, then apps far above their bound decide again in the room there is, where that lowers J."""
    columns = books.columns
    bound = np.zeros(columns.apps)
    for proof in proofs:
        bound[proof.apps] = proof.least
    total = app_totals(columns, books) + _shadowed(columns, books, market.shadow)
    above = total - bound
    worth = np.flatnonzero(above > settings.gain_min * np.abs(total))
    order = worth[ranked(-above[worth], settings.improved)]
    decide_anew(books, market, order, only_better=lambda app, new: new < total[app] * (1.0 - settings.gain_min))


def _shadowed(columns: Columns, books: Books, shadow: Floats) -> Floats:
    """[A]: what each app's instances cost at shadow prices."""
    return floats(((books.counts @ shadow) * columns.reserve).sum(axis=1))
