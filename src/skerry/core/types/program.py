"""The Linux program inside a version: an OCI image, and how it is run.

All of an image (manifest, configuration, layers) lies in the blob store under its own digests, so a node needs no registry
and no one's credentials: what was pinned at the deploy is what runs everywhere.
"""

from typing import Literal

from skerry.core.types.ids import Digest
from skerry.kit.record import Record

IsolationClass = Literal["sandbox", "container", "gvisor", "microvm"]
"""What keeps an instance from the machine and from others. sandbox: namespaces around workerd, for workers only. container:
namespaces, seccomp and no privileges on the host's kernel. gvisor: a kernel in user space before the host's. microvm: a
kernel of its own in a virtual machine. Nodes offer all but `sandbox` as features of these names."""

Compression = Literal["none", "gzip", "zstd"]


class Layer(Record):
    """A tar archive of changes (OCI image specification, layer). `digest` is that of the blob as it is stored, `diff_id` that of
    the archive when unpacked, `size` the blob's bytes."""

    digest: Digest
    diff_id: Digest
    size: int
    compression: Compression


class Image(Record):
    """An OCI image for one platform, pinned. `name` is what its deployer called it (a file, a reference), for people."""

    name: str
    manifest: Digest
    config: Digest
    layers: tuple[Layer, ...]
    architecture: str  # as OCI spells it: amd64, arm64
    os: str = "linux"

    def blobs(self) -> frozenset[Digest]:
        """Everything a node needs of it."""
        return frozenset((self.manifest, self.config, *(layer.digest for layer in self.layers)))


class HttpCheck(Record, tag_field="kind", tag="http"):
    """Healthy: a GET of `path` is answered with a status from 200 to 399."""

    path: str = "/"
    port: int | None = None  # None: the program's


class TcpCheck(Record, tag_field="kind", tag="tcp"):
    """Healthy: the port accepts a connection."""

    port: int | None = None


class ExecCheck(Record, tag_field="kind", tag="exec"):
    """Healthy: the command, run inside, exits with 0."""

    command: tuple[str, ...]


class Health(Record):
    """How an instance shows that it serves. `grace_ms`: after its start it may fail so long before it counts as broken."""

    check: HttpCheck | TcpCheck | ExecCheck
    interval_ms: int = 5_000
    timeout_ms: int = 2_000
    failures_max: int = 3  # in a row; then it is restarted
    grace_ms: int = 30_000


class SecretFile(Record):
    """A file that only the program reads, in memory and never on disk. `path` is absolute, inside the instance."""

    path: str
    text: str
    mode: int = 0o400


class NetworkPolicy(Record):
    """Whom an instance may call. Default: the public internet, and nothing that is private, the host's, metadata or another's.

    `only_allowed`: of that, the IPv4 networks (CIDR) and DNS names (`example.org`, `*.example.org`) of `allow` alone, and with
    `internet` False too. What the node keeps shut no list opens. Bandwidths in kbit/s; None: no limit of its own.
    """

    internet: bool = True
    only_allowed: bool = False
    allow: tuple[str, ...] = ()
    egress_kbits_max: int | None = None
    ingress_kbits_max: int | None = None


RestartPolicy = Literal["always", "on-failure", "never"]
Protocol = Literal["http", "tcp"]


class Program(Record):
    """What runs of an image. None: as the image's configuration says.

    `port` gets the traffic; None: the program serves nobody (a job, a consumer). `protocol` "http" includes WebSocket.
    """

    image: Image
    command: tuple[str, ...] | None = None  # in place of the image's entrypoint and arguments
    args: tuple[str, ...] | None = None  # in place of the image's arguments alone
    working_dir: str | None = None
    user: str | None = None  # "uid", "uid:gid", or names of the image's /etc/passwd
    port: int | None = None
    protocol: Protocol = "http"
    health: Health | None = None  # None: a TCP check of `port`, if there is one
    restart: RestartPolicy = "always"
    stop_grace_ms: int = 10_000  # between the image's stop signal and SIGKILL
    writable_mib: int = 256  # what it may write besides its image; gone with the instance
    read_only: bool = False  # its root file system
    pids_max: int = 512
    files: tuple[SecretFile, ...] = ()
    network: NetworkPolicy = NetworkPolicy()
    asleep_after_s: int | None = None  # scale to zero: without traffic for so long its process ends until a request comes
