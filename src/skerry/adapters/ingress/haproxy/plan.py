"""Pure: from what a running HAProxy holds to what it should, by runtime commands or by a reload.

The order of the commands is what makes a change invisible: what is added is complete before a host leads to it, and
what is removed is reached by no host any more. At every step in between a host that both tables know leads to servers
that can answer.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from skerry.adapters.ingress.haproxy.layout import Layout, Server
from skerry.kit.record import Record


class Loaded(Record):
    """What a worker holds. `leaving` servers take nothing new and wait for their last request to end."""

    app_slots: int
    peer_slots: int
    servers: dict[str, dict[str, Server]] = msgspec.field(default_factory=dict[str, dict[str, Server]])
    leaving: dict[str, frozenset[str]] = msgspec.field(default_factory=dict[str, frozenset[str]])
    hosts: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    fallbacks: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    seats: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    doors: frozenset[str] = frozenset()  # public ports that it has bound, by their sections' names


class AddServer(Record):
    backend: str
    server: Server


class Revive(Record):
    """A leaving server is wanted again, with this address and weight."""

    backend: str
    server: Server


class SetWeight(Record):
    backend: str
    name: str
    weight: int


class SetAddress(Record):
    """Requests under way stay where they are."""

    backend: str
    name: str
    address: str


class Leave(Record):
    """Take nothing new; what runs may end."""

    backend: str
    name: str


class Delete(Record):
    """Of a leaving server. HAProxy refuses while a request is left in it; then it is tried again later."""

    backend: str
    name: str


Map = Literal["hosts", "fallbacks", "seats"]  # as `Layout` and `Loaded` name them
MAPS: tuple[Map, ...] = ("hosts", "fallbacks", "seats")


class MapEntry(Record):
    """`value` None: remove the key."""

    map: Map
    key: str
    value: str | None
    known: bool  # the key is in the map already


Command = AddServer | Revive | SetWeight | SetAddress | Leave | Delete | MapEntry


class Plan(Record):
    """Either `reload` or commands, in order."""

    commands: tuple[Command, ...] = ()
    reload: bool = False


def plan(current: Loaded, desired: Layout) -> Plan:
    """Idempotent: of what is as desired already, nothing is touched."""
    grows = current.app_slots < desired.app_slots or current.peer_slots < desired.peer_slots
    if grows or current.doors != desired.doors.keys():
        return Plan(reload=True)
    return Plan(
        commands=(
            *_added(current, desired),
            *_map_removed("seats", current.seats, desired.seats),
            *_changed(current, desired),
            *_map_set("fallbacks", current.fallbacks, desired.fallbacks),
            *_map_set("seats", current.seats, desired.seats),
            *_map_set("hosts", current.hosts, desired.hosts),
            *_map_removed("hosts", current.hosts, desired.hosts),
            *_map_removed("fallbacks", current.fallbacks, desired.fallbacks),
            *_removed(current, desired),
        )
    )


def sweep(current: Loaded) -> Plan:
    """Tries again to delete what had requests in it."""
    return Plan(
        commands=tuple(Delete(backend=backend, name=name) for backend, names in current.leaving.items() for name in sorted(names))
    )


def loaded(layout: Layout) -> Loaded:
    """What a worker holds that was started from files of this layout."""
    return Loaded(
        app_slots=layout.app_slots,
        peer_slots=layout.peer_slots,
        servers={backend: {server.name: server for server in servers} for backend, servers in layout.servers.items()},
        hosts=dict(layout.hosts),
        fallbacks=dict(layout.fallbacks),
        seats=dict(layout.seats),
        doors=frozenset(layout.doors),
    )


def applied(current: Loaded, command: Command) -> Loaded:
    """What the worker holds after the command was accepted."""
    match command:
        case AddServer(backend=backend, server=server) | Revive(backend=backend, server=server):
            return _with_server(_without_leaving(current, backend, server.name), backend, server)
        case SetWeight(backend=backend, name=name, weight=weight):
            return _with_server(current, backend, msgspec.structs.replace(current.servers[backend][name], weight=weight))
        case SetAddress(backend=backend, name=name, address=address):
            return _with_server(current, backend, msgspec.structs.replace(current.servers[backend][name], address=address))
        case Leave(backend=backend, name=name):
            left = {other: server for other, server in current.servers[backend].items() if other != name}
            leaving = current.leaving.get(backend, frozenset()) | {name}
            return msgspec.structs.replace(
                current, servers={**current.servers, backend: left}, leaving={**current.leaving, backend: leaving}
            )
        case Delete(backend=backend, name=name):
            return _without_leaving(current, backend, name)
        case MapEntry():
            return _with_entry(current, command)


def _with_entry(current: Loaded, entry: MapEntry) -> Loaded:
    entries: dict[str, str] = dict(getattr(current, entry.map))
    if entry.value is None:
        entries.pop(entry.key, None)
    else:
        entries[entry.key] = entry.value
    return msgspec.structs.replace(current, **{entry.map: entries})


def _with_server(current: Loaded, backend: str, server: Server) -> Loaded:
    servers = {**current.servers.get(backend, {}), server.name: server}
    return msgspec.structs.replace(current, servers={**current.servers, backend: servers})


def _without_leaving(current: Loaded, backend: str, name: str) -> Loaded:
    leaving = current.leaving.get(backend, frozenset()) - {name}
    rest = {other: names for other, names in current.leaving.items() if other != backend}
    return msgspec.structs.replace(current, leaving={**rest, backend: leaving} if leaving else rest)


def _added(current: Loaded, desired: Layout) -> Iterator[Command]:
    for backend, servers in desired.servers.items():
        for server in servers:
            if server.name in current.leaving.get(backend, frozenset()):
                yield Revive(backend=backend, server=server)
            elif server.name not in current.servers.get(backend, {}):
                yield AddServer(backend=backend, server=server)


def _changed(current: Loaded, desired: Layout) -> Iterator[Command]:
    """Weights that grow before those that shrink, so that no backend is without a server in between."""
    shrinking: list[Command] = []
    for backend, servers in desired.servers.items():
        for server in servers:
            old = current.servers.get(backend, {}).get(server.name)
            if old is not None and old.address != server.address:
                yield SetAddress(backend=backend, name=server.name, address=server.address)
            if old is not None and old.weight != server.weight:
                change = SetWeight(backend=backend, name=server.name, weight=server.weight)
                if server.weight > old.weight:
                    yield change
                else:
                    shrinking.append(change)
    yield from shrinking


def _map_set(name: Map, current: dict[str, str], desired: dict[str, str]) -> Iterator[Command]:
    for key in sorted(desired):
        if current.get(key) != desired[key]:
            yield MapEntry(map=name, key=key, value=desired[key], known=key in current)


def _map_removed(name: Map, current: dict[str, str], desired: dict[str, str]) -> Iterator[Command]:
    for key in sorted(current.keys() - desired.keys()):
        yield MapEntry(map=name, key=key, value=None, known=True)


def _removed(current: Loaded, desired: Layout) -> Iterator[Command]:
    gone = [
        (backend, name)
        for backend, servers in sorted(current.servers.items())
        for name in sorted(servers.keys() - {server.name for server in desired.servers.get(backend, ())})
    ]
    yield from (Leave(backend=backend, name=name) for backend, name in gone)
    yield from (Delete(backend=backend, name=name) for backend, name in gone)
