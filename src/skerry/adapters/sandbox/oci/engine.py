"""`skerry.ports.sandbox.SandboxEngine` over an OCI runtime."""

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path

import structlog

from skerry.adapters import kernel
from skerry.adapters.cgroup.base import CgroupError, DiskLimits, Tree
from skerry.adapters.cgroup.probe import find_tree, hidden_unified
from skerry.adapters.cgroup.v1 import ALL
from skerry.adapters.imagesources.opening import own_architecture
from skerry.adapters.kernel import NODEV, NOEXEC, NOSUID, RDONLY
from skerry.adapters.process import detached
from skerry.adapters.process.detached import Detached, Spawn, write_private
from skerry.adapters.sandbox.oci.bundle import UIDS, Frame, configuration
from skerry.adapters.sandbox.oci.places import Places
from skerry.adapters.sandbox.oci.runtimes import Runtime
from skerry.adapters.sandbox.oci.sandbox import ENDS_S_MAX, Fleet, Held, OciSandbox
from skerry.adapters.threads import whole
from skerry.kit.record import decode, encode
from skerry.ports.sandbox import EngineFacts, EngineUnavailable, GuestNetwork, SandboxError, SandboxSpec, StartError

log = structlog.get_logger()

MEMORY_FILES_MIB = 256  # of all bundles and secrets of the node, at most
LOG_FACTOR = 2
START_S_MAX = 60.0
REAPED_S = 1.0  # for those who started processes in a container from outside to hear that these have ended
NO_FILE_LIMIT = 1 << 50  # the log has its own file system; a limit on files would be one on the program's
# $1: the unified tree that would mislead the runtime, or ""; then the command.
_LAUNCH = 'umask 022; if [ -n "$1" ]; then umount "$1" || exit 113; fi; shift; exec "$@"'


class OciEngine:
    """`data_dir` names the owner; two engines of one node and runtime are the same engine, one after the other."""

    def __init__(self, runtime: Runtime, data_dir: Path, *, run_dir: Path | None = None, disk: DiskLimits | None = None) -> None:
        places = Places(data_dir, runtime.name, run_dir)
        name = f"skerry-{places.tag}"
        self._tree, problem = find_tree(name)
        whole, _ = find_tree(name, controllers=ALL)
        self._fleet = Fleet(runtime=runtime, places=places, groups=whole, launcher=_launcher(), disk=disk)
        self._kept: dict[str, OciSandbox] = {}
        self._runtime = runtime
        self._places = places
        self._problem = problem if self._tree is None else "" if os.geteuid() == 0 else "containers need root"
        self._limited = self._tree is not None and self._tree.limits

    @property
    def facts(self) -> EngineFacts:
        missing = () if self._limited else (("limits", "no memory and CPU controllers among this machine's control groups"),)
        return EngineFacts(
            name=self._runtime.name,
            version=self._runtime.version,
            isolation=self._runtime.isolation,
            abilities=self._runtime.abilities,
            architecture=own_architecture(),
            overhead_mib=self._runtime.overhead_mib,
            missing=(*self._runtime.missing, *missing),
        )

    @property
    def launcher(self) -> tuple[str, ...]:
        """What goes before the runtime's command on this machine."""
        return self._fleet.launcher

    async def attach(self, known: frozenset[str]) -> None:
        self._trees()
        await whole(self._make_places)
        for sandbox in sorted(self._names() - known):
            try:
                await self.remove(sandbox)
            except SandboxError as error:  # the next attach tries again
                log.error("leftover_stays", sandbox=sandbox, error=str(error))

    async def start(self, spec: SandboxSpec, *, snapshot: str | None = None) -> OciSandbox:
        tree = self._trees()
        await self.remove(spec.id)
        try:
            frame = await whole(self._prepare, spec, tree)
            outer = self._spawn(spec, snapshot)
            held = Held(spec=spec, uid_first=frame.uid_first, first=await self._until_started(spec, outer))
            write_private(self._places.bundle(spec.id) / "sandbox.json", encode(held))
            return self._keep(OciSandbox(self._fleet, held, outer))
        except (OSError, CgroupError) as error:
            await self.remove(spec.id)
            raise EngineUnavailable(f"{self._runtime.name}: {error}") from error
        except (StartError, EngineUnavailable):
            await self.remove(spec.id)
            raise

    async def open(self, sandbox_id: str) -> OciSandbox | None:
        kept = self._find(sandbox_id)
        return kept if kept is not None and kept.alive() else None

    def _find(self, sandbox_id: str) -> OciSandbox | None:
        """One that came to the end of its start, whether it has ended since or not."""
        if sandbox_id not in self._kept:
            try:
                held = decode((self._places.bundle(sandbox_id) / "sandbox.json").read_bytes(), Held)
            except (OSError, ValueError):
                return None
            self._keep(OciSandbox(self._fleet, held, detached.attach(sandbox_id, records=self._places.processes)))
        return self._kept[sandbox_id]

    def _keep(self, sandbox: OciSandbox) -> OciSandbox:
        self._kept[sandbox.id] = sandbox
        return sandbox

    async def remove(self, sandbox_id: str) -> None:
        assert sandbox_id.isalnum(), "ids become names of files"
        outer = detached.attach(sandbox_id, records=self._places.processes)
        if outer is not None:
            outer.signal(signal.SIGKILL)
        kept = self._find(sandbox_id)
        if kept is not None:
            # First what is inside: who started it from outside (by exec) reaps it. Killed before that, he leaves it to a parent
            # that perhaps never does, and a process namespace does not end before the last in it is reaped.
            await self._fleet.end(sandbox_id)
            await kept.reaped(REAPED_S)
        for name in (f"{sandbox_id}.m", sandbox_id, f"{sandbox_id}.m"):  # the last: what came from there meanwhile
            await self._fleet.end(name)
        if outer is not None and not await outer.ends_within(ENDS_S_MAX):
            raise SandboxError(f"{self._runtime.name} of {sandbox_id} was killed and has not ended{detached.doing(outer.pid)}")
        if kept is not None:
            await kept.killed()
        await whole(self._clean, sandbox_id)
        if kept is not None:
            kept.close()
            self._kept.pop(sandbox_id, None)
        if outer is not None:
            outer.forget()

    async def keep_spares(self, allowed: bool) -> int:
        return 0

    async def aclose(self) -> None:
        """Where nothing runs nothing stays."""
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()
        if self._places.run.is_dir() and not self._names():
            await whole(self._remove_places)

    def _trees(self) -> Tree:
        if self._problem or self._tree is None:
            raise EngineUnavailable(f"{self._problem}; run as root, on a kernel with control groups")
        return self._tree

    def _names(self) -> frozenset[str]:
        groups = self._fleet.groups.names() if self._fleet.groups else ()
        return self._places.names() | {name.removesuffix(".m") for name in groups}

    # Around the runtime

    def _make_places(self) -> None:
        places = self._places
        for path in (places.run.parent, places.run, places.memory, places.logs, places.sys):
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            path.chmod(0o711)
        for path in (places.processes, places.state):
            path.mkdir(mode=0o700, exist_ok=True)
        if not os.path.ismount(places.memory):
            options = f"mode=711,size={MEMORY_FILES_MIB}m"
            kernel.mount("skerry", str(places.memory), "tmpfs", flags=NOSUID | NODEV | NOEXEC, options=options)

    def _remove_places(self) -> None:
        for path in kernel.mounts_below(self._places.run):
            kernel.unmount(path)
        shutil.rmtree(self._places.run, ignore_errors=True)
        for name in (self._tree, self._fleet.groups):
            if name is not None:
                name.remove()

    def _prepare(self, spec: SandboxSpec, tree: Tree) -> Frame:
        first = Path(spec.rootfs).stat().st_uid // UIDS * UIDS
        bundle = self._places.bundle(spec.id)
        bundle.mkdir()
        bundle.chmod(0o711)
        if self._runtime.is_gvisor and spec.network is not None:
            _give_address(spec.netns, spec.network)
        self._open_log(spec)
        frame = Frame(
            architecture=own_architecture(),
            uid_first=first,
            cgroups_path=f"/skerry-{self._places.tag}.{spec.id}/c",
            system=self._mount_system(spec),
            groups=self._make_groups(spec, tree),
            files=self._write_files(spec, first),
            seccomp=not self._runtime.is_gvisor,  # that one has its own, around its kernel
        )
        write_private(bundle / "config.json", encode(configuration(spec, frame)))
        return frame

    def _open_log(self, spec: SandboxSpec) -> None:
        """A file in a small file system of its own, laid over the log: it cannot outgrow that, whoever writes."""
        if spec.log == "/dev/null":
            return
        log, place = Path(spec.log), self._places.log(spec.id)
        place.mkdir(mode=0o700)
        size = max(4096, LOG_FACTOR * spec.log_bytes_max)
        kernel.mount("skerry", str(place), "tmpfs", flags=NOSUID | NODEV | NOEXEC, options=f"mode=700,size={size}")
        before = log.read_bytes()[-spec.log_bytes_max :] if log.exists() else b""
        write_private(place / "log", before)
        log.touch(mode=0o600)
        write_private(self._places.bundle(spec.id) / "log", str(log.resolve()).encode())
        kernel.bind(place / "log", log)

    def _close_log(self, sandbox: str) -> None:
        """What it wrote last stays in the plain file."""
        place = self._places.log(sandbox)
        try:
            log = Path((self._places.bundle(sandbox) / "log").read_text())
            kept = (place / "log").read_bytes()
        except OSError:
            pass
        else:
            kernel.unmount(log)
            if log.is_file():
                write_private(log, kept)
        kernel.unmount(place)
        shutil.rmtree(place, ignore_errors=True)

    def _mount_system(self, spec: SandboxSpec) -> str | None:
        """/sys as its network namespace sees it: who is mapped may not mount that, and the host's would show the host's."""
        if self._runtime.is_gvisor or not spec.netns:
            return None
        place = self._places.system(spec.id)
        place.mkdir()
        place.chmod(0o711)
        flags = RDONLY | NOSUID | NODEV | NOEXEC

        def work() -> None:
            kernel.mount("sysfs", str(place), "sysfs", flags=flags)
            # Port 80 is anybody's in a network of one's own; a capability inside would not reach this namespace.
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")

        kernel.apart(work, netns=spec.netns)
        return str(place)

    def _make_groups(self, spec: SandboxSpec, tree: Tree) -> tuple[tuple[str, str], ...]:
        """The sandbox's group with its limits, and which of its directories it sees."""
        group = tree.create(spec.id)
        group.limit(self._fleet.limits(spec.limits))
        group.allow_swap(False)
        if self._runtime.is_gvisor:
            return ()
        paths = [Path(file).parent for file in group.join]
        return tuple(("" if len(paths) == 1 else path.parent.name, str(path)) for path in paths)

    def _write_files(self, spec: SandboxSpec, first: int) -> tuple[tuple[str, str], ...]:
        made: list[tuple[str, str]] = []
        for number, file in enumerate(spec.files):
            path = self._places.bundle(spec.id) / f"file-{number}"
            write_private(path, file.content)
            os.chown(path, first + spec.uid, first + spec.gid)
            path.chmod(file.mode)
            made.append((str(path), file.path))
        return tuple(made)

    def _spawn(self, spec: SandboxSpec, snapshot: str | None) -> Detached:
        bundle = self._places.bundle(spec.id)
        verb = ("run",) if snapshot is None else ("restore", f"--image-path={snapshot}")
        runtime = self._runtime.with_host_sockets() if spec.host_sockets else self._runtime
        command = runtime.command(
            self._places.state, bundle / "runtime.log", *verb,
            f"--bundle={bundle}", f"--pid-file={bundle / 'pid'}", spec.id,
        )  # fmt: skip
        return detached.spawn(
            Spawn(
                name=spec.id,
                argv=(*self._fleet.launcher, *command),
                log=spec.log,
                log_bytes_max=NO_FILE_LIMIT,
                join=self._fleet.runtime_group(spec.id),
                tag=self._places.tag,
            ),
            records=self._places.processes,
        )

    async def _until_started(self, spec: SandboxSpec, outer: Detached) -> detached.ProcessRecord:
        """The program's first process, once it is the program."""
        bundle, runtime = self._places.bundle(spec.id), self._runtime
        first: detached.ProcessRecord | None = None
        async with asyncio.timeout(START_S_MAX):
            while True:
                alive = outer.alive()
                pid = _read_pid(bundle / "pid")
                if pid and first is None:
                    first = _describe(pid)
                if first is not None and alive and runtime.started(self._places.state, spec.id, first.pid, outer.pid):
                    return first
                if not alive:
                    break
                await asyncio.sleep(0.001 if not runtime.is_gvisor else 0.005)
        complaint = runtime.complaint(bundle / "runtime.log")
        if complaint or first is None:
            said = complaint or detached.read_log_tail(Path(spec.log), bytes_max=500)
            raise StartError(f"{runtime.name}: {said or f'ended with status {outer.exit_status}'}")
        return first  # it has run and ended

    def _clean(self, sandbox: str) -> None:
        self._close_log(sandbox)
        kernel.unmount(self._places.system(sandbox))
        shutil.rmtree(self._places.system(sandbox), ignore_errors=True)
        for path in self._runtime.leftovers(self._places.state, sandbox):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(self._places.bundle(sandbox), ignore_errors=True)


def _give_address(netns: str, network: GuestNetwork) -> None:
    """gVisor's own network takes both out of the namespace when it starts."""
    lines = f"link set {network.device} up\naddress replace {network.address} dev {network.device}\n"
    lines += f"route replace default via {network.gateway} dev {network.device}\n"
    command = ["/usr/bin/nsenter", f"--net={netns}", "ip", "-batch", "-"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineUnavailable(f"network of the sandbox: {done.stderr.strip()[-300:]}")


def _launcher() -> tuple[str, ...]:
    """crun takes a bare unified tree beside the old hierarchies for one in use, and gives up: it must not see it."""
    unified = hidden_unified()
    shell = ("/bin/sh", "-c", _LAUNCH, "sh", str(unified or ""))
    return shell if unified is None else ("/usr/bin/unshare", "--mount", "--propagation", "slave", *shell)


def _read_pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _describe(pid: int) -> detached.ProcessRecord:
    """Of a process that may have ended in this moment: then one that is never found."""
    process = detached.open_pid(pid)
    if process is None:
        return detached.ProcessRecord(name="", pid=pid, start_ticks=0, boot=detached.boot_id(), argv0="")
    process.close()
    return process.record
