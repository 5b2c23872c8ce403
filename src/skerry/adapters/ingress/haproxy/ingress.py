"""`HAProxyIngress`: the ingress port on a HAProxy of its own, detached, so that it outlives the site controller.

    apply(table) ─► assign slots ─► lay out ─► files ─► plan(what the worker holds) ─► runtime commands | reload

Files come first: whatever dies in between, what starts next has the new table. What the worker holds is followed in
memory and read from the worker itself when that may be wrong (a takeover, a refused command); if reading does not help
either, a reload from the files does.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from skerry.adapters import tools
from skerry.adapters.ingress.haproxy import files, listening
from skerry.adapters.ingress.haproxy.counting import (
    ASKED,
    SERVED,
    Counting,
    Reading,
    SlotStatistics,
    parse_slot,
    parse_table,
    show,
    show_slot,
)
from skerry.adapters.ingress.haproxy.held import Connections
from skerry.adapters.ingress.haproxy.layout import (
    Assignment,
    Door,
    Full,
    Layout,
    app_backend,
    assign,
    empty,
    lay_out,
    once,
    peer_backend,
    peer_tcp_backend,
    without_doors,
)
from skerry.adapters.ingress.haproxy.plan import Loaded, Plan, applied, loaded, plan, sweep
from skerry.adapters.ingress.haproxy.process import Master
from skerry.adapters.ingress.haproxy.runtime import (
    Refused,
    Session,
    Traffic,
    execute,
    old_open,
    old_traffic,
    quiet,
    read_doors,
    read_loaded,
    session,
    traffic,
)
from skerry.adapters.ingress.haproxy.settings import Settings
from skerry.adapters.ingress.haproxy.tcp import FAILED, DoorStatistics, door_address, parse_door, port_of, show_door
from skerry.core.types.routes import RouteTable
from skerry.ports.ingress import Counts, TargetStats, Unavailable

START_TRIES, START_RETRY_S = 5, 0.2
IN_USE = "Address already in use"  # HAProxy's words
RESTARTS_AT_ONCE = 10  # in a minute; more often it is not killed but broken
RESTART_DELAY_S = 1.0
SWEEP_S = 1.0
COUNTED_S_MAX = 60.0  # so long at most a connection is taken to have been open since it was last looked at
READ_TRIES = 10  # until nobody asked for anything between the beginning and the end of reading
_log = structlog.get_logger()


class HAProxyIngress:
    """One site's. `start` before all else; `apply` calls may overlap, they are done one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._master: Master | None = None
        self._assignment: Assignment = empty(settings.limits)
        self._layout: Layout = lay_out(self._assignment, RouteTable(site=settings.site.id), limits=settings.limits)
        self._loaded: Loaded | None = None  # None: has to be read from the worker
        self._totals: dict[str, int] = {}  # of workers that a reload replaced
        self._counting = Counting()
        self._connections = Connections(self._counting)
        self._counted_s = 0.0  # when connections were counted
        self._bound: frozenset[int] = frozenset()  # public ports that HAProxy has
        self._blocked: dict[str, str] = {}  # public ports that it cannot have, by section, and why
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        return self._master.pid if self._master is not None else 0

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(self._blocked[name] for name in sorted(self._blocked))

    async def start(self) -> None:
        """Raises `Unavailable`: no HAProxy, a taken port, a configuration it refuses. Call it once."""
        async with self._lock:
            settings = self._settings
            files.make_directories(settings)
            state = files.read_state(settings)
            if state is not None:
                self._assignment, self._layout = state.assignment, state.layout
            self._counting.own(self._assignment)
            self._connections.own(self._layout.doors)
            self._counted_s = asyncio.get_running_loop().time()
            master = Master(settings, _program(settings))
            if await master.attach():
                self._master = master
                await self._take_over(master)
            else:
                await self._first_launch(master)
        self._tasks = [asyncio.create_task(self._keep_running()), asyncio.create_task(self._keep_tidy())]

    async def apply(self, table: RouteTable) -> None:
        """Raises `Unavailable` if HAProxy is down or refuses; the files then hold the table, and so will its next start.

        `ValueError` for a table with a name or an address that is none; nothing is changed then.
        """
        async with self._lock:
            limits = self._settings.limits
            try:
                assignment = assign(self._assignment, table, cooled=await self._cooled(), limits=limits)
            except Full as error:
                raise Unavailable(str(error)) from error
            layout = lay_out(assignment, table, limits=limits)
            if not self._counting.owned(assignment):
                await self._count()  # what is there yet is of the slots' owners until now
                self._counting.own(assignment)
            if (assignment, layout) != (self._assignment, self._layout):
                state = files.State(assignment=assignment, layout=layout)
                await asyncio.to_thread(files.write_state, self._settings, state)
                self._assignment, self._layout = assignment, layout
            await self._bring_up_to_date()

    async def stats(self) -> tuple[TargetStats, ...]:
        """Empty while HAProxy is down."""
        if not self.pid:
            return ()
        try:
            async with session(self._settings.stats_socket) as worker:
                now = await traffic(worker, self._held())
            leaving = await old_traffic(self._settings.master_socket)
        except Refused:
            return ()
        return _summed(now, leaving, self._totals)

    async def take_counts(self) -> Counts:
        async with self._lock:
            await self._count()
            return self._counting.take()

    async def aclose(self, *, stop: bool) -> None:
        """With `stop` no process, socket or generated file is left; the state file is the data directory's."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        async with self._lock:
            if self._master is not None and stop:
                await self._master.stop()
            elif self._master is not None:
                self._master.close()
            self._master = None
            if stop:
                files.remove_derived(self._settings)

    async def _take_over(self, master: Master) -> None:
        """A HAProxy that an earlier controller started: only what differs is changed."""
        with contextlib.suppress(Refused):
            async with session(self._settings.stats_socket) as worker:
                doors = await read_doors(worker)
                self._bound = frozenset(map(port_of, doors))
                self._counting.skip(await self._read_all_counts(worker, self._app_slots()))
                self._connections.skip(await self._read_doors(worker, doors))
        if master.fixed_digest != files.fixed_digest(self._settings):
            await self._reload()
        else:
            await self._bring_up_to_date()

    async def _first_launch(self, master: Master) -> None:
        """A port that was free a moment ago may be held once more: by what a process that is just being made has inherited."""
        for attempt in range(START_TRIES):
            _refuse_taken_ports(self._settings)
            try:
                await self._launch(master)
                return
            except Unavailable as error:
                if IN_USE not in str(error) or attempt == START_TRIES - 1:
                    raise
                await asyncio.sleep(START_RETRY_S)

    async def _launch(self, master: Master) -> None:
        await master.stop()  # what is left of one that was killed still has its ports
        self._bound = frozenset()
        wanted = await self._wanted()
        await asyncio.to_thread(files.write_derived, self._settings, wanted)
        await master.launch(files.fixed_digest(self._settings))
        self._master = master
        self._now_holds(wanted)
        self._totals = {}

    def _now_holds(self, layout: Layout) -> None:
        """A worker that was started from files of this layout, and has counted nothing yet."""
        self._loaded = loaded(layout)
        self._bound = frozenset(door.port for door in layout.doors.values())
        self._counting.begin_anew()
        self._connections.begin_anew(layout.doors)

    async def _wanted(self) -> Layout:
        """What it is to hold: all of the table, but for public ports that others hold."""
        foreign = {name: door for name, door in self._layout.doors.items() if door.port not in self._bound}
        found = await asyncio.to_thread(_problems, self._settings, foreign) if foreign else {}
        for name in found.keys() - self._blocked.keys():
            _log.warning("public_port.blocked", app=self._layout.doors[name].app, problem=found[name])
        self._blocked = found
        return without_doors(self._layout, frozenset(found))

    async def _bring_up_to_date(self) -> None:
        if not self.pid:
            raise Unavailable("HAProxy is down and being started")
        for _ in range(2):  # the second time on what the worker says it holds
            try:
                await self._apply_at_run_time()
                return
            except Refused as error:
                _log.warning("haproxy.refused", error=str(error))
                self._loaded = None
        await self._reload()

    async def _apply_at_run_time(self) -> None:
        wanted = await self._wanted()
        if self._loaded is not None and plan(self._loaded, wanted) == Plan():
            return
        async with session(self._settings.stats_socket) as worker:
            if self._loaded is None:
                self._loaded = await read_loaded(worker, self._settings)
            todo = plan(self._loaded, wanted)
            if todo.reload:
                await self._reload()
                return
            for command in todo.commands:
                if await execute(worker, self._settings, command):
                    self._loaded = applied(self._loaded, command)

    async def _reload(self) -> None:
        """The files become what HAProxy runs; connections of before end in the worker they began in."""
        assert self._master is not None
        slots, doors = self._app_slots(), self._loaded.doors if self._loaded is not None else frozenset[str]()
        wanted = await self._wanted()
        async with contextlib.AsyncExitStack() as stack:
            old: Session | None = None
            with contextlib.suppress(Refused):
                # As long as it is open, the old worker stays: so its last counts can be read when it counts no more.
                old = await stack.enter_async_context(session(self._settings.stats_socket))
                for row in await traffic(old, self._held()):
                    self._totals[row.name] = self._totals.get(row.name, 0) + row.total
            await asyncio.to_thread(files.write_derived, self._settings, wanted)
            self._loaded = None
            if old is not None:
                with contextlib.suppress(Refused):
                    self._counting.add(await self._read_all_counts(old, slots))
            await self._master.reload(files.fixed_digest(self._settings))
            if old is not None:
                with contextlib.suppress(Refused):
                    self._counting.add_last(await self._read_slots(old, slots))
                    self._connections.add(await self._read_doors(old, doors), {})
            self._now_holds(wanted)
        _log.info("haproxy.reloaded", app_slots=wanted.app_slots, public_ports=len(wanted.doors))

    async def _count(self) -> None:
        """Add what the worker has counted since the last time; nothing while it does not answer."""
        if not self.pid:
            return
        with contextlib.suppress(Refused):
            async with session(self._settings.stats_socket) as worker:
                self._counting.add(await self._read_counts(worker))
                if self._bound:
                    await self._count_connections(worker)

    async def _count_connections(self, worker: Session) -> None:
        """What came to public ports, and what is open there, in workers that a reload left behind too."""
        now = await self._read_doors(worker, await read_doors(worker))
        failed = {name: counters[0] for name, counters in parse_table(await worker.ask(show(FAILED))).items()}
        held = await old_open(self._settings.master_socket)
        for name, found in now.items():
            held[name] = held.get(name, 0) + found.open
        self._connections.add(now, failed)
        now_s = asyncio.get_running_loop().time()
        self._connections.hold(held, seconds=min(COUNTED_S_MAX, now_s - self._counted_s))
        self._counted_s = now_s

    async def _read_doors(self, worker: Session, names: Iterable[str]) -> dict[str, DoorStatistics]:
        ordered = sorted(names)
        answers = await worker.ask_all([show_door(name) for name in ordered])
        return {name: parse_door(answer) for name, answer in zip(ordered, answers, strict=True)}

    async def _read_counts(self, worker: Session) -> Reading:
        """With the statistics of slots that have trouble."""
        asked, served = await worker.ask_all([show(ASKED), show(SERVED)])
        reading = Reading(asked=parse_table(asked), served=parse_table(served))
        troubled = self._counting.troubled(reading)
        return msgspec.structs.replace(reading, slots=await self._read_slots(worker, troubled)) if troubled else reading

    async def _read_all_counts(self, worker: Session, slots: list[str]) -> Reading:
        """With the statistics of all `slots`, of one moment if they leave us one."""
        for attempt in range(READ_TRIES):
            asked, served, *answers, again = await worker.ask_all(
                [show(ASKED), show(SERVED), *map(show_slot, slots), show(ASKED)]
            )
            if attempt == READ_TRIES - 1 or parse_table(asked) == parse_table(again):
                statistics = {slot: parse_slot(answer) for slot, answer in zip(slots, answers, strict=True)}
                return Reading(asked=parse_table(again), served=parse_table(served), slots=statistics)
        raise AssertionError("the last attempt returns")

    async def _read_slots(self, worker: Session, slots: list[str]) -> dict[str, SlotStatistics]:
        answers = await worker.ask_all([show_slot(slot) for slot in slots])
        return {slot: parse_slot(answer) for slot, answer in zip(slots, answers, strict=True)}

    def _held(self) -> frozenset[str]:
        """Backends that lead anywhere in what HAProxy holds, or did until their last servers were told to leave."""
        if self._loaded is None:
            return frozenset(self._layout.servers)
        return frozenset((*self._loaded.servers, *self._loaded.leaving))

    def _app_slots(self) -> list[str]:
        return sorted(backend for backend in self._held() if backend.startswith("app"))

    async def _cooled(self) -> frozenset[str]:
        """Backends that were given up and in which nothing is left to be done."""
        asked = [app_backend(slot) for slot in self._assignment.cooling]
        for slot in self._assignment.peers_cooling:
            asked += [peer_backend(slot), once(peer_backend(slot)), peer_tcp_backend(slot)]
        if not asked or not self.pid:
            return frozenset()
        leaving = self._loaded.leaving if self._loaded is not None else dict.fromkeys(asked, frozenset[str]())
        try:
            async with session(self._settings.stats_socket) as worker:
                return await quiet(worker, [backend for backend in asked if backend not in leaving])
        except Refused:
            return frozenset()

    async def _keep_running(self) -> None:
        """HAProxy that ends without our word is started again from the files, at once the first times."""
        loop = asyncio.get_running_loop()
        ends: list[float] = []
        while True:
            assert self._master is not None
            await self._master.wait()
            _log.warning("haproxy.ended", log=self._master.log_tail())
            ends = [at for at in ends if at > loop.time() - 60] + [loop.time()]
            if len(ends) > RESTARTS_AT_ONCE:
                await asyncio.sleep(RESTART_DELAY_S)
            async with self._lock:
                try:
                    await self._launch(self._master)
                except (Unavailable, OSError) as error:
                    _log.error("haproxy.start_failed", error=str(error))

    async def _keep_tidy(self) -> None:
        """Servers that had requests when they were removed are deleted when those have ended."""
        while True:
            await asyncio.sleep(SWEEP_S)
            async with self._lock:
                if self._master is not None:
                    with contextlib.suppress(OSError):
                        self._master.trim_log()
                if self._blocked and self.pid:
                    with contextlib.suppress(Unavailable, OSError):
                        await self._bring_up_to_date()  # perhaps they are free by now
                if self._loaded is None or not self._loaded.leaving or not self.pid:
                    continue
                with contextlib.suppress(Refused):
                    async with session(self._settings.stats_socket) as worker:
                        for command in sweep(self._loaded).commands:
                            if await execute(worker, self._settings, command):
                                self._loaded = applied(self._loaded, command)


def _program(settings: Settings) -> str:
    if settings.program and Path(settings.program).is_file():
        return settings.program
    found = tools.find_haproxy()
    if settings.program or not found.usable:
        raise Unavailable(f"HAProxy: {settings.program or found.problem} cannot be used; {found.remedy}")
    return found.path


def _refuse_taken_ports(settings: Settings) -> None:
    tcp = (settings.site.peer_tcp_address,) if settings.site.peer_tcp_address else ()
    own = (settings.site.address, settings.site.peer_address, *tcp)
    problems = [listening.problem_of(address, shared=False) for address in own]
    problems += [listening.problem_of(address, shared=True) for address in settings.shared]
    for problem in problems:
        if problem:
            raise Unavailable(problem)


def _problems(settings: Settings, doors: dict[str, Door]) -> dict[str, str]:
    """Of those that cannot be bound."""
    found = {name: listening.problem_of(door_address(settings, door.port), shared=False) for name, door in doors.items()}
    return {name: problem for name, problem in found.items() if problem}


def _summed(now: tuple[Traffic, ...], leaving: tuple[Traffic, ...], before: dict[str, int]) -> tuple[TargetStats, ...]:
    in_flight: dict[str, int] = {}
    for row in (*now, *leaving):
        in_flight[row.name] = in_flight.get(row.name, 0) + row.in_flight
    totals = {row.name: row.total + before.get(row.name, 0) for row in now}
    return tuple(
        TargetStats(instance=name, in_flight=count, total=totals.get(name, before.get(name, 0)))
        for name, count in sorted(in_flight.items())
    )
