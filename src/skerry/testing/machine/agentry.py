"""One agent's hold on a simulated machine: a handle for each port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Generic, Literal, TypeVar, final

from skerry.core.types.ids import Digest
from skerry.core.types.program import Image, IsolationClass, NetworkPolicy
from skerry.core.types.program import Protocol as TrafficProtocol
from skerry.kit.record import Record, decode, encode
from skerry.ports.images import BadImage, ImageConfig, ImagesUnavailable, ImageUse
from skerry.ports.links import LinkError
from skerry.ports.network import InstanceNetwork, NetworkUnavailable, NetworkWant, Traffic
from skerry.ports.rootfs import Identity, NoSuchUser
from skerry.ports.sandbox import (
    Ability,
    EngineFacts,
    ExecSession,
    ExecSpec,
    Exit,
    Gone,
    GuestNetwork,
    Sandbox,
    SandboxLimits,
    SandboxSpec,
    SandboxStats,
    StartError,
)
from skerry.testing.machine.machine import Box, Namespace, SimulatedMachine, limited

R = TypeVar("R", bound=Record)
Fetch = Callable[[Digest], Awaitable[bytes]]
"""Gets a blob; raises `LinkError`."""

STEP_MS = 1  # each effect takes so long
ALL: frozenset[Ability] = frozenset(("exec", "terminal", "files", "pause", "snapshot", "clone", "resize", "squeeze"))


class Agentry:
    """The ports of one agent. `kill` it, and none of them does anything more, whoever still calls."""

    def __init__(self, machine: SimulatedMachine, *, step_ms: int = STEP_MS) -> None:
        self.machine = machine
        self.alive = True
        self._step_ms = step_ms

    def kill(self) -> None:
        self.alive = False

    async def point(self, name: str) -> None:
        """Time passes; the agent may be dead then."""
        await self._check(f"before {name}")
        if self._step_ms:
            await asyncio.sleep(self._step_ms / 1000)

    async def done(self, name: str) -> None:
        await self._check(f"after {name}")

    def at_once(self, name: str) -> bool:
        """For effects that take no time: False: the agent died before it."""
        if self.alive:
            self.machine.points += 1
            if self.machine.on_point(name, self.machine.points):
                self.alive = False
        return self.alive

    async def _check(self, name: str) -> None:
        if not self.at_once(name):
            await asyncio.get_running_loop().create_future()  # of the dead, nothing more is heard


@final
class SimSandbox:
    def __init__(self, hold: Agentry, box: Box) -> None:
        self._hold = hold
        self._box = box

    @property
    def id(self) -> str:
        return self._box.spec.id

    @property
    def pid(self) -> int:
        return self._box.pid

    async def gone(self) -> None:
        await self.wait()

    async def wait(self) -> Exit:
        while self._box.ended is None:
            await self._box.changed.wait()
        return self._box.ended

    async def stop(self, *, grace_ms: int) -> None:
        await self._hold.point("stop")
        stop_ms = self._box.behaviour.stop_ms
        await asyncio.sleep(min(grace_ms, stop_ms) / 1000)
        self._box.end(Exit(code=143 if grace_ms >= stop_ms else 137))

    def cpu_us(self) -> int:
        return self.stats().cpu_us

    def stats(self) -> SandboxStats:
        return SandboxStats() if self._box.ended else self._box.behaviour.uses

    async def exec(self, spec: ExecSpec) -> ExecSession:
        self._living()
        return SimSession(spec)

    async def copy_out(self, path: str) -> AsyncIterator[bytes]:
        data = self._living().state.get(path)
        if data is None:
            raise StartError(f"{path}: no such file")
        return _chunks(data)

    async def copy_in(self, directory: str, archive: AsyncIterator[bytes]) -> None:
        box = self._living()
        box.state[directory] = b"".join([chunk async for chunk in archive])

    async def pause(self) -> None:
        self._living().paused = True

    async def resume(self) -> None:
        box = self._living()
        box.paused = False
        box.tell()

    async def resize(self, limits: SandboxLimits) -> None:
        limited(self._living(), limits)

    async def squeeze(self) -> None:
        self._living()

    async def snapshot(self, directory: str) -> None:
        box = self._living()
        await self._hold.point("snapshot")
        self._hold.machine.snapshots[Path(directory).name] = dict(box.state)
        await self._hold.done("snapshot")

    def _living(self) -> Box:
        if self._box.ended is not None:
            raise Gone(self.id)
        return self._box


@final
class SimSession:
    """`echo WORDS` says them; `false` ends with 1; anything else ends with 0."""

    def __init__(self, spec: ExecSpec) -> None:
        self._argv = spec.argv
        self._input = b""

    async def write(self, data: bytes) -> None:
        self._input += data

    async def output(self) -> AsyncIterator[tuple[Literal["out", "err"], bytes]]:
        if self._argv[0] == "echo":
            yield "out", " ".join(self._argv[1:]).encode() + b"\n"

    async def resize(self, rows: int, columns: int) -> None: ...

    async def signal(self, number: int) -> None: ...

    async def wait(self) -> int:
        return 1 if self._argv[0] == "false" else 0

    async def aclose(self) -> None: ...


@final
class SimEngine:
    def __init__(self, hold: Agentry, isolation: IsolationClass = "container", abilities: frozenset[Ability] = ALL) -> None:
        self._hold = hold
        self.facts = EngineFacts(
            name="simulated", version="1", isolation=isolation, abilities=abilities, architecture="amd64", overhead_mib=1
        )

    async def attach(self, known: frozenset[str]) -> None:
        await self._hold.point("engine attach")
        for name in [name for name, box in self._hold.machine.boxes.items() if self._mine(box) and name not in known]:
            self._end(name)

    async def start(self, spec: SandboxSpec, *, snapshot: str | None = None) -> Sandbox:
        machine = self._hold.machine
        image = machine.mounts.get(spec.id)
        await self._hold.point("start")
        machine.must(image is not None, "its root file system is not mounted")
        machine.must(spec.id in machine.namespaces, "it has no network")
        machine.must(spec.id not in machine.boxes, "it runs already, or is not removed")
        assert image is not None
        behaviour = machine.behaviour(image)
        if behaviour.start_error:
            raise StartError(behaviour.start_error)
        box = machine.begin(spec, image, machine.snapshots[Path(snapshot).name] if snapshot else {})
        box.state["isolation"] = self.facts.isolation.encode()
        await self._hold.done("start")
        return SimSandbox(self._hold, box)

    async def open(self, sandbox_id: str) -> Sandbox | None:
        await self._hold.point("open sandbox")
        box = self._hold.machine.boxes.get(sandbox_id)
        return SimSandbox(self._hold, box) if box is not None and box.ended is None else None

    async def remove(self, sandbox_id: str) -> None:
        await self._hold.point("remove sandbox")
        self._end(sandbox_id)
        await self._hold.done("remove sandbox")

    async def keep_spares(self, allowed: bool) -> int:
        return 0

    async def aclose(self) -> None: ...

    def _mine(self, box: Box) -> bool:
        return box.state.get("isolation") == self.facts.isolation.encode()

    def _end(self, name: str) -> None:
        box = self._hold.machine.boxes.pop(name, None)
        if box is not None:
            box.end(Exit(code=137))


@final
class SimImages:
    def __init__(self, hold: Agentry, fetch: Fetch | None = None) -> None:
        self._hold = hold
        self._fetch = fetch

    async def attach(self, known: frozenset[str]) -> None:
        await self._hold.point("images attach")
        for name in [name for name in self._hold.machine.mounts if name not in known]:
            del self._hold.machine.mounts[name]

    async def prepare(self, image: Image) -> ImageConfig:
        await self._hold.point("prepare")
        self._hold.machine.fetches += 1
        behaviour = self._hold.machine.behaviour(image.manifest)
        if behaviour.bad_image:
            raise BadImage(behaviour.bad_image)
        if behaviour.image_away:
            raise ImagesUnavailable(behaviour.image_away)
        if self._fetch is not None and image.manifest not in self._hold.machine.images:
            try:
                for digest in sorted(image.blobs()):
                    await self._fetch(digest)
            except LinkError as error:
                raise ImagesUnavailable(str(error)) from error
        self._hold.machine.images.add(image.manifest)
        await self._hold.done("prepare")
        return ImageConfig(entrypoint=("/app",), env=("FROM_IMAGE=1",))

    async def mount(self, instance_id: str, image: Image, *, writable_mib: int) -> Path:
        await self._hold.point("mount")
        self._hold.machine.must(image.manifest in self._hold.machine.images, "it was not prepared, or was collected")
        self._hold.machine.mounts[instance_id] = image.manifest
        await self._hold.done("mount")
        return Path("/simulated") / instance_id

    async def unmount(self, instance_id: str) -> None:
        machine = self._hold.machine
        await self._hold.point("unmount")
        machine.must(instance_id not in machine.boxes, "it is unmounted under a process")
        if machine.busy_mounts and instance_id in machine.mounts:
            machine.busy_mounts -= 1
            raise ImagesUnavailable("device or resource busy")
        machine.mounts.pop(instance_id, None)
        await self._hold.done("unmount")

    async def disk(self, image: Image) -> Path:
        return Path("/simulated/disk") / image.manifest

    def present(self) -> tuple[ImageUse, ...]:
        return tuple(ImageUse(manifest=name, name="", disk_mib=1) for name in sorted(self._hold.machine.images))

    async def collect(self, keep: frozenset[Digest], *, budget_mib: int) -> None:
        await self._hold.point("collect")
        machine = self._hold.machine
        machine.images &= keep | set(machine.mounts.values())

    async def aclose(self) -> None: ...


@final
class SimNetwork:
    def __init__(self, hold: Agentry) -> None:
        self._hold = hold

    async def attach(self, known: frozenset[str]) -> None:
        await self._hold.point("network attach")
        for name in [name for name in self._hold.machine.namespaces if name not in known]:
            self._drop(name)

    async def create(self, want: NetworkWant) -> InstanceNetwork:
        await self._hold.point("create network")
        machine = self._hold.machine
        if machine.no_network:
            raise NetworkUnavailable(machine.no_network)
        network = InstanceNetwork(
            netns=f"/simulated/netns/{want.instance}",
            address=want.instance,  # the prober finds it by this
            guest=GuestNetwork(device="eth0", mac="02:00:00:00:00:01", address="10.0.0.2/30", gateway="10.0.0.1"),
            resolv_conf="/simulated/resolv.conf",
            hosts="/simulated/hosts",
        )
        namespace = machine.namespaces.setdefault(want.instance, Namespace(want=want, network=network))
        await self._hold.done("create network")
        return namespace.network

    async def publish(self, instance_id: str, *, port: int, protocol: TrafficProtocol, address: str | None = None) -> str:
        await self._hold.point("publish")
        machine = self._hold.machine
        namespace = machine.namespaces[instance_id]
        if namespace.address is None:
            namespace.address = address or f"{machine.address}:{next(machine.ports)}"
            namespace.port = port
            namespace.set("hold")
        await self._hold.done("publish")
        return namespace.address

    async def open(self, instance_id: str) -> None:
        await self._set(instance_id, "open")

    async def hold(self, instance_id: str) -> None:
        await self._set(instance_id, "hold")
        if self._hold.machine.namespaces[instance_id].waiting:
            self._hold.machine.ring.set()

    async def refuse(self, instance_id: str, reason: str) -> None:
        await self._set(instance_id, "refuse", reason)

    async def _set(self, instance_id: str, mode: str, reason: str = "") -> None:
        await self._hold.point(mode)
        self._hold.machine.namespaces[instance_id].set(mode, reason)
        await self._hold.done(mode)

    async def rings(self) -> AsyncIterator[str]:
        machine = self._hold.machine
        while True:
            for name in sorted(name for name, one in machine.namespaces.items() if one.waiting and one.mode == "hold"):
                if self._hold.alive:
                    yield name
            machine.ring.clear()
            await machine.ring.wait()

    def traffic(self, instance_id: str) -> Traffic:
        namespace = self._hold.machine.namespaces.get(instance_id)
        if namespace is None:
            return Traffic()
        return Traffic(connections=namespace.connections, accepted=namespace.accepted + namespace.waiting)

    async def change_policy(self, instance_id: str, policy: NetworkPolicy) -> None: ...

    async def remove(self, instance_id: str) -> None:
        await self._hold.point("remove network")
        self._hold.machine.must(instance_id not in self._hold.machine.boxes, "its network is removed under a process")
        self._drop(instance_id)
        await self._hold.done("remove network")

    async def aclose(self, *, remove_all: bool) -> None: ...

    def _drop(self, name: str) -> None:
        namespace = self._hold.machine.namespaces.pop(name, None)
        if namespace is not None:
            namespace.set("gone")


@final
class SimProber:
    """Asks by the instance's id, which is the address of its namespace."""

    def __init__(self, hold: Agentry) -> None:
        self._hold = hold

    async def http(self, address: str, port: int, path: str, *, timeout_ms: int) -> str:
        problem = await self.tcp(address, port, timeout_ms=timeout_ms)
        box = self._hold.machine.boxes.get(address)
        if problem or box is None:
            return problem or "gone"
        status = box.behaviour.status
        return "" if 200 <= status < 400 else f"GET {path} was answered with {status}"

    async def tcp(self, address: str, port: int, *, timeout_ms: int) -> str:
        await self._hold.point("probe")
        box = self._hold.machine.boxes.get(address)
        if box is None or not box.open:
            return "connection refused"
        return "no answer" if box.paused else ""


@final
class SimRootFiles:
    async def identity(self, rootfs: str, user: str) -> Identity:
        if user and not user.isdigit():
            raise NoSuchUser(f"the image has no user {user}")
        return Identity(uid=int(user or 0))


@final
class SimFiles:
    def __init__(self, hold: Agentry) -> None:
        self._hold = hold

    def attach(self, known: frozenset[str], snapshots: frozenset[str]) -> None:
        machine = self._hold.machine
        for name in [name for name in machine.logs if name not in known]:
            del machine.logs[name]
        for name in [name for name in machine.snapshots if name not in snapshots]:
            del machine.snapshots[name]

    def log_path(self, instance_id: str) -> str:
        return f"/simulated/logs/{instance_id}"

    def note(self, instance_id: str, line: str) -> None:
        if self._hold.alive:
            self._hold.machine.log(instance_id, f"skerry: {line}\n".encode())

    def log_end(self, instance_id: str, *, bytes_max: int) -> str:
        return bytes(self._hold.machine.logs.get(instance_id, b""))[-bytes_max:].decode(errors="replace")

    async def read_log(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        machine = self._hold.machine
        at = max(0, len(machine.logs.get(instance_id, b"")) - tail_bytes)
        while (log := machine.logs.get(instance_id)) is not None:
            if len(log) > at:
                yield bytes(log[at:])
                at = len(log)
            elif not follow:
                return
            else:
                await asyncio.sleep(0.1)

    def trim_logs(self, *, bytes_max: int) -> frozenset[str]:
        logs = self._hold.machine.logs
        full = frozenset(name for name, log in logs.items() if len(log) >= 2 * bytes_max)
        for log in logs.values():
            del log[: max(0, len(log) - bytes_max)]
        return full

    def remove(self, instance_id: str) -> None:
        if self._hold.at_once("remove files"):
            self._hold.machine.logs.pop(instance_id, None)

    def make_snapshot(self, name: str) -> str:
        self._hold.machine.snapshots[name] = {}
        return f"/simulated/snapshots/{name}"

    def snapshot_path(self, name: str) -> str:
        return f"/simulated/snapshots/{name}"

    def remove_snapshot(self, name: str) -> None:
        if self._hold.alive:
            self._hold.machine.snapshots.pop(name, None)


@final
class SimRecords(Generic[R]):
    """Records of one kind, as bytes: what was saved is what is read, and no reference to it."""

    def __init__(self, hold: Agentry, kind: str, as_type: type[R]) -> None:
        self._hold = hold
        self._kind = kind
        self._type = as_type

    def load_all(self) -> dict[str, R]:
        held = self._hold.machine.records
        return {name: decode(held[kind, name], self._type) for kind, name in sorted(held) if kind == self._kind}

    def save(self, name: str, value: R, /) -> None:
        if self._hold.at_once(f"before save {name}"):
            self._hold.machine.records[self._kind, name] = encode(value)
            self._hold.at_once(f"after save {name}")

    def remove(self, name: str) -> None:
        if self._hold.at_once(f"before forget {name}"):
            self._hold.machine.records.pop((self._kind, name), None)
            self._hold.at_once(f"after forget {name}")


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data
