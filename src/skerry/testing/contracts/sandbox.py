"""The contract of `skerry.ports.sandbox.SandboxEngine`, as tests. Subclass it and give it a `harness` fixture.

Programs are scripts of /bin/sh with busybox's commands, so that containers and microVMs run the same ones. The simulated
engine understands the few commands of `SIMPLE`, one a line: tests that need more are in `sandbox_real`.
"""

import asyncio
import contextlib
import io
import secrets
import signal
import tarfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from skerry.ports.sandbox import (
    ExecSession,
    ExecSpec,
    Gone,
    Sandbox,
    SandboxEngine,
    SandboxError,
    SandboxFile,
    SandboxLimits,
    SandboxSpec,
    StartError,
    Unsupported,
)
from skerry.testing.waiting import eventually

DEADLINE_S = 90  # for what would otherwise wait for ever; a guest without hardware virtualization boots in seconds
MIB = 1 << 20
LIMITS = SandboxLimits(memory_mib_max=128, cpu_millicores_max=1000, pids_max=512)
SIMPLE = ("echo", "exit", "sleep", "cat", "echo $NAME", "sh -c 'kill -9 $$'", "trap 'exit N' TERM", "trap '' TERM", "stty size")
FOREVER = "exec sleep 1000000"
STOPPABLE = "trap 'exit 7' TERM\necho ready\nsleep 1000000 & wait"

T = TypeVar("T")


class SandboxHarness(Protocol):
    """How the suite reaches one engine. All engines that it opens stand for processes of one node, one after the other."""

    async def open(self, known: frozenset[str] = frozenset()) -> SandboxEngine:
        """A new engine, attached. The one before was closed, or abandoned."""
        ...

    async def abandon(self, engine: SandboxEngine) -> None:
        """As kill -9 of the engine's process."""
        ...

    async def spec(self, script: str) -> SandboxSpec:
        """To run the script by /bin/sh -c, in a root file system with busybox, with `LIMITS` and an id, namespace and log."""
        ...

    async def leftovers(self) -> list[str]:
        """What there is of all its sandboxes: processes, groups, mounts, sockets, files (other than logs)."""
        ...

    async def kill_program(self, sandbox: Sandbox) -> None:
        """As the kernel or a stranger would: SIGKILL to the sandbox's first process."""
        ...


async def soon(what: Awaitable[T]) -> T:
    async with asyncio.timeout(DEADLINE_S):
        return await what


def changed(spec: SandboxSpec, **changes: Any) -> SandboxSpec:
    import msgspec

    return msgspec.structs.replace(spec, **changes)


def log_of(spec: SandboxSpec) -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path(spec.log).read_bytes().replace(b"\r", b"").decode(errors="replace")
    return ""


def empty_log(spec: SandboxSpec) -> None:
    Path(spec.log).write_bytes(b"")


def log_size(spec: SandboxSpec) -> int:
    return Path(spec.log).stat().st_size


async def says(spec: SandboxSpec, text: str) -> None:
    """Wait until it has written that."""
    try:
        await eventually(lambda: text in log_of(spec), timeout_s=DEADLINE_S)
    except TimeoutError:
        raise AssertionError(f"{text!r} is not in its log: {log_of(spec)[-2000:]!r}") from None


async def run(engine: SandboxEngine, spec: SandboxSpec) -> str:
    """Start it, wait for its end: what it wrote."""
    sandbox = await soon(engine.start(spec))
    await soon(sandbox.wait())
    text = log_of(spec)
    await soon(engine.remove(spec.id))
    return text


async def output(session: ExecSession) -> tuple[str, str]:
    """(stdout, stderr), to the end."""
    parts: dict[str, bytes] = {"out": b"", "err": b""}
    async with asyncio.timeout(DEADLINE_S):
        async for kind, data in session.output():
            parts[kind] += data
    return parts["out"].decode(errors="replace"), parts["err"].decode(errors="replace")


async def command(sandbox: Sandbox, *argv: str) -> str:
    """What a further process says."""
    session = await soon(sandbox.exec(ExecSpec(argv=argv)))
    try:
        out, err = await output(session)
        await soon(session.wait())
        return out + err
    finally:
        await session.aclose()


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]


async def gathered(stream: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return b"".join([chunk async for chunk in stream])


def archive_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    """Plain files of an archive, by their last name."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            Path(member.name).name: file.read() for member in archive if member.isreg() and (file := archive.extractfile(member))
        }


class SandboxContract:
    """What every engine does, the simulated one too."""

    @pytest.fixture
    async def engine(self, harness: SandboxHarness) -> SandboxEngine:
        return await harness.open()

    # Starting and ending

    async def test_starts_and_writes_to_its_log(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec(f"echo hello from inside\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        assert sandbox.id == spec.id
        assert sandbox.pid > 0
        await says(spec, "hello from inside")
        await soon(engine.remove(spec.id))
        assert await harness.leftovers() == []

    async def test_tells_the_exit_code(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        for script, code in (("exit 0", 0), ("exit 3", 3), ("sh -c 'kill -9 $$'\nexit $?", 137)):
            spec = await harness.spec(script)
            exit_ = await soon((await soon(engine.start(spec))).wait())
            assert (script, exit_.code, exit_.out_of_memory) == (script, code, False)
            await soon(engine.remove(spec.id))
        assert await harness.leftovers() == []

    async def test_wait_may_come_late_and_twice(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec("exit 5")
        sandbox = await soon(engine.start(spec))
        assert [exit_.code for exit_ in await soon(asyncio.gather(sandbox.wait(), sandbox.wait()))] == [5, 5]
        assert (await soon(sandbox.wait())).code == 5

    async def test_sees_when_it_is_killed_by_others(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        waiting = asyncio.ensure_future(sandbox.wait())
        await harness.kill_program(sandbox)
        assert (await soon(waiting)).code != 0
        await soon(engine.remove(spec.id))
        assert await harness.leftovers() == []

    async def test_stop_lets_it_finish(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec(STOPPABLE)
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        await soon(sandbox.stop(grace_ms=60_000))
        assert (await soon(sandbox.wait())).code == 7

    async def test_stop_ends_what_does_not_listen(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec("trap '' TERM\necho ready\nsleep 1000000\nsleep 1000000")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        await soon(sandbox.stop(grace_ms=200))
        assert (await soon(sandbox.wait())).code != 0
        await soon(sandbox.stop(grace_ms=200))

    async def test_remove_without_a_start_and_twice(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        await soon(engine.remove(secrets.token_hex(8)))
        spec = await harness.spec(FOREVER)
        sandbox = await soon(engine.start(spec))
        await soon(engine.remove(spec.id))
        await soon(engine.remove(spec.id))
        await soon(sandbox.wait())
        assert await harness.leftovers() == []

    async def test_starts_again_under_the_same_id(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        for _ in range(2):
            await soon(engine.start(spec))
            await says(spec, "ready")
            await soon(engine.remove(spec.id))
            empty_log(spec)

    async def test_what_cannot_start_says_why_and_leaves_nothing(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = changed(await harness.spec(FOREVER), argv=("/no/such/program",))
        with pytest.raises(StartError, match="/no/such/program"):
            await soon(engine.start(spec))
        await soon(engine.remove(spec.id))
        assert await harness.leftovers() == []

    async def test_a_start_that_is_given_up_can_be_removed(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        for turns in (0, 1, 2, 5, 10, 20):
            spec = await harness.spec(FOREVER)
            task = asyncio.ensure_future(engine.start(spec))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            await soon(engine.remove(spec.id))
            assert await harness.leftovers() == []

    async def test_many_at_once_are_apart(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        specs = [await harness.spec(f"echo I am {name}\n{FOREVER}") for name in "abc"]
        sandboxes = await soon(asyncio.gather(*(engine.start(spec) for spec in specs)))
        assert len({sandbox.pid for sandbox in sandboxes}) == 3
        for spec, name in zip(specs, "abc", strict=True):
            await says(spec, f"I am {name}")
        await soon(engine.remove(specs[0].id))
        assert await soon(engine.open(specs[1].id)) is not None
        await soon(asyncio.gather(*(engine.remove(spec.id) for spec in specs)))
        assert await harness.leftovers() == []

    # Over the end of the engine's process

    async def test_the_next_process_of_the_node_goes_on_with_it(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec(STOPPABLE)
        before = await soon(engine.start(spec))
        await says(spec, "ready")
        await harness.abandon(engine)
        engine = await harness.open(frozenset((spec.id,)))
        after = await soon(engine.open(spec.id))
        assert after is not None
        assert (after.id, after.pid) == (before.id, before.pid)
        await soon(after.stop(grace_ms=60_000))
        assert (await soon(after.wait())).code in (7, None)
        await soon(engine.remove(spec.id))
        assert await harness.leftovers() == []

    async def test_closing_lets_it_run(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        pid = (await soon(engine.start(spec))).pid
        await soon(engine.aclose())
        engine = await harness.open(frozenset((spec.id,)))
        again = await soon(engine.open(spec.id))
        assert again is not None
        assert again.pid == pid

    async def test_what_nobody_knows_is_removed(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        known, unknown = await harness.spec(FOREVER), await harness.spec(FOREVER)
        await soon(asyncio.gather(engine.start(known), engine.start(unknown)))
        await harness.abandon(engine)
        engine = await harness.open(frozenset((known.id,)))
        assert await soon(engine.open(unknown.id)) is None
        assert await soon(engine.open(known.id)) is not None
        await soon(engine.remove(known.id))
        assert await harness.leftovers() == []

    async def test_what_ended_meanwhile_is_not_opened(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        await harness.abandon(engine)
        await harness.kill_program(sandbox)
        engine = await harness.open(frozenset((spec.id,)))
        assert await soon(engine.open(spec.id)) is None
        assert await soon(engine.open(secrets.token_hex(8))) is None
        await soon(engine.remove(spec.id))
        assert await harness.leftovers() == []

    # What it sees

    async def test_has_its_environment_and_files(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        spec = await harness.spec("echo $GREETING\ncat /run/secrets/key\ncat /etc/app/own")
        spec = changed(
            spec,
            env={**spec.env, "GREETING": "good-morning"},
            files=(SandboxFile(path="/run/secrets/key", content=b"s3cr3t\n"), SandboxFile(path="/etc/app/own", content=b"own\n")),
        )
        assert (await run(engine, spec)).split() == ["good-morning", "s3cr3t", "own"]

    # What is optional

    async def test_exec_gives_output_and_code(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "exec" not in engine.facts.abilities:
            return
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        session = await soon(sandbox.exec(ExecSpec(argv=("/bin/sh", "-c", "echo out\nexit 4"))))
        assert (await output(session))[0] == "out\n"
        assert await soon(session.wait()) == 4
        await soon(session.aclose())
        assert await command(sandbox, "/bin/sh", "-c", "echo $0") != ""

    async def test_exec_reads_its_input(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "exec" not in engine.facts.abilities:
            return
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        session = await soon(sandbox.exec(ExecSpec(argv=("/bin/cat",))))
        data = b"line\n" * 50_000
        reading = asyncio.ensure_future(output(session))
        await soon(session.write(data))
        await soon(session.write(b""))
        assert (await soon(reading))[0].encode() == data
        assert await soon(session.wait()) == 0
        await soon(session.aclose())

    async def test_exec_has_a_terminal_of_any_size(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "terminal" not in engine.facts.abilities:
            return
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        session = await soon(sandbox.exec(ExecSpec(argv=("/bin/sh",), terminal=True, rows=33, columns=99)))
        seen = bytearray()

        async def read() -> None:
            async for _, data in session.output():
                seen.extend(data)

        reading = asyncio.ensure_future(read())
        await soon(session.write(b"stty size\n"))
        await eventually(lambda: b"33 99" in seen, timeout_s=DEADLINE_S)
        await soon(session.resize(44, 111))
        await soon(session.write(b"stty size\n"))
        await eventually(lambda: b"44 111" in seen, timeout_s=DEADLINE_S)
        await soon(session.write(b"exit 6\n"))
        assert await soon(session.wait()) == 6
        await soon(reading)
        await soon(session.aclose())

    async def test_exec_of_what_is_not_there_fails(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "exec" not in engine.facts.abilities:
            return
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        try:
            session = await soon(sandbox.exec(ExecSpec(argv=("/no/such/program",))))
        except SandboxError as error:
            assert "/no/such/program" in str(error)
        else:
            await output(session)
            assert await soon(session.wait()) != 0
            await session.aclose()

    async def test_exec_after_the_end_is_told_so(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "exec" not in engine.facts.abilities:
            return
        spec = await harness.spec("exit 0")
        sandbox = await soon(engine.start(spec))
        await soon(sandbox.wait())
        with pytest.raises(Gone):
            await soon(sandbox.exec(ExecSpec(argv=("/bin/true",))))

    async def test_files_go_in_and_out(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "files" not in engine.facts.abilities:
            return
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        content = {"one": b"1" * 100_000, "two": b"2"}
        await soon(sandbox.copy_in("/var", chunks(archive_of({f"box/{name}": data for name, data in content.items()}))))
        assert members(await gathered(await soon(sandbox.copy_out("/var/box")))) == content
        assert members(await gathered(await soon(sandbox.copy_out("/var/box/two")))) == {"two": b"2"}
        with pytest.raises(SandboxError, match="/no/such/file"):
            await gathered(await soon(sandbox.copy_out("/no/such/file")))

    async def test_a_paused_one_can_be_stopped_and_removed(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "pause" not in engine.facts.abilities:
            return
        for end in ("stop", "remove"):
            spec = await harness.spec(STOPPABLE)
            sandbox = await soon(engine.start(spec))
            await says(spec, "ready")
            await soon(sandbox.pause())
            if end == "stop":
                await soon(sandbox.stop(grace_ms=2000))
            await soon(engine.remove(spec.id))
            assert await harness.leftovers() == []

    async def test_squeezed_it_goes_on(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "squeeze" not in engine.facts.abilities:
            return
        spec = await harness.spec(STOPPABLE)
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        await soon(sandbox.squeeze())
        await soon(sandbox.stop(grace_ms=60_000))
        assert (await soon(sandbox.wait())).code == 7

    async def test_what_is_absent_says_so(self, engine: SandboxEngine, harness: SandboxHarness, tmp_path: Path) -> None:
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        absent = {"exec", "files", "pause", "snapshot", "resize", "squeeze"} - engine.facts.abilities
        calls: dict[str, Awaitable[object]] = {}
        if "exec" in absent:
            calls["exec"] = sandbox.exec(ExecSpec(argv=("/bin/true",)))
        if "pause" in absent:
            calls["pause"] = sandbox.pause()
        if "snapshot" in absent:
            calls["snapshot"] = sandbox.snapshot(str(tmp_path))
        if "resize" in absent:
            calls["resize"] = sandbox.resize(LIMITS)
        if "squeeze" in absent:
            calls["squeeze"] = sandbox.squeeze()
        if "files" in absent:
            calls["files"] = sandbox.copy_in("/", chunks(b""))
        for name, call in calls.items():
            with pytest.raises(Unsupported):
                await soon(call)
            assert name

    async def test_signals_reach_further_processes(self, engine: SandboxEngine, harness: SandboxHarness) -> None:
        if "exec" not in engine.facts.abilities:
            return
        spec = await harness.spec(f"echo ready\n{FOREVER}")
        sandbox = await soon(engine.start(spec))
        await says(spec, "ready")
        session = await soon(sandbox.exec(ExecSpec(argv=("/bin/sh", "-c", "echo up\nexec sleep 1000000"))))
        reading = asyncio.ensure_future(output(session))
        await asyncio.sleep(0.5)
        await soon(session.signal(signal.SIGKILL))
        assert await soon(session.wait()) == 137
        await soon(reading)
        await soon(session.aclose())


def changed_limits(limits: SandboxLimits, **changes: int) -> SandboxLimits:
    import msgspec

    return msgspec.structs.replace(limits, **changes)
