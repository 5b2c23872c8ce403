"""One container, started by this agent or an earlier one."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from skerry.adapters.cgroup.base import KILL_S_MAX, CgroupError, DiskLimits, Limits, Tree, read_pids_below
from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.process import detached, fill
from skerry.adapters.process.detached import Detached, ProcessRecord
from skerry.adapters.process.fill import Fill
from skerry.adapters.sandbox.oci.courier import copy_in, copy_out
from skerry.adapters.sandbox.oci.places import Places
from skerry.adapters.sandbox.oci.runtimes import GVISOR_PIDS_MIN, Runtime
from skerry.adapters.sandbox.oci.session import OciSession, open_session
from skerry.kit.record import Record
from skerry.ports.sandbox import (
    Ability,
    ExecSpec,
    Exit,
    Gone,
    SandboxError,
    SandboxLimits,
    SandboxSpec,
    SandboxStats,
    Unsupported,
)

MIB = 1 << 20
KILLED = 128 + signal.SIGKILL
COMMAND_S_MAX = 60
ENDS_S_MAX = KILL_S_MAX
_numbers = itertools.count(1)


class Fleet(Record):
    """What all containers of one engine share."""

    runtime: Runtime
    places: Places
    groups: Tree | None
    launcher: tuple[str, ...]
    disk: DiskLimits | None = None  # of each of them

    def limits(self, limits: SandboxLimits) -> Limits:
        """Of the group: the wall's own needs come on top of the program's."""
        pids = max(limits.pids_max, GVISOR_PIDS_MIN) if self.runtime.is_gvisor else limits.pids_max
        return Limits(
            memory_bytes=(limits.memory_mib_max + (self.runtime.overhead_mib if self.runtime.is_gvisor else 0)) * MIB,
            cpu_millicores=limits.cpu_millicores_max,
            cpu_shares=limits.cpu_shares,
            cpu_standing=limits.cpu_standing,
            pids=pids,
            disk=self.disk,
        )

    async def end(self, group: str) -> None:
        """Kill all that is in it, and remove it. Idempotent. Raises `SandboxError` when it does not end: try again."""
        if self.groups is not None:
            try:
                await end_group(self.groups, group)
            except CgroupError as error:
                raise SandboxError(str(error)) from error

    def runtime_group(self, sandbox: str) -> tuple[str, ...]:
        """The files by which the runtime itself, and all that it forks, is born in a group of its own."""
        tree, _ = find_tree(f"skerry-{self.places.tag}", controllers=("pids",))
        return () if tree is None else tree.create(f"{sandbox}.m").join


class Held(Record):
    """What is needed to go on with it; kept in memory, since it has the environment."""

    spec: SandboxSpec
    uid_first: int
    first: ProcessRecord


class OciSandbox:
    """`outer` is the runtime that waits for it: ours, an earlier agent's, or gone."""

    def __init__(self, fleet: Fleet, held: Held, outer: Detached | None) -> None:
        self._fleet = fleet
        self._held = held
        self._outer = outer
        self._first = detached.open_process(held.first)
        self._exit: Exit | None = None
        self._oom = self._group().oom_event() if fleet.groups is not None else None
        self._killed = False

    @property
    def id(self) -> str:
        return self._held.spec.id

    @property
    def pid(self) -> int:
        return self._held.first.pid

    async def wait(self) -> Exit:
        if self._exit is None:
            if self._first is not None:
                await self._first.wait()
            if self._outer is not None:
                await self._outer.wait()
            self._exit = self._exit or self._judge()
        return self._exit

    async def gone(self) -> None:
        if self._first is not None:
            await self._first.wait()

    async def stop(self, *, grace_ms: int) -> None:
        if not self.alive():
            return
        with contextlib.suppress(CgroupError):
            self._group().freeze(False)
        await self._send(signal.Signals[self._held.spec.stop_signal])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_ms / 1000):
                await self.wait()
                return
        self._killed = True
        await self._fleet.end(self.id)
        await self.killed()

    async def killed(self) -> None:
        """Returns when what was killed has ended. Raises `SandboxError` when it does not: nobody waits for it for ever."""
        try:
            async with asyncio.timeout(ENDS_S_MAX):
                await self.wait()
        except TimeoutError as error:
            raise SandboxError(f"{self.id}: process {self.pid} was killed and has not ended{detached.doing(self.pid)}") from error

    async def reaped(self, seconds: float) -> None:
        """Give those who started processes in it the time to hear that these have ended."""
        if self._first is not None:
            await self._first.ends_within(seconds)

    def cpu_us(self) -> int:
        return self._group().cpu_us() if self._fleet.groups is not None else 0

    def stats(self) -> SandboxStats:
        if self._fleet.groups is None:
            return SandboxStats()
        usage = self._group().usage()
        blocks, files = fill.of_files(self._held.spec.rootfs) if self.alive() else (Fill(), Fill())
        # gVisor's processes are those of its own kernel: the host sees neither them nor what they have open.
        descriptors = Fill() if self._fleet.runtime.is_gvisor else fill.of_descriptors(self._pids())
        return SandboxStats(
            cpu_us=usage.cpu_us,
            throttled_us=usage.throttled_us,
            memory_bytes=usage.memory_bytes,
            private_bytes=usage.private_bytes,
            pids=usage.pids,
            oom_kills=usage.oom_kills,
            read_bytes=usage.read_bytes,
            written_bytes=usage.written_bytes,
            forks_refused=usage.forks_refused,
            disk_bytes=blocks.used,
            disk_bytes_max=blocks.most,
            disk_files=files.used,
            disk_files_max=files.most,
            descriptors=descriptors.used,
            descriptors_max=descriptors.most,
        )

    async def exec(self, spec: ExecSpec) -> OciSession:
        self._need("exec")
        return await open_session(self._fleet.runtime, self._fleet.places, self._held.spec, spec, launcher=self._fleet.launcher,
                                  join=self._fleet.runtime_group(self.id))  # fmt: skip

    async def copy_out(self, path: str) -> AsyncIterator[bytes]:
        self._need("files")
        return await copy_out(self, self._fleet.runtime, self.pid, path)

    async def copy_in(self, directory: str, archive: AsyncIterator[bytes]) -> None:
        self._need("files")
        await copy_in(self, self._fleet.runtime, self.pid, directory, archive)

    async def pause(self) -> None:
        self._freeze(True)

    async def resume(self) -> None:
        self._freeze(False)

    async def resize(self, limits: SandboxLimits) -> None:
        self._need("resize")
        try:
            await asyncio.to_thread(self._group().limit, self._fleet.limits(limits))
        except CgroupError as error:
            raise SandboxError(f"{limits.memory_mib_max} MiB: more is in use than can be given back ({error})") from error

    async def squeeze(self) -> None:
        self._need("squeeze")
        group = self._group()

        def work() -> None:
            group.allow_swap(True)
            group.squeeze()
            group.allow_swap(False)

        await asyncio.to_thread(work)

    async def snapshot(self, directory: str) -> None:
        self._need("snapshot")
        await self._command("checkpoint", "--leave-running", f"--image-path={directory}", self.id)

    def alive(self) -> bool:
        return self._first is not None and self._first.alive()

    def close(self) -> None:
        """Let go of it."""
        for process in (self._first, self._outer):
            if process is not None:
                process.close()
        if self._oom is not None:
            os.close(self._oom)
            self._oom = None

    def _need(self, ability: Ability) -> None:
        if ability not in self._fleet.runtime.abilities:
            raise Unsupported(f"{self._fleet.runtime.name} has no {ability}")
        if not self.alive():
            raise Gone(f"{self.id} has ended")

    def _pids(self) -> tuple[int, ...]:
        """As one hierarchy lists them: a sandbox is in all of them."""
        return read_pids_below(Path(self._group().join[0]).parent)

    def _group(self):
        assert self._fleet.groups is not None, "engines without groups start nothing"
        return self._fleet.groups.open(self.id)

    def _freeze(self, frozen: bool) -> None:
        self._need("pause")
        try:
            self._group().freeze(frozen)
        except CgroupError as error:
            raise Gone(str(error)) from error

    def _judge(self) -> Exit:
        oom = self.stats().oom_kills > 0 or self._ran_out()
        code = self._outer.exit_status if self._outer is not None else None
        if code is not None and code < 0:
            code = KILLED if self._killed or not self.alive() else None
        return Exit(code=code, out_of_memory=oom)

    def _ran_out(self) -> bool:
        with contextlib.suppress(OSError):
            return self._oom is not None and os.eventfd_read(self._oom) > 0
        return False

    async def _send(self, number: int) -> None:
        if self._fleet.runtime.is_gvisor:
            with contextlib.suppress(SandboxError):
                await self._command("kill", self.id, str(int(number)))
        elif self._first is not None:
            self._first.signal(number)

    async def _command(self, *arguments: str) -> None:
        """One call of the runtime; raises `SandboxError` with what it says."""
        log = self._fleet.places.bundle(self.id) / f"command-{next(_numbers)}.log"
        command = self._fleet.runtime.command(self._fleet.places.state, log, *arguments)
        process = await asyncio.create_subprocess_exec(
            *self._fleet.launcher, *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                _, err = await process.communicate()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise SandboxError(f"{self._fleet.runtime.name} {arguments[0]}: no answer") from error
        finally:
            complaint = self._fleet.runtime.complaint(log)
            log.unlink(missing_ok=True)
        if process.returncode != 0:
            raise SandboxError(f"{self._fleet.runtime.name} {arguments[0]}: {complaint or err.decode(errors='replace')[-500:]}")
