"""The own API over a made-up platform and real accounts: what its tests and those of the CLI talk to."""

from dataclasses import dataclass
from typing import Literal

import httpx
from starlette.applications import Starlette

from skerry.adapters.blobs.simulated import SimulatedBlobs
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.runtime.simulated_checker import SimulatedChecker
from skerry.adapters.store.simulated import SimulatedStore
from skerry.core.types.account import Account
from skerry.core.types.change import Change
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.resources import Resources
from skerry.core.types.view import (
    Amounts,
    AppDifference,
    AppView,
    DrainView,
    Explanation,
    InstanceView,
    NodeView,
    PlacementView,
    PlanDifference,
    RegionWay,
    RolloutView,
    SiteVerdict,
    SiteView,
    Status,
)
from skerry.ports.operations import NotFound
from skerry.services.accounts import Accounts
from skerry.services.control.declare import declare_sites
from skerry.services.intents.apps import Apps
from skerry.services.intents.assets import AssetSessions
from skerry.services.intents.upload import ModulePart, Upload
from skerry.testing.builders import make_site
from skerry.testing.dialect import MAIN, seeded
from skerry.wire.own.routes import own_app

NOW_MS = 1_790_000_000_000
VERSION = VersionId("0d6f5a52-1b4f-4c8f-9b77-0f2f6a0d7a11")
SITES = (make_site("lhr"), make_site("cur"))
CITIES = (("lhr", "London", "GB", 2), ("cur", "Willemstad", "CW", 1))


class FakeOperations:
    """Two cities with three nodes; one app per account, one instance of each on every city's first node."""

    def __init__(self, accounts: tuple[Account, ...]) -> None:
        self._accounts = accounts
        self._draining: set[str] = set()
        self.raises: Exception | None = None

    async def status(self, account: AccountId | None) -> Status:
        if self.raises is not None:
            raise self.raises
        seen = [item for item in self._accounts if account in (None, item.id)]
        return Status(
            sites=tuple(self._site(index, *city) for index, city in enumerate(CITIES, start=1)),
            nodes=tuple(self._nodes()) if account is None else (),
            instances=tuple(_instance(item, site) for item in seen for site, *_ in CITIES),
            apps=tuple(_app(item) for item in seen),
            now_ms=NOW_MS,
        )

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
        if app != "hello":
            raise NotFound(f"there is no app {app} in this account", hint="`skerry apps` lists them")
        if site is not None and site not in [name for name, *_ in CITIES]:
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

    def _kind(self, target: str) -> Literal["site", "node"]:
        if target in [name for name, *_ in CITIES]:
            return "site"
        if target in [node.node for node in self._nodes()]:
            return "node"
        raise NotFound(f"there is no site or node {target}", hint="`skerry nodes` lists them")

    def _site(self, index: int, code: str, city: str, country: str, nodes: int) -> SiteView:
        return SiteView(
            site=SiteId(code),
            city=city,
            country=country,
            address=f"127.0.{index}.1:8080",
            state="draining" if code in self._draining else "up",
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
            for index, (code, _, _, count) in enumerate(CITIES, start=1)
            for number in range(1, count + 1)
        ]


@dataclass(frozen=True)
class OwnPlatform:
    """`app` is an ASGI application; accounts `default` and `other` are there, with a token each."""

    app: Starlette
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


async def make_own_platform() -> OwnPlatform:
    store, clock, random_bytes = SimulatedStore(), SystemClock(), seeded(11)
    accounts = Accounts(store, clock, random_bytes)
    blobs = SimulatedBlobs()
    assets = AssetSessions(store, blobs, clock, random_bytes)
    apps = Apps(store=store, blobs=blobs, clock=clock, checker=SimulatedChecker(blobs), assets=assets, random_bytes=random_bytes)
    await declare_sites(store, SITES)
    account, other = await accounts.create_account("default"), await accounts.create_account("other")
    operations = FakeOperations((account, other))
    return OwnPlatform(
        app=own_app(operations, accounts, apps),
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


def _app(account: Account) -> AppView:
    return AppView(
        account=account.id,
        account_name=account.name,
        app=AppName("hello"),
        version=VERSION,
        url=f"http://hello.{account.name}.localhost:8080",
        rollout=RolloutView(state="done", wave=2, waves=2),
        sites=(SiteId("cur"), SiteId("lhr")),
        instances=2,
        serving=2,
        modified_ms=NOW_MS,
    )


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
