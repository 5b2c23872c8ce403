"""What must hold at every moment of a simulated world, judged from outside: from the store's history, the planes' disks and the
tables of the ingresses, never from what a plane says of itself."""

from collections.abc import Iterable
from typing import TypeVar, final

from msgspec.structs import replace

from skerry.adapters.store.base import Batch
from skerry.core.checks.slices import slice_violations
from skerry.core.reconcile.site_types import DRAIN_MAX_MS, SiteMemory
from skerry.core.types.app import App
from skerry.core.types.control import PlanHead, Reservation, SiteIntent, SiteLedger
from skerry.core.types.ids import InstanceId, SiteId
from skerry.core.types.plan import REASON_TEXT, Plan, Rejection, Release
from skerry.core.types.resources import Resources
from skerry.core.types.routes import Route, RouteTable, Target
from skerry.core.types.slices import SERVING_STATES, NodeSlice, Refused, SiteSlice
from skerry.kit import record
from skerry.services.control import keys
from skerry.testing.world.ground import Ground

TOLD_MS = 100  # from a change on a node until its site knows of it, where nothing is between them

R = TypeVar("R", bound=record.Record)
AppKey = tuple[str, str]


@final
class Checks:
    """Hears of every change and calls `Ground.violate` for each broken promise. `begun`: all machines are there."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.begun = False
        self._entries: dict[str, bytes] = {}
        self._revision = 0
        self._memories: dict[SiteId, SiteMemory] = {}
        self._served: dict[str, frozenset[str]] = {}  # instances that a site knows to serve, now or at its decision before
        self._forgotten: set[str] = set()

    # The store, transaction by transaction.

    def follow_store(self) -> None:
        """Judge every transaction since the last call, in order."""
        history = self._ground.engine.history
        while self._revision < history.newest:
            batches = history.since(self._revision, limit=100)
            assert batches is not None, "the checks are called more often than the history is cut"
            for batch in batches:
                self._revision = batch[0].revision
                self._transaction(batch)

    def held(self, prefix: str, as_type: type[R]) -> list[R]:
        """Records as the store has them, in key order."""
        return [record.decode(self._entries[key], as_type) for key in sorted(self._entries) if key.startswith(prefix)]

    def _transaction(self, batch: Batch) -> None:
        touched: set[str] = set()
        self._ground.note(f"commit {batch[0].revision} " + " ".join(_brief(change.key, change.value) for change in batch))
        releases = {change.key: self._entries.get(change.key) for change in batch if change.key.startswith(keys.RELEASES)}
        heads = {change.key: self._entries.get(change.key) for change in batch if change.key.startswith(keys.PLAN_HEADS)}
        for change in batch:
            touched |= _site_of(change.key)
            if change.value is None:
                self._entries.pop(change.key, None)
            else:
                self._entries[change.key] = change.value
        for key, before in sorted(heads.items()):
            self._plan_chain(key, before)
        for change in batch:
            if change.key.startswith(keys.RELEASES) and change.value is not None:
                self._release(record.decode(change.value, Release), releases[change.key])
        for site in sorted(touched):
            self._ledger(SiteId(site))

    def _plan_chain(self, key: str, before: bytes | None) -> None:
        """One chain of plans per app: each commits on the one before it, and its generation is one higher."""
        raw = self._entries.get(key)
        if raw is None:
            return
        head = record.decode(raw, PlanHead)
        old = record.decode(before, PlanHead) if before else None
        account, _, app = key.removeprefix(keys.PLAN_HEADS).partition("/")
        at = f"{keys.PLANS}{account}/{app}/{head.generation:010d}"
        if at not in self._entries:
            self._ground.violate(6, f"{app}: the head is generation {head.generation}, which has no plan")
            return
        plan = record.decode(self._entries[at], Plan)
        if plan.id != head.plan or plan.parent != (old.plan if old else None):
            self._ground.violate(3, f"{app}: plan {plan.generation} on {plan.parent} follows {old}")
        if plan.generation != (old.generation + 1 if old else 1):
            self._ground.violate(6, f"{app}: generation {plan.generation} follows {old}")
        self._policy(plan)
        for rejection in plan.rejections:
            self.reason(f"{app}: plan {plan.generation}", rejection)

    def _policy(self, plan: Plan) -> None:
        """No site of a plan is one that its app forbids (the app's record is among the checks of the commit)."""
        raw = self._entries.get(keys.app(plan.account, plan.app))
        if raw is None:
            return
        scale = record.decode(raw, App).scale
        for entry in plan.placements:
            held = self._entries.get(keys.site(entry.site))
            if held is None:
                continue
            site = record.decode(held, SiteIntent).site
            names = {site.id, f"country:{site.country}", f"region:{site.region}"}
            if names & set(scale.deny) or (scale.allow and not names & set(scale.allow)):
                self._ground.violate(2, f"{plan.app}: plan {plan.generation} runs in {site.id}, which its policy forbids")

    def _release(self, release: Release, raw: bytes | None) -> None:
        """What is released is the plan in force: no late word about an older one. Waves follow one another; held, none does."""
        before = record.decode(raw, Release) if raw else None
        if before is not None and before.plan == release.plan:
            if release.wave not in (before.wave, before.wave + 1) and release.gated:
                self._ground.violate(5, f"{release.app}: wave {release.wave} follows wave {before.wave}")
            if before.paused and release.paused and replace(before, marks=release.marks) != release:
                self._ground.violate(5, f"{release.app}: its rollout is held, and goes from {before.wave} to {release.wave}")
            if before.state == "rolled_back" and release.state != "rolled_back":
                self._ground.violate(5, f"{release.app}: a plan that was rolled back is {release.state}")
        head = self._entries.get(keys.plan_head(release.account, release.app))
        if head is None or record.decode(head, PlanHead).plan != release.plan:
            self._ground.violate(6, f"{release.app}: {release.plan} is released, which is not the plan in force")

    def _ledger(self, site: SiteId) -> None:
        """The ledger is the sum of its reservations, and never more than all of the site's machines have."""
        raw = self._entries.get(keys.ledger(site))
        reserved = record.decode(raw, SiteLedger).reserved if raw else Resources()
        total = sum_of(held.resources for held in self.held(f"{keys.RESERVATIONS}{site}/", Reservation))
        if total != reserved:
            self._ground.violate(1, f"{site}: the ledger says {reserved}, the reservations add up to {total}")
        leaving = sum_of(held.leaving for held in self.held(f"{keys.RESERVATIONS}{site}/", Reservation))
        if raw and leaving != record.decode(raw, SiteLedger).leaving:
            self._ground.violate(1, f"{site}: the ledger does not say that {leaving} is leaving")
        capacity = sum_of(node.capacity for node in self._ground.hosts.values() if node.site == site)
        if self.begun and not reserved.fits_in(capacity):
            self._ground.violate(1, f"{site}: {reserved} is sold, {capacity} is there")

    def reason(self, where: str, rejection: Rejection) -> None:
        """Every rejection has a reason with a text."""
        if not REASON_TEXT.get(rejection.reason) or not rejection.place:
            self._ground.violate(8, f"{where}: {rejection.place!r} is rejected for {rejection.reason!r}")

    # The disks of sites and nodes.

    def on_slice(self, before: SiteSlice | NodeSlice | None, after: SiteSlice | NodeSlice) -> None:
        where = after.site if isinstance(after, SiteSlice) else after.node
        self._ground.note(f"{where} holds slice {after.generation}")
        for found in slice_violations(before, after):
            self._ground.violate(6, f"{where}: {found}")
        if before is not None and after.generation <= before.generation:
            self._ground.violate(6, f"{where}: took generation {after.generation} although it held {before.generation}")

    def on_memory(self, site: SiteId, memory: SiteMemory) -> None:
        """What a site wants of each of its nodes fits on the node."""
        known = self._memories.get(site, SiteMemory())
        self._served[site] = frozenset(entry.instance for entry in (*known.serving, *memory.serving))
        self._memories[site] = memory
        for node in self._ground.hosts.values():
            asked = sum_of(held.reserve for held in memory.held if held.node == node.id)
            if not asked.fits_in(node.capacity):
                self._ground.violate(1, f"{node.id}: {asked} is asked, {node.capacity} is there")

    def on_refusals(self, site: SiteId, refused: tuple[Refused, ...]) -> None:
        for item in refused:
            if not item.rejections and any(node.site == site for node in self._ground.hosts.values()):
                self._ground.violate(8, f"{site}: refuses {item.app} without a reason")
            for rejection in item.rejections:
                self.reason(f"{site}: {item.app}", rejection)

    def replaced(self) -> frozenset[str]:
        """Instances that take no new requests, as their sites have seen to others that do."""
        memories = self._memories.values()
        return frozenset(e.held.instance for memory in memories for e in memory.retiring if e.drain_since_ms is not None)

    def forget(self, site: str) -> None:
        """Its disk is lost: its next routes follow from what it can still see."""
        self._forgotten.add(site)

    # Routes.

    def on_routes(self, before: RouteTable, after: RouteTable) -> None:
        """Traffic goes only to what has passed its health check, and never to fewer copies than could serve."""
        if before == after:
            return
        self._ground.note(f"routes {after.site} " + " ".join(_targets(after)))
        led = {(target.instance, target.address) for route in before.routes for target in route.targets if target.weight > 0}
        for route in after.routes:
            for target in route.targets:
                self._own(after.site, route, target)
                if target.weight > 0:
                    self._passed(after.site, target, led=(target.instance, target.address) in led)
        self._make_before_break(before, after)

    def _own(self, site: SiteId, route: Route, target: Target) -> None:
        """An app's requests reach no other app's instances, and no other account's."""
        for node in self._ground.hosts.values():
            for cell in node.machine.cells.values():
                version = cell.instance.version
                if cell.address == target.address and (version.account, version.app) != (route.account, route.app):
                    self._ground.violate(10, f"{site}: routes {route.app} to {target.address}, where {version.app} is")

    def _passed(self, site: SiteId, target: Target, *, led: bool) -> None:
        """`led`: so did its routes before; then a node whose agent has just started anew is yet to say what it found."""
        told_ms = self._ground.clock.now_ms() - TOLD_MS
        for node in self._ground.hosts.values():
            for cell in node.machine.cells.values() if not (led and node.started_ms > told_ms) else ():
                if cell.address == target.address and cell.instance.id == target.instance and not cell.life.ready_ms:
                    self._ground.violate(
                        4, f"{site}: routes to {target.instance} at {target.address}, which never was ready ({cell.life.state})"
                    )

    def _make_before_break(self, before: RouteTable, after: RouteTable) -> None:
        memory = self._memories.get(after.site)
        if memory is None or after.site in self._forgotten:
            self._forgotten.discard(after.site)
            return
        served = self._served[after.site]
        now = {(r.account, r.app): {t.instance for t in r.targets if t.weight > 0} for r in after.routes}
        for route in before.routes:
            key = (route.account, route.app)
            had = {t.instance for t in route.targets if t.weight > 0 and t.instance in served and self._serves(t.address)}
            wanted = {held.instance for held in memory.held if (held.account, held.app) == key}
            left = now.get(key, set())
            had -= self._late(memory, left)
            if wanted and len(left) < len(had) and not wanted <= left:
                self._ground.violate(
                    4, f"{after.site}: {route.app} fell from {sorted(had)} to {sorted(left)}, wanted {sorted(wanted)}"
                )

    def _late(self, memory: SiteMemory, left: set[InstanceId]) -> set[InstanceId]:
        """Whose own version serves again do not wait for ever for another one that never starts."""
        now_ms = self._ground.clock.now_ms()
        again = {held.version for held in memory.held} - {held.version for held in memory.held if held.instance not in left}
        old = (entry for entry in memory.retiring if now_ms - entry.since_ms >= DRAIN_MAX_MS)
        return {entry.held.instance for entry in old if entry.held.version in again}

    def _serves(self, address: str) -> bool:
        """Whether an instance serves there, and its site can know it: of a machine just switched on it knows nothing."""
        told_ms = self._ground.clock.now_ms() - TOLD_MS
        for node in self._ground.hosts.values():
            for cell in node.machine.cells.values():
                if cell.address == address:
                    serves = cell.life.state in SERVING_STATES and node.alive and node.booted_ms <= told_ms
                    return serves and node.id not in self._memories_lost(node.site)
        return False

    def _memories_lost(self, site: SiteId) -> frozenset[str]:
        memory = self._memories.get(site)
        return frozenset(node.id for node in memory.nodes if node.state == "down") if memory else frozenset()


def sum_of(amounts: Iterable[Resources]) -> Resources:
    total = Resources()
    for amount in amounts:
        total += amount
    return total


def _site_of(key: str) -> set[str]:
    for prefix in (keys.LEDGERS, keys.RESERVATIONS):
        if key.startswith(prefix):
            return {key.removeprefix(prefix).partition("/")[0]}
    return set()


def _brief(key: str, value: bytes | None) -> str:
    """Keys without the ids that only tell accounts apart."""
    return f"{'-' if value is None else '+'}{key}"


def _targets(table: RouteTable) -> list[str]:
    return [f"{route.app}={','.join(f'{t.instance}@{t.weight}' for t in route.targets) or '-'}" for route in table.routes]
