"""Rollouts: releases move on when the sites that have the new plan are healthy, and back when they are not.

A rollback of a deployment is a deployment: the one that served before becomes the app's intent again, so that
what is wanted and what runs never differ in silence. A `Release` that is rolled back without a predecessor
stays as it is, for people to see.
"""

from collections.abc import Mapping

import structlog
from msgspec.structs import replace

from skerry.core.machines.rollout import RolloutSettings, SiteFacts, step
from skerry.core.placement.ledger import reservations
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.ids import AccountId, AppName, DeploymentId, EvaluationId, PlanId, SiteId
from skerry.core.types.plan import Evaluation, Plan, Release
from skerry.core.types.slices import SERVING_STATES, ObservedInstance
from skerry.kit import record
from skerry.kit.hashing import stable_id
from skerry.ports.clock import Clock
from skerry.ports.store import Check, Conflict, Op, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.ledger import ledger_changes
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed

log = structlog.get_logger()

ROLLBACK_SOURCE = "skerry"  # of a deployment that nobody but the platform made
CRASHES_MAX = 3  # restarts in a row after which an instance of a new version counts as failed
TICK_MS = 100  # while a release is under way: settle times and time-outs are looked at this often
IDLE_MS = 1_000
RETRY_DELAY_MS = 200


AppKey = tuple[AccountId, AppName]


class Rollouts:
    def __init__(
        self, store: Store, mirror: Mirror, observed: Observed, clock: Clock, settings: RolloutSettings | None = None
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._observed = observed
        self._clock = clock
        self._settings = settings or RolloutSettings()

    async def run(self) -> None:
        while True:
            revision = self._mirror.revision
            try:
                busy = await self.step()
            except Conflict:
                await self._mirror.wait_beyond(revision, wait_ms=TICK_MS)
                continue
            except StoreError as error:
                log.warning("rollouts_wait", error=str(error))
                await self._clock.sleep_ms(RETRY_DELAY_MS)
                continue
            if busy:
                await self._observed.wait_beyond(self._observed.version, wait_ms=TICK_MS)
            else:
                await self._mirror.wait_beyond(revision, wait_ms=IDLE_MS)

    async def step(self) -> bool:
        """Look at every release that is under way; whether there is any. Raises `StoreError`."""
        running = [(r.account, r.app) for r in self._mirror.select(keys.RELEASES, Release) if r.state == "running"]
        for key in running:
            await self._advance(key)
        return bool(running)

    async def _advance(self, key: AppKey) -> None:
        """From reading the release to asking for its revision nothing is awaited: it is this one that is replaced."""
        release = self._mirror.get(keys.release(*key), Release)
        plan = self._plan(release, release.plan) if release else None
        if release is None or plan is None:
            return
        facts = self._facts(plan, gated=release.gated)
        after = step(release, facts, now_ms=self._clock.now_ms(), settings=self._settings)
        if after != release:
            await self._commit(release, after, plan)

    async def _commit(self, before: Release, after: Release, plan: Plan) -> None:
        key = (before.account, before.app)
        guarded = [keys.release(*key), keys.app(*key)]
        ops: list[Op] = [Put(key=keys.release(*key), value=record.encode(after))]
        final = plan if after.state == "done" else None
        if after.state == "rolled_back":
            log.warning("rolled_back", account=key[0], app=key[1], plan=before.plan, detail=after.detail)
            reverting = self._revert_ops(after, plan)
            ops += reverting
            final = None if reverting else self._plan(after, after.previous or after.plan)
        checks = [self._mirror.check(guard) for guard in guarded]
        if final is not None:
            more_checks, more_ops = self._give_back(final)
            checks, ops = checks + more_checks, ops + more_ops
        revision = await self._store.transact(checks, ops)
        while self._mirror.revision < revision:
            await self._mirror.wait_beyond(self._mirror.revision, wait_ms=IDLE_MS)

    def _give_back(self, plan: Plan) -> tuple[list[Check], list[Op]]:
        """What the plan that sites execute from now on does not need."""
        versions = {v.id: v for v in self._mirror.select(f"{keys.VERSIONS}{plan.account}/{plan.app}/", Version)}
        if any(placement.version not in versions for placement in plan.placements):
            return [], []
        wanted = {held.site: held for held in reservations(plan, versions)}
        return ledger_changes(self._mirror, plan.account, plan.app, wanted, growing=False)

    def _revert_ops(self, release: Release, plan: Plan) -> list[Op]:
        """Make the deployment of the previous plan the app's intent again, if the failed one still is."""
        key = (release.account, release.app)
        app = self._mirror.get(keys.app(*key), App)
        good = self._plan(release, release.previous) if release.previous else None
        if app is None or good is None or good.deployment in (None, plan.deployment) or app.deployment != plan.deployment:
            return []
        shares, failed = self._shares(key, good.deployment), self._shares(key, plan.deployment)
        if shares is None or (failed is not None and failed.shares == shares.shares):
            return []  # the same again would fail again, and again
        now_ms = self._clock.now_ms()
        deployment = Deployment(
            id=DeploymentId(_uuid_from("rollback", release.plan)),
            account=key[0],
            app=key[1],
            created_ms=now_ms,
            shares=shares.shares,
            source=ROLLBACK_SOURCE,
            message=f"Automatic rollback: {release.detail}"[:500],
        )
        evaluation = Evaluation(
            id=EvaluationId(stable_id("rollback", release.plan, length=32)),
            account=key[0],
            app=key[1],
            cause="deploy",
            created_ms=now_ms,
            detail=deployment.message,
        )
        reverted = replace(app, deployment=deployment.id, modified_ms=now_ms, generation=app.generation + 1)
        return [
            Put(key=keys.deployment(*key, now_ms, deployment.id), value=record.encode(deployment)),
            Put(key=keys.app(*key), value=record.encode(reverted)),
            Put(key=keys.evaluation(*key, evaluation.id), value=record.encode(evaluation)),
        ]

    def _facts(self, plan: Plan, *, gated: bool) -> Mapping[SiteId, SiteFacts]:
        """What sites say about the plan's instances. One that has yet to be heard is not ready.

        A lost site says nothing, and nobody waits for it; but it cannot vouch for a new version: that waits for the next
        plan, which will be without the site.
        """
        sites: dict[SiteId, list[tuple[str, int]]] = {}
        for placement in plan.placements:
            sites.setdefault(placement.site, []).append((placement.version, placement.count))
        return {
            site: self._site_facts(plan, site, wanted)
            if self._observed.is_known(site) and not self._observed.is_lost(site)
            else SiteFacts(site=site, ready=False, failed=False, detail="it does not answer")
            for site, wanted in sites.items()
            if gated or not self._observed.is_lost(site)
        }

    def _site_facts(self, plan: Plan, site: SiteId, wanted: list[tuple[str, int]]) -> SiteFacts:
        own = [
            h.instance for h in self._observed.instances(site) if (h.instance.account, h.instance.app) == (plan.account, plan.app)
        ]
        ready, failed, detail = True, False, ""
        for version, count in wanted:
            of_version = [i for i in own if i.version == version]
            ready = ready and sum(i.state in SERVING_STATES for i in of_version) >= count
            broken = next((i for i in of_version if _is_broken(i)), None)
            if broken is not None:
                failed, detail = True, broken.detail or broken.state
        return SiteFacts(site=site, ready=ready, failed=failed, detail=detail)

    def _plan(self, release: Release, plan_id: PlanId) -> Plan | None:
        found = self._mirror.select(f"{keys.PLANS}{release.account}/{release.app}/", Plan)
        return next((plan for plan in found if plan.id == plan_id), None)

    def _shares(self, key: tuple[AccountId, AppName], deployment_id: DeploymentId | None) -> Deployment | None:
        found = self._mirror.select(f"{keys.DEPLOYMENTS}{key[0]}/{key[1]}/", Deployment)
        return next((deployment for deployment in found if deployment.id == deployment_id), None)


def _is_broken(instance: ObservedInstance) -> bool:
    return instance.state == "failed" or (instance.state == "backoff" and instance.restarts >= CRASHES_MAX)


def _uuid_from(*parts: str) -> str:
    """A UUID that every replica derives alike (RFC 9562, version 8: custom)."""
    digits = stable_id(*parts, length=32)
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"
