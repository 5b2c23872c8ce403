"""The own API over a made-up platform and real accounts: what its tests and those of the CLI talk to."""

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import httpx
import uvicorn
from msgspec.structs import replace
from starlette.applications import Starlette

from skerry.adapters.blobs.simulated import SimulatedBlobs
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.runtime.simulated_checker import SimulatedChecker
from skerry.adapters.store.simulated import SimulatedStore
from skerry.adapters.worlds import load_catalogue
from skerry.core.types.account import Account
from skerry.core.types.change import Change
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.maintenance import JobState
from skerry.core.types.place import PlaceState, Site
from skerry.core.types.public_port import PUBLIC_PORTS, PortRange
from skerry.core.types.resources import Resources
from skerry.core.types.view import (
    Amounts,
    AppDifference,
    AppView,
    CityDemand,
    DemandView,
    DrainView,
    Explanation,
    InstanceView,
    MaintenanceNodeView,
    MaintenanceSiteView,
    MaintenanceStart,
    MaintenanceView,
    NodeView,
    PlacementView,
    PlanDifference,
    RegionWay,
    RolloutDetail,
    RolloutView,
    SiteVerdict,
    SiteView,
    Status,
)
from skerry.core.types.view_map import AppMap, CopiesView
from skerry.core.types.view_placing import SettingsView
from skerry.ports.operations import Conflict, Invalid, NotFound
from skerry.services.accounts import Accounts
from skerry.services.app_map import make_app_map
from skerry.services.calls.exchange import Exchange
from skerry.services.control.declare import declare_sites
from skerry.services.ids import Ids
from skerry.services.intents.apps import Apps
from skerry.services.intents.assets import AssetSessions
from skerry.services.intents.upload import ModulePart, Upload
from skerry.testing.builders import make_site
from skerry.testing.dialect import MAIN, seeded
from skerry.wire.own.routes import own_app
from skerry.wire.own.talk import TalkApi

NOW_MS = 1_790_000_000_000
VERSION = VersionId("0d6f5a52-1b4f-4c8f-9b77-0f2f6a0d7a11")
SITES = (make_site("lhr"), make_site("cur"))
CITIES = {"lhr": 2, "cur": 1}  # nodes of each
EVERY = 17  # of many cities, so many-th have copies


class FakeOperations:
    """Two cities with three nodes, or those of `cities` (nodes of each); one app per account, with an instance of each on
    every city's first node, or on every 17th's where there are many."""

    def __init__(self, accounts: tuple[Account, ...], cities: Mapping[str, int] = CITIES, *, app: str = "hello") -> None:
        self._accounts = accounts
        self._cities = cities
        self._name = AppName(app)
        self._copies = tuple(cities)[:: EVERY if len(cities) > EVERY else 1]
        self.states: dict[str, PlaceState] = {}  # of sites that are neither up nor draining
        self._draining: set[str] = set()
        self.paused = False
        self._maintenance = MaintenanceView(detail="there was no maintenance yet")
        self.raises: Exception | None = None

    async def status(self, account: AccountId | None) -> Status:
        if self.raises is not None:
            raise self.raises
        seen = [item for item in self._accounts if account in (None, item.id)]
        return Status(
            sites=tuple(self._site(index, *city) for index, city in enumerate(self._cities.items(), start=1)),
            nodes=tuple(self._nodes()) if account is None else (),
            instances=tuple(_instance(item, site) for item in seen for site in self._copies),
            apps=tuple(self._app(item) for item in seen),
            now_ms=NOW_MS,
        )

    async def instances(self, account: AccountId, app: AppName) -> tuple[InstanceView, ...]:
        if app != self._name:
            raise NotFound(f"there is no app {app} in this account", hint="`skerry apps` lists them")
        found = next(item for item in self._accounts if item.id == account)
        return tuple(_instance(found, site) for site in self._copies)

    async def drain(self, target: str) -> DrainView:
        kind = self._kind(target)
        self._draining.add(target)
        return DrainView(target=target, kind=kind, state="draining", moving=1)

    async def undrain(self, target: str) -> DrainView:
        kind = self._kind(target)
        self._draining.discard(target)
        return DrainView(target=target, kind=kind, state="up")

    async def difference(self, seen: AccountId | None, account: AccountId, change: Change) -> PlanDifference:
        if "nrt" in change.sites:
            raise NotFound("there is no site 'nrt'", hint="`skerry sites` lists them")
        lost = AppDifference(
            account=account,
            app=AppName("hello"),
            gained=(),
            lost=(SiteId("cur"),),
            instances_before=2,
            instances_after=1,
            started=0,
            ended=1,
            reserved_before=Amounts(cpu_millicores=20, memory_mib=24, disk_mib=2),
            reserved_after=Amounts(cpu_millicores=10, memory_mib=12, disk_mib=1),
            ways=(RegionWay(region="sam", cities=1, before_ms=0.0, after_ms=134.2),),
        )
        return PlanDifference(apps=(lost,) if change.sites or "hello" in change.apps else (), looked_at=1)

    async def explain(self, account: AccountId, app: AppName, site: SiteId | None) -> Explanation:
        if app != self._name:
            raise NotFound(f"there is no app {app} in this account", hint="`skerry apps` lists them")
        if site is not None and site not in self._cities:
            raise NotFound(f"there is no site {site}")
        return Explanation(
            account=account,
            app=app,
            plan="5" * 32,
            generation=3,
            decided_ms=NOW_MS,
            cause="deploy",
            placements=(PlacementView(site=SiteId("lhr"), version=VERSION, count=1, serving=1),),
            verdicts=(
                SiteVerdict(site=SiteId("lhr"), chosen=True, reasons=("policy allows it",)),
                SiteVerdict(site=SiteId("cur"), chosen=False, reasons=("the site is being drained",)),
            ),
            report=("two sites are known",),
        )

    def settings(self) -> SettingsView:
        return SettingsView(settings={"move": 20.0}, set_fields=())

    async def change_settings(
        self, changes: Mapping[str, object], rtts_ms: Mapping[str, Mapping[str, float | None]]
    ) -> SettingsView:
        if "mvoe" in changes:
            raise Invalid("'mvoe' is no setting")
        return SettingsView(settings={"move": 20.0, **changes}, set_fields=tuple(changes))

    async def demand(self, account: AccountId, app: AppName) -> DemandView:
        if app != self._name:
            raise NotFound(f"there is no app {app} in this account", hint="`skerry apps` lists them")
        name = next(item.name for item in self._accounts if item.id == account)
        city = CityDemand(site=SiteId("lhr"), rps=12.0, smoothed_rps=11.5, expected_rps=14.0, instances=1, states={"running": 1})
        return DemandView(account=account, account_name=name, app=app, rps=12.0, expected_rps=14.0, instances=1, cities=(city,))

    async def demands(self, account: AccountId | None) -> tuple[DemandView, ...]:
        seen = [item for item in self._accounts if account in (None, item.id)]
        return tuple([replace(await self.demand(item.id, self._name), cities=()) for item in seen])

    async def app_map(self, account: AccountId, app: AppName) -> AppMap:
        if self.raises is not None:
            raise self.raises
        found = next((item for item in self._accounts if item.id == account), None)
        if found is None or app != self._name:
            raise NotFound(f"there is no app {app} in this account", hint="`skerry apps` lists them")
        return make_app_map(
            account=account,
            account_name=found.name,
            app=app,
            url=self._app(found).url,
            copies=tuple(CopiesView(site=SiteId(code), instances=1, serving=1) for code in sorted(self._copies)),
            sites={SiteId(code): self._place(code) for code in self._copies},
            catalogue=load_catalogue(),
            now_ms=NOW_MS,
        )

    def _app(self, account: Account) -> AppView:
        return AppView(
            account=account.id,
            account_name=account.name,
            app=self._name,
            version=VERSION,
            url=f"http://{self._name}.{account.name}.localhost:8080",
            rollout=RolloutView(state="done", wave=2, waves=2),
            sites=tuple(SiteId(code) for code in sorted(self._copies)),
            instances=len(self._copies),
            serving=len(self._copies),
            modified_ms=NOW_MS,
        )

    async def rollout(self, account: AccountId, app: AppName) -> RolloutDetail:
        if app != "hello":
            raise NotFound(f"there is no app {app} in this account", hint="`skerry apps` lists them")
        state = "paused" if self.paused else "running"
        return RolloutDetail(account=account, app=app, rollout=RolloutView(state=state, wave=1, waves=2), gated=True)

    async def maintenance(self) -> MaintenanceView:
        return self._maintenance

    async def start_maintenance(self, asked: MaintenanceStart, author: str) -> MaintenanceView:
        if self._maintenance.state == "running":
            raise Conflict("maintenance is running already (reboot)", hint="`skerry maintenance status`; abort ends it")
        if asked.task != "reboot":
            raise Invalid(f"{asked.task!r} is not among what lhr-1 may do", hint="all of them may: reboot")
        nodes = tuple(
            MaintenanceNodeView(node=n.node, site=n.site, phase="draining" if not at else "waiting", since_ms=NOW_MS)
            for at, n in enumerate(self._nodes())
            if not asked.sites or n.site in asked.sites
        )
        sites = tuple(
            MaintenanceSiteView(site=site, nodes=sum(n.site == site for n in nodes), done=0, out_of_service=0)
            for site in sorted({node.site for node in nodes})
        )
        self._maintenance = MaintenanceView(
            id="0" * 12,
            task=asked.task,
            state="running",
            max_unavailable_percent=asked.max_unavailable_percent,
            author=author,
            canary=nodes[0].site,
            created_ms=NOW_MS,
            changed_ms=NOW_MS,
            now_ms=NOW_MS,
            sites=sites,
            nodes=nodes,
        )
        return self._maintenance

    async def change_maintenance(self, word: Literal["pause", "resume", "abort"]) -> MaintenanceView:
        if self._maintenance.id is None:
            raise Conflict("no maintenance is under way", hint="`skerry maintenance start` begins one")
        states: dict[str, JobState] = {"pause": "paused", "resume": "running", "abort": "aborted"}
        self._maintenance = replace(self._maintenance, state=states[word])
        return self._maintenance

    async def change_rollout(self, account: AccountId, app: AppName, word: Literal["pause", "resume", "abort"]) -> RolloutDetail:
        if word == "abort":
            raise Conflict("there is nothing to go back to")
        self.paused = word == "pause"
        return await self.rollout(account, app)

    def _kind(self, target: str) -> Literal["site", "node"]:
        if target in self._cities:
            return "site"
        if target in [node.node for node in self._nodes()]:
            return "node"
        raise NotFound(f"there is no site or node {target}", hint="`skerry nodes` lists them")

    def _place(self, code: str, index: int = 0) -> Site:
        city = load_catalogue().cities[code]
        address = f"127.0.{index}.1:8080"
        return Site(
            id=SiteId(code),
            city=city.name,
            country=city.country,
            region=city.region,
            lat=city.lat,
            lon=city.lon,
            address=address,
            peer_address=address,
            state="draining" if code in self._draining else self.states.get(code, "up"),
        )

    def _site(self, index: int, code: str, nodes: int) -> SiteView:
        place = self._place(code, index)
        return SiteView(
            site=place.id,
            city=place.city,
            country=place.country,
            region=place.region,
            lat=place.lat,
            lon=place.lon,
            address=place.address,
            state=place.state,
            pid=1000 + index,
            ingress_pid=1100 + index,
            nodes=nodes,
            nodes_up=nodes,
            generation=7,
            seen_ms=NOW_MS,
        )

    def _nodes(self) -> list[NodeView]:
        return [
            NodeView(
                node=NodeId(f"{code}-{number}"),
                site=SiteId(code),
                address=f"127.0.{index}.{10 + number}",
                state="draining" if f"{code}-{number}" in self._draining else "up",
                pid=1200 + 10 * index + number,
                capacity=Amounts.of(Resources(cpu_millicores=2000, memory_mib=1024, disk_mib=1000)),
                reserved=Amounts.of(Resources(cpu_millicores=10, memory_mib=12, disk_mib=1)),
                instances=1,
            )
            for index, (code, count) in enumerate(self._cities.items(), start=1)
            for number in range(1, count + 1)
        ]


@dataclass(frozen=True)
class OwnPlatform:
    """`app` is an ASGI application; accounts `default` and `other` are there, with a token each."""

    app: Starlette
    exchange: Exchange
    operations: FakeOperations
    accounts: Accounts
    apps: Apps
    upload: Upload  # of a small Worker
    account: Account
    other: Account
    admin: str
    overseer: str  # an operator's token of scope read
    token: str  # of `account`, scope write
    other_token: str

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        """Without sockets; with `token`, the operator's by default; "" sends none."""
        headers = {"authorization": f"Bearer {self.admin if token is None else token}"} if token != "" else {}
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://skerry.test", headers=headers)


async def make_own_platform(
    cities: Mapping[str, int] = CITIES, *, app: str = "hello", public_ports: tuple[PortRange, ...] = PUBLIC_PORTS
) -> OwnPlatform:
    store, clock, random_bytes = SimulatedStore(), SystemClock(), seeded(11)
    accounts = Accounts(store, clock, random_bytes)
    blobs = SimulatedBlobs()
    assets = AssetSessions(store, blobs, clock, random_bytes)
    apps = Apps(
        store=store,
        blobs=blobs,
        clock=clock,
        checker=SimulatedChecker(blobs),
        assets=assets,
        random_bytes=random_bytes,
        public_ports=public_ports,
    )
    await declare_sites(store, SITES)
    account, other = await accounts.create_account("default"), await accounts.create_account("other")
    operations, exchange = FakeOperations((account, other), cities, app=app), Exchange()
    return OwnPlatform(
        app=own_app(operations, accounts, apps, TalkApi(operations, accounts, exchange, Ids(random_bytes))),
        exchange=exchange,
        operations=operations,
        accounts=accounts,
        apps=apps,
        upload=Upload(main_module="index.js", modules=(ModulePart(name="index.js", type="esm", content=MAIN),)),
        account=account,
        other=other,
        admin=(await accounts.create_token("admin", "admin")).secret,
        overseer=(await accounts.create_token("watch", "read")).secret,
        token=(await accounts.create_token("dev", "write", account=account.id)).secret,
        other_token=(await accounts.create_token("dev", "write", account=other.id)).secret,
    )


class ServedOwn:
    """The platform on a real port, in a thread with an event loop of its own."""

    def __init__(self, platform: OwnPlatform) -> None:
        self.platform = platform
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(platform.app, lifespan="off", log_config=None, ws="websockets-sansio"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._listener.listen()
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


def _instance(account: Account, site: str) -> InstanceView:
    return InstanceView(
        instance=InstanceId("00112233445566aa"),
        account=account.id,
        account_name=account.name,
        app=AppName("hello"),
        version=VERSION,
        site=SiteId(site),
        node=NodeId(f"{site}-1"),
        state="running",
        pid=4711,
        since_ms=NOW_MS - 90_000,
        memory_bytes=8 << 20,
    )
