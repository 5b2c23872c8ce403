"""What sites last reported, and what can be concluded from their silence. Held in memory only.

A control that has just started knows nothing yet: for a while, a site that it has not heard is taken to be what the
operator says it is, so that a restart of control moves nothing. What was lost before, by the store's word, is lost at once:
its apps are placed elsewhere already.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from msgspec.structs import replace

from skerry.core.machines.failure import Detection, Opinion, Watch, denied
from skerry.core.policy.refill import ALL, Ramp, open_percent
from skerry.core.types.control import SiteIntent
from skerry.core.types.demand import DailyDemand, DecidedDemand, SiteDemand
from skerry.core.types.ids import AccountId, AppName, NodeId, SiteId
from skerry.core.types.place import Node, PlaceState
from skerry.core.types.slices import Refused, SilentNode, SiteInstance, SiteReport
from skerry.ports.clock import Clock
from skerry.services.control.traffic import Traffic

SITES = Detection(
    heartbeat_ms=1_000,
    suspect_ms=3_000,
    denied_ms=5_000,
    lost_ms=10_000,
    lost_ms_max=30_000,
    unheard_ms=10_000,
    late_ms=5_000,
)
"""A site that lives calls again within two seconds, whatever became of control (`services.uplink`); and another that
looks at it knows within three that it is gone."""

LOOK_EVERY_MS = 100  # opinions are this old at most


class Observed:
    """The latest report of every site; `wait_beyond` waits for the next news. `traffic` hears every report's counts."""

    def __init__(self, clock: Clock, settings: Detection = SITES, ramp: Ramp | None = None) -> None:
        self._clock = clock
        self._watch = Watch(settings, clock.monotonic_ms())
        self._looked_ms = clock.monotonic_ms()
        self._reports: dict[SiteId, SiteReport] = {}
        self._heard_at_ms: dict[SiteId, int] = {}
        self._back_ms: dict[SiteId, dict[NodeId, int]] = {}
        self._turns: dict[SiteId, int] = {}
        self._ramp = ramp or Ramp()
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
        self._note_returns(report, last)
        if last is None or _offered(last) != _offered(report):
            self._turns[report.site] = self.turn(report.site) + 1
        self._reports[report.site] = report
        restarted = last is not None and last.epoch != report.epoch
        self._watch.hear(report.site, self._clock.monotonic_ms(), restarted=restarted)
        self._heard_at_ms[report.site] = self._clock.now_ms()
        if rose or last is None or _content(last) != _content(report):
            self.version += 1
            news, self._news = self._news, asyncio.Event()
            news.set()

    def opening(self, site: SiteId) -> dict[NodeId, int]:
        """Nodes that came back a short while ago: for how many percent of what they have they are open."""
        now_ms = self._clock.monotonic_ms()
        back = self._back_ms.get(site, {})
        found = {node: open_percent(since_ms, now_ms, self._ramp) for node, since_ms in sorted(back.items())}
        return {node: percent for node, percent in found.items() if percent < ALL}

    def _note_returns(self, report: SiteReport, last: SiteReport | None) -> None:
        """Of nodes that were down, or of a whole city that was lost. (A control that starts meanwhile does not know of it.)"""
        lost = self.opinion(report.site).state == "lost"
        before = {node.id: node.state for node in last.nodes} if last else {}
        now_ms = self._clock.monotonic_ms()
        for node in report.nodes:
            if node.state != "down" and (lost or before.get(node.id) == "down"):
                self._back_ms.setdefault(report.site, {})[node.id] = now_ms

    async def wait_beyond(self, version: int, *, wait_ms: int) -> bool:
        """True as soon as something differs from `version`; False after `wait_ms`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                while self.version <= version:
                    await self._news.wait()
        return self.version > version

    def report(self, site: SiteId) -> SiteReport | None:
        return self._reports.get(site)

    def turn(self, site: SiteId) -> int:
        """How often what the site has to offer has changed: equal only where it was the same all the time in between."""
        return self._turns.get(site, 0)

    def seen_at_ms(self, site: SiteId) -> int | None:
        """Wall-clock time of the last report."""
        return self._heard_at_ms.get(site)

    def site_state(self, intent: SiteIntent) -> PlaceState:
        """The operator's word, unless the site is silent for too long."""
        return "down" if self.is_lost(intent.site.id) else intent.site.state

    def is_lost(self, site: SiteId) -> bool:
        return self.opinion(site).state == "lost"

    def opinion(self, site: SiteId) -> Opinion:
        """What its silence means. A site that is asked about for the first time is watched from now on."""
        now_ms = self._clock.monotonic_ms()
        self._watch.expect(site, now_ms)
        if now_ms - self._looked_ms >= LOOK_EVERY_MS:
            self._looked_ms = now_ms
            self._watch.look(now_ms, denied=self._denied() if self._watch.doubts else frozenset())
        return self._watch.opinion(site)

    def _denied(self) -> frozenset[str]:
        """Sites that no other reaches, by the word of those that are heard themselves."""
        heard = (report for report in self._reports.values() if self._watch.opinion(report.site).state == "up")
        return denied((entry.site, entry.answers) for report in heard for entry in report.sightings)

    def begin(self, sites: Iterable[SiteId], lost: frozenset[SiteId]) -> None:
        """Watch these; those of them in `lost` were given up before this control began."""
        for site in sites:
            self._watch.expect(site, self._clock.monotonic_ms(), lost=site in lost)

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

    def recall(self, asked: Iterable[DecidedDemand], days: Iterable[DailyDemand]) -> None:
        """What the plans in force were decided on, as the store has it: until sites tell more, it is asked for still.

        `days`: what earlier controls learned of each hour of the day.
        """
        self.traffic.recall_days(days)
        self.traffic.recall(asked, now_ms=self._clock.now_ms())

    def silent_node(self, site: SiteId, node: NodeId) -> SilentNode | None:
        """What the site thinks of a node that does not answer it."""
        report = self._reports.get(site)
        return next((entry for entry in report.silent if entry.node == node), None) if report else None

    def refused(self, site: SiteId, account: AccountId, app: AppName) -> tuple[Refused, ...]:
        report = self._reports.get(site)
        if report is None:
            return ()
        return tuple(item for item in report.refused if (item.account, item.app) == (account, app))


def _offered(report: SiteReport) -> tuple[object, ...]:
    """What decisions read of a report."""
    return (tuple((node.id, node.state, node.capacity, node.features) for node in report.nodes), report.refused)


def _content(report: SiteReport) -> tuple[object, ...]:
    """What makes a report news: all of it but its number and the readings that change by themselves."""
    instances = tuple(
        (held.node, held.instance.id, held.instance.state, held.instance.pid, held.instance.restarts) for held in report.instances
    )
    nodes = tuple(
        (node.id, node.state, node.capacity, node.reserved, node.features, node.overcommit, node.pid) for node in report.nodes
    )
    silent = tuple((node.node, node.lost) for node in report.silent)
    return (report.epoch, report.slice_generation, nodes, instances, report.refused, silent, report.tasks, report.sightings)
