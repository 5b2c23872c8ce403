"""The listening sockets of instances: made by the agent, inherited by workerd, held by both.

Requests wait in a socket's backlog while nobody accepts. A `Gate` is the agent's end of one: it can watch for a
waiting request (`watch`), leave them to the process (`hold`), or answer them with a 503 (`refuse`).
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import platform
import select
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

BACKLOG = 1024  # connections that wait while an instance starts; the kernel caps it at net.core.somaxconn
LINGER_S = 2  # for a refused client that does not close
REFUSALS_PER_TURN = 64  # answered before other work of the agent gets its turn
_PIDFD_GETFD = {"x86_64": 438, "aarch64": 438}
_REFUSAL = "instance cannot be started"
_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)


def listen_tcp(host: str, port: int = 0) -> socket.socket:
    """A listener on the node's address; port 0: the kernel chooses. Raises `OSError` (the port is taken)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_again(address: str) -> socket.socket:
    """At an address that one had before; where somebody else has the port now, at a new one. Raises `OSError`."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with contextlib.suppress(OSError):
        return listen_tcp(host, int(port))
    return listen_tcp(host)


def listen_unix(path: Path, *, mode: int = 0o600) -> socket.socket:
    """A listener at `path`, which it replaces. Its directory decides who may reach it; `mode` who may connect."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """host:port, or the path of a Unix socket."""
    name = listener.getsockname()
    if isinstance(name, str):
        return name
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def take_back(pidfd: int, fds: Iterable[int]) -> dict[str, socket.socket]:
    """Duplicates of another process's listening sockets among its descriptors `fds`, by address. Empty where not allowed."""
    number = _PIDFD_GETFD.get(platform.machine())
    found: dict[str, socket.socket] = {}
    for fd in fds if number is not None else ():
        own = _libc().syscall(number, pidfd, fd, 0)
        listener = _as_listener(own) if own >= 0 else None
        if listener is not None:
            previous = found.setdefault(address_of(listener), listener)
            if previous is not listener:
                listener.close()
    return found


def _as_listener(fd: int) -> socket.socket | None:
    """Takes the descriptor over; None if it is no listening socket."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    with contextlib.suppress(OSError):
        if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            os.set_inheritable(fd, False)
            listener.setblocking(False)
            return listener
    listener.close()
    return None


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Gate:
    """See the module's docstring. `on_demand` is called once per `watch`, when a request waits."""

    def __init__(self, listener: socket.socket, on_demand: Callable[[], None]) -> None:
        self.listener = listener
        self.mode: Literal["hold", "watch", "refuse"] = "hold"
        self._on_demand = on_demand

    def hold(self) -> None:
        self._leave("hold")

    def watch(self) -> None:
        self._leave("watch")
        asyncio.get_running_loop().add_reader(self.listener, self._demanded)

    def refuse(self) -> None:
        self._leave("refuse")
        asyncio.get_running_loop().add_reader(self.listener, self._refuse_waiting)

    def waiting(self) -> bool:
        """Somebody waits to be accepted."""
        return _readable(self.listener)

    def close(self) -> None:
        self._leave("hold")
        self.listener.close()

    def _leave(self, mode: Literal["hold", "watch", "refuse"]) -> None:
        if self.mode != "hold":
            asyncio.get_running_loop().remove_reader(self.listener)
        self.mode = mode

    def _demanded(self) -> None:
        self.hold()
        self._on_demand()

    def _refuse_waiting(self) -> None:
        for _ in range(REFUSALS_PER_TURN):
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            refuse_client(client, _REFUSAL)


def refuse_client(client: socket.socket, reason: str) -> None:
    """Answer 503 without reading first: whoever asks has sent a request, and it is discarded after the answer."""
    text = f"{reason}\n".encode()
    with contextlib.suppress(OSError):
        client.setblocking(False)
        client.send(_ANSWER % (len(text), text))
        client.shutdown(socket.SHUT_WR)
    _linger(client)


def _linger(client: socket.socket) -> None:
    """Close once the client has; unread bytes at close would reset the connection and lose the answer."""
    loop = asyncio.get_running_loop()

    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                if client.recv(65536):
                    return
            except ConnectionError:
                pass
            close()

    def close() -> None:
        if client.fileno() >= 0:
            timer.cancel()
            loop.remove_reader(client)
            client.close()

    timer = loop.call_later(LINGER_S, close)
    loop.add_reader(client, drain)


def _readable(listener: socket.socket) -> bool:
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    return bool(poller.poll(0))
