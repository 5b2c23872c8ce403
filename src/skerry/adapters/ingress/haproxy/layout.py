"""Pure: which app sits in which backend slot, and what HAProxy has to hold for that.

HAProxy 2.8 cannot make a backend at run time, but everything in one. So the configuration has a pool of empty
backends, `app0000` …, and `peer00` … for other sites; a new app takes a free one. A slot that lost its app
cools until no request of that app is left in it, since a retry inside it must never meet another account's servers.
"""

import re

import msgspec

from skerry.adapters.ingress.haproxy.settings import Limits
from skerry.core.types.ids import AccountId, AppName
from skerry.core.types.routes import Route, RouteTable, Target
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record

WEIGHT_MAX = 256
LOW_WATER = 8  # free slots below which the pool grows: one reload for many apps
LOOP = "again"  # servers of this prefix lead back into this HAProxy (see `config`)

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?")
_ADDRESS = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:]+\]):\d{1,5}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Full(Exception):
    """More apps than `slots_max`."""


class Server(Record):
    """One server line. Dynamic servers keep their name for life; address and weight can change."""

    name: str
    address: str
    weight: int


class Assignment(Record):
    """Who has which slot. `apps` by "account/app", `peers` by site; `cooling` slots are nobody's yet."""

    app_slots: int
    peer_slots: int
    apps: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    peers: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    cooling: tuple[int, ...] = ()
    peers_cooling: tuple[int, ...] = ()


class Door(Record):
    """A public port and whose it is."""

    port: int
    account: AccountId
    app: AppName


class Layout(Record):
    """The content of HAProxy: `servers` by backend (only those with any), hosts to backends, backends to peers, and public ports
    by the names of their sections.

    `seats`: instances that keep their users, to their backend; not those that take nothing new.
    """

    app_slots: int
    peer_slots: int
    servers: dict[str, tuple[Server, ...]] = msgspec.field(default_factory=dict[str, tuple[Server, ...]])
    hosts: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    fallbacks: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    seats: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    doors: dict[str, Door] = msgspec.field(default_factory=dict[str, Door])


def app_backend(slot: int) -> str:
    return f"app{slot:04d}"


def peer_backend(slot: int) -> str:
    return f"peer{slot:02d}"


def peer_tcp_backend(slot: int) -> str:
    """Where another site takes connections to public ports."""
    return f"{peer_backend(slot)}tcp"


def door_name(door: Door) -> str:
    return f"tcp{door.port:05d}-{stable_id(f'{door.account}/{door.app}', length=8)}"


def once(backend: str) -> str:
    """The peer backend for requests that must not be sent twice."""
    return f"{backend}once"


def empty(limits: Limits) -> Assignment:
    return Assignment(app_slots=limits.slots, peer_slots=limits.peer_slots)


def assign(before: Assignment, table: RouteTable, *, cooled: frozenset[str], limits: Limits) -> Assignment:
    """Slots for `table`; apps keep theirs. `cooled`: backends in which no request is left. Raises `Full`.

    A slot given up here is not given out here, so during the change no host can lead to another app's servers.
    """
    owners = sorted({_owner(route) for route in table.routes if route.public_port is None})
    sites = sorted({site for route in table.routes for site, _ in route.fallbacks[: limits.fallbacks_max]})
    apps, cooling, app_slots = _share(
        before.apps, owners, before.cooling, {i for i in before.cooling if app_backend(i) in cooled}, before.app_slots
    )
    peers, peers_cooling, peer_slots = _share(
        before.peers,
        [str(site) for site in sites],
        before.peers_cooling,
        {i for i in before.peers_cooling if {peer_backend(i), once(peer_backend(i)), peer_tcp_backend(i)} <= cooled},
        before.peer_slots,
    )
    if app_slots > limits.slots_max:
        raise Full(f"{len(owners)} apps need {app_slots} slots, the limit is {limits.slots_max}")
    return Assignment(
        app_slots=app_slots, peer_slots=peer_slots, apps=apps, peers=peers, cooling=cooling, peers_cooling=peers_cooling
    )


def lay_out(assignment: Assignment, table: RouteTable, *, limits: Limits) -> Layout:
    """What HAProxy has to hold. Raises `ValueError` for a name or address that is none.

    Of two routes with one host or port the first in (account, app) order has it; of two fallbacks to one site the first.
    """
    servers: dict[str, tuple[Server, ...]] = {}
    hosts: dict[str, str] = {}
    fallbacks: dict[str, str] = {}
    seats: dict[str, str] = {}
    doors = _doors(table)
    for route in sorted(table.routes, key=_owner):
        if route.public_port is not None:
            _lay_out_door(assignment, route, doors, servers, fallbacks, limits=limits)
            continue
        backend = app_backend(assignment.apps[_owner(route)])
        servers[backend] = scaled(route.targets)
        if route.sticky:
            seats |= {server.name: backend for server in servers[backend] if server.weight > 0}
        for host in route.hosts:
            hosts.setdefault(_checked(_HOST, host.lower().rstrip("."), "host name"), backend)
        chosen = route.fallbacks[: limits.fallbacks_max]
        if chosen:
            fallbacks[backend] = "/".join(dict.fromkeys(peer_backend(assignment.peers[site]) for site, _ in chosen))
        for site, address in chosen:
            peer = Server(name=_checked(_NAME, site, "site"), address=_checked(_ADDRESS, address, "address"), weight=WEIGHT_MAX)
            backend = peer_backend(assignment.peers[site])
            servers.setdefault(backend, (peer,))
            servers.setdefault(once(backend), (peer,))
    return Layout(
        app_slots=assignment.app_slots,
        peer_slots=assignment.peer_slots,
        servers={backend: found for backend, found in sorted(servers.items()) if found},
        hosts=hosts,
        fallbacks=fallbacks,
        seats=seats,
        doors=doors,
    )


def without_doors(layout: Layout, names: frozenset[str]) -> Layout:
    """But for the public ports of these names."""
    if not names:
        return layout
    return msgspec.structs.replace(
        layout,
        servers={backend: found for backend, found in layout.servers.items() if backend not in names},
        fallbacks={backend: peers for backend, peers in layout.fallbacks.items() if backend not in names},
        doors={name: door for name, door in layout.doors.items() if name not in names},
    )


def _doors(table: RouteTable) -> dict[str, Door]:
    by_port: dict[int, Door] = {}
    for route in sorted(table.routes, key=_owner):
        if route.public_port is not None:
            if not 1 <= route.public_port <= 65_535:
                raise ValueError(f"not a port: {route.public_port}")
            by_port.setdefault(route.public_port, Door(port=route.public_port, account=route.account, app=route.app))
    return {door_name(door): door for _, door in sorted(by_port.items())}


def _lay_out_door(
    assignment: Assignment,
    route: Route,
    doors: dict[str, Door],
    servers: dict[str, tuple[Server, ...]],
    fallbacks: dict[str, str],
    *,
    limits: Limits,
) -> None:
    assert route.public_port is not None
    name = door_name(Door(port=route.public_port, account=route.account, app=route.app))
    if name not in doors:
        return
    servers[name] = scaled(route.targets)
    chosen = route.fallbacks[: limits.fallbacks_max]
    if chosen:
        fallbacks[name] = "/".join(dict.fromkeys(peer_tcp_backend(assignment.peers[site]) for site, _ in chosen))
    for site, address in chosen:
        peer = Server(name=_checked(_NAME, site, "site"), address=_checked(_ADDRESS, address, "address"), weight=WEIGHT_MAX)
        servers.setdefault(peer_tcp_backend(assignment.peers[site]), (peer,))


def scaled(targets: tuple[Target, ...]) -> tuple[Server, ...]:
    """Servers in name order, weights scaled up to `WEIGHT_MAX` so that the loop servers' share stays below 1 %."""
    heaviest = max((target.weight for target in targets), default=0)
    by_name = {target.instance: target for target in targets}
    return tuple(
        Server(
            name=_checked(_NAME, name, "instance"),
            address=_checked(_ADDRESS, target.address, "address"),
            weight=0 if target.weight == 0 else max(1, target.weight * WEIGHT_MAX // heaviest),
        )
        for name, target in sorted(by_name.items())
    )


def _owner(route: Route) -> str:
    return f"{route.account}/{route.app}"


def _share(
    before: dict[str, int], owners: list[str], cooling: tuple[int, ...], cooled: set[int], size: int
) -> tuple[dict[str, int], tuple[int, ...], int]:
    kept = {owner: before[owner] for owner in owners if owner in before}
    given_up = {slot for owner, slot in before.items() if owner not in kept}
    still_cooling = (set(cooling) - cooled) | given_up
    new = [owner for owner in owners if owner not in kept]
    taken = set(kept.values()) | still_cooling
    while size - len(taken) < len(new) + min(LOW_WATER, size // 4):
        size *= 2
    free = (slot for slot in range(size) if slot not in taken)
    return kept | dict(zip(new, free, strict=False)), tuple(sorted(still_cooling)), size


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text) or (pattern is _NAME and text.startswith(LOOP)):
        raise ValueError(f"not a {what}: {text!r}")
    return text
