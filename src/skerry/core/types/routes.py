"""What an ingress needs to know, derived by the site from its slice and what it observes."""

from skerry.core.types.ids import AccountId, AppName, InstanceId, SiteId
from skerry.kit.record import Record


class Target(Record):
    """One instance that takes requests. `weight` 0..256; 0 takes no new ones (draining)."""

    instance: InstanceId
    address: str  # host:port
    weight: int


class Route(Record):
    """One app's way in: its host names or its public TCP port, its own instances, then other sites, nearest first."""

    account: AccountId
    app: AppName
    hosts: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    fallbacks: tuple[tuple[SiteId, str], ...] = ()  # (site, host:port of its peer frontend, for TCP if that is spoken)
    sticky: bool = False  # a user stays with the instance that answered first
    public_port: int | None = None


class RouteTable(Record):
    """The whole table of a site. Applying it twice changes nothing."""

    site: SiteId
    routes: tuple[Route, ...] = ()
