"""Slices for sites: what each has to execute, derived from the store alone.

A slice's generation is the store's revision at which it was derived. Revisions only grow, whichever control
answers and however often it was restarted; so do generations.
"""

import asyncio
import contextlib

from msgspec.structs import replace

from skerry.core.reconcile.control import site_slice_apps
from skerry.core.types.account import Account
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.control import SiteIntent
from skerry.core.types.ids import SiteId
from skerry.core.types.plan import Plan, Release
from skerry.core.types.slices import Peer, SiteSlice
from skerry.kit import record
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror


class Slices:
    def __init__(self, mirror: Mirror, *, suffix: str) -> None:
        self._mirror = mirror
        self._suffix = suffix
        self._last: dict[SiteId, SiteSlice] = {}

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
        if last is not None and last.generation >= self._mirror.revision:
            return last
        made = self._make(site)
        if made is None:
            return None
        if last is not None and _content(made) == _content(last):
            return last
        self._last[site] = made
        return made

    def _make(self, site: SiteId) -> SiteSlice | None:
        mirror = self._mirror
        intents = tuple(mirror.select(keys.SITES, SiteIntent))
        intent = next((i for i in intents if i.site.id == site), None)
        if intent is None:
            return None
        # An app that has just been deleted has a release still, but no versions: sites let it go already.
        releases = tuple(r for r in mirror.select(keys.RELEASES, Release) if mirror.get(keys.app(r.account, r.app), App))
        needed = {plan_id for release in releases for plan_id in (release.plan, release.previous)}
        apps = site_slice_apps(
            intent.site,
            releases,
            {plan.id: plan for plan in mirror.select(keys.PLANS, Plan) if plan.id in needed},
            {version.id: version for version in mirror.select(keys.VERSIONS, Version)},
            {(app.account, app.name): app for app in mirror.select(keys.APPS, App)},
            {account.id: account.name for account in mirror.select(keys.ACCOUNTS, Account)},
            {deployment.id: deployment for deployment in mirror.select(keys.DEPLOYMENTS, Deployment)},
            tuple(i.site for i in intents),
            self._suffix,
        )
        return SiteSlice(
            site=site,
            generation=mirror.revision,
            state="draining" if intent.site.state == "draining" else "up",
            apps=apps,
            peers=tuple(Peer(site=i.site.id, address=i.site.peer_address) for i in intents if i.site.id != site),
            draining_nodes=intent.draining_nodes,
        )


def _content(slice_: SiteSlice) -> bytes:
    return record.encode(replace(slice_, generation=0))
