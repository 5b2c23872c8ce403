"""`skerry.ports.sandbox.SandboxEngine` with QEMU's microvm machine: any Linux program behind a kernel of its own.

    start:  template of the image (booted once) -> clone -> HELLO -> CONFIG, RUN
            snapshot of a running one           -> clone -> HELLO -> IDENTITY
            memory that may be merged           -> boot  -> HELLO -> CONFIG, RUN
    all that a machine has: records/<id>, run/m/<id>/, group <id>

Hardware virtualization is used where the probe says that it runs Linux guests (`microvm/kvm.py`), else emulation.
"""

import asyncio
import contextlib
import os
import re
from pathlib import Path

import msgspec
import structlog

from skerry.adapters import machine as host_machine
from skerry.adapters import tools
from skerry.adapters.cgroup.base import CgroupError, Limits, Tree
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.process import detached
from skerry.adapters.sandbox.microvm import build, fields, kvm, monitor
from skerry.adapters.sandbox.microvm.agent import AgentLost
from skerry.adapters.sandbox.microvm.box import Started, greet, host_limits, started_by
from skerry.adapters.sandbox.microvm.protocol import GuestState
from skerry.adapters.sandbox.microvm.settings import Places, Settings
from skerry.adapters.sandbox.qemu import command, templates
from skerry.adapters.sandbox.qemu.command import Machine
from skerry.adapters.sandbox.qemu.machine import PIDS_MAX, SHARES_STARTING, Host, Launch, Running, launch
from skerry.adapters.sandbox.qemu.qmp import QmpError
from skerry.adapters.sandbox.qemu.sandbox import QemuSandbox
from skerry.adapters.sandbox.qemu.snapshots import Origin, Snapshots, remove
from skerry.adapters.sandbox.qemu.templates import About, Template, Templates, disk_bytes
from skerry.kit.record import decode, encode
from skerry.ports.sandbox import EngineFacts, EngineUnavailable, SandboxLimits, SandboxSpec, StartError

log = structlog.get_logger()

ID = re.compile(r"[0-9a-f]{16}")
DYING_S = 1.0  # a monitor that was killed gives back its memory first
STARTED_FILE = "started.json"
GREET_S = 30
OPEN_S = 10
ABILITIES = frozenset(("exec", "terminal", "files", "pause", "snapshot", "clone", "resize"))


class QemuEngine:
    """One per node and process. `attach` before all else."""

    def __init__(self, *, data: Path, run: Path, settings: Settings | None = None) -> None:
        """Raises `EngineUnavailable` with what this machine lacks and how to get it."""
        self._settings = settings or Settings()
        self._places = Places(data, run)
        self._accelerator, self._kvm_reason = _accelerator()
        self._host = find_host()
        self._tree = _tree(self._places)
        self._templates = Templates(self._places.templates, mib_max=self._settings.templates_mib_max)
        self._snapshots = Snapshots(self._host, self._places, self._tree, self._settings)
        self._open: dict[str, QemuSandbox] = {}
        self._clones: dict[tuple[str, int], Template] = {}  # of users' snapshots, by directory and change

    @property
    def facts(self) -> EngineFacts:
        missing = [("squeeze", "a clone's memory is its template's or its own")]
        if self._accelerator == "tcg":
            missing.append(("hardware virtualization", self._kvm_reason))
        return EngineFacts(
            name="qemu", version=self._host.programs.version, isolation="microvm", abilities=ABILITIES, architecture="amd64",
            overhead_mib=self._settings.guest_overhead_mib + self._settings.monitor_overhead_mib, missing=tuple(missing),
        )  # fmt: skip

    async def attach(self, known: frozenset[str]) -> None:
        self._places.make()
        there = {
            *detached.names(self._places.processes),
            *(path.name for path in self._places.machines.iterdir()),
            *self._tree.names(),
        }
        for name in sorted(there - known):
            await remove(self._places, self._tree, name)
        await asyncio.to_thread(self._templates.tidy)

    async def start(self, spec: SandboxSpec, *, snapshot: str | None = None) -> QemuSandbox:
        if not ID.fullmatch(spec.id):
            raise StartError(f"{spec.id!r} is not an id of 16 hex digits")
        if spec.disk is None:
            raise EngineUnavailable("a microVM boots from a disk of its image, and was given none")
        if self._places.machine(spec.id).exists():
            raise StartError(f"{spec.id} is there already")
        config = fields.program(spec) if snapshot is None else fields.identity(spec)  # what is wrong with it is told at once
        template = await self._origin(spec, snapshot)
        about = template.about if template is not None else self._about(spec)
        running = self._launch(spec, about, template)
        try:
            await self._resume(running, template)
            return await self._introduce(running, spec, about, config)
        except (AgentLost, QmpError, OSError, TimeoutError) as error:
            said = running.said()
            await self._give_up(running)
            raise EngineUnavailable(f"a microVM does not start: {error}; {said}") from error
        except BaseException:
            await self._give_up(running)
            raise

    async def open(self, sandbox_id: str) -> QemuSandbox | None:
        held = self._open.get(sandbox_id)
        if held is not None:
            return held if held.process.alive() else None
        process = monitor.attach(sandbox_id, records=self._places.processes, tree=self._tree)
        if process is None:
            return None
        running = Running(process, self._places.machine(sandbox_id))
        try:
            started = decode((running.directory / STARTED_FILE).read_bytes(), Started)
        except (OSError, ValueError):  # whoever started it did not come to the end of that
            process.close()
            return None
        try:
            running.agent = await greet(*await running.connect_agent_stream(), process, timeout_s=OPEN_S)
        except (OSError, AgentLost) as error:
            if not await process.outlives(DYING_S):
                process.close()
                return None
            log.warning("guest_silent", id=sandbox_id, error=str(error))  # paused, or stuck: it is there all the same
        return self._hold(started, running)

    async def remove(self, sandbox_id: str) -> None:
        held = self._open.pop(sandbox_id, None)
        if held is not None:
            await held.process.end()
            await held.wait()
            await held.let_go()
        if ID.fullmatch(sandbox_id):
            await remove(self._places, self._tree, sandbox_id)

    async def aclose(self) -> None:
        """Where nothing runs, no group stays."""
        for held in self._open.values():
            await held.let_go()
        self._open.clear()
        if not self._tree.names():
            self._tree.remove()
        for template in self._clones.values():
            template.close()
        self._clones.clear()
        self._templates.close()

    def _hold(self, started: Started, running: Running) -> QemuSandbox:
        held = self._open[started.id] = QemuSandbox(started, running, self._settings, self._snapshots)
        return held

    async def _origin(self, spec: SandboxSpec, snapshot: str | None) -> Template | None:
        """What it starts from; None: it boots, into memory that is all its own."""
        if snapshot is not None:
            return await self._snapshot(Path(snapshot), spec)
        return None if spec.merge_memory else await self._template(spec)

    def _about(self, spec: SandboxSpec) -> About:
        assert spec.disk is not None
        return About(
            machine=self._machine(spec), guest=self._host.guest.key, monitor=self._host.programs.version,
            disk_bytes=disk_bytes(spec.disk),
        )  # fmt: skip

    def _machine(self, spec: SandboxSpec) -> Machine:
        return Machine(
            memory_mib=self._settings.guest_mib(spec.limits.memory_mib_max),
            vcpus=max(1, min(self._settings.vcpus_max, os.cpu_count() or 1, -(-spec.limits.cpu_millicores_max // 1000))),
            accelerator=self._accelerator,
            tsc_khz=host_machine.tsc_khz() if self._accelerator == "tcg" else 0,
            translated_code_mib=self._settings.translated_code_mib if self._accelerator == "tcg" else 0,
            merge=spec.merge_memory,
        )

    async def _template(self, spec: SandboxSpec) -> Template:
        assert spec.disk is not None
        about = self._about(spec)
        key = templates.key_of(about, spec.disk)
        async with self._templates.lock(key):
            found = await self._templates.find(key, about)
            for attempt in range(self._settings.start_retries + 1):
                if found is not None:
                    break
                try:
                    found = await self._boot(f"{key}", spec.disk, about)
                except AgentLost as error:
                    log.warning("microvm_boot_failed", attempt=attempt, error=str(error))
                    if attempt == self._settings.start_retries and self._accelerator == "tcg":
                        raise EngineUnavailable(f"a guest does not boot: {error}") from error
            if found is not None:
                return found
        # The probe is a page of code, a kernel is the last word: from here on everything is emulated.
        self._accelerator, self._kvm_reason = "tcg", "KVM passed its probe, but no Linux guest boots with it"
        return await self._template(spec)

    async def _boot(self, key: str, disk: str, about: About) -> Template:
        """Until PID 1 answers, and not further. Raises `AgentLost` with the guest's last words."""
        memory = templates.new_memory(about.machine.memory_mib)
        limits = host_limits(_plain(about.machine.memory_mib), self._settings, pids=PIDS_MAX)
        try:
            running = launch(
                self._host, self._places, self._tree,
                Launch(
                    name=key, machine=about.machine, disk=disk, uid=self._settings.uid(key), limits=limits, incoming=False,
                    shared=True, memory_fd=memory, note={"role": "template"},
                ),
            )  # fmt: skip
            try:
                await running.process.started()
                running.agent = await greet(
                    *await running.connect_agent_stream(), running.process, timeout_s=self._settings.boot_ms_max / 1000
                )
                state = await running.save(with_memory=False)
            except (AgentLost, QmpError) as error:
                raise AgentLost(f"{error}; {running.said()}") from error
            finally:
                await running.let_go()
                running.process.close()
                await remove(self._places, self._tree, key)
            template = Template(about, memory, state)
            await self._templates.put(key, template)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(memory)
            raise
        return template

    async def _snapshot(self, directory: Path, spec: SandboxSpec) -> Template:
        assert spec.disk is not None
        try:
            key = templates.snapshot_key(directory)
        except OSError as error:
            raise EngineUnavailable(f"{directory} holds no snapshot: {error}") from error
        found = self._clones.get(key)
        if found is None:
            found = self._clones[key] = await asyncio.to_thread(templates.read, directory)
            while (
                len(self._clones) > 1
                and sum(each.memory_mib for each in self._clones.values()) > self._settings.templates_mib_max
            ):
                self._clones.pop(next(iter(self._clones))).close()
        about = found.about
        if (about.guest, about.monitor, about.disk_bytes) != (
            self._host.guest.key, self._host.programs.version, disk_bytes(spec.disk),
        ):  # fmt: skip
            raise EngineUnavailable(f"{directory} was taken with another image, guest or QEMU")
        return found

    def _launch(self, spec: SandboxSpec, about: About, template: Template | None) -> Running:
        assert spec.disk is not None
        limits = host_limits(spec.limits, self._settings, pids=PIDS_MAX)
        return launch(
            self._host, self._places, self._tree,
            Launch(
                name=spec.id, machine=about.machine, disk=spec.disk, uid=self._settings.uid(spec.id),
                limits=_quick(limits), incoming=template is not None, memory_fd=template.memory_fd if template else -1,
                tap=(spec.netns, spec.network.device) if spec.network is not None else None,
                log=spec.log, log_bytes_max=spec.log_bytes_max,
            ),
        )  # fmt: skip

    async def _resume(self, running: Running, template: Template | None) -> None:
        await running.process.started()
        qmp = await running.connect_qmp()
        streams = await running.connect_agent_stream()
        if template is not None:
            await running.load(template.state)
            await qmp.call("cont")
        timeout_s = GREET_S if template is not None else self._settings.boot_ms_max / 1000
        running.agent = await greet(*streams, running.process, timeout_s=timeout_s)

    async def _introduce(self, running: Running, spec: SandboxSpec, about: About, config: list[bytes]) -> QemuSandbox:
        """Tell the guest who it is, and what to run if it does not yet."""
        assert running.agent is not None
        assert spec.disk is not None
        if (running.agent.state == GuestState.FRESH) == about.running:
            raise EngineUnavailable("the snapshot is not what it says")
        await (running.agent.take_identity(config) if about.running else running.agent.run(config))
        origin = Origin(about=about, disk=spec.disk)
        started = started_by(spec, guest_mib=about.machine.memory_mib, about=encode(origin))
        running.process.group.limit(host_limits(spec.limits, self._settings, pids=PIDS_MAX))
        detached.write_private(running.directory / STARTED_FILE, encode(started))
        return self._hold(started, running)

    async def _give_up(self, running: Running) -> None:
        """What has been made stays for `remove`, which the caller owes; nothing of it runs on."""
        await running.let_go()
        with contextlib.suppress(CgroupError):
            await running.process.end()
        running.process.close()


def find_host() -> Host:
    """Raises `EngineUnavailable`."""
    if os.geteuid() != 0:
        raise EngineUnavailable("microVMs need root: each gets a user id, groups and a tap of its own")
    try:
        qemu, bwrap = tools.find_qemu(), tools.find_bwrap()
        programs = command.programs(str(qemu.require()), qemu.version, str(bwrap.require()))
    except tools.ToolMissing as error:
        raise EngineUnavailable(str(error)) from error
    guest = build.find()
    if guest is None:
        raise EngineUnavailable(f"the kernel and init of guests are not there; get them by: {build.GET}")
    return Host(programs=programs, guest=guest)


def _accelerator() -> tuple[str, str]:
    found = kvm.probe()
    return ("kvm", "") if found.usable else ("tcg", found.reason)


def _tree(places: Places) -> Tree:
    tree, problem = find_tree(f"skerry-{places.tag}")
    if tree is None:
        raise EngineUnavailable(problem)
    return tree


def _plain(memory_mib: int) -> SandboxLimits:
    return SandboxLimits(memory_mib_max=memory_mib, cpu_millicores_max=8000, cpu_shares=SHARES_STARTING)


def _quick(limits: Limits) -> Limits:
    """While somebody waits for its start it may use what there is; its own limits follow."""
    return msgspec.structs.replace(limits, cpu_millicores=None, cpu_shares=SHARES_STARTING)
