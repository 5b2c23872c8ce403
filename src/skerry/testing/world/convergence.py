"""What differs between what is wanted and what is, once the faults are over."""

from collections import Counter
from collections.abc import Iterator

from skerry.core.placement.executed import executed_plan
from skerry.core.placement.ledger import reservations
from skerry.core.placement.place import same_decision, still_holds
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.control import PlanHead, Reservation
from skerry.core.types.demand import DailyDemand, DecidedDemand
from skerry.core.types.ids import AccountId, AppName, PlanId, SiteId, VersionId
from skerry.core.types.plan import Blocked, Evaluation, Plan, Reason, Release
from skerry.core.types.resources import Resources
from skerry.core.types.slices import SERVING_STATES
from skerry.services.control import keys
from skerry.testing.world.estate import Estate
from skerry.testing.world.ground import main_digest
from skerry.testing.world.planes import SimNode

OF_APPS = (
    (keys.VERSIONS, Version),
    (keys.DEPLOYMENTS, Deployment),
    (keys.PLANS, Plan),
    (keys.RELEASES, Release),
    (keys.BLOCKED, Blocked),
    (keys.DECIDED_DEMAND, DecidedDemand),
    (keys.DAILY_DEMAND, DailyDemand),
)
"""Records that go with their app."""

Running = Counter[tuple[str, VersionId]]
"""(app, version) -> instances, in one site."""


def lost_writes(world: Estate) -> list[str]:
    """Uploads that were acknowledged and are gone, in words."""
    held = {version.id for version in world.checks.held(keys.VERSIONS, Version)}
    return [
        f"{app}: version {version} was acknowledged and is gone"
        for app, versions in world.acknowledged.versions().items()
        for version in versions
        if version not in held
    ]


def leftovers(world: Estate) -> list[str]:
    """In words; empty: what runs is what is planned, every site knows it, and nothing else is there."""
    return [*_store(world), *_decisions(world), *_sites(world), *_nodes(world)]


def _store(world: Estate) -> Iterator[str]:
    """Nothing undecided, nothing of what was deleted, and reservations as the plans in force say."""
    held = world.checks.held
    apps = {(app.account, app.name): app for app in held(keys.APPS, App)}
    yield from (f"evaluation of {e.app} ({e.cause}) is pending" for e in held(keys.EVALUATIONS, Evaluation))
    yield from (f"release of {r.app} is running" for r in held(keys.RELEASES, Release) if r.state == "running")
    plans = {plan.id: plan for plan in held(keys.PLANS, Plan)}
    kept: dict[tuple[SiteId, AccountId, AppName], Resources] = {}
    for release in held(keys.RELEASES, Release):
        final = release.previous if release.state == "rolled_back" else None
        versions = {version.id: version for version in held(keys.VERSIONS, Version)}
        for entry in reservations(plans[final or release.plan], versions):
            kept[(entry.site, entry.account, entry.app)] = entry.resources
    found = {(r.site, r.account, r.app): r.resources for r in held(keys.RESERVATIONS, Reservation)}
    yield from (
        f"reservation {key}: {found.get(key)}, planned {kept.get(key)}"
        for key in sorted({*kept, *found})
        if kept.get(key) != found.get(key)
    )
    for prefix, kind in OF_APPS:
        gone = {item.app for item in held(prefix, kind) if (item.account, item.app) not in apps}
        yield from (f"{prefix} of {app}, which was deleted" for app in sorted(gone))
    back = _rolled_back(world)
    waiting = {(blocked.account, blocked.app) for blocked in held(keys.BLOCKED, Blocked)}  # for room, before it is another's turn
    for plan in (plans[head.plan] for head in held(keys.PLAN_HEADS, PlanHead)):
        app = apps.get((plan.account, plan.app))
        if app is None or (app.deployment != plan.deployment and (plan.account, plan.app) not in waiting):
            yield f"{plan.app}: the plan is for another deployment than the app's"
        elif app.enabled and (plan.account, plan.app) not in back:
            yield from _rejections(world, plan)


def _decisions(world: Estate) -> Iterator[str]:
    """Whoever decided again now would decide the same: nothing that changed was missed."""
    if not world.control.alive:
        yield "control is down"
        return
    plans = {plan.id: plan for plan in world.checks.held(keys.PLANS, Plan)}
    heads = {(head.account, head.app): head for head in (plans[h.plan] for h in world.checks.held(keys.PLAN_HEADS, PlanHead))}
    back = _rolled_back(world)
    for app in world.checks.held(keys.APPS, App):
        if (app.account, app.name) in back:
            continue
        parent = heads.get((app.account, app.name))
        if parent is None:
            yield f"{app.name} was never decided"
            continue
        key = (app.account, app.name)
        thought = None if world.control.placer.is_right(key) else world.control.placer.thought(key)
        again = thought[0] if thought else parent
        if thought and still_holds(thought[1].world, app, thought[1].shares, parent):
            continue  # better is for the background, which has its own time
        if not same_decision(again, parent):
            yield f"{app.name}: planned {parent.placements}, now it would be {again.placements}"


def _rolled_back(world: Estate) -> set[tuple[AccountId, AppName]]:
    """Apps whose newest plan nobody executes: what it asked for is given back, and it waits for nothing."""
    return {(r.account, r.app) for r in world.checks.held(keys.RELEASES, Release) if r.state == "rolled_back"}


def _rejections(world: Estate, plan: Plan) -> Iterator[str]:
    """Nobody waits for room that is there: each node's free memory against the least that an instance needs."""
    reserve = Resources(cpu_millicores=10, memory_mib=12, disk_mib=1)
    for rejection in plan.rejections:
        if rejection.reason not in (Reason.NO_CAPACITY, Reason.REFUSED_BY_SITE):
            continue
        nodes = [node for node in world.nodes.values() if node.site == rejection.place]
        memory = world.sites[rejection.place].memory_file.load()
        for node in nodes:
            used = Resources()
            for held in memory.held if memory else ():
                used += held.reserve if held.node == node.id else Resources()
            if reserve.fits_in(node.capacity.less(used)) and not _draining(world, node):
                yield f"{plan.app} waits for room in {rejection.place} ({rejection.detail}), and {node.id} has some"


def _draining(world: Estate, node: SimNode) -> bool:
    slice_ = world.sites[node.site].slice_file.load()
    return slice_ is None or node.id in slice_.draining_nodes or slice_.state == "draining"


def _sites(world: Estate) -> Iterator[str]:
    for name, site in world.sites.items():
        slice_ = site.slice_file.load()
        now = world.control.slices.current(SiteId(name)) if world.control.alive else None
        if now is not None and (slice_ is None or slice_.apps != now.apps):
            yield f"{name}: holds slice {slice_.generation if slice_ else 0}, control says {now.generation}"
        wanted, found = _planned(world, name), _running(world, name)
        for app, version in sorted(found - wanted):
            if _hopeless(world, app, wanted):
                del found[(app, version)]  # it serves until what is wanted does, which is never
        if wanted != found:
            yield f"{name}: planned {sorted(wanted.items())}, runs {sorted(found.items())}"


def _hopeless(world: Estate, app: str, wanted: Running) -> bool:
    """Whether none of the versions that are wanted here starts."""
    broken = {*world.faults.crash_at_start, *world.faults.own_fault}
    mine = {version for name, version in wanted if name == app}
    started = [v for v in world.checks.held(keys.VERSIONS, Version) if v.id in mine and main_digest(v) not in broken]
    return bool(mine) and not started


def _planned(world: Estate, site: str) -> Running:
    plans: dict[PlanId, Plan] = {plan.id: plan for plan in world.checks.held(keys.PLANS, Plan)}
    wanted: Running = Counter()
    for release in world.checks.held(keys.RELEASES, Release):
        name = executed_plan(release, SiteId(site))
        for entry in plans[name].placements if name else ():
            if entry.site == site:
                wanted[(release.app, entry.version)] += entry.count
    return wanted


def _running(world: Estate, site: str) -> Running:
    found: Running = Counter()
    for node in world.nodes.values():
        if node.site == site:
            found.update((cell.instance.version.app, cell.instance.version.id) for cell in node.machine.cells.values())
    return found


def _nodes(world: Estate) -> Iterator[str]:
    broken = {*world.faults.crash_at_start, *world.faults.own_fault}
    for node in world.nodes.values():
        slice_ = node.file.load()
        asked = {instance.id for instance in slice_.instances} if slice_ else set[str]()
        if asked != set(node.machine.cells):
            yield f"{node.id}: asked {sorted(asked)}, has {sorted(node.machine.cells)}"
        for cell in node.machine.cells.values():
            if main_digest(cell.instance.version) in broken:
                continue
            if cell.life.state not in SERVING_STATES:
                yield f"{node.id}: {cell.instance.version.app} is {cell.life.state} ({cell.life.detail})"
