"""The control plane: API dialects, placer, rollouts, slices for the sites.

python -m skerry.apps.control --config FILE [--liveness-fd N]
"""

import os
import secrets
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import Mount

from skerry.adapters.beside import exchanges_beside
from skerry.adapters.blobs.directory import DirectoryBlobs
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.runtime.workerd.checker import WorkerdChecker
from skerry.adapters.store.sqlite import SqliteStore
from skerry.apps.config import ControlConfig, checks_dir
from skerry.apps.logs import configure_logs
from skerry.apps.plane import Plane, read_secret, run_plane
from skerry.apps.serving import bind, serving
from skerry.apps.tasks import running
from skerry.core.types.control import SiteIntent
from skerry.core.types.demand import DailyDemand, DecidedDemand
from skerry.core.types.ids import Digest, SiteId
from skerry.core.types.place import Site
from skerry.core.types.slices import SiteReport, SiteSlice
from skerry.ports.blobs import Blobs
from skerry.ports.store import Store
from skerry.services.accounts import Accounts
from skerry.services.calls.exchange import Exchange
from skerry.services.control import keys
from skerry.services.control.collector import Collector
from skerry.services.control.declare import declare_sites
from skerry.services.control.exchanges import Exchanges
from skerry.services.control.maintenances import Maintenances
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.placer import Placer
from skerry.services.control.rebalancing import Rebalancer
from skerry.services.control.rollouts import Rollouts
from skerry.services.control.slices import Slices
from skerry.services.control.watcher import Watcher
from skerry.services.ids import Ids
from skerry.services.intents.apps import Apps
from skerry.services.intents.assets import AssetSessions
from skerry.services.operations import PlatformOperations
from skerry.wire.cloudflare.app import make_app
from skerry.wire.cloudflare.use_cases import Addresses, UseCases
from skerry.wire.internal.routes import link_app
from skerry.wire.own.routes import own_app
from skerry.wire.own.talk import TalkApi

if TYPE_CHECKING:
    from skerry.core.worlds.generate import Catalogue

FAULT_VARIABLE = "SKERRY_FAULT_FILE"  # for tests: the trigger of skerry.testing.faults.ArmedStore


class Parts:
    """The services of one control, wired together."""

    def __init__(self, config: ControlConfig, store: Store, blobs: Blobs, checker: WorkerdChecker) -> None:
        self.clock = SystemClock()
        self.store = store
        self.blobs = blobs
        self.checker = checker
        self.accounts = Accounts(store, self.clock, secrets.token_bytes)
        self.mirror = Mirror(store)
        self.observed = Observed(self.clock)
        self.slices = Slices(self.mirror, suffix=config.suffix)
        self.placer = Placer(store, self.mirror, self.observed, self.slices, self.clock, users=_users, homes=_homes)
        self.rollouts = Rollouts(store, self.mirror, self.observed, self.clock)
        self.watcher = Watcher(store, self.mirror, self.observed, self.placer, self.clock)
        self.exchanges = Exchanges(self.mirror, self.placer, exchanges_beside)
        self.rebalancer = Rebalancer(store, self.mirror, self.placer, self.clock, self.exchanges)
        self.collector = Collector(store, self.mirror, blobs, self.clock)
        self.exchange = Exchange()
        self.maintenances = Maintenances(store, self.mirror, self.observed, self.clock)
        self.operations = PlatformOperations(
            store,
            self.mirror,
            self.observed,
            self.placer,
            self.clock,
            load_catalogue=_load_catalogue,
            exchanges=self.exchanges,
            rollouts=self.rollouts,
            maintenances=self.maintenances,
            suffix=config.suffix,
            public_port=config.public_port,
        )

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        parts = (
            self.mirror,
            self.placer,
            self.rollouts,
            self.maintenances,
            self.watcher,
            self.rebalancer,
            self.collector,
        )
        return tuple(part.run() for part in parts)


async def serve(config: ControlConfig, plane: Plane) -> None:
    configure_logs()
    listener = bind(config.listen)
    data = Path(config.data_dir)
    async with AsyncExitStack() as stack:
        store = _with_faults(await SqliteStore.open(data / "store.db"))
        stack.push_async_callback(store.aclose)
        blobs = await DirectoryBlobs.open(data / "blobs")
        parts = Parts(config, store, blobs, await stack.enter_async_context(_checker(config, blobs)))
        await parts.accounts.ensure_admin(Path(config.admin_token_path), account_name=config.default_account)
        await declare_sites(store, config.sites)
        await parts.mirror.load()
        parts.observed.recall(
            parts.mirror.select(keys.DECIDED_DEMAND, DecidedDemand), parts.mirror.select(keys.DAILY_DEMAND, DailyDemand)
        )
        async with running(*parts.loops()), serving(_app(config, parts), listener):
            plane.ready()
            await plane.ended()


def _load_catalogue() -> "Catalogue":
    # Imported at the first map: NumPy would cost every start of control 100 ms.
    from skerry.adapters.worlds import load_catalogue

    return load_catalogue()


def _users(sites: Sequence[Site]) -> Mapping[SiteId, float]:
    # Imported when an app asks for it, as is the catalogue.
    from skerry.core.geo.users import users_by_site

    catalogue = _load_catalogue()
    return users_by_site(sites, catalogue.cities, catalogue.users)


def _homes(names: Sequence[str], sites: Sequence[Site]) -> Mapping[str, SiteId]:
    from skerry.core.geo.outside import homes_of

    return homes_of(names, sites, _load_catalogue().cities)


def _checker(config: ControlConfig, blobs: Blobs) -> WorkerdChecker:
    return WorkerdChecker(
        data_dir=checks_dir(Path(config.data_dir)),
        run_dir=Path(config.run_dir),
        fetch_blob=blobs.get,
        workerd=config.engines.workerd,
        bwrap=config.engines.bwrap,
    )


def _app(config: ControlConfig, parts: Parts) -> Starlette:
    """The dialects side by side: Cloudflare's, the sites' links, and our own at the root."""
    random_bytes = secrets.token_bytes
    assets = AssetSessions(parts.store, parts.blobs, parts.clock, random_bytes)
    apps = Apps(
        store=parts.store,
        blobs=parts.blobs,
        clock=parts.clock,
        checker=parts.checker,
        assets=assets,
        random_bytes=random_bytes,
        public_ports=config.public_ports,
    )
    talk = TalkApi(parts.operations, parts.accounts, parts.exchange, Ids(random_bytes))
    addresses = Addresses(suffix=config.suffix, port=config.public_port)
    use_cases = UseCases(accounts=parts.accounts, apps=apps, assets=assets, addresses=addresses)
    return Starlette(
        routes=[
            Mount("/client/v4", app=make_app(use_cases)),
            Mount("/internal/v1", app=_links(config, parts)),
            Mount("/", app=own_app(parts.operations, parts.accounts, apps, talk)),
        ]
    )


def _links(config: ControlConfig, parts: Parts) -> Starlette:
    async def next_slice(site: str, after: int, wait_ms: int) -> SiteSlice | None:
        return await parts.slices.next(SiteId(site), after=after, wait_ms=wait_ms)

    async def blob(digest: Digest) -> AsyncIterator[bytes] | None:
        return parts.blobs.stream(digest) if await parts.blobs.has(digest) else None

    return link_app(
        "sites",
        SiteReport,
        secret=read_secret(config.join_secret_path),
        known=lambda site: parts.mirror.get(keys.site(SiteId(site)), SiteIntent) is not None,
        caller_of=lambda report: report.site,
        hear=parts.observed.hear,
        next_slice=next_slice,
        blob=blob,
        exchange=parts.exchange,
    )


def _with_faults(store: Store) -> Store:
    trigger = os.environ.get(FAULT_VARIABLE)
    if not trigger:
        return store
    from skerry.testing.faults import ArmedStore

    return ArmedStore(store, Path(trigger))


def main() -> None:
    run_plane(ControlConfig, serve)


if __name__ == "__main__":
    main()
