"""Sites' counts as they arrive: each app's demand by site, and what each version made of its requests. In memory only.

report ─► hear ─► series (what is measured) ─► asked (what to plan for) ─► moved: apps to decide again, in thought
                    └► an hour is over ─► learned: apps whose day is another, to be kept (`days`)
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

from msgspec.structs import replace

from skerry.core.machines import asked as machine
from skerry.core.machines.asked import Asked, AskedSettings
from skerry.core.machines.demand import DemandSettings, Series, demand_of, is_habit, observe
from skerry.core.machines.pattern import UNKNOWN
from skerry.core.types.demand import AppTraffic, DailyDemand, DecidedDemand, SiteDemand, SiteTraffic, VersionTraffic
from skerry.core.types.gate import VersionFacts
from skerry.core.types.ids import AccountId, AppName, SiteId, VersionId

AppKey = tuple[AccountId, AppName]


@dataclass
class _Heard:
    """Of one app from one site. `last` None: nothing in this epoch of the site. `queued`: looked at when its window ends."""

    series: Series = field(default_factory=Series)
    last: AppTraffic | None = None
    asked: Asked = field(default_factory=Asked)
    queued: bool = False


class Traffic:
    """What is known of every app's users."""

    def __init__(self, settings: DemandSettings | None = None, asked_settings: AskedSettings | None = None) -> None:
        self._settings = settings or DemandSettings()
        self._asked_settings = asked_settings or AskedSettings()
        self._epochs: dict[SiteId, str] = {}
        self._apps: dict[AppKey, dict[SiteId, _Heard]] = {}
        self._windows: list[tuple[int, int, AppKey, SiteId]] = []  # a heap, by when they end
        self._order = count()
        self._raised: dict[AppKey, None] = {}
        self._fallen: dict[AppKey, None] = {}
        self._learned: dict[AppKey, None] = {}
        self._days: dict[AppKey, dict[SiteId, bytes]] = {}  # as they were recalled, of sites that have not told of the app yet

    def hear(self, site: SiteId, epoch: str, traffic: SiteTraffic, *, now_ms: int) -> bool:
        """Take a site's counts in, as they come (`now_ms`: wall clock). The same counts again change nothing.

        Whether some app's asked demand rose: then it is time to decide.
        """
        if self._epochs.get(site) != epoch:
            self._epochs[site] = epoch
            for of_app in self._apps.values():
                if site in of_app:
                    of_app[site].last = None
        rose = False
        for told in traffic.apps:
            key = (told.account, told.app)
            heard = self._heard(key, site)
            requests, since_ms = told.new, told.since_ms
            if heard.last is not None and heard.last.at_ms > since_ms:  # told again, as the site does not know that it arrived
                requests, since_ms = told.requests - heard.last.requests, heard.last.at_ms
            if told.at_ms > since_ms and requests >= 0:
                day = heard.series.day
                heard.series = observe(heard.series, requests, told.at_ms - since_ms, now_ms=now_ms, settings=self._settings)
                heard.last = told
                if heard.series.day != day:
                    self._learned[key] = None
                rose = self._look(key, site, heard, now_ms) or rose
        return rose

    def turn(self, *, now_ms: int) -> None:
        """Look at what no site told of since its window ended. To be called about once a second."""
        while self._windows and self._windows[0][0] <= now_ms:
            _, _, key, site = heapq.heappop(self._windows)
            heard = self._apps.get(key, {}).get(site)
            if heard is not None:
                heard.queued = False
                self._look(key, site, heard, now_ms)

    def recall(self, asked: Iterable[DecidedDemand], *, now_ms: int) -> None:
        """What plans were decided on before this control started; before all else."""
        for entry in asked:
            key = (entry.account, entry.app)
            for site, rps in entry.rps.items():
                self._epochs.setdefault(site, "")
                heard = self._heard(key, site)
                if rps > heard.asked.rps:
                    heard.asked = machine.recalled(rps, now_ms=now_ms)
                self._queue(key, site, heard)

    def recall_days(self, known: Iterable[DailyDemand]) -> None:
        """What each hour of the day brings, as earlier controls learned it; before all else."""
        for entry in known:
            self._days[entry.account, entry.app] = dict(entry.days)

    def take_learned(self, limit: int) -> tuple[AppKey, ...]:
        """Apps whose `days` are others than when they were taken last, at most `limit`."""
        taken = tuple(self._learned)[:limit]
        for key in taken:
            del self._learned[key]
        return taken

    def give_back(self, learned: Iterable[AppKey]) -> None:
        """Their days could not be kept: they are to be taken again."""
        self._learned |= dict.fromkeys(learned)

    def days(self, key: AppKey, held: Mapping[SiteId, bytes]) -> dict[SiteId, bytes]:
        """What is known of each hour of the day where that is worth a forecast, by site id. `held`: of who told others."""
        heard = {site: entry.series.day for site, entry in self._apps.get(key, {}).items() if entry.series.day != UNKNOWN}
        known = {**held, **self._days.get(key, {}), **heard}
        return {site: day for site, day in sorted(known.items()) if is_habit(day, self._settings)}

    def take_moved(self, limit: int) -> tuple[AppKey, ...]:
        """Apps whose asked demand is another than when they were taken last, at most `limit`: those that rose come first."""
        taken = [*self._raised, *(key for key in self._fallen if key not in self._raised)][:limit]
        for key in taken:
            self._raised.pop(key, None)
            self._fallen.pop(key, None)
        return tuple(taken)

    @property
    def moved(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._raised or self._fallen)

    def asked(self, key: AppKey) -> dict[SiteId, float]:
        """Requests per second to plan for, by the site that users come in at; by site id, without those without users."""
        return {site: heard.asked.rps for site, heard in sorted(self._apps.get(key, {}).items()) if heard.asked.rps > 0}

    def of(self, key: AppKey, *, now_ms: int) -> tuple[SiteDemand, ...]:
        """Demand by the site that users come in at, which stands for their metro; by site id."""
        found = sorted(self._apps.get(key, {}).items())
        return tuple(replace(self._demand(site, heard, now_ms), asked_rps=heard.asked.rps) for site, heard in found)

    def rps(self, key: AppKey, site: SiteId) -> float:
        """What the site's users asked for when they were counted last."""
        heard = self._apps.get(key, {}).get(site)
        return heard.series.recent[-1][1] if heard and heard.series.recent else 0.0

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
        for of_key in (self._apps, self._days, self._learned):
            for key in [key for key in of_key if key not in apps]:
                del of_key[key]
        for site in [site for site in self._epochs if site not in sites]:
            del self._epochs[site]
            for of_app in self._apps.values():
                of_app.pop(site, None)

    def _heard(self, key: AppKey, site: SiteId) -> _Heard:
        of_app = self._apps.setdefault(key, {})
        if site not in of_app:
            of_app[site] = _Heard(series=Series(day=self._days.get(key, {}).pop(site, UNKNOWN)))
        return of_app[site]

    def _look(self, key: AppKey, site: SiteId, heard: _Heard, now_ms: int) -> bool:
        """Whether what is asked rose."""
        before = heard.asked.rps
        heard.asked = machine.step(heard.asked, self._demand(site, heard, now_ms), now_ms=now_ms, settings=self._asked_settings)
        self._queue(key, site, heard)
        if heard.asked.rps != before:
            (self._raised if heard.asked.rps > before else self._fallen)[key] = None
        return heard.asked.rps > before

    def _queue(self, key: AppKey, site: SiteId, heard: _Heard) -> None:
        """Once for each; one that is asked for nothing waits for its next users."""
        if not heard.queued and heard.asked.rps > 0:
            heard.queued = True
            due_ms = machine.due_ms(heard.asked, self._asked_settings)
            heapq.heappush(self._windows, (due_ms, next(self._order), key, site))

    def _demand(self, site: SiteId, heard: _Heard, now_ms: int) -> SiteDemand:
        return demand_of(site, heard.series, now_ms=now_ms, settings=self._settings)


def _facts(counted: VersionTraffic) -> VersionFacts:
    return VersionFacts(requests=counted.requests, errors=counted.errors, latency_ms_sum=float(counted.latency_ms_sum))
