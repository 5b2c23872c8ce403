"""What a node's report means for its site: whether a decision can come out differently."""

from skerry.core.packing.types import Held
from skerry.core.reconcile.site_types import Serving, SiteMemory
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.core.types.slices import InstanceState, NodeReport, ObservedInstance
from skerry.services.site.nodes import NODES, Answer, Nodes, NodeSettings

AGENT_BACK_MS, UNHEARD_MS = NodeSettings().agent_back_ms, NODES.unheard_ms
NODE, INSTANCE, ADDRESS = NodeId("lhr-1"), InstanceId("a" * 16), "127.0.1.11:4000"
ACCOUNT, APP, VERSION = AccountId("b" * 32), AppName("app"), VersionId("v")
HELD = Held(instance=INSTANCE, node=NODE, account=ACCOUNT, app=APP, version=VERSION, reserve=Resources(memory_mib=12))
SERVES = SiteMemory(held=(HELD,), serving=(Serving(instance=INSTANCE, address=ADDRESS),))
NOTHING = SiteMemory()


class StoppedClock:
    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep_ms(self, ms: float) -> None:
        self.ms += int(ms)


class Site:
    """A site's nodes, with one of them reporting."""

    def __init__(self) -> None:
        self.clock = StoppedClock()
        self.accepts = False
        self.nodes = Nodes((NODE,), self.clock, self._probe)
        self._sequence = 0

    def hear(self, state: InstanceState, *, pid: int = 1) -> str:
        self._sequence += 1
        seen = ObservedInstance(
            id=INSTANCE,
            account=ACCOUNT,
            app=APP,
            version=VERSION,
            state=state,
            since_ms=0,
            pid=pid,
            address=ADDRESS,
        )
        node = Node(id=NODE, site=SiteId("lhr"), address="127.0.1.11", capacity=Resources(memory_mib=64))
        return self.nodes.hear(NodeReport(node=node, epoch="1", sequence=self._sequence, slice_generation=1, instances=(seen,)))

    async def _probe(self, address: str) -> Answer:
        return "accepts" if self.accepts and address == ADDRESS else "refuses"

    async def after(self, ms: int) -> tuple[bool, bool]:
        """Whether the node is cut off, and whether it is lost, so much later, by a controller that looks all the time."""
        end_ms = self.clock.ms + ms
        while self.clock.ms < end_ms:
            await self.nodes.look()
            self.clock.ms = min(end_ms, self.clock.ms + 500)
        await self.nodes.look()
        return NODE in self.nodes.cut_off, NODE in self.nodes.lost


def test_a_served_instance_may_rest_and_wake_without_a_decision() -> None:
    site = Site()
    assert site.hear("running") == "decide"
    site.nodes.decided(SERVES)
    assert [site.hear(state) for state in ("asleep", "running", "dead", "starting", "running")] == ["report"] * 5
    assert site.hear("running") == "nothing"
    assert site.hear("running", pid=2) == "report"
    assert site.hear("backoff") == "decide"


def test_one_that_a_decision_left_out_is_decided_on_when_it_is_ready() -> None:
    """It was ready for a moment that no decision saw; the one that came then saw it start, and gave it no route."""
    site = Site()
    assert site.hear("running") == "decide"
    assert site.hear("starting") == "decide"
    site.nodes.decided(NOTHING)
    assert site.hear("running") == "decide"


def test_one_that_went_out_of_service_while_its_agent_was_silent_is_decided_on_when_it_is_ready() -> None:
    site = Site()
    site.hear("running")
    site.nodes.decided(SERVES)
    site.hear("starting")
    site.nodes.decided(NOTHING)  # it was found not to accept meanwhile
    assert site.hear("running") == "decide"


async def test_a_node_whose_agent_stays_away_is_cut_off_while_its_instances_accept_and_lost_when_they_do_not() -> None:
    site = Site()
    site.accepts = True
    site.hear("running")
    site.nodes.decided(SERVES)
    assert await site.after(AGENT_BACK_MS) == (False, False)
    assert await site.after(1) == (True, False)
    site.accepts = False
    assert await site.after(1) == (False, True)
    assert site.hear("running") == "decide"
    assert await site.after(0) == (False, False)


async def test_a_controller_that_begins_while_an_agent_is_away_tries_what_it_remembers() -> None:
    """It used to give the node up after ten seconds, with all that served there."""
    site = Site()
    site.accepts = True
    site.nodes.decided(SERVES)
    assert await site.after(0) == (False, False)
    assert await site.after(UNHEARD_MS + 1) == (False, False)
    assert await site.after(AGENT_BACK_MS) == (True, False)
    site.accepts = False
    assert await site.after(1) == (False, True)


async def test_a_node_never_heard_of_that_ran_nothing_is_lost() -> None:
    site = Site()
    assert await site.after(0) == (False, False)
    assert await site.after(UNHEARD_MS + 1) == (False, True)
