"""One site's HAProxy in a directory of a test."""

import os
import signal
from pathlib import Path
from typing import Protocol

import msgspec

from skerry.adapters.ingress.haproxy.ingress import HAProxyIngress
from skerry.adapters.ingress.haproxy.settings import Limits, Settings
from skerry.adapters.process.detached import find_tagged
from skerry.core.types.ids import AccountId, AppName, InstanceId, SiteId
from skerry.core.types.place import Site
from skerry.core.types.routes import Route, RouteTable, Target
from skerry.kit.hashing import stable_id
from skerry.testing.backends import Backend, free_addresses

ACCOUNT = AccountId("a" * 32)


class Served(Protocol):
    """What a route leads to."""

    name: str
    address: str


def table(site: str, *routes: Route) -> RouteTable:
    return RouteTable(site=SiteId(site), routes=routes)


def route(
    app: str,
    *targets: Backend | tuple[Backend, int],
    fallbacks: tuple[Backend, ...] = (),
    hosts: tuple[str, ...] | None = None,
    sticky: bool = False,
) -> Route:
    """Answers at `<app>.test`; targets of weight 256 if not said. The fallbacks' names are their sites."""
    weighed = [target if isinstance(target, tuple) else (target, 256) for target in targets]
    return Route(
        account=ACCOUNT,
        app=AppName(app),
        hosts=hosts if hosts is not None else (f"{app}.test",),
        targets=tuple(Target(instance=InstanceId(one.name), address=one.address, weight=weight) for one, weight in weighed),
        fallbacks=tuple((SiteId(one.name), one.address) for one in fallbacks),
        sticky=sticky,
    )


def tcp_route(
    app: str, port: int, *targets: Served | tuple[Served, int], fallbacks: tuple[Served, ...] = (), account: AccountId = ACCOUNT
) -> Route:
    """Answers at a public port; the rest as `route`."""
    weighed = [target if isinstance(target, tuple) else (target, 256) for target in targets]
    return Route(
        account=account,
        app=AppName(app),
        hosts=(),
        targets=tuple(Target(instance=InstanceId(one.name), address=one.address, weight=weight) for one, weight in weighed),
        fallbacks=tuple((SiteId(one.name), one.address) for one in fallbacks),
        public_port=port,
    )


class HAProxySite:
    """`open` it again for the next controller of the same site. `remove` ends what is left."""

    def __init__(self, directory: Path, *, name: str = "lhr", limits: Limits | None = None, shared: tuple[str, ...] = ()) -> None:
        users, peers, tcp = free_addresses(3)
        run_dir = directory / "run"
        if len(str(run_dir)) > 60:  # pytest's own directories are too long for a socket
            run_dir = Path("/tmp") / f"skerry-test-{stable_id(str(directory), length=12)}"  # noqa: S108
        site = Site(
            id=SiteId(name),
            city="London",
            country="GB",
            region="weur",
            lat=51.47,
            lon=-0.45,
            address=users,
            peer_address=peers,
            peer_tcp_address=tcp,
        )
        self.settings = Settings(
            site=site,
            run_dir=str(run_dir),
            state_file=str(directory / "ingress.json"),
            records_dir=str(directory / "processes"),
            log=str(directory / "haproxy.log"),
            tag=stable_id(str(directory), length=8),
            shared=shared,
            limits=limits or Limits(slots=16, peer_slots=4, first_byte_ms_max=5_000),
        )

    @property
    def users(self) -> str:
        return self.settings.site.address

    @property
    def peers(self) -> str:
        return self.settings.site.peer_address

    def at(self, port: int) -> str:
        """host:port of a public port."""
        return f"{self.users.rpartition(':')[0]}:{port}"

    async def open(self, **changes: object) -> HAProxyIngress:
        self.settings = msgspec.structs.replace(self.settings, **changes)
        ingress = HAProxyIngress(self.settings)
        await ingress.start()
        return ingress

    def processes(self) -> tuple[int, ...]:
        """Master and workers, the oldest first."""
        return find_tagged(self.settings.tag)

    def leftovers(self) -> list[str]:
        files = sorted(str(path) for path in Path(self.settings.run_dir).glob("*"))
        return [f"process {pid}" for pid in self.processes()] + files

    def remove(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for path in Path(self.settings.run_dir).glob("*"):
            path.unlink()
        if Path(self.settings.run_dir).is_dir():
            Path(self.settings.run_dir).rmdir()
