"""Containers for real: what keeps them in, and that nothing stays behind."""

import asyncio
import ctypes
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.sandbox.oci import runtimes, sandbox
from skerry.ports.sandbox import ExecSession, ExecSpec, Sandbox, SandboxError
from skerry.testing.contracts.sandbox import FOREVER, changed, command, run, says, soon
from skerry.testing.oci_node import OciNode, busybox, is_root

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="containers need root"),
    pytest.mark.skipif(busybox() is None, reason="no static busybox (busybox-static)"),
]
crun = pytest.mark.skipif(not tools.find_crun().usable, reason=f"crun: {tools.find_crun().problem}")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[OciNode]:
    node = OciNode(tmp_path, runtimes.find("crun"))
    yield node
    await node.clean_up()


async def says_what(node: OciNode, script: str, **changes: object) -> str:
    return await run(await node.open(), changed(await node.spec(script), **changes))


@crun
async def test_root_inside_is_nobody_outside(node: OciNode) -> None:
    engine = await node.open()
    specs = [await node.spec(f"echo I am $(id -u)\n{FOREVER}") for _ in range(2)]
    sandboxes = [await engine.start(spec) for spec in specs]
    for spec in specs:
        await says(spec, "I am 0")
    users = [Path(f"/proc/{sandbox.pid}").stat().st_uid for sandbox in sandboxes]
    assert min(users) >= 65536
    assert users[0] != users[1]
    files = [Path(spec.rootfs).stat().st_uid for spec in specs]
    assert files == users


@crun
@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /tmp",
        "mknod /tmp/mem c 1 1",
        "unshare -r true",
        "unshare -m true",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "hostname other",
        "cat /proc/kcore | head -c 1 | grep .",
        "echo 0 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
        "echo $$ > /sys/fs/cgroup/memory/tasks",
        "mkdir /sys/fs/cgroup/memory/mine",
        "touch /sys/x",
        "cat /dev/mem",
        "ls /dev/loop0",
    ],
)
async def test_what_administers_the_machine_is_refused(node: OciNode, attempt: str) -> None:
    text = await says_what(node, f"if {attempt}; then echo ALLOWED; else echo refused; fi 2>/dev/null")
    assert text.endswith("refused\n"), text


@crun
async def test_has_few_privileges_and_no_new_ones(node: OciNode) -> None:
    status = dict(line.split(":\t", 1) for line in (await says_what(node, "cat /proc/self/status")).splitlines() if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0x405FB
    plain = await says_what(node, "grep Cap /proc/self/status", uid=1000, gid=1000)
    assert {line.split()[1] for line in plain.splitlines()} == {"0" * 16}


@crun
async def test_does_what_programs_of_stock_images_do(node: OciNode) -> None:
    spec = await node.spec("touch /f && chown 33:33 /f && su -s /bin/sh www -c 'echo I am $(id -u)' && exec httpd -f -p 80")
    (Path(spec.rootfs) / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nwww:x:33:33::/:/bin/sh\n")
    engine = await node.open()
    sandbox = await engine.start(spec)
    await says(spec, "I am 33")
    page = await command(sandbox, "/bin/sh", "-c", "until wget -qO- http://127.0.0.1/etc/passwd; do sleep 0.1; done")
    assert "www" in page


@crun
async def test_a_fork_bomb_stays_inside(node: OciNode) -> None:
    text = await says_what(node, "i=0; while [ $i -lt 900 ]; do sleep 100 & i=$((i+1)); done; echo all started")
    assert "can't fork" in text
    assert "all started" not in text


@crun
async def test_sees_its_own_limits(node: OciNode) -> None:
    text = await says_what(node, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null")
    assert text.strip() == str(128 << 20)


@crun
async def test_the_log_of_the_run_before_stays(node: OciNode) -> None:
    spec = await node.spec("echo first")
    assert await run(await node.open(), spec) == "first\n"
    assert await run(await node.open(), changed(spec, argv=("/bin/sh", "-c", "echo second"))) == "first\nsecond\n"
    assert Path(spec.log).read_text() == "first\nsecond\n"


@crun
async def test_secret_files_never_touch_the_disk(node: OciNode) -> None:
    engine = await node.open()
    await engine.start(await node.spec(FOREVER))
    kinds = {line.split(" ")[2] for line in Path("/proc/self/mounts").read_text().splitlines() if str(node.places.memory) in line}
    assert kinds == {"tmpfs"}
    assert [path for path in node.places.memory.rglob("*.json") if path.stat().st_mode & 0o077] == []


@pytest.fixture
def no_init() -> Iterator[None]:
    """Who lost his parent becomes our child, and we do not reap: as in a container whose first process is no init."""
    set_subreaper = 36
    ctypes.CDLL(None).prctl(set_subreaper, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None).prctl(set_subreaper, 0, 0, 0, 0)


async def call_into(sandbox: Sandbox) -> tuple[ExecSession, int, int]:
    """A process in it that goes on; the runtime outside whose child it is, and itself, by pid."""
    session = await sandbox.exec(ExecSpec(argv=("sh", "-c", "echo inside; exec sleep 1000")))
    assert await anext(session.output()) == ("out", b"inside\n")
    runtime = next(pid for pid in children(os.getpid()) if b"--process=" in Path(f"/proc/{pid}/cmdline").read_bytes())
    (inside,) = children(runtime)
    return session, runtime, inside


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@crun
@pytest.mark.usefixtures("no_init")
async def test_who_called_into_a_container_reaps_before_he_is_ended(node: OciNode) -> None:
    first = await node.open()
    spec = await node.spec(FOREVER)
    session, _, _ = await call_into(await first.start(spec))
    second = await node.open(known=frozenset([spec.id]))
    assert await second.open(spec.id) is not None
    async with asyncio.timeout(10):
        await second.remove(spec.id)
    assert await node.leftovers() == []
    await session.aclose()


@crun
@pytest.mark.usefixtures("no_init")
async def test_an_end_of_which_nobody_hears_is_told_and_tried_again(node: OciNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "ENDS_S_MAX", 0.2)
    engine = await node.open()
    spec = await node.spec(FOREVER)
    session, runtime, inside = await call_into(await engine.start(spec))
    os.kill(runtime, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(SandboxError, match=r"was killed and has not ended: ., in zap_pid_ns"):
            await soon(engine.remove(spec.id))
    os.waitpid(inside, 0)
    await soon(engine.remove(spec.id))
    assert await node.leftovers() == []
    await session.aclose()
