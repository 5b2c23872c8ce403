"""Slices for sites: what each has to execute, derived from the store alone.

A slice's generation is the store's revision at which it was derived. Revisions only grow, whichever control
answers and however often it was restarted; so do generations.
"""

import asyncio
import contextlib

from msgspec.structs import replace

from skerry.core.reconcile.control import LostSite, by_fallback, last_resorts, site_slice_app
from skerry.core.types.account import Account
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.control import Silence, SiteIntent
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan, Release
from skerry.core.types.slices import Peer, SiteSlice, SliceApp
from skerry.kit.record import Record
from skerry.services.control import keys
from skerry.services.control.drains import Drains
from skerry.services.control.mirror import Mirror

READ = (
    keys.SITES,
    keys.SILENCES,
    keys.MAINTENANCE,
    keys.ACCOUNTS,
    keys.APPS,
    keys.RELEASES,
    keys.PLANS,
    keys.VERSIONS,
    keys.DEPLOYMENTS,
)
AppKey = tuple[AccountId, AppName]


class Entry(Record):
    """What a site's slice says of one app, with the records it was made from.

    As long as they are the same, so is the entry: plans, versions and deployments never change.
    """

    release: Release
    app: App
    account: Account | None
    order: tuple[Site, ...]
    resorts: frozenset[SiteId]
    made: SliceApp | None


class Resorts(Record):
    """The last resorts of an app, for every site's slice, with what they were made from."""

    release: Release
    app: App
    lost: tuple[LostSite, ...]
    sites: frozenset[SiteId]


class Slices:
    def __init__(self, mirror: Mirror, *, suffix: str) -> None:
        self._mirror = mirror
        self._drains = Drains(mirror)
        self._suffix = suffix
        self._last: dict[SiteId, SiteSlice] = {}
        self._looked: dict[SiteId, int] = {}  # the revision at which `_last` was found to be still right
        self._entries: dict[SiteId, dict[AppKey, Entry]] = {}
        self._resorts: dict[AppKey, Resorts] = {}

    async def next(self, site: SiteId, *, after: int, wait_ms: int) -> SiteSlice | None:
        """A slice of a generation above `after`; None after `wait_ms`, or for a site that is not known."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                while True:
                    revision = self._mirror.revision
                    slice_ = self.current(site)
                    if slice_ is None or slice_.generation > after:
                        return slice_
                    await self._mirror.wait_beyond(revision, wait_ms=wait_ms)
        return None

    def current(self, site: SiteId) -> SiteSlice | None:
        """The slice now. It keeps its generation as long as its content is the same."""
        last = self._last.get(site)
        if last is not None and self._looked[site] >= self._mirror.changed(*READ):
            return last
        made = self._make(site)
        self._looked[site] = self._mirror.revision
        if made is None:
            return None
        if last is not None and replace(made, generation=last.generation) == last:
            return last
        self._last[site] = made
        return made

    def _make(self, site: SiteId) -> SiteSlice | None:
        mirror = self._mirror
        intents = tuple(mirror.select(keys.SITES, SiteIntent))
        intent = next((i for i in intents if i.site.id == site), None)
        if intent is None:
            return None
        sites = tuple(i.site for i in intents)
        order = by_fallback(intent.site, sites)
        silent = {entry.site: entry.since_ms for entry in mirror.select(keys.SILENCES, Silence)}
        lost = tuple(LostSite(site=other, since_ms=silent[other.id]) for other in sites if other.id in silent)
        if not lost:
            self._resorts = {}
        before, after = self._entries.get(site, {}), dict[AppKey, Entry]()
        for release in mirror.select(keys.RELEASES, Release):
            entry = self._entry(site, order, lost, release, before.get((release.account, release.app)))
            if entry is not None:
                after[(release.account, release.app)] = entry
        self._entries[site] = after
        return SiteSlice(
            site=site,
            generation=mirror.revision,
            state="draining" if intent.site.state == "draining" else "up",
            apps=tuple(entry.made for entry in after.values() if entry.made is not None),
            peers=tuple(
                Peer(site=i.site.id, address=i.site.peer_address, tcp_address=i.site.peer_tcp_address)
                for i in intents
                if i.site.id != site
            ),
            draining_nodes=self._drains.of(intent),
            tasks=self._drains.tasks(site),
        )

    def _entry(
        self,
        site: SiteId,
        order: tuple[Site, ...],
        lost: tuple[LostSite, ...],
        release: Release,
        last: Entry | None,
    ) -> Entry | None:
        """None for an app that has just been deleted: it has a release still, but no versions; sites let it go already."""
        mirror, key = self._mirror, (release.account, release.app)
        app, account = mirror.get(keys.app(*key), App), mirror.get(f"{keys.ACCOUNTS}{release.account}", Account)
        if app is None:
            self._resorts.pop(key, None)
            return None
        resorts = self._last_resorts(release, app, lost) if lost else frozenset[SiteId]()
        same = last is not None and last.release is release and last.app is app and last.account is account
        if last is not None and same and (last.order, last.resorts) == (order, resorts):
            return last
        made = site_slice_app(
            site,
            order,
            release,
            app,
            account.name if account else "",
            {plan.id: plan for plan in mirror.select(f"{keys.PLANS}{key[0]}/{key[1]}/", Plan)},
            {version.id: version for version in mirror.select(f"{keys.VERSIONS}{key[0]}/{key[1]}/", Version)},
            {found.id: found for found in mirror.select(f"{keys.DEPLOYMENTS}{key[0]}/{key[1]}/", Deployment)},
            self._suffix,
            resorts,
        )
        return Entry(release=release, app=app, account=account, order=order, resorts=resorts, made=made)

    def _last_resorts(self, release: Release, app: App, lost: tuple[LostSite, ...]) -> frozenset[SiteId]:
        """Worked out once for all sites, as there may be thousands of apps."""
        key = (app.account, app.name)
        held = self._resorts.get(key)
        if held is None or held.release is not release or held.app is not app or held.lost != lost:
            plans = self._mirror.select(f"{keys.PLANS}{app.account}/{app.name}/", Plan)
            held = Resorts(release=release, app=app, lost=lost, sites=last_resorts(plans, lost))
            self._resorts[key] = held
        return held.sites
