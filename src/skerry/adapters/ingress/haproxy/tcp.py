"""Pure: sections for public ports, each a TCP app's, and what HAProxy counts of their connections.

    users ──► tcp<port> ──► an instance, the one with the fewest connections
                  └─(refused, or none up)─► tcpagain ──► another city's tcppeers ──► its tcp<port>
                                               └─(none up, or it came from another city)─► closed

A port is bound by a reload, and given up by one: HAProxy cannot bind at run time. Connections outlive it in the worker
that they began in. Between cities and through the loop the PROXY protocol says who called, and at which port of which
city: so one listener takes all apps' connections, and what came from elsewhere is known and goes no further.

A name has the owner in it. Should a port change hands, the next owner's is another section, which the connections of the one
before can never meet.
"""

import ipaddress

import msgspec

from skerry.adapters.ingress.haproxy.layout import LOOP, Layout, peer_tcp_backend
from skerry.adapters.ingress.haproxy.servers import abstract, server_line
from skerry.adapters.ingress.haproxy.settings import Settings
from skerry.adapters.ingress.haproxy.statistics import stat_rows
from skerry.core.policy.public_ports import PORTS_MAX
from skerry.kit.record import Record

ALL, FAILED = "tcpall", "tcpfailed"  # stick tables: connections now, and those that reached nobody
_FOUND = "{ var(sess.to) -m found }"


def sections(settings: Settings, layout: Layout, maxconn: int) -> list[str]:
    """Also without any public port: other sites look whether connections are taken here before the first one leads here."""
    most = max(1, maxconn * settings.limits.tcp_share_percent // 100)
    found = [
        _defaults(settings),
        f"backend {ALL} from tcp\n  stick-table type integer size 1 expire 1h store conn_cur",
        f"backend {FAILED} from tcp\n  stick-table type string len 32 size {PORTS_MAX} expire 1h store gpc(1)",
        _again(settings),
        *([_peers(settings, most)] if settings.site.peer_tcp_address else []),
        *(_door(settings, layout, name, most) for name in sorted(layout.doors)),
    ]
    for slot in range(layout.peer_slots):
        name = peer_tcp_backend(slot)
        found.append("\n  server ".join([f"backend {name} from tcp", *_servers(settings, layout, name)]))
    return found


def door_address(settings: Settings, port: int) -> str:
    """host:port of a public port in this site."""
    return f"{settings.site.address.rpartition(':')[0]}:{port}"


def _servers(settings: Settings, layout: Layout, name: str) -> list[str]:
    return [server_line(settings, name, server) for server in layout.servers.get(name, ())]


def _defaults(settings: Settings) -> str:
    limits = settings.limits
    return "\n  ".join(
        [
            "defaults tcp",
            "mode tcp",
            "balance leastconn",
            "option redispatch 1",
            "option clitcpka",  # who is gone without a word is noticed within the kernel's time, and holds nothing
            "option srvtcpka",
            f"retries {limits.retries}",
            f"timeout connect {limits.connect_ms_max}ms",
            f"timeout client {limits.tcp_idle_ms_max}ms",
            f"timeout server {limits.tcp_idle_ms_max}ms",
            "timeout client-fin 30s",
            "timeout server-fin 30s",
            "timeout queue 5s",
        ]
    )


def _door(settings: Settings, layout: Layout, name: str, most: int) -> str:
    own = max(1, most * settings.limits.tcp_app_share_percent // 100)
    servers = [f"server {line}" for line in _servers(settings, layout, name)]
    return "\n  ".join(
        [
            f"listen {name} from tcp",
            f"bind {door_address(settings, layout.doors[name].port)}",
            f"maxconn {most + 1}",
            f"timeout connect {settings.limits.tcp_connect_ms_max}ms",
            f"tcp-request connection track-sc0 int(1) table {ALL}",
            f"tcp-request connection reject if {{ sc_conn_cur(0,{ALL}) gt {most} }}",
            f"tcp-request connection reject if {{ fe_conn gt {own} }}",
            *servers,
            f"server {LOOP}1 {abstract(settings, 'tcpagain')} backup send-proxy-v2",
        ]
    )


def _again(settings: Settings) -> str:
    """The first fallback that is up; nobody's, for who came from another city already."""
    host = settings.site.address.rpartition(":")[0].strip("[]")
    lines = [
        "frontend tcpagain from tcp",
        f"bind {abstract(settings, 'tcpagain')} accept-proxy",
        f"tcp-request content reject if !{{ dst {ipaddress.ip_address(host)} }}",
        f"tcp-request content set-var(sess.door) dst_port,map_str({settings.map_file('doors')})",
        f"tcp-request content set-var(sess.peers) var(sess.door),map_str({settings.map_file('fallbacks')})",
    ]
    for number in range(1, settings.limits.fallbacks_max + 1):
        peer = f"var(sess.peers),field({number},/)"
        lines.append(f"tcp-request content set-var(sess.to) {peer} if !{_FOUND} {{ {peer},nbsrv -m int gt 0 }}")
    lines += [
        f"tcp-request content track-sc1 var(sess.door) table {FAILED} if !{_FOUND}",
        f"tcp-request content sc-inc-gpc(0,1) if !{_FOUND}",
        f"tcp-request content reject if !{_FOUND}",
        "use_backend %[var(sess.to)]",
    ]
    return "\n  ".join(lines)


def _peers(settings: Settings, most: int) -> str:
    return "\n  ".join(
        [
            "frontend tcppeers from tcp",
            f"bind {settings.site.peer_tcp_address} accept-proxy",
            f"maxconn {most}",
            f"tcp-request content set-var(sess.door) dst_port,map_str({settings.map_file('doors')})",
            "tcp-request content reject if !{ var(sess.door) -m found }",
            "use_backend %[var(sess.door)]",
        ]
    )


class DoorStatistics(Record):
    """Of one public port in one worker: `asked` connections of users, `refused` of them at their limit, `open` now; by instance
    (connections that it took, those that failed in the end)."""

    asked: int = 0
    refused: int = 0
    open: int = 0
    servers: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict[str, tuple[int, int]])


def show_door(name: str) -> str:
    """The runtime command for all of its statistics."""
    return f"show stat {name} 7 -1"


def parse_door(answer: str) -> DoorStatistics:
    """CSV with a header line that starts with "# "; empty statistics when it is none."""
    asked = refused = now = 0
    servers: dict[str, tuple[int, int]] = {}
    for row in stat_rows(answer):
        total = int(row.get("stot") or 0)
        if row.get("svname") == "FRONTEND":
            refused, now = int(row.get("dcon") or 0), int(row.get("scur") or 0)
            asked = total + refused
        elif row.get("svname") not in {"BACKEND", None} and not row["svname"].startswith(LOOP):
            tries = int(row.get("wretr") or 0) + int(row.get("wredis") or 0)
            servers[row["svname"]] = (max(0, total - tries), int(row.get("econ") or 0))
    return DoorStatistics(asked=asked, refused=refused, open=now, servers=servers)


def parse_open(answer: str) -> dict[str, int]:
    """Of all public ports of a worker, by `show stat -1 1 -1`: users' connections now."""
    return {row["pxname"]: int(row.get("scur") or 0) for row in stat_rows(answer) if is_door(row.get("pxname", ""))}


def is_door(name: str) -> bool:
    """A section's name of `layout.door_name`."""
    return name.startswith("tcp") and name[3:4].isdigit()


def port_of(name: str) -> int:
    return int(name[3:].partition("-")[0])
