"""`skerry up` from the first check to the proof that nothing is left."""

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

from skerry.adapters import fineturns, tools, zram
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.process.detached import write_private
from skerry.apps.config import Engines
from skerry.apps.supervisor import example, leftovers
from skerry.apps.supervisor.cities import load_cities, parse_cities
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.layout import (
    Layout,
    Options,
    control_config,
    make_directories,
    measure_machine,
    node_config,
    plan_layout,
    prepare_data,
    site_config,
    wanted_ports,
)
from skerry.apps.supervisor.lock import PLATFORM_FILE, DataLock, write_platform
from skerry.apps.supervisor.orphans import Orphans
from skerry.apps.supervisor.planes import Planes, PlaneSpec, plane_spec
from skerry.apps.supervisor.ports import refuse_if_taken
from skerry.apps.supervisor.screen import Screen
from skerry.core.types.view import AppView
from skerry.kit.record import encode

if TYPE_CHECKING:
    from skerry.apps.client import Client

SETTLE_LOOKS_MAX, SETTLE_LOOK_S = 50, 0.1  # five seconds
LOOK_S = 1.0  # how often the platform is asked how it is, for the screen

ScreenFactory = Callable[[Layout], Screen]


def plan(options: Options) -> Layout:
    """Everything that can be refused without touching the machine. Raises `UpError`."""
    asks = parse_cities(options.cities, load_cities())
    return plan_layout(options, asks, measure_machine(Path(options.data_dir)))


def find_engines(*, for_example: bool) -> Engines:
    """Raises `UpError` naming the engine that is missing and how to get it."""
    try:
        found = Engines(
            workerd=str(tools.find_workerd().require()),
            haproxy=str(tools.find_haproxy().require()),
            bwrap=str(tools.find_bwrap().require()),
        )
        if for_example:
            tools.find_node().require()
            tools.find_wrangler().require()
    except tools.ToolMissing as error:
        raise UpError(str(error), hint="`skerry doctor` tells what else this machine lacks") from error
    return found


def plane_specs(layout: Layout, engines: Engines) -> tuple[PlaneSpec, ...]:
    """Write each plane's configuration; control first, since the others ask it."""
    specs: list[PlaneSpec] = []
    wanted = [("control", "control", encode(control_config(layout, engines)))]
    wanted += [(site.id, "site", encode(site_config(layout, site, engines))) for site in layout.sites]
    wanted += [(node.id, "node", encode(node_config(layout, node, engines))) for node in layout.nodes]
    for name, module, content in wanted:
        path = layout.configs / f"{name}.json"
        write_private(path, content)
        specs.append(plane_spec(name, module, path))
    return tuple(specs)


class Supervisor:
    """One run: the order of things, and the way back from each of them."""

    def __init__(self, layout: Layout, screen: Screen, *, specs: Callable[[], tuple[PlaneSpec, ...]] | None = None) -> None:
        self._layout = layout
        self._screen = screen
        self._specs = specs or (lambda: plane_specs(layout, find_engines(for_example=layout.options.example)))
        self._orphans = Orphans()
        self._end = asyncio.Event()
        self._signals = 0
        self._began = time.monotonic()
        self._planes: Planes | None = None

    async def run(self) -> int:
        """The exit status. Raises `UpError` when it cannot start; what was started is ended again first."""
        layout = self._layout
        prepare_data(layout.data)
        lock = DataLock.take(layout.data)
        try:
            self._watch_signals()
            write_platform(layout, ready=False)  # whoever wants to end it finds it from here on
            await self._remove_leftovers()
            refuse_if_taken(wanted_ports(layout))
            make_directories(layout)
            _ensure_join_secret(layout.join_secret)
            specs = self._specs()  # asks engines for their versions: before children are reaped by the loop
            self._orphans.adopt()
            try:
                if not self._end.is_set():
                    await self._serve(specs)
            finally:
                left = await self._clean_up()
        finally:
            (layout.data / PLATFORM_FILE).unlink(missing_ok=True)
            lock.release()
        if left:
            self._screen.note(f"Left behind: {left}")
            return 1
        self._screen.note("Ended; nothing is left behind")
        return 0

    def end(self) -> None:
        """The first time: end in good order. The second time: by force."""
        self._signals += 1
        self._end.set()
        if self._signals > 1 and self._planes is not None:
            self._planes.kill()

    async def _serve(self, specs: tuple[PlaneSpec, ...]) -> None:
        layout, screen = self._layout, self._screen
        tree, why_not = find_tree(leftovers.group_tree(layout.tag))
        if tree is None:
            screen.note(f"Planes share the scheduler with everything else: {why_not}")
        planes = self._planes = Planes(
            records=layout.records,
            logs=layout.logs,
            tag=layout.tag,
            tree=tree,
            orphans=self._orphans,
            on_change=lambda: screen.planes(planes.states),
            on_note=screen.note,
        )
        if layout.options.zram:
            self._make_swap()
        if layout.options.fine_turns and tree is not None and not tree.gathers:
            self._end_turns_exactly()
        planes.start(specs)
        await self._unless_ended(planes.wait_ready())
        if self._end.is_set():
            return
        await self._unless_ended(self._fill())
        if self._end.is_set():
            return
        write_platform(layout, ready=True)
        screen.ready(time.monotonic() - self._began)
        await self._unless_ended(self._serve_on())

    async def _unless_ended(self, work: Coroutine[object, object, None]) -> None:
        """`work`, given up as soon as the end begins."""
        task = asyncio.create_task(work)
        end = asyncio.create_task(self._end.wait())
        await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def _make_swap(self) -> None:
        """Where memory of sleeping instances goes; without it they stay awake."""
        try:
            zram.ensure_swap(leftovers.swap_record(self._layout.data))
        except zram.ZramError as error:
            self._screen.note(f"Idle apps stay awake: {error}")

    def _end_turns_exactly(self) -> None:
        """Without it whoever wakes up beside many that yield may wait for a few ticks of the kernel."""
        try:
            fineturns.ensure(leftovers.turns_record(self._layout.data))
        except fineturns.FineTurnsError as error:
            self._screen.note(f"Busy neighbours are felt for longer: {error}")

    async def _fill(self) -> None:
        """Deploy the example if it is wanted, and wait until the apps there are serve again."""
        from skerry.apps.client import Client, ClientError, find_target

        try:
            with Client(find_target(self._layout.data)) as client:
                await self._deploy_example(client)
                await _settle(client)
        except (ClientError, UpError) as error:
            self._screen.note(str(error))  # the platform serves without it

    async def _deploy_example(self, client: "Client") -> None:
        project = example.example_dir()
        if not self._layout.options.example or project is None:
            return
        if example.is_deployed(self._layout, project, await asyncio.to_thread(client.status)):
            return
        accounts = await asyncio.to_thread(client.accounts)
        account = next((item for item in accounts if item.name == client.target.default_account), accounts[0])
        self._screen.note(f"Deploying {project.name} with wrangler")
        await example.deploy(self._layout, project, client.target, account.account, self._orphans)

    async def _serve_on(self) -> None:
        """Until the end: a true screen, and the example's services, for which nobody has to wait."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            if self._layout.options.example and example.example_dir() is not None:
                tasks.create_task(self._add_services())

    async def _add_services(self) -> None:
        try:
            for line in await example.deploy_services(self._layout, self._orphans):
                self._screen.note(line)
        except OSError as error:  # no process could be started: the platform serves without them
            self._screen.note(f"The example's services are not deployed: {error}")

    async def _watch(self) -> None:
        """Keep the screen true until the end."""
        from skerry.apps.client import Client, ClientError, find_target

        while True:
            # Without an answer control is being restarted: the planes' states say so.
            with contextlib.suppress(ClientError), Client(find_target(self._layout.data)) as client:
                while True:
                    self._screen.status(await asyncio.to_thread(client.status))
                    await asyncio.sleep(LOOK_S)
            await asyncio.sleep(LOOK_S)

    async def _clean_up(self) -> leftovers.Leftovers:
        """End everything, remove what planes did not, and look whether anything is left."""
        layout = self._layout
        self._screen.ending()
        if self._planes is not None:
            killed = await self._planes.stop()
            if killed:
                self._screen.note(f"Ended by force: {', '.join(killed)}")
        left = await leftovers.remove_leftovers(layout.data)
        self._orphans.reap()
        return left

    async def _remove_leftovers(self) -> None:
        found = leftovers.find_leftovers(self._layout.data)
        if found:
            self._screen.note(f"Removing what an earlier run left: {found}")
        left = await leftovers.remove_leftovers(self._layout.data)
        if left:
            raise UpError(f"an earlier run left what cannot be removed: {left}", hint="end or unmount it by hand, then try again")

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.end)


async def _settle(client: "Client") -> None:
    """Returns when no app is on its way any more, or after a while: a large one may take its time."""
    for _ in range(SETTLE_LOOKS_MAX):
        if not any(_on_its_way(app) for app in (await asyncio.to_thread(client.status)).apps):
            return
        await asyncio.sleep(SETTLE_LOOK_S)


def _on_its_way(app: AppView) -> bool:
    return app.rollout.state in ("pending", "running") or (app.rollout.state == "done" and app.serving < app.instances)


def _ensure_join_secret(path: Path) -> None:
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode() + b"\n")
