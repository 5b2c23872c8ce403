"""`WorkerdRuntime`: the runtime port on stock workerd, one process per instance, each in a sandbox of its own.

    start ──► instance file ──► listener ──► Instance ──► bubblewrap ──► workerd
                                   │            │ unix sockets
                                   └► Fronts ──► assets (one process per node)
                                                egress (one process per node)

Everything that exists can be found by the next run: instance files, process records, control groups and sockets under
names that derive from the data directory, and a tag in each process's environment.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import msgspec
import structlog

from skerry.adapters import zram
from skerry.adapters.blobs.kept import Fetch, KeptBlobs
from skerry.adapters.cgroup.base import CgroupError
from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.logfiles import read_log
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd import process as processes
from skerry.adapters.runtime.workerd.assets import NAME as ASSETS
from skerry.adapters.runtime.workerd.assets import AssetsHost
from skerry.adapters.runtime.workerd.egress import Egress
from skerry.adapters.runtime.workerd.engine import describe_cpu, find_engine
from skerry.adapters.runtime.workerd.fronts import Fronts, Listeners
from skerry.adapters.runtime.workerd.instance import Instance, now_ms
from skerry.adapters.runtime.workerd.listeners import address_of, listen_again, listen_tcp
from skerry.adapters.runtime.workerd.outer import OuterFronts
from skerry.adapters.runtime.workerd.process import Fleet, SandboxedProcess, newest
from skerry.adapters.runtime.workerd.settings import Places, Settings
from skerry.adapters.runtime.workerd.trees import Trees
from skerry.adapters.runtime.workerd.watch import Watch
from skerry.aio.changes import Changes
from skerry.aio.tasks import cancel
from skerry.core.machines import instance as machine
from skerry.core.machines.instance import Life
from skerry.core.types.ids import Digest, InstanceId, NodeId
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.core.types.usage import Standing
from skerry.kit.record import Record, decode, encode
from skerry.ports.runtime import Capabilities, NoSuchInstance, Plain, RuntimeFault, Unavailable
from skerry.ports.sandbox import SandboxStats

log = structlog.get_logger()


BEHIND_HOST = "127.0.0.1"  # where workers behind their assets listen, for the assets process alone


class Kept(Record):
    """What is on disk of an instance (mode 0600: a version holds secrets)."""

    instance: NodeInstance
    address: str
    key: str  # of this placement: another one of the same instance has another
    upstream: str = ""  # where the worker behind assets listens
    dead: bool = False
    stopping: bool = False


class WorkerdRuntime(Plain):
    """See the port for the contract. One per node; `data_dir` is its own, `run_dir` too and short (Unix sockets)."""

    def __init__(
        self,
        *,
        node: NodeId,
        address: str,
        data_dir: Path,
        run_dir: Path,
        fetch_blob: Fetch,
        settings: Settings | None = None,
        workerd: str | None = None,
        bwrap: str | None = None,
    ) -> None:
        """`address`: the IP its instances listen on. Raises `Unavailable` when an engine is missing."""
        self.settings = settings or Settings()
        places = Places(data_dir, run_dir)
        tree, self._no_tree = find_tree(f"skerry-{places.tag}")
        self.fleet = Fleet(
            engine=find_engine(workerd=workerd, bwrap=bwrap), places=places, tree=tree, log_bytes_max=self.settings.log_bytes_max
        )
        self.blobs = KeptBlobs(places.blobs, fetch_blob)
        self._node = node
        self._address = address
        self._wanted: dict[InstanceId, Kept] = {}  # all that run here, as on disk
        self._instances: dict[InstanceId, Instance] = {}  # those with a worker
        self._stopping: dict[InstanceId, asyncio.Task[None]] = {}
        self._changes = Changes()
        self._begun = False
        self._gone = asyncio.Event()  # something was removed since files were collected
        self.outer = OuterFronts(places, address, lambda: self._fronts, self._gone.set)  # of Workers that another runtime runs
        self._background: list[asyncio.Task[None]] = []

    @property
    def capabilities(self) -> Capabilities:
        as_root = os.geteuid() == 0 and self.fleet.engine.setpriv is not None
        limits = self.fleet.tree is not None and self.fleet.tree.limits
        missing: list[tuple[str, str]] = []
        if not as_root:
            missing.append(("own uid", "needs root: instances share this user's uid, in namespaces of their own"))
        if not limits:
            missing.append(("limits", self._no_tree or "this kernel hands out no memory and CPU controllers"))
        if not self.can_sleep:
            missing.append(("sleep", self._no_sleep()))
        isolation = "namespace+uid" if as_root else "namespace"
        return Capabilities(
            isolation=isolation,
            limits=limits,
            sleep=self.can_sleep,
            egress=True,
            missing=tuple(missing),
        )

    async def attach(self) -> None:
        places = self.fleet.places
        places.make()
        cpu_files = await asyncio.to_thread(describe_cpu, places.machine)
        self.fleet = msgspec.structs.replace(self.fleet, cpu_files=str(cpu_files) if cpu_files else None)
        left = self._processes_left()
        earlier: Listeners = {}
        for process in left.values():
            earlier |= process.listeners()
        self._begin()
        await self._egress.attach(left, earlier)
        serving = await newest(ASSETS, left)
        for path in sorted(places.instances.glob("*.json")):
            kept = _read_kept(path)
            if kept is not None:
                await self._restore(kept, left, earlier)
        self.outer.restore(earlier)
        for listener in earlier.values():
            listener.close()
        for process in left.values():
            await process.kill()
        await self._fronts.prepared()
        self._assets.begin(serving)
        await self._sweep()
        self._background = [asyncio.create_task(work) for work in (Watch(self).run(), self._collect())]
        self._changes.notify()

    async def start(self, instance: NodeInstance) -> ObservedInstance:
        stopping = self._stopping.get(instance.id)
        if stopping is not None:
            await asyncio.shield(stopping)
        if instance.id not in self._wanted:
            try:
                listener = listen_tcp(self._address)
            except OSError as error:
                raise Unavailable(f"no listener on {self._address}: {error.strerror}") from error
            self._place(instance, secrets.token_hex(8), listener, {}, machine.begin(now_ms()))
            running = self._instances.get(instance.id)
            if running is not None:
                running.begin()
        return self._observed(instance.id)

    async def stop(self, instance_id: str, *, grace_ms: int) -> None:
        key = InstanceId(instance_id)
        task = self._stopping.get(key)
        if task is None and key in self._wanted:
            task = self._stopping[key] = asyncio.create_task(self._remove(key, grace_ms))
            task.add_done_callback(lambda _: self._stopping.pop(key, None))
        if task is not None:
            await asyncio.shield(task)

    async def sleep(self, instance_id: str) -> None:
        instance = self._instances.get(InstanceId(instance_id))
        if instance is not None and self.can_sleep:
            await instance.squeeze()

    def observe(self) -> tuple[ObservedInstance, ...]:
        return tuple(self._observed(key) for key in self._wanted)

    def changes(self) -> AsyncIterator[None]:
        return self._changes.listen()

    def stats(self, instance_id: str) -> SandboxStats:
        if instance_id not in self._wanted:
            raise NoSuchInstance(f"{instance_id} is not on this node")
        instance = self._instances.get(InstanceId(instance_id))
        return instance.stats() if instance is not None else SandboxStats()  # of assets alone

    def cpu_us(self, instance_id: str) -> int:
        if instance_id not in self._wanted:
            raise NoSuchInstance(f"{instance_id} is not on this node")
        instance = self._instances.get(InstanceId(instance_id))
        return instance.cpu_us() if instance is not None else 0

    def logs(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        """Of its last two processes."""
        if instance_id not in self._wanted:
            raise NoSuchInstance(f"{instance_id} is not on this node")
        return read_log(lambda: self._log_files(instance_id), tail_bytes=tail_bytes, follow=follow)

    async def throttle(self, instance_id: str, standing: Standing) -> None:
        instance = self._instances.get(InstanceId(instance_id))
        if instance is not None:
            with _as_faults(instance_id):
                instance.throttle(standing)

    async def aclose(self, *, stop_instances: bool) -> None:
        if not self._begun:
            return
        await cancel(self._background)
        if stop_instances:
            await asyncio.gather(*(self.stop(key, grace_ms=0) for key in list(self._wanted)))
        else:
            await asyncio.gather(*self._stopping.values())
            for instance in self._instances.values():
                await instance.detach()
        await self._fronts.aclose()
        await self._assets.aclose(stop=stop_instances)
        await self._egress.aclose(stop=stop_instances)
        if stop_instances:
            await self._leave_nothing()

    # What instances and the watch ask of their surroundings.

    @property
    def can_sleep(self) -> bool:
        return not self._no_sleep()

    def running(self) -> tuple[Instance, ...]:
        return tuple(
            item for item in self._instances.values() if item.process is not None and item.life.state in ("running", "asleep")
        )

    def ended_strained(self) -> tuple[Instance, ...]:
        return tuple(item for item in self._instances.values() if item.process is None and item.strained)

    def changed(self) -> None:
        self._changes.notify()

    def remember(self, instance: Instance) -> None:
        state, kept = instance.life.state, self._wanted.get(instance.wanted.id)
        if kept is not None and kept.dead != (state == "dead") and state in ("dead", "starting"):
            self._keep(msgspec.structs.replace(kept, dead=state == "dead"))

    def trim_logs(self) -> frozenset[str]:
        return detached.trim_logs(self.fleet.places.logs, bytes_max=self.settings.log_bytes_max)

    def _log_files(self, instance_id: str) -> list[Path] | None:
        """By process, what was trimmed off before what is left; None when the instance is gone."""
        if instance_id not in self._wanted:
            return None
        found = self.fleet.places.logs.glob(f"{instance_id}.*.log*")
        return sorted(found, key=lambda path: (int(path.name.split(".")[1]), path.suffix == ".log"))

    def _no_sleep(self) -> str:
        """Why memory cannot be squeezed here; empty if it can."""
        tree = self.fleet.tree
        if not self.settings.enable_sleep:
            return "switched off"
        if tree is None or not tree.squeezes:
            return self._no_tree or "this kernel cannot move a group's memory into swap"
        return "" if zram.usable_swap() else "there is no swap on zram"

    def _begin(self) -> None:
        fleet, settings = self.fleet, self.settings
        self._begun = True
        self._egress = Egress(fleet, settings)
        self._assets = AssetsHost(fleet, settings, self.changed)
        self._trees = Trees(fleet.places.trees, self.blobs)
        self._fronts = Fronts(fleet.places, settings, self._trees, self._assets, self.changed)

    def _observed(self, key: InstanceId) -> ObservedInstance:
        instance = self._instances.get(key)
        seen = self._fronts.observed(key, instance.observed() if instance else None)
        assert seen is not None, "what has neither assets nor a worker is refused by `_place`"
        return seen

    def _place(
        self, wanted: NodeInstance, key: str, listener: socket.socket, earlier: Listeners, life: Life, *, upstream: str = ""
    ) -> None:
        """Give the instance its parts, on its address `listener`: a front for its assets, a process for its worker."""
        version, address = wanted.version, address_of(listener)
        if version.worker is None and version.assets is None:
            listener.close()
            raise Unavailable(f"version {version.id} has neither code nor assets")
        own = listener
        if version.worker is not None and version.assets is not None:
            own = self._listen_behind(upstream, earlier)
            upstream = address_of(own)
        self._keep(Kept(instance=wanted, address=address, key=key, upstream=upstream, dead=life.state == "dead"))
        if version.assets is not None:
            self._fronts.create(wanted, key, listener, upstream or None, earlier)
        if version.worker is not None:
            self._instances[wanted.id] = Instance(self, wanted, key, address=address, listener=own, life=life)

    def _listen_behind(self, address: str, earlier: Listeners) -> socket.socket:
        """The listener of a worker behind its assets: the one it had at `address`, or a new one.

        TCP, not a Unix socket: when an app answers without reading a request's body, stock workerd as its client loses the
        answer on a Unix socket, for 20 % of one-byte bodies and nearly all large ones, and on TCP only now and then
        for bodies of some 100 kB.
        """
        return earlier.pop(address, None) or listen_again(address or f"{BEHIND_HOST}:0")

    def _keep(self, kept: Kept) -> None:
        self._wanted[kept.instance.id] = kept
        detached.write_private(self._file(kept.instance.id), encode(kept))

    def _file(self, instance_id: str) -> Path:
        return self.fleet.places.instances / f"{instance_id}.json"

    async def _remove(self, key: InstanceId, grace_ms: int) -> None:
        self._keep(msgspec.structs.replace(self._wanted[key], stopping=True))
        instance = self._instances.get(key)
        if instance is not None:
            await instance.remove(grace_ms=grace_ms)
        await self._fronts.remove(key)
        self._remove_files(self._wanted[key])
        self._instances.pop(key, None)
        del self._wanted[key]
        self._gone.set()
        self._changes.notify()

    def _remove_files(self, kept: Kept) -> None:
        """The instance file is last: as long as it is there, a killed agent's successor does all of this again."""
        self._fronts.remove_files(kept.key)
        for path in self.fleet.places.logs.glob(f"{kept.instance.id}.*"):
            path.unlink(missing_ok=True)
        self._file(kept.instance.id).unlink(missing_ok=True)

    def _processes_left(self) -> dict[str, SandboxedProcess]:
        """Processes of an earlier run of this node that live, by name; records of the others are removed."""
        found = {name: processes.attach(self.fleet, name) for name in detached.names(self.fleet.places.processes)}
        return {name: process for name, process in found.items() if process is not None}

    async def _restore(self, kept: Kept, left: dict[str, SandboxedProcess], earlier: Listeners) -> None:
        """Go on with one instance of an earlier agent: its process if it lives, else a new one at the same address."""
        wanted = kept.instance
        process = await newest(wanted.id, left)
        if kept.stopping:
            if process is not None:
                await process.kill()
            self._remove_files(kept)
            return
        own_address = kept.upstream or kept.address
        if process is not None and own_address not in earlier:
            await process.kill()  # it cannot be taken over: its socket is out of reach
            process = None
        dead = kept.dead and process is None
        life = Life(state="dead" if dead else "starting", since_ms=now_ms())
        listener = earlier.pop(kept.address, None) or listen_again(kept.address)
        self._place(wanted, kept.key, listener, earlier, life, upstream=kept.upstream)
        instance = self._instances.get(wanted.id)
        if instance is None:
            return
        if process is not None:
            instance.adopt(process)
        elif dead:
            instance.resume_dead()
        else:
            instance.begin()

    async def _sweep(self) -> None:
        """Remove what belongs to nothing that is known: groups, tagged processes, sockets, trees, blobs."""
        places, tree = self.fleet.places, self.fleet.tree
        known = set(detached.names(places.processes))
        if tree is not None:
            for name in sorted(set(tree.names()) - known):
                await end_group(tree, name)
        processes.kill_strays(self.fleet)
        for path in places.health.glob("*.sock"):
            if path.stem not in known:
                path.unlink(missing_ok=True)
        keys = {kept.key for kept in self._wanted.values()} | self.outer.keys()
        for path in places.bindings.glob("*"):
            if path.name not in keys:
                self._fronts.remove_files(path.name)
        await asyncio.to_thread(self._trees.keep_only, self._fronts.manifests())
        await asyncio.to_thread(self.blobs.keep_only, self._digests())

    async def _collect(self) -> None:
        """Remove the files of what has gone."""
        while True:
            await self._gone.wait()
            await asyncio.sleep(self.settings.collect_after_ms / 1000)
            self._gone.clear()
            try:
                await self._trees.collect(self._fronts.manifests)
                await self.blobs.collect(lambda: self._digests() | self._trees.building())
            except OSError as error:
                log.warning("files_not_collected", error=str(error))

    def _digests(self) -> frozenset[Digest]:
        modules = {digest for item in self._instances.values() for digest in item.version.process_digests()}
        return frozenset(modules) | self._fronts.manifests()

    async def _leave_nothing(self) -> None:
        """Data stays for the next start: blobs and trees. All that lives, and all that is of this boot, goes."""
        places, tree = self.fleet.places, self.fleet.tree
        for process in self._processes_left().values():
            await process.kill()
        await detached.kill_tagged(places.tag)
        if tree is not None:
            for name in tree.names():
                await end_group(tree, name)
            tree.remove()
        shutil.rmtree(places.run, ignore_errors=True)
        shutil.rmtree(places.logs, ignore_errors=True)


@contextlib.contextmanager
def _as_faults(instance_id: str) -> Generator[None]:
    """A group may go while it is written to."""
    try:
        yield
    except CgroupError as error:
        raise RuntimeFault(f"{instance_id}: {error}") from error


def _read_kept(path: Path) -> Kept | None:
    try:
        return decode(path.read_bytes(), Kept)
    except ValueError:  # of another version of ours: the slice will ask for it again
        path.unlink()
        return None
