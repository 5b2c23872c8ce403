"""A Worker as a program: the same engine with the same configuration, behind gVisor's wall in place of namespaces.

    user ─► ingress ─► (its assets ─►) published address ─► gVisor's own network ─► workerd (http)
                                                 health check ───► workerd (health)
                       workerd ─► unix socket of the node's egress process, the only way out

So a Worker there has a program's life: it is started, checked, published, ended and found again as one.
"""

from collections.abc import Callable, Iterable

import structlog
from msgspec.structs import replace

from skerry.adapters.blobs.kept import Fetch, KeptBlobs
from skerry.adapters.runtime.workerd import stderr
from skerry.adapters.runtime.workerd.config import HEALTH_SOCKET, HTTP_SOCKET, Unsupported, app_config, encode_config
from skerry.adapters.runtime.workerd.image import CONFIG, WorkerdImage
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.adapters.runtime.workerd.sandbox import ASSETS_DIRECTORY, EGRESS_DIRECTORY, WORKERD
from skerry.core.types.app import Version
from skerry.core.types.ids import Digest, InstanceId
from skerry.core.types.program import Health, HttpCheck, NetworkPolicy, Program
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.ports.images import BadImage, ImagesUnavailable
from skerry.ports.network import NetworkError
from skerry.ports.runtime import Unavailable
from skerry.ports.sandbox import Mount, SandboxFile

log = structlog.get_logger()

HTTP_PORT, HEALTH_PORT = 8080, 8081
CONFIG_BYTES_MAX = 10 << 20  # it lies in memory beside those of others
USER = "65534:65534"
WRITABLE_MIB = 16
PIDS_MAX = 64
STOP_GRACE_MS = 10_000


class GvisorWorkers:
    """Stands on the worker runtime of the same node: its engine and its egress process. It has copies of modules of its own."""

    def __init__(self, workers: WorkerdRuntime, fetch_blob: Fetch) -> None:
        self._workers = workers
        self._blobs = KeptBlobs(workers.fleet.places.data / "walled", fetch_blob)
        self.image = WorkerdImage(workers.fleet.engine, workers.fleet.places.data / "workerd-image.json")

    async def as_program(self, instance: NodeInstance) -> NodeInstance:
        try:
            image = await self.image.made()
        except OSError as error:
            raise Unavailable(f"the engine cannot be made an image of: {error}") from error
        dead_ms = self._workers.settings.drop_after_ms
        program = Program(
            image=image,
            command=(
                WORKERD, "serve", "--binary", CONFIG,
                "--socket-addr", f"{HTTP_SOCKET}=*:{HTTP_PORT}", "--socket-addr", f"{HEALTH_SOCKET}=*:{HEALTH_PORT}",
            ),
            user=USER,
            port=HTTP_PORT,
            health=Health(check=HttpCheck(path="/", port=HEALTH_PORT)),
            stop_grace_ms=STOP_GRACE_MS,
            asleep_after_s=None if dead_ms is None else max(1, dead_ms // 1000),
            writable_mib=WRITABLE_MIB,
            read_only=True,
            pids_max=PIDS_MAX,
            network=NetworkPolicy(internet=False),
        )  # fmt: skip
        return replace(instance, version=replace(instance.version, program=program))

    async def files(self, version: Version) -> tuple[SandboxFile, ...]:
        """Its configuration, with all of its code: in memory alone, as everything that may hold a secret."""
        if version.worker is None:
            return ()
        settings = self._workers.settings
        try:
            self._blobs.make()
            await self._blobs.ensure_all(_own_blobs(version))
            contents = {digest: await self._blobs.get(digest) for digest in sorted(_own_blobs(version))}
        except Exception as error:  # the site is out of reach, the disk is full: nothing of the version's
            raise ImagesUnavailable(f"its files cannot be had: {str(error) or type(error).__name__}") from error
        try:
            config = app_config(
                version, contents, forwarded_proto_header=settings.forwarded_proto_header, cf_header=settings.request_cf_header
            )
        except Unsupported as error:
            raise BadImage(str(error)) from error
        data = encode_config(config, self._workers.fleet.engine.schema)
        if len(data) > CONFIG_BYTES_MAX:
            raise BadImage(f"its code has {len(data):,} bytes; in gVisor at most {CONFIG_BYTES_MAX:,} are taken")
        return (SandboxFile(path=CONFIG, content=data, mode=0o400),)

    def mounts(self, instance: NodeInstance) -> tuple[Mount, ...]:
        """What a Worker's sandbox sees of the node: the sockets of the way out, and that of its own assets."""
        if instance.version.worker is None:
            return ()
        assets = self._workers.outer.directory(instance.id)
        return (
            Mount(source=str(self._workers.fleet.places.egress), target=EGRESS_DIRECTORY),
            *((Mount(source=str(assets), target=ASSETS_DIRECTORY),) if assets is not None else ()),
        )

    async def face(self, instance: NodeInstance, address: str) -> None:
        if instance.version.worker is None or instance.version.assets is None:
            return
        try:
            await self._workers.outer.begin(instance, address)
        except OSError as error:
            raise NetworkError(f"its assets have no address: {error.strerror}") from error

    async def unface(self, instance_id: str) -> None:
        await self._workers.outer.end(instance_id)

    async def face_only(self, known: frozenset[InstanceId]) -> None:
        await self._workers.outer.keep_only(known)

    def seen(self, observed: ObservedInstance) -> ObservedInstance:
        return self._workers.outer.seen(observed)

    def sleeps_after_ms(self, version: Version) -> int | None:
        return self._workers.settings.sleep_after_ms if version.worker is not None and self._workers.can_sleep else None

    def fault(self, version: Version, said: str) -> str:
        return (stderr.startup_error(said) or "") if version.worker is not None else ""

    async def collect(self, wanted: Callable[[], Iterable[Version]]) -> None:
        def needed() -> frozenset[Digest]:
            return frozenset[Digest]().union(*(_own_blobs(version) for version in wanted() if version.worker is not None))

        try:
            self._blobs.make()
            await self._blobs.collect(needed)
        except OSError as error:
            log.warning("files_not_collected", error=str(error))


def _own_blobs(version: Version) -> frozenset[Digest]:
    """Without those of the image."""
    return replace(version, program=None).process_digests()
