"""Snapshots of machines whose program runs.

A clone's memory is partly its template's and partly its own, and QEMU leaves out of a stream only what is shared. So its
memory goes through the stream, into a second machine that stands still and writes it to a file: from there on it is a
template like those of booted guests, and its clones share its pages.

    machine: stop -> stream -> cont        helper: load the stream -> [memory file] + state -> end
"""

import asyncio
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from skerry.adapters.cgroup.base import Limits, Tree
from skerry.adapters.sandbox.microvm import monitor
from skerry.adapters.sandbox.microvm.box import Started
from skerry.adapters.sandbox.microvm.settings import MIB, Places, Settings
from skerry.adapters.sandbox.qemu import templates
from skerry.adapters.sandbox.qemu.machine import PIDS_MAX, SHARES_STARTING, Host, Launch, Running, launch
from skerry.adapters.sandbox.qemu.qmp import QmpError, wait_migrated
from skerry.adapters.sandbox.qemu.templates import About, Template
from skerry.kit.record import Record, decode

HELPER_NOTE = {"role": "helper"}


class Origin(Record):
    """What a machine was launched as."""

    about: About
    disk: str


class Snapshots:
    def __init__(self, host: Host, places: Places, tree: Tree, settings: Settings) -> None:
        self._host, self._places, self._tree, self._settings = host, places, tree, settings

    async def take(self, running: Running, started: Started, directory: Path) -> None:
        """Raises `QmpError`, `OSError`, `TimeoutError`. The machine stands still for the time of the stream, and goes on."""
        origin = decode(started.about, Origin)
        with tempfile.TemporaryFile(dir=self._places.data) as stream:
            qmp = await running.connect_qmp()
            was_running = (await qmp.call("query-status"))["status"] == "running"
            try:
                await running.save(with_memory=True, target=stream.fileno())
            finally:
                if was_running:
                    await qmp.call("cont")
            template = await self._settle(origin, stream.fileno())
        try:
            await asyncio.to_thread(templates.write, directory, template)
        finally:
            template.close()

    async def _settle(self, origin: Origin, stream: int) -> Template:
        """The stream as a template. The helper is a machine like the first, and never runs an instruction."""
        name = secrets.token_hex(8)
        memory = templates.new_memory(origin.about.machine.memory_mib)
        try:
            limits = Limits(
                memory_bytes=(origin.about.machine.memory_mib * 2 + self._settings.monitor_overhead_mib) * MIB,
                cpu_shares=SHARES_STARTING, pids=PIDS_MAX,
            )  # fmt: skip
            helper = launch(
                self._host, self._places, self._tree,
                Launch(
                    name=name, machine=origin.about.machine, disk=origin.disk, uid=self._settings.uid(name), limits=limits,
                    incoming=True, shared=True, memory_fd=memory, note=HELPER_NOTE,
                ),
            )  # fmt: skip
            await helper.process.started()
            await self._load_stream(helper, stream)
            state = await helper.save(with_memory=False)
            await helper.let_go()
        except BaseException:
            os.close(memory)
            raise
        finally:
            await remove(self._places, self._tree, name)
        about = About(
            machine=origin.about.machine, guest=origin.about.guest, monitor=origin.about.monitor,
            disk_bytes=origin.about.disk_bytes, running=True,
        )  # fmt: skip
        return Template(about, memory, state)

    async def _load_stream(self, helper: Running, stream: int) -> None:
        os.lseek(stream, 0, os.SEEK_SET)
        qmp = await helper.connect_qmp()
        await qmp.call("getfd", fd=stream, fdname="stream")
        await qmp.call("migrate-incoming", uri="fd:stream")
        await wait_migrated(qmp, timeout_s=120)
        if (await qmp.call("query-status"))["status"] == "inmigrate":
            raise QmpError("the snapshot was not taken over")


async def remove(places: Places, tree: Tree, name: str) -> None:
    """All that there is of a machine. Idempotent."""
    await monitor.remove(name, records=places.processes, tree=tree)
    await asyncio.to_thread(shutil.rmtree, places.machine(name), ignore_errors=True)
