"""The placer: answers evaluations with plans.

    evaluations -> snapshot -> core.placement -> core.checks -> commit (compare-and-set) -> release

A commit checks the revisions of the app, of its plan head and of the ledger of every site that it touches.
Any number of placers may run: one of two that decide at once gets a `Conflict`, and decides again.
Where many apps wait (a city was lost), one transaction carries the plans of several, each decided beside what those before it
take; when that conflicts, each is decided by itself.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from skerry.core.checks.plan import plan_violations
from skerry.core.machines.rollout import brings_new_version, planned_demand, waves
from skerry.core.placement.executed import released_sites
from skerry.core.placement.ledger import reservations
from skerry.core.placement.place import blocking, place, same_decision, still_right
from skerry.core.placement.world import World
from skerry.core.types.app import App, Deployment, Scale, Version
from skerry.core.types.control import PlanHead, SiteIntent, SiteLedger
from skerry.core.types.demand import DecidedDemand
from skerry.core.types.ids import AccountId, AppName, EvaluationId, PlanId, SiteId, VersionId
from skerry.core.types.plan import Blocked, Evaluation, EvaluationCause, Placement, Plan, Release
from skerry.core.types.resources import Resources
from skerry.core.types.slices import Refused
from skerry.kit import record
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.store import OPS_MAX, Check, Conflict, Delete, Op, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.ledger import ledger_changes
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.slices import Slices
from skerry.services.control.worlds import Homes, Users, Worlds, anywhere, unknown

log = structlog.get_logger()

PLANS_KEPT = 20  # of one app, for `explain` and for people; older ones are pruned by each commit
EVALUATIONS_MAX = 32  # of one app, answered by one plan: each is a check of its commit
TOGETHER_MAX = 64  # apps decided for one transaction: others wait so long for their turn, and a conflict costs so much
OPS_TOGETHER_MAX = OPS_MAX // 2  # one plan over all cities fits beside them
RETRY_DELAY_MS = 200
WAIT_MS = 1_000
NOT_READY_MS = 50

AppKey = tuple[AccountId, AppName]
Waves = tuple[tuple[SiteId, ...], ...]


class Snapshot(Record):
    """All that one decision about one app reads, with the revisions that its commit is checked against."""

    app: App | None
    head: PlanHead | None
    parent: Plan | None
    release: Release | None
    evaluations: tuple[Evaluation, ...]
    shares: tuple[tuple[Version, float], ...]
    versions: dict[VersionId, Version]
    world: World
    checks: tuple[Check, ...]


class Decision(Record):
    """What one app's evaluations come to: `ops` under `checks`."""

    key: AppKey
    checks: tuple[Check, ...]
    ops: tuple[Op, ...]


class Placer:
    """`users` stand for an app's demand as long as no site has told of any."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        observed: Observed,
        slices: Slices,
        clock: Clock,
        *,
        users: Users = anywhere,
        homes: Homes = unknown,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._observed = observed
        self._slices = slices
        self._clock = clock
        self.worlds = Worlds(mirror, observed, users=users, homes=homes, refusals=self.refusals)

    async def run(self) -> None:
        """Decide whatever is pending, for ever."""
        while True:
            revision = self._mirror.revision
            try:
                await self.step()
            except Conflict as conflict:
                log.info("placer_conflict", key=conflict.key)
            except StoreError as error:
                log.warning("placer_waits", error=str(error))
                await self._clock.sleep_ms(RETRY_DELAY_MS)
            await self._mirror.wait_beyond(revision, wait_ms=WAIT_MS if self.ready() else NOT_READY_MS)

    def ready(self) -> bool:
        """False while this control has yet to hear from sites that may well be alive: it would move everything."""
        sites = [intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent)]
        return all(self._observed.is_known(site) or self._observed.is_lost(site) for site in sites)

    async def step(self) -> int:
        """One decision for each app with pending evaluations; how many were decided. Raises `StoreError`."""
        if not self.ready():
            return 0
        pending: dict[AppKey, list[Evaluation]] = {}
        for evaluation in self._mirror.select(keys.EVALUATIONS, Evaluation):
            pending.setdefault((evaluation.account, evaluation.app), []).append(evaluation)
        decided = 0
        failed: StoreError | None = None
        waiting = [(key, tuple(evaluations[:EVALUATIONS_MAX])) for key, evaluations in pending.items()]
        for start in range(0, len(waiting), TOGETHER_MAX):
            some = waiting[start : start + TOGETHER_MAX]
            try:
                decided += await self._decide_together(some)
            except StoreError as error:  # of one app, maybe; it must not hold up the others
                if len(some) == 1:
                    failed = failed or error
                    continue
                for one in some:
                    try:
                        decided += await self._decide_together([one])
                    except StoreError as alone:
                        failed = failed or alone
        if failed is not None:
            raise failed
        return decided

    async def _decide_together(self, waiting: Sequence[tuple[AppKey, tuple[Evaluation, ...]]]) -> int:
        """Decide these one after the other, each beside what those before it take, and commit them as few transactions."""
        ahead: dict[SiteId, SiteLedger] = {}
        checks: dict[str, Check] = {}
        ops: list[Op] = []
        revision = 0
        for key, evaluations in waiting:
            decision = await self._decide(key, evaluations, ahead)
            if ops and len(ops) + len(decision.ops) > OPS_TOGETHER_MAX:
                revision = await self._store.transact(tuple(checks.values()), ops)
                await self._caught_up(revision)
                ahead.clear()
                checks.clear()
                ops.clear()
                decision = await self._decide(key, evaluations, ahead)
            for check in decision.checks:
                checks.setdefault(check.key, check)
            ops += decision.ops
        revision = await self._store.transact(tuple(checks.values()), ops)
        await self._caught_up(revision)
        return len(waiting)

    async def _caught_up(self, revision: int) -> None:
        """The next decision has to see this one in the ledgers."""
        while self._mirror.revision < revision:
            await self._mirror.wait_beyond(self._mirror.revision, wait_ms=WAIT_MS)

    async def _decide(self, key: AppKey, evaluations: tuple[Evaluation, ...], ahead: dict[SiteId, SiteLedger]) -> Decision:
        """Decide for one app. `ahead`: ledgers as the decisions before it leave them; it becomes what this one does."""
        await asyncio.sleep(0)  # others of this process have their turn between two decisions
        snapshot = self._snapshot(key, evaluations, ahead)
        if snapshot.app is None:
            await self._sweep(key)
        app = snapshot.app or _deleted(key, evaluations[0])
        leading = _leading(evaluations)
        plan = place(
            snapshot.world,
            app,
            snapshot.shares,
            evaluation=leading,
            parent=snapshot.parent,
            now_ms=self._clock.now_ms(),
        )
        found = plan_violations(plan, snapshot.world, app, snapshot.shares, snapshot.parent)
        if found:
            log.error("plan_violates", account=key[0], app=key[1], violations=found)
            return Decision(key=key, checks=_of_evaluations(snapshot), ops=tuple(_answered(evaluations)))
        ops = _answered(evaluations) + self._block_ops(key, plan)
        if snapshot.parent is None or not same_decision(plan, snapshot.parent):
            ops += self._commit_ops(snapshot, plan, ahead)
        return Decision(key=key, checks=snapshot.checks, ops=tuple(ops))

    def thought(self, key: AppKey, cause: EvaluationCause = "capacity") -> tuple[Plan, Snapshot] | None:
        """What would be decided now for whatever reason of the world; nothing is written. None: nothing was decided yet."""
        snapshot = self._snapshot(key, ())
        if snapshot.app is None or snapshot.parent is None:
            return None
        now_ms = self._clock.now_ms()
        asked = Evaluation(id=EvaluationId("thought"), account=key[0], app=key[1], cause=cause, created_ms=now_ms)
        plan = place(snapshot.world, snapshot.app, snapshot.shares, evaluation=asked, parent=snapshot.parent, now_ms=now_ms)
        return plan, snapshot

    def is_right(self, key: AppKey, sites: frozenset[SiteId] | None = None) -> bool:
        """Whether nothing about these sites (None: all) asks for another decision about the app. Far cheaper than to decide."""
        app, head = self._mirror.get(keys.app(*key), App), self._mirror.get(keys.plan_head(*key), PlanHead)
        plan = self._mirror.get(keys.plan(*key, head.generation), Plan) if head else None
        if app is None or plan is None or head is None:
            return True
        if any(self._mirror.get(keys.site(placement.site), SiteIntent) is None for placement in plan.placements):
            return False
        shares = self._shares(app, self._versions(key))
        world = self.worlds.of(key, app.scale, generation=head.generation, sites=sites)
        return still_right(world, app, shares, plan)

    def refusals(self, site: SiteId) -> tuple[Refused, ...]:
        """What a site could not pack, once that is its last word: nothing is about to leave it, and it knows all it is asked."""
        report = self._observed.report(site)
        if report is None or not report.refused:
            return ()
        ledger = self._mirror.get(keys.ledger(site), SiteLedger)
        if ledger is not None and ledger.leaving != Resources():
            return ()
        asked = self._slices.current(site)
        return report.refused if asked is None or report.slice_generation >= asked.generation else ()

    def preview(self, key: AppKey, scale: Scale | None = None) -> Snapshot:
        """What a decision made now would be made on; for who only looks. `scale`: if that were the app's."""
        snapshot = self._snapshot(key, ())
        if scale is None:
            return snapshot
        generation = snapshot.head.generation if snapshot.head else 0
        return msgspec.structs.replace(snapshot, world=self.worlds.of(key, scale, generation=generation))

    def _snapshot(
        self, key: AppKey, evaluations: tuple[Evaluation, ...], ahead: dict[SiteId, SiteLedger] | None = None
    ) -> Snapshot:
        mirror = self._mirror
        app = mirror.get(keys.app(*key), App)
        head = mirror.get(keys.plan_head(*key), PlanHead)
        versions = self._versions(key)
        guarded = [keys.app(*key), keys.plan_head(*key), keys.release(*key)]
        guarded += [keys.evaluation(*key, e.id) for e in evaluations]
        guarded += [keys.ledger(intent.site.id) for intent in mirror.select(keys.SITES, SiteIntent)]
        generation = head.generation if head else 0
        world = self.worlds.of(key, app.scale if app else Scale(), generation=generation, ledgers=ahead)
        return Snapshot(
            app=app,
            head=head,
            parent=mirror.get(keys.plan(*key, head.generation), Plan) if head else None,
            release=mirror.get(keys.release(*key), Release),
            evaluations=evaluations,
            shares=self._shares(app, versions),
            versions=versions,
            world=msgspec.structs.replace(world, going_on=self._going_on(key)),
            checks=tuple(mirror.check(guard) for guard in guarded),
        )

    def _going_on(self, key: AppKey) -> tuple[Placement, ...]:
        """Of the plan before, in sites that the release has not reached."""
        release = self._mirror.get(keys.release(*key), Release)
        before = self._plan_by_id(key, release.previous) if release and release.state == "running" and release.previous else None
        reached = released_sites(release) if release else frozenset[SiteId]()
        return tuple(entry for entry in before.placements if entry.site not in reached) if before else ()

    def _versions(self, key: AppKey) -> dict[VersionId, Version]:
        return {v.id: v for v in self._mirror.select(f"{keys.VERSIONS}{key[0]}/{key[1]}/", Version)}

    def _shares(self, app: App | None, versions: dict[VersionId, Version]) -> tuple[tuple[Version, float], ...]:
        if app is None or app.deployment is None or not app.enabled:
            return ()
        for deployment in self._mirror.select(f"{keys.DEPLOYMENTS}{app.account}/{app.name}/", Deployment):
            if deployment.id == app.deployment:
                return tuple((versions[share.version], share.percent) for share in deployment.shares if share.percent > 0)
        return ()

    def _block_ops(self, key: AppKey, plan: Plan) -> list[Op]:
        """Record what found no place for want of capacity; policy is no reason to wait for anything."""
        waiting = blocking(plan)
        at = keys.blocked(*key)
        held = self._mirror.get(at, Blocked)
        if not waiting:
            return [Delete(key=at)] if held else []
        since_ms = held.since_ms if held else plan.created_ms
        blocked = Blocked(account=key[0], app=key[1], since_ms=since_ms, rejections=waiting)
        return [] if held == blocked else [Put(key=at, value=record.encode(blocked))]

    def _commit_ops(self, snapshot: Snapshot, plan: Plan, ahead: dict[SiteId, SiteLedger]) -> list[Op]:
        key = (plan.account, plan.app)
        if snapshot.app is None:
            return self._forget_ops(snapshot, plan, ahead)
        head = PlanHead(plan=plan.id, generation=plan.generation)
        release = self._release(snapshot, plan)
        ops: list[Op] = [
            Put(key=keys.plan(*key, plan.generation), value=record.encode(plan)),
            Put(key=keys.plan_head(*key), value=record.encode(head)),
            Put(key=keys.release(*key), value=record.encode(release)),
        ]
        ops += self._decided_on_ops(key, snapshot.world)
        ops += self._prune_ops(release, plan)
        return ops + self._ledger_ops(snapshot, plan, ahead, growing=release.previous is not None)

    def _forget_ops(self, snapshot: Snapshot, plan: Plan, ahead: dict[SiteId, SiteLedger]) -> list[Op]:
        """An app that is gone leaves nothing here; sites let its instances go when it is in no slice."""
        key = (plan.account, plan.app)
        gone = (keys.plan_head, keys.release, keys.blocked, keys.decided_demand, keys.daily_demand)
        ops: list[Op] = [Delete(key=key_of(*key)) for key_of in gone]
        ops += [Delete(key=keys.plan(*key, old.generation)) for old in self._plans(key)]
        return ops + self._ledger_ops(snapshot, plan, ahead, growing=False)

    def _decided_on_ops(self, key: AppKey, world: World) -> list[Op]:
        """What the plan was decided on, for the next control; apps without users have none."""
        at = keys.decided_demand(*key)
        held = self._mirror.get(at, DecidedDemand)
        asked = DecidedDemand(account=key[0], app=key[1], rps=world.demand or {})
        if asked.rps == (held.rps if held else {}):
            return []
        return [Put(key=at, value=record.encode(asked)) if asked.rps else Delete(key=at)]

    async def _sweep(self, key: AppKey) -> None:
        """Versions and deployments of an app that is gone, should whoever deleted it have died before that. Idempotent."""
        ops: list[Op] = [
            Delete(key=keys.version(*key, v.id)) for v in self._mirror.select(f"{keys.VERSIONS}{key[0]}/{key[1]}/", Version)
        ]
        found = self._mirror.select(f"{keys.DEPLOYMENTS}{key[0]}/{key[1]}/", Deployment)
        ops += [Delete(key=keys.deployment(*key, d.created_ms, d.id)) for d in found]
        for start in range(0, len(ops), OPS_MAX):
            await self._store.transact([Check(key=keys.app(*key), revision=0)], ops[start : start + OPS_MAX])

    def _prune_ops(self, release: Release, plan: Plan) -> list[Op]:
        """Drop the oldest plans, but never one that some site executes."""
        old = [p for p in self._plans((plan.account, plan.app)) if p.id not in (release.plan, release.previous)]
        gone = old[: max(0, len(old) - PLANS_KEPT)]
        return [Delete(key=keys.plan(plan.account, plan.app, p.generation)) for p in gone]

    def _release(self, snapshot: Snapshot, plan: Plan) -> Release:
        """Judged against the newest plan known to be good, also when another plan is decided while a release is under way."""
        before, parent = snapshot.release, snapshot.parent
        # Without a release the parent is the plan of an app of this name that was deleted: its versions are gone.
        continues = before is not None and parent is not None and bool(parent.placements) and not brings_new_version(plan, parent)
        name = previous_plan(before, continues=continues)
        proven = self._plan_by_id((plan.account, plan.app), name) if name else None
        if proven is not None and not proven.placements:
            proven = None  # one that ran nothing is nothing to go back to
        executed = proven or (parent if continues else None)
        demand = self._observed.asked(plan.account, plan.app) or planned_demand(plan)
        steps = waves(plan, executed, tuple(view.site for view in snapshot.world.sites), demand)
        held = False
        if continues and before is not None and before.state == "running":
            steps = _continued(steps, plan, released_sites(before))
            held = before.paused
        begun = not held or (before is not None and bool(released_sites(before) & _sites_of(plan)))
        return Release(
            account=plan.account,
            app=plan.app,
            plan=plan.id,
            previous=executed.id if executed else None,
            state="running",
            waves=steps,
            wave=0 if begun else -1,
            wave_since_ms=self._clock.now_ms(),
            gated=proven is None or brings_new_version(plan, proven),
            paused=held,
        )

    def _plan_by_id(self, key: AppKey, plan_id: PlanId) -> Plan | None:
        return next((plan for plan in self._plans(key) if plan.id == plan_id), None)

    def _plans(self, key: AppKey) -> list[Plan]:
        """Oldest first."""
        return list(self._mirror.select(f"{keys.PLANS}{key[0]}/{key[1]}/", Plan))

    def _ledger_ops(self, snapshot: Snapshot, plan: Plan, ahead: dict[SiteId, SiteLedger], *, growing: bool) -> list[Op]:
        """Move this app's reservations to what the plan holds; every ledger is among the snapshot's checks."""
        wanted = {held.site: held for held in reservations(plan, snapshot.versions)}
        return ledger_changes(self._mirror, plan.account, plan.app, wanted, growing=growing, ahead=ahead)[1]


def previous_plan(release: Release | None, *, continues: bool) -> PlanId | None:
    """The newest plan known to be good. `continues`: the next plan brings nothing that this release does not bring."""
    if release is None:
        return None
    if release.state == "done":
        return release.plan
    if continues:
        return release.previous
    if release.previous is None:
        return release.plan
    if release.state == "running" and release.wave > 0:
        return release.plan  # its canary was good, and most sites may have it
    return release.previous


def _continued(steps: Waves, plan: Plan, released: frozenset[SiteId]) -> Waves:
    """Sites that run the new versions already go on with them; the others follow in their order."""
    going_on = released & _sites_of(plan)
    rest = (tuple(site for site in wave if site not in going_on) for wave in steps)
    return tuple(wave for wave in (tuple(sorted(going_on)), *rest) if wave)


def _sites_of(plan: Plan) -> frozenset[SiteId]:
    return frozenset(placement.site for placement in plan.placements)


def _leading(evaluations: tuple[Evaluation, ...]) -> Evaluation:
    """The one whose cause the plan names: that of a background pass only where nobody else asks."""
    return next((e for e in evaluations if e.cause != "rebalance"), evaluations[0])


def _answered(evaluations: tuple[Evaluation, ...]) -> list[Op]:
    return [Delete(key=keys.evaluation(e.account, e.app, e.id)) for e in evaluations]


def _of_evaluations(snapshot: Snapshot) -> tuple[Check, ...]:
    return tuple(check for check in snapshot.checks if check.key.startswith(keys.EVALUATIONS))


def _deleted(key: AppKey, evaluation: Evaluation) -> App:
    """Stands for an app that is gone: it wants nothing anywhere."""
    now_ms = evaluation.created_ms
    return App(account=key[0], name=key[1], tag="", created_ms=now_ms, modified_ms=now_ms, generation=0, enabled=False)
