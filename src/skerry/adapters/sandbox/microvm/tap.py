"""Tap devices, opened for a monitor that has no way to any network itself."""

import ctypes
import fcntl
import os
import struct
import threading
from pathlib import Path

TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CLONE_NEWNET = 0x40000000
_NAME_BYTES_MAX = 15


def open_tap(netns: str | None, name: str) -> int:
    """A descriptor of the tap `name` in the namespace at that path (an existing one is taken); the caller closes it.

    `netns` None: in a new namespace that exists as long as the descriptor, connected to nothing. Raises `OSError`.
    """
    if not name or len(name) > _NAME_BYTES_MAX:
        raise OSError(f"{name!r} cannot be the name of a device")
    result: list[int | OSError] = []
    thread = threading.Thread(target=_open_there, args=(netns, name, result))  # a namespace belongs to a thread: this one ends
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def _open_there(netns: str | None, name: str, result: list[int | OSError]) -> None:
    try:
        enter(netns)
        result.append(_open(name))
    except OSError as error:
        result.append(error)


def enter(netns: str | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if netns is None:
        failed = libc.unshare(_CLONE_NEWNET)
    else:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            failed = libc.setns(descriptor, _CLONE_NEWNET)
        finally:
            os.close(descriptor)
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), netns or "a new network namespace")


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
