"""What control does by itself, now and then: move prices with congestion, and move what gains most by moving.

    ledgers, blocked apps -> prices of sites                                   every PRICES_EVERY_MS
    apps, some at a time  -> decided again in thought -> the greatest gains within the budget -> evaluations "rebalance"

A pass is written down with its evaluations, in one transaction: a control that dies in its midst leaves all of it or nothing,
and the next one neither forgets it nor starts another too soon. What the evaluations ask for is decided by the placer once more
when their turn comes, and released like every other plan: made before anything is broken.
"""

import asyncio

import structlog

from skerry.core.placement.prices import moved_prices
from skerry.core.types.app import App
from skerry.core.types.control import Rebalance, SiteIntent, SiteLedger
from skerry.core.types.ids import AccountId, AppName, EvaluationId, SiteId
from skerry.core.types.plan import Blocked, Evaluation, Plan, Release
from skerry.core.types.settings import NO_PRICES, SitePrices
from skerry.kit import record
from skerry.kit.hashing import stable_id
from skerry.ports.clock import Clock
from skerry.ports.store import OPS_MAX, Check, Conflict, Op, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror
from skerry.services.control.placer import Placer

log = structlog.get_logger()

LOOK_MS = 5_000
PRICES_EVERY_MS = 30_000
EVALUATIONS_MAX = OPS_MAX // 2  # of one pass: they are one transaction

AppKey = tuple[AccountId, AppName]


class Rebalancer:
    def __init__(self, store: Store, mirror: Mirror, placer: Placer, clock: Clock) -> None:
        self._store = store
        self._mirror = mirror
        self._placer = placer
        self._clock = clock
        self._began_ms = clock.now_ms()
        self._priced_ms = clock.now_ms()
        self._after: AppKey | None = None  # the last app that was looked at: the next pass goes on behind it

    async def run(self) -> None:
        while True:
            await self._clock.sleep_ms(LOOK_MS)
            try:
                await self.step()
            except Conflict as conflict:
                log.info("rebalance_conflict", key=conflict.key)  # another control was first
            except StoreError as error:
                log.warning("rebalance_waits", error=str(error))

    async def step(self) -> None:
        """Whatever is due. Raises `StoreError`."""
        if not self._placer.ready():
            return
        now_ms = self._clock.now_ms()
        if now_ms - self._priced_ms >= PRICES_EVERY_MS:
            self._priced_ms = now_ms
            await self.move_prices()
        if self._is_due(now_ms):
            await self.rebalance()

    async def move_prices(self) -> None:
        """One step of every site's prices."""
        settings = self._placer.worlds.settings()
        waited = {r.place for blocked in self._mirror.select(keys.BLOCKED, Blocked) for r in blocked.rejections}
        ops: list[Op] = []
        for intent in self._mirror.select(keys.SITES, SiteIntent):
            site = intent.site.id
            held = self._mirror.get(keys.prices(site), SitePrices)
            ledger = self._mirror.get(keys.ledger(site), SiteLedger) or SiteLedger(site=site)
            _, shapes = self._placer.worlds.nodes(intent)
            new = moved_prices(
                held or NO_PRICES,
                shapes,
                ledger.reserved.less(ledger.leaving),
                waiting=site in waited,
                settings=settings,
            )
            if new != (held or NO_PRICES):
                ops.append(Put(key=keys.prices(site), value=record.encode(new)))
        if ops:
            await self._store.transact([], ops[:OPS_MAX])

    async def rebalance(self) -> Rebalance:
        """Look at the next apps; write evaluations for those that gain most, as many as the budget of moves allows."""
        settings = self._placer.worlds.settings()
        check = self._mirror.check(keys.LAST_REBALANCE)
        now_ms = self._clock.now_ms()
        some = self._next_apps(settings.rebalance_apps_max)
        gains: list[tuple[float, int, Evaluation]] = []
        for key in some:
            found = self._gain(key, now_ms)
            gains += [found] if found is not None else []
            await asyncio.sleep(0)
        gains.sort(key=lambda entry: (-entry[0] / max(1, entry[1]), entry[2].account, entry[2].app))
        left, chosen = settings.rebalance_moves_max, list[tuple[float, int, Evaluation]]()
        for gain, starts, evaluation in gains:
            if starts <= left and len(chosen) < EVALUATIONS_MAX:
                chosen.append((gain, starts, evaluation))
                left -= starts
        done = Rebalance(
            at_ms=now_ms,
            looked_at=len(some),
            apps=len(chosen),
            starts=sum(starts for _, starts, _ in chosen),
            gain=round(sum(gain for gain, _, _ in chosen), 1),
        )
        await self._write(check, done, [evaluation for _, _, evaluation in chosen])
        self._after = some[-1] if some else None
        return done

    async def _write(self, check: Check, done: Rebalance, evaluations: list[Evaluation]) -> None:
        checks: list[Check] = [check]
        ops: list[Op] = [Put(key=keys.LAST_REBALANCE, value=record.encode(done))]
        for evaluation in evaluations:
            at = keys.evaluation(evaluation.account, evaluation.app, evaluation.id)
            checks.append(Check(key=at, revision=0))
            ops.append(Put(key=at, value=record.encode(evaluation)))
        await self._store.transact(checks, ops)
        if evaluations:
            log.info("rebalance", apps=done.apps, starts=done.starts, gain=done.gain, looked_at=done.looked_at)

    def _is_due(self, now_ms: int) -> bool:
        every_ms = self._placer.worlds.settings().rebalance_every_s * 1000
        last = self._mirror.get(keys.LAST_REBALANCE, Rebalance)
        return every_ms > 0 and now_ms - (last.at_ms if last else self._began_ms) >= every_ms

    def _next_apps(self, count: int) -> list[AppKey]:
        """Those behind the last one that was looked at, then from the beginning."""
        apps = [(app.account, app.name) for app in self._mirror.select(keys.APPS, App) if app.deployment and app.enabled]
        after = self._after
        turned = apps if after is None else [key for key in apps if key > after] + [key for key in apps if key <= after]
        return turned[:count]

    def _gain(self, key: AppKey, now_ms: int) -> tuple[float, int, Evaluation] | None:
        """What another plan would save, and how many instances start for it; None: nothing, or it is decided or released now."""
        release = self._mirror.get(keys.release(*key), Release)
        pending = any(self._mirror.select(f"{keys.EVALUATIONS}{key[0]}/{key[1]}/", Evaluation))
        if pending or release is None or release.state != "done":
            return None
        thought = self._placer.thought(key, "rebalance")
        parent = thought[1].parent if thought else None
        if thought is None or parent is None or thought[0].gain <= 0.0:
            return None
        plan = thought[0]
        had, has = _counts(parent), _counts(plan)
        starts = sum(max(0, count - had.get(place, 0)) for place, count in has.items())
        evaluation = Evaluation(
            id=EvaluationId(stable_id("rebalance", parent.id, length=32)),
            account=key[0],
            app=key[1],
            cause="rebalance",
            created_ms=now_ms,
            detail=f"saves {plan.gain:.0f} of what is minimised, for {starts} instance(s) that start: {_moves(had, has)}",
        )
        return plan.gain, starts, evaluation


def _counts(plan: Plan) -> dict[SiteId, int]:
    found: dict[SiteId, int] = {}
    for entry in plan.placements:
        found[entry.site] = found.get(entry.site, 0) + entry.count
    return found


def _moves(had: dict[SiteId, int], has: dict[SiteId, int]) -> str:
    changed = [site for site in sorted({*had, *has}) if had.get(site, 0) != has.get(site, 0)]
    return ", ".join(f"{site} {had.get(site, 0)} → {has.get(site, 0)}" for site in changed)
