"""The Cloudflare dialect over a store, blobs and a checker in memory: what its tests talk to."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount

from skerry.adapters.blobs.simulated import SimulatedBlobs
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.runtime.simulated_checker import SimulatedChecker
from skerry.adapters.store.simulated import SimulatedStore
from skerry.core.types.account import Account
from skerry.ports.clock import Clock
from skerry.ports.runtime import Checker
from skerry.ports.store import Store
from skerry.services.accounts import Accounts, NameTaken
from skerry.services.intents.apps import Apps
from skerry.services.intents.assets import AssetSessions
from skerry.wire.cloudflare.app import make_app
from skerry.wire.cloudflare.use_cases import Addresses, UseCases

PREFIX = "/client/v4"


@dataclass(frozen=True)
class Dialect:
    """`app` is an ASGI application; `account`, `token` and `admin` are made already."""

    app: Starlette
    store: Store
    blobs: SimulatedBlobs
    use_cases: UseCases
    account: Account
    token: str  # write scope, of `account`
    admin: str

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        """Without sockets; with `token`, or the developer's."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app),
            base_url="http://skerry.test",
            headers={"authorization": f"Bearer {token or self.token}", "user-agent": "wrangler/4.164.0"},
        )

    def path(self, rest: str) -> str:
        """`rest` below the account: "/workers/scripts"."""
        return f"{PREFIX}/accounts/{self.account.id}{rest}"


Files = list[tuple[str, tuple[str | None, bytes, str]]]

MAIN = b"export default { fetch() { return new Response('hi') } }"
MODULE = "application/javascript+module"


def form(metadata: Mapping[str, object], modules: Mapping[str, tuple[bytes, str]] | None = None) -> Files:
    """The parts of an upload as wrangler sends them; `modules`: name → (content, content type)."""
    files: Files = [("metadata", (None, json.dumps(metadata).encode(), "application/json"))]
    for name, (content, kind) in (modules or {}).items():
        files.append((name, (name, content, kind)))
    return files


def simple_form(code: bytes = MAIN, **metadata: object) -> Files:
    """One module, `index.js`."""
    described: dict[str, object] = {"main_module": "index.js", "bindings": [], "compatibility_date": "2026-01-01", **metadata}
    return form(described, {"index.js": (code, MODULE)})


def seeded(seed: int) -> Callable[[int], bytes]:
    """Randomness that is the same in every run."""
    return random.Random(seed).randbytes  # noqa: S311


async def open_dialect(
    *,
    store: Store | None = None,
    blobs: SimulatedBlobs | None = None,
    clock: Clock | None = None,
    checker: Callable[[SimulatedBlobs], Checker] = SimulatedChecker,
    addresses: Addresses | None = None,
    seed: int = 1,
) -> Dialect:
    """As control makes it at a start; on a store that was used before (give another `seed`) the account is the same."""
    store = store or SimulatedStore()
    clock = clock or SystemClock()
    blobs = blobs or SimulatedBlobs()
    random_bytes = seeded(seed)
    accounts = Accounts(store, clock, random_bytes)
    assets = AssetSessions(store, blobs, clock, random_bytes)
    apps = Apps(store=store, blobs=blobs, clock=clock, checker=checker(blobs), assets=assets, random_bytes=random_bytes)
    use_cases = UseCases(accounts=accounts, apps=apps, assets=assets, addresses=addresses or Addresses())
    try:
        account = await accounts.create_account("default")
    except NameTaken:
        account = await accounts.account_by_name("default")
    token = await accounts.create_token("developer", "write", account=account.id)
    admin = await accounts.create_token("admin", "admin")
    return Dialect(
        app=Starlette(routes=[Mount(PREFIX, app=make_app(use_cases))]),
        store=store,
        blobs=blobs,
        use_cases=use_cases,
        account=account,
        token=token.secret,
        admin=admin.secret,
    )
