"""What a site tells control of its users.

Counts are taken from the ingress at a steady pace and added up for good, and a report carries the sums of those apps of
which control would believe something wrong without it: more or fewer requests than it was told, beyond chance, or nothing new
for `tell_ms`. So nothing is lost with a report, an idle app costs nothing, and no report is larger than `apps_max` apps.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from skerry.core.types.demand import AppTraffic, SiteTraffic, VersionTraffic
from skerry.core.types.ids import AccountId, AppName, InstanceId, VersionId
from skerry.kit.record import Record
from skerry.ports.ingress import Counts

AppKey = tuple[AccountId, AppName]
VersionKey = tuple[AccountId, AppName, VersionId]


class TrafficSettings(Record):
    """`differs_*`: by so many standard deviations of chance, and such a share, a rate is another than the one told."""

    tell_ms: int = 10_000
    apps_max: int = 200  # of one report: with one a second, all of 10,000 busy apps are told within a minute
    differs_sigmas: float = 4.0
    differs_share: float = 0.1
    jump_factor: float = 2.0  # so many times what is expected, and `jump_least` more: control should hear at once
    jump_least: int = 20


@dataclass
class _Sums:
    """Of one app; `told_*`: what control knows. Rows of `versions` are requests, errors, ms."""

    at_ms: int
    told_ms: int
    requests: int = 0
    errors: int = 0
    versions: dict[VersionId, list[int]] = field(default_factory=dict[VersionId, list[int]])
    told_requests: int = 0
    told_rate: float = 0.0  # requests per ms
    told_versions: dict[VersionId, int] = field(default_factory=dict[VersionId, int])
    before_ms: int = 0  # of the last count, which begins here
    last: int = 0  # requests in the last count

    @property
    def new(self) -> int:
        return self.requests - self.told_requests

    @property
    def expected(self) -> float:
        return self.told_rate * (self.at_ms - self.told_ms)

    @property
    def idle(self) -> bool:
        """Nothing happens, and control knows that."""
        return not self.new and not self.told_rate and not any(self.untold(version) for version in self.versions)

    def untold(self, version: VersionId) -> int:
        return self.versions[version][0] - self.told_versions.get(version, 0)


class Traffic:
    """`add` what was counted, `report` what control should know, `told` what has arrived."""

    def __init__(self, now_ms: int, settings: TrafficSettings | None = None) -> None:
        self._settings = settings or TrafficSettings()
        self._at_ms = now_ms
        self._apps: dict[AppKey, _Sums] = {}

    def add(self, counts: Counts, versions: Mapping[InstanceId, VersionKey], *, now_ms: int) -> bool:
        """Counts until `now_ms` (monotonic); whether some app's jumped, so that control should hear at once.

        `versions`: whose the instances are; what nobody knows any more is left out.
        """
        before_ms, self._at_ms = self._at_ms, now_ms
        for sums in self._apps.values():
            if sums.idle:
                sums.told_ms = before_ms  # nothing until then
            sums.before_ms, sums.at_ms, sums.last = before_ms, now_ms, 0
        jumped = False
        for app in counts.apps:
            sums = self._of((app.account, app.app), before_ms)
            jumped = jumped or app.requests > self._jump(sums.told_rate * (now_ms - before_ms))
            sums.requests += app.requests
            sums.last = app.requests
            sums.errors += app.errors
        for instance in counts.instances:
            if instance.instance in versions:
                account, name, version = versions[instance.instance]
                row = self._of((account, name), before_ms).versions.setdefault(version, [0, 0, 0])
                for index, value in enumerate((instance.requests, instance.errors, instance.latency_ms_sum)):
                    row[index] += value
        return jumped

    def report(self) -> SiteTraffic:
        """First those that differ, then those that were told longest ago."""
        due = [(rank, key) for key, sums in self._apps.items() if (rank := self._rank(sums)) is not None]
        due.sort()
        apps = tuple(self._as_told(key, self._apps[key]) for _, key in due[: self._settings.apps_max])
        return SiteTraffic(at_ms=self._at_ms, apps=apps)

    def told(self, sent: SiteTraffic) -> None:
        """It arrived: control believes from now on that each app goes on as it did in the time that was told."""
        for app in sent.apps:
            sums = self._apps.get((app.account, app.app))
            if sums is not None and app.at_ms > sums.told_ms:
                sums.told_rate = app.new / (app.at_ms - app.since_ms)
                sums.told_ms, sums.told_requests = app.at_ms, app.requests
                sums.told_versions = {version.version: version.requests for version in app.versions}

    def keep(self, apps: Set[AppKey], versions: Set[VersionKey]) -> None:
        """Forget what is not here any more, once control knows what it did."""
        for key, sums in list(self._apps.items()):
            for version in [name for name in sums.versions if (*key, name) not in versions and not sums.untold(name)]:
                del sums.versions[version]
            if key not in apps and sums.idle:
                del self._apps[key]

    def _of(self, key: AppKey, before_ms: int) -> _Sums:
        """An app that was not known had nothing until the counts before these."""
        return self._apps.setdefault(key, _Sums(at_ms=self._at_ms, told_ms=before_ms, before_ms=before_ms))

    def _jump(self, expected: float) -> float:
        return self._settings.jump_factor * expected + self._settings.jump_least

    def _rank(self, sums: _Sums) -> tuple[bool, int] | None:
        """None: control knows enough."""
        if self._sudden(sums) or self._differs(sums.new, sums.expected):
            return (False, sums.told_ms)
        wait_ms = self._settings.tell_ms if len(sums.versions) < 2 else 0  # a rollout's health gate waits for counts
        late = sums.at_ms - sums.told_ms >= wait_ms and not sums.idle
        return (True, sums.told_ms) if late else None

    def _sudden(self, sums: _Sums) -> bool:
        """It is the last count alone that differs."""
        return self._differs(sums.last, sums.told_rate * (sums.at_ms - sums.before_ms))

    def _differs(self, requests: int, expected: float) -> bool:
        chance = self._settings.differs_sigmas * math.sqrt(max(requests, expected))
        return abs(requests - expected) > chance + self._settings.differs_share * expected

    def _as_told(self, key: AppKey, sums: _Sums) -> AppTraffic:
        """The rate since it was told before; of a sudden change, the rate since then: the mean would hide it."""
        sudden = self._sudden(sums)
        return AppTraffic(
            account=key[0],
            app=key[1],
            since_ms=sums.before_ms if sudden else sums.told_ms,
            at_ms=sums.at_ms,
            new=sums.last if sudden else sums.new,
            requests=sums.requests,
            errors=sums.errors,
            versions=tuple(
                VersionTraffic(version=version, requests=row[0], errors=row[1], latency_ms_sum=row[2])
                for version, row in sorted(sums.versions.items())
            ),
        )
