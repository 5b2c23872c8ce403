"""Devices, addresses, routes and neighbours over netlink. Blocking; called in the thread of `Kernel`, all idempotent.

pyroute2 is imported where it is used: it takes longer than all else of an agent's start.
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol, cast

from skerry.adapters.network.linux import namespaces
from skerry.adapters.network.linux.addresses import (
    GUEST_ADDRESS,
    GUEST_GATEWAY,
    GUEST_MAC,
    INNER,
    INSTANCE_MAC,
    MACHINE_PREFIX,
    NODE_MAC,
    SLOT_PREFIX,
    TAP,
    TAP_MAC,
    Device,
    Slot,
)

SHAPER_HANDLE, ROOT_OF_DEVICE = 0x10000, 0xFFFFFFFF
SHAPER_LATENCY_US = 50_000  # how long a packet may wait before it is dropped
SHAPER_BURST_MIN_BYTES = 32 << 10
BLACKHOLE = 6  # RTN_BLACKHOLE
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x2, 0x1000, 0x4000
_SYSCTL = Path("/proc/sys/net")


class Route(Protocol):
    """A netlink socket of pyroute2, as far as it is used here."""

    def link(self, command: str, **what: Any) -> Any: ...
    def addr(self, command: str, **what: Any) -> Any: ...
    def neigh(self, command: str, **what: Any) -> Any: ...
    def route(self, command: str, **what: Any) -> Any: ...
    def tc(self, command: str, kind: str | None = None, **what: Any) -> Any: ...
    def link_lookup(self, **what: Any) -> Any: ...
    def get_links(self) -> Any: ...
    def get_routes(self, *, family: int) -> Any: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def netlink() -> Generator[Route]:
    """Of the namespace that the calling thread is in."""
    route = open_netlink()
    try:
        yield route
    finally:
        route.close()


def open_netlink() -> Route:
    from pyroute2 import IPRoute

    return cast(Route, IPRoute())


def index_of(route: Route, name: str) -> int | None:
    found: list[int] = list(route.link_lookup(ifname=name))
    return found[0] if found else None


def names_with(route: Route, prefix: str) -> list[str]:
    names = [str(link.get("IFLA_IFNAME")) for link in route.get_links()]
    return sorted(name for name in names if name.startswith(prefix))


def make_link(route: Route, slot: Slot, netns: Path, alias: str) -> None:
    """The veth pair of a slot: the node's end, closed to all but IPv4 from the instance, and `eth0` in its namespace."""
    if index_of(route, slot.device) is None:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            route.link(
                "add",
                ifname=slot.device,
                kind="veth",
                address=NODE_MAC,
                peer={"ifname": INNER, "net_ns_fd": descriptor, "address": INSTANCE_MAC},
            )
        finally:
            os.close(descriptor)
    index = index_of(route, slot.device)
    assert index is not None
    close_to_ipv6(slot.device)
    for name, value in (("forwarding", "1"), ("route_localnet", "1"), ("rp_filter", "1"), ("accept_redirects", "0")):
        write(f"ipv4/conf/{slot.device}/{name}", value)
    # Without ARP: the neighbour is known and cannot be changed from the other side.
    route.link("set", index=index, state="up", arp=False, ifalias=alias)
    with _there_already():
        route.addr("add", index=index, address=slot.gateway, prefixlen=SLOT_PREFIX)
    route.neigh("replace", dst=slot.address, lladdr=INSTANCE_MAC, ifindex=index, state="permanent")


def set_up_inside(netns: Path, slot: Slot, device: Device) -> None:
    """`lo`, `eth0` with its address and route, and a microVM's tap. Again before each start: gVisor takes the address away."""
    namespaces.inside(netns, lambda: _inside(slot, device))


def _inside(slot: Slot, device: Device) -> None:
    close_to_ipv6("all")
    close_to_ipv6("default")
    write("ipv4/ip_unprivileged_port_start", "0")  # the ports are the program's own
    with netlink() as route:
        index = index_of(route, INNER)
        assert index is not None, "made with the pair"
        route.link("set", index=1, state="up")
        route.link("set", index=index, state="up")
        with _there_already():
            route.addr("add", index=index, address=slot.address, prefixlen=SLOT_PREFIX)
        route.neigh("replace", dst=slot.gateway, lladdr=NODE_MAC, ifindex=index, state="permanent")
        route.route("replace", dst="default", gateway=slot.gateway)
        if device == "tap":
            _tap(route)


def _tap(route: Route) -> None:
    if index_of(route, TAP) is None:
        _make_tap(TAP)
    index = index_of(route, TAP)
    assert index is not None
    route.link("set", index=index, state="up", address=TAP_MAC)
    with _there_already():
        route.addr("add", index=index, address=GUEST_GATEWAY, prefixlen=SLOT_PREFIX)
    # Known both ways from the start: the first connection after a boot or a restore does not wait for an answer.
    route.neigh("replace", dst=GUEST_ADDRESS, lladdr=GUEST_MAC, ifindex=index, state="permanent")
    write("ipv4/ip_forward", "1")


def _make_tap(name: str) -> None:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def remove_link(route: Route, name: str) -> None:
    """Both ends."""
    index = index_of(route, name)
    if index is not None:
        with _gone_already():
            route.link("del", index=index)


def shape(route: Route, name: str, kbits_max: int | None) -> None:
    """At most so much leaves by this device; None: no limit."""
    index = index_of(route, name)
    assert index is not None
    if kbits_max is None:
        with _gone_already():
            route.tc("del", index=index, handle=SHAPER_HANDLE, parent=ROOT_OF_DEVICE)
        return
    bytes_per_s = kbits_max * 125
    burst = max(SHAPER_BURST_MIN_BYTES, bytes_per_s // 100)
    route.tc("replace", "tbf", index=index, handle=SHAPER_HANDLE, rate=bytes_per_s, latency=f"{SHAPER_LATENCY_US}us", burst=burst)


def shape_inside(netns: Path, kbits_max: int | None) -> None:
    def work() -> None:
        with netlink() as route:
            shape(route, INNER, kbits_max)

    namespaces.inside(netns, work)


def networks_routed(route: Route) -> set[str]:
    """Destinations of all routes but the default one, less those of our own devices."""
    ours = {link["index"] for link in route.get_links() if str(link.get("IFLA_IFNAME")).startswith(MACHINE_PREFIX)}
    found: set[str] = set()
    for entry in route.get_routes(family=2):
        destination = entry.get("RTA_DST")
        if destination is not None and entry.get("RTA_OIF") not in ours and entry["type"] != BLACKHOLE:
            found.add(f"{destination}/{entry['dst_len']}")
    return found


def hold_block(route: Route, pool: str) -> None:
    """Packets to addresses of the block that nobody has go nowhere, above all not by the default route."""
    with _there_already():
        route.route("add", dst=pool, type="blackhole")


def release_block(route: Route, pool: str) -> None:
    with _gone_already():
        route.route("del", dst=pool, type="blackhole")


def forwarding_devices(route: Route) -> tuple[tuple[str, bool], ...]:
    """Devices by which answers may come in, and whether the machine forwards what comes by them."""
    links: list[Any] = list(route.get_links())
    names = [str(link.get("IFLA_IFNAME")) for link in links if link["flags"] & 1]  # those that are up
    outer = [name for name in names if name != "lo" and not name.startswith(MACHINE_PREFIX)]
    return tuple((name, read(f"ipv4/conf/{name}/forwarding") == "1") for name in sorted(outer))


def close_to_ipv6(device: str) -> None:
    if (_SYSCTL / "ipv6").exists():
        write(f"ipv6/conf/{device}/disable_ipv6", "1")


def write(name: str, value: str) -> None:
    """A setting of the namespace that the calling thread is in."""
    (_SYSCTL / name).write_text(value)


def read(name: str) -> str:
    try:
        return (_SYSCTL / name).read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _there_already() -> Generator[None]:
    with _unless(errno.EEXIST):
        yield


@contextlib.contextmanager
def _gone_already() -> Generator[None]:
    with _unless(errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EINVAL):
        yield


@contextlib.contextmanager
def _unless(*codes: int) -> Generator[None]:
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise
