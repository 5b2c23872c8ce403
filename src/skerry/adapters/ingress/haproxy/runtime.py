"""HAProxy's runtime API over its unix sockets: one worker's, and the master's for workers that are leaving."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

from skerry.adapters.ingress.haproxy.layout import LOOP, Server
from skerry.adapters.ingress.haproxy.plan import (
    MAPS,
    AddServer,
    Command,
    Delete,
    Leave,
    Loaded,
    MapEntry,
    Revive,
    SetAddress,
    SetWeight,
)
from skerry.adapters.ingress.haproxy.servers import server_options
from skerry.adapters.ingress.haproxy.settings import Settings
from skerry.adapters.ingress.haproxy.statistics import stat_rows
from skerry.adapters.ingress.haproxy.tcp import is_door, parse_open
from skerry.kit.record import Record

REPLY_MS_MAX = 10_000
REPLY_BYTES_MAX = 64 << 20
_PROMPT = b"\n> "
_MAINTENANCE = 0x01  # of srv_admin_state: forced, by us
_MASTER_ATTEMPTS = 100
_MASTER_RETRY_S = 0.01
_ASKED_AT_ONCE = 64  # lines sent ahead of their answers


class Refused(Exception):
    """HAProxy does not do it, or does not answer; the text is its own."""


class Traffic(Record):
    """Of one server of one worker."""

    backend: str
    name: str
    in_flight: int
    total: int


class Session:
    """One connection in interactive mode: a line in, an answer out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, line: str) -> str:
        """The answer, without the blank line at its end. Raises `Refused` when there is none in time."""
        self._writer.write(line.encode() + b"\n")
        return await self._answer(line)

    async def ask_all(self, lines: list[str]) -> list[str]:
        """As `ask`, without waiting for one answer before the next line goes out."""
        answers: list[str] = []
        for first in range(0, len(lines), _ASKED_AT_ONCE):
            batch = lines[first : first + _ASKED_AT_ONCE]
            self._writer.write("".join(f"{line}\n" for line in batch).encode())
            answers += [await self._answer(line) for line in batch]
        return answers

    async def _answer(self, line: str) -> str:
        try:
            async with asyncio.timeout(REPLY_MS_MAX / 1000):
                answer = await self._reader.readuntil(_PROMPT)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Refused(f"no answer to {line[:80]!r}: {error!r}") from error
        return answer[: -len(_PROMPT)].decode(errors="replace").strip("\n")


@asynccontextmanager
async def session(path: str) -> AsyncGenerator[Session]:
    """Raises `Refused` when nobody listens at `path`."""
    try:
        async with asyncio.timeout(REPLY_MS_MAX / 1000):
            reader, writer = await asyncio.open_unix_connection(path, limit=REPLY_BYTES_MAX)
    except (OSError, TimeoutError) as error:
        raise Refused(f"{path}: {error!r}") from error
    try:
        opened = Session(reader, writer)
        await opened.ask("prompt")
        yield opened
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask_master(path: str, line: str) -> str:
    """One command to the master process, whose socket speaks without a prompt. Raises `Refused`."""
    try:
        async with asyncio.timeout(REPLY_MS_MAX / 1000):
            reader, writer = await _open_master(path)
            try:
                writer.write(f"{line};quit\n".encode())
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise Refused(f"{path}: {error!r}") from error


async def _open_master(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The master executes itself anew after each start and reload, and listens again a little later."""
    for attempt in range(_MASTER_ATTEMPTS):
        try:
            return await asyncio.open_unix_connection(path, limit=REPLY_BYTES_MAX)
        except (ConnectionRefusedError, FileNotFoundError):
            if attempt == _MASTER_ATTEMPTS - 1:
                raise
            await asyncio.sleep(_MASTER_RETRY_S)
    raise AssertionError("the last attempt returns or raises")


async def execute(worker: Session, settings: Settings, command: Command) -> bool:
    """False: not now (a `Delete` of a server with requests). Raises `Refused` for any other "no"."""
    match command:
        case AddServer(backend=backend, server=server):
            place = f"{backend}/{server.name}"
            options = server_options(settings, backend)
            await _expect(
                worker, f"add server {place} {server.address} weight {server.weight} {options}", "New server registered."
            )
            await _expect(worker, f"enable health {place}")
            await _expect(worker, f"enable server {place}")
        case SetWeight(backend=backend, name=name, weight=weight):
            await _expect(worker, f"set server {backend}/{name} weight {weight}")
        case Revive(backend=backend, server=server):
            await _expect(worker, *_set_address(backend, server.name, server.address))
            await _expect(worker, f"set server {backend}/{server.name} weight {server.weight}")
            await _expect(worker, f"set server {backend}/{server.name} state ready")
        case SetAddress(backend=backend, name=name, address=address):
            await _expect(worker, *_set_address(backend, name, address))
        case Leave(backend=backend, name=name):
            await _expect(worker, f"set server {backend}/{name} state maint")
        case Delete(backend=backend, name=name):
            answer = await worker.ask(f"del server {backend}/{name}")
            return answer.startswith(("Server deleted.", "No such server"))
        case MapEntry():
            await _expect(worker, _map_line(settings, command))
    return True


def _set_address(backend: str, name: str, address: str) -> tuple[str, ...]:
    """The line, and how an answer to it may begin that is no refusal."""
    host, _, port = address.rpartition(":")
    line = f"set server {backend}/{name} addr {host.strip('[]')} port {port}"
    return line, "IP changed", "no need to change", "port changed", "nothing changed"


def _map_line(settings: Settings, entry: MapEntry) -> str:
    path = settings.map_file(entry.map)
    if entry.value is None:
        return f"del map {path} {entry.key}"
    return f"{'set' if entry.known else 'add'} map {path} {entry.key} {entry.value}"


async def _expect(worker: Session, line: str, *accepted: str) -> None:
    answer = await worker.ask(line)
    if answer and not answer.startswith(accepted):
        raise Refused(f"{line[:200]!r}: {answer}")


async def read_loaded(worker: Session, settings: Settings) -> Loaded:
    """What the worker really holds."""
    servers: dict[str, dict[str, Server]] = {}
    leaving: dict[str, frozenset[str]] = {}
    for line in (await worker.ask("show servers state")).splitlines():
        fields = line.split()
        if len(fields) < 19 or line.startswith("#") or fields[3].startswith(LOOP):
            continue
        backend, name, address, admin, weight, port = fields[1], fields[3], fields[4], fields[6], fields[7], fields[18]
        if int(admin) & _MAINTENANCE:
            leaving[backend] = leaving.get(backend, frozenset()) | {name}
        else:
            host = f"[{address}]" if ":" in address else address
            servers.setdefault(backend, {})[name] = Server(name=name, address=f"{host}:{port}", weight=int(weight))
    app_slots, peer_slots = await _slot_counts(worker)
    return Loaded(
        app_slots=app_slots,
        peer_slots=peer_slots,
        servers=servers,
        leaving=leaving,
        **{name: await _read_map(worker, settings.map_file(name)) for name in MAPS},
        doors=await read_doors(worker),
    )


async def read_doors(worker: Session) -> frozenset[str]:
    """The public ports that the worker has bound, by their sections' names."""
    return frozenset(parse_open(await worker.ask("show stat -1 1 -1")))


async def _read_map(worker: Session, path: str) -> dict[str, str]:
    rows = [line.split() for line in (await worker.ask(f"show map {path}")).splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3}


async def traffic(worker: Session, backends: Iterable[str]) -> tuple[Traffic, ...]:
    """Of all apps' servers in `backends` of the current worker."""
    answers = await worker.ask_all([f"show stat {backend} 4 -1" for backend in sorted(backends) if _is_app(backend)])
    return tuple(row for answer in answers for row in _parse_stat(answer))


async def old_workers(master: str) -> tuple[int, ...]:
    """Pids of workers that a reload left to finish. Raises `Refused`."""
    _, _, old = (await ask_master(master, "show proc")).partition("# old workers")
    rows = old.partition("# programs")[0].splitlines()
    return tuple(int(row.split()[0]) for row in rows if row[:1].isdigit())


async def old_traffic(master: str) -> tuple[Traffic, ...]:
    """Of the workers that a reload left behind: what they still have in flight."""
    found: list[Traffic] = []
    for pid in await old_workers(master):
        with contextlib.suppress(Refused):  # it ended meanwhile
            found += _parse_stat(await ask_master(master, f"@!{pid} show stat -1 4 -1"))
    return tuple(row for row in found if row.in_flight and _is_app(row.backend))


async def old_open(master: str) -> dict[str, int]:
    """Users' connections to public ports in the workers that a reload left behind."""
    found: dict[str, int] = {}
    for pid in await old_workers(master):
        with contextlib.suppress(Refused):  # it ended meanwhile
            for name, count in parse_open(await ask_master(master, f"@!{pid} show stat -1 1 -1")).items():
                found[name] = found.get(name, 0) + count
    return found


def _is_app(backend: str) -> bool:
    return backend.startswith("app") or is_door(backend)


async def quiet(worker: Session, backends: Iterable[str]) -> frozenset[str]:
    """Those of `backends` in which no request is left."""
    asked = sorted(backends)
    answers = await worker.ask_all([f"show stat {backend} 2 -1" for backend in asked])
    return frozenset(
        backend for backend, answer in zip(asked, answers, strict=True) if all(row.in_flight == 0 for row in _parse_stat(answer))
    )


def _parse_stat(answer: str) -> list[Traffic]:
    """CSV with a header line that starts with "# ". Loop servers are left out."""
    if not answer.lstrip("\n").startswith("# "):
        raise Refused(f"not statistics: {answer.lstrip()[:200]!r}")
    return [
        Traffic(backend=row["pxname"], name=row["svname"], in_flight=int(row["scur"] or 0), total=int(row["stot"] or 0))
        for row in stat_rows(answer)
        if not row["svname"].startswith(LOOP)
    ]


async def _slot_counts(worker: Session) -> tuple[int, int]:
    names = set((await worker.ask("show backend")).split())
    app_slots = sum(1 for name in names if re.fullmatch(r"app\d+", name))
    return app_slots, sum(1 for name in names if re.fullmatch(r"peer\d+", name))
