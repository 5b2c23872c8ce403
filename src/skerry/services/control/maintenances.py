"""Maintenance of the fleet: the machine of `core.machines.maintenance` over what cities report, one transaction a step.

All of it is one record, which slices and placements read too: whichever control steps next goes on from there.
"""

from collections.abc import Callable
from typing import Literal

import structlog

from skerry.core.machines.maintenance import (
    AppFacts,
    Facts,
    MaintenanceSettings,
    NodeFacts,
    NotNow,
    abort,
    begin,
    is_over,
    pause,
    resume,
    step,
)
from skerry.core.types.app import App
from skerry.core.types.control import SiteIntent
from skerry.core.types.ids import AccountId, AppName, NodeId, SiteId
from skerry.core.types.maintenance import Maintenance
from skerry.core.types.place import PlaceState
from skerry.core.types.slices import SERVING_STATES
from skerry.core.types.view import MaintenanceStart
from skerry.kit import record
from skerry.kit.hashing import stable_id
from skerry.ports.clock import Clock
from skerry.ports.operations import Conflict as OperationConflict
from skerry.ports.operations import Invalid, NotFound
from skerry.ports.store import Conflict, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed

log = structlog.get_logger()

TICK_MS = 500
IDLE_MS = 1_000
RETRY_DELAY_MS = 200
NODES_MAX = 8_000  # of one run: its record has to fit into one value of the store
NAMES_SHOWN = 5
TRIES_MAX = 5

MaintenanceWord = Literal["pause", "resume", "abort"]
WORDS: dict[MaintenanceWord, Callable[[Maintenance, int], Maintenance]] = {"pause": pause, "resume": resume, "abort": abort}


class Maintenances:
    def __init__(
        self, store: Store, mirror: Mirror, observed: Observed, clock: Clock, settings: MaintenanceSettings | None = None
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._observed = observed
        self._clock = clock
        self._settings = settings or MaintenanceSettings()

    async def run(self) -> None:
        while True:
            revision = self._mirror.revision
            try:
                busy = await self.step()
            except StoreError as error:  # a conflict with an operator's word among them
                log.info("maintenance_waits", error=str(error))
                await self._clock.sleep_ms(RETRY_DELAY_MS)
                continue
            if busy:
                await self._observed.wait_beyond(self._observed.version, wait_ms=TICK_MS)
            else:
                await self._mirror.wait_beyond(revision, wait_ms=IDLE_MS)

    @property
    def current(self) -> Maintenance | None:
        """The one that is under way, or the last one."""
        return self._mirror.get(keys.MAINTENANCE_NOW, Maintenance)

    async def step(self) -> bool:
        """Move it on; whether one is under way. Raises `StoreError`."""
        job = self.current
        if job is None or is_over(job):
            return False
        facts = self.facts()
        if facts is not None:
            after = step(job, facts, self._clock.now_ms(), self._settings)
            if after != job:
                _tell(job, after)
                await self._commit(after)
        return True

    def facts(self) -> Facts | None:
        """None while this control has yet to hear from cities that may well be alive."""
        nodes: dict[NodeId, NodeFacts] = {}
        serves: dict[tuple[AccountId, AppName], list[NodeId]] = {}
        for intent in self._mirror.select(keys.SITES, SiteIntent):
            site = intent.site.id
            lost = self._observed.is_lost(site)
            if not lost and not self._observed.is_known(site):
                return None
            report = self._observed.report(site)
            held = report.instances if report else ()
            on_node: dict[NodeId, int] = {}
            for item in held:
                on_node[item.node] = on_node.get(item.node, 0) + 1
                if not lost and item.instance.state in SERVING_STATES:
                    serves.setdefault((item.instance.account, item.instance.app), []).append(item.node)
            said = {entry.node: entry.report for entry in report.tasks} if report else {}
            for node in report.nodes if report else ():
                state: PlaceState = "down" if lost else node.state
                nodes[node.id] = NodeFacts(site=site, state=state, instances=on_node.get(node.id, 0), task=said.get(node.id))
        apps = tuple(found for key in sorted(serves) if (found := self._app(key, serves[key])) is not None)
        return Facts(nodes=nodes, apps=apps)

    async def start(self, asked: MaintenanceStart, author: str) -> Maintenance:
        """Begin one. Raises `NotFound`, `Invalid`, ports.operations.Conflict and `StoreError`."""
        job = self.current
        if job is not None and not is_over(job):
            raise OperationConflict(
                f"maintenance is {job.state} already ({job.task})", hint="`skerry maintenance status`; abort ends it"
            )
        chosen = self._chosen(asked)
        now_ms = self._clock.now_ms()
        counts = {site: len(self._observed.instances(site)) for site in set(chosen.values())}
        made = begin(
            id_=stable_id("maintenance", asked.task, str(now_ms), author, length=12),
            task=asked.task,
            percent=asked.max_unavailable_percent,
            author=author,
            nodes=chosen,
            instances=counts,
            now_ms=now_ms,
        )
        await self._commit(made)
        log.info("maintenance_begins", task=made.task, nodes=len(made.nodes), author=author)
        return made

    async def say(self, word: MaintenanceWord) -> Maintenance:
        """An operator's word. Raises ports.operations.Conflict and `StoreError`."""
        for _ in range(TRIES_MAX):
            job = self.current
            if job is None:
                raise OperationConflict("no maintenance is under way", hint="`skerry maintenance start` begins one")
            try:
                after = WORDS[word](job, self._clock.now_ms())
            except NotNow as error:
                raise OperationConflict(f"{word}: {error}", hint="`skerry maintenance status`") from error
            try:
                if after != job:
                    await self._commit(after)
            except Conflict:
                await self._mirror.wait_beyond(self._mirror.revision, wait_ms=100)
                continue
            return after
        raise OperationConflict("maintenance is moving", hint="try again")

    def _chosen(self, asked: MaintenanceStart) -> dict[NodeId, SiteId]:
        intents = {intent.site.id: intent for intent in self._mirror.select(keys.SITES, SiteIntent)}
        unknown = [name for name in asked.sites if name not in intents]
        if unknown:
            raise NotFound(f"there is no site {unknown[0][:64]!r}", hint="`skerry sites` lists them")
        regions = {intent.site.region for intent in intents.values()}
        strange = [name for name in asked.regions if name not in regions]
        if strange:
            raise NotFound(f"there is no site in region {strange[0][:64]!r}", hint=f"regions: {', '.join(sorted(regions))}")
        everywhere = not asked.sites and not asked.regions
        nodes = {
            node.id: node
            for intent in intents.values()
            if everywhere or intent.site.id in asked.sites or intent.site.region in asked.regions
            for node in self._observed.nodes(intent.site.id)
        }
        if not nodes:
            raise Invalid("no node has reported from there", hint="`skerry nodes`")
        if len(nodes) > NODES_MAX:
            raise Invalid(f"{len(nodes)} nodes are more than {NODES_MAX} at a time", hint="choose with --cities or --region")
        unable = sorted(node for node, found in nodes.items() if asked.task not in found.tasks)
        if unable:
            names = ", ".join(unable[:NAMES_SHOWN]) + (", …" if len(unable) > NAMES_SHOWN else "")
            offered = set[str].intersection(*(set(node.tasks) for node in nodes.values()))
            raise Invalid(
                f"{asked.task[:64]!r} is not among what {names} may do",
                hint=f"all of them may: {', '.join(sorted(offered)) or 'nothing'}; `skerry up --hook NAME=PROGRAM` adds one",
            )
        return {name: node.site for name, node in nodes.items()}

    def _app(self, key: tuple[AccountId, AppName], serves: list[NodeId]) -> AppFacts | None:
        app = self._mirror.get(keys.app(*key), App)
        if app is None:
            return None
        scale = app.scale
        return AppFacts(app=app.name, survive_sites=scale.survive_sites, min_total=scale.min_total, serves=tuple(serves))

    async def _commit(self, job: Maintenance) -> None:
        check = self._mirror.check(keys.MAINTENANCE_NOW)
        revision = await self._store.transact([check], [Put(key=keys.MAINTENANCE_NOW, value=record.encode(job))])
        while self._mirror.revision < revision:
            await self._mirror.wait_beyond(self._mirror.revision, wait_ms=IDLE_MS)


def _tell(before: Maintenance, after: Maintenance) -> None:
    old = {work.node: work.phase for work in before.nodes}
    moved = {work.node: work.phase for work in after.nodes if old.get(work.node) != work.phase}
    if moved or before.state != after.state:
        log.info("maintenance_moves", state=after.state, detail=after.detail, **moved)
