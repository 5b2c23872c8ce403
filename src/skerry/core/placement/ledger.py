"""What a plan holds in the ledgers of sites."""

from collections.abc import Mapping

from skerry.core.types.app import Version
from skerry.core.types.control import Reservation
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.plan import Plan
from skerry.core.types.resources import Resources


def reservations(plan: Plan, versions: Mapping[VersionId, Version]) -> tuple[Reservation, ...]:
    """One reservation per site of the plan, by site id. Raises KeyError for a version that is not in `versions`."""
    held: dict[SiteId, Resources] = {}
    for placement in plan.placements:
        amount = versions[placement.version].limits.reserve.times(placement.count)
        held[placement.site] = held.get(placement.site, Resources()) + amount
    return tuple(
        Reservation(site=site, account=plan.account, app=plan.app, resources=held[site], plan_generation=plan.generation)
        for site in sorted(held)
    )
