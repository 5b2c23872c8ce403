"""Control: from plans and releases to what each site executes."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from skerry.core.placement.executed import executed_plan
from skerry.core.placement.order import fallback_order
from skerry.core.policy.places import place_rejection
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.ids import AccountId, AppName, DeploymentId, PlanId, SiteId, VersionId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan, Release
from skerry.core.types.slices import SliceApp, SliceVersion
from skerry.kit.record import Record

WEIGHT_FULL = 256  # the whole of an app's traffic
LAST_WORD_MS = 30_000  # before a site is given up, it may have been unable to hear for so long


class LostSite(Record):
    """One that control has given up, and when (wall clock, milliseconds)."""

    site: Site
    since_ms: int


def site_slice_apps(  # noqa: PLR0917 (control's whole intent, each by its noun)
    site: Site,
    releases: tuple[Release, ...],
    plans: Mapping[PlanId, Plan],
    versions: Mapping[VersionId, Version],
    apps: Mapping[tuple[AccountId, AppName], App],
    account_names: Mapping[AccountId, str],
    deployments: Mapping[DeploymentId, Deployment],
    sites: tuple[Site, ...],
    suffix: str,
    lost: Mapping[SiteId, int] | None = None,
) -> tuple[SliceApp, ...]:
    """What `site` runs and routes, ordered by account and app. `lost`: sites that control has given up, and when.

    One release per app. Every enabled app is in every site's answer, if only with fallbacks; a disabled one is there without
    hosts while a plan in force still runs it here; a deleted one is not there. A plan or a version in force that
    is missing is a broken store: KeyError, so that sites keep the slice they have.
    """
    entries: list[SliceApp] = []
    order = by_fallback(site, sites)
    given_up = tuple(LostSite(site=other, since_ms=lost[other.id]) for other in sites if lost and other.id in lost)
    for release in sorted(releases, key=lambda release: (release.account, release.app)):
        app = apps.get((release.account, release.app))
        if app is None:
            continue
        name = account_names.get(release.account, "")
        resorts = last_resorts([p for p in plans.values() if p.app == app.name and p.account == app.account], given_up)
        entry = site_slice_app(site.id, order, release, app, name, plans, versions, deployments, suffix, resorts)
        if entry is not None:
            entries.append(entry)
    return tuple(entries)


def site_slice_app(  # noqa: PLR0917
    site: SiteId,
    order: tuple[Site, ...],
    release: Release,
    app: App,
    account_name: str,
    plans: Mapping[PlanId, Plan],
    versions: Mapping[VersionId, Version],
    deployments: Mapping[DeploymentId, Deployment],
    suffix: str,
    resorts: frozenset[SiteId] = frozenset(),
) -> SliceApp | None:
    """One app of `site_slice_apps`; `order` is the site's fallback order, `resorts` are its `last_resorts`.

    None: it is not in the slice.
    """
    executed = _executed(release, site, plans)
    enabled = app.enabled and bool(account_name)
    entry = SliceApp(
        account=release.account,
        account_name=account_name,
        app=release.app,
        plan_generation=executed.generation if executed else 0,
        versions=_slice_versions(site, executed, versions, deployments) if executed else (),
        hosts=(f"{release.app}.{account_name}.{suffix}",) if enabled and app.public_port is None else (),
        fallbacks=_fallbacks(order, release, app, plans, resorts),
        features=app.scale.features,
        priority=app.scale.priority,
        sticky=app.scale.sticky,
        public_port=app.public_port if enabled else None,
    )
    return entry if entry.hosts or entry.public_port or entry.versions else None


def last_resorts(plans: Iterable[Plan], lost: Iterable[LostSite]) -> frozenset[SiteId]:
    """Of the sites that were given up, those that ran the app until then. `plans`: all that are kept of the app.

    That control does not hear a site says nothing of its neighbours: they may reach it, and its instances serve.
    """
    mine = sorted(plans, key=lambda plan: plan.generation)
    return frozenset(entry.site.id for entry in lost if _ran_last(entry, mine))


def _ran_last(entry: LostSite, plans: Sequence[Plan]) -> bool:
    """Whether any plan that may be the last one it has heard of runs the app there."""
    before = [plan for plan in plans if plan.created_ms <= entry.since_ms]
    heard = sum(plan.created_ms <= entry.since_ms - LAST_WORD_MS for plan in before)
    return any(_runs(plan, entry.site.id) for plan in before[max(0, heard - 1) :])


def by_fallback(site: Site, sites: tuple[Site, ...]) -> tuple[Site, ...]:
    """The others in the site's fallback order, all as if they were up: what is made from it stays the same while one drains."""
    found = {other.id: other if other.state == "up" else replace(other, state="up") for other in sites}
    return tuple(found[other] for other in fallback_order(site, sites))


def _fallbacks(
    order: tuple[Site, ...], release: Release, app: App, plans: Mapping[PlanId, Plan], resorts: frozenset[SiteId]
) -> tuple[SiteId, ...]:
    """Who runs it by control's word, then, of those that still may, the last resorts and who has just been told to let go: it may
    not have heard that yet, and where the app is now a node may have died before anybody noticed."""
    sure = tuple(other.id for other in order if _runs(_executed(release, other.id, plans), other.id))
    before = plans.get(release.previous) if release.previous and release.state == "running" else None
    more = (other for other in order if other.id not in sure and (other.id in resorts or _runs(before, other.id)))
    return sure + tuple(other.id for other in more if place_rejection(other, app.scale) is None)


def _executed(release: Release, site: SiteId, plans: Mapping[PlanId, Plan]) -> Plan | None:
    plan = executed_plan(release, site)
    return plans[plan] if plan else None


def _runs(plan: Plan | None, site: SiteId) -> bool:
    return plan is not None and any(entry.site == site and entry.count > 0 for entry in plan.placements)


def _slice_versions(
    site: SiteId, plan: Plan, versions: Mapping[VersionId, Version], deployments: Mapping[DeploymentId, Deployment]
) -> tuple[SliceVersion, ...]:
    """The plan's versions here, by id, each with its share of the deployment as a weight (equal ones, if that is gone)."""
    deployment = deployments.get(plan.deployment) if plan.deployment else None
    percent = {share.version: share.percent for share in deployment.shares} if deployment else {}
    return tuple(
        SliceVersion(version=versions[entry.version], count=entry.count, weight=share_weight(percent.get(entry.version, 0.0)))
        for entry in sorted(plan.placements, key=lambda entry: entry.version)
        if entry.site == site and entry.count > 0
    )


def share_weight(percent: float) -> int:
    """256 is 100 %; a version that runs gets at least 1."""
    return max(1, min(WEIGHT_FULL, round(percent * WEIGHT_FULL / 100)))
