"""The watcher: notices that a decision no longer fits the world, and records why to decide again.

It compares by level, not by edge: whenever a site, its nodes or their states differ from what they were, every app's plan is
held against that site. Where it is not right any more, and where an app's users ask for more or less than they did, the app
is decided in thought; when the outcome is another than the plan in force, an evaluation is written. A control that was killed
before it could write one finds the same difference when it comes back.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import structlog

from skerry.core.placement.place import same_decision
from skerry.core.types.app import App
from skerry.core.types.control import SiteIntent
from skerry.core.types.demand import DecidedDemand
from skerry.core.types.ids import AccountId, AppName, EvaluationId, SiteId
from skerry.core.types.plan import Blocked, Evaluation, EvaluationCause, Plan, Reason
from skerry.kit import record
from skerry.kit.hashing import stable_id
from skerry.ports.clock import Clock
from skerry.ports.store import OPS_MAX, Check, Conflict, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.days import Days
from skerry.services.control.drains import Drains
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.placer import Placer
from skerry.services.control.silences import Silences

log = structlog.get_logger()

AppKey = tuple[AccountId, AppName]
Look = frozenset[SiteId] | None
"""At what of an app's plan: these sites; None: all of it, as its demand is another."""

LOOK_MS = 1_000  # silence is no event: lost sites are found by looking this often
MOVED_MAX, PAUSE_MS = 100, 50  # apps whose demand moved are thought of in parts, lest they hold up everything else
CITIES_SAID = 3

CAUSES: dict[Reason, EvaluationCause] = {
    Reason.SITE_DOWN: "site_lost",
    Reason.SITE_CUT_OFF: "site_lost",
    Reason.SITE_DRAINING: "drain",
    Reason.NODE_DRAINING: "drain",
    Reason.REFUSED_BY_SITE: "refused",
}


class Watcher:
    def __init__(self, store: Store, mirror: Mirror, observed: Observed, placer: Placer, clock: Clock) -> None:
        self._store = store
        self._mirror = mirror
        self._observed = observed
        self._placer = placer
        self._clock = clock
        self._seen: dict[SiteId, object] = {}
        self._more = False
        self._drains = Drains(mirror)
        self._silences = Silences(store, mirror, observed, clock)
        self._days = Days(store, mirror, observed)
        self._owed: dict[AppKey, Look] = {}  # apps that could not be looked at, as they were being decided

    async def run(self) -> None:
        while True:
            version = self._observed.version
            try:
                await self.step()
            except StoreError as error:
                log.warning("watcher_waits", error=str(error))
            await self._observed.wait_beyond(version, wait_ms=PAUSE_MS if self._more else LOOK_MS)

    async def step(self) -> int:
        """How many evaluations were written. Raises `StoreError`."""
        self._more = False
        await self._silences.step()
        if not self._placer.ready():
            return 0
        seen = self._signatures()
        changed = frozenset(site for site in {*seen, *self._seen} if seen.get(site) != self._seen.get(site))
        looks = self._looks(changed)
        owed: dict[AppKey, Look] = {}
        found: list[Evaluation] = []
        for key, look in looks.items():
            if any(self._mirror.select(f"{keys.EVALUATIONS}{key[0]}/{key[1]}/", Evaluation)):
                owed[key] = look  # what is under way may have been decided on the world as it was
                continue
            evaluation = self._difference(key, look)
            found += [evaluation] if evaluation is not None else []
            await asyncio.sleep(0)  # others of this process have their turn between two apps
        try:
            written = await self._write(found)
        except StoreError:
            self._owed = looks
            raise
        self._seen, self._owed = seen, owed
        await self._days.step()
        return written

    def _looks(self, changed: frozenset[SiteId]) -> dict[AppKey, Look]:
        """Apps to look at, and how; what is gone is forgotten."""
        apps = tuple((app.account, app.name) for app in self._mirror.select(keys.APPS, App))
        known = frozenset(apps)
        looks: dict[AppKey, Look] = dict.fromkeys(apps, changed) if changed else {}
        for key, sites in self._owed.items():
            if key in known:
                looks[key] = None if sites is None else sites | changed
        traffic = self._observed.traffic
        traffic.keep(known, frozenset(intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent)))
        traffic.turn(now_ms=self._clock.now_ms())
        looks |= dict.fromkeys((key for key in traffic.take_moved(MOVED_MAX) if key in known), None)
        self._more = traffic.moved
        return looks

    def _signatures(self) -> dict[SiteId, object]:
        """By site: equal as long as no decision can have become another for reasons outside the apps themselves.

        Of what comes and goes it has the number of its changes: what is as it was may have been otherwise for a moment, in which
        somebody else was decided.
        """
        waited = {rejection.place for blocked in self._mirror.select(keys.BLOCKED, Blocked) for rejection in blocked.rejections}
        found: dict[SiteId, object] = {}
        for intent in self._mirror.select(keys.SITES, SiteIntent):
            site = intent.site.id
            room = self._mirror.check(keys.ledger(site)).revision if site in waited else None
            state, drained, turn = self._observed.site_state(intent), self._drains.of(intent), self._observed.turn(site)
            found[site] = (intent, state, drained, self._observed.opening(site), turn, self._placer.refusals(site), room)
        return found

    def _difference(self, key: AppKey, look: Look) -> Evaluation | None:
        if look is not None and self._placer.is_right(key, look):
            return None
        thought = self._placer.thought(key)
        if thought is None:
            return None
        decided, plan = thought[0], thought[1].parent
        if plan is None or same_decision(decided, plan):
            return None
        asked = self._mirror.get(keys.decided_demand(*key), DecidedDemand)
        moves = _moves(asked.rps if asked else {}, self._observed.asked(*key))
        cause, detail = _cause(decided, plan, moved=bool(moves)), _change(decided, plan)
        detail = f"{moves}: {detail}" if cause == "demand" else detail
        return _evaluation(key, cause, plan, self._clock.now_ms(), detail=detail)

    async def _write(self, found: Sequence[Evaluation]) -> int:
        """Many of them together: a lost city concerns thousands of apps."""
        for start in range(0, len(found), OPS_MAX):
            some = found[start : start + OPS_MAX]
            at = [keys.evaluation(e.account, e.app, e.id) for e in some]
            try:
                await self._store.transact(
                    [Check(key=key, revision=0) for key in at],
                    [Put(key=key, value=record.encode(e)) for key, e in zip(at, some, strict=True)],
                )
            except Conflict:
                await self._write_one_by_one(some)
            for evaluation in some:
                log.info("evaluation", app=evaluation.app, cause=evaluation.cause, detail=evaluation.detail)
        return len(found)

    async def _write_one_by_one(self, found: Sequence[Evaluation]) -> None:
        """Another control has seen some of the same."""
        for evaluation in found:
            at = keys.evaluation(evaluation.account, evaluation.app, evaluation.id)
            with contextlib.suppress(Conflict):
                await self._store.transact([Check(key=at, revision=0)], [Put(key=at, value=record.encode(evaluation))])


def _evaluation(key: tuple[AccountId, AppName], cause: EvaluationCause, plan: Plan, now_ms: int, *, detail: str) -> Evaluation:
    name = stable_id("watch", plan.id, detail, length=32)
    return Evaluation(id=EvaluationId(name), account=key[0], app=key[1], cause=cause, created_ms=now_ms, detail=detail)


def _sites(plan: Plan) -> frozenset[str]:
    return frozenset(placement.site for placement in plan.placements)


def _cause(decided: Plan, plan: Plan, *, moved: bool) -> EvaluationCause:
    """Why it is decided again, in one word: what happened to the sites that the decision loses, or gains."""
    lost = _sites(plan) - _sites(decided)
    for rejection in decided.rejections:
        if rejection.place in lost and rejection.reason in CAUSES:
            return CAUSES[rejection.reason]
    gained = _sites(decided) - _sites(plan)
    before = {rejection.place: rejection.reason for rejection in plan.rejections}
    for site in sorted(gained):
        if before.get(site) == Reason.SITE_DRAINING:
            return "undrain"
        if before.get(site) in (Reason.SITE_DOWN, Reason.SITE_CUT_OFF):
            return "site_back"
    return "demand" if moved else "capacity"


def _moves(before: Mapping[SiteId, float], now: Mapping[SiteId, float]) -> str:
    """What users ask for otherwise than when the plan was decided, the greatest change first; empty: nothing."""
    moved = [site for site in sorted({**before, **now}) if before.get(site, 0.0) != now.get(site, 0.0)]
    moved.sort(key=lambda site: -abs(now.get(site, 0.0) - before.get(site, 0.0)))
    said = [f"{site} {before.get(site, 0.0):.3g} to {now.get(site, 0.0):.3g}" for site in moved[:CITIES_SAID]]
    more = f" and {len(moved) - CITIES_SAID} more" if len(moved) > CITIES_SAID else ""
    return f"requests/s to plan for moved in {', '.join(said)}{more}" if said else ""


def _change(decided: Plan, plan: Plan) -> str:
    lost, gained = sorted(_sites(plan) - _sites(decided)), sorted(_sites(decided) - _sites(plan))
    parts = [f"leaves {', '.join(lost)}"] if lost else []
    parts += [f"enters {', '.join(gained)}"] if gained else []
    return "; ".join(parts) or "instance counts or reasons differ"
