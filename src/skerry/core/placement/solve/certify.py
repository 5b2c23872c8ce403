"""The bound of a whole plan: at the prices everybody was decided at, and at those that large apps' other homes would bring.

each app's part at the first prices ─► the choice of homes that the bound allows ─► its own prices, everybody's part there
                                   ─► again, until the choice is the plan's or there are prices enough
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from skerry.core.placement.solve.apart import LOOKED_AT, Chosen, HomeTable, least_of_most
from skerry.core.placement.solve.arrays import floats, ranked
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, Proof, prove_part
from skerry.core.placement.solve.bound import SAFETY
from skerry.core.placement.solve.by_request import kept_at_least
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.prices import Elsewhere
from skerry.core.placement.solve.spread import Spread
from skerry.core.placement.solve.tangents import Tangents
from skerry.core.types.problem import Floats

FAR = 0.25  # of J: a bound that is so far below it is tried at lower prices
FEWER = (0.7, 0.4, 0.15, 0.0)
CLOSE = 0.0195  # of J: nearer than this, no more prices are looked for
GAIN_LEAST = 0.0002  # of J: prices that raise the bound by less are the last
TOGETHER = 2  # homes of an app that have prices together


@dataclass(frozen=True)
class AtPrices:
    """Everybody's part of the bound at one set of prices. `tables`: of the large apps, which `constant` does not have."""

    shadow: Floats
    proofs: Sequence[Proof]
    constant: float
    tables: tuple[HomeTable, ...]


@dataclass(frozen=True)
class Proven:
    """What proves the bound: `apart` are the large apps, the first of the prices has metro and count prices of apps."""

    bound: float
    apart: Ints
    prices: tuple[AtPrices, ...]


@dataclass(frozen=True)
class Plan:
    """What the plan costs, and the homes of the large apps in it."""

    total: float
    homes: tuple[int, ...]


class Prover:
    """Collects prices while they raise the bound."""

    def __init__(self, columns: Columns, apart: Ints, spread: Spread, parts: Sequence[Ints]) -> None:
        self._columns, self._apart, self._spread, self._parts = columns, apart, spread, parts
        self._near = columns.homes_now.copy()
        self._tangents: Tangents = {}
        self._prices: list[AtPrices] = []

    def start(self, prover: Market, proofs: Sequence[Proof]) -> Chosen:
        """The first prices; the homes that go with their proofs are those that tangents are nearest to from now on."""
        for proof in proofs:
            self._near[proof.homes[0]] = proof.homes[1]
            self._tangents |= proof.tangents
        self._prices.append(self._at(prover, proofs, searched=True))
        return self.least()

    def also(self, shadow: Floats) -> Chosen:
        """At other prices, too."""
        market = Market.at(self._columns, self._columns.homes_now, shadow)
        proofs = list(self._spread(partial(prove_part, market, self._near, tangents=self._tangents), self._parts))
        self._prices.append(self._at(market, proofs, searched=False))
        return self.least()

    def forget(self) -> None:
        """The last prices did not help."""
        self._prices.pop()

    def least(self) -> Chosen:
        """What they prove together, and the homes of the large apps that it is reached with: looked at until it is exact."""
        while True:
            constants, tables = self._tables()
            chosen = least_of_most(constants, tables)
            news = [self._look_at(at, home, constants, tables) for at, home in enumerate(chosen.homes)]
            if not any(news):
                return chosen

    def beside(self, chosen: Chosen, plan: Plan) -> list[list[int]]:
        """Of each large app: its chosen home, and where that is not the plan's, the next ones with which the bound is too low.
        Prices for them together serve each of them nearly as well as prices of its own would."""
        constants, tables = self._tables()
        found: list[list[int]] = []
        for at, (home, stays) in enumerate(zip(chosen.homes, plan.homes, strict=True)):
            rest = [table[:, one] for number, (table, one) in enumerate(zip(tables, chosen.homes, strict=True)) if number != at]
            reached = floats((sum(rest, constants)[:, None] + tables[at]).max(axis=0))
            near = [int(one) for one in ranked(reached, TOGETHER) if reached[one] < plan.total * (1.0 - CLOSE)]
            found.append(near if home != stays and home in near else [home])
        return found

    def _tables(self) -> tuple[Floats, list[Floats]]:
        """[prices], and of each large app [prices, S]."""
        constants = np.array([one.constant for one in self._prices])
        return constants, [np.stack([one.tables[at].least for one in self._prices]) for at in range(len(self._apart))]

    def proven(self) -> Proven:
        return Proven(self.least().value, self._apart, tuple(self._prices))

    def _at(self, prover: Market, proofs: Sequence[Proof], *, searched: bool) -> AtPrices:
        """`searched`: what proves apps with whole instances counts for the large ones, too."""
        columns = self._columns
        least = np.zeros(columns.apps)
        for proof in proofs:
            least[proof.apps] = proof.least
        others = np.delete(least, self._apart)
        used = float((columns.capacity_exact * prover.shadow).sum())
        constant = float(others.sum()) - used - SAFETY * (float(np.abs(others).sum()) + used)
        kept = kept_at_least(columns, prover.shadow)
        tables = [HomeTable(columns, int(app), self._near, prover.shadow, float(kept[app])) for app in self._apart]
        for table, app in zip(tables, self._apart.tolist(), strict=True):
            table.at_least(float(least[app]) if searched else -np.inf)
        return AtPrices(prover.shadow, proofs, constant, tuple(tables))

    def _look_at(self, at: int, home: int, constants: Floats, tables: Sequence[Floats]) -> bool:
        """One app's home at all prices, and some that may be next; whether that was news."""
        if all(one.tables[at].exact[home] for one in self._prices):
            return False
        known = np.all([one.tables[at].exact for one in self._prices], axis=0)
        reached = _reached(at, constants, tables)
        for near in sorted({home, *ranked(np.where(known, np.inf, reached), LOOKED_AT).tolist()}):
            for one in self._prices:
                one.tables[at].look_at(near)
        return True


def _reached(at: int, constants: Floats, tables: Sequence[Floats]) -> Floats:
    """[S]: at least what all cost with one app's home there."""
    others = sum((table.min(axis=1) for number, table in enumerate(tables) if number != at), constants)
    return floats((others[:, None] + tables[at]).max(axis=0))


def proven(prover: Prover, first: tuple[Market, Sequence[Proof]], plan: Plan, elsewhere: Elsewhere, most: int) -> Proven:
    """At most so many prices; fewer where the bound is near `plan` or the last ones brought little."""
    chosen = prover.start(*first)
    for _ in range(most - 1):
        if chosen.value >= plan.total * (1.0 - CLOSE) or chosen.homes == plan.homes:
            break
        before, chosen = chosen, prover.also(elsewhere.at(prover.beside(chosen, plan)))
        if chosen.value < before.value + GAIN_LEAST * plan.total:
            if chosen.value <= before.value:
                prover.forget()
            break
    if chosen.value < plan.total * (1.0 - FAR):
        for part in FEWER:  # data that several apps call may move in the bound, but not in the prices
            lower = prover.also(first[0].shadow * part)
            if lower.value > chosen.value:
                chosen = lower
            else:
                prover.forget()
    return prover.proven()
