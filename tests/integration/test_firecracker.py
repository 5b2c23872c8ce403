"""The driver on the real Firecracker, with a guest of our own: a kernel image of one page that speaks the agent protocol.

It runs where KVM runs anything at all; a Linux guest needs more (see `microvm/kvm.py`).
"""

import asyncio
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.process import detached
from skerry.adapters.sandbox.firecracker import jail
from skerry.adapters.sandbox.firecracker.api import ApiError, Bucket, RateLimiter
from skerry.adapters.sandbox.firecracker.engine import FirecrackerEngine, FirecrackerSandbox, find_programs
from skerry.adapters.sandbox.microvm.build import GuestFiles
from skerry.adapters.sandbox.microvm.settings import Places
from skerry.ports.sandbox import EngineUnavailable, ExecSpec, Gone, SandboxError, SandboxLimits, SandboxSpec
from skerry.testing.microvm import GuestWire
from skerry.testing.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.engine("firecracker"), pytest.mark.timeout(200)]
SOURCE = Path(__file__).parent / "programs/elf"
COMPILE = (
    "gcc", "-O2", "-ffreestanding", "-fno-pic", "-fno-pie", "-no-pie", "-mno-sse", "-mno-mmx", "-mno-red-zone",
    "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-nostdlib", "-static",
    "-Wl,--build-id=none", "-T", str(SOURCE / "guest.ld"),
)  # fmt: skip


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> GuestFiles:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm")
    target = tmp_path_factory.mktemp("guest") / "kernel"
    done = subprocess.run([*COMPILE, "-o", str(target), str(SOURCE / "guest.c")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return GuestFiles(kernel=str(target), initramfs="", release="elf", key="elf")


class Node:
    """Engines of one node, one after the other."""

    def __init__(self, root: Path, guest: GuestFiles) -> None:
        self.root, self.guest = root, guest
        self.places = Places(root / "data", root / "run")
        self.disk = root / "disk.ext4"
        self.disk.write_bytes(bytes(1 << 20))
        self.disk.chmod(0o644)
        self.engine: FirecrackerEngine | None = None

    async def open(self, known: frozenset[str] = frozenset(), **options: object) -> FirecrackerEngine:
        if self.engine is not None:
            await self.engine.aclose()
        self.engine = FirecrackerEngine(data=self.places.data, run=self.places.run, guest=self.guest, **options)
        await self.engine.attach(known)
        return self.engine

    def spec(self, word: str = "hello", *, wire: GuestWire | None = None) -> SandboxSpec:
        name = secrets.token_hex(8)
        return SandboxSpec(
            id=name, rootfs="/", argv=(word,), env={}, limits=SandboxLimits(memory_mib_max=4, cpu_millicores_max=1000),
            netns=wire.path if wire else "", network=wire.guest if wire else None, disk=str(self.disk),
            log=str(self.root / f"{name}.log"),
        )  # fmt: skip

    def leftovers(self) -> list[str]:
        tree, _ = find_tree(f"skerry-{self.places.tag}")
        assert tree is not None
        return [
            *map(str, detached.find_tagged(self.places.tag)), *detached.names(self.places.processes), *tree.names(),
            *(path.name for path in self.places.machines.iterdir()), *jail.ids(self.places, find_programs()),
            *(line for line in detached.mounts() if str(self.root) in line),
        ]  # fmt: skip


@pytest.fixture
async def node(tmp_path: Path, guest: GuestFiles) -> AsyncIterator[Node]:
    try:
        find_programs()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    node = Node(tmp_path, guest)
    yield node
    await (await node.open()).aclose()
    assert node.leftovers() == []
    tree, _ = find_tree(f"skerry-{node.places.tag}")
    if tree is not None:
        tree.remove()


def log_of(spec: SandboxSpec) -> str:
    return Path(spec.log).read_text()


async def ping(sandbox: FirecrackerSandbox) -> None:
    assert sandbox.agent is not None
    async with asyncio.timeout(30):
        await sandbox.agent.ping()


async def test_a_whole_life(node: Node) -> None:
    engine = await node.open()
    spec = node.spec("what it says")
    sandbox = await engine.start(spec)
    await eventually(lambda: "what it says\n" in log_of(spec), timeout_s=30)
    assert os.stat(f"/proc/{sandbox.pid}").st_uid == engine.settings.uid(spec.id)
    assert sandbox.stats().memory_bytes > 0
    await sandbox.pause()
    await sandbox.pause()
    assert await sandbox.running.api.state() == "Paused"
    await sandbox.resume()
    await ping(sandbox)
    with pytest.raises(SandboxError, match="not in this guest"):
        await sandbox.exec(ExecSpec(argv=("/bin/true",)))
    await sandbox.stop(grace_ms=20_000)
    assert (await sandbox.wait()).code == 128 + signal.SIGTERM
    with pytest.raises(Gone):
        await sandbox.exec(ExecSpec(argv=("/bin/true",)))
    await engine.remove(spec.id)
    assert node.leftovers() == []


@pytest.mark.parametrize("memory", ["File", "Uffd"])
async def test_clones_go_on_and_are_seeded_apart(node: Node, memory: str) -> None:
    engine = await node.open(memory=memory)
    first = node.spec()
    sandbox = await engine.start(first)
    await ping(sandbox)
    snapshot = node.root / "snapshot"
    snapshot.mkdir()
    await sandbox.snapshot(str(snapshot))
    await ping(sandbox)
    specs = [node.spec() for _ in range(2)]
    clones = [await engine.start(spec, snapshot=str(snapshot)) for spec in specs]
    for clone in clones:
        await ping(clone)
    seen = [log_of(spec).split() for spec in specs]
    assert [(words[0], words[1]) for words in seen] == [("ping", "2"), ("ping", "2")]
    assert len({words[3] for words in seen} | {log_of(first).split()[-1]}) == 3
    for spec in (first, *specs):
        await engine.remove(spec.id)
    assert node.leftovers() == []


async def test_the_next_engine_goes_on_with_it_and_removes_what_nobody_knows(node: Node) -> None:
    engine = await node.open()
    known, unknown = node.spec(), node.spec()
    before = await engine.start(known)
    await engine.start(unknown)
    pid = before.pid
    engine = await node.open(frozenset((known.id,)))
    assert await engine.open(unknown.id) is None
    after = await engine.open(known.id)
    assert after is not None
    assert after.pid == pid
    await ping(after)


async def test_what_is_killed_at_any_step_can_be_removed(node: Node) -> None:
    engine = await node.open()
    for turns in (0, 5, 20, 60, 150):
        spec = node.spec()
        task = asyncio.ensure_future(engine.start(spec))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        await engine.remove(spec.id)
        assert node.leftovers() == []
    spec = node.spec()
    sandbox = await engine.start(spec)
    os.kill(sandbox.pid, signal.SIGKILL)
    assert (await sandbox.wait()).code == 137
    await engine.remove(spec.id)
    assert node.leftovers() == []


async def test_a_clone_whose_page_server_died_can_be_removed(node: Node) -> None:
    engine = await node.open(memory="Uffd")
    sandbox = await engine.start(node.spec())
    snapshot = node.root / "snapshot"
    snapshot.mkdir()
    await sandbox.snapshot(str(snapshot))
    spec = node.spec()
    await engine.start(spec, snapshot=str(snapshot))
    pages = detached.attach(f"{spec.id}-pages", records=node.places.processes)
    assert pages is not None
    pages.signal(signal.SIGKILL)
    await pages.wait()
    async with asyncio.timeout(60):
        await engine.remove(spec.id)
        await engine.remove(sandbox.id)
    assert node.leftovers() == []


async def test_devices_are_set_and_changed_while_it_runs(node: Node) -> None:
    wire = GuestWire(f"fc-{secrets.token_hex(4)}")
    wire.make()
    try:
        engine = await node.open()
        sandbox = await engine.start(node.spec(wire=wire))
        api = sandbox.running.api
        limit = RateLimiter(bandwidth=Bucket(size=1 << 20, refill_time=100))
        await api.limit_network("eth0", received=limit, sent=limit)
        await api.limit_drive("disk", RateLimiter(ops=Bucket(size=1000, refill_time=100, one_time_burst=500)))
        config = await api.get("/vm/config")
        assert config["network-interfaces"][0]["rx_rate_limiter"]["bandwidth"]["size"] == 1 << 20
        assert config["drives"][0]["is_read_only"] is True
        await api.limit_network("eth0", received=RateLimiter(bandwidth=Bucket(size=0, refill_time=0)))
        await api.resize_balloon(8)
        assert (await api.get("/balloon"))["amount_mib"] == 8
        await api.resize_balloon(0)
        with pytest.raises(ApiError, match="not supported after starting"):
            await api.set_machine(vcpus=2, memory_mib=64)
        await ping(sandbox)
    finally:
        await (await node.open()).aclose()
        wire.remove()


async def test_a_machine_that_cannot_boot_says_why(node: Node) -> None:
    node.guest = GuestFiles(kernel=str(node.disk), initramfs="", release="none", key="none")
    engine = await node.open()
    spec = node.spec()
    with pytest.raises(EngineUnavailable, match="kernel"):
        await engine.start(spec)
    await engine.remove(spec.id)
    assert node.leftovers() == []
