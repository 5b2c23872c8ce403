"""What an operator can set about the worker runtime of a node, and where the runtime keeps things."""

from pathlib import Path

import msgspec

from skerry.core.machines.instance import Backoff
from skerry.core.machines.strains import StrainSettings
from skerry.kit.hashing import stable_hash, stable_id
from skerry.kit.record import Record

MIB = 1 << 20
# Above every range that distributions and systemd hand out, below 2^31: nobody has these uids.
UID_FIRST, UID_COUNT = 1_879_048_192, 1 << 24


class Settings(Record):
    """All times in ms, all sizes in bytes. The defaults are measured (docs/howto/worker-runtime.md)."""

    backoff: Backoff = msgspec.field(default_factory=Backoff)
    enable_sleep: bool = True
    sleep_after_ms: int = 10_000  # without any CPU use: squeeze once
    resleep_after_ms: int = 300_000  # the next squeezes are seldom: a woken instance costs 3.5 MB, hardly more than one asleep
    drop_after_ms: int | None = None  # without any CPU use: no process until the next request; None: never by time
    drop_below_available_bytes: int = 512 * MIB  # of the machine: the idlest go first
    look_every_ms: int = 2_000  # how often processes are looked at
    hang_ms_max: int = (
        30_000  # an event loop that answers nothing for so long, while it is busy or somebody waits for it, is ended
    )
    start_ms_max: int = 30_000  # to the first answer of the health check
    drain_ms_max: int = 600_000  # how long the old one of a replaced pair may finish its connections
    bloat_bytes: int = 64 * MIB  # private memory of an idle process at which a fresh one takes its place
    collect_after_ms: int = 5_000  # files of what has gone are removed so much later: a successor often shares them
    log_bytes_max: int = 1 * MIB
    strains: StrainSettings = msgspec.field(default_factory=StrainSettings)
    pids_max: int = 64  # threads of one instance: workerd has 2 to 12
    # Of an instance. Groups that yield weigh 3 each, and a CPU that 16 of them want is theirs for 48 parts of so many.
    cpu_shares: int = 16_384
    cpu_shares_starting: int = 32_768  # of one that somebody waits for
    check_cpu_s_max: int = 1  # Cloudflare's limit on start-up
    check_wall_ms_max: int = 10_000
    egress_allow: tuple[str, ...] = ()  # networks (CIDR) that apps may reach besides the public internet
    uid_first: int = UID_FIRST
    uid_count: int = UID_COUNT
    forwarded_proto_header: str = "X-Forwarded-Proto"  # set by our ingress alone
    request_cf_header: str = "x-skerry-cf"  # the JSON of `request.cf`; the ingress removes a client's own

    def uid(self, *names: str) -> int:
        """An own uid for an instance: the same at every start, hardly ever anybody else's."""
        return self.uid_first + stable_hash(*names) % self.uid_count


class Places:
    """Directories of one node's runtime. `data` stays over reboots, `run` is short (socket paths) and does not."""

    def __init__(self, data: Path, run: Path) -> None:
        self.data = data
        self.run = run
        self.instances = data / "instances"  # <id>.json: what has to run, and its address
        self.outer = data / "outer"  # <id>.json: fronts of Workers that another runtime runs
        self.processes = data / "processes"  # records of processes
        self.logs = data / "logs"
        self.blobs = data / "blobs"  # content of modules and assets, by digest
        self.trees = data / "assets"  # static files of a version, by the digest of its manifest
        self.health = run / "h"  # one socket per process
        self.bindings = run / "b"  # one directory per app with env.ASSETS, seen by that app alone
        self.egress = run / "e"  # seen by all apps
        self.machine = run / "m"  # files that describe the CPU

    @property
    def tag(self) -> str:
        """Names this runtime in the environment of its processes and in control groups."""
        return stable_id(str(self.data), length=8)

    def make(self) -> None:
        for path in (self.data, self.instances, self.outer, self.processes, self.logs, self.blobs, self.run):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.health, self.bindings):
            path.mkdir(mode=0o700, exist_ok=True)
        # Bound into sandboxes whose processes have another uid; from outside, the directories above keep them shut.
        for path in (self.egress, self.machine, self.trees):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
