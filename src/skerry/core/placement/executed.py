"""Which plan of a release a site executes right now."""

from skerry.core.types.ids import PlanId, SiteId
from skerry.core.types.plan import Release


def released_sites(release: Release) -> frozenset[SiteId]:
    """The sites of all waves up to the current one."""
    return frozenset(site for wave in release.waves[: release.wave + 1] for site in wave)


def executed_plan(release: Release, site: SiteId) -> PlanId | None:
    """Released sites follow the release's plan, the others the previous one; None: nothing of the app.

    A release that was rolled back and has nothing to go back to stays where it is: what of it works, serves.
    """
    if release.state == "done":
        return release.plan
    if release.state == "rolled_back":
        return release.previous or release.plan
    return release.plan if site in released_sites(release) else release.previous
