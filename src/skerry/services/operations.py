"""What operators and developers ask of the running platform; the own API's `Operations`."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from skerry.core.machines.failure import Opinion, silence_sentence
from skerry.core.placement.explain import explain, reason_sentence
from skerry.core.types.account import Account
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.change import Change
from skerry.core.types.control import PlanHead, SiteIntent
from skerry.core.types.ids import AccountId, AppName, NodeId, SiteId, VersionId
from skerry.core.types.plan import Blocked, Evaluation, Plan, Release
from skerry.core.types.slices import SERVING_STATES, SiteInstance
from skerry.core.types.strain import StrainOf
from skerry.core.types.view import (
    Amounts,
    AppView,
    DemandView,
    DrainView,
    Explanation,
    InstanceView,
    MaintenanceStart,
    MaintenanceView,
    NodeVerdict,
    NodeView,
    PlanDifference,
    RolloutDetail,
    RolloutView,
    SiteVerdict,
    SiteView,
    Status,
)
from skerry.core.types.view_map import AppMap
from skerry.core.types.view_placing import SettingsView
from skerry.kit import record
from skerry.ports.clock import Clock
from skerry.ports.operations import Conflict as NotNow
from skerry.ports.operations import NotFound as Missing
from skerry.ports.store import Conflict, Op, Put, Store
from skerry.services.control import keys
from skerry.services.control.demand_view import AppKey, States, city_rates, demand_sentence, demand_view, instance_states
from skerry.services.control.drains import Drains
from skerry.services.control.dry_run import DryRun
from skerry.services.control.exchanges import Exchanges
from skerry.services.control.maintenance_view import maintenance_view, sentences
from skerry.services.control.maintenances import Maintenances, MaintenanceWord
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.placer import Placer
from skerry.services.control.rollout_view import rollout_detail
from skerry.services.control.rollouts import ROLLBACK_SOURCE, NothingToChange, Rollouts, Word
from skerry.services.control.settings import PlacementSettings

if TYPE_CHECKING:
    from skerry.core.worlds.generate import Catalogue

TRIES_MAX = 5  # compare-and-set races with other operators


class PlatformOperations:
    """Reads the mirror and the reports; writes operators' intent. Users are those of `load_catalogue`, called when asked for."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        observed: Observed,
        placer: Placer,
        clock: Clock,
        *,
        load_catalogue: "Callable[[], Catalogue]",
        exchanges: Exchanges,
        rollouts: Rollouts,
        maintenances: Maintenances,
        suffix: str,
        public_port: int,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._observed = observed
        self._placer = placer
        self._rollouts = rollouts
        self._maintenances = maintenances
        self._clock = clock
        self._drains = Drains(mirror)
        self._dry_run = DryRun(mirror, observed, placer, clock, exchanges)
        self._settings = PlacementSettings(store, mirror)
        self._load_catalogue = load_catalogue  # of cities and their users
        self._suffix = suffix
        self._port = public_port

    def url(self, account_name: str, app: App) -> str:
        """Where users find it; of a program that speaks TCP the first site's address, as it has one in each."""
        if app.public_port is not None:
            address = next((intent.site.address for intent in self._mirror.select(keys.SITES, SiteIntent)), "")
            return f"tcp://{address.rpartition(':')[0]}:{app.public_port}"
        port = "" if self._port == 80 else f":{self._port}"
        return f"http://{app.name}.{account_name}.{self._suffix}{port}"

    async def status(self, account: AccountId | None) -> Status:
        intents = tuple(self._mirror.select(keys.SITES, SiteIntent))
        held = [(intent.site.id, item) for intent in intents for item in self._observed.instances(intent.site.id)]
        visible = [pair for pair in held if account in (None, pair[1].instance.account)]
        return Status(
            sites=tuple(self._site_view(intent, operator=account is None) for intent in intents),
            nodes=self._node_views(intents) if account is None else (),
            instances=tuple(self._instance_view(site, item) for site, item in visible),
            apps=tuple(self._app_views(account, visible)),
            now_ms=self._clock.now_ms(),
        )

    async def instances(self, account: AccountId, app: AppName) -> tuple[InstanceView, ...]:
        self._app(account, app)
        sites = [intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent)]
        held = [(site, item) for site in sites for item in self._observed.instances(site)]
        return tuple(
            self._instance_view(site, item) for site, item in held if (item.instance.account, item.instance.app) == (account, app)
        )

    async def drain(self, target: str) -> DrainView:
        return await self._set_draining(target, draining=True)

    async def undrain(self, target: str) -> DrainView:
        return await self._set_draining(target, draining=False)

    async def explain(self, account: AccountId, app: AppName, site: SiteId | None) -> Explanation:
        key = (account, app)
        record_of_app = self._app(account, app)
        if site is not None and self._mirror.get(keys.site(site), SiteIntent) is None:
            raise Missing(f"there is no site {site}", hint="`skerry sites` lists them")
        head = self._mirror.get(keys.plan_head(*key), PlanHead)
        plan = self._mirror.get(keys.plan(*key, head.generation), Plan) if head else None
        # Imported at the first question, as NumPy is slow to import.
        from skerry.core.placement.terms import site_terms

        snapshot = self._placer.preview(key)
        blocked = self._mirror.get(keys.blocked(*key), Blocked)
        terms = site_terms(snapshot.world, record_of_app, snapshot.shares, plan)
        said = explain(record_of_app, plan, snapshot.world, site, terms, versions=tuple(v for v, _ in snapshot.shares))
        undone = self._rolled_back(record_of_app)
        asked = {entry.site: (demand_sentence(entry),) for entry in self._observed.demand(account, app)}
        return replace(
            said,
            placements=tuple(replace(p, serving=self._serving(key, p.site, p.version)) for p in said.placements),
            report=(*((undone,) if undone else ()), *said.report),
            blocked_since_ms=blocked.since_ms if blocked else None,
            verdicts=tuple(self._with_silence(v, asked.get(v.site, ())) for v in said.verdicts),
            nodes=tuple(self._node_as_it_is(verdict) for verdict in said.nodes),
            strains=self._strains(key, site),
        )

    def settings(self) -> SettingsView:
        return self._settings.view()

    async def change_settings(
        self, changes: Mapping[str, object], rtts_ms: Mapping[str, Mapping[str, float | None]]
    ) -> SettingsView:
        return await self._settings.change(changes, rtts_ms)

    async def demand(self, account: AccountId, app: AppName) -> DemandView:
        self._app(account, app)
        return self._demand_view((account, app), self._instance_states())

    async def demands(self, account: AccountId | None) -> tuple[DemandView, ...]:
        states = self._instance_states()
        apps = [app for app in self._mirror.select(keys.APPS, App) if account in (None, app.account)]
        return tuple(replace(self._demand_view((app.account, app.name), states), cities=()) for app in apps)

    def _instance_states(self) -> Mapping[AppKey, States]:
        return instance_states(self._observed, [intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent)])

    def _demand_view(self, key: AppKey, states: Mapping[AppKey, States]) -> DemandView:
        return demand_view(self._observed, key, self._account_name(key[0]), states.get(key, {}))

    def _with_silence(self, verdict: SiteVerdict, asked: tuple[str, ...]) -> SiteVerdict:
        """`asked`: what is said of its users."""
        opinion = self._observed.opinion(verdict.site)
        silent = () if opinion.state == "up" else (silence_sentence(opinion, "control"),)
        return replace(verdict, reasons=(*verdict.reasons, *asked, *silent))

    def _node_as_it_is(self, verdict: NodeVerdict) -> NodeVerdict:
        said = sentences(self._maintenances.current).get(verdict.node)
        if said is not None:
            verdict = replace(verdict, reasons=(*verdict.reasons, f"{said} (`skerry maintenance status`)"))
        silent = self._observed.silent_node(keys.site_of_node(verdict.node), verdict.node)
        if silent is None:
            return verdict
        opinion = Opinion(state="lost" if silent.lost else "suspected", phi=silent.phi, silent_ms=silent.silent_ms)
        return replace(verdict, reasons=(*verdict.reasons, silence_sentence(opinion, "its city")))

    async def difference(self, seen: AccountId | None, account: AccountId, change: Change) -> PlanDifference:
        return await self._dry_run.difference(seen, account, change)

    async def app_map(self, account: AccountId, app: AppName) -> AppMap:
        # Imported at the first map, as NumPy is slow to import.
        from skerry.services.app_map import copies_of, make_app_map

        found = self._app(account, app)
        intents = [i for i in self._mirror.select(keys.SITES, SiteIntent) if not self._observed.is_lost(i.site.id)]
        held = {intent.site.id: self._observed.instances(intent.site.id) for intent in intents}
        name = self._account_name(account)
        return make_app_map(
            account=account,
            account_name=name,
            app=app,
            url=self.url(name, found),
            copies=copies_of(account, app, held),
            sites={intent.site.id: intent.site for intent in intents},
            catalogue=self._load_catalogue(),
            now_ms=self._clock.now_ms(),
            asked=city_rates(self._observed.demand(account, app)),
        )

    async def rollout(self, account: AccountId, app: AppName) -> RolloutDetail:
        found = self._app(account, app)
        release = self._mirror.get(keys.release(account, app), Release)
        short = self._rollout(found)
        if release is None:
            return RolloutDetail(account=account, app=app, rollout=short)
        return rollout_detail(self._rollouts, release, short)

    async def change_rollout(self, account: AccountId, app: AppName, word: Word) -> RolloutDetail:
        self._app(account, app)
        for _ in range(TRIES_MAX):
            try:
                await self._rollouts.say((account, app), word)
            except Conflict:
                await self._mirror.wait_beyond(self._mirror.revision, wait_ms=100)
            except NothingToChange as error:
                raise NotNow(str(error), hint="`skerry apps` shows how far each rollout is") from error
            else:
                return await self.rollout(account, app)
        raise NotNow(f"the rollout of {app} is moving", hint="try again")

    async def maintenance(self) -> MaintenanceView:
        return maintenance_view(self._maintenances.current, self._observed, self._clock.now_ms())

    async def start_maintenance(self, asked: MaintenanceStart, author: str) -> MaintenanceView:
        job = await self._maintenances.start(asked, author)
        return maintenance_view(job, self._observed, self._clock.now_ms())

    async def change_maintenance(self, word: MaintenanceWord) -> MaintenanceView:
        job = await self._maintenances.say(word)
        return maintenance_view(job, self._observed, self._clock.now_ms())

    def _app(self, account: AccountId, app: AppName) -> App:
        found = self._mirror.get(keys.app(account, app), App)
        if found is None:
            raise Missing(f"there is no app {app} in this account", hint="`skerry apps` lists them")
        return found

    def _site_view(self, intent: SiteIntent, *, operator: bool) -> SiteView:
        site = intent.site
        report = self._observed.report(site.id)
        opinion = self._observed.opinion(site.id)
        lost = opinion.state == "lost"
        nodes = report.nodes if report else ()
        return SiteView(
            site=site.id,
            city=site.city,
            country=site.country,
            region=site.region,
            lat=site.lat,
            lon=site.lon,
            address=site.address,
            state=self._observed.site_state(intent),
            pid=report.pid if report and not lost else None,
            ingress_pid=(report.ingress_pid or None) if report and not lost else None,
            nodes=len(nodes),
            nodes_up=0 if lost else sum(node.state != "down" for node in nodes),
            generation=report.slice_generation if report else 0,
            seen_ms=self._observed.seen_at_ms(site.id),
            suspected=opinion.state == "suspected",
            phi=opinion.phi,
            problems=report.problems if report and operator else (),
        )

    def _node_views(self, intents: tuple[SiteIntent, ...]) -> tuple[NodeView, ...]:
        views: list[NodeView] = []
        said = sentences(self._maintenances.current)
        for intent in intents:
            lost = self._observed.is_lost(intent.site.id)
            drained = self._drains.of(intent)
            on_nodes = [held.node for held in self._observed.instances(intent.site.id)]
            for node in self._observed.nodes(intent.site.id):
                draining = node.id in drained and node.state == "up"
                down = lost or node.state == "down"
                silent = self._observed.silent_node(node.site, node.id)
                views.append(
                    NodeView(
                        node=node.id,
                        site=node.site,
                        address=node.address,
                        state="down" if down else "draining" if draining else node.state,
                        pid=None if down else node.pid or None,
                        capacity=Amounts.of(node.capacity),
                        reserved=Amounts.of(node.reserved),
                        instances=on_nodes.count(node.id),
                        suspected=silent is not None and not silent.lost and not lost,
                        phi=silent.phi if silent else 0.0,
                        maintenance=said.get(node.id, ""),
                        overcommit_cpu_percent=node.overcommit.cpu_percent,
                        overcommit_memory_percent=node.overcommit.memory_percent,
                    )
                )
        return tuple(views)

    def _instance_view(self, site: SiteId, held: SiteInstance) -> InstanceView:
        seen = held.instance
        return InstanceView(
            instance=seen.id,
            account=seen.account,
            account_name=self._account_name(seen.account),
            app=seen.app,
            version=seen.version,
            site=site,
            node=held.node,
            state=seen.state,
            pid=seen.pid,
            since_ms=seen.since_ms,
            address=seen.address,
            restarts=seen.restarts,
            memory_bytes=seen.memory_bytes,
            detail=seen.detail,
            strains=seen.strains,
        )

    def _app_views(self, account: AccountId | None, held: list[tuple[SiteId, SiteInstance]]) -> list[AppView]:
        by_app: dict[tuple[AccountId, AppName], list[tuple[SiteId, SiteInstance]]] = {}
        for site, item in held:
            by_app.setdefault((item.instance.account, item.instance.app), []).append((site, item))
        views: list[AppView] = []
        for app in self._mirror.select(keys.APPS, App):
            if account not in (None, app.account):
                continue
            own = by_app.get((app.account, app.name), [])
            serving = [(site, item) for site, item in own if item.instance.state in SERVING_STATES]
            name = self._account_name(app.account)
            views.append(
                AppView(
                    account=app.account,
                    account_name=name,
                    app=app.name,
                    version=self._newest_version(app),
                    url=self.url(name, app),
                    rollout=self._rollout(app),
                    sites=tuple(sorted({site for site, _ in serving})),
                    instances=len(own),
                    serving=len(serving),
                    modified_ms=app.modified_ms,
                    public_port=app.public_port,
                )
            )
        return views

    def _rollout(self, app: App) -> RolloutView:
        key = (app.account, app.name)
        if app.deployment is None:
            return RolloutView(state="none")
        release = self._mirror.get(keys.release(*key), Release)
        blocked = self._mirror.get(keys.blocked(*key), Blocked)
        pending = any(self._mirror.select(f"{keys.EVALUATIONS}{app.account}/{app.name}/", Evaluation))
        if release is None or pending:
            return RolloutView(state="pending")
        undone = self._rolled_back(app)
        if undone and release.state == "done":
            return RolloutView(state="rolled_back", wave=len(release.waves), waves=len(release.waves), detail=undone)
        if blocked is not None and release.state == "done":
            detail = "; ".join(f"{r.place}: {reason_sentence(r)}" for r in blocked.rejections)
            return RolloutView(state="blocked", wave=len(release.waves), waves=len(release.waves), detail=detail)
        wave = min(release.wave + 1, len(release.waves))
        state = "paused" if release.paused and release.state == "running" else release.state
        return RolloutView(state=state, wave=wave, waves=len(release.waves), detail=release.detail)

    def _rolled_back(self, app: App) -> str:
        """Why what serves now is what served before; empty when the latest deployment is its author's own."""
        current = self._current_deployment(app)
        return current.message if current and current.source == ROLLBACK_SOURCE else ""

    def _current_deployment(self, app: App) -> Deployment | None:
        deployments = self._mirror.select(f"{keys.DEPLOYMENTS}{app.account}/{app.name}/", Deployment)
        return next((d for d in deployments if d.id == app.deployment), None)

    def _newest_version(self, app: App) -> VersionId | None:
        current = self._current_deployment(app)
        if current is None:
            return None
        found = [self._mirror.get(keys.version(app.account, app.name, s.version), Version) for s in current.shares]
        known = [version for version in found if version is not None]
        return max(known, key=lambda version: version.number).id if known else None

    def _serving(self, key: tuple[AccountId, AppName], site: SiteId, version: VersionId) -> int:
        seen = [held.instance for held in self._observed.instances(site)]
        return sum((i.account, i.app, i.version) == (*key, version) and i.state in SERVING_STATES for i in seen)

    def _strains(self, key: AppKey, site: SiteId | None) -> tuple[StrainOf, ...]:
        """Of the app's instances there, or everywhere."""
        sites = (site,) if site is not None else tuple(intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent))
        held = [one for name in sites for one in self._observed.instances(name)]
        return tuple(
            StrainOf(instance=one.instance.id, node=one.node, strain=strain)
            for one in held
            if (one.instance.account, one.instance.app) == key
            for strain in one.instance.strains
        )

    def _account_name(self, account: AccountId) -> str:
        found = self._mirror.get(f"{keys.ACCOUNTS}{account}", Account)
        return found.name if found else account

    async def _set_draining(self, target: str, *, draining: bool) -> DrainView:
        for _ in range(TRIES_MAX):
            intent = self._intent_of(target)
            changed = _with_draining(intent, target, draining=draining)
            if changed == intent:
                return self._drain_view(intent, target, draining=draining)
            ops: list[Op] = [Put(key=keys.site(intent.site.id), value=record.encode(changed))]
            try:
                revision = await self._store.transact([self._mirror.check(keys.site(intent.site.id))], ops)
            except Conflict:
                await self._mirror.wait_beyond(self._mirror.revision, wait_ms=100)
                continue
            while self._mirror.revision < revision:
                await self._mirror.wait_beyond(self._mirror.revision, wait_ms=100)
            return self._drain_view(changed, target, draining=draining)
        raise NotNow(f"{target} is being changed by somebody else", hint="try again")

    def _intent_of(self, target: str) -> SiteIntent:
        intent = self._mirror.get(keys.site(SiteId(target)), SiteIntent)
        if intent is not None:
            return intent
        site = keys.site_of_node(NodeId(target))
        intent = self._mirror.get(keys.site(site), SiteIntent)
        if intent is None or all(node.id != target for node in self._observed.nodes(site)):
            raise Missing(f"there is no site or node {target}", hint="`skerry sites` and `skerry nodes` list them")
        return intent

    def _drain_view(self, intent: SiteIntent, target: str, *, draining: bool) -> DrainView:
        is_site = intent.site.id == target
        held = self._observed.instances(intent.site.id)
        moving = sum(is_site or item.node == target for item in held) if draining else 0
        kind, state = ("site" if is_site else "node"), ("draining" if draining else "up")
        return DrainView(target=target, kind=kind, state=state, moving=moving)


def _with_draining(intent: SiteIntent, target: str, *, draining: bool) -> SiteIntent:
    if intent.site.id == target:
        return replace(intent, site=replace(intent.site, state="draining" if draining else "up"))
    nodes = set(intent.draining_nodes)
    (nodes.add if draining else nodes.discard)(NodeId(target))
    return replace(intent, draining_nodes=tuple(sorted(nodes)))
