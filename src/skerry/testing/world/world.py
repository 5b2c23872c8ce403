"""The world itself: planes, users, faults, and what is known of all of them from outside."""

import asyncio
import functools
import gc
from collections.abc import AsyncIterator, Coroutine, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import structlog

from skerry.adapters.store.simulated import SimulatedStore
from skerry.core.types.account import Account
from skerry.core.types.app import App, Share, Version
from skerry.core.types.ids import AppName, Digest, NodeId, SiteId, VersionId
from skerry.core.types.maintenance import Maintenance
from skerry.core.types.plan import Plan, Release
from skerry.core.types.view import AppView, Explanation, MaintenanceStart
from skerry.kit.hashing import content_digest
from skerry.ports.sandbox import Exit
from skerry.services.accounts import Accounts
from skerry.services.control import keys
from skerry.services.control.maintenances import MaintenanceWord
from skerry.services.control.rollouts import Word
from skerry.services.intents.programs import ProgramUpload
from skerry.services.intents.upload import ModulePart, Upload
from skerry.testing.builders import make_node
from skerry.testing.images import Built, File, build
from skerry.testing.machine.machine import Behaviour
from skerry.testing.virtual_loop import run_virtual
from skerry.testing.world.convergence import leftovers, lost_writes
from skerry.testing.world.estate import Estate
from skerry.testing.world.ground import main_digest
from skerry.testing.world.load import EVERY_MS, Failure, Load, Served
from skerry.testing.world.network import Way, way_of_request
from skerry.testing.world.planes import SUFFIX, SimControl, SimNode, SimSite
from skerry.testing.world.promises import PLANE

T = TypeVar("T")

SAMPLE_MS = 50
QUIET_MS = 3_000
SETTLE_MS = 120_000
BUGS = {"plan_violates": 2, "decision_violates": 1}  # logged where a decision breaks a promise and is not carried out
PROGRAM_MIB = 8
CODE = "export default { fetch() {} }"


class World(Estate):
    """`plan`: nodes per site, each with `memory_mib`. Apps of the names `programs` are programs, whose image is made of the
    code that is deployed; all others are workers. Leaving the world raises when promises were broken."""

    def __init__(
        self,
        plan: Mapping[str, int],
        *,
        seed: int = 1,
        memory_mib: int = 1024,
        trace_lines: int = 0,
        programs: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(plan, seed=seed, trace_lines=trace_lines)
        self._programs = programs
        self.healed = False
        self.ended_ms = 0
        self._sampled: tuple[int, list[App], dict[str, frozenset[str]]] = (-1, [], {})
        self._memory_mib = memory_mib
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._structlog = structlog.get_config()
        structlog.configure(processors=[self._hear_log])
        self.account: Account = await Accounts(SimulatedStore(self.engine), self.clock, self.random_bytes).create_account(
            "default"
        )
        self.controls.append(SimControl(self, "control"))
        for name, count in self.plan.items():
            names = tuple(NodeId(f"{name}-{number}") for number in range(1, count + 1))
            self.sites[name] = SimSite(self, name, names, controls=self.control_sides, network=self.network, checks=self.checks)
            for node in names:
                self.add_node(node)
        self.checks.begun = True
        self._tasks = [asyncio.ensure_future(self._watch())]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._look()
        self.ended_ms = self.clock.monotonic_ms()
        for task in self._tasks:
            task.cancel()
        for plane in (*self.nodes.values(), *self.sites.values(), *self.controls):
            plane.kill()
        await asyncio.sleep(0.01)
        structlog.configure(**self._structlog)
        if self.violations and error is None:
            raise AssertionError("\n".join(("promises broken:", *map(str, self.violations))))

    # What is known from outside.

    def judge_failure(self, failure: Failure) -> None:
        """A failed request is a broken promise when a healthy copy was in reach before and after."""
        before = self.copies.in_reach(failure.app, failure.site, since_ms=failure.at_ms)
        if before is None:
            return
        self._sample()
        if before != self.copies.in_reach(failure.app, failure.site, since_ms=failure.at_ms):
            return
        if "by the instance" in failure.what:
            return  # what it says itself goes to the user, for the moments until its site has heard
        if "broke off in another city" in failure.what:
            return  # a request that may be what ends instances is handed on to one city, not to all of them (decision 0013)
        self.violate(4, f"a healthy copy was in reach at {before.node}, but {failure}")

    def picture(self) -> tuple[str, ...]:
        """What runs where, and how far every app is: one line each."""
        cells = sorted(
            f"{node.id} {cell.instance.version.app} v{cell.instance.version.number} {cell.life.state}"
            for node in self.nodes.values()
            for cell in node.machine.cells.values()
        )
        routes = [f"{name} {site.ingress.real.table}" for name, site in sorted(self.sites.items())]
        return (*cells, *routes, f"revision {self.engine.history.newest}")

    async def settled(self, *, limit_ms: int = SETTLE_MS) -> None:
        """Returns when nothing has changed for a while; raises `TimeoutError` when it never does."""
        deadline_ms = self.clock.monotonic_ms() + limit_ms
        last, since_ms = self.picture(), self.clock.monotonic_ms()
        while self.clock.monotonic_ms() < deadline_ms:
            await self.clock.sleep_ms(250)
            now = self.picture()
            if now != last:
                last, since_ms = now, self.clock.monotonic_ms()
            elif self.clock.monotonic_ms() - since_ms > QUIET_MS:
                return
        raise TimeoutError(f"still changing after {limit_ms} ms: {last}")

    async def converged(self, *, limit_ms: int = SETTLE_MS) -> None:
        """Waits until what runs is what is planned, and nothing else is left; raises `AssertionError` with what differs."""
        deadline_ms = self.clock.monotonic_ms() + limit_ms
        while True:
            self._look()
            found = leftovers(self)
            if not found:
                for lost in lost_writes(self):
                    self.violate(7, lost)
                return
            if self.clock.monotonic_ms() > deadline_ms:
                raise AssertionError("\n".join((f"not converged in {limit_ms} ms:", *found)))
            await self.clock.sleep_ms(250)

    def apps(self) -> list[App]:
        """As the store has them."""
        self.checks.follow_store()
        return self.checks.held(keys.APPS, App)

    def releases(self) -> list[Release]:
        """As the store has them."""
        self.checks.follow_store()
        return self.checks.held(keys.RELEASES, Release)

    def plan_of(self, app: str) -> Plan | None:
        """The newest."""
        self.checks.follow_store()
        return max(
            self.checks.held(f"{keys.PLANS}{self.account.id}/{app}/", Plan), key=lambda plan: plan.generation, default=None
        )

    def running(self, app: str, site: str | None = None) -> list[Version]:
        """The version of each process or waiting listener."""
        return [
            cell.instance.version
            for node in self.nodes.values()
            for cell in node.machine.cells.values()
            if cell.instance.version.app == app and site in (None, node.site)
        ]

    def running_in(self, site: str) -> list[Version]:
        """Of every app."""
        return [
            cell.instance.version for node in self.nodes.values() if node.site == site for cell in node.machine.cells.values()
        ]

    def running_version(self, app: str, version: VersionId) -> set[str]:
        """The sites where some process, or some attempt at one, is of this version."""
        return {
            node.site
            for node in self.nodes.values()
            for cell in node.machine.cells.values()
            if (cell.instance.version.app, cell.instance.version.id) == (app, version)
        }

    def decided(self, app: str) -> VersionId | None:
        """The one version that the newest plan runs; None: none, or several."""
        plan = self.plan_of(app)
        found = {entry.version for entry in plan.placements} if plan else set[VersionId]()
        return found.pop() if len(found) == 1 else None

    def never_starts(self, app: str) -> bool:
        """Whether the newest plan runs a version that is broken."""
        plan = self.plan_of(app)
        wanted = {entry.version for entry in plan.placements} if plan else set[VersionId]()
        broken = {*self.faults.crash_at_start, *self.faults.own_fault}
        versions = self.checks.held(keys.VERSIONS, Version)
        return any(v.id in wanted and main_digest(v) in broken for v in versions)

    async def view(self, app: str) -> AppView:
        status = await self.control.call(self.control.operations.status(None))
        return next(view for view in status.apps if view.app == app)

    async def explain(self, app: str, site: str | None = None) -> Explanation:
        asked = self.control.operations.explain(self.account.id, AppName(app), SiteId(site) if site else None)
        return await self.control.call(asked)

    # Users and developers.

    def load(self, app: str, *, sites: tuple[str, ...] = (), every_ms: int = EVERY_MS) -> Load:
        return Load(self, app, sites=sites or tuple(self.sites), ask=self.request, judge=self.judge_failure, every_ms=every_ms)

    async def request(self, site: str, app: str, method: str = "GET") -> Served:
        """By the ingress of `site`, and of no other. Raises `ConnectionRefusedError` while that is down."""
        way = Way()
        token = way_of_request.set(way)
        try:
            host = f"{app}.{self.account.name}.{SUFFIX}"
            answer = await self.sites[site].ingress.real.request(host, method=method)
        finally:
            way_of_request.reset(token)
        return Served(
            status=answer.status,
            site=way.site,
            node=way.node,
            version=VersionId(way.version),
            refused=way.refused,
            broke=way.broke,
        )

    async def deploy(self, app: str, code: str = CODE) -> Version:
        """Through the use case that the API's dialects call. Raises what it raises, and `ControlGone`."""
        lives = self.acknowledged.lives(app)
        apps = self.control.apps
        if app in self._programs:
            version = await self.control.call(self._deploy_program(app, image_of(code)))
        else:
            version = await self.control.call(apps.deploy(self.account.id, app, upload_of(code), source="test", author="test"))
        self.acknowledged.keep(app, version.id, lives)
        return version

    async def _deploy_program(self, app: str, image: Built) -> Version:
        programs = self.control.apps.programs
        for digest, data in image.blobs.items():
            await programs.images.receive(self.account.id, digest, _chunks(data))
        upload = ProgramUpload(image=image.image.manifest, port=8080, cpu_millicores=10, memory_mib=PROGRAM_MIB, writable_mib=1)
        return await programs.deploy(self.account.id, app, upload, source="test", author="test")

    async def split(self, app: str, *shares: Share) -> None:
        made = self.control.apps.create_deployment(self.account.id, app, shares, source="test", author="test")
        await self.control.call(made)

    async def delete(self, app: str) -> None:
        self.acknowledged.forget(app)
        try:
            await self.control.call(self.control.apps.delete(self.account.id, app))
        finally:
            self.acknowledged.forget(app)

    async def enable(self, app: str, *, enabled: bool) -> None:
        await self.control.call(self.control.apps.change_app(self.account.id, app, enabled=enabled))

    async def scale(self, app: str, **changes: object) -> None:
        await self.control.call(self.control.apps.scales.change(self.account.id, app, changes))

    async def drain(self, target: str) -> None:
        await self.control.call(self.control.operations.drain(target))

    async def undrain(self, target: str) -> None:
        await self.control.call(self.control.operations.undrain(target))

    async def maintain(self, task: str = "reboot", *, percent: int = 10, sites: tuple[str, ...] = ()) -> None:
        asked = MaintenanceStart(task=task, max_unavailable_percent=percent, sites=sites)
        await self.control.call(self.control.operations.start_maintenance(asked, "test"))

    async def change_maintenance(self, word: MaintenanceWord) -> None:
        await self.control.call(self.control.operations.change_maintenance(word))

    def maintenance(self) -> Maintenance | None:
        """As the store has it."""
        self.checks.follow_store()
        return next(iter(self.checks.held(keys.MAINTENANCE, Maintenance)), None)

    async def change_rollout(self, app: str, word: Word) -> None:
        await self.control.call(self.control.operations.change_rollout(self.account.id, AppName(app), word))

    def breaks(self, code: str, text: str, *, own_fault: bool = False) -> str:
        """From now on a version of this code does not start; returns the code."""
        table = self.faults.own_fault if own_fault else self.faults.crash_at_start
        table[Digest(content_digest(code.encode()))] = text
        manifest = image_of(code).image.manifest
        table[manifest] = text
        crash = Behaviour(opens_ms=None, exits=(20, Exit(code=1)), says=text.encode())
        self.behaviours[manifest] = Behaviour(start_error=text) if own_fault else crash
        return code

    # Faults.

    def crash_instance(self, node: str, app: str) -> bool:
        """Kill one process of the app on the node, if there is one."""
        machine = self.nodes[node].machine
        for name, cell in machine.cells.items():
            if cell.instance.version.app == app and cell.pid is not None:
                machine.crash(name)
                return True
        return False

    def lose_disk(self, site: str, *, slice_too: bool = True) -> None:
        """The controller dies, and what it remembers with it: running copies that are no longer asked for are lost to it."""
        held = self.sites[site]
        held.kill()
        held.memory_file.lose()
        if slice_too:
            held.slice_file.lose()
            held.wire.forget()
        self.copies.forget(site)
        self.checks.forget(site)

    def lose_site(self, site: str) -> None:
        """Every process of a city ends, and nobody reaches it."""
        self.lost_sites.add(site)
        self.sites[site].kill()
        self.sites[site].ingress.real.crash()
        for node in self.nodes.values():
            if node.site == site and node.powered:
                node.power_off()

    def return_site(self, site: str) -> None:
        self.lost_sites.discard(site)
        self.sites[site].start()
        for node in self.nodes.values():
            if node.site == site and not node.powered:
                node.start()

    def add_control(self) -> SimControl:
        """Another replica on the same store."""
        self.controls.append(SimControl(self, f"control-{len(self.controls) + 1}"))
        return self.controls[-1]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that goes on beside the story, and ends with the world."""
        self._tasks.append(asyncio.ensure_future(self._owned(work)))

    async def _owned(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # of a script or a service alike: nobody else would see it
            self.violate(PLANE, f"unexpected: {error!r}")

    def add_node(self, name: str, *, memory_mib: int | None = None) -> None:
        """A machine joins its site (which has to expect it)."""
        site = name.rpartition("-")[0]
        node = make_node(name, memory_mib=memory_mib or self._memory_mib)
        self.nodes[name] = SimNode(self, node, site=lambda: self.site_side(site), checks=self.checks)

    # Inside.

    async def _watch(self) -> None:
        while True:
            await self.clock.sleep_ms(SAMPLE_MS)
            self._look()

    def _look(self) -> None:
        self._sample()

    def _sample(self) -> None:
        planes = (*self.sites.values(), *self.nodes.values()) if any(control.alive for control in self.controls) else ()
        informed = {plane.id for plane in planes if not plane.wire.cut and plane.alive}
        self.checks.follow_store()
        revision = self.engine.history.newest
        if self._sampled[0] != revision:
            self._sampled = (revision, self.apps(), self._wanted_at())
        self.copies.sample(self._sampled[1], self._sampled[2], frozenset(informed), self.checks.replaced())

    def _wanted_at(self) -> dict[str, frozenset[str]]:
        """The sites of each app's plan, and of the one before as long as that is executed somewhere."""
        plans = {plan.id: plan for plan in self.checks.held(keys.PLANS, Plan)}
        wanted: dict[str, frozenset[str]] = {}
        for release in self.checks.held(keys.RELEASES, Release):
            names = [release.plan] if release.state == "done" else [release.plan, release.previous]
            if not plans[release.plan].placements:
                continue  # it has been decided that it runs nowhere, for the reasons that the plan gives
            held = [entry for name in names if name is not None and name in plans for entry in plans[name].placements]
            wanted[release.app] = frozenset(entry.site for entry in held)
        return wanted

    def _hear_log(self, logger: object, method: str, event: Any) -> NoReturn:
        name = event.get("event")
        self.note(f"log {name} {sorted((key, str(value)) for key, value in event.items() if key != 'event')}")
        if name in BUGS:
            self.violate(BUGS[name], f"{name}: {event.get('violations')}")
        raise structlog.DropEvent


def upload_of(code: str) -> Upload:
    module = ModulePart(name="index.js", type="esm", content=code.encode())
    return Upload(main_module="index.js", modules=(module,), compatibility_date="2023-11-01")


@functools.cache
def image_of(code: str) -> Built:
    return build([{"app": File(content=code.encode(), mode=0o755)}], command=("/app",))


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


def run_world(story: Coroutine[Any, Any, T]) -> T:
    """In virtual time. The garbage collector rests: when it would finalise something depends on the process."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return run_virtual(story)
    finally:
        if was_enabled:
            gc.enable()
