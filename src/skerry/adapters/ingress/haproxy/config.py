"""Pure: the configuration file and the maps, from settings and layout.

The way of a request:

    users ──► app slot ──► an instance
                 └─(broken off, refused, or none up)─► again ──► app slot, once more, while a target is up
                                                         └─────► peer slot ──► peer frontend of another city
    peers ──► app slot ──► an instance                              └─(refused, or 425)─► again, next fallback …
                 └────► again ──► app slot, once more; none up: 425, "not here, ask the next one"

`again` is a frontend of this very HAProxy, and a server of little weight in every slot. It is there because of how
HAProxy 2.8 retries: backup servers are considered only while no active server is up, so a target that breaks off
before it answered would be tried to the end with the fallback beside it; and after a refused connection it waits up to
a second if fewer than two servers are active. With two loop servers a retry goes on at once, to another target or
through the loop. One request in 130 takes the loop by its weight, without any failure, and nothing in it tells: so the
loop leads back to the slot some rounds while a target is up, and a fallback is asked only after that.

A request that kills whatever answers it ends as a 502 at the first fallback; it does not tour the cities.

Targets are never probed (that would wake what sleeps). Their "check" looks at our own peer port, which is up: it only
closes the breaker again that a refused connection opened (`observe layer4`). Peers are probed.

A worker that is stopping after a reload has an old table; it hands new requests to its successor (`fresh`).
"""

import json

from skerry.adapters.ingress.haproxy import counting, pages, tcp
from skerry.adapters.ingress.haproxy.layout import LOOP, Layout, app_backend, once, peer_backend
from skerry.adapters.ingress.haproxy.servers import abstract, loop, server_line
from skerry.adapters.ingress.haproxy.settings import Limits, Settings

IDEMPOTENT = "{ method GET HEAD OPTIONS PUT DELETE }"
CF_HEADER = "x-skerry-cf"  # the JSON for request.cf; workerd takes it away as its cfBlobHeader
HOP_HEADER = "x-skerry-hop"  # the site a request came from: it is not sent on to a third one
ROUND_HEADER = "x-skerry-round"  # how often a request went through `again`
STATUS_HEADER = "x-skerry-status"  # an app's own 425, under another status between sites
SERVED_BY_HEADER = "x-skerry-served-by"
SEAT_COOKIE = "__skerry"  # of sticky apps: the instance that answered first
NO_COPY_STATUS = pages.NO_COPY_HERE.status
HIDDEN_STATUS = 599
ALIVE_PATH = "/-/skerry/alive"  # on the peer frontend
ROUNDS = 3  # the loop servers' turns come in pairs: with three, a request whom both hit still meets a target
LOOPS = 2  # so that HAProxy counts two active servers and does not wait before a retry

# Types that gain, as Cloudflare's list; never text/event-stream, whose events must not wait for one another.
COMPRESSED_TYPES = (
    "text/html text/css text/plain text/xml text/javascript text/csv text/markdown text/x-component text/calendar "
    "application/javascript application/x-javascript application/json application/ld+json application/manifest+json "
    "application/xml application/xhtml+xml application/rss+xml application/atom+xml application/wasm "
    "application/vnd.api+json application/graphql+json image/svg+xml image/bmp image/x-icon font/otf font/ttf"
)


def connections(limits: Limits, descriptors: int, *, servers: int = 0) -> int:
    """How many to allow: two descriptors each, besides pipes, one per server's check and a tenth for all the rest."""
    return max(100, min(limits.connections_max, (descriptors * 9 // 10 - 2 * _PIPES_MAX - servers) // 2))


def render(settings: Settings, layout: Layout, *, descriptors: int, root: bool) -> str:
    """The whole configuration; `descriptors` is RLIMIT_NOFILE, `root` whether HAProxy is started as root."""
    servers = sum(len(found) for found in layout.servers.values())
    maxconn = connections(settings.limits, descriptors, servers=servers)
    parts = [
        _global(settings, maxconn, root=root),
        _defaults(settings),
        _app_defaults(settings, maxconn),
        _peer_defaults(settings),
        _users(settings, maxconn),
        _peers(settings, maxconn),
        _fresh(settings),
        _again(settings),
        _metrics(settings),
        "backend loop from base\n  server " + loop(settings, "fresh", 1),
        *counting.tables(settings.limits),
        *_slots(settings, layout),
        *tcp.sections(settings, layout, maxconn),
    ]
    return "\n".join(parts) + "\n"


def render_map(entries: dict[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in sorted(entries.items()))


def cf_json(settings: Settings) -> dict[str, object]:
    """What is the same for every request of this site in `request.cf`."""
    site = settings.site
    continent = _CONTINENTS.get(site.region, "")
    return {
        "colo": site.id.upper(),
        "city": site.city,
        "country": site.country,
        "continent": continent,
        "region": site.region,
        "latitude": f"{site.lat:.5f}",
        "longitude": f"{site.lon:.5f}",
        "tlsVersion": "",
        "tlsCipher": "",
        "requestPriority": "",
    }


_CONTINENTS = {
    "weur": "EU", "eeur": "EU", "enam": "NA", "wnam": "NA", "sam": "SA", "afr": "AF", "apac": "AS", "me": "AS", "oc": "OC",
}  # fmt: skip


def _global(settings: Settings, maxconn: int, *, root: bool) -> str:
    limits = settings.limits
    lines = [
        "global",
        f"stats socket {settings.stats_socket} mode 600 level admin expose-fd listeners",
        "stats timeout 1m",
        f"maxconn {maxconn}",
        f"maxpipes {_PIPES_MAX}",
        f"nbthread {settings.threads}",
        f"hard-stop-after {limits.old_worker_hours_max}h",
        f"mworker-max-reloads {limits.old_workers_max}",
        f"tune.bufsize {limits.header_bytes_max + _REWRITE_BYTES}",
        f"tune.maxrewrite {_REWRITE_BYTES}",
        "tune.http.maxhdr 256",
        "spread-checks 5",
    ]
    if root:
        lines += [f"uid {settings.uid}", f"gid {settings.gid}"]
    return "\n  ".join(lines)


_PIPES_MAX = 128  # for answers that are spliced from socket to socket
_REWRITE_BYTES = 4096  # room for the headers that are added


def _defaults(settings: Settings) -> str:
    limits = settings.limits
    return "\n  ".join(
        [
            "defaults base",
            "mode http",
            "balance roundrobin",
            "option idle-close-on-response",
            "option redispatch 1",
            "option http-keep-alive",
            "option splice-response",
            f"retries {limits.retries}",
            "retry-on conn-failure empty-response",
            f"timeout connect {limits.connect_ms_max}ms",
            f"timeout client {limits.client_ms_max}ms",
            f"timeout server {limits.first_byte_ms_max}ms",
            f"timeout tunnel {limits.stream_ms_max}ms",
            "timeout client-fin 30s",
            "timeout queue 5s",
            f"timeout http-request {limits.headers_ms_max}ms",
            f"timeout http-keep-alive {limits.idle_ms_max}ms",
            *pages.http_errors(),
        ]
    )


def _app_defaults(settings: Settings, maxconn: int) -> str:
    limits = settings.limits
    share = max(1, maxconn * limits.app_share_percent // 100)
    own = f"unless {{ srv_name -m beg {LOOP} }}"
    return "\n  ".join(
        [
            "defaults app from base",
            "http-reuse safe",
            f"http-request disable-l7-retry unless {IDEMPOTENT}",
            f"http-request set-timeout server {limits.stream_ms_max} if {{ req.hdr(accept) -m beg text/event-stream }}",
            *pages.returns(pages.BUSY, f"{{ be_conn gt {share} }}"),
            f"http-response del-header x-skerry- -m beg {own}",
            f"http-response set-header {SERVED_BY_HEADER} {settings.site.id} {own}",
            *_seating(settings),
            *counting.of_instances(own),
        ]
    )


def _seating(settings: Settings) -> list[str]:
    """A user of a sticky app is told who answered. The map says who keeps users: each app's own instances only."""
    seats = f"map_str({settings.map_file('seats')})"
    return [
        f"http-request set-var(txn.asked) req.cook({SEAT_COOKIE})",
        f"http-request set-var(txn.seat) var(txn.asked),{seats}",
        f"http-response set-var(txn.seated) srv_name,{seats}",
        f'http-response add-header set-cookie "{SEAT_COOKIE}=%[srv_name]; Path=/; HttpOnly; SameSite=Lax" '
        "if { be_name,strcmp(txn.seated) eq 0 } !{ srv_name,strcmp(txn.asked) eq 0 }",
    ]


_TO_SEAT = "\n  use-server %[var(txn.asked)] if { be_name,strcmp(txn.seat) eq 0 }"


def _peer_defaults(settings: Settings) -> str:
    limits = settings.limits
    own = f"unless {{ srv_name -m beg {LOOP} }}"
    common = [
        "http-reuse safe",
        f"http-request set-header {HOP_HEADER} {settings.site.id}",
        f"http-request set-timeout server {limits.stream_ms_max} if {{ req.hdr(accept) -m beg text/event-stream }}",
        f"http-response set-status 425 if {{ status {HIDDEN_STATUS} }} {{ res.hdr({STATUS_HEADER}) -m found }}",
        f"http-response del-header {STATUS_HEADER} {own}",
        "option httpchk",
        f"http-check send meth GET uri {ALIVE_PATH} ver HTTP/1.1 hdr host peer",
        "http-check expect status 200",
    ]
    return "\n  ".join(
        [
            "defaults peer from base",
            f"retry-on conn-failure empty-response {NO_COPY_STATUS}",
            *common,
            "\ndefaults peeronce from base",  # a 425 of a peer says that nothing was done, so that much can be retried
            f"retry-on conn-failure {NO_COPY_STATUS}",
            *common,
        ]
    )


def _users(settings: Settings, maxconn: int) -> str:
    limits = settings.limits
    colo = settings.site.id.upper()
    return "\n  ".join(
        [
            "\nfrontend users from base",
            *(f"bind {address}" for address in (settings.site.address, *settings.shared)),
            f"maxconn {maxconn * 7 // 10}",
            "filter compression",
            "compression algo gzip",
            f"compression type {COMPRESSED_TYPES}",
            *_stripped(),
            "http-request set-var(txn.id) uuid",
            f"http-request set-var-fmt(txn.ray) %[var(txn.id),bytes(0,8)]%[var(txn.id),bytes(28,8)]-{colo}",
            *_reader(),
            *_lookup(settings),
            *pages.returns(pages.UNKNOWN_HOST, "!{ var(txn.slot) -m found } !{ stopping }"),
            *pages.returns(pages.TOO_LARGE, f"{{ req.hdr_val(content-length) gt {limits.body_bytes_max} }}"),
            *_request_headers(settings),
            *counting.of_apps("!{ stopping }"),  # its successor counts what it is handed
            "http-request del-header accept-encoding if { req.hdr(range) -m found }",  # a part is sent as it is
            # Another site's word for "not here" that could not be retried (a large body): users know it as 503.
            f"http-after-response set-status 503 if {{ status {NO_COPY_STATUS} }} {{ res.hdr({pages.MARK}) -m found }}",
            counting.ERRORS_OF_APPS,
            f"http-after-response set-header content-type {pages.JSON} "
            f"if {{ res.hdr({pages.MARK}) -m found }} {{ var(txn.json) -m bool }}",
            f"http-after-response del-header {pages.MARK}",
            "http-after-response set-header cf-ray %[var(txn.ray)] if { var(txn.ray) -m found }",
            "http-after-response set-header server skerry",
            "use_backend loop if { stopping }",
            "use_backend %[var(txn.slot)]",
        ]
    )


def _peers(settings: Settings, maxconn: int) -> str:
    return "\n  ".join(
        [
            "\nfrontend peers from base",
            f"bind {settings.site.peer_address}",
            f"maxconn {maxconn * 2 // 10}",
            f"monitor-uri {ALIVE_PATH}",
            f"http-request del-header {ROUND_HEADER}",
            f"http-request set-header {HOP_HEADER} unknown if !{{ req.hdr({HOP_HEADER}) -m found }}",
            f"http-request set-header {HOP_HEADER} unknown if {{ req.hdr({HOP_HEADER}) -m str {settings.site.id} }}",
            "http-request set-var(txn.ray) req.hdr(cf-ray)",
            *_reader(),
            *_lookup(settings),
            *pages.returns(pages.NO_COPY_HERE, "!{ var(txn.slot) -m found } !{ stopping }"),
            f"http-after-response set-header {STATUS_HEADER} 425 if {{ status 425 }} !{{ res.hdr({pages.MARK}) -m found }}",
            f"http-after-response set-status {HIDDEN_STATUS} if {{ res.hdr({STATUS_HEADER}) -m found }}",
            "use_backend loop if { stopping }",
            "use_backend %[var(txn.slot)]",
        ]
    )


def _fresh(settings: Settings) -> str:
    """From a worker that is stopping: the headers are made already."""
    return "\n  ".join(
        [
            "\nfrontend fresh from base",
            f"bind {abstract(settings, 'fresh')}",
            "http-request set-var(txn.ray) req.hdr(cf-ray)",
            *_reader(),
            *_lookup(settings),
            *pages.returns(pages.UNKNOWN_HOST, "!{ var(txn.slot) -m found }"),
            *counting.of_apps(),
            counting.ERRORS_OF_APPS,
            "use_backend %[var(txn.slot)]",
        ]
    )


def _again(settings: Settings) -> str:
    """Rounds: some for the slot itself, then some for each fallback, nearest first; those that are down are left out."""
    hopped = f"{{ req.hdr({HOP_HEADER}) -m found }} !{{ req.hdr({HOP_HEADER}) -m str {settings.site.id} }}"
    lines = [
        "\nfrontend again from base",
        f"bind {abstract(settings, 'again')}",
        "http-request set-var(txn.ray) req.hdr(cf-ray)",
        *_reader(),
        *_lookup(settings),
        *pages.returns(pages.UNKNOWN_HOST, "!{ var(txn.slot) -m found }"),
        "http-request set-var(txn.round) int(0)",
        f"http-request set-var(txn.round) req.hdr({ROUND_HEADER}) if {{ req.hdr({ROUND_HEADER}) -m found }}",
        *_rounds("var(txn.slot)", first=0),
        *pages.returns(pages.BROKEN, f"!{_FOUND} {hopped} {_up('var(txn.slot)')}"),
        *pages.returns(pages.NO_COPY_HERE, f"!{_FOUND} {hopped}"),
        f"http-request set-var(txn.peers) var(txn.slot),map_str({settings.map_file('fallbacks')})",
    ]
    for number in range(settings.limits.fallbacks_max):
        lines += _rounds(f"var(txn.peers),field({number + 1},/)", first=(number + 1) * ROUNDS)
    lines += [
        *pages.returns(pages.BROKEN, f"!{_FOUND} {_up('var(txn.slot)')}"),
        *pages.returns(pages.NO_COPY, f"!{_FOUND}"),
        f"http-request set-header {ROUND_HEADER} %[var(txn.next)]",
        f"use_backend %[var(txn.to)]once if {{ var(txn.to) -m beg peer }} !{IDEMPOTENT}",
        "use_backend %[var(txn.to)]",
    ]
    return "\n  ".join(lines)


_FOUND = "{ var(txn.to) -m found }"


def _rounds(backend: str, *, first: int) -> list[str]:
    """Choose `backend`, an expression, if it is up and this is not after its last round; count the round."""
    lines = [
        f"http-request set-var(txn.to) {backend} if !{_FOUND} {{ var(txn.round) -m int lt {first + ROUNDS} }} {_up(backend)}",
    ]
    for number in range(first, first + ROUNDS):
        here = f"{_FOUND} !{{ var(txn.next) -m found }} {{ var(txn.round) -m int le {number} }}"
        lines.append(f"http-request set-var(txn.next) int({number + 1}) if {here}")
    return lines


def _metrics(settings: Settings) -> str:
    return (
        "\n  ".join(
            [
                "\nfrontend metrics from base",
                f"bind unix@{settings.metrics_socket} mode 600",
                "http-request use-service prometheus-exporter if { path /metrics }",
                "http-request return status 404",
            ]
        )
        + "\n"
    )


def _slots(settings: Settings, layout: Layout) -> list[str]:
    loops = "".join(f"\n  server {loop(settings, 'again', number)}" for number in range(1, LOOPS + 1))
    sections: list[tuple[str, str]] = [(app_backend(slot), "app") for slot in range(layout.app_slots)]
    for slot in range(layout.peer_slots):
        sections += [(peer_backend(slot), "peer"), (once(peer_backend(slot)), "peeronce")]
    lines: list[str] = []
    for backend, defaults in sections:
        servers = "".join(f"\n  server {server_line(settings, backend, server)}" for server in layout.servers.get(backend, ()))
        lines.append(f"backend {backend} from {defaults}{_TO_SEAT if defaults == 'app' else ''}{servers}{loops}")
    return lines


def _stripped() -> list[str]:
    """What only we say. A client's word on where it comes from is worth nothing."""
    prefixes = ("cf-", "x-skerry-", "x-forwarded-")
    names = ("x-real-ip", "true-client-ip")
    return [f"http-request del-header {prefix} -m beg" for prefix in prefixes] + [
        f"http-request del-header {name}" for name in names
    ]


def _reader() -> list[str]:
    """Whether errors are wanted as JSON."""
    return [
        "http-request set-var(txn.json) bool(false)",
        f"http-request set-var(txn.json) bool(true) if {{ req.hdr(accept) -m sub {pages.JSON} }}",
    ]


def _lookup(settings: Settings) -> list[str]:
    return [f"http-request set-var(txn.slot) req.hdr(host),host_only,rtrim(.),map_str({settings.map_file('hosts')})"]


def _request_headers(settings: Settings) -> list[str]:
    cf = json.dumps(cf_json(settings), separators=(",", ":"), ensure_ascii=True).replace("%", "%%").replace("'", "\\u0027")
    cf = cf[:-1] + ',"httpProtocol":"HTTP/%[req.ver]","clientAcceptEncoding":"%[req.fhdr(accept-encoding),json(utf8s)]"}'
    return [
        "http-request set-header cf-connecting-ip %[src]",
        "http-request set-header x-real-ip %[src]",
        "http-request set-header x-forwarded-for %[src]",
        "http-request set-header x-forwarded-proto http",
        "http-request set-header cf-ray %[var(txn.ray)]",
        'http-request set-header cf-visitor \'{"scheme":"http"}\'',
        "http-request set-header cf-ipcountry XX",  # whose country an address is of is not known here
        "http-request set-header x-request-id %[var(txn.id)] unless { req.hdr(x-request-id) -m found }",
        f"http-request set-header {CF_HEADER} '{cf}'",
    ]


def _up(backend: str) -> str:
    """A condition: somebody besides the loop servers is up in it."""
    return f"{{ {backend},nbsrv -m int gt {LOOPS} }}"
