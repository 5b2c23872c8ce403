"""Plans that are only looked at: what a change would make of the apps that there are, decided by the placer's own code."""

from collections.abc import Mapping
from typing import final

import anyio.lowlevel
from msgspec.structs import replace

from skerry.core.placement.difference import difference
from skerry.core.placement.ledger import reservations
from skerry.core.placement.place import place
from skerry.core.placement.world import SiteView, World
from skerry.core.policy.scale import scale_faults
from skerry.core.policy.scale_changes import changed_scale
from skerry.core.types.app import App
from skerry.core.types.change import Change
from skerry.core.types.control import SiteIntent
from skerry.core.types.ids import AccountId, AppName, EvaluationId, SiteId
from skerry.core.types.place import Site
from skerry.core.types.plan import Evaluation, Placement, Plan
from skerry.core.types.resources import Resources
from skerry.core.types.view import AppDifference, PlanDifference
from skerry.ports.clock import Clock
from skerry.ports.operations import Invalid, NotFound
from skerry.services.control import keys
from skerry.services.control.alone import Alone
from skerry.services.control.exchanges import Exchanged, Exchanges
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.placer import AppKey, Placer, Snapshot

APPS_MAX = 2_000  # that one answer looks at: each is a whole decision


@final
class DryRun:
    """Nothing is written. Apps are decided one after the other, by name, each beside what those before it would take."""

    def __init__(self, mirror: Mirror, observed: Observed, placer: Placer, clock: Clock, exchanges: Exchanges) -> None:
        self._mirror = mirror
        self._observed = observed
        self._placer = placer
        self._clock = clock
        self._exchanges = exchanges
        self._alone = Alone(placer, exchanges)

    async def difference(self, seen: AccountId | None, account: AccountId, change: Change) -> PlanDifference:
        """`account` has the apps that the change names; `seen` None: every account's apps may be looked at.

        Raises `NotFound` for a name that is not there, `Invalid` for a scale that makes no sense.
        """
        if change.rebalance:
            return await self._rebalanced(seen, change)
        sites = self._changed_sites(change)
        changed = self._changed_apps(account, change, sites)
        wanted = self._concerned(seen, changed, everything=bool(change.sites))
        lost = frozenset(SiteId(name) for name in change.sites if self._observed.is_lost(SiteId(name)))
        grown: dict[SiteId, Resources] = {}
        found: list[AppDifference] = []
        for key in wanted[:APPS_MAX]:
            asked = changed.get(key)
            snapshot = self._placer.preview(key, asked.scale if asked else None)
            app = asked or snapshot.app
            if app is None:
                continue
            plan = self._decided(snapshot, app, _world(snapshot.world, change, lost, grown))
            entry = difference(snapshot.parent, plan, snapshot.world, snapshot.versions)
            if entry is not None:
                found.append(entry)
                _grow(grown, snapshot, plan)
            await anyio.lowlevel.checkpoint()
        return PlanDifference(
            apps=tuple(found),
            looked_at=min(len(wanted), APPS_MAX),
            left_out=max(0, len(wanted) - APPS_MAX),
            remarks=_remarks(change, lost),
        )

    async def _rebalanced(self, seen: AccountId | None, change: Change) -> PlanDifference:
        if seen is not None:
            raise Invalid("what moves together may be of any account: only an operator may look at it")
        if change.apps or change.sites:
            raise Invalid("rebalancing is looked at as everything is now", hint="ask for one of both")
        apps = sorted((app.account, app.name) for app in self._mirror.select(keys.APPS, App) if app.deployment and app.enabled)
        looked, now_ms = apps[:APPS_MAX], self._clock.now_ms()
        found = await self._exchanges.find(looked, now_ms)
        left = self._placer.worlds.settings().rebalance_moves_max - sum(one.starts for one in found.exchanged)
        alone = await self._alone.find([key for key in looked if key not in found.members], left, now_ms)
        shown: list[AppDifference] = []
        for each in found.exchanged:
            wanted = {(one.account, one.app): one.wanted for step in each.steps for one in step}
            for key, last in sorted(wanted.items()):
                snapshot = self._placer.preview(key)
                if snapshot.parent is None or last is None:
                    continue
                version = snapshot.parent.placements[0].version
                placed = tuple(Placement(site=site, version=version, count=count) for site, count in sorted(last.has.items()))
                plan = replace(snapshot.parent, placements=placed)
                entry = difference(snapshot.parent, plan, snapshot.world, snapshot.versions)
                shown += [entry] if entry is not None else []
        for one in alone:
            snapshot = self._placer.preview((one.plan.account, one.plan.app))
            entry = difference(snapshot.parent, one.plan, snapshot.world, snapshot.versions)
            shown += [entry] if entry is not None else []
        return PlanDifference(
            apps=tuple(shown),
            looked_at=len(looked),
            left_out=max(0, len(apps) - APPS_MAX),
            remarks=(
                *(_exchange_remark(each) for each in found.exchanged),
                *(f"{one.plan.app}: {one.evaluation.detail}" for one in alone),
            ),
        )

    def _decided(self, snapshot: Snapshot, app: App, world: World) -> Plan:
        now_ms = self._clock.now_ms()
        asked = Evaluation(id=EvaluationId("dry-run"), account=app.account, app=app.name, cause="scale", created_ms=now_ms)
        return place(world, app, snapshot.shares, evaluation=asked, parent=snapshot.parent, now_ms=now_ms)

    def _changed_sites(self, change: Change) -> dict[SiteId, Site]:
        sites = {intent.site.id: intent.site for intent in self._mirror.select(keys.SITES, SiteIntent)}
        for name, wanted in sorted(change.sites.items()):
            site = sites.get(SiteId(name))
            if site is None:
                raise NotFound(f"there is no site {name[:64]!r}", hint="`skerry sites` lists them")
            sites[site.id] = replace(site, state=wanted.state)
        return sites

    def _changed_apps(self, account: AccountId, change: Change, sites: Mapping[SiteId, Site]) -> dict[AppKey, App]:
        found: dict[AppKey, App] = {}
        for name, wanted in sorted(change.apps.items()):
            app = self._mirror.get(keys.app(account, AppName(name)), App)
            if app is None:
                raise NotFound(f"there is no app {name[:64]!r} in this account", hint="`skerry apps` lists them")
            try:
                scale = changed_scale(app.scale, wanted.scale)
            except ValueError as error:
                raise Invalid(f"the scale of {name} is not one: {error}") from None
            faults = scale_faults(scale, tuple(sites.values()), before=app.scale)
            if faults:
                raise Invalid(f"the scale of {name} cannot be kept: {'; '.join(faults)}")
            found[account, app.name] = replace(app, scale=scale, generation=app.generation + 1)
        return found

    def _concerned(self, seen: AccountId | None, changed: Mapping[AppKey, App], *, everything: bool) -> list[AppKey]:
        """A site that changes may concern every app."""
        if not everything:
            return sorted(changed)
        apps = self._mirror.select(keys.APPS, App)
        return sorted((app.account, app.name) for app in apps if seen in (None, app.account))


def _world(world: World, change: Change, lost: frozenset[SiteId], grown: Mapping[SiteId, Resources]) -> World:
    return replace(world, sites=tuple(_view(view, change, lost, grown) for view in world.sites))


def _view(view: SiteView, change: Change, lost: frozenset[SiteId], grown: Mapping[SiteId, Resources]) -> SiteView:
    """What the change does not say is as control sees it; and no word of an operator brings a lost city back."""
    wanted = None if view.site.id in lost else change.sites.get(view.site.id)
    site = replace(view.site, state=wanted.state) if wanted else view.site
    return replace(view, site=site, others=view.others + grown.get(site.id, Resources()))


def _exchange_remark(found: Exchanged) -> str:
    names = sorted({one.app for step in found.steps for one in step})
    steps = f"in {len(found.steps)} steps, as room has to be made first" if len(found.steps) > 1 else "at once"
    return f"{', '.join(names)}: {steps}; {found.gain:.0f} of what is minimised is saved, {found.starts} instance(s) start"


def _remarks(change: Change, lost: frozenset[SiteId]) -> tuple[str, ...]:
    named = sorted(site for site in lost if change.sites[site].state != "down")
    return tuple(f"{site} is lost: whatever an operator says of it, nothing is placed there until it reports" for site in named)


def _grow(grown: dict[SiteId, Resources], snapshot: Snapshot, plan: Plan) -> None:
    """What the plan takes more than is reserved now. What it gives back is not given to others: that takes a while."""
    held = {entry.site: entry.resources for entry in reservations(snapshot.parent, snapshot.versions)} if snapshot.parent else {}
    for entry in reservations(plan, snapshot.versions):
        grown[entry.site] = grown.get(entry.site, Resources()) + entry.resources.less(held.get(entry.site, Resources()))
