"""Moves that apps make together: a whole plan of them from what runs now, and of it what pays by the platform's own count.

apps that a whole plan can speak for -> problem -> solved where it holds nobody up -> each bundle looked at again -> evaluations
"""

import asyncio
import hashlib
import pickle
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from skerry.core.policy.capacity import nodes_up
from skerry.core.types.app import App
from skerry.core.types.control import Reservation, SiteIntent, SiteLedger
from skerry.core.types.ids import AccountId, AppName, EvaluationId, SiteId
from skerry.core.types.plan import Evaluation, Plan, Release, Wanted
from skerry.core.types.resources import Resources
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror
from skerry.services.control.placer import Placer, Snapshot

if TYPE_CHECKING:
    from skerry.core.placement.bundles import Budget, Bundle
    from skerry.core.placement.solve.columns import Instances
    from skerry.core.placement.together import Gain, Member, Room
    from skerry.core.types.problem import Problem

log = structlog.get_logger()

MEMBERS_MIN = 2  # fewer have nobody to move with
EXCHANGED_MAX = 50  # in a pass, which is one transaction: each is a course, and eight apps at most
NAMES_SHOWN = 3  # in a sentence

AppKey = tuple[AccountId, AppName]
Solve = Callable[["Problem", "Instances", "Budget"], Awaitable["Sequence[Bundle]"]]
"""`core.placement.solve.background.exchanges`, run where it holds nobody up. Raises OSError or RuntimeError where it cannot."""


class Exchanged(Record):
    """Apps that move together, step by step; `gain` in J, moves apart, `starts` in instances."""

    gain: float
    starts: int
    steps: tuple[tuple[Evaluation, ...], ...]


class Found(Record):
    """`members`: apps that the whole plan spoke for."""

    members: frozenset[AppKey] = frozenset()
    exchanged: tuple[Exchanged, ...] = ()


class Exchanges:
    def __init__(self, mirror: Mirror, placer: Placer, solve: Solve) -> None:
        self._mirror = mirror
        self._placer = placer
        self._solve = solve
        self._quiet = b""  # digest of the last problem in which nothing paid

    async def find(self, some: Sequence[AppKey], now_ms: int) -> Found:
        """Of these apps. Nothing is written; a whole plan that cannot be made is told of, and finds nothing."""
        # NumPy is slow to import, and a control without apps that may move needs none.
        from skerry.core.placement.bundles import Budget
        from skerry.core.placement.together import problem_of

        members = await self._members(some)
        if len(members) < MEMBERS_MIN:
            return Found()
        names = frozenset((one.account, one.app) for one in members)
        worlds, settings = self._placer.worlds, self._placer.worlds.settings()
        rooms = [self._room(intent, members) for intent in self._mirror.select(keys.SITES, SiteIntent)]
        problem, now = problem_of(rooms, members, rtts_ms=worlds.rtts_ms(), homes=self._homes(members), settings=settings)
        digest = hashlib.blake2b(pickle.dumps((problem, now))).digest()
        if digest == self._quiet:
            return Found(members=names)
        budget = Budget(moves=settings.rebalance_moves_max, gain_min=settings.rebalance_gain_min)
        try:
            bundles = await self._solve(problem, now, budget)
        except (OSError, RuntimeError) as error:
            log.warning("rebalance_without_a_whole_plan", error=str(error))
            return Found()
        self._quiet = b"" if bundles else digest
        looked = [self._looked_at(bundle, members, rooms, budget, now_ms) for bundle in bundles[:EXCHANGED_MAX]]
        return Found(members=names, exchanged=tuple(found for found in looked if found is not None))

    def is_calm(self, key: AppKey) -> bool:
        """Whether nothing of the app is being decided or released."""
        release = self._mirror.get(keys.release(*key), Release)
        pending = any(self._mirror.select(f"{keys.EVALUATIONS}{key[0]}/{key[1]}/", Evaluation))
        return not pending and release is not None and release.state == "done"

    async def _members(self, some: Iterable[AppKey]) -> "list[Member]":
        from skerry.core.placement.together import member

        found: list[Member] = []
        for key in some:
            snapshot = self._snapshot(key)
            if snapshot is not None:
                app, plan = snapshot
                one = member(plan.world, app, plan.shares, _parent(plan))
                found += [one] if one is not None else []
            await asyncio.sleep(0)  # others of this process have their turn
        return found

    def _snapshot(self, key: AppKey) -> tuple[App, Snapshot] | None:
        from skerry.core.placement.together import may_move

        if not self.is_calm(key):
            return None
        snapshot = self._placer.preview(key)
        app, plan = snapshot.app, snapshot.parent
        if app is None or plan is None or plan.deployment != app.deployment or not may_move(app, snapshot.shares):
            return None
        return app, snapshot

    def _room(self, intent: SiteIntent, members: "Iterable[Member]") -> "Room":
        from skerry.core.placement.together import Room

        site, worlds = intent.site.id, self._placer.worlds
        ledger = self._mirror.get(keys.ledger(site), SiteLedger) or SiteLedger(site=site)
        theirs = Resources()
        for one in members if ledger.reserved != Resources() else ():
            own = self._mirror.get(keys.reservation(site, one.account, one.app), Reservation)
            theirs += own.resources if own else Resources()
        nodes, shapes = worlds.nodes(intent)
        held = ledger.reserved.less(theirs)
        if worlds.is_opening(site) or not nodes_up(nodes):  # it is filled step by step: nothing moves there meanwhile
            held = shapes.total.less(theirs)
        return Room(site=worlds.site(intent), shapes=shapes, held=held)

    def _homes(self, members: "Iterable[Member]") -> Mapping[str, SiteId]:
        called = sorted({call.data for one in members for call in one.row.calls})
        return self._placer.worlds.homes(called)

    def _looked_at(
        self, bundle: "Bundle", members: "Sequence[Member]", rooms: "Sequence[Room]", budget: "Budget", now_ms: int
    ) -> Exchanged | None:
        """None: it does not pay by the count of those who decide about single apps, or something has changed meanwhile."""
        from skerry.core.placement.together import named

        move = self._placer.worlds.settings().move
        gains: dict[AppKey, Gain] = {}
        for at in bundle.apps:
            one = members[at]
            has = [named(change, rooms)[1] for step in bundle.steps for change in step if change.app == at][-1]
            gain = self._gain(one, has)
            if gain is None:
                return None
            gains[one.account, one.app] = gain
        bare, priced = (sum(parts) for parts in zip(*gains.values(), strict=True))
        if not bundle.pays(min(bare, priced), budget, move):
            return None
        steps: list[tuple[Evaluation, ...]] = []
        for number, step in enumerate(bundle.steps):
            made: list[Evaluation] = []
            for change in step:
                key = members[change.app].account, members[change.app].app
                had, has = named(change, rooms)
                said = _detail(key, gains, bare, had, has)
                wanted = Wanted(had=had, has=has, gain=round(bare, 3))
                made.append(self._evaluation(key, number, said, wanted, now_ms))
            steps.append(tuple(made))
        return Exchanged(gain=bare, starts=bundle.starts, steps=tuple(steps))

    def _gain(self, one: "Member", has: Mapping[SiteId, int]) -> "Gain | None":
        from skerry.core.placement.together import exact_gain

        snapshot = self._snapshot((one.account, one.app))
        if snapshot is None or _parent(snapshot[1]).counts() != one.has:
            return None
        app, seen = snapshot
        return exact_gain(seen.world, app, seen.shares, _parent(seen), has)

    def _evaluation(self, key: AppKey, number: int, detail: str, wanted: Wanted, now_ms: int) -> Evaluation:
        snapshot = self._placer.preview(key)
        return Evaluation(
            id=EvaluationId(stable_id("rebalance", _parent(snapshot).id, str(number), length=32)),
            account=key[0],
            app=key[1],
            cause="rebalance",
            created_ms=now_ms,
            detail=detail,
            wanted=wanted,
        )


def moves_text(had: Mapping[SiteId, int], has: Mapping[SiteId, int]) -> str:
    changed = [site for site in sorted({*had, *has}) if had.get(site, 0) != has.get(site, 0)]
    return ", ".join(f"{site} {had.get(site, 0)} → {has.get(site, 0)}" for site in changed)


def _parent(snapshot: Snapshot) -> Plan:
    assert snapshot.parent is not None
    return snapshot.parent


def _detail(
    key: AppKey, gains: "Mapping[AppKey, Gain]", total: float, had: Mapping[SiteId, int], has: Mapping[SiteId, int]
) -> str:
    """As `skerry explain` says it. Apps of other accounts are not named."""
    own = gains[key].bare
    others = sorted(name for account, name in gains if account == key[0] and (account, name) != key)
    unnamed = len(gains) - 1 - len(others[:NAMES_SHOWN])
    shown = [*others[:NAMES_SHOWN], *([f"{unnamed} more"] if unnamed else [])]
    with_whom = f" together with {' and '.join(shown)}, {own:+.0f} of it here" if shown else ""
    return f"Moved by rebalancing: saves {total:.0f} of what is minimised{with_whom}; {moves_text(had, has)}."
