"""What an ingress is told once, at its start."""

import re

from skerry.core.types.place import Site
from skerry.kit.record import Record

_SAFE_PATH = re.compile(r"/[A-Za-z0-9._/+@-]+")
_SAFE_ADDRESS = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:]+\]):\d{1,5}")
RUN_DIR_CHARS_MAX = 80  # a unix socket's path has 107 bytes, and HAProxy adds a suffix while it binds
NOBODY = 65534  # whatever a client can do to a worker, it can do as nobody only


class Limits(Record):
    """Every limit has a name. Times are what a peer may keep us waiting for."""

    connections_max: int = 10_000  # also bounded by RLIMIT_NOFILE: every request holds two descriptors
    app_share_percent: int = 25  # of the connections: what one app can hold, so that it cannot starve the others
    body_bytes_max: int = 100 << 20  # Cloudflare's for its smaller plans; of declared lengths only
    header_bytes_max: int = 32 << 10  # of the request line and all headers, and what a retry can hold of a body
    headers_ms_max: int = 10_000  # a client has to finish its headers: slow senders hold nothing for long
    idle_ms_max: int = 30_000  # between two requests of a client
    client_ms_max: int = 60_000  # a client that neither sends nor reads
    first_byte_ms_max: int = 60_000  # an instance may wake, start and think
    connect_ms_max: int = 1_500  # a first packet that was lost, to a program that had just died, is repeated after 1 s
    stream_ms_max: int = 3_600_000  # a silent WebSocket or event stream
    idle_target_ms_max: int = 2_000  # after about three times this an unused connection to a target is closed
    retries: int = 3
    slots: int = 256  # apps that fit without a reload; doubled when it runs low
    slots_max: int = 32_768
    peer_slots: int = 8
    fallbacks_max: int = 3  # a request that kills what answers it must not tour all cities
    tcp_share_percent: int = 25  # of the connections: what all public ports can hold, so that they cannot starve HTTP
    tcp_app_share_percent: int = 40  # of that: what one of them can
    tcp_connect_ms_max: int = 300  # to an instance; HAProxy waits as long before a retry, which has to be less than the breaker's
    tcp_idle_ms_max: int = 3_600_000  # a connection to a public port on which nothing is said
    old_workers_max: int = 32  # reloads that a long-lived connection outlives: each public port that comes or goes is one
    old_worker_hours_max: int = 24
    peer_check_ms: int = 1_000
    breaker_ms: int = 1_000  # how long a target that refused a connection is left alone
    counted_s: int = 60  # what is counted stays to be read so long after the last request
    log_bytes_max: int = 4 << 20


class Settings(Record):
    """`run_dir` holds sockets and generated files (private, short, gone after a boot), `state_file` survives.

    `site.address` and `site.peer_address` are bound, besides `shared` (host:port, SO_REUSEPORT with other sites); where apps have
    public ports, these of `site.address` and `site.peer_tcp_address` too.
    `join` are `cgroup.procs` files HAProxy is born in. `tag` marks its processes: whatever else
    carries it is ended with them. Workers
    give up root for `uid` and `gid`; the master needs it to bind and to reload.
    """

    site: Site
    run_dir: str
    state_file: str
    records_dir: str
    log: str
    tag: str
    shared: tuple[str, ...] = ()
    join: tuple[str, ...] = ()
    program: str = ""  # empty: see `probe`
    threads: int = 1
    uid: int = NOBODY
    gid: int = NOBODY
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not _SAFE_PATH.fullmatch(self.run_dir) or len(self.run_dir) > RUN_DIR_CHARS_MAX:
            raise ValueError(f"run_dir has to be a short path of plain characters: {self.run_dir!r}")
        tcp = (self.site.peer_tcp_address,) if self.site.peer_tcp_address else ()
        for address in (self.site.address, self.site.peer_address, *tcp, *self.shared):
            if not _SAFE_ADDRESS.fullmatch(address):
                raise ValueError(f"not an IP address with a port: {address!r}")
        if not re.fullmatch(r"[a-z0-9]{1,16}", self.site.id):
            raise ValueError(f"not a site: {self.site.id!r}")

    @property
    def config_file(self) -> str:
        return f"{self.run_dir}/haproxy.cfg"

    def map_file(self, name: str) -> str:
        return f"{self.run_dir}/{name}.map"

    @property
    def stats_socket(self) -> str:
        return f"{self.run_dir}/stats.sock"

    @property
    def master_socket(self) -> str:
        return f"{self.run_dir}/master.sock"

    @property
    def metrics_socket(self) -> str:
        return f"{self.run_dir}/metrics.sock"
