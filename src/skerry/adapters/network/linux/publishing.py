"""Which port of the node an instance is published at."""

import errno
import ipaddress
import socket

from skerry.adapters.network.linux.settings import Settings
from skerry.adapters.runtime.workerd.listeners import address_of, listen_tcp
from skerry.kit.hashing import stable_hash
from skerry.ports.network import NetworkError, NetworkUnavailable

TRIES_MAX = 256


def bind(host: str, settings: Settings, instance_id: str, wanted: str | None) -> tuple[socket.socket, str]:
    """(listener, host:port): at `wanted` if it is this node's and free, else at the instance's own place among the ports."""
    if not _is_ipv4(host):
        raise NetworkUnavailable(f"programs are published at an IPv4 address of the node, and {host} is none")
    start = stable_hash(instance_id)
    ports = [settings.port_first + (start + step) % settings.port_count for step in range(min(TRIES_MAX, settings.port_count))]
    if wanted is not None and wanted.rpartition(":")[0] == host:
        ports.insert(0, int(wanted.rpartition(":")[2]))
    for port in ports:
        try:
            listener = listen_tcp(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise NetworkError(f"cannot listen on {host}:{port}: {error}") from error
        return listener, address_of(listener)
    raise NetworkUnavailable(f"no free port on {host} among {settings.port_first} and the next {settings.port_count}")


def _is_ipv4(host: str) -> bool:
    try:
        return not ipaddress.IPv4Address(host).is_unspecified
    except ValueError:
        return False
