"""A Worker as a program: the same engine with the same configuration, behind gVisor's wall in place of namespaces.

    user ─► ingress ─► published address ─► gVisor's own network ─► workerd (http)
                                                 health check ───► workerd (health)
                       workerd ─► unix socket of the node's egress process, the only way out

So a Worker there has a program's life: it is started, checked, published, ended and found again as one.
"""

from msgspec.structs import replace

from skerry.adapters.runtime.workerd.config import HEALTH_SOCKET, HTTP_SOCKET, Unsupported, app_config, encode_config
from skerry.adapters.runtime.workerd.image import CONFIG, WorkerdImage
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.adapters.runtime.workerd.sandbox import EGRESS_DIRECTORY, WORKERD
from skerry.core.types.app import Version
from skerry.core.types.program import Health, HttpCheck, NetworkPolicy, Program, SecretFile
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import Unavailable
from skerry.ports.sandbox import Mount

HTTP_PORT, HEALTH_PORT = 8080, 8081
CONFIG_BYTES_MAX = 10 << 20  # it lies in memory beside those of others
USER = "65534:65534"
WRITABLE_MIB = 16
PIDS_MAX = 64
STOP_GRACE_MS = 10_000


class GvisorWorkers:
    """Stands on the worker runtime of the same node: its engine, its copies of modules, its egress process."""

    def __init__(self, workers: WorkerdRuntime) -> None:
        self._workers = workers
        self.image = WorkerdImage(workers.fleet.engine, workers.fleet.places.data / "workerd-image.json")

    async def as_program(self, instance: NodeInstance) -> NodeInstance:
        version = instance.version
        try:
            await self._workers.blobs.ensure_all(version.process_digests())
            contents = {digest: await self._workers.blobs.get(digest) for digest in sorted(version.process_digests())}
        except Exception as error:  # the site is out of reach, the disk is full: worth another try
            raise Unavailable(f"its files cannot be had: {error}") from error
        settings = self._workers.settings
        try:
            config = app_config(
                version, contents, forwarded_proto_header=settings.forwarded_proto_header, cf_header=settings.request_cf_header
            )
        except Unsupported as error:
            raise Unavailable(str(error)) from error
        data = encode_config(config, self._workers.fleet.engine.schema)
        if len(data) > CONFIG_BYTES_MAX:
            raise Unavailable(f"its code has {len(data):,} bytes; in gVisor at most {CONFIG_BYTES_MAX:,} are taken")
        program = Program(
            image=await self.image.made(),
            command=(
                WORKERD, "serve", "--binary", CONFIG,
                "--socket-addr", f"{HTTP_SOCKET}=*:{HTTP_PORT}", "--socket-addr", f"{HEALTH_SOCKET}=*:{HEALTH_PORT}",
            ),
            user=USER,
            port=HTTP_PORT,
            health=Health(check=HttpCheck(path="/", port=HEALTH_PORT)),
            stop_grace_ms=STOP_GRACE_MS,
            writable_mib=WRITABLE_MIB,
            read_only=True,
            pids_max=PIDS_MAX,
            files=(SecretFile(path=CONFIG, data=data),),
            network=NetworkPolicy(internet=False),
        )  # fmt: skip
        return replace(instance, version=replace(version, program=program, bindings=()))

    def mounts(self, version: Version) -> tuple[Mount, ...]:
        """What a Worker's sandbox sees of the node: the sockets of the way out."""
        return () if version.worker is None else (Mount(source=str(self._workers.fleet.places.egress), target=EGRESS_DIRECTORY),)
