"""Machines that wait for the next start: it is one of them, nobody else's, and none is left over."""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from skerry.adapters.cgroup.base import DiskLimits
from skerry.adapters.process import detached
from skerry.adapters.sandbox.microvm.engine import find_groups
from skerry.adapters.sandbox.microvm.settings import Settings
from skerry.adapters.sandbox.qemu.engine import QemuEngine, find_host
from skerry.ports.sandbox import EngineUnavailable, ExecSpec, Sandbox, SandboxError, SandboxLimits, SandboxSpec
from skerry.testing.microvm import GuestWire, busybox_disk
from skerry.testing.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.engine("qemu"), pytest.mark.timeout(300)]
SERVE = "echo I serve; exec httpd -f -p 80 -h /www"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_disk(tmp_path_factory.mktemp("disk"), files={"www/index.html": "hello from a guest\n"})


class Node:
    """Engines of one node, one after the other."""

    def __init__(self, root: Path, disk: Path) -> None:
        self.root, self.disk = root, disk
        self.engine: QemuEngine | None = None

    async def open(
        self, known: frozenset[str] = frozenset(), *, machines_max: int = 2, limits: DiskLimits | None = None
    ) -> QemuEngine:
        """A new one; the one before is as after kill -9."""
        await self.let_go()
        settings = Settings(warm_machines_max=machines_max, disk=limits)
        self.engine = QemuEngine(data=self.disk.parent / "data", run=self.disk.parent / "run", settings=settings)
        await self.engine.attach(known)
        return self.engine

    async def let_go(self) -> None:
        """As kill -9 does."""
        if self.engine is not None:
            for each in (*self.engine._open.values(), *self.engine._warm._waiting.values()):
                if each is not None:
                    await each.let_go()

    def spec(self, script: str = SERVE, *, wire: GuestWire | None = None, memory_mib: int = 40) -> SandboxSpec:
        name = secrets.token_hex(8)
        return SandboxSpec(
            id=name, rootfs="/", argv=("/bin/sh", "-c", script), env={"PATH": "/bin"},
            limits=SandboxLimits(memory_mib_max=memory_mib, cpu_millicores_max=1000),
            netns=wire.path if wire else "", network=wire.guest if wire else None, disk=str(self.disk), hostname="guest",
            log=str(self.root / f"{name}.log"),
        )  # fmt: skip

    def left(self) -> list[str]:
        assert self.engine is not None
        places = self.engine.places
        files = (places.machines, places.data / "waiting", places.data / "claims")
        return [
            *map(str, detached.find_tagged(places.tag)), *detached.names(places.processes), *self.engine.tree.names(),
            *(path.name for at in files for path in at.iterdir()),
        ]  # fmt: skip


@pytest.fixture
async def node(tmp_path: Path, disk: Path) -> AsyncIterator[Node]:
    try:
        find_host()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    node = Node(tmp_path, disk)
    yield node
    engine = await node.open()
    await engine.aclose()
    assert node.left() == []
    tree, _ = find_groups(engine.places)
    if tree is not None:
        tree.remove()


@pytest.fixture
def wires() -> Iterator[list[GuestWire]]:
    made = [GuestWire(f"mv-{secrets.token_hex(4)}") for _ in range(2)]
    try:
        for wire in made:
            wire.make()
        yield made
    finally:
        for wire in made:
            wire.remove()


async def said(sandbox: Sandbox, *argv: str) -> str:
    session = await sandbox.exec(ExecSpec(argv=argv))
    parts = [data async for _, data in session.output()]
    await session.aclose()
    return b"".join(parts).decode()


def log_of(spec: SandboxSpec) -> str:
    return Path(spec.log).read_bytes().replace(b"\r", b"").decode()


async def test_the_next_start_is_one_that_waited_and_serves_on_its_network(node: Node, wires: list[GuestWire]) -> None:
    engine = await node.open()
    first, second = node.spec(wire=wires[0]), node.spec(wire=wires[1])
    await engine.start(first)
    await engine.settled()
    (name,) = engine.waiting
    Path(second.log).write_text("of its life before\n")
    sandbox = await engine.start(second)
    assert sandbox.process.name == name
    assert await wires[1].get() == b"hello from a guest\n"
    await eventually(lambda: log_of(second) == "of its life before\nI serve\n", timeout_s=30)
    assert engine.tree.open(name).usage().memory_bytes > 0
    await engine.remove(second.id)
    assert await engine.open(second.id) is None
    assert name not in node.left()
    again = await engine.start(second)  # its own network has its tap still
    assert await wires[1].get() == b"hello from a guest\n"
    assert again.id == second.id


async def test_a_clone_that_waited_is_told_who_it_is(node: Node, wires: list[GuestWire]) -> None:
    engine = await node.open()
    origin = await engine.start(node.spec(wire=wires[0]))
    await wires[0].get()
    snapshot = node.root / "snapshot"
    snapshot.mkdir()
    await origin.snapshot(str(snapshot))
    await engine.remove((await engine.start(node.spec(), snapshot=str(snapshot))).id)
    await engine.settled()
    before = frozenset(engine.waiting)
    assert len(before) == 2
    spec = node.spec(wire=wires[1])
    clone = await engine.start(spec, snapshot=str(snapshot))
    assert clone.process.name in before
    assert await wires[1].get() == b"hello from a guest\n"
    assert await said(clone, "hostname") == "guest\n"
    drawn = [await said(one, "sh", "-c", "head -c 16 /dev/urandom | md5sum") for one in (origin, clone)]
    assert drawn[0] != drawn[1]


async def test_the_next_agent_keeps_what_was_claimed_and_ends_what_waits(node: Node) -> None:
    engine = await node.open()
    await engine.start(node.spec())
    await engine.settled()
    known, unknown = node.spec(), node.spec()
    before = await engine.start(known)
    await engine.settled()
    await engine.start(unknown)
    await engine.settled()
    (waiting,) = engine.waiting
    engine = await node.open(frozenset((known.id,)))
    assert waiting not in node.left()
    assert await engine.open(unknown.id) is None
    after = await engine.open(known.id)
    assert after is not None
    assert (after.id, after.pid) == (known.id, before.pid)
    assert await said(after, "echo", "still here") == "still here\n"
    assert sorted(path.name for path in (engine.places.data / "claims").iterdir()) == [known.id]


async def test_they_end_when_the_node_needs_their_memory_and_come_again_when_it_does_not(node: Node) -> None:
    engine = await node.open()
    await engine.start(node.spec())
    await engine.settled()
    (name,) = engine.waiting
    assert await engine.keep_spares(True) == 0
    assert engine.waiting == (name,)
    assert await engine.keep_spares(False) == 1
    assert name not in node.left()
    await engine.start(node.spec())
    await engine.settled()
    assert engine.waiting == ()
    assert await engine.keep_spares(True) == 0
    await engine.start(node.spec())
    await engine.settled()
    assert len(engine.waiting) == 1


async def test_one_that_died_while_it_waited_is_not_missed(node: Node) -> None:
    engine = await node.open()
    await engine.start(node.spec())
    await engine.settled()
    (name,) = engine.waiting
    for pid in engine.tree.open(name).pids():
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: engine.tree.open(name).pids() == (), timeout_s=10)
    spec = node.spec("echo all the same; exec sleep 1000")
    await engine.start(spec)
    await eventually(lambda: "all the same" in log_of(spec), timeout_s=30)
    await engine.settled()
    assert name not in node.left()


async def test_only_so_many_wait_and_they_end_with_their_engine(node: Node) -> None:
    engine = await node.open(machines_max=1)
    await engine.start(node.spec())
    await engine.settled()
    (first,) = engine.waiting
    await engine.start(node.spec(memory_mib=120))
    await engine.settled()
    (second,) = engine.waiting
    assert second != first
    assert first not in node.left()
    await engine.aclose()
    assert second not in node.left()


async def test_nothing_waits_on_when_the_making_of_one_was_broken_off(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await node.open()
    loading, fails = asyncio.Event(), [True]
    erase = engine._erase

    async def never(*_: object) -> None:
        loading.set()
        await asyncio.Event().wait()

    async def busy_once(name: str) -> None:
        if name != box.id and fails and fails.pop():
            raise SandboxError("busy")
        await erase(name)

    box = await engine.start(node.spec())
    monkeypatch.setattr(engine, "_load", never)
    monkeypatch.setattr(engine, "_erase", busy_once)
    monkeypatch.setattr(engine._warm, "_erase", busy_once)
    await loading.wait()
    await engine.remove(box.id)
    await engine.aclose()
    assert not fails
    assert node.left() == []


@pytest.mark.parametrize("waited", [False, True])
async def test_its_image_is_read_no_faster_than_the_node_allows(node: Node, *, waited: bool) -> None:
    device = min(Path("/sys/block").glob("*/dev")).read_text().strip()  # any will do
    limits = DiskLimits(
        device=device, read_bytes_per_s=7 << 20, write_bytes_per_s=5 << 20, read_ops_per_s=700, write_ops_per_s=500
    )
    engine = await node.open(limits=limits)
    box = await engine.start(node.spec())
    if waited:
        await engine.settled()
        box = await engine.start(node.spec())
    group = find_groups(engine.places)[0].open(engine._claims.machine_of(box.id))
    files = [path for place in Path("/sys/fs/cgroup").rglob(f"*.{group.name}") for path in place.glob("*")]
    rates = [path.read_text() for path in files if path.name in ("io.max", "blkio.throttle.read_bps_device")]
    assert any(str(7 << 20) in rate for rate in rates)


async def test_a_log_that_is_no_file_is_not_replaced_by_one(node: Node) -> None:
    engine = await node.open()
    for _ in range(2):
        await engine.start(msgspec.structs.replace(node.spec(), log="/dev/null"))
        await engine.settled()
    assert engine.waiting == ()
    assert Path("/dev/null").is_char_device()


async def test_none_waits_where_that_is_switched_off(node: Node) -> None:
    engine = await node.open(machines_max=0)
    await engine.start(node.spec())
    await engine.settled()
    assert engine.waiting == ()


async def test_an_engine_ends_what_one_of_another_kind_left_where_it_was(node: Node, tmp_path: Path) -> None:
    engine = await node.open()
    await engine.start(node.spec())
    await engine.settled()
    await node.let_go()
    other = QemuEngine(data=tmp_path / "data", run=tmp_path / "run", before=(engine.places,))
    await other.attach(frozenset())
    assert detached.find_tagged(engine.places.tag) == ()
    assert engine.tree.names() == ()
    assert not engine.places.data.exists()
    assert not engine.places.run.exists()
    await other.aclose()
    other.tree.remove()
