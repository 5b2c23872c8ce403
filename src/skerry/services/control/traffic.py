"""Sites' counts as they arrive: each app's demand by site, and what each version made of its requests. In memory only."""

from collections.abc import Mapping
from dataclasses import dataclass

from skerry.core.machines.demand import DemandSettings, Series, demand_of, observe
from skerry.core.types.demand import AppTraffic, SiteDemand, SiteTraffic, VersionTraffic
from skerry.core.types.gate import VersionFacts
from skerry.core.types.ids import AccountId, AppName, SiteId, VersionId

AppKey = tuple[AccountId, AppName]


@dataclass
class _Heard:
    """Of one app from one site. `last` None: nothing in this epoch of the site."""

    series: Series
    last: AppTraffic | None = None


class Traffic:
    """What is known of every app's users."""

    def __init__(self, settings: DemandSettings | None = None) -> None:
        self._settings = settings or DemandSettings()
        self._epochs: dict[SiteId, str] = {}
        self._apps: dict[AppKey, dict[SiteId, _Heard]] = {}

    def hear(self, site: SiteId, epoch: str, traffic: SiteTraffic, *, now_ms: int) -> None:
        """Take a site's counts in, as they come (`now_ms`: wall clock). The same counts again change nothing."""
        if self._epochs.get(site) != epoch:
            self._epochs[site] = epoch
            for of_app in self._apps.values():
                if site in of_app:
                    of_app[site].last = None
        for told in traffic.apps:
            heard = self._apps.setdefault((told.account, told.app), {}).setdefault(site, _Heard(series=Series()))
            requests, since_ms = told.new, told.since_ms
            if heard.last is not None and heard.last.at_ms > since_ms:  # told again, as the site does not know that it arrived
                requests, since_ms = told.requests - heard.last.requests, heard.last.at_ms
            if told.at_ms > since_ms and requests >= 0:
                heard.series = observe(heard.series, requests, told.at_ms - since_ms, now_ms=now_ms, settings=self._settings)
                heard.last = told

    def of(self, key: AppKey, *, now_ms: int) -> tuple[SiteDemand, ...]:
        """Demand by the site that users come in at, which stands for their metro; by site id."""
        found = sorted(self._apps.get(key, {}).items())
        return tuple(demand_of(site, heard.series, now_ms=now_ms, settings=self._settings) for site, heard in found)

    def told(self, key: AppKey, site: SiteId) -> AppTraffic | None:
        """The last word of a site about an app, in sums since its counters began."""
        heard = self._apps.get(key, {}).get(site)
        return heard.last if heard else None

    def facts(self, site: SiteId, account: AccountId, app: AppName) -> Mapping[VersionId, VersionFacts]:
        """What the site's instances made of their requests, by version; sums since its counters began."""
        told = self.told((account, app), site)
        return {entry.version: _facts(entry) for entry in told.versions} if told else {}

    def keep(self, apps: frozenset[AppKey], sites: frozenset[SiteId]) -> None:
        """Forget apps and sites that are gone."""
        for key in [key for key in self._apps if key not in apps]:
            del self._apps[key]
        for site in [site for site in self._epochs if site not in sites]:
            del self._epochs[site]
            for of_app in self._apps.values():
                of_app.pop(site, None)


def _facts(counted: VersionTraffic) -> VersionFacts:
    return VersionFacts(requests=counted.requests, errors=counted.errors, latency_ms_sum=float(counted.latency_ms_sum))
