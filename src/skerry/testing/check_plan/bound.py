"""The lower bound of J that a certificate proves, from its prices and the world alone.

For any prices of sites (λ), metros (v) and counts (high, low), all at least 0 (a v that is not said is what a request costs at
its cheapest site, instances by the request):

    J ≥ Σ_app b(app) − Σ_site λ · capacity
    b = Σ_metro demand · min(v, lost) + low · min_total − high · max_total + move · Σ now − Σ_site π
    π = max(0, most over whole x from min_site to what fits, of  knapsack(rps_per_instance · x) − p x − move (|x − now| − now))

p: an instance's price, its resources at λ, + high − low. knapsack(c): the most of Σ f (v − cost) with f ≤ demand, Σ f ≤ c.
An app that calls data which may move is bounded over all homes: b above holds for the homes its prices are for; for all
others instances count by the request, and each datum counts its share of the calls of a request that has all of them there.

For several data and a latency objective lateness counts by a tangent: late are metros that are so with the data as far away as
its homes say, or as the homes said for tangents are on average; or only the data called most counts, the others at no distance.

Several prices of sites prove together, where they say more of one choice of homes than of another: for the apps that stand
apart, J is at least the least, over all their homes, of the most over the prices.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from skerry.testing.check_plan.files import AppPrices, Certificate
from skerry.testing.check_plan.world import App, Floats, World


def bound_of(world: World, certificate: Certificate, now: dict[str, dict[str, float]]) -> float:
    """Raises KeyError or ValueError where the certificate names what is not there, or a price is below 0."""
    callers: dict[str, int] = {}
    for app in world.apps.values():
        for data in app.calls:
            callers[data] = callers.get(data, 0) + 1
    every = [certificate, *certificate.others]
    constants = np.zeros(len(every))
    tables = {name: np.zeros((len(every), len(world.sites))) for name in certificate.apart}
    for number, prices in enumerate(every):
        price = np.zeros((len(world.sites), 3))
        for site, row in prices.sites.items():
            price[world.site_at[site]] = row
        if price.min(initial=0.0) < 0.0:
            raise ValueError("a site price is below 0")
        capacity = np.array([site.node * site.nodes * (1.0 - site.reserve) for site in world.sites.values()])
        constants[number] = -float((price * capacity).sum())
        for name, app in world.apps.items():
            proof = certificate.apps.get(name, AppPrices())
            part = _App(world, app, price, now.get(name, {}))
            least = part.bound(proof if number == 0 else AppPrices(homes=proof.homes, tangents=proof.tangents), callers)
            if name in tables:
                tables[name][number] = np.maximum(least, part.by_home(prices.levels.get(name, {}), proof, callers))
            else:
                constants[number] += least
    return least_of_most(constants, list(tables.values()))


def least_of_most(constants: Floats, tables: list[Floats]) -> float:
    """The least, over a home for each app, of the most over prices of the constant and the homes' values: the least of all that
    a choice of the first homes can still come to is looked at first."""
    rest = [constants * 0.0]
    for table in reversed(tables):
        rest.insert(0, rest[0] + table.min(axis=1))
    waiting: list[tuple[float, int, int, tuple[float, ...]]] = [(float((constants + rest[0]).max()), 0, 0, tuple(constants))]
    pushed = 0
    while True:
        value, _, depth, total = heapq.heappop(waiting)
        if depth == len(tables):
            return value
        after = np.array(total)[:, None] + tables[depth]
        for home in np.flatnonzero(np.isfinite(after).all(axis=0)):
            pushed += 1
            reached = float((after[:, home] + rest[depth + 1]).max())
            heapq.heappush(waiting, (reached, pushed, depth + 1, tuple(after[:, home].tolist())))


class _App:
    """One app's part."""

    def __init__(self, world: World, app: App, prices: Floats, now: dict[str, float]) -> None:
        self.world, self.app = world, app
        sites = list(world.sites.values())
        self.now = np.array([now.get(site.site, 0) for site in sites], dtype=np.float64)
        need = app.needs()
        asks = need > 0
        self.most = np.zeros(len(sites))
        for at, site in enumerate(sites):
            why = site.barred(app)
            fits = float(np.floor(site.usable()[asks] / need[asks]).min()) * site.nodes if asks.any() else 1e6 * site.nodes
            self.most[at] = 0.0 if why not in ("", "cut_off") else min(fits, self.now[at]) if why else fits
        for limit in (app.max_site, app.max_total):
            self.most = self.most if limit is None else np.minimum(self.most, limit)
        self.least = max(1, app.min_site)
        self.open = np.flatnonzero(self.most >= self.least)
        self.price = np.array([world.weights.cost * site.instance_price(app) for site in sites]) + prices @ need
        self.priority = app.weight()
        self.lost = world.weights.unserved * self.priority
        demand = {metro: rps for metro, rps in app.demand.items() if rps > 0.0}
        self.metros = list(demand)
        self.rps = np.array(list(demand.values()), dtype=np.float64)
        self.rtt = world.rtt[[world.metro_at[metro] for metro in self.metros]].reshape(len(self.metros), len(sites))

    def bound(self, proof: AppPrices, callers: dict[str, int]) -> float:
        data, calls = self.world.data, self.app.calls
        loose = [name for name in sorted(calls) if data[name].movable]
        homes = {name: proof.homes.get(name, data[name].home) for name in loose}
        stays = sum((calls[name] * self._to(data[name].home) for name in calls if name not in loose), np.zeros(len(self.most)))
        constant, price = self._counted(proof.max_total, proof.min_total)
        away = sum((calls[name] * self._to(homes[name]) for name in loose), stays)
        here = constant + self._at(price, away, proof.metro)
        if not loose:
            return here
        question = _Homes(
            homes, {name: calls[name] for name in loose}, {name: self._moving(name, callers[name]) for name in loose}
        )
        here += sum(float(question.moves[name][self.world.site_at[homes[name]]]) for name in loose)
        curved = len(loose) > 1 and self.app.latency_objective_ms is not None
        tangents = [stays, away] if curved else [stays]
        if curved and proof.tangents:
            between = np.mean([self._to(home) for home in proof.tangents], axis=0)
            tangents.append(stays + sum(question.calls.values()) * between)
        constant += self._by_count(price)
        found = [self._over_homes(here, constant, self._by_request(price, stays, near, question), question) for near in tangents]
        if curved:
            found.append(min(here, constant + self._first_alone(price, stays, question)))
        return max(found)

    def _first_alone(self, price: Floats, stays: Floats, question: "_Homes") -> float:
        """Over all homes of the data called most, the others at no distance."""
        first = min(question.calls, key=lambda name: (-question.calls[name], name))
        alone = self._by_request(price, stays, stays, _Homes({}, {first: question.calls[first]}, question.moves))
        return float((alone + question.moves[first]).min())

    def by_home(self, levels: dict[str, float], proof: AppPrices, callers: dict[str, int]) -> Floats:
        """[S]: with its most called data there, wherever the others are. Where a level is said: the sites beside that home cost
        at least as much, since the app may run no more at each than `most`."""
        data, calls = self.world.data, self.app.calls
        loose = {name: calls[name] for name in sorted(calls) if data[name].movable}
        first = min(loose, key=lambda name: (-loose[name], name))
        others = {name: call for name, call in loose.items() if name != first}
        stays = sum((calls[name] * self._to(data[name].home) for name in calls if name not in loose), np.zeros(len(self.most)))
        moves = {name: self._moving(name, callers[name]) for name in loose}
        total, least = sum(loose.values()), np.full(len(self.most), -np.inf)
        away = sum((calls[name] * self._to(proof.homes.get(name, data[name].home)) for name in loose), stays)
        for near in (stays, away):
            cost = self._by_request(self.price, stays, near, _Homes({}, loose, moves))
            parts = {name: (loose[name] / total if total else 1.0 / len(loose)) * cost + moves[name] for name in loose}
            least = np.maximum(least, parts[first] + sum(float(parts[name].min()) for name in others))
        if others:
            alone = self._by_request(self.price, stays, stays, _Homes({}, {first: loose[first]}, moves))
            least = np.maximum(least, alone + moves[first])
        for home, level in levels.items():
            at = self.world.site_at[home]
            found = self._at_home(at, level, stays, (loose[first], total), _Homes(proof.homes, others, moves))
            least[at] = max(least[at], found + moves[first][at])
        return least + self._by_count(self.price)

    def _at_home(self, at: int, level: float, stays: Floats, calls: tuple[float, float], others: "_Homes") -> float:
        """`calls`: of the data at home, and of all."""
        to_home = self.world.site_rtt[:, at]
        beside = self.world.weights.latency * calls[1] * to_home + self._floor(self.price) / self.app.rps_per_instance
        extra = np.where(self.most >= self.least, np.maximum(0.0, level - beside), 0.0)
        paid = float((extra * self.most)[self.open].sum()) * self.app.rps_per_instance
        here = stays + calls[0] * to_home
        if not others.calls:
            cost = self.request(self.rtt + here) + self._floor(self.price) / self.app.rps_per_instance + extra
            return float(self.rps @ np.minimum(cost[:, self.open].min(axis=1, initial=self.lost), self.lost)) - paid
        away = sum(
            (call * self._to(others.homes.get(name, self.world.data[name].home)) for name, call in others.calls.items()), here
        )
        total, found = sum(others.calls.values()), -np.inf
        for near in (here, away):
            cost = self._by_request(self.price, here, near, others, extra)
            parts = [(call / total if total else 1.0 / len(others.calls)) * cost for call in others.calls.values()]
            sum_ = sum(float((part + others.moves[name]).min()) for name, part in zip(others.calls, parts, strict=True))
            found = max(found, sum_)
        return found - paid

    def _counted(self, high: float, low: float) -> tuple[float, Floats]:
        """What count limits add, and the price of an instance with them."""
        if min(high, low) < 0.0:
            raise ValueError("a count price is below 0")
        most = self.app.max_total
        high = high if most is not None else 0.0
        return low * self.app.min_total - high * (most or 0), self.price + high - low

    def _to(self, home: str) -> Floats:
        return self.world.site_rtt[:, self.world.site_at[home]]

    def _moving(self, name: str, callers: int) -> Floats:
        """J of a home at each site, the move in equal parts with all who call it."""
        item = self.world.data[name]
        cost = np.full(len(self.most), self.world.weights.home * item.size_gib / callers)
        if item.jurisdiction:
            inside = [item.jurisdiction in site.jurisdictions for site in self.world.sites.values()]
            cost[~np.array(inside)] = np.inf
        cost[self.world.site_at[item.home]] = 0.0
        return cost

    def request(self, ms: Floats) -> Floats:
        """J of a request that takes so long."""
        weights, limit = self.world.weights, self.app.latency_objective_ms
        late = weights.late * self.priority * np.maximum(0.0, ms - limit) if limit is not None else 0.0
        return weights.latency * ms + late

    def _at(self, price: Floats, away: Floats, said: dict[str, float]) -> float:
        """Σ demand · min(v, lost) + move · Σ now − Σ π, count limits apart."""
        move = self.world.weights.move
        cheapest = (self.request(self.rtt + away) + self._floor(price) / self.app.rps_per_instance)[:, self.open]
        unsaid = cheapest.min(axis=1, initial=self.lost)
        v = np.minimum(np.array([said.get(metro, other) for metro, other in zip(self.metros, unsaid, strict=True)]), self.lost)
        found = float(self.rps @ v) + move * float(self.now.sum())
        for at in self.open.tolist():
            dear = np.maximum(0.0, v - self.request(self.rtt[:, at] + away[at]))
            order = np.argsort(-dear, kind="stable")
            found -= self._profit(dear[order], self.rps[order], float(price[at]), at)
        return found

    def _profit(self, dear: Floats, rps: Floats, price: float, at: int) -> float:
        """The best whole count: what it brings is concave, and bends at the ends, at what runs now and where a metro is full."""
        rate, move = self.app.rps_per_instance, self.world.weights.move
        reached = np.cumsum(rps)
        bends = np.concatenate(([self.least, self.most[at], self.now[at]], np.floor(reached / rate), np.ceil(reached / rate)))
        counts = np.clip(bends, self.least, self.most[at])
        worth = np.concatenate(([0.0], np.cumsum(rps * dear)))
        gained = np.asarray(np.interp(counts * rate, np.concatenate(([0.0], reached)), worth), dtype=np.float64)
        paid = price * counts + move * (np.abs(counts - self.now[at]) - self.now[at])
        return max(0.0, float((gained - paid).max()))

    def _over_homes(self, here: float, constant: float, by_request: Floats, question: "_Homes") -> float:
        """The least over all homes: `here` for those the prices are for, by the request for all others."""
        calls, total = question.calls, sum(question.calls.values())
        least = {name: (calls[name] / total if total else 1.0 / len(calls)) * by_request + question.moves[name] for name in calls}
        at = {name: self.world.site_at[home] for name, home in question.homes.items()}
        here = max(here, constant + sum(float(least[name][at[name]]) for name in calls))
        best = {name: float(row.min()) for name, row in least.items()}
        others = [sum(best.values()) - best[name] + float(np.delete(least[name], at[name]).min(initial=np.inf)) for name in calls]
        return min(here, constant + min(others))

    def _floor(self, price: Floats) -> Floats:
        """The least an instance costs, moves included."""
        move = self.world.weights.move
        return np.maximum(0.0, price + np.where(self.now > 0, -move, move))

    def _by_count(self, price: Floats) -> float:
        """What instances cost beyond that, at least."""
        move, floor = self.world.weights.move, self._floor(price)
        rest = move * float(self.now.sum() - self.now[self.open].sum())
        for at in self.open.tolist():
            counts = np.array([0.0, min(self.now[at], self.most[at]), self.most[at]])
            rest += float(((price[at] - floor[at]) * counts + move * np.abs(counts - self.now[at])).min())
        return rest

    def _by_request(self, price: Floats, stays: Floats, near: Floats, question: "_Homes", extra: Floats | None = None) -> Floats:
        """[S]: what requests cost at least with all movable data there. For several data lateness counts only for metros
        that are late if data calls take as long as `near` says: any tangent of a convex cost is below it."""
        weights, limit = self.world.weights, self.app.latency_objective_ms
        each, calls = self._floor(price) / self.app.rps_per_instance, sum(question.calls.values())
        each = each if extra is None else each + extra
        several = len(question.calls) > 1
        least = np.full((len(self.rps), len(self.most)), self.lost)
        sure = np.zeros(len(self.rps), dtype=np.bool_)
        if several and limit is not None and len(self.open):
            sure = (self.rtt + near)[:, self.open].min(axis=1) >= limit
        for at in self.open.tolist():
            ms = (self.rtt[:, at] + stays[at])[:, None] + calls * self.world.site_rtt[at][None, :]
            cost = weights.latency * ms if several else self.request(ms)
            if several and limit is not None:
                cost = cost + np.where(sure, weights.late * self.priority, 0.0)[:, None] * (ms - limit)
            least = np.minimum(least, cost + each[at])
        return np.asarray(self.rps @ least, dtype=np.float64)


@dataclass
class _Homes:
    """Movable data of an app: the homes its prices are for, calls per request, and J of a move to each site."""

    homes: dict[str, str]
    calls: dict[str, float]
    moves: dict[str, Floats]
