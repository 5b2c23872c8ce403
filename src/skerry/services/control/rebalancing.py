"""What control does by itself, now and then: move prices with congestion, and move what gains most by moving.

    ledgers, blocked apps -> prices of sites                                   every PRICES_EVERY_MS
    apps, some at a time  -> a whole plan of them from what runs -> what pays, within the budget -> evaluations "rebalance"
                             those that a whole plan cannot speak for, each alone ──────────────┘

A pass is written down with its evaluations, in one transaction: a control that dies in its midst leaves all of it or nothing,
and the next one neither forgets it nor starts another too soon. Apps that make room for one another move in steps: a course,
that is written down, too; each step is asked for when the releases of the one before are done. What evaluations ask for is
decided by the placer once more when their turn comes, and released like every other plan: made before anything is broken.
"""

from collections.abc import Iterable

import structlog
from msgspec.structs import replace

from skerry.core.placement.prices import moved_prices
from skerry.core.types.app import App
from skerry.core.types.control import Course, PlanHead, Rebalance, SiteIntent, SiteLedger
from skerry.core.types.plan import Blocked, Evaluation, Plan
from skerry.core.types.settings import NO_PRICES, SitePrices
from skerry.kit import record
from skerry.ports.clock import Clock
from skerry.ports.store import OPS_MAX, Check, Conflict, Delete, Op, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.alone import Alone
from skerry.services.control.exchanges import Exchanged, Exchanges
from skerry.services.control.mirror import Mirror
from skerry.services.control.placer import AppKey, Placer

log = structlog.get_logger()

LOOK_MS = 5_000
PRICES_EVERY_MS = 30_000
COURSE_STEP_MS_MAX = 15 * 60_000  # a step that takes longer is given up, and with it what waits for it


class Rebalancer:
    def __init__(self, store: Store, mirror: Mirror, placer: Placer, clock: Clock, exchanges: Exchanges) -> None:
        self._store = store
        self._mirror = mirror
        self._placer = placer
        self._clock = clock
        self._exchanges = exchanges
        self._alone = Alone(placer, exchanges)
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
        courses = list(self._mirror.select(keys.COURSES, Course))
        for course in courses:
            await self._advance(course, now_ms)
        if not courses and self._is_due(now_ms):
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
        found = await self._exchanges.find(some, now_ms)
        left = settings.rebalance_moves_max - sum(one.starts for one in found.exchanged)
        alone = await self._alone.find([key for key in some if key not in found.members], left, now_ms)
        courses = [_course(one, now_ms) for one in found.exchanged]
        evaluations = [*(each for course in courses for each in course.step), *(one.evaluation for one in alone)]
        moved = {(each.account, each.app) for one in found.exchanged for step in one.steps for each in step}
        done = Rebalance(
            at_ms=now_ms,
            looked_at=len(some),
            apps=len(moved) + len(alone),
            starts=sum(one.starts for one in found.exchanged) + sum(one.starts for one in alone),
            gain=round(sum(one.gain for one in found.exchanged) + sum(one.plan.gain for one in alone), 1),
        )
        await self._write(check, done, evaluations, [course for course in courses if course.rest])
        self._after = some[-1] if some else None
        return done

    async def _write(self, check: Check, done: Rebalance, evaluations: list[Evaluation], courses: list[Course]) -> None:
        checks, ops = _asked(evaluations)
        ops = [Put(key=keys.LAST_REBALANCE, value=record.encode(done)), *ops]
        ops += [Put(key=keys.course(course.id), value=record.encode(course)) for course in courses]
        await self._store.transact([check, *checks], ops)
        if evaluations:
            log.info("rebalance", apps=done.apps, starts=done.starts, gain=done.gain, looked_at=done.looked_at)

    async def _advance(self, course: Course, now_ms: int) -> None:
        """The next step, once all of this one runs; the end, if something else was decided meanwhile or it takes too long."""
        at = keys.course(course.id)
        held = self._mirror.check(at)
        runs = [self._runs(each) for each in course.step]
        late = now_ms - course.since_ms > COURSE_STEP_MS_MAX
        if False in runs or (late and None in runs):
            log.info("rebalance_course_given_up", apps=[each.app for each in course.step], late=late)
            await self._store.transact([held], [Delete(key=at)])
        elif None not in runs:
            checks, ops = _asked(course.rest[0])
            after = replace(course, step=course.rest[0], rest=course.rest[1:], since_ms=now_ms)
            ops += [Put(key=at, value=record.encode(after)) if after.rest else Delete(key=at)]
            await self._store.transact([held, *checks], ops)

    def _runs(self, asked: Evaluation) -> bool | None:
        """Whether what was asked for runs everywhere; None: that is not known yet."""
        key = (asked.account, asked.app)
        if self._mirror.get(keys.evaluation(*key, asked.id), Evaluation) is not None:
            return None
        head = self._mirror.get(keys.plan_head(*key), PlanHead)
        plan = self._mirror.get(keys.plan(*key, head.generation), Plan) if head else None
        if plan is None or asked.wanted is None or plan.counts() != asked.wanted.has:
            return False
        return True if self._exchanges.is_calm(key) else None

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


def _asked(evaluations: Iterable[Evaluation]) -> tuple[list[Check], list[Op]]:
    checks: list[Check] = []
    ops: list[Op] = []
    for evaluation in evaluations:
        at = keys.evaluation(evaluation.account, evaluation.app, evaluation.id)
        checks.append(Check(key=at, revision=0))
        ops.append(Put(key=at, value=record.encode(evaluation)))
    return checks, ops


def _course(found: Exchanged, now_ms: int) -> Course:
    return Course(id=found.steps[0][0].id, step=found.steps[0], rest=found.steps[1:], since_ms=now_ms)
