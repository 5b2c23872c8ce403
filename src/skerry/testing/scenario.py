"""Text scenarios of deciding: commands in, decisions with their reasons out. Core alone, time by hand.

A file holds blocks: commands, a line `----`, and what they print, up to an empty line. `rewrite(text)` runs the
commands and gives the text with what they print now.

```
site lhr [nodes=3] [memory=1024] [others=0] [features=kvm,gpu]     add a site (its nodes' MiB; MiB that other apps hold)
state lhr draining          set a site to up, draining, down or cut_off; or a node: `state lhr-1 draining`
lose lhr-1 | back lhr-1     a node falls silent for good; it comes back empty
scale hello min=2 max=3 allow=lhr,country:GB deny=… features=… pin=…
deploy hello v1 | v1=90 v2=10 [memory=12]                          new deployment: plan, checks, release
delete hello | replan hello
break hello v2              from now on instances of this version fail at their start
run 2000                    let so many ms pass, 100 at a time; prints what changes
explain hello [lhr] | routes lhr | instances
```
"""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from skerry.core.checks.plan import plan_violations
from skerry.core.checks.site import site_violations
from skerry.core.checks.slices import slice_violations
from skerry.core.machines.rollout import RolloutSettings, SiteFacts, brings_new_version, step, waves
from skerry.core.placement.explain import explain
from skerry.core.placement.ledger import reservations
from skerry.core.placement.place import place, same_decision
from skerry.core.placement.world import SiteView, World
from skerry.core.policy.scale import scale_faults
from skerry.core.reconcile.control import site_slice_apps
from skerry.core.reconcile.node import reconcile_node
from skerry.core.reconcile.site import decide_site
from skerry.core.reconcile.site_types import NodeHeard, SiteInput, SiteMemory
from skerry.core.types.app import App, Deployment, Scale, Share, Version
from skerry.core.types.ids import AppName, DeploymentId, InstanceId, NodeId, PlanId, SiteId, VersionId
from skerry.core.types.place import Node, PlaceState, Site
from skerry.core.types.plan import EvaluationCause, Plan, Release
from skerry.core.types.resources import Resources
from skerry.core.types.routes import Route, RouteTable
from skerry.core.types.slices import SERVING_STATES, NodeSlice, ObservedInstance, Peer, SiteSlice
from skerry.testing.builders import (
    ACCOUNT,
    make_app,
    make_evaluation,
    make_node,
    make_observed,
    make_report,
    make_site,
    make_version,
)

STEP_MS = 100  # one look of everybody at everything; also how long an instance takes to start
DIVIDER = "----"
Words = Sequence[str]


def rewrite(text: str) -> str:
    """The same scenario with the output of this code. Raises ValueError for a command that is not understood."""
    world = Scenario()
    blocks: list[str] = []
    for block in text.strip().split("\n\n"):
        commands = block.split(f"\n{DIVIDER}")[0].splitlines()
        printed = [line for command in commands if not command.startswith("#") for line in world.do(command)]
        shown = [*commands, DIVIDER, *printed] if any(not line.startswith("#") for line in commands) else commands
        blocks.append("\n".join(shown))
    return "\n\n".join(blocks) + "\n"


class _SiteSim:
    """One site: its controller's memory, and nodes that do what their slices say."""

    def __init__(self, site: Site, nodes: Sequence[Node], others: Resources) -> None:
        self.site, self.others = site, others
        self.nodes = {node.id: node for node in nodes}
        self.lost: set[NodeId] = set()
        self.slice = SiteSlice(site=site.id, generation=0)
        self.memory = SiteMemory()
        self.slices = {name: NodeSlice(node=name, generation=0) for name in self.nodes}
        self.running: dict[NodeId, dict[InstanceId, ObservedInstance]] = {name: {} for name in self.nodes}
        self.routes: list[str] = []
        self.refused: tuple[str, ...] = ()

    def observed(self) -> list[ObservedInstance]:
        return [seen for name, running in self.running.items() if name not in self.lost for seen in running.values()]


class Scenario:
    """`do` carries one command out and gives the lines it prints."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.sites: dict[SiteId, _SiteSim] = {}
        self.apps: dict[AppName, App] = {}
        self.versions: dict[VersionId, Version] = {}
        self.deployments: dict[DeploymentId, Deployment] = {}
        self.plans: dict[PlanId, Plan] = {}
        self.heads: dict[AppName, Plan] = {}
        self.releases: dict[AppName, Release] = {}
        self.broken: set[VersionId] = set()

    def do(self, command: str) -> list[str]:
        name, *words = command.split()
        commands: dict[str, Callable[[Words], list[str]]] = {
            "site": self._site,
            "state": self._state,
            "lose": self._lose,
            "back": self._back,
            "scale": self._scale,
            "deploy": self._deploy,
            "delete": self._delete,
            "replan": lambda words: self._plan(AppName(words[0]), "capacity"),
            "break": self._break,
            "run": self._run,
            "explain": self._explain,
            "routes": lambda words: self.sites[SiteId(words[0])].routes,
            "instances": lambda _: self._instances(),
        }
        if name not in commands:
            raise ValueError(f"no such command: {command}")
        return commands[name](words)

    # The world and the intent.

    def _site(self, words: Words) -> list[str]:
        name, options = words[0], _options(words[1:])
        features = tuple(options["features"].split(",")) if "features" in options else ()
        nodes = [
            make_node(f"{name}-{number}", memory_mib=int(options.get("memory", "1024")), features=features)
            for number in range(1, int(options.get("nodes", "3")) + 1)
        ]
        others = Resources(memory_mib=int(options.get("others", "0")))
        self.sites[SiteId(name)] = _SiteSim(make_site(name), nodes, others)
        return []

    def _state(self, words: Words) -> list[str]:
        name, state = words[0], words[1]
        assert state in ("up", "draining", "down", "cut_off")
        self._set_state(name, state)
        return []

    def _set_state(self, name: str, state: PlaceState) -> None:
        if "-" not in name:
            sim = self.sites[SiteId(name)]
            sim.site = replace(sim.site, state=state)
        else:
            sim = self._sim_of(NodeId(name))
            sim.nodes[NodeId(name)] = replace(sim.nodes[NodeId(name)], state=state)

    def _lose(self, words: Words) -> list[str]:
        node = NodeId(words[0])
        sim = self._sim_of(node)
        sim.lost.add(node)
        sim.running[node] = {}
        self._set_state(node, "down")
        return []

    def _back(self, words: Words) -> list[str]:
        node = NodeId(words[0])
        self._sim_of(node).lost.discard(node)
        self._set_state(node, "up")
        return []

    def _sim_of(self, node: NodeId) -> _SiteSim:
        return next(sim for sim in self.sites.values() if node in sim.nodes)

    def _scale(self, words: Words) -> list[str]:
        name, options = AppName(words[0]), _options(words[1:])
        names = {key: tuple(options[key].split(",")) for key in ("allow", "deny", "features", "pin") if options.get(key)}
        scale = Scale(
            min_per_site=int(options.get("min", "1")),
            max_total=int(options["max"]) if "max" in options else None,
            allow=names.get("allow", ()),
            deny=names.get("deny", ()),
            features=names.get("features", ()),
            pin=tuple(SiteId(pin) for pin in names.get("pin", ())),
        )
        self.apps[name] = replace(self.apps.get(name, make_app(name, deployment=None)), scale=scale)
        faults = scale_faults(scale, tuple(sim.site for sim in self.sites.values()))
        changed = self._plan(name, "scale") if self.apps[name].deployment and not faults else []
        return [f"fault: {fault}" for fault in faults] or changed

    def _deploy(self, words: Words) -> list[str]:
        name = AppName(words[0])
        options = _options([word for word in words[1:] if word.startswith("memory=")])
        shares: list[Share] = []
        for word in words[1:]:
            number, _, percent = word.removeprefix("v").partition("=")
            if word.startswith("v"):
                version = make_version(int(number), app=name, memory_mib=int(options.get("memory", "12")))
                version = self.versions.setdefault(version.id, version)
                shares.append(Share(version=version.id, percent=float(percent or "100")))
        deployment = DeploymentId(f"d{len(self.deployments) + 1}")
        self.deployments[deployment] = Deployment(
            id=deployment, account=ACCOUNT, app=name, created_ms=self.now_ms, shares=tuple(shares)
        )
        self.apps[name] = replace(self.apps.get(name, make_app(name)), deployment=deployment)
        return self._plan(name, "deploy")

    def _delete(self, words: Words) -> list[str]:
        name = AppName(words[0])
        gone = replace(self.apps[name], enabled=False)
        self.apps[name] = gone
        lines = self._plan(name, "delete")
        del self.apps[name]
        return lines

    def _break(self, words: Words) -> list[str]:
        self.broken.add(VersionId(f"{words[0]}-{words[1]}"))
        return []

    # Control.

    def _plan(self, name: AppName, cause: EvaluationCause) -> list[str]:
        app, parent, world = self.apps[name], self.heads.get(name), self._world(name)
        deployment = self.deployments.get(app.deployment) if app.deployment and app.enabled else None
        shares = tuple((self.versions[share.version], share.percent) for share in deployment.shares) if deployment else ()
        plan = place(world, app, shares, evaluation=make_evaluation(name, cause=cause), parent=parent, now_ms=self.now_ms)
        violations = plan_violations(plan, world, app, shares, parent)
        if parent is not None and same_decision(plan, parent):
            return [*violations, f"{name}: nothing to change"]
        release = self.releases.get(name)
        previous = self.plans.get(_in_force(release)) if release else None
        sites = tuple(sim.site for sim in self.sites.values())
        self.plans[plan.id] = self.heads[name] = plan
        self.releases[name] = Release(
            account=ACCOUNT,
            app=name,
            plan=plan.id,
            previous=previous.id if previous else None,
            state="running",
            waves=waves(plan, previous, sites),
            wave=0,
            wave_since_ms=self.now_ms,
            gated=brings_new_version(plan, previous) or previous is None,
        )
        shown = " | ".join(" ".join(group) for group in self.releases[name].waves)
        return [
            *violations,
            f"plan {plan.generation} of {name} ({cause})",
            *(f"  {line}" for line in plan.report),
            f"  waves: {shown}",
        ]

    def _world(self, name: AppName) -> World:
        return World(
            sites=tuple(
                SiteView(site=sim.site, nodes=tuple(sim.nodes.values()), others=sim.others + self._held_by_others(site, name))
                for site, sim in self.sites.items()
            )
        )

    def _held_by_others(self, site: SiteId, name: AppName) -> Resources:
        held = Resources()
        for other, plan in self.heads.items():
            if other != name:
                for reservation in reservations(plan, self.versions):
                    held += reservation.resources if reservation.site == site else Resources()
        return held

    def _run(self, words: Words) -> list[str]:
        lines: list[str] = []
        for _ in range(int(words[0]) // STEP_MS):
            lines += [f"{self.now_ms:>5} ms  {line}" for line in self._step()]
            self.now_ms += STEP_MS
        return lines

    def _step(self) -> list[str]:
        """Everybody looks once: control at releases, sites at their slices, nodes at theirs."""
        lines = [line for name in sorted(self.releases) for line in self._step_release(name)]
        for site in sorted(self.sites):
            lines += self._step_site(self.sites[site])
        return lines

    def _step_release(self, name: AppName) -> list[str]:
        before = self.releases[name]
        after = step(before, self._facts(self.plans[before.plan]), now_ms=self.now_ms, settings=RolloutSettings())
        self.releases[name] = after
        if (after.state, after.wave) == (before.state, before.wave):
            return []
        if after.state == "running":
            return [f"release of {name}: wave {after.wave + 1} of {len(after.waves)}"]
        return [f"release of {name}: {after.state}" + (f" ({after.detail})" if after.detail else "")]

    def _facts(self, plan: Plan) -> dict[SiteId, SiteFacts]:
        facts: dict[SiteId, SiteFacts] = {}
        for site in sorted({entry.site for entry in plan.placements}):
            sim = self.sites[site]
            if sim.site.state in ("down", "cut_off"):
                continue
            asked = {entry.version: entry.count for entry in plan.placements if entry.site == site}
            seen = [i for i in sim.observed() if i.app == plan.app and i.version in asked]
            serving = {v: sum(i.version == v and i.state in SERVING_STATES for i in seen) for v in asked}
            failed = next((i for i in seen if i.state == "failed"), None)
            facts[site] = SiteFacts(
                site=site,
                ready=all(serving[version] >= count for version, count in asked.items()),
                failed=failed is not None,
                detail=failed.detail if failed else "",
            )
        return facts

    # A site and its nodes.

    def _step_site(self, sim: _SiteSim) -> list[str]:
        if sim.site.state == "down":
            return []
        lines = self._new_slice(sim) if sim.site.state != "cut_off" else []
        given = SiteInput(
            slice_=sim.slice,
            memory=sim.memory,
            reports=tuple(
                NodeHeard(report=make_report(sim.nodes[name], tuple(sim.running[name].values())), heard_ms=self.now_ms)
                for name in sim.nodes
                if name not in sim.lost
            ),
            lost=frozenset(sim.lost),
            in_flight={},
            now_ms=self.now_ms,
        )
        decision = decide_site(given)
        lines += site_violations(given, decision)
        sim.memory = decision.memory
        routes = self._shown_routes(sim, decision.routes)
        lines += [f"{sim.site.id} routes {line}" for line in routes if line not in sim.routes]
        sim.routes = routes
        refused = tuple(
            f"refuses {item.missing} of {item.version}: "
            + "; ".join(f"{r.place} {r.reason}{f' ({r.detail})' if r.detail else ''}" for r in item.rejections)
            for item in decision.refused
        )
        lines += [f"{sim.site.id} {line}" for line in refused if line not in sim.refused]
        sim.refused = refused
        for contents in decision.slices:
            before = sim.slices[contents.node]
            if before.instances != contents.instances:
                after = NodeSlice(node=contents.node, generation=before.generation + 1, instances=contents.instances)
                lines += slice_violations(before, after)
                sim.slices[contents.node] = after
            if contents.node not in sim.lost:
                lines += self._step_node(sim, contents.node)
        return lines

    def _new_slice(self, sim: _SiteSim) -> list[str]:
        sites = tuple(other.site for other in self.sites.values())
        apps = site_slice_apps(
            sim.site,
            tuple(self.releases.values()),
            self.plans,
            self.versions,
            {(ACCOUNT, name): app for name, app in self.apps.items()},
            {ACCOUNT: "acme"},
            self.deployments,
            sites,
            "localhost",
        )
        after = replace(
            sim.slice,
            apps=apps,
            peers=tuple(
                Peer(site=site.id, address=site.peer_address, tcp_address=site.peer_tcp_address)
                for site in sites
                if site.id != sim.site.id
            ),
            draining_nodes=tuple(sorted(name for name, node in sim.nodes.items() if node.state == "draining")),
        )
        if after == sim.slice:
            return []
        before, sim.slice = sim.slice, replace(after, generation=sim.slice.generation + 1)
        return list(slice_violations(before, sim.slice))

    def _step_node(self, sim: _SiteSim, node: NodeId) -> list[str]:
        """What was starting serves (or fails) now; then the slice is carried out."""
        running = sim.running[node]
        for name, seen in running.items():
            if seen.state == "starting":
                broken = seen.version in self.broken
                detail = "Uncaught Error: broken" if broken else ""
                running[name] = replace(seen, state="failed" if broken else "running", detail=detail)
        actions = reconcile_node(sim.slices[node], tuple(running.values()))
        lines = [f"{node} starts {instance.version.id}" for instance in actions.start]
        lines += [f"{node} stops {running[name].version}" for name in actions.stop]
        for instance in actions.start:
            running[instance.id] = make_observed(instance.id, instance.version, "starting")
        for name in actions.stop:
            del running[name]
        return lines

    # What is shown.

    def _shown_routes(self, sim: _SiteSim, table: RouteTable) -> list[str]:
        every = (*sim.memory.held, *(entry.held for entry in sim.memory.retiring))
        version_of = {held.instance: held.version for held in every}
        return [_shown(route, version_of) for route in table.routes]

    def _explain(self, words: Words) -> list[str]:
        name = AppName(words[0])
        said = explain(self.apps[name], self.heads.get(name), self._world(name), SiteId(words[1]) if len(words) > 1 else None)
        lines = [f"{v.site} {'chosen' if v.chosen else 'not chosen'}: {'; '.join(v.reasons)}" for v in said.verdicts]
        return lines + [f"  {node.node}: {'; '.join(node.reasons)}" for node in said.nodes]

    def _instances(self) -> list[str]:
        rows = [
            f"{node} {seen.version} {seen.state}"
            for sim in self.sites.values()
            for node, running in sim.running.items()
            for seen in running.values()
        ]
        return sorted(rows)


def _in_force(release: Release) -> PlanId:
    """The newest plan known to be good: what a next release goes back to."""
    if release.state == "done" or release.previous is None:
        return release.plan
    return release.previous


def _shown(route: Route, version_of: dict[InstanceId, VersionId]) -> str:
    targets = sorted(f"{version_of[target.instance]}:{target.weight}" for target in route.targets)
    fallbacks = " ".join(site for site, _ in route.fallbacks)
    name = route.app if route.hosts else f"{route.app} (no host)"
    return f"{name}: {' '.join(targets) or 'nothing here'}; else {fallbacks or 'nowhere'}"


def _options(words: Words) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)
