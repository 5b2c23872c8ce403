"""Sandboxes that exist in memory only: for the simulated world, and to hold the contract against.

A program is a script of a few commands, one a line (`skerry.testing.contracts.sandbox.SIMPLE`), or whatever `programs` says of
its first argument. Faults are asked for by `SimulatedHost`.
"""

import asyncio
import io
import itertools
import shlex
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import msgspec

from skerry.core.types.program import IsolationClass
from skerry.ports.sandbox import (
    Ability,
    EngineFacts,
    EngineUnavailable,
    ExecSession,
    ExecSpec,
    Exit,
    Gone,
    SandboxError,
    SandboxLimits,
    SandboxSpec,
    SandboxStats,
    StartError,
    Unsupported,
)

ALL_ABILITIES: frozenset[Ability] = frozenset(("exec", "terminal", "files", "pause", "snapshot", "clone", "resize", "squeeze"))
SHELLS = ("/bin/sh", "sh")
COMMANDS = ("/bin/sh", "/bin/cat", "/bin/sleep", "/bin/true", "/bin/echo", "/bin/ps")
MEMORY_BYTES = 4 << 20  # of each
KILLED = 128 + signal.SIGKILL


class Script:
    """One process: its lines run one after the other, until one says `exit` or it is killed."""

    def __init__(
        self, lines: list[str], env: dict[str, str], files: dict[str, bytes], *, size: tuple[int, int] = (24, 80)
    ) -> None:
        self.written: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.typed: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.size = size
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._env = env
        self._files = files
        self._on_term: int | Literal["ignore"] | None = 128 + signal.SIGTERM
        self._task = asyncio.get_running_loop().create_task(self._run(lines))

    def signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self.end(KILLED)
        elif self._on_term != "ignore" and self._on_term is not None:
            self.end(self._on_term if number == signal.SIGTERM else 128 + number)

    def end(self, code: int) -> None:
        if not self.code.done():
            self._task.cancel()
            self.code.set_result(code)
            self.written.put_nowait(None)

    async def _run(self, lines: list[str]) -> None:
        for line in lines:
            code = await self._line(line)
            if code is not None:
                break
        else:
            code = 0
        if not self.code.done():
            self.code.set_result(code)
            self.written.put_nowait(None)

    async def _line(self, line: str) -> int | None:
        words = shlex.split(line.removesuffix("& wait"))
        name, *rest = words or [":"]
        if name == "exec":
            return await self._line(shlex.join(rest)) or 0
        if name == "exit":
            return int(rest[0])
        if name == "sh":
            return KILLED
        if name == "trap":
            self._on_term = int(rest[0].split()[1]) if rest[0] else "ignore"
        elif name == "sleep":
            await asyncio.sleep(float(rest[0]))
        else:
            await self._write(name.rpartition("/")[2], rest)
        return None

    async def _write(self, name: str, rest: list[str]) -> None:
        if name == "echo":
            said = [self._env.get(word[1:], "") if word.startswith("$") else word for word in rest]
            self.written.put_nowait((" ".join(said) + "\n").encode())
        elif name == "stty":
            self.written.put_nowait(f"{self.size[0]} {self.size[1]}\n".encode())
        elif name == "cat" and rest:
            self.written.put_nowait(self._files.get(rest[0], b"cat: no such file\n"))
        elif name == "cat":
            while (data := await self.typed.get()) is not None:
                self.written.put_nowait(data)

    async def interact(self) -> None:
        """A shell at a terminal: what is typed is run."""
        while (data := await self.typed.get()) is not None:
            for line in data.decode().splitlines():
                code = await self._line(line)
                if code is not None:
                    self.end(code)
                    return


class Box:
    """One sandbox on the host, whoever's engine looks at it."""

    def __init__(self, spec: SandboxSpec, pid: int, started_by: object) -> None:
        self.spec = spec
        self.pid = pid
        self.limits = spec.limits
        self.started_by = started_by
        self.paused = False
        self.files = {file.path: file.content for file in spec.files}
        self.script = Script(lines_of(spec.argv), spec.env, self.files)
        self.logger = asyncio.get_running_loop().create_task(self._log())

    @property
    def alive(self) -> bool:
        return not self.script.code.done()

    async def _log(self) -> None:
        while (data := await self.script.written.get()) is not None:
            self._append(data)

    def _append(self, data: bytes) -> None:
        path = Path(self.spec.log)
        if self.spec.log != "/dev/null" and (not path.exists() or path.stat().st_size < 2 * self.spec.log_bytes_max):
            with path.open("ab") as file:
                file.write(data)


class SimulatedHost:
    """What outlives engines: the sandboxes of one node, and the faults that they are to show."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.unavailable = ""  # the machine's fault that every start shows
        self.start_s = 0.0
        self.snapshots: dict[str, SandboxSpec] = {}
        self._pids = itertools.count(1000)

    def begin(self, spec: SandboxSpec, started_by: object) -> Box:
        box = self.boxes[spec.id] = Box(spec, next(self._pids), started_by)
        return box


def lines_of(argv: tuple[str, ...]) -> list[str]:
    """Raises `StartError` for what is not there."""
    if argv[0] in SHELLS:
        return argv[2].splitlines() if len(argv) > 2 else []
    if argv[0] not in COMMANDS:
        raise StartError(f"{argv[0]}: no such file")
    return [shlex.join(argv)]


class SimulatedSession:
    def __init__(self, script: Script, reader: asyncio.Task[None] | None) -> None:
        self._script = script
        self._reader = reader

    async def write(self, data: bytes) -> None:
        self._script.typed.put_nowait(data or None)

    async def output(self) -> AsyncIterator[tuple[Literal["out", "err"], bytes]]:
        while (data := await self._script.written.get()) is not None:
            yield "out", data

    async def resize(self, rows: int, columns: int) -> None:
        self._script.size = (rows, columns)

    async def signal(self, number: int) -> None:
        self._script.signal(number)

    async def wait(self) -> int:
        return await asyncio.shield(self._script.code)

    async def aclose(self) -> None:
        self._script.end(KILLED)
        if self._reader is not None:
            self._reader.cancel()


class SimulatedSandbox:
    def __init__(self, host: SimulatedHost, box: Box, engine: "SimulatedEngine") -> None:
        self._host = host
        self._box = box
        self._engine = engine

    @property
    def id(self) -> str:
        return self._box.spec.id

    @property
    def pid(self) -> int:
        return self._box.pid

    async def gone(self) -> None:
        await self.wait()

    async def wait(self) -> Exit:
        code = await asyncio.shield(self._box.script.code)
        await self._box.logger
        return Exit(code=code if self._box.started_by is self._engine else None)

    async def stop(self, *, grace_ms: int) -> None:
        self._box.paused = False
        self._box.script.signal(signal.Signals[self._box.spec.stop_signal])
        await asyncio.wait([self._box.script.code], timeout=grace_ms / 1000)
        self._box.script.end(KILLED)

    def stats(self) -> SandboxStats:
        if not self._box.alive:
            return SandboxStats()
        return SandboxStats(memory_bytes=MEMORY_BYTES, private_bytes=MEMORY_BYTES, pids=1)

    def cpu_us(self) -> int:
        return self.stats().cpu_us

    async def exec(self, spec: ExecSpec) -> ExecSession:
        self._need("exec")
        try:
            script = Script(
                lines_of(spec.argv) if not spec.terminal else ["sleep 1000000"],
                {**self._box.spec.env, **spec.env},
                self._box.files,
                size=(spec.rows, spec.columns),
            )
        except StartError as error:
            raise SandboxError(str(error)) from error
        reader = asyncio.get_running_loop().create_task(script.interact()) if spec.terminal else None
        return SimulatedSession(script, reader)

    async def copy_out(self, path: str) -> AsyncIterator[bytes]:
        self._need("files")
        found = {name: data for name, data in self._box.files.items() if name == path or name.startswith(f"{path}/")}
        if not found:
            raise SandboxError(f"{path}: no such file")
        return _packed({name.removeprefix(str(Path(path).parent)).lstrip("/"): data for name, data in found.items()})

    async def copy_in(self, directory: str, archive: AsyncIterator[bytes]) -> None:
        self._need("files")
        data = b"".join([chunk async for chunk in archive])
        with tarfile.open(fileobj=io.BytesIO(data)) as members:
            for member in members:
                file = members.extractfile(member) if member.isreg() else None
                if file is not None:
                    self._box.files[f"{directory.rstrip('/')}/{member.name}"] = file.read()

    async def pause(self) -> None:
        self._need("pause")
        self._box.paused = True

    async def resume(self) -> None:
        self._need("pause")
        self._box.paused = False

    async def resize(self, limits: SandboxLimits) -> None:
        self._need("resize")
        if limits.memory_mib_max << 20 < MEMORY_BYTES:
            raise SandboxError(f"{limits.memory_mib_max} MiB: more is in use")
        self._box.limits = limits

    async def squeeze(self) -> None:
        self._need("squeeze")

    async def snapshot(self, directory: str) -> None:
        self._need("snapshot")
        self._host.snapshots[directory] = self._box.spec

    def _need(self, ability: Ability) -> None:
        if ability not in self._engine.facts.abilities:
            raise Unsupported(f"the simulated engine was told to have no {ability}")
        if not self._box.alive:
            raise Gone(f"{self.id} has ended")


class SimulatedEngine:
    """`skerry.ports.sandbox.SandboxEngine` over a `SimulatedHost`."""

    def __init__(
        self, host: SimulatedHost, *, isolation: IsolationClass = "container", abilities: frozenset[Ability] = ALL_ABILITIES
    ) -> None:
        self._host = host
        self._facts = EngineFacts(
            name="simulated", version="1", isolation=isolation, abilities=abilities, architecture="amd64", overhead_mib=1
        )

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    async def attach(self, known: frozenset[str]) -> None:
        for sandbox_id in sorted(self._host.boxes.keys() - known):
            await self.remove(sandbox_id)

    async def start(self, spec: SandboxSpec, *, snapshot: str | None = None) -> SimulatedSandbox:
        if self._host.unavailable:
            raise EngineUnavailable(self._host.unavailable)
        if snapshot is not None:
            kept = self._host.snapshots[snapshot]
            spec = msgspec.structs.replace(spec, argv=kept.argv, env=kept.env)
        lines_of(spec.argv)
        await asyncio.sleep(self._host.start_s)
        return SimulatedSandbox(self._host, self._host.begin(spec, self), self)

    async def open(self, sandbox_id: str) -> SimulatedSandbox | None:
        box = self._host.boxes.get(sandbox_id)
        return SimulatedSandbox(self._host, box, self) if box is not None and box.alive else None

    async def remove(self, sandbox_id: str) -> None:
        box = self._host.boxes.pop(sandbox_id, None)
        if box is not None:
            box.script.end(KILLED)
            await box.logger

    async def keep_spares(self, allowed: bool) -> int:
        return 0

    async def aclose(self) -> None:
        pass


async def _packed(files: dict[str, bytes]) -> AsyncIterator[bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    yield out.getvalue()
