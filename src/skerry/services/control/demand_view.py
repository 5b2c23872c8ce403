"""An app's demand as people see it: by city, with what runs there."""

from collections import Counter
from collections.abc import Iterable, Mapping

from skerry.core.types.demand import SiteDemand
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.slices import InstanceState
from skerry.core.types.view import CityDemand, DemandView
from skerry.core.types.view_map import CityRate
from skerry.services.control.observed import Observed

SHOWN_DIGITS = 3  # of requests per second; the rest is noise


AppKey = tuple[AccountId, AppName]
States = Mapping[SiteId, Counter[InstanceState]]


def instance_states(observed: Observed, sites: Iterable[SiteId]) -> dict[AppKey, dict[SiteId, Counter[InstanceState]]]:
    """How many instances of each app are in which state, by site."""
    found: dict[AppKey, dict[SiteId, Counter[InstanceState]]] = {}
    for site in sites:
        for held in observed.instances(site):
            seen = held.instance
            found.setdefault((seen.account, seen.app), {}).setdefault(site, Counter())[seen.state] += 1
    return found


def demand_view(observed: Observed, key: AppKey, account_name: str, states: States) -> DemandView:
    """`states`: of the app's instances, by site."""
    demand = {entry.site: entry for entry in observed.demand(*key)}
    cities = tuple(
        _city(observed, key, site, demand.get(site), states.get(site, Counter())) for site in sorted({*demand, *states})
    )
    return DemandView(
        account=key[0],
        account_name=account_name,
        app=key[1],
        rps=_rounded(sum(city.rps for city in cities)),
        expected_rps=_rounded(sum(city.expected_rps for city in cities)),
        asked_rps=_rounded(sum(city.asked_rps for city in cities)),
        instances=sum(city.instances for city in cities),
        cities=cities,
    )


def demand_sentence(demand: SiteDemand) -> str:
    """For `explain`."""
    said = f"users who come in here ask for {demand.smoothed_rps:.3g} requests/s"
    if demand.expected_rps > 1.05 * demand.smoothed_rps:
        said += f", {demand.expected_rps:.3g} are expected"
    return f"{said}; planned for: {demand.asked_rps:.3g}"


def city_rates(demand: Iterable[SiteDemand]) -> tuple[CityRate, ...]:
    """For the map."""
    return tuple(CityRate(site=entry.site, rps=_rounded(entry.rps)) for entry in demand if entry.rps > 0)


def _city(observed: Observed, key: AppKey, site: SiteId, demand: SiteDemand | None, states: Counter[InstanceState]) -> CityDemand:
    told = observed.traffic.told(key, site)
    return CityDemand(
        site=site,
        rps=_rounded(demand.rps if demand else 0.0),
        smoothed_rps=_rounded(demand.smoothed_rps if demand else 0.0),
        expected_rps=_rounded(demand.expected_rps if demand else 0.0),
        forecast_rps=None if demand is None or demand.forecast_rps is None else _rounded(demand.forecast_rps),
        asked_rps=_rounded(demand.asked_rps if demand else 0.0),
        requests=told.requests if told else 0,
        errors=told.errors if told else 0,
        instances=states.total(),
        states=dict(sorted(states.items())),
    )


def _rounded(rps: float) -> float:
    return round(rps, SHOWN_DIGITS)
