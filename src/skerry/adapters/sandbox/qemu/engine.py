"""`skerry.ports.sandbox.SandboxEngine` with QEMU's microvm machine: any Linux program behind a kernel of its own.

    start:  template of the image (booted once) -> clone -> HELLO -> CONFIG, RUN
            snapshot of a running one           -> clone -> HELLO -> IDENTITY
            memory that may be merged           -> boot  -> HELLO -> CONFIG, RUN
    all that a machine has: records/<name>, run/m/<name>/, group <name>, waiting/<name>; claims/<id> where that is not its name

Clones of what was started before wait ready-made (`warm`). Hardware virtualization is used where the probe says that it runs
Linux guests (`microvm/kvm.py`), else emulation.
"""

import asyncio
import secrets
from pathlib import Path

import msgspec
import structlog

from skerry.adapters import tools
from skerry.adapters.cgroup.base import CgroupError, Limits
from skerry.adapters.sandbox.microvm import build
from skerry.adapters.sandbox.microvm.agent import GuestAgent
from skerry.adapters.sandbox.microvm.box import Started, host_limits
from skerry.adapters.sandbox.microvm.engine import MicroVmEngine, require_root
from skerry.adapters.sandbox.microvm.monitor import Monitor
from skerry.adapters.sandbox.microvm.settings import MIB, Places, Settings
from skerry.adapters.sandbox.qemu import command
from skerry.adapters.sandbox.qemu.machine import PIDS_MAX, SHARES_STARTING, Host, Launch, Running, launch
from skerry.adapters.sandbox.qemu.origins import Base, Origins
from skerry.adapters.sandbox.qemu.qmp import QmpError
from skerry.adapters.sandbox.qemu.sandbox import QemuSandbox
from skerry.adapters.sandbox.qemu.snapshots import Origin, Snapshots, remove
from skerry.adapters.sandbox.qemu.templates import Template
from skerry.adapters.sandbox.qemu.warm import Claims, Kind, Warm, hand_over
from skerry.kit.record import encode
from skerry.ports.sandbox import EngineFacts, EngineUnavailable, SandboxError, SandboxSpec

log = structlog.get_logger()

GREET_S = 30
SHARES_WARMING = 64  # a machine that is made for later takes what others leave
ABILITIES = frozenset(("exec", "terminal", "files", "pause", "snapshot", "clone", "resize"))


class QemuEngine(MicroVmEngine[QemuSandbox, Running, Base]):
    """One per node and process. `attach` before all else."""

    faults = (QmpError,)
    pids_max = PIDS_MAX

    def __init__(self, *, data: Path, run: Path, settings: Settings | None = None, before: tuple[Places, ...] = ()) -> None:
        """Raises `EngineUnavailable` with what this machine lacks and how to get it."""
        super().__init__(data=data, run=run, settings=settings, before=before)
        self._host = find_host()
        self._origins = Origins(self._host, self.places, self.tree, self.settings)
        self._snapshots = Snapshots(self._host, self.places, self.tree, self.settings)
        self._warm = Warm(self._make_warm, self._erase, machines_max=self.settings.warm_machines_max)
        self._claims = Claims(self.places.data / "claims")
        self._waiting = self.places.data / "waiting"  # logs of machines that are nobody's yet

    @property
    def facts(self) -> EngineFacts:
        missing = [("squeeze", "a clone's memory is its template's or its own")]
        if self._origins.accelerator == "tcg":
            missing.append(("hardware virtualization", self._origins.kvm_reason))
        return EngineFacts(
            name="qemu", version=self._host.programs.version, isolation="microvm", abilities=ABILITIES, architecture="amd64",
            overhead_mib=self.settings.guest_overhead_mib + self.settings.monitor_overhead_mib, missing=tuple(missing),
        )  # fmt: skip

    async def attach(self, known: frozenset[str]) -> None:
        self.places.make()
        self._claims.load()
        self._waiting.mkdir(mode=0o700, exist_ok=True)
        await super().attach(known)
        for sandbox_id in self._claims.ids():
            if sandbox_id not in known:
                self._claims.forget(sandbox_id)
        await asyncio.to_thread(self._origins.tidy)

    async def remove(self, sandbox_id: str) -> None:
        await super().remove(sandbox_id)
        self._claims.forget(sandbox_id)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Names of machines that are nobody's yet."""
        return self._warm.names

    async def settled(self) -> None:
        """The machines for the next starts are there, as far as they are wanted."""
        await self._warm.settled()

    async def keep_spares(self, allowed: bool) -> int:
        return await self._warm.allow(allowed)

    async def aclose(self) -> None:
        await self._warm.aclose()
        for left in list(self._waiting.iterdir()) if self._waiting.is_dir() else ():  # its making was broken off
            try:
                await self._erase(left.name)
            except (OSError, SandboxError) as error:
                log.warning("warm_machine_left", name=left.name, error=str(error))  # the next engine removes it
        await super().aclose()
        self._origins.close()

    async def _origin(self, spec: SandboxSpec, snapshot: Path | None) -> Base:
        return await self._origins.find(spec, snapshot, vcpus=self.vcpus(spec.limits))

    async def _launch(self, spec: SandboxSpec, origin: Base) -> Running:
        assert spec.disk is not None
        limits = _quick(host_limits(spec.limits, self.settings, pids=PIDS_MAX))
        running = await self._take_warm(spec, origin, limits)
        if running is not None:
            return running
        self._claims.forget(spec.id)  # of a machine before, which is gone: this one has the instance's name
        return launch(
            self._host, self.places, self.tree,
            Launch(
                name=spec.id, machine=origin.about.machine, disk=spec.disk, uid=self.settings.uid(spec.id),
                limits=limits, incoming=origin.template is not None,
                memory_fd=origin.template.memory() if origin.template is not None else -1,
                tap=(spec.netns, spec.network.device) if spec.network is not None else None,
                log=spec.log, log_bytes_max=spec.log_bytes_max,
            ),
        )  # fmt: skip

    async def _take_warm(self, spec: SandboxSpec, origin: Base, limits: Limits) -> Running | None:
        kind = _kind(spec, origin)
        running = self._warm.take(kind) if kind is not None else None
        if running is None:
            return None
        self._claims.claim(spec.id, running.process.name)  # before all else: now the caller's `remove` finds it
        try:
            if spec.network is not None:
                running.join(spec.netns, spec.network)
            await asyncio.to_thread(hand_over, self._waiting / running.process.name, Path(spec.log))
            running.process.group.limit(limits)
        except (OSError, CgroupError) as error:
            log.warning("warm_machine_lost", id=spec.id, error=str(error))
            await self._give_up(running)
            await self.remove(spec.id)
            return None
        except BaseException:
            await self._give_up(running)
            raise
        return running

    async def _make_warm(self, kind: Kind) -> Running:
        name, machine = secrets.token_hex(8), kind.template.about.machine
        running = launch(
            self._host, self.places, self.tree,
            Launch(
                name=name, machine=machine, disk=kind.disk, uid=self.settings.uid(name), incoming=True, waits=True,
                limits=Limits(
                    memory_bytes=(machine.memory_mib + self.settings.monitor_overhead_mib) * MIB,
                    cpu_shares=SHARES_WARMING, pids=PIDS_MAX,
                ),
                memory_fd=kind.template.memory(), log=str(self._waiting / name), log_bytes_max=kind.log_bytes_max,
                note={"role": "warm"},
            ),
        )  # fmt: skip
        try:
            await running.process.started()
            await self._load(running, kind.template)
        except BaseException:
            await self._give_up(running)
            await self._erase(name)
            raise
        return running

    async def _load(self, running: Running, template: Template) -> None:
        if not running.loaded:
            await running.connect_qmp()  # it listens when this is done
            await running.dial()
            await running.load(template.state)

    async def _wake(self, running: Running, spec: SandboxSpec, origin: Base) -> GuestAgent:
        await running.process.started()
        qmp = await running.connect_qmp()
        if origin.template is not None:
            await self._load(running, origin.template)
            await qmp.call("cont")
        timeout_s = GREET_S if origin.template is not None else self.settings.boot_ms_max / 1000
        agent = await self._greet(running, timeout_s=timeout_s)
        try:
            await running.joined()  # before its program says anything
        except BaseException:
            await agent.aclose()
            raise
        return agent

    async def _introduce(
        self, running: Running, agent: GuestAgent, spec: SandboxSpec, origin: Base, config: list[bytes]
    ) -> QemuSandbox:
        held = await super()._introduce(running, agent, spec, origin, config)
        kind = _kind(spec, origin)
        if kind is not None:
            self._warm.want(kind)
        return held

    def _kept(self, spec: SandboxSpec, origin: Base) -> tuple[int, bytes]:
        assert spec.disk is not None
        return origin.about.machine.memory_mib, encode(Origin(about=origin.about, disk=spec.disk))

    def _runs(self, origin: Base) -> bool:
        return origin.about.running

    def _found(self, process: Monitor) -> Running:
        return Running(process, self.places.machine(process.name))

    def _box(self, started: Started, running: Running, agent: GuestAgent | None) -> QemuSandbox:
        return QemuSandbox(started, running, self.settings, agent, self._snapshots)

    async def _erase(self, name: str) -> None:
        await remove(self.places, self.tree, name)
        (self._waiting / name).unlink(missing_ok=True)

    def _names(self) -> set[str]:
        return {*super()._names(), *(path.name for path in self._waiting.iterdir())}

    def _names_of(self, known: frozenset[str]) -> frozenset[str]:
        return frozenset(map(self._claims.machine_of, known))

    def _name_of(self, sandbox_id: str) -> str:
        return self._claims.machine_of(sandbox_id)


def find_host() -> Host:
    """Raises `EngineUnavailable`."""
    require_root()
    try:
        qemu, bwrap = tools.find_qemu(), tools.find_bwrap()
        programs = command.programs(str(qemu.require()), qemu.version, str(bwrap.require()))
    except tools.ToolMissing as error:
        raise EngineUnavailable(str(error)) from error
    guest = build.find()
    if guest is None:
        raise EngineUnavailable(f"the kernel and init of guests are not there; get them by: {build.GET}")
    return Host(programs=programs, guest=guest)


def _kind(spec: SandboxSpec, origin: Base) -> Kind | None:
    """None: no machine can wait for such a start."""
    log = Path(spec.log)
    if origin.template is None or spec.disk is None or (log.exists() and not log.is_file()):  # /dev/null is nobody's to replace
        return None
    return Kind(origin.template, spec.disk, spec.log_bytes_max)


def _quick(limits: Limits) -> Limits:
    """While somebody waits for its start it may use what there is; its own limits follow."""
    return msgspec.structs.replace(limits, cpu_millicores=None, cpu_shares=SHARES_STARTING)
