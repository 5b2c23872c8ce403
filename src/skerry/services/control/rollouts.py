"""Rollouts: releases move on when the sites that have the new plan are healthy, and back when they are not.

A rollback of a deployment is a deployment: the one that served before becomes the app's intent again, so that
what is wanted and what runs never differ in silence. A `Release` that is rolled back without a predecessor
stays as it is, for people to see. What operators say (pause, resume, abort) is written into the release, under the same
compare-and-set as its own steps, so that it holds for every control and over restarts.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import structlog
from msgspec.structs import replace

from skerry.core.machines.gate import total
from skerry.core.machines.rollout import RolloutSettings, SiteFacts, abort, pause, planned_demand, resume, step, versions_of
from skerry.core.placement.ledger import reservations
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.gate import VersionFacts
from skerry.core.types.ids import AccountId, AppName, DeploymentId, EvaluationId, PlanId, SiteId, VersionId
from skerry.core.types.plan import Evaluation, Plan, Release
from skerry.core.types.slices import GOOD_STATES, ObservedInstance
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
Word = Literal["pause", "resume", "abort"]
Counts = Callable[[SiteId, AccountId, AppName], Mapping[VersionId, VersionFacts]]
"""What a site counted of an app's requests, by version; the reports' counts by default. Empty: the gate is readiness alone."""


class NothingToChange(Exception):
    """No rollout is under way, or it has nowhere to go back to; the text says which."""


class Rollouts:
    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        observed: Observed,
        clock: Clock,
        *,
        settings: RolloutSettings | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._counts = counts or observed.traffic.facts
        self._store = store
        self._mirror = mirror
        self._observed = observed
        self._clock = clock
        self._looking_since_ms = clock.now_ms()
        self.settings = settings or RolloutSettings()

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
        releases = self._mirror.select(keys.RELEASES, Release)
        running = [(r.account, r.app) for r in releases if r.state == "running" and not r.paused]
        for key in running:
            await self._advance(key)
        return bool(running)

    async def _advance(self, key: AppKey) -> None:
        """From reading the release to asking for its revision nothing is awaited: it is this one that is replaced."""
        release = self._mirror.get(keys.release(*key), Release)
        plan = self.plan(release, release.plan) if release else None
        if release is None or plan is None:
            return
        facts = self.facts(release, plan)
        now_ms = self._clock.now_ms()
        after = step(release, facts, now_ms=now_ms, settings=self.settings, looking_since_ms=self._looking_since_ms)
        if after != release:
            await self._commit(release, after, plan)

    async def say(self, key: AppKey, word: Word) -> None:
        """An operator's word about the release that is under way. Raises `NothingToChange` and `StoreError`."""
        release = self._mirror.get(keys.release(*key), Release)
        plan = self.plan(release, release.plan) if release else None
        if release is None or plan is None or release.state != "running":
            raise NothingToChange(f"no rollout of {key[1]} is under way")
        if word == "abort":
            after = abort(release, "aborted by an operator")
            if after == release:
                raise NothingToChange(f"this rollout of {key[1]} brings no new version: there is nothing to go back to")
        else:
            after = pause(release) if word == "pause" else resume(release, self._clock.now_ms())
        if after != release:
            log.info("rollout_told", account=key[0], app=key[1], word=word)
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
            final = None if reverting else self.plan(after, after.previous or after.plan)
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
        good = self.plan(release, release.previous) if release.previous else None
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

    def facts(self, release: Release, plan: Plan) -> dict[SiteId, SiteFacts]:
        """What sites say about the plan's instances. One that has yet to be heard is not ready.

        A lost site says nothing, and nobody waits for it; but it cannot vouch for a new version: that waits for the next
        plan, which will be without the site.
        """
        previous = self.plan(release, release.previous) if release.previous else None
        leaving_next = not release.gated and 0 <= release.wave < len(release.waves) - 1
        since_ms = release.wave_since_ms if leaving_next else 0
        sites: dict[SiteId, list[tuple[VersionId, int]]] = {}
        for placement in plan.placements:
            sites.setdefault(placement.site, []).append((placement.version, placement.count))
        return {
            site: self._with_counts(self._site_facts(plan, site, wanted, since_ms), plan, previous)
            if self._observed.is_known(site) and not self._observed.is_lost(site)
            else SiteFacts(site=site, ready=False, failed=False, detail="it does not answer")
            for site, wanted in sites.items()
            if release.gated or not self._observed.is_lost(site)
        }

    def _with_counts(self, facts: SiteFacts, plan: Plan, previous: Plan | None) -> SiteFacts:
        if previous is None:
            return facts
        asked = self._observed.traffic.rps((plan.account, plan.app), facts.site)
        counted = self._counts(facts.site, plan.account, plan.app)
        before = versions_of(previous)
        new = versions_of(plan) - before
        return replace(
            facts,
            old=total(counted[version] for version in sorted(before) if version in counted),
            new=total(counted[version] for version in sorted(new) if version in counted),
            rps=asked,
        )

    def _site_facts(self, plan: Plan, site: SiteId, wanted: list[tuple[VersionId, int]], since_ms: int) -> SiteFacts:
        """`since_ms`: it has to have said so since then."""
        own = [
            h.instance for h in self._observed.instances(site) if (h.instance.account, h.instance.app) == (plan.account, plan.app)
        ]
        ready, failed, detail = True, False, ""
        for version, count in wanted:
            of_version = [i for i in own if i.version == version]
            if sum(i.state in GOOD_STATES for i in of_version) < count:
                ready = False
                detail = next((i.detail for i in of_version if i.detail and i.state not in GOOD_STATES), detail)
            broken = next((i for i in of_version if _is_broken(i)), None)
            if broken is not None:
                failed, detail = True, broken.detail or broken.state
        if self._observed.opinion(site).state != "up" or (self._observed.seen_at_ms(site) or 0) < since_ms:
            ready, detail = False, detail or "it is silent"  # what it said last may not be so any more: nobody is to leave for it
        return SiteFacts(site=site, ready=ready, failed=failed, detail=detail)

    def demand(self, plan: Plan) -> Mapping[SiteId, float]:
        """By which cities' shares are reckoned: users who were counted, else where instances are."""
        return self._observed.asked(plan.account, plan.app) or planned_demand(plan)

    def plan(self, release: Release, plan_id: PlanId) -> Plan | None:
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
