"""Where things can run: sites and nodes."""

from typing import Literal

from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.resources import Resources
from skerry.kit.record import Record

PlaceState = Literal["up", "draining", "down", "cut_off"]


class Site(Record):
    """The machines in one city. Addresses are `host:port` that other sites and users reach.

    `jurisdictions` are those that its operator vouches for; some follow from the country (`core.policy.jurisdiction`).
    """

    id: SiteId
    city: str
    country: str  # ISO 3166 alpha-2
    region: str  # weur, eeur, enam, wnam, sam, afr, apac, me, oc
    lat: float
    lon: float
    address: str  # users' ingress
    peer_address: str  # ingress for other sites' overflow, never forwarded twice
    state: PlaceState = "up"
    jurisdictions: tuple[str, ...] = ()
    peer_tcp_address: str = ""  # the same for connections to public ports; empty: none are taken


class Overcommit(Record):
    """How much a node promises of what it has, in percent: 200 promises all of it twice. What all want at once is then divided
    by the node's market."""

    cpu_percent: int = 100
    memory_percent: int = 100


class Node(Record):
    """One machine in a site, as it last reported. `reserved` is what packing has promised on it.

    `capacity` is what it promises: what it has, times `overcommit`.

    `rack` is the operator's name for what fails together (power, switch); empty: the node is a rack of its own.
    """

    id: NodeId
    site: SiteId
    address: str  # IP on which its instances listen
    capacity: Resources
    reserved: Resources = Resources()
    features: tuple[str, ...] = ()
    state: PlaceState = "up"
    pid: int = 0
    rack: str = ""
    overcommit: Overcommit = Overcommit()
    tasks: tuple[str, ...] = ()  # what maintenance may have done here, by name
