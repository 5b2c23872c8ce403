"""`skerry.ports.sandbox.SandboxEngine` with Firecracker, where there is hardware virtualization and its two programs.

start:  jail -> machine, kernel, disk, network, vsock -> InstanceStart -> HELLO -> CONFIG, RUN
        snapshot of a running one -> jail -> load -> resume -> HELLO -> IDENTITY
all that a machine has: records/<id>, run/m/<id>/, jail/firecracker/<id>/, group <id>
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from skerry.adapters import tools
from skerry.adapters.cgroup.base import Limits
from skerry.adapters.process import detached
from skerry.adapters.process.detached import FIRST_FD, Spawn
from skerry.adapters.sandbox.firecracker import jail, machine
from skerry.adapters.sandbox.firecracker.api import ApiError, ApiLost
from skerry.adapters.sandbox.firecracker.jail import Jail, Programs
from skerry.adapters.sandbox.firecracker.machine import GUEST_CID, Running, launch
from skerry.adapters.sandbox.microvm import build, kvm, monitor, sockets
from skerry.adapters.sandbox.microvm.agent import GuestAgent
from skerry.adapters.sandbox.microvm.box import MicroVm, Started, host_limits
from skerry.adapters.sandbox.microvm.build import GuestFiles
from skerry.adapters.sandbox.microvm.engine import MicroVmEngine, require_root
from skerry.adapters.sandbox.microvm.settings import Places, Settings
from skerry.adapters.sandbox.microvm.sparse import copy_sparse
from skerry.kit.record import Record, decode, encode
from skerry.ports.sandbox import EngineFacts, EngineUnavailable, Gone, SandboxError, SandboxSpec

ABOUT = "about.json"
ABILITIES = frozenset(("exec", "terminal", "files", "pause", "snapshot", "clone", "resize", "squeeze"))
INTERFACE, DRIVE = "eth0", "disk"
PIDS_MAX = 64
SQUEEZE_S = 1.0  # how long a guest has to fill its balloon
PAGES_SUFFIX = "-pages"
KERNEL_LINE = "quiet console=ttyS0 reboot=k panic=-1 pci=off i8042.noaux i8042.nomux 8250.nr_uarts=1 cryptomgr.notests -- vsock"


class Snapshot(Record):
    """What a snapshot belongs to."""

    guest: str
    monitor: str
    guest_mib: int
    network: bool


class FirecrackerSandbox(MicroVm):
    def __init__(self, engine: "FirecrackerEngine", started: Started, running: Running, agent: GuestAgent | None) -> None:
        super().__init__(started, running, engine.settings, agent, pids_max=PIDS_MAX)
        self.running = running
        self._engine = engine

    async def pause(self) -> None:
        async with self._turn:
            with _translated(self.id):
                await self.running.api.pause()

    async def resume(self) -> None:
        async with self._turn:
            with _translated(self.id):
                await self.running.api.resume()

    async def squeeze(self) -> None:
        """Its balloon takes what the guest does not use, and lets go of it again: the pages are the host's."""
        async with self._turn:
            with _translated(self.id):
                await self.running.api.resize_balloon(self.started.guest_mib)
                try:
                    await asyncio.sleep(SQUEEZE_S)
                finally:
                    await self.running.api.resize_balloon(0)

    async def snapshot(self, directory: str) -> None:
        async with self._turn:
            with _translated(self.id):
                await self._engine.take_snapshot(self, Path(directory))


class Base(NamedTuple):
    """What a machine starts from: a snapshot in `directory`, or the guest's kernel."""

    directory: Path | None
    about: Snapshot


class FirecrackerEngine(MicroVmEngine[FirecrackerSandbox, Running, Base]):
    """One per node and process. `attach` before all else. `memory`: how a clone's memory comes: mapped from the snapshot's file,
    or page by page from a process of ours."""

    faults = (ApiError,)
    pids_max = PIDS_MAX

    def __init__(
        self,
        *,
        data: Path,
        run: Path,
        settings: Settings | None = None,
        guest: GuestFiles | None = None,
        memory: Literal["File", "Uffd"] = "File",
        before: tuple[Places, ...] = (),
    ) -> None:
        """Raises `EngineUnavailable` with what this machine lacks and how to get it."""
        super().__init__(data=data, run=run, settings=settings, before=before)
        self.programs = find_programs()
        self._guest = guest or find_guest()
        self._memory: Literal["File", "Uffd"] = memory

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            name="firecracker", version=self.programs.version, isolation="microvm", abilities=ABILITIES, architecture="amd64",
            overhead_mib=self.settings.guest_overhead_mib + self.settings.monitor_overhead_mib,
        )  # fmt: skip

    async def take_snapshot(self, sandbox: FirecrackerSandbox, directory: Path) -> None:
        """Raises `ApiError`, `OSError`. The machine stands still while its memory is written, and goes on. Firecracker closes all
        vsock connections with it, in the guest as well: whatever was started beside the program ends."""
        running = sandbox.running
        about = decode(sandbox.started.about, Snapshot)
        was_running = await running.api.state() == "Running"
        await running.api.pause()
        try:
            with running.large_files():
                await running.api.create_snapshot(state="taken.state", memory="taken.memory")
        finally:
            if was_running:
                await running.api.resume()
        if was_running:
            await sandbox.talk_anew(await self._greet(running, timeout_s=self.settings.boot_ms_max / 1000))
        for source, target in (("taken.state", jail.STATE), ("taken.memory", jail.MEMORY)):
            await asyncio.to_thread(_take_over, running.root / source, directory / target)
        detached.write_private(directory / ABOUT, encode(about))

    async def _origin(self, spec: SandboxSpec, snapshot: Path | None) -> Base:
        if snapshot is not None:
            return Base(snapshot, self._read_about(snapshot, spec))
        about = Snapshot(
            guest=self._guest.key, monitor=self.programs.version,
            guest_mib=self.settings.guest_mib(spec.limits.memory_mib_max), network=spec.network is not None,
        )  # fmt: skip
        return Base(None, about)

    async def _launch(self, spec: SandboxSpec, origin: Base) -> Running:
        assert spec.disk is not None
        machine.file_for_all(spec.disk)
        files = [(spec.disk, jail.DISK)]
        if origin.directory is None:
            files += [
                (self._guest.kernel, jail.KERNEL),
                *([(self._guest.initramfs, jail.INITRD)] if self._guest.initramfs else []),
            ]
        else:
            files += [(str(origin.directory / name), name) for name in (jail.STATE, jail.MEMORY)]
        described = Jail(
            id=spec.id, uid=self.settings.uid(spec.id), files=tuple(files), netns=spec.netns or None, log=spec.log,
            file_bytes_max=machine.file_bytes_max(
                self.programs, log_bytes_max=spec.log_bytes_max, guest_mib=self.settings.guest_mib(spec.limits.memory_mib_max)
            ),
        )  # fmt: skip
        limits = host_limits(spec.limits, self.settings, pids=PIDS_MAX)
        return launch(self.programs, self.places, self.tree, described, msgspec.structs.replace(limits, cpu_millicores=None))

    async def _wake(self, running: Running, spec: SandboxSpec, origin: Base) -> GuestAgent:
        await running.answering()
        if origin.directory is None:
            await self._boot(running, spec)
        else:
            await self._load(running, spec, origin.directory)
        return await self._greet(running, timeout_s=self.settings.boot_ms_max / 1000)

    async def _boot(self, running: Running, spec: SandboxSpec) -> None:
        api = running.api
        await api.set_machine(vcpus=self.vcpus(spec.limits), memory_mib=self.settings.guest_mib(spec.limits.memory_mib_max))
        await api.set_boot(kernel=jail.KERNEL, initrd=jail.INITRD if self._guest.initramfs else None, arguments=KERNEL_LINE)
        await api.set_drive(DRIVE, jail.DISK, read_only=True)
        if spec.network is not None:
            await api.set_network(INTERFACE, tap=spec.network.device, mac=spec.network.mac)
        await api.set_vsock(cid=GUEST_CID, path=jail.VSOCK_SOCKET)
        await api.set_balloon(mib=0, statistics_s=0)
        await api.start()

    async def _load(self, running: Running, spec: SandboxSpec, snapshot: Path) -> None:
        memory = f"/{jail.MEMORY}"
        if self._memory == "Uffd":
            self._serve_pages(running, spec, snapshot / jail.MEMORY)
            memory = f"/{jail.PAGES_SOCKET}"
        taps = {INTERFACE: spec.network.device} if spec.network is not None else {}
        await running.api.load_snapshot(state=f"/{jail.STATE}", backend=self._memory, memory=memory, taps=taps)
        await running.api.resume()

    def _serve_pages(self, running: Running, spec: SandboxSpec, source: Path) -> None:
        """A process that ends with the machine, as the monitor itself does."""
        listener = sockets.listen(running.root, jail.PAGES_SOCKET)
        os.chown(running.root / jail.PAGES_SOCKET, self.settings.uid(spec.id), self.settings.uid(spec.id))
        memory = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            name = spec.id + PAGES_SUFFIX
            argv = (sys.executable, "-m", "skerry.adapters.sandbox.firecracker.pages", str(FIRST_FD), str(FIRST_FD + 1))
            log_path = str(self.places.machine(spec.id) / "pages.log")
            spawned = Spawn(name=name, argv=argv, fds=(listener.fileno(), memory), log=log_path, tag=self.places.tag)
            limits = Limits(memory_bytes=256 << 20, pids=8)
            monitor.start(spawned, records=self.places.processes, tree=self.tree, limits=limits, wrapped=False).close()
        finally:
            listener.close()
            os.close(memory)

    def _read_about(self, snapshot: Path, spec: SandboxSpec) -> Snapshot:
        try:
            about = decode((snapshot / ABOUT).read_bytes(), Snapshot)
        except (OSError, ValueError) as error:
            raise EngineUnavailable(f"{snapshot} holds no snapshot of a microVM: {error}") from error
        if (about.guest, about.monitor) != (self._guest.key, self.programs.version):
            raise EngineUnavailable(f"{snapshot} was taken with another guest or Firecracker")
        if about.network != (spec.network is not None):
            raise EngineUnavailable(f"{snapshot} was taken {'with' if about.network else 'without'} a network")
        return about

    def _kept(self, spec: SandboxSpec, origin: Base) -> tuple[int, bytes]:
        return origin.about.guest_mib, encode(origin.about)

    def _runs(self, origin: Base) -> bool:
        return origin.directory is not None

    def _found(self, process: monitor.Monitor) -> Running:
        return Running(process, jail.root(self.places, self.programs, process.name))

    def _box(self, started: Started, running: Running, agent: GuestAgent | None) -> FirecrackerSandbox:
        return FirecrackerSandbox(self, started, running, agent)

    async def _erase(self, name: str) -> None:
        await monitor.remove(name + PAGES_SUFFIX, records=self.places.processes, tree=self.tree)
        await machine.remove(self.programs, self.places, self.tree, name)

    def _names(self) -> set[str]:
        return {name.removesuffix(PAGES_SUFFIX) for name in (*super()._names(), *jail.ids(self.places, self.programs))}


def find_programs() -> Programs:
    """Raises `EngineUnavailable`."""
    require_root()
    try:
        firecracker, jailer = tools.find_firecracker(), tools.find_jailer()
        path = str(firecracker.require())
        return Programs(
            firecracker=path, jailer=str(jailer.require()), version=firecracker.version, libraries=tools.libraries_of(path)
        )  # fmt: skip
    except tools.ToolMissing as error:
        raise EngineUnavailable(str(error)) from error


def find_guest() -> GuestFiles:
    """Raises `EngineUnavailable`: there is none, or this machine does not run it."""
    found = kvm.probe()
    if not found.usable:
        raise EngineUnavailable(f"Firecracker needs hardware virtualization: {found.reason}")
    guest = build.find()
    if guest is None:
        raise EngineUnavailable(f"the kernel and init of guests are not there; get them by: {build.GET}")
    return guest


def _take_over(source: Path, target: Path) -> None:
    """A file that the monitor wrote, as ours: it may be read by the users of its clones, and written by nobody."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as reading, target.open("xb") as writing:
        copy_sparse(reading.fileno(), writing.fileno())
        os.fchmod(writing.fileno(), 0o444)
    source.unlink()


@contextlib.contextmanager
def _translated(sandbox_id: str) -> Generator[None]:
    try:
        yield
    except ApiLost as error:
        raise Gone(f"{sandbox_id} does not answer: {error}") from error
    except (ApiError, OSError) as error:
        raise SandboxError(f"{sandbox_id}: {error}") from error
