"""A node with real programs, images and network, for tests: its agents one after the other, and a look at what they leave."""

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, get_args

from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.cgroup.v1 import ALL
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.images.overlay import OverlayImages
from skerry.adapters.instancefiles.directory import DirectoryFiles
from skerry.adapters.network.linux import leftovers as networks
from skerry.adapters.network.linux.network import LinuxNetwork
from skerry.adapters.probe.sockets import SocketProber
from skerry.adapters.process import detached
from skerry.adapters.recordfile import JsonFolder
from skerry.adapters.rootfs.directory import DirectoryRootFiles
from skerry.adapters.sandbox.microvm.settings import Places as MicrovmPlaces
from skerry.adapters.sandbox.oci import runtimes
from skerry.adapters.sandbox.oci.engine import OciEngine
from skerry.adapters.sandbox.oci.places import Places
from skerry.adapters.sandbox.qemu.engine import QemuEngine, find_host
from skerry.core.machines.instance import Backoff
from skerry.core.types.ids import Digest, InstanceId, NodeId, SiteId
from skerry.core.types.program import IsolationClass, Program
from skerry.core.types.slices import NodeInstance
from skerry.ports.images import Images
from skerry.ports.links import Unreachable
from skerry.ports.runtime import Runtime
from skerry.ports.sandbox import EngineUnavailable, SandboxEngine
from skerry.ports.walled import NoWalled, Walled
from skerry.services.node.programs.records import Kept, SnapshotRecord
from skerry.services.node.programs.runtime import ProgramRuntime
from skerry.services.node.programs.settings import Ground, ProgramSettings
from skerry.testing.contracts.runtime import find
from skerry.testing.images import Built, File, build
from skerry.testing.oci_node import busybox_tree
from skerry.testing.programs import program_instance

SETTINGS = ProgramSettings(backoff=Backoff(first_ms=100, healthy_after_ms=60_000), look_every_ms=200)
ANSWER_S_MAX = 60
Kind = Literal["crun", "runc", "runsc", "microvm"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ISOLATION: dict[Kind, IsolationClass] = {"crun": "container", "runc": "container", "runsc": "gvisor", "microvm": "microvm"}
SERVING = "exec httpd -f -p 8080 -h /www"
SERVE = ("sh", "-c", f"echo hello; {SERVING}")


def missing(kind: Kind) -> str:
    """Why this machine cannot run them, for people; empty if it can."""
    try:
        _ = find_host() if kind == "microvm" else runtimes.find(kind)
    except EngineUnavailable as error:
        return str(error)
    return ""


class ProgramsNode:
    """`root` is below directories that everybody may pass: programs' root file systems are mounted there."""

    def __init__(self, kind: Kind, busybox: bytes, settings: ProgramSettings = SETTINGS, *, root: Path | None = None) -> None:
        """Raises `EngineUnavailable`. `root`: a directory, of an earlier one perhaps."""
        self.kind: Kind = kind
        self.oci = None if kind == "microvm" else runtimes.find(kind)
        self.root = root or Path(tempfile.mkdtemp(prefix="skp", dir="/run"))
        self.root.chmod(0o711)
        self.data, self.run = self.root / "node", self.root / "run"
        for path in (self.data, self.run):
            path.mkdir(mode=0o700, exist_ok=True)
        self.image: Built = build([{**busybox_tree(busybox), "www/index.html": File(content=b"served\n")}], command=SERVE)
        self._settings = settings
        self._cut_off = False
        self._fetches = 0
        self._runtimes: list[ProgramRuntime] = []
        self._microvm_engines: list[QemuEngine] = []
        self._places = Places(self.data, kind, self.root / "oci")
        self._microvms = MicrovmPlaces(self.data / "microvm", self.run / "microvm")
        self.tag = self._microvms.tag if kind == "microvm" else self._places.tag

    def stand(self, *, images: Images | None = None, walled: Walled | None = None) -> Ground:
        """What the next agent stands on."""
        engine = self._engine()
        self.ground = Ground(
            site=SiteId("lhr"),
            node=NodeId("lhr-1"),
            engines={engine.facts.isolation: engine},
            images=images or OverlayImages(self.data, self._stream, run_dir=self.root / "images"),
            network=LinuxNetwork(address="127.0.0.1", data_dir=self.data, run_dir=self.run),
            prober=SocketProber(),
            rootfs=DirectoryRootFiles(),
            files=DirectoryFiles(self.data),
            clock=SystemClock(),
            settings=self._settings,
            walled=walled or NoWalled(),
        )
        return self.ground

    def opened(self, runtime: ProgramRuntime) -> None:
        """It is to be closed by `clean_up`."""
        self._runtimes.append(runtime)

    async def open(self) -> ProgramRuntime:
        ground = self.stand()
        records = JsonFolder(self.data / "records", Kept)
        runtime = ProgramRuntime(ground, records, JsonFolder(self.data / "snapshots-made", SnapshotRecord))
        await runtime.attach()
        self.opened(runtime)
        return runtime

    def _engine(self) -> SandboxEngine:
        if self.oci is None:
            engine = QemuEngine(data=self._microvms.data, run=self._microvms.run)
            self._microvm_engines.append(engine)
            return engine
        return OciEngine(self.oci, self.data, run_dir=self._places.run)

    async def kill_agent(self, runtime: Runtime) -> None:
        await runtime.aclose(stop_instances=False)

    def good(self, name: str) -> NodeInstance:
        return self.instance(name)

    def broken(self, name: str) -> NodeInstance:
        return self.instance(name, command=("/boom",))

    def filling(self, name: str) -> NodeInstance:
        script = f"echo hello; dd if=/dev/zero of=/var/big bs=65536; {SERVING}"
        return self.instance(name, command=("sh", "-c", script), writable_mib=8)

    def instance(self, name: str, **fields: object) -> NodeInstance:
        """Of a program of the image, with the given fields."""
        program = Program(image=self.image.image, port=8080, **fields)  # pyright: ignore[reportArgumentType]
        return program_instance(name, program, isolation=ISOLATION[self.kind])

    def cut_off(self, is_so: bool) -> None:
        self._cut_off = is_so

    def fetches(self) -> int:
        return self._fetches

    async def request(self, address: str, path: str = "/") -> int:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: app.test\r\n\r\n".encode())
            async with asyncio.timeout(ANSWER_S_MAX):
                return int((await reader.readline()).split()[1])
        finally:
            writer.close()

    async def kill_process(self, runtime: Runtime, instance_id: InstanceId) -> None:
        seen = find(runtime, instance_id)
        if seen is not None and seen.pid is not None:
            process = detached.open_pid(seen.pid)
            assert process is not None
            process.signal(signal.SIGKILL)
            await process.wait()
            process.close()

    async def leftovers(self) -> list[str]:
        """All that is there of instances; machines that wait for the next ones are none."""
        tree, _ = find_tree(f"skerry-{self.tag}", controllers=ALL)
        for engine in self._microvm_engines:
            await engine.settled()
        waiting = {name for engine in self._microvm_engines for name in engine.waiting}
        theirs = {pid for name in waiting if tree is not None for pid in tree.open(name).pids()}
        found = [f"group {name}" for name in (tree.names() if tree else ()) if name not in waiting]
        found += [f"sandbox {name}" for name in sorted(self._sandboxes()) if name not in waiting]
        found += [f"process {pid}" for pid in detached.find_tagged(self.tag) if pid not in theirs]
        found += [str(path) for place in ("records", "logs", "writable") for path in sorted((self.data / place).glob("*"))]
        found += [str(path) for path in sorted((self.data / "network" / "instances").glob("*"))]
        found += [line for line in detached.mounts() if str(self.root) in line and "/root/" in line]
        return found

    async def clean_up(self) -> None:
        for runtime in self._runtimes[-1:]:
            await runtime.aclose(stop_instances=True)
        await detached.kill_tagged(self.tag)
        tree, _ = find_tree(f"skerry-{self.tag}", controllers=ALL)
        for name in tree.names() if tree is not None else ():
            await end_group(tree, name)  # pyright: ignore[reportArgumentType]
        if tree is not None:
            tree.remove()
        with contextlib.suppress(OSError):
            networks.remove(self.data, self.run)
        for line in sorted(detached.mounts(), key=len, reverse=True):
            if str(self.root) in line:
                await (await asyncio.create_subprocess_exec("umount", "--lazy", line.split()[1])).wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sandboxes(self) -> frozenset[str]:
        """Ids of which there is anything in the engine's own directories."""
        if self.oci is not None:
            return self._places.names()
        machines = self._microvms.machines.iterdir() if self._microvms.machines.is_dir() else ()
        return frozenset((*detached.names(self._microvms.processes), *(path.name for path in machines)))

    async def _stream(self, digest: Digest) -> AsyncIterator[bytes]:
        self._fetches += 1
        if self._cut_off:
            raise Unreachable("cut off")
        yield self.image.blobs[digest]
