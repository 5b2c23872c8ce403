"""A site under any sequence of events: make before break, capacity, nothing left behind.

The simulated nodes start what their slice says when the test lets them, crash, fall silent and come back. After every
decision the independent checks must be content; and users never lose what they had but by its own death.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from skerry.core.checks.site import site_violations
from skerry.core.checks.slices import slice_violations
from skerry.core.reconcile.node import reconcile_node
from skerry.core.reconcile.site import decide_site, remember
from skerry.core.reconcile.site_types import DRAIN_MAX_MS, DRAIN_MIN_MS, NodeHeard, SiteDecision, SiteInput, SiteMemory
from skerry.core.types.ids import AppName, InstanceId, NodeId, SiteId
from skerry.core.types.slices import (
    SERVING_STATES,
    InstanceState,
    NodeReport,
    NodeSlice,
    ObservedInstance,
    Peer,
    SiteSlice,
    SliceApp,
    SliceVersion,
)
from skerry.testing.builders import ACCOUNT, make_node, make_observed, make_report, make_version

APPS = ("a", "b")
VERSIONS = {app: tuple(make_version(number, app=app, memory_mib=20) for number in (1, 2, 3)) for app in APPS}
NODES = tuple(NodeId(f"lhr-{n}") for n in (1, 2, 3))
WANTED = st.dictionaries(st.integers(0, 2), st.integers(1, 3), max_size=2)


class SiteMachine(RuleBasedStateMachine):
    @initialize(memory_mib=st.sampled_from((60, 200)), priority=st.sampled_from((50, 50, 80)))
    def start(self, memory_mib: int, priority: int) -> None:
        self.priority = {"a": 50, "b": priority}
        self.nodes = {name: make_node(name, memory_mib=memory_mib) for name in NODES}
        self.slice = SiteSlice(site=SiteId("lhr"), generation=1, peers=(Peer(site=SiteId("cur"), address="cur:1"),))
        self.memory = SiteMemory()
        self.running: dict[NodeId, dict[InstanceId, ObservedInstance]] = {name: {} for name in NODES}
        self.node_slices = {name: NodeSlice(node=name, generation=0) for name in NODES}
        self.reports: dict[NodeId, NodeReport] = {}
        self.gone: set[NodeId] = set()
        self.lost: set[NodeId] = set()
        self.wanted: dict[str, dict[int, int]] = {}
        self.draining: set[NodeId] = set()
        self.in_flight: dict[InstanceId, int] = {}
        self.now_ms = 0
        self.routed: dict[str, set[InstanceId]] = {}
        for name in NODES:
            self.report(name)

    # What happens to the site.

    @rule(app=st.sampled_from(APPS), wanted=WANTED)
    def deploy(self, app: str, wanted: dict[int, int]) -> None:
        self.wanted[app] = wanted
        self.new_slice()

    @rule(app=st.sampled_from(APPS))
    def delete(self, app: str) -> None:
        self.wanted.pop(app, None)
        self.new_slice()

    @rule(node=st.sampled_from(NODES))
    def drain_or_undrain(self, node: NodeId) -> None:
        self.draining ^= {node}
        self.new_slice()

    @rule(node=st.sampled_from(NODES))
    def node_dies(self, node: NodeId) -> None:
        self.gone.add(node)
        self.running[node] = {}
        self.reports.pop(node, None)
        self.lost.add(node)
        self.decide()

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def node_returns(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.gone)))
        self.gone.discard(node)
        self.lost.discard(node)
        self.work(node)

    @rule(node=st.sampled_from(NODES))
    def node_works(self, node: NodeId) -> None:
        self.work(node)

    @rule(data=st.data(), state=st.sampled_from(("running", "running", "running", "asleep", "dead", "backoff", "failed")))
    def instance_becomes(self, data: st.DataObject, state: InstanceState) -> None:
        every = sorted((node, name) for node, seen in self.running.items() for name in seen if node not in self.gone)
        if every:
            node, name = data.draw(st.sampled_from(every))
            self.running[node][name] = replace(self.running[node][name], state=state)
            self.report(node)
            self.decide()

    @rule(data=st.data())
    def requests_hang(self, data: st.DataObject) -> None:
        targets = sorted({name for names in self.routed.values() for name in names})
        if targets:
            self.in_flight = {data.draw(st.sampled_from(targets)): 1}

    @rule(ms=st.sampled_from((1, DRAIN_MIN_MS, DRAIN_MAX_MS)))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        if ms >= DRAIN_MAX_MS:
            self.in_flight = {}
        self.decide()

    @rule(remembers=st.booleans())
    def controller_restarts(self, remembers: bool) -> None:
        """With its memory and no report yet; or without memory, when all nodes were heard."""
        if remembers:
            self.reports = {}
        else:
            for name in NODES:
                if name not in self.gone:
                    self.report(name)
            before = self.memory
            self.memory = remember(self.slice, self.given().reports)
            assert {held.instance for held in self.memory.held} <= {
                held.instance for held in (*before.held, *(entry.held for entry in before.retiring))
            } | {name for seen in self.running.values() for name in seen}
            self.routed = {}
        self.decide()

    # How the site answers.

    def new_slice(self) -> None:
        apps = tuple(
            SliceApp(
                account=ACCOUNT,
                account_name="acme",
                app=AppName(app),
                plan_generation=self.slice.generation + 1,
                versions=tuple(
                    SliceVersion(version=VERSIONS[app][number], count=count, weight=128)
                    for number, count in sorted(wanted.items())
                ),
                hosts=(f"{app}.acme.localhost",),
                fallbacks=(SiteId("cur"),),
                priority=self.priority[app],
            )
            for app, wanted in sorted(self.wanted.items())
        )
        after = replace(self.slice, generation=self.slice.generation + 1, apps=apps, draining_nodes=tuple(sorted(self.draining)))
        assert slice_violations(self.slice, after) == ()
        self.slice = after
        self.decide()

    def work(self, node: NodeId) -> None:
        """A node carries its slice out and reports; what is new is starting."""
        if node in self.gone:
            return
        seen = self.running[node]
        actions = reconcile_node(self.node_slices[node], tuple(seen.values()))
        for instance in actions.start:
            seen[instance.id] = make_observed(instance.id, instance.version, "starting")
        for name in actions.stop:
            del seen[name]
        self.report(node)
        self.decide()

    def report(self, node: NodeId) -> None:
        self.reports[node] = make_report(self.nodes[node], tuple(self.running[node].values()))

    def given(self) -> SiteInput:
        return SiteInput(
            slice_=self.slice,
            memory=self.memory,
            reports=tuple(NodeHeard(report=self.reports[name], heard_ms=self.now_ms) for name in sorted(self.reports)),
            lost=frozenset(self.lost),
            in_flight=self.in_flight,
            now_ms=self.now_ms,
        )

    def decide(self) -> None:
        given = self.given()
        decision = decide_site(given)
        assert site_violations(given, decision) == ()
        backwards = replace(given, reports=given.reports[::-1], slice_=replace(given.slice_, apps=given.slice_.apps[::-1]))
        assert decide_site(backwards) == decision
        again = decide_site(replace(given, memory=decision.memory))
        assert (again.routes, again.slices, again.memory) == (decision.routes, decision.slices, decision.memory)
        self.compare_routes(decision)
        self.memory = decision.memory
        for contents in decision.slices:
            held = self.node_slices[contents.node]
            if held.instances != contents.instances:
                after = NodeSlice(node=contents.node, generation=held.generation + 1, instances=contents.instances)
                assert slice_violations(held, after) == ()
                self.node_slices[contents.node] = after

    def compare_routes(self, decision: SiteDecision) -> None:
        """No fewer instances take an app's requests than before, unless they died, are enough, or are not asked for."""
        able = {
            seen.id
            for report in self.reports.values()
            if report.node.id not in self.lost
            for seen in report.instances
            if seen.state in SERVING_STATES
        }
        heard = set(self.reports)
        able |= {name for names in self.routed.values() for name in names if self.home(name) not in heard | self.lost}
        for app in APPS:
            now = {
                target.instance
                for route in decision.routes.routes
                if route.app == app
                for target in route.targets
                if target.weight > 0
            }
            known = (*decision.memory.retiring, *self.memory.retiring)
            excused = {entry.held.instance for entry in known if entry.gave_way}
            # One whose own version serves again waits for the other versions, but not for ever.
            missing = {held.version for held in decision.memory.held if held.instance not in now and held.app == app}
            again = {held.version for held in decision.memory.held} - missing
            late = [entry.held for entry in known if self.now_ms - entry.since_ms >= DRAIN_MAX_MS]
            excused |= {held.instance for held in late if held.version in again}
            had = (self.routed.get(app, set()) & able) - excused
            wanted = {held.instance for held in decision.memory.held if held.app == app}
            if self.wanted.get(app) and len(now) < len(had):
                assert wanted, f"{app}: nothing is packed, yet {had - now} left the routes"
                assert wanted <= now, f"{app}: {had - now} left the routes before {wanted - now} served"
            self.routed[app] = now

    def home(self, instance: InstanceId) -> NodeId | None:
        every = (*self.memory.held, *(entry.held for entry in self.memory.retiring))
        return next((held.node for held in every if held.instance == instance), None)

    @invariant()
    def what_is_in_a_slice_is_remembered(self) -> None:
        if not hasattr(self, "memory"):
            return
        listed = {entry.id for slice_ in self.node_slices.values() for entry in slice_.instances}
        remembered = {held.instance for held in (*self.memory.held, *(entry.held for entry in self.memory.retiring))}
        assert listed == remembered

    def teardown(self) -> None:
        """After the faults end the site converges: what is asked runs, and nothing else."""
        if not hasattr(self, "memory"):
            return
        self.gone, self.lost, self.draining, self.in_flight = set(), set(), set(), {}
        self.new_slice()
        for _ in range(4):
            for node in NODES:
                self.work(node)
                self.running[node] = {name: replace(seen, state="running") for name, seen in self.running[node].items()}
                self.work(node)
            self.now_ms += DRAIN_MAX_MS
            self.decide()
        asked = {VERSIONS[app][number].id: count for app, wanted in self.wanted.items() for number, count in wanted.items()}
        refused = decide_site(self.given()).refused
        for item in refused:
            asked[item.version] -= item.missing
        found: dict[str, int] = {}
        for seen in (seen for running in self.running.values() for seen in running.values()):
            found[seen.version] = found.get(seen.version, 0) + 1
        assert found == {version: count for version, count in asked.items() if count}
        assert self.memory.retiring == ()


SiteMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSiteMachine = SiteMachine.TestCase


def test_the_simulation_notices_a_broken_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision that forgets what retires is found by the comparison above."""
    machine = SiteMachine()
    machine.start(memory_mib=200, priority=50)
    machine.deploy("a", {0: 2})
    for node in NODES:
        machine.work(node)
        machine.running[node] = {name: replace(seen, state="running") for name, seen in machine.running[node].items()}
        machine.work(node)
    monkeypatch.setitem(globals(), "decide_site", _forgetful)
    with pytest.raises(AssertionError):
        machine.deploy("a", {1: 2})


def _forgetful(given: SiteInput) -> SiteDecision:
    decision = decide_site_for_real(given)
    routes = tuple(replace(route, targets=()) for route in decision.routes.routes)
    return replace(decision, routes=replace(decision.routes, routes=routes))


decide_site_for_real = decide_site
