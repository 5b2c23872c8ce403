"""The watcher: notices that a decision no longer fits the world, and records why to decide again.

It compares by level, not by edge: whenever sites, nodes or their states differ from what they were, every app is
decided in thought, and so is an app whose users ask for more or less than they did; where the outcome is another than the
plan in force, an evaluation is written. A control that was killed before it could write one finds the same difference when
it comes back.
"""

from collections.abc import Mapping

import structlog

from skerry.core.placement.place import place, same_decision
from skerry.core.types.app import App
from skerry.core.types.control import PlanHead, SiteIntent, SiteLedger
from skerry.core.types.demand import DecidedDemand
from skerry.core.types.ids import AccountId, AppName, EvaluationId, SiteId
from skerry.core.types.plan import Blocked, Evaluation, EvaluationCause, Plan, Reason
from skerry.kit import record
from skerry.kit.hashing import stable_id
from skerry.ports.clock import Clock
from skerry.ports.store import Check, Conflict, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.placer import Placer

log = structlog.get_logger()

AppKey = tuple[AccountId, AppName]

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
        self._seen: object = None
        self._more = False
        self._owed: dict[AppKey, None] = {}  # apps that could not be looked at, as they were being decided

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
        if not self._placer.ready():
            return 0
        seen = self._signature()
        apps = tuple(self._mirror.select(keys.APPS, App))
        moved = self._moved(apps)
        if seen == self._seen:
            apps = tuple(app for app in apps if (app.account, app.name) in {**self._owed, **moved})
        written = 0
        owed: dict[AppKey, None] = {}
        for app in apps:
            if any(self._mirror.select(f"{keys.EVALUATIONS}{app.account}/{app.name}/", Evaluation)):
                owed[(app.account, app.name)] = None  # what is under way may have been decided on the world as it was
                continue
            evaluation = self._difference(app)
            if evaluation is not None:
                written += await self._write(evaluation)
        self._seen, self._owed = seen, owed
        return written

    def _moved(self, apps: tuple[App, ...]) -> dict[AppKey, None]:
        """Those whose users ask for more or less than they did; what is gone is forgotten."""
        sites = frozenset(intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent))
        traffic = self._observed.traffic
        traffic.keep(frozenset((app.account, app.name) for app in apps), sites)
        traffic.turn(now_ms=self._clock.now_ms())
        moved = dict.fromkeys(traffic.take_moved(MOVED_MAX))
        self._more = traffic.moved
        return moved

    def _signature(self) -> object:
        """Equal as long as no decision can have become another for reasons outside the apps themselves."""
        intents = tuple(self._mirror.select(keys.SITES, SiteIntent))
        nodes = tuple(
            (node.id, node.state, node.capacity, node.features)
            for intent in intents
            for node in self._observed.nodes(intent.site.id)
        )
        refused = tuple(item for intent in intents for item in self._placer.refusals(intent.site.id))
        states = tuple((intent, self._observed.site_state(intent)) for intent in intents)
        blocked = tuple(self._mirror.select(keys.BLOCKED, Blocked))
        room = tuple(self._mirror.select(keys.LEDGERS, SiteLedger)) if blocked else ()
        return (states, nodes, refused, blocked, room)

    def _difference(self, app: App) -> Evaluation | None:
        key = (app.account, app.name)
        head = self._mirror.get(keys.plan_head(*key), PlanHead)
        plan = self._mirror.get(keys.plan(*key, head.generation), Plan) if head else None
        if plan is None:
            return None
        snapshot = self._placer.preview(key)
        world, shares = snapshot.world, snapshot.shares
        now_ms = self._clock.now_ms()
        thought = _evaluation(key, "capacity", plan, now_ms, detail="")
        decided = place(world, app, shares, evaluation=thought, parent=plan, now_ms=now_ms)
        if same_decision(decided, plan):
            return None
        asked = self._mirror.get(keys.decided_demand(*key), DecidedDemand)
        moves = _moves(asked.rps if asked else {}, self._observed.asked(*key))
        cause, detail = _cause(decided, plan, moved=bool(moves)), _change(decided, plan)
        return _evaluation(key, cause, plan, now_ms, detail=f"{moves}: {detail}" if cause == "demand" else detail)

    async def _write(self, evaluation: Evaluation) -> int:
        at = keys.evaluation(evaluation.account, evaluation.app, evaluation.id)
        try:
            await self._store.transact([Check(key=at, revision=0)], [Put(key=at, value=record.encode(evaluation))])
        except Conflict:
            return 0  # another control has seen the same
        log.info("evaluation", app=evaluation.app, cause=evaluation.cause, detail=evaluation.detail)
        return 1


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
