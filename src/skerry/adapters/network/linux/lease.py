"""Which block of addresses a node has, and which devices forward for it: kept in the kernel, in the nodes' tables themselves.

So a claim ends with the table or with the boot, holds in one network namespace of the machine, and needs no file that
could be left behind. Blocking; called in the thread of `Kernel`.
"""

import contextlib
import errno
import ipaddress
import socket
import time
from collections.abc import Generator
from typing import Any, cast

from skerry.adapters.network.linux import devices, rules
from skerry.adapters.network.linux.addresses import candidates
from skerry.adapters.network.linux.devices import Route
from skerry.adapters.network.linux.nft import Nft, NftError
from skerry.adapters.network.linux.settings import Settings
from skerry.ports.network import NetworkUnavailable

_MUTEX = "\0skerry-network"  # an abstract socket: of this network namespace, and free when its holder dies
_MUTEX_WAIT_S, _MUTEX_EVERY_S = 20, 0.005
_OPEN, _SHUT = "1", "0"


@contextlib.contextmanager
def machine_mutex() -> Generator[None]:
    """One node of this machine at a time. Held for milliseconds."""
    deadline = time.monotonic() + _MUTEX_WAIT_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as holder:
        while True:
            try:
                holder.bind(_MUTEX)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise NetworkUnavailable(f"another node of this machine sets up its network for too long: {error}") from error
            time.sleep(_MUTEX_EVERY_S)
        yield


def claim(nft: Nft, route: Route, tag: str, settings: Settings, had: str | None) -> str:
    """The node's block: the one that its table has, else a free one, at best the one that it `had`. With the mutex held."""
    mine = elements(nft, tag, "pool")
    if mine:
        return mine[0]
    nft.run(f"add table {rules.table_of(tag)}\ndelete table {rules.table_of(tag)}\n")  # one without a block is half made
    taken = {network for other in other_tags(nft, tag) for network in elements(nft, other, "pool")}
    taken |= devices.networks_routed(route)
    used = [ipaddress.IPv4Network(text) for text in taken]
    for block in candidates(ipaddress.IPv4Network(settings.pool), settings.lease_prefix, tag, had):
        if not any(block.overlaps(other) for other in used):
            nft.run(rules.lease(tag, str(block)))
            return str(block)
    raise NetworkUnavailable(
        f"no free block in {settings.pool}: all of it is routed or taken; give nodes another: skerry up --address-pool"
    )


def open_uplinks(nft: Nft, route: Route, tag: str) -> tuple[str, ...]:
    """Let the machine forward what comes by its devices; those that did not before. With the mutex held."""
    ours = {name for other in (tag, *other_tags(nft, tag)) for name in elements(nft, other, "uplinks")}
    asked: list[str] = []
    for name, forwards in devices.forwarding_devices(route):
        if not forwards or name in ours:
            asked.append(name)
    return tuple(asked)


def forward(names: tuple[str, ...]) -> None:
    """After the rules that keep the machine from being everybody's router."""
    for name in names:
        with contextlib.suppress(OSError):  # gone meanwhile
            devices.write(f"ipv4/conf/{name}/forwarding", _OPEN)


def release(nft: Nft, route: Route, tag: str) -> None:
    """Everything but instances: the table with its claim, and forwarding where no other node needs it. Idempotent."""
    with machine_mutex():
        if tag not in tags(nft):
            return
        others = {name for other in other_tags(nft, tag) for name in elements(nft, other, "uplinks")}
        for name in elements(nft, tag, "uplinks"):
            if name not in others:
                with contextlib.suppress(OSError):
                    devices.write(f"ipv4/conf/{name}/forwarding", _SHUT)
        for pool in elements(nft, tag, "pool"):
            devices.release_block(route, pool)
        nft.run(f"delete table {rules.table_of(tag)}\n")


def tags(nft: Nft) -> tuple[str, ...]:
    """Of all nodes that have a table in this namespace."""
    names = [entry["table"]["name"] for entry in nft.read("list tables") if "table" in entry]
    return tuple(sorted(name.removeprefix(rules.TABLE_PREFIX) for name in names if name.startswith(rules.TABLE_PREFIX)))


def other_tags(nft: Nft, tag: str) -> tuple[str, ...]:
    return tuple(other for other in tags(nft) if other != tag)


def elements(nft: Nft, tag: str, name: str) -> list[str]:
    """Of a set of one node's table; none where it has no such set."""
    try:
        found = nft.read(f"list set {rules.table_of(tag)} {name}")
    except NftError:
        return []
    return [_text(element) for entry in found for element in entry.get("set", {}).get("elem", [])]


def _text(element: Any) -> str:
    if isinstance(element, dict) and "prefix" in element:
        prefix = cast(dict[str, Any], element["prefix"])
        return f"{prefix['addr']}/{prefix['len']}"
    return str(cast(object, element))
