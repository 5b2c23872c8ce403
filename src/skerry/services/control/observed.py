"""What sites last reported, and what can be concluded from their silence. Held in memory only.

A control that has just started knows nothing yet: until `grace_ms` is over, a site that it has not heard is
taken to be what the operator says it is, so that a restart of control moves nothing.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from msgspec.structs import replace

from skerry.core.types.control import SiteIntent
from skerry.core.types.demand import DecidedDemand, SiteDemand
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.place import Node, PlaceState
from skerry.core.types.slices import Refused, SiteInstance, SiteReport
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.services.control.traffic import Traffic


class ObservedSettings(Record):
    """A site is lost after `lost_after_ms` without a report: its apps are placed elsewhere."""

    lost_after_ms: int = 15_000
    grace_ms: int = 15_000


class Observed:
    """The latest report of every site; `wait_beyond` waits for the next news. `traffic` hears every report's counts."""

    def __init__(self, clock: Clock, settings: ObservedSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings or ObservedSettings()
        self._started_ms = clock.monotonic_ms()
        self._reports: dict[SiteId, SiteReport] = {}
        self._heard_ms: dict[SiteId, int] = {}
        self._heard_at_ms: dict[SiteId, int] = {}
        self._news = asyncio.Event()
        self.version = 0
        self.traffic = Traffic()

    def hear(self, report: SiteReport) -> None:
        """Take a report in; one that is older than the last of the same epoch is ignored."""
        last = self._reports.get(report.site)
        if last is not None and last.epoch == report.epoch and report.sequence <= last.sequence:
            return
        rose = False
        if report.traffic is not None:
            rose = self.traffic.hear(report.site, report.epoch, report.traffic, now_ms=self._clock.now_ms())
            report = replace(report, traffic=None)
        self._reports[report.site] = report
        self._heard_ms[report.site] = self._clock.monotonic_ms()
        self._heard_at_ms[report.site] = self._clock.now_ms()
        if rose or last is None or _content(last) != _content(report):
            self.version += 1
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def wait_beyond(self, version: int, *, wait_ms: int) -> bool:
        """True as soon as something differs from `version`; False after `wait_ms`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                while self.version <= version:
                    await self._news.wait()
        return self.version > version

    def report(self, site: SiteId) -> SiteReport | None:
        return self._reports.get(site)

    def seen_at_ms(self, site: SiteId) -> int | None:
        """Wall-clock time of the last report."""
        return self._heard_at_ms.get(site)

    def site_state(self, intent: SiteIntent) -> PlaceState:
        """The operator's word, unless the site is silent for too long."""
        return "down" if self.is_lost(intent.site.id) else intent.site.state

    def is_lost(self, site: SiteId) -> bool:
        now_ms = self._clock.monotonic_ms()
        heard_ms = self._heard_ms.get(site)
        if heard_ms is None:
            return now_ms - self._started_ms > self._settings.grace_ms
        return now_ms - heard_ms > self._settings.lost_after_ms

    def is_known(self, site: SiteId) -> bool:
        """Whether this control has heard of the site since it started."""
        return site in self._reports

    def nodes(self, site: SiteId) -> tuple[Node, ...]:
        report = self._reports.get(site)
        return report.nodes if report else ()

    def instances(self, site: SiteId) -> tuple[SiteInstance, ...]:
        report = self._reports.get(site)
        return report.instances if report else ()

    def demand(self, account: AccountId, app: AppName) -> tuple[SiteDemand, ...]:
        """Of the app's users, by the site that they come in at; without sites that are lost."""
        found = self.traffic.of((account, app), now_ms=self._clock.now_ms())
        return tuple(entry for entry in found if not self.is_lost(entry.site))

    def asked(self, account: AccountId, app: AppName) -> dict[SiteId, float]:
        """What placement plans the app for: requests per second by the site whose users ask, by site id.

        It rises at once and falls slowly. Sites without users, and lost ones (their users come in elsewhere), are not there.
        """
        return {site: rps for site, rps in self.traffic.asked((account, app)).items() if not self.is_lost(site)}

    def recall(self, asked: Iterable[DecidedDemand]) -> None:
        """What the plans in force were decided on, as the store has it: until sites tell more, it is asked for still."""
        self.traffic.recall(asked, now_ms=self._clock.now_ms())

    def refused(self, site: SiteId, account: AccountId, app: AppName) -> tuple[Refused, ...]:
        report = self._reports.get(site)
        if report is None:
            return ()
        return tuple(item for item in report.refused if (item.account, item.app) == (account, app))


def _content(report: SiteReport) -> tuple[object, ...]:
    """What makes a report news: all of it but its number and the readings that change by themselves."""
    instances = tuple(
        (held.node, held.instance.id, held.instance.state, held.instance.pid, held.instance.restarts) for held in report.instances
    )
    nodes = tuple((node.id, node.state, node.capacity, node.reserved, node.features, node.pid) for node in report.nodes)
    return (report.epoch, report.slice_generation, nodes, instances, report.refused)
