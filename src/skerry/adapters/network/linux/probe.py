"""What this machine lacks for programs' networks, found out by trying."""

import os
from pathlib import Path

from skerry.adapters.network.linux import devices, namespaces
from skerry.adapters.network.linux.nft import Nft
from skerry.kit.record import Record
from skerry.ports.network import NetworkError, NetworkUnavailable

_TUN = Path("/dev/net/tun")
_TABLE = """
table inet skerry-probe {
 map m { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
 chain c { type nat hook output priority -100; tcp flags & (fin|syn|rst|ack) == syn dnat ip to ip daddr . tcp dport map @m; }
 chain f { type filter hook prerouting priority mangle;
  fib daddr type != unicast ct count over 10 reject with icmp type admin-prohibited; }
 chain p { type nat hook postrouting priority srcnat; ip saddr 127.0.0.0/8 masquerade; }
}
"""


class NetworkProbe(Record):
    """Empty texts: nothing is missing."""

    rules: str = ""  # without: no network for programs
    shaping: str = ""  # without: no limits of bandwidth
    tap: str = ""  # without: no microVMs

    @property
    def usable(self) -> bool:
        return not self.rules


def require() -> None:
    """Raises `NetworkUnavailable`."""
    if os.geteuid() != 0:
        raise NetworkUnavailable("networks of programs need root: run Skerry as root (sudo)")
    Nft().close()


def probe() -> NetworkProbe:
    """Everything is tried in a namespace of its own, which ends with the try."""
    try:
        require()
        return namespaces.in_thread(_try_all)
    except NetworkUnavailable as error:
        return NetworkProbe(rules=str(error))
    except OSError as error:
        return NetworkProbe(rules=f"no network namespaces: {error}")


def _try_all() -> NetworkProbe:
    namespaces.leave()
    try:
        _try_links()
    except NetworkError as error:
        return NetworkProbe(rules=str(error))
    return NetworkProbe(rules=_try_rules(), shaping=_try_shaping(), tap="" if _TUN.exists() else f"{_TUN} is not here")


def _try_rules() -> str:
    nft = Nft()
    try:
        nft.run(_TABLE)
    except NetworkError as error:
        return f"this kernel's nftables lacks what is needed (map, nat, ct, fib, reject): {error}"
    finally:
        nft.close()
    return ""


def _try_links() -> None:
    from pyroute2 import NetlinkError

    with devices.netlink() as route:
        try:
            route.link("add", ifname="probe0", kind="veth", peer={"ifname": "probe1"})
        except NetlinkError as error:
            raise NetworkUnavailable(f"no veth devices: {error}") from error


def _try_shaping() -> str:
    from pyroute2 import NetlinkError

    with devices.netlink() as route:
        try:
            devices.shape(route, "probe0", 1000)
        except NetlinkError as error:
            return f"no tbf: {error}"
    return ""
