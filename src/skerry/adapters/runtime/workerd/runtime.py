"""`WorkerdRuntime`: the runtime port on stock workerd, one process per instance, each in a sandbox of its own.

    start ──► instance file ──► listener ──► Instance ──► bubblewrap ──► workerd
                                                │ unix sockets
                                 egress (one per node), assets (one per node)

Everything that exists can be found by the next run: instance files, process records, control groups and sockets under
names that derive from the data directory, and a tag in each process's environment.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.process import detached
from skerry.adapters.runtime.changes import Changes
from skerry.adapters.runtime.workerd import process as processes
from skerry.adapters.runtime.workerd.blobs import Fetch, NodeBlobs
from skerry.adapters.runtime.workerd.egress import Egress
from skerry.adapters.runtime.workerd.engine import describe_cpu, find_engine
from skerry.adapters.runtime.workerd.instance import Instance, module_digests, now_ms
from skerry.adapters.runtime.workerd.listeners import address_of, listen_tcp
from skerry.adapters.runtime.workerd.process import Fleet, SandboxedProcess
from skerry.adapters.runtime.workerd.settings import Places, Settings
from skerry.core.machines import instance as machine
from skerry.core.types.ids import Digest, InstanceId, NodeId
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.kit.record import Record, decode, encode
from skerry.ports.runtime import Capabilities, Unavailable


class Kept(Record):
    """What is on disk of an instance (mode 0600: a version holds secrets)."""

    instance: NodeInstance
    address: str
    dead: bool = False
    stopping: bool = False


class WorkerdRuntime:
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
        self.blobs = NodeBlobs(places.blobs, fetch_blob)
        self._node = node
        self._address = address
        self._instances: dict[InstanceId, Instance] = {}
        self._stopping: dict[InstanceId, asyncio.Task[None]] = {}
        self._changes = Changes()
        self._egress: Egress | None = None

    @property
    def capabilities(self) -> Capabilities:
        as_root = os.geteuid() == 0 and self.fleet.engine.setpriv is not None
        limits = self.fleet.tree is not None and self.fleet.tree.limits
        missing: list[tuple[str, str]] = []
        if not as_root:
            missing.append(("own uid", "needs root: instances share this user's uid, in namespaces of their own"))
        if not limits:
            missing.append(("limits", self._no_tree or "this kernel hands out no memory and CPU controllers"))
        missing.append(("sleep", "not there yet"))
        return Capabilities(
            isolation="namespace+uid" if as_root else "namespace", limits=limits, sleep=False, egress=True, missing=tuple(missing)
        )

    async def attach(self) -> None:
        places = self.fleet.places
        places.make()
        cpu_files = await asyncio.to_thread(describe_cpu, places.machine)
        self.fleet = msgspec.structs.replace(self.fleet, cpu_files=str(cpu_files) if cpu_files else None)
        left = self._processes_left()
        self._egress = Egress(self.fleet, self.settings)
        await self._egress.attach(left)
        for path in sorted(places.instances.glob("*.json")):
            kept = _read_kept(path)
            if kept is not None:
                await self._restore(kept, left)
        for process in left.values():
            await process.kill()
        await self._sweep()
        self._changes.notify()

    async def start(self, instance: NodeInstance) -> ObservedInstance:
        stopping = self._stopping.get(instance.id)
        if stopping is not None:
            await asyncio.shield(stopping)
        running = self._instances.get(instance.id)
        if running is None:
            running = self._create(instance)
            running.begin()
        return running.observed()

    async def stop(self, instance_id: str, *, grace_ms: int) -> None:
        key = InstanceId(instance_id)
        task = self._stopping.get(key)
        if task is None and key in self._instances:
            task = self._stopping[key] = asyncio.create_task(self._remove(key, grace_ms))
            task.add_done_callback(lambda _: self._stopping.pop(key, None))
        if task is not None:
            await asyncio.shield(task)

    async def sleep(self, instance_id: str) -> None:
        return None

    def observe(self) -> tuple[ObservedInstance, ...]:
        return tuple(instance.observed() for instance in self._instances.values())

    def changes(self) -> AsyncIterator[None]:
        return self._changes.listen()

    async def aclose(self, *, stop_instances: bool) -> None:
        if stop_instances:
            await asyncio.gather(*(self.stop(key, grace_ms=0) for key in list(self._instances)))
        else:
            await asyncio.gather(*self._stopping.values())
            for instance in self._instances.values():
                await instance.detach()
        if self._egress is not None:
            await self._egress.aclose(stop=stop_instances)
        if stop_instances:
            await self._leave_nothing()

    # What instances ask of their surroundings.

    def changed(self) -> None:
        self._changes.notify()

    def remember(self, instance: Instance) -> None:
        state = instance.life.state
        if state in ("dead", "starting", "stopping"):
            self._keep(instance, dead=state == "dead", stopping=state == "stopping")

    def _create(self, wanted: NodeInstance) -> Instance:
        if wanted.version.worker is None:
            raise Unavailable("versions of assets alone are not supported yet")
        try:
            listener = listen_tcp(self._address)
        except OSError as error:
            raise Unavailable(f"no listener on {self._address}: {error.strerror}") from error
        instance = Instance(self, wanted, address=address_of(listener), listener=listener, life=machine.begin(now_ms()))
        self._instances[wanted.id] = instance
        self._keep(instance)
        return instance

    def _keep(self, instance: Instance, *, dead: bool = False, stopping: bool = False) -> None:
        kept = Kept(instance=instance.wanted, address=instance.address, dead=dead, stopping=stopping)
        detached.write_private(self._file(instance.wanted.id), encode(kept))

    def _file(self, instance_id: str) -> Path:
        return self.fleet.places.instances / f"{instance_id}.json"

    async def _remove(self, key: InstanceId, grace_ms: int) -> None:
        instance = self._instances[key]
        await instance.remove(grace_ms=grace_ms)
        self._remove_files(key)
        del self._instances[key]
        self._changes.notify()

    def _remove_files(self, instance_id: str) -> None:
        """The instance file is last: as long as it is there, a killed agent's successor does all of this again."""
        for path in self.fleet.places.logs.glob(f"{instance_id}.*"):
            path.unlink(missing_ok=True)
        self._file(instance_id).unlink(missing_ok=True)

    def _processes_left(self) -> dict[str, SandboxedProcess]:
        """Processes of an earlier run of this node that live, by name; records of the others are removed."""
        found = {name: processes.attach(self.fleet, name) for name in detached.names(self.fleet.places.processes)}
        return {name: process for name, process in found.items() if process is not None}

    async def _restore(self, kept: Kept, left: dict[str, SandboxedProcess]) -> None:
        process = await _newest(kept.instance.id, left)
        if kept.stopping:
            if process is not None:
                await process.kill()
            self._remove_files(kept.instance.id)
            return
        listener = process.take_listener(kept.address) if process else None
        if process is not None and listener is None:
            await process.kill()
            process = None
        if listener is None:
            listener = self._listen_again(kept.address)
        life = machine.Life(state="dead" if kept.dead and process is None else "starting", since_ms=now_ms())
        instance = Instance(self, kept.instance, address=address_of(listener), listener=listener, life=life)
        self._instances[kept.instance.id] = instance
        self._keep(instance, dead=life.state == "dead")
        if process is not None:
            instance.adopt(process)
        elif life.state == "dead":
            instance.resume_dead()
        else:
            instance.begin()

    def _listen_again(self, address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError):
            return listen_tcp(host.strip("[]"), int(port))
        return listen_tcp(self._address)

    async def _sweep(self) -> None:
        """Remove what belongs to nothing that is known: groups, tagged processes, sockets, logs, blobs."""
        places, tree = self.fleet.places, self.fleet.tree
        known = set(detached.names(places.processes))
        if tree is not None:
            for name in sorted(set(tree.names()) - known):
                await end_group(tree, name)
        mine = {pid for name in known if (p := processes.attach(self.fleet, name)) for pid in _pids_of(p)}
        for pid in set(detached.find_tagged(places.tag)) - mine:
            process = detached.open_pid(pid)
            if process is not None:
                process.signal(signal.SIGKILL)
                process.close()
        for path in places.health.glob("*.sock"):
            if path.stem not in known:
                path.unlink(missing_ok=True)
        self.blobs.keep_only(self._digests())

    def _digests(self) -> frozenset[Digest]:
        return frozenset(digest for item in self._instances.values() for digest in module_digests(item.version))

    async def _leave_nothing(self) -> None:
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


def _read_kept(path: Path) -> Kept | None:
    try:
        return decode(path.read_bytes(), Kept)
    except ValueError:  # of another version of ours: the slice will ask for it again
        path.unlink()
        return None


async def _newest(instance_id: str, left: dict[str, SandboxedProcess]) -> SandboxedProcess | None:
    """The last process of that instance, out of `left`; older ones (being replaced when the agent died) are ended."""
    names = [name for name in left if name.rpartition(".")[0] == instance_id]
    names.sort(key=lambda name: int(name.rpartition(".")[2]))
    mine = [left.pop(name) for name in names]
    for old in mine[:-1]:
        await old.kill()
    return mine[-1] if mine else None


def _pids_of(process: SandboxedProcess) -> tuple[int, ...]:
    pids = (process.outer_pid, process.pid)
    process.close()
    return pids
