"""Hostile programs beside a peaceful one, behind every wall of this machine: the neighbour answers, nothing stays."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.sandbox.oci import runtimes
from skerry.adapters.sandbox.qemu.engine import find_host
from skerry.ports.sandbox import EngineUnavailable, Sandbox, SandboxEngine, SandboxFile, SandboxSpec
from skerry.testing.contracts.sandbox import DEADLINE_S, FOREVER, SandboxHarness, changed, command, log_of, says, soon
from skerry.testing.microvm import busybox_disk
from skerry.testing.oci_node import OciNode, busybox, is_root
from skerry.testing.qemu_node import QemuHarness
from skerry.testing.waiting import eventually

CLASSES = ("container", "gvisor", "microvm")
# Each says "begun" first, and "full" when it has done its worst and goes on; or its wall ends it before that.
ABUSES = {
    "fork bomb": "echo begun\nb() { b | b & }\nb\nwhile :; do sleep 1; done",
    "processes without end": "echo begun\n(i=0; while [ $i -lt 700 ]; do sleep 1000 & i=$((i+1)); done)\necho full\n" + FOREVER,
    "zombies": "echo begun\n(i=0; while [ $i -lt 700 ]; do sh -c 'true & exec sleep 1000' & i=$((i+1)); done)\necho full\n"
    + FOREVER,
    "every core": "echo begun\ni=0\nwhile [ $i -lt 32 ]; do (while :; do :; done) & i=$((i+1)); done\n" + FOREVER,
    "log flood": "echo begun\nwhile :; do head -c 1000000 /dev/zero | tr '\\0' x; done",
    "disk and memory files": "echo begun\nfor to in /var /tmp /dev/shm /run; do dd if=/dev/zero of=$to/big bs=65536; done\n"
    "echo full\n" + FOREVER,
    "open files": "echo begun\ni=0\nset --\nwhile [ $i -lt 4000 ]; do set -- $@ /etc/passwd; i=$((i+1)); done\n"
    "j=0\nwhile [ $j -lt 20 ]; do tail -f $@ >/dev/null 2>&1 & j=$((j+1)); done\necho full\n" + FOREVER,
    "signals to all": "echo begun\ntrap '' TERM HUP INT\nfor p in $(ls /proc | grep '^[0-9]*$'); do [ $p != $$ ] && kill -9 $p;"
    " done\ni=2\nwhile [ $i -lt 40000 ]; do [ $i != $$ ] && kill -9 $i; i=$((i+1)); done 2>/dev/null\necho full\n" + FOREVER,
    "a machine reset": "echo begun\necho b > /proc/sysrq-trigger\necho c > /proc/sysrq-trigger\necho full\n" + FOREVER,
}
SNOOP = (
    "for p in $(ls /proc | grep '^[0-9]*$'); do cat /proc/$p/environ /proc/$p/cmdline; ls -l /proc/$p/root/;"
    " done 2>&1\n"
    "for n in sda vda vdb loop0 zram0 mem kmem port; do cat /dev/$n | head -c 65536; done 2>/dev/null\n"
    "mknod /tmp/m c 1 1 && cat /tmp/m | head -c 65536\n"
    "mkdir -p /tmp/x; mount -t tmpfs none /tmp/x; mount --bind / /tmp/x; mount -t proc none /tmp/x\n"
    "for up in /proc/1/root /proc/self/root/.. /proc/$$/cwd/../../../..; do cat $up/run/key; find $up/run -name '*.json';"
    " done\n"
    "cat /run/key /proc/kallsyms /proc/kcore | head -c 65536\necho looked"
)

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="sandboxes need root"),
    pytest.mark.skipif(busybox() is None, reason="no static busybox (busybox-static)"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(params=CLASSES)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SandboxHarness]:
    if request.param == "microvm":
        try:
            find_host()
        except EngineUnavailable as error:
            pytest.skip(str(error))
        node = QemuHarness(tmp_path, request.getfixturevalue("disk"))
        yield node
        await node.close()
        return
    tool = tools.find_crun() if request.param == "container" else tools.find_runsc()
    if not tool.usable:
        pytest.skip(f"{tool.name}: {tool.problem}")
    containers = OciNode(tmp_path, runtimes.find("crun" if request.param == "container" else "runsc"))
    yield containers
    await containers.clean_up()


class Neighbour:
    """It has a secret, answers, and is the same process until the end."""

    def __init__(self, sandbox: Sandbox, spec: SandboxSpec, word: str) -> None:
        self.sandbox, self.spec, self.word = sandbox, spec, word

    async def answers(self) -> None:
        assert (await command(self.sandbox, "/bin/cat", "/run/key")).strip() == self.word


async def a_neighbour(engine: SandboxEngine, harness: SandboxHarness) -> Neighbour:
    word = f"w0rd-{secrets.token_hex(8)}"
    spec = await harness.spec(f"echo ready\n{FOREVER}")
    spec = changed(spec, env={**spec.env, "KEY": word}, files=(SandboxFile(path="/run/key", content=word.encode()),))
    sandbox = await soon(engine.start(spec))
    await says(spec, "ready")
    return Neighbour(sandbox, spec, word)


async def did_its_worst(sandbox: Sandbox, spec: SandboxSpec, word: str) -> None:
    """Until it says so, or was ended."""
    end = asyncio.ensure_future(sandbox.wait())
    try:
        await eventually(lambda: end.done() or (word in log_of(spec) and bool(log_of(spec))), timeout_s=DEADLINE_S)
    finally:
        end.cancel()


@pytest.mark.parametrize("name", list(ABUSES))
async def test_abuse_is_contained(harness: SandboxHarness, name: str) -> None:
    engine = await harness.open()
    neighbour = await a_neighbour(engine, harness)
    free_before = os.statvfs("/").f_bavail * os.statvfs("/").f_frsize
    alone = sorted(await harness.leftovers())
    spec = changed(await harness.spec(ABUSES[name]), log_bytes_max=1 << 20, writable_mib=64)
    await did_its_worst(await soon(engine.start(spec)), spec, "full" if "echo full" in ABUSES[name] else "")
    for _ in range(3):
        await neighbour.answers()
    assert free_before - os.statvfs("/").f_bavail * os.statvfs("/").f_frsize < 1 << 30
    await soon(engine.remove(spec.id))
    assert sorted(await harness.leftovers()) == alone
    await neighbour.answers()
    again = await soon(engine.open(neighbour.spec.id))
    assert again is not None
    assert again.pid == neighbour.sandbox.pid


async def test_memory_without_end_is_reported_and_ends_it_alone(harness: SandboxHarness) -> None:
    engine = await harness.open()
    neighbour = await a_neighbour(engine, harness)
    sandbox = await soon(engine.start(await harness.spec("exec dd if=/dev/zero of=/dev/null bs=900M")))
    assert (await soon(sandbox.wait())).out_of_memory
    await neighbour.answers()


async def test_nothing_of_a_neighbour_or_the_host_is_read(harness: SandboxHarness) -> None:
    engine = await harness.open()
    neighbour = await a_neighbour(engine, harness)
    host = f"h0st-{secrets.token_hex(8)}"
    marker = Path("/run") / f"skerry-marker-{host}.json"
    marker.write_text(host)
    try:
        spec = changed(await harness.spec(SNOOP), log_bytes_max=16 << 20)
        await soon(engine.start(spec))
        await says(spec, "looked")
        text = log_of(spec)
        assert neighbour.word not in text
        assert host not in text
        await neighbour.answers()
    finally:
        marker.unlink()
