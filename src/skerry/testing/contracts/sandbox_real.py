"""What only engines that run real programs can show: memory, users, a disk, an outside."""

import asyncio
import contextlib
import os
import secrets
from itertools import pairwise
from pathlib import Path

from skerry.ports.sandbox import (
    ExecSpec,
    Mount,
    Sandbox,
    SandboxEngine,
    SandboxError,
    SandboxFile,
)
from skerry.testing.contracts.sandbox import (
    DEADLINE_S,
    FOREVER,
    LIMITS,
    SandboxContract,
    SandboxHarness,
    archive_of,
    changed,
    changed_limits,
    chunks,
    command,
    gathered,
    log_of,
    log_size,
    members,
    run,
    says,
    soon,
)
from skerry.testing.waiting import eventually

MIB = 1 << 20
QUIET_S, REST_S_MAX = 0.1, 10  # a process is at rest when no thread of it has run for so long; it comes to that by then
PAUSES = 10


def command_lines() -> list[bytes]:
    """Of all processes of this machine."""
    return [_read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]


def below(directory: Path) -> list[str]:
    """Names of all files in it, in order."""
    return sorted(path.name for path in directory.rglob("*"))


async def comes_to_rest(pid: int) -> None:
    """Wait until none of its threads runs any more. Raises `AssertionError` that names those that do, how often, and where."""
    woken: dict[str, int] = {}
    before = turns(pid)
    for _ in range(int(REST_S_MAX / QUIET_S)):
        await asyncio.sleep(QUIET_S)
        after = turns(pid)
        woken = {thread: turn - before.get(thread, 0) for thread, turn in after.items() if turn != before.get(thread, 0)}
        if not woken:
            return
        before = after
    at = {
        thread: f"{times} times in {QUIET_S} s, in {_read(_task(pid, thread) / 'wchan').decode()}"
        for thread, times in woken.items()
    }
    raise AssertionError(f"threads of {pid} go on: {at}")


def spread(pid: int) -> None:
    """Its first thread on a CPU of its own: what they do to each other shows there, and on one CPU hardly ever."""
    first, *rest = sorted(os.sched_getaffinity(0))
    for path in _task(pid).iterdir():
        with contextlib.suppress(OSError):  # it has just ended, or we may not: then chance decides
            os.sched_setaffinity(int(path.name), {first} if int(path.name) == pid or not rest else rest)


def turns(pid: int) -> dict[str, int]:
    """How often each thread of a process has given up a CPU."""
    lines = {path.name: _read(path / "status").splitlines() for path in _task(pid).iterdir()}
    return {thread: sum(int(line.split()[1]) for line in said if b"ctxt_switches" in line) for thread, said in lines.items()}


def _task(pid: int, thread: str = "") -> Path:
    return Path(f"/proc/{pid}/task") / thread


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


class RealSandboxContract(SandboxContract):
    """All of it, and what only real programs can show: memory, users, a disk, an outside."""

    async def test_secrets_are_not_seen_from_outside(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        word = f"s3cr3t-{secrets.token_hex(8)}"
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        spec = changed(spec, env={**spec.env, "KEY": word}, files=(SandboxFile(path="/run/key", content=word.encode()),))
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        assert not any(word.encode() in line for line in command_lines())
        assert word not in log_of(spec)
        assert sandbox.pid > 0

    async def test_links_do_not_lead_out(self, engine: SandboxEngine, harness: SandboxHarness, tmp_path: Path) -> None:
        if "files" not in engine.facts.abilities:
            return
        (tmp_path / "kept").write_text("the host's")
        spec = await harness.spec(f"mkdir -p /var/x {tmp_path}\nln -s {tmp_path} /var/x/out\necho ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        with contextlib.suppress(SandboxError):
            await soon(sandbox.copy_in("/var/x", chunks(archive_of({"out/kept": b"changed", "../../../../../../kept": b"no"}))))
        with contextlib.suppress(SandboxError):
            await soon(sandbox.copy_in("/var/x/out", chunks(archive_of({"new": b"changed"}))))
        assert [name for name in below(tmp_path) if name in ("kept", "new")] == ["kept"]
        assert (tmp_path / "kept").read_text() == "the host's"
        with contextlib.suppress(SandboxError):
            got = members(await gathered(await soon(sandbox.copy_out("/var/x/out"))))
            assert b"the host's" not in got.values()

    async def test_paused_it_does_nothing(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "pause" not in engine.facts.abilities:
            return
        spec = await harness.spec("echo ready\nwhile :; do :; done")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        await soon(sandbox.pause())
        await soon(sandbox.pause())
        used_us = [sandbox.stats().cpu_us]
        for _ in range(5):  # a monitor may have something to end first
            await asyncio.sleep(0.3)
            used_us.append(sandbox.stats().cpu_us)
        assert min(after - before for before, after in pairwise(used_us)) < 20_000
        before = used_us[-1]
        await soon(sandbox.resume())
        await soon(sandbox.resume())
        await eventually(lambda: sandbox.stats().cpu_us - before > 50_000, timeout_s=DEADLINE_S)

    async def test_each_time_it_is_paused_it_comes_to_rest(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        """A monitor that is woken by its guest's timers is woken by some pauses and not by others, and uses little or much."""
        if "pause" not in engine.facts.abilities:
            return
        spec = await harness.spec("echo ready\nwhile :; do :; done")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        spread(sandbox.pid)
        for _ in range(PAUSES):
            await soon(sandbox.pause())
            await comes_to_rest(sandbox.pid)
            await soon(sandbox.resume())

    async def test_a_clone_goes_on_from_the_snapshot(
        self, engine: SandboxEngine, harness: SandboxHarness, tmp_path: Path
    ) -> None:
        if "clone" not in engine.facts.abilities:
            return
        script = "n=0\nwhile :; do n=$((n+1)); echo turn $n; sleep 0.1; done"
        spec = await harness.spec(script)
        sandbox = await soon(engine.start(spec))
        await says(spec, "turn 5")
        snapshot = tmp_path / "snapshot"
        snapshot.mkdir()
        await soon(sandbox.snapshot(str(snapshot)))
        seen = log_of(spec)
        await eventually(lambda: len(log_of(spec)) > len(seen), timeout_s=DEADLINE_S)  # the first one goes on
        copies = [await harness.spec(script) for _ in range(2)]
        for copy in copies:
            await soon(engine.start(copy, snapshot=str(snapshot)))
        for copy in copies:
            await says(copy, "turn ")
            first = int(log_of(copy).split()[1])
            assert first > 5, log_of(copy)
        for one in (spec, *copies):
            await soon(engine.remove(one.id))
        assert await harness.leftovers() == []

    async def test_too_much_memory_ends_it_alone(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec("exec dd if=/dev/zero of=/dev/null bs=300M")
        exit_ = await soon((await soon(engine.start(spec))).wait())
        assert exit_.code not in (0, None)
        assert exit_.out_of_memory
        await soon(engine.remove(spec.id))
        assert await harness.leftovers() == []

    async def test_a_flood_of_output_neither_blocks_nor_fills(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        script = "head -c 40000000 /dev/zero | tr '\\0' x 2>/dev/null\nexit 9"
        spec = changed(await harness.spec(script), log_bytes_max=1 * MIB)
        sandbox = await soon(engine.start(spec))
        exit_ = await soon(sandbox.wait())
        assert exit_.code == 9  # it came to its end
        assert log_size(spec) <= 3 * MIB
        await soon(engine.remove(spec.id))
        assert log_size(spec) <= 3 * MIB

    async def test_a_full_disk_is_its_own(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec("dd if=/dev/zero of=/var/big bs=1048576 count=100000 2>&1\necho went on")
        assert "went on" in await run(engine, changed(spec, writable_mib=64))
        assert await harness.leftovers() == []

    async def test_a_read_only_root_is_not_written(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = changed(await harness.spec("echo x > /var/file || echo refused"), read_only=True)
        assert "refused" in await run(engine, spec)

    async def test_runs_as_whom_it_is_told(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = changed(await harness.spec("echo $(id -u):$(id -g) in $(pwd)"), uid=1234, gid=4321, working_dir="/var")
        assert "1234:4321 in /var" in await run(engine, spec)

    async def test_sees_nothing_of_the_host(self, engine: SandboxEngine, harness: SandboxHarness, tmp_path: Path) -> None:
        (tmp_path / "given").write_text("given to it")
        word = f"not-given-{secrets.token_hex(4)}"
        (tmp_path / word).write_text("x")
        script = f"cat /given\necho y > /given || echo unchanged\nfind / -name '{word}' 2>/dev/null"
        spec = changed(await harness.spec(script), mounts=(Mount(source=str(tmp_path / "given"), target="/given"),))
        text = await run(engine, spec)
        assert "given to it" in text
        assert "unchanged" in text
        assert word not in text
        assert (tmp_path / "given").read_text() == "given to it"

    async def test_exec_ends_with_its_session(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "exec" not in engine.facts.abilities:
            return
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        session = await soon(sandbox.exec(ExecSpec(argv=("/bin/sleep", "424242"))))
        await self._eventually_listed(sandbox, "424242", there=True)
        await soon(session.aclose())
        await self._eventually_listed(sandbox, "424242", there=False)
        assert await soon(engine.open(spec.id)) is not None

    async def _eventually_listed(self, sandbox: Sandbox, word: str, *, there: bool) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while (f"sleep {word}" in await command(sandbox, "/bin/ps", "-o", "args")) != there:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def test_new_limits_hold_without_a_restart(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "resize" not in engine.facts.abilities:
            return
        spec = await harness.spec("echo ready\nwhile :; do :; done")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        await soon(sandbox.resize(changed_limits(LIMITS, memory_mib_max=160, cpu_millicores_max=100)))
        await eventually(lambda: sandbox.stats().throttled_us > 0, timeout_s=DEADLINE_S)
        await soon(sandbox.resize(LIMITS))
        again = await soon(engine.open(spec.id))
        assert again is not None
        assert again.pid == sandbox.pid

    async def test_tells_what_it_uses(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec("echo ready\nwhile :; do :; done")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        await eventually(lambda: sandbox.stats().cpu_us > 10_000, timeout_s=DEADLINE_S)
        stats = sandbox.stats()
        assert stats.memory_bytes > 0
        assert stats.pids > 0
        assert sandbox.cpu_us() >= stats.cpu_us
        await soon(engine.remove(spec.id))
        assert sandbox.stats().memory_bytes == 0
        assert sandbox.cpu_us() == 0
