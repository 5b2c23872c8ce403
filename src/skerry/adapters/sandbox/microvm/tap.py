"""Tap devices, opened for a monitor that has no way to any network itself."""

import ctypes
import fcntl
import ipaddress
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from skerry.ports.sandbox import GuestNetwork

TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNGETDEVNETNS, _TUNGETIFF = 0x400454CA, 0x400454CB, 0x54E3, 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CLONE_NEWNET = 0x40000000
_NAME_BYTES_MAX = 15

T = TypeVar("T")


def open_tap(netns: str | None, name: str) -> int:
    """A descriptor of the tap `name` in the namespace at that path (an existing one is taken); the caller closes it.

    `netns` None: in a new namespace that exists as long as the descriptor, connected to nothing. Raises `OSError`.
    """
    if not name or len(name) > _NAME_BYTES_MAX:
        raise OSError(f"{name!r} cannot be the name of a device")

    def work() -> int:
        enter(netns)
        return _open(name)

    return _apart(work)


def move_tap(descriptor: int, netns: str, network: GuestNetwork) -> None:
    """The device of an open tap into the namespace at that path, in place of the one that is there by the name of
    `network.device`, and set up as that one was: it is the gateway, and knows the guest. Blocks for some 30 ms (the kernel waits
    for all its CPUs). Raises `OSError`.
    """
    target = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        source = fcntl.ioctl(descriptor, _TUNGETDEVNETNS)
        try:
            fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)  # as the other was: it does not go with its monitor
            name = fcntl.ioctl(descriptor, _TUNGETIFF, bytes(40))[:16].rstrip(b"\0").decode()
            _apart(lambda: _move(name, source, target, network))
        finally:
            os.close(source)
    finally:
        os.close(target)


def _move(name: str, source: int, target: int, network: GuestNetwork) -> None:
    from pyroute2 import IPRoute, NetlinkError  # here: it takes longer than all else of an agent's start

    try:
        _set_namespace(source, "the tap's own")
        with IPRoute() as here:
            _set_namespace(target, "the instance's")
            with IPRoute() as there:
                _replace(cast(Any, here), cast(Any, there), name, target, network)
    except (NetlinkError, StopIteration) as error:
        raise OSError(f"the tap of a machine cannot be moved to its network: {error}") from error


def _replace(here: Any, there: Any, name: str, target: int, network: GuestNetwork) -> None:
    index = next(iter(here.link_lookup(ifname=name)))
    for old in there.link_lookup(ifname=network.device):
        there.link("del", index=old)
    here.link("set", index=index, net_ns_fd=target, ifname=network.device)
    _set_up(there, network)


def _set_up(route: Any, network: GuestNetwork) -> None:
    guest = ipaddress.IPv4Interface(network.address)
    index = next(iter(route.link_lookup(ifname=network.device)))
    route.link("set", index=index, state="up", **({"address": network.gateway_mac} if network.gateway_mac else {}))
    if network.gateway:
        route.addr("add", index=index, address=network.gateway, prefixlen=guest.network.prefixlen)
    route.neigh("replace", dst=str(guest.ip), lladdr=network.mac, ifindex=index, state="permanent")


def _apart(work: Callable[[], T]) -> T:
    """A namespace belongs to a thread: this one ends. Raises `OSError`."""
    result: list[T | OSError] = []

    def run() -> None:
        try:
            result.append(work())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def enter(netns: str | None) -> None:
    if netns is None:
        _checked(_libc().unshare(_CLONE_NEWNET), "a new network namespace")
        return
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_namespace(descriptor, netns)
    finally:
        os.close(descriptor)


def _set_namespace(descriptor: int, name: str) -> None:
    _checked(_libc().setns(descriptor, _CLONE_NEWNET), name)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(failed: int, name: str) -> None:
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _open(name: str) -> int:
    if not Path(TUN).exists():
        raise FileNotFoundError(2, "not on this machine; sudo modprobe tun", TUN)
    descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
