"""What machines start from: the template of their image and size, or a snapshot of somebody's running one."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import structlog

from skerry.adapters import machine as host_machine
from skerry.adapters.cgroup.base import Tree
from skerry.adapters.sandbox.microvm import fields, kvm
from skerry.adapters.sandbox.microvm.agent import AgentLost
from skerry.adapters.sandbox.microvm.box import greet, host_limits
from skerry.adapters.sandbox.microvm.settings import Places, Settings
from skerry.adapters.sandbox.qemu import templates
from skerry.adapters.sandbox.qemu.command import Machine
from skerry.adapters.sandbox.qemu.machine import PIDS_MAX, SHARES_STARTING, Host, Launch, launch
from skerry.adapters.sandbox.qemu.qmp import QmpError
from skerry.adapters.sandbox.qemu.snapshots import remove
from skerry.adapters.sandbox.qemu.templates import About, Template, Templates, disk_bytes
from skerry.ports.sandbox import EngineUnavailable, GuestNetwork, SandboxLimits, SandboxSpec

log = structlog.get_logger()


class Base(NamedTuple):
    """`template` None: it boots, into memory that is all its own."""

    about: About
    template: Template | None


class Origins:
    """Owns templates and snapshots in memory. `accelerator` is what machines run with from now on, `kvm_reason` why not KVM."""

    def __init__(self, host: Host, places: Places, tree: Tree, settings: Settings) -> None:
        self._host, self._places, self._tree, self._settings = host, places, tree, settings
        self._templates = Templates(places.templates, mib_max=settings.templates_mib_max)
        self._snapshots: dict[tuple[str, int], Template] = {}  # by directory and change
        found = kvm.probe()
        self.accelerator, self.kvm_reason = ("kvm", "") if found.usable else ("tcg", found.reason)

    async def find(self, spec: SandboxSpec, snapshot: Path | None, *, vcpus: int) -> Base:
        """Raises `EngineUnavailable`."""
        if snapshot is not None:
            found = await self._snapshot(snapshot, spec)
            return Base(found.about, found)
        if spec.merge_memory:
            return Base(self._about(spec, vcpus), None)
        found = await self._template(spec, vcpus)
        return Base(found.about, found)

    def tidy(self) -> None:
        """See `Templates.tidy`."""
        self._templates.tidy()

    def close(self) -> None:
        for template in self._snapshots.values():
            template.close()
        self._snapshots.clear()
        self._templates.close()

    def _about(self, spec: SandboxSpec, vcpus: int) -> About:
        assert spec.disk is not None
        return About(
            machine=self._machine(spec, vcpus), guest=self._host.guest.key, monitor=self._host.programs.version,
            disk_bytes=disk_bytes(spec.disk),
        )  # fmt: skip

    def _machine(self, spec: SandboxSpec, vcpus: int) -> Machine:
        return Machine(
            memory_mib=self._settings.guest_mib(spec.limits.memory_mib_max),
            vcpus=vcpus,
            accelerator=self.accelerator,
            tsc_khz=host_machine.tsc_khz() if self.accelerator == "tcg" else 0,
            translated_code_mib=self._settings.translated_code_mib if self.accelerator == "tcg" else 0,
            merge=spec.merge_memory,
        )

    async def _template(self, spec: SandboxSpec, vcpus: int) -> Template:
        assert spec.disk is not None
        about = self._about(spec, vcpus)
        key = templates.key_of(about, spec.disk)
        async with self._templates.lock(key):
            found = await self._templates.find(key, about)
            for attempt in range(self._settings.start_retries + 1):
                if found is not None:
                    break
                try:
                    found = await self._boot(key, spec.disk, about, spec.network)
                except AgentLost as error:
                    log.warning("microvm_boot_failed", attempt=attempt, error=str(error))
                    if attempt == self._settings.start_retries and self.accelerator == "tcg":
                        raise EngineUnavailable(f"a guest does not boot: {error}") from error
            if found is not None:
                return found
        # The probe is a page of code, a kernel is the last word: from here on everything is emulated.
        self.accelerator, self.kvm_reason = "tcg", "KVM passed its probe, but no Linux guest boots with it"
        return await self._template(spec, vcpus)

    async def _boot(self, key: str, disk: str, about: About, network: GuestNetwork | None) -> Template:
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
                streams = await running.connect_agent_stream()
                agent = await greet(*streams, running.process, timeout_s=self._settings.boot_ms_max / 1000)
                try:
                    if network is not None:  # its device is set up as those of all guests of a node are: a clone has that done
                        await agent.take_identity(fields.network(network))
                    state = await running.save(with_memory=False)
                finally:
                    await agent.aclose()
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
        found = self._snapshots.get(key)
        if found is None:
            found = self._snapshots[key] = await asyncio.to_thread(templates.read, directory)
            while (
                len(self._snapshots) > 1
                and sum(each.memory_mib for each in self._snapshots.values()) > self._settings.templates_mib_max
            ):
                self._snapshots.pop(next(iter(self._snapshots))).close()
        about = found.about
        if (about.guest, about.monitor, about.disk_bytes) != (
            self._host.guest.key, self._host.programs.version, disk_bytes(spec.disk),
        ):  # fmt: skip
            raise EngineUnavailable(f"{directory} was taken with another image, guest or QEMU")
        return found


def _plain(memory_mib: int) -> SandboxLimits:
    return SandboxLimits(memory_mib_max=memory_mib, cpu_millicores_max=8000, cpu_shares=SHARES_STARTING)
