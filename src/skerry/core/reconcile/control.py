"""Control: from plans and releases to what each site executes."""

from collections.abc import Mapping

from skerry.core.placement.executed import executed_plan
from skerry.core.placement.order import fallback_order
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.ids import AccountId, AppName, DeploymentId, PlanId, SiteId, VersionId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan, Release
from skerry.core.types.slices import SliceApp, SliceVersion

WEIGHT_FULL = 256  # the whole of an app's traffic


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
) -> tuple[SliceApp, ...]:
    """What `site` runs and routes, ordered by account and app.

    One release per app. Every enabled app is in every site's answer, if only with fallbacks; a disabled one is there without
    hosts while a plan in force still runs it here; a deleted one is not there. A plan or a version in force that
    is missing is a broken store: KeyError, so that sites keep the slice they have.
    """
    entries: list[SliceApp] = []
    order = fallback_order(site, sites)
    for release in sorted(releases, key=lambda release: (release.account, release.app)):
        app = apps.get((release.account, release.app))
        if app is None:
            continue
        name = account_names.get(release.account, "")
        entry = site_slice_app(site.id, order, release, app, name, plans, versions, deployments, suffix)
        if entry is not None:
            entries.append(entry)
    return tuple(entries)


def site_slice_app(  # noqa: PLR0917
    site: SiteId,
    order: tuple[SiteId, ...],
    release: Release,
    app: App,
    account_name: str,
    plans: Mapping[PlanId, Plan],
    versions: Mapping[VersionId, Version],
    deployments: Mapping[DeploymentId, Deployment],
    suffix: str,
) -> SliceApp | None:
    """One app of `site_slice_apps`; `order` is the site's fallback order. None: it is not in the slice."""
    executed = _executed(release, site, plans)
    enabled = app.enabled and bool(account_name)
    entry = SliceApp(
        account=release.account,
        account_name=account_name,
        app=release.app,
        plan_generation=executed.generation if executed else 0,
        versions=_slice_versions(site, executed, versions, deployments) if executed else (),
        hosts=(f"{release.app}.{account_name}.{suffix}",) if enabled and app.public_port is None else (),
        fallbacks=tuple(other for other in order if _runs(_executed(release, other, plans), other)),
        features=app.scale.features,
        priority=app.scale.priority,
        sticky=app.scale.sticky,
        public_port=app.public_port if enabled else None,
    )
    return entry if entry.hosts or entry.public_port or entry.versions else None


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
