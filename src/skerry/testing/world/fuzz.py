"""Random worlds under random faults: first everything happens at once and nothing may break a promise, then everything heals
and has to converge, and at last a version that does not start has to be stopped by its rollout.

Swarm testing (Groce et al., ISSTA 2012): each seed leaves some kinds of trouble out, so that others are not drowned by them.
`skerry sim fuzz` plays many seeds.
"""

import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, final

from skerry.core.machines.maintenance import is_over
from skerry.core.types.app import Share
from skerry.core.types.slices import SERVING_STATES
from skerry.ports.operations import OperationError
from skerry.ports.store import StoreError
from skerry.services.control import keys
from skerry.services.control.maintenances import MaintenanceWord
from skerry.services.intents.apps import PLATFORM_FAULTS
from skerry.services.intents.errors import IntentError
from skerry.testing.world.planes import ControlGone, SimPlane
from skerry.testing.world.promises import Violation
from skerry.testing.world.world import CODE, World

CITIES = ("lhr", "cur", "sin", "fra", "nrt")
PROGRAMS = ("p", "q")
APPS = ("a", "b", "c", "d", *PROGRAMS)
REFUSALS = (IntentError, OperationError, ControlGone, StoreError, *PLATFORM_FAULTS)
"""What a developer or an operator may be told while faults are on; nothing else."""

TURMOIL_MS = (15_000, 60_000)
PAUSES_MS = (5, 30, 100, 300, 1_000, 1_000, 3_000)
BACK_MS = (200, 1_000, 5_000, 20_000)
ASK_EVERY_MS = 150
HEALED_MS = 180_000
STOPPED_MS = 120_000  # by then the rollout of a version that never starts has gone back
CRASHING = CODE + " // crashes"
THROWING = CODE + " // throws"
WORDS: tuple[MaintenanceWord, ...] = ("pause", "resume", "resume", "abort")
TRACE_LINES = 400
SWARM = (0, 1, 1, 2, 4)  # times the usual weight of a kind of trouble, in one seed


Action = Callable[[], Awaitable[None]]


class Broken(AssertionError):
    """A seed broke promises. `violations`: the first of them; `trace`: the last lines before the end."""

    def __init__(self, seed: int, plan: dict[str, int], violations: tuple[Violation, ...], trace: tuple[str, ...]) -> None:
        self.seed, self.plan, self.violations, self.trace = seed, plan, violations, trace
        super().__init__(str(self))

    def __str__(self) -> str:
        found = "\n".join(map(str, self.violations))
        lines = "\n".join(self.trace)
        return f"{lines}\n\nseed {self.seed}, {self.plan}: {found}\nplay it again: {again(self.seed)}"


def again(seed: int) -> str:
    """The command that plays one seed again, with its trace."""
    return f"skerry sim fuzz --from {seed} --seeds 1"


@final
class Turmoil:
    """What one seed does to a world."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self._world = world
        self._dice = dice
        self._number = 0
        usual: list[tuple[int, Action]] = [
            (10, self._deploy),
            (3, self._split),
            (2, self._delete),
            (2, self._switch),
            (3, self._drain_node),
            (2, self._drain_site),
            (6, self._crash_instance),
            (4, self._kill_agent),
            (4, self._power_off),
            (4, self._kill_controller),
            (2, self._lose_disk),
            (3, self._crash_ingress),
            (2, self._lose_site),
            (4, self._kill_control),
            (3, self._cut_site),
            (3, self._cut_node),
            (1, self._part_sites),
            (2, self._echo),
            (3, self._disturb_store),
            (2, self._maintain),
            (2, self._hold_maintenance),
            (3, self._say_of_rollout),
        ]
        self._actions = [(weight * dice.choice(SWARM), action) for weight, action in usual]
        self._actions.append((1, self._deploy))  # never nothing at all

    async def rage(self) -> None:
        world = self._world
        end_ms = world.clock.monotonic_ms() + self._dice.randint(*TURMOIL_MS)
        weights = [weight for weight, _ in self._actions]
        while world.clock.monotonic_ms() < end_ms and not world.violations:
            action = self._dice.choices(self._actions, weights)[0][1]
            await action()
            await world.clock.sleep_ms(self._dice.choice(PAUSES_MS))

    # Developers and operators.

    async def _deploy(self) -> None:
        code = self._dice.choices((self._good(), CRASHING, THROWING), (8, 1, 1))[0]
        self._attempt(f"deploy {code[-12:]}", self._world.deploy(self._app(), code))

    async def _split(self) -> None:
        app = self._app()
        held = [version for version in await self._versions(app) if version is not None]
        if len(held) >= 2:
            old, new = self._dice.sample(held, 2)
            percent = self._dice.randint(1, 99)
            self._attempt(
                f"split {app}",
                self._world.split(app, Share(version=old, percent=percent), Share(version=new, percent=100 - percent)),
            )

    async def _delete(self) -> None:
        app = self._app()
        self._attempt(f"delete {app}", self._world.delete(app))

    async def _switch(self) -> None:
        app = self._app()
        self._attempt(f"switch {app}", self._world.enable(app, enabled=self._dice.random() < 0.6))

    async def _drain_node(self) -> None:
        await self._drain(self._dice.choice(list(self._world.nodes)))

    async def _drain_site(self) -> None:
        await self._drain(self._dice.choice(list(self._world.sites)))

    async def _drain(self, target: str) -> None:
        self._attempt(f"drain {target}", self._world.drain(target))
        if self._dice.random() < 0.7:
            self._later(lambda: self._attempt(f"undrain {target}", self._world.undrain(target)))

    async def _maintain(self) -> None:
        sites = tuple(self._dice.sample(list(self._world.sites), 1)) if self._dice.random() < 0.5 else ()
        percent = self._dice.choice((10, 34, 50))
        self._attempt("maintain", self._world.maintain(percent=percent, sites=sites))

    async def _hold_maintenance(self) -> None:
        word = self._dice.choice(WORDS)
        self._attempt(f"maintenance {word}", self._world.change_maintenance(word))

    async def _say_of_rollout(self) -> None:
        """Mostly of one that is under way; those that are held go on some time."""
        running = sorted(release.app for release in self._world.releases() if release.state == "running")
        app, word = self._dice.choice(running or APPS), self._dice.choice(("pause", "pause", "resume", "abort"))
        self._attempt(f"rollout {word} {app}", self._world.change_rollout(app, word))
        if word == "pause" and self._dice.random() < 0.7:
            self._later(lambda: self._attempt(f"rollout resume {app}", self._world.change_rollout(app, "resume")))

    # Faults.

    async def _crash_instance(self) -> None:
        for _ in range(self._dice.choice((1, 1, 4))):
            self._world.crash_instance(self._dice.choice(list(self._world.nodes)), self._app())

    async def _kill_agent(self) -> None:
        self._restart(self._dice.choice(list(self._world.nodes.values())))

    async def _power_off(self) -> None:
        node = self._dice.choice(list(self._world.nodes.values()))
        if node.powered:
            node.power_off()
            if self._dice.random() < 0.2:
                node.file.lose()
                node.wire.forget()
            self._later(lambda: None if node.powered or node.site in self._world.lost_sites else node.start())

    async def _kill_controller(self) -> None:
        self._restart(self._dice.choice(list(self._world.sites.values())))

    async def _lose_disk(self) -> None:
        site = self._dice.choice(list(self._world.sites.values()))
        self._world.lose_disk(site.id, slice_too=self._dice.random() < 0.5)
        self._later(lambda: self._start(site))

    async def _crash_ingress(self) -> None:
        self._dice.choice(list(self._world.sites.values())).crash_ingress()

    async def _lose_site(self) -> None:
        site = self._dice.choice(list(self._world.sites))
        if site not in self._world.lost_sites:
            self._world.lose_site(site)
            self._later(lambda: self._world.return_site(site) if site in self._world.lost_sites else None)

    async def _kill_control(self) -> None:
        self._restart(self._dice.choice(self._world.controls))

    async def _cut_site(self) -> None:
        self._cut(self._dice.choice(list(self._world.sites.values())).wire)

    async def _cut_node(self) -> None:
        self._cut(self._dice.choice(list(self._world.nodes.values())).wire)

    def _cut(self, wire: Any) -> None:
        wire.cut = True
        self._later(lambda: setattr(wire, "cut", False))

    async def _echo(self) -> None:
        """Slices that were held up on their way come when newer ones are there already."""
        planes = (*self._world.sites.values(), *self._world.nodes.values())
        self._dice.choice(planes).wire.echoes += self._dice.randint(1, 3)

    async def _part_sites(self) -> None:
        a, b = self._dice.sample(list(self._world.sites), 2)
        self._world.network.part(a, b)
        self._later(lambda: self._world.network.join(a, b))

    async def _disturb_store(self) -> None:
        faults = self._world.store_faults
        faults.unavailable_before += self._dice.randint(0, 2)
        faults.unavailable_after += self._dice.randint(0, 2)
        faults.unavailable_reads += self._dice.randint(0, 2)

    # Inside.

    def _good(self) -> str:
        self._number += 1
        return f"{CODE} // {self._number}"

    def _app(self) -> str:
        return self._dice.choice(APPS)

    async def _versions(self, app: str) -> list[Any]:
        self._world.checks.follow_store()
        return [
            key.rpartition("/")[2]
            for key in self._world.engine.keys
            if key.startswith(f"{keys.VERSIONS}{self._world.account.id}/{app}/")
        ]

    def _restart(self, plane: SimPlane) -> None:
        plane.kill()
        self._later(lambda: self._start(plane))

    def _start(self, plane: Any) -> None:
        gone = getattr(plane, "site", getattr(plane, "id", "")) in self._world.lost_sites
        if not plane.alive and not gone and getattr(plane, "powered", True):
            plane.start()

    def _later(self, work: Callable[[], object]) -> None:
        delay_ms = self._dice.choice(BACK_MS)
        self._world.spawn(self._after(delay_ms, work))

    async def _after(self, delay_ms: int, work: Callable[[], object]) -> None:
        await self._world.clock.sleep_ms(delay_ms)
        if not self._world.healed:
            work()

    def _attempt(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        self._world.spawn(self._tried(what, work))

    async def _tried(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
            self._world.note(f"{what}: done")
        except REFUSALS as error:
            self._world.note(f"{what}: {type(error).__name__} {error}")


async def heal(world: World) -> None:
    """Everything that was taken away comes back, and what was drained is wanted again."""
    world.note("HEAL")
    world.healed = True
    world.network.join_all()
    faults = world.store_faults
    faults.unavailable_before = faults.unavailable_after = faults.unavailable_reads = 0
    for plane in (*world.sites.values(), *world.nodes.values()):
        plane.wire.cut = False
        plane.wire.echoes = 0
    for control in world.controls:
        if not control.alive:
            control.start()
    for site in sorted(world.lost_sites):
        world.return_site(site)
    for plane in (*world.sites.values(), *world.nodes.values()):
        if not plane.alive:
            plane.start()
    await world.clock.sleep_ms(5_000)
    for target in (*world.sites, *world.nodes):
        await world.undrain(target)
    for release in world.releases():
        if release.state == "running" and release.paused:
            await world.change_rollout(release.app, "resume")
    await _end_maintenance(world)


async def _end_maintenance(world: World) -> None:
    """What can be done is done; where apps have no other place, it is given up."""
    steps: tuple[tuple[MaintenanceWord, int], ...] = (("resume", 30_000), ("abort", 60_000))
    job = world.maintenance()
    for word, wait_ms in steps:
        job = world.maintenance()
        if job is None or is_over(job):
            return
        if not (word == "resume" and job.state == "aborting"):
            await world.change_maintenance(word)
        deadline_ms = world.clock.monotonic_ms() + wait_ms
        while (job := world.maintenance()) is not None and not is_over(job) and world.clock.monotonic_ms() < deadline_ms:
            await world.clock.sleep_ms(250)
    assert job is not None
    assert is_over(job), f"maintenance does not end: {job}"


async def play(seed: int, *, trace_lines: int = TRACE_LINES) -> World:
    """One seed, from its first fault to its last check. Raises `Broken` with the way to play it again."""
    dice = random.Random(seed)  # noqa: S311
    cities = dice.sample(CITIES, dice.randint(2, 4))
    plan = {city: dice.randint(1, 3) for city in cities}
    world = World(
        plan, seed=seed, memory_mib=dice.choice((26, 40, 64, 1024)), trace_lines=trace_lines, programs=frozenset(PROGRAMS)
    )
    world.faults.start_ms_default = dice.choice((5, 20, 300))
    world.breaks(CRASHING, "it crashes")
    world.breaks(THROWING, "it throws", own_fault=True)
    try:
        async with world:
            await _play(world, dice)
    except (AssertionError, TimeoutError, OperationError) as error:
        last = Violation(at_ms=world.ended_ms, promise=9, what=str(error) or repr(error))
        raise Broken(seed, plan, tuple(world.violations) or (last,), tuple(world.trace.lines)) from error
    return world


async def _play(world: World, dice: random.Random) -> None:
    if dice.random() < 0.3:
        world.add_control()
    turmoil = Turmoil(world, dice)
    asked = dice.sample(APPS, 2)
    async with world.load(asked[0], every_ms=ASK_EVERY_MS), world.load(asked[1], every_ms=ASK_EVERY_MS):
        await world.clock.sleep_ms(dice.choice((0, 2_000)))
        await turmoil.rage()
        assert not world.violations, "broken while faults were on"
        await heal(world)
        await world.converged(limit_ms=HEALED_MS)
        await _bad_version_is_stopped(world, dice)
    await _everybody_is_served(world)


async def _bad_version_is_stopped(world: World, dice: random.Random) -> None:
    """A version that does not start, for an app that serves, reaches some sites at most, and goes back by itself."""
    app = dice.choice(APPS)
    plan = world.plan_of(app)
    serving = {entry.site for entry in plan.placements} if plan else set[str]()
    healthy = next((r for r in world.releases() if r.app == app and r.state == "done"), None)
    if not serving or healthy is None or world.never_starts(app):
        return
    bad = await world.deploy(app, CRASHING)
    world.note(f"a bad version of {app}: {bad.id}")
    reached: set[str] = set()
    tried = False
    end_ms = world.clock.monotonic_ms() + STOPPED_MS
    while world.clock.monotonic_ms() < end_ms:
        here = world.running_version(app, bad.id)
        reached |= here
        tried = tried or world.decided(app) == bad.id
        if tried and not here and world.decided(app) != bad.id:
            break
        await world.clock.sleep_ms(50)
    else:
        world.violate(5, f"{app}: a version that does not start is not stopped")
    if len(serving) > 1 and serving <= reached:
        world.violate(5, f"{app}: a version that does not start reached all of {sorted(reached)}")
    await world.converged(limit_ms=HEALED_MS)


async def _everybody_is_served(world: World) -> None:
    """From every city, every app that runs anywhere."""
    serving = {
        cell.instance.version.app
        for node in world.nodes.values()
        for cell in node.machine.cells.values()
        if cell.life.state in SERVING_STATES
    }
    for app in sorted(serving):
        for site in world.sites:
            served = await world.request(site, app)
            disabled = app not in {held.name for held in world.apps() if held.enabled}
            assert disabled or served.status == 200, f"{app} in {site}: status {served.status}"
