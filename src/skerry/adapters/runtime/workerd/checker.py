"""`WorkerdChecker`: starts a version once, in the sandbox of instances and without network, before it is accepted.

Three processes at most, side by side: the version exactly as it will run (does it start, and how long does it take), a
module of ours that imports it and tells what it exports, and its assets' rules. None has anything bound: neither
egress nor assets. None is ever given `--experimental` together with a tenant's code.
"""

import asyncio
import re
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from skerry.adapters.blobs.kept import BadBlob, Fetch
from skerry.adapters.cgroup.base import CgroupError, Limits
from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd import process as processes
from skerry.adapters.runtime.workerd import stderr
from skerry.adapters.runtime.workerd.config import (
    HEALTH_SOCKET,
    HTTP_SOCKET,
    Config,
    Contents,
    Unsupported,
    app_config,
    encode_config,
    rules_config,
)
from skerry.adapters.runtime.workerd.engine import find_engine
from skerry.adapters.runtime.workerd.listeners import listen_unix
from skerry.adapters.runtime.workerd.process import Fleet, Program, SandboxedProcess
from skerry.adapters.runtime.workerd.sandbox import Sandbox
from skerry.adapters.runtime.workerd.settings import MIB, Places, Settings
from skerry.core.types.app import Version
from skerry.core.types.ids import Digest
from skerry.ports.runtime import Checked, StartupError, Unavailable

CHECKS_AT_ONCE = 2  # they compete with nothing else on control's machine
ANSWER_BYTES_MAX = 64 << 10  # of names of exports, from the tenant's process
NAMES_MAX = 200
PROBE_MODULE = "skerry-probe.mjs"

# Reads names only: of the module's exports, and of the functions that its default export offers.
_PROBE = """
import * as tenant from %s;
const names = new Set();
let at = tenant.default;
if (typeof at === "function") at = at.prototype;
for (let depth = 0; at && at !== Object.prototype && depth < 8; depth++, at = Object.getPrototypeOf(at)) {
  for (const name of Object.getOwnPropertyNames(at)) names.add(name);
}
names.delete("constructor");
export default { fetch() { return Response.json({exports: Object.keys(tenant), handlers: [...names]}); } };
"""
_LISTENER = re.compile(rb"""addEventListener\s*\(\s*['"`](\w+)['"`]""")
_HANDLERS = ("fetch", "scheduled", "queue", "email", "tail", "tailStream", "trace", "alarm", "test")


class Probed(msgspec.Struct):
    exports: list[str]
    handlers: list[str]


class WorkerdChecker:
    """See the port. `data_dir` and `run_dir` are its own; what a killed process left in them is removed at `open`."""

    def __init__(
        self,
        *,
        data_dir: Path,
        run_dir: Path,
        fetch_blob: Fetch,
        settings: Settings | None = None,
        workerd: str | None = None,
        bwrap: str | None = None,
    ) -> None:
        """Raises `Unavailable` when an engine is missing."""
        self._settings = settings or Settings()
        places = Places(data_dir, run_dir)
        tree, _ = find_tree(f"skerry-{places.tag}")
        self._fleet = Fleet(engine=find_engine(workerd=workerd, bwrap=bwrap), places=places, tree=tree)
        self._fetch = fetch_blob
        self._slots = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._number = 0
        self._ready = asyncio.Lock()
        self._opened = False
        self._empty_start_ms: float | None = None

    async def check(self, version: Version) -> Checked:
        async with self._ready:
            if not self._opened:
                await self._remove_leftovers()
                self._fleet.places.make()
                self._opened = True
        async with self._slots:
            return await self._check(version)

    async def aclose(self) -> None:
        """End checks that run and leave nothing, also of a process before this one that was killed. Idempotent."""
        await self._remove_leftovers()
        for path in (self._fleet.places.run, self._fleet.places.data):
            shutil.rmtree(path, ignore_errors=True)
        self._opened = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def _check(self, version: Version) -> Checked:
        contents = await self._contents(version)
        try:
            async with asyncio.TaskGroup() as group:
                rules = group.create_task(self._check_rules(version))
                started = group.create_task(self._start_as_is(version, contents))
                probed = group.create_task(self._probe(version, contents))
        except ExceptionGroup as errors:
            # Not `except*`: what is raised in one comes wrapped in a group before Python 3.11.4, and Debian 12 has 3.11.2.
            known, others = errors.split((StartupError, Unavailable))
            if known is None or others is not None:
                raise
            raise _first(known) from errors
        await rules
        names = probed.result()
        return Checked(startup_time_ms=started.result(), handlers=names.handlers, exports=names.exports)

    async def _start_as_is(self, version: Version, contents: Contents) -> int:
        """The version as it will run: milliseconds that its code takes at start-up."""
        if version.worker is None:
            return 0
        if self._empty_start_ms is None:
            self._empty_start_ms = await self._time_to_ready(_EMPTY, version)
        try:
            config = app_config(version, contents)
        except Unsupported as error:
            raise StartupError(str(error)) from error
        took = await self._time_to_ready(config, version)
        return max(1, round(took - self._empty_start_ms))

    async def _probe(self, version: Version, contents: Contents) -> "Names":
        """What the version offers; nothing if it does not start (the reason is found beside this)."""
        worker = version.worker
        if worker is None:
            return Names()
        if worker.service_worker_syntax:
            source = next(contents[module.digest] for module in worker.modules if module.name == worker.main_module)
            found = {name.decode() for name in _LISTENER.findall(source)}
            return Names(handlers=tuple(name for name in _HANDLERS if name in found))
        try:
            config = app_config(version, contents)
        except Unsupported:
            return Names()
        service = config["services"][0]["worker"]
        service["modules"].insert(
            0, {"name": PROBE_MODULE, "esModule": _PROBE % msgspec.json.encode(f"./{worker.main_module}").decode()}
        )
        try:
            return await self._ask(config, version)
        except (StartupError, OSError, ValueError):
            return Names()

    async def _check_rules(self, version: Version) -> None:
        """Settings of assets that the assets process of a node would stumble over, with all that it serves."""
        if version.assets is None:
            return
        config = rules_config(version.assets)
        process = self._start(config, version, sockets=(), experimental=True)
        try:
            await self._ready_or_error(process, rules=True)
        finally:
            await process.kill()
            process.log.unlink(missing_ok=True)

    async def _time_to_ready(self, config: Config, version: Version) -> float:
        began = time.monotonic()
        process = self._start(config, version, sockets=())
        try:
            await self._ready_or_error(process)
            return (time.monotonic() - began) * 1000
        finally:
            await process.kill()
            process.log.unlink(missing_ok=True)

    async def _ask(self, config: Config, version: Version) -> "Names":
        path = self._fleet.places.bindings / f"{self._number + 1}.sock"
        listener = listen_unix(path)
        try:
            process = self._start(config, version, sockets=((HTTP_SOCKET, listener.fileno()),))
        finally:
            listener.close()
        try:
            await self._ready_or_error(process)
            async with asyncio.timeout(self._settings.check_wall_ms_max / 1000):
                return _names(await _get(path))
        finally:
            await process.kill()
            process.log.unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _start(
        self, config: Config, version: Version, *, sockets: tuple[tuple[str, int], ...], experimental: bool = False
    ) -> SandboxedProcess:
        names = {HEALTH_SOCKET, *(name for name, _ in sockets)}
        config = {**config, "sockets": [socket for socket in config["sockets"] if socket["name"] in names]}
        self._number += 1
        settings, tag = self._settings, self._fleet.places.tag
        program = Program(
            name=f"check-{self._number}.1",  # an owner of its own: logs of older processes of one owner are removed
            config=encode_config(config, self._fleet.engine.schema),
            sockets=sockets,
            box=Sandbox(uid=settings.uid(tag, str(self._number)), tag=tag, experimental=experimental),
            limits=Limits(memory_bytes=version.limits.memory_mib_max * MIB, cpu_shares=1024, pids=settings.pids_max),
            cpu_s_max=settings.check_cpu_s_max,
        )
        try:
            return processes.start(self._fleet, program)
        except (OSError, CgroupError) as error:
            raise Unavailable(f"a version cannot be checked on this machine: {error}") from error

    async def _ready_or_error(self, process: SandboxedProcess, *, rules: bool = False) -> None:
        """Raises `StartupError` (the version's fault) or `Unavailable`."""
        try:
            async with asyncio.timeout(self._settings.check_wall_ms_max / 1000):
                await process.ready()
        except TimeoutError as error:
            raise StartupError(stderr.STARTUP_CPU_EXCEEDED) from error
        except OSError as error:
            status = await process.exited()
            raise self._verdict(process, status, rules=rules) from error

    def _verdict(self, process: SandboxedProcess, status: int | None, *, rules: bool) -> StartupError | Unavailable:
        log = detached.read_log_tail(process.log)
        text = stderr.rules_error(log) if rules else stderr.startup_error(log)
        if process.out_of_memory():
            return StartupError(stderr.STARTUP_MEMORY_EXCEEDED)
        if status == -9:
            return StartupError(stderr.STARTUP_CPU_EXCEEDED)  # by its limit of CPU seconds: nobody else kills here
        if text is not None:
            return StartupError(text)
        return Unavailable(stderr.crash_reason(status, log, out_of_memory=False))

    async def _contents(self, version: Version) -> Contents:
        async def fetch(digest: Digest) -> tuple[Digest, bytes]:
            return digest, await self._fetch(digest)

        try:
            return dict(await asyncio.gather(*(fetch(digest) for digest in sorted(version.process_digests()))))
        except BadBlob as error:
            raise Unavailable(str(error)) from error

    async def _remove_leftovers(self) -> None:
        places, tree = self._fleet.places, self._fleet.tree
        await detached.kill_tagged(places.tag)
        if tree is not None:
            for name in tree.names():
                await end_group(tree, name)
            tree.remove()
        for name in detached.names(places.processes):
            (places.processes / f"{name}.json").unlink(missing_ok=True)
        for directory in (places.health, places.bindings, places.logs):
            shutil.rmtree(directory, ignore_errors=True)


class Names(msgspec.Struct, frozen=True, kw_only=True):
    exports: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ()


_EMPTY: Config = {
    "services": [
        {
            "name": "app",
            "worker": {"modules": [{"name": "x.js", "esModule": "export default {};"}], "compatibilityDate": "2026-01-01"},
        },
        {"name": "internet", "network": {"allow": []}},
        {"name": "health", "disk": {"path": "/health"}},
    ],
    "sockets": [{"name": HEALTH_SOCKET, "http": {}, "service": {"name": "health"}}],
}


async def _get(path: Path) -> bytes:
    """The body of the answer at a Unix socket."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=ANSWER_BYTES_MAX)
    try:
        writer.write(processes.HEALTH_REQUEST)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        return await reader.read(ANSWER_BYTES_MAX)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("no answer") from error
    finally:
        writer.close()


def _names(body: bytes) -> Names:
    probed = msgspec.json.decode(body, type=Probed)
    handlers = tuple(name for name in _HANDLERS if name in set(probed.handlers))
    return Names(exports=tuple(probed.exports[:NAMES_MAX]), handlers=handlers)


def _first(errors: BaseExceptionGroup[StartupError | Unavailable]) -> StartupError | Unavailable:
    """The one for the deployer: a fault of the version before one of ours."""
    found = [error for error in errors.exceptions if isinstance(error, (StartupError, Unavailable))]
    return next((error for error in found if isinstance(error, StartupError)), found[0])
