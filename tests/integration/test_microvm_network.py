"""Guests on a network of their own: they serve, and each clone of a snapshot is somebody else."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from skerry.adapters.sandbox.qemu.engine import QemuEngine, find_host
from skerry.ports.sandbox import EngineUnavailable, ExecSpec, Sandbox, SandboxLimits, SandboxSpec
from skerry.testing.microvm import GuestWire, busybox_disk
from skerry.testing.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.engine("qemu"), pytest.mark.timeout(300)]
LIMITS = SandboxLimits(memory_mib_max=40, cpu_millicores_max=1000)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_disk(tmp_path_factory.mktemp("disk"), files={"www/index.html": "hello from a guest\n"})


@pytest.fixture
async def engine(tmp_path: Path, disk: Path) -> AsyncIterator[QemuEngine]:
    try:
        find_host()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    engine = QemuEngine(data=disk.parent / "data", run=tmp_path / "run")
    await engine.attach(frozenset())
    yield engine
    await engine.attach(frozenset())
    await engine.aclose()


@pytest.fixture
def wires() -> Iterator[list[GuestWire]]:
    made = [GuestWire(f"mv-{secrets.token_hex(4)}") for _ in range(3)]
    try:
        for wire in made:
            wire.make()
        yield made
    finally:
        for wire in made:
            wire.remove()


def spec(disk: Path, wire: GuestWire, tmp_path: Path, script: str, *, hostname: str = "guest") -> SandboxSpec:
    name = secrets.token_hex(8)
    return SandboxSpec(
        id=name, rootfs="/", argv=("/bin/sh", "-c", script), env={"PATH": "/bin"}, limits=LIMITS, netns=wire.path, disk=str(disk),
        network=wire.guest, hostname=hostname, log=str(tmp_path / f"{name}.log"),
    )  # fmt: skip


async def said(sandbox: Sandbox, *argv: str) -> str:
    session = await sandbox.exec(ExecSpec(argv=argv))
    parts = [data async for _, data in session.output()]
    await session.aclose()
    return b"".join(parts).decode()


async def test_serves_http(engine: QemuEngine, disk: Path, wires: list[GuestWire], tmp_path: Path) -> None:
    wanted = spec(disk, wires[0], tmp_path, "exec httpd -f -p 80 -h /www", hostname="lhr-1")
    sandbox = await engine.start(wanted)
    assert await wires[0].get() == b"hello from a guest\n"
    assert await said(sandbox, "hostname") == "lhr-1\n"
    assert GuestWire.GUEST in await said(sandbox, "cat", "/etc/hosts")
    assert f"default via {GuestWire.GATEWAY} dev eth0" in await said(sandbox, "ip", "route")
    await engine.remove(wanted.id)


async def test_clones_serve_at_once_and_are_somebody_else(
    engine: QemuEngine, disk: Path, wires: list[GuestWire], tmp_path: Path
) -> None:
    program = "head -c 16 /dev/urandom > /tmp/before; exec httpd -f -p 80 -h /www"
    first = await engine.start(spec(disk, wires[0], tmp_path, program, hostname="first"))
    await wires[0].get()
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    await first.snapshot(str(snapshot))
    assert await wires[0].get() == b"hello from a guest\n"  # the first one goes on
    copies = [spec(disk, wire, tmp_path, program, hostname=f"copy-{number}") for number, wire in enumerate(wires[1:])]
    clones = await asyncio.gather(*(engine.start(copy, snapshot=str(snapshot)) for copy in copies))
    for wire in wires[1:]:
        assert await wire.get() == b"hello from a guest\n"
    random = [await said(each, "head", "-c", "400", "/proc/sys/kernel/random/uuid") for each in (first, *clones)]
    assert len(set(random)) == 3
    assert [(await said(each, "hostname")).strip() for each in (first, *clones)] == ["first", "copy-0", "copy-1"]
    sums = {await said(each, "md5sum", "/tmp/before") for each in (first, *clones)}
    assert len(sums) == 1  # they do come from one moment


async def test_what_a_further_process_writes_to_the_programs_output_is_in_its_log(
    engine: QemuEngine, disk: Path, wires: list[GuestWire], tmp_path: Path
) -> None:
    wanted = spec(disk, wires[0], tmp_path, "echo first; exec sleep 1000")
    sandbox = await engine.start(wanted)
    await eventually(lambda: "first" in Path(wanted.log).read_text(), timeout_s=30)
    await said(sandbox, "sh", "-c", "echo second > /proc/1/fd/1")
    await eventually(lambda: Path(wanted.log).read_text().split() == ["first", "second"], timeout_s=30)
