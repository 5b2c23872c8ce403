"""The Cloudflare dialect over a store, blobs and a checker in memory: what its tests talk to."""

import random
from collections.abc import Callable
from dataclasses import dataclass

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
from skerry.services.accounts import Accounts
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

    def path(self, rest: str) -> str:
        """`rest` below the account: "/workers/scripts"."""
        return f"{PREFIX}/accounts/{self.account.id}{rest}"


def seeded(seed: int) -> Callable[[int], bytes]:
    """Randomness that is the same in every run."""
    return random.Random(seed).randbytes  # noqa: S311


async def open_dialect(
    *,
    store: Store | None = None,
    clock: Clock | None = None,
    checker: Callable[[SimulatedBlobs], Checker] = SimulatedChecker,
    addresses: Addresses | None = None,
    seed: int = 1,
) -> Dialect:
    store = store or SimulatedStore()
    clock = clock or SystemClock()
    blobs = SimulatedBlobs()
    random_bytes = seeded(seed)
    accounts = Accounts(store, clock, random_bytes)
    assets = AssetSessions(store, blobs, clock, random_bytes)
    apps = Apps(store=store, blobs=blobs, clock=clock, checker=checker(blobs), assets=assets, random_bytes=random_bytes)
    use_cases = UseCases(accounts=accounts, apps=apps, assets=assets, addresses=addresses or Addresses())
    account = await accounts.create_account("default")
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
