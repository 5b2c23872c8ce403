"""What a node's report means for its site: whether a decision can come out differently."""

from skerry.adapters.clock.system import SystemClock
from skerry.core.reconcile.site_types import Serving
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.core.types.slices import InstanceState, NodeReport, ObservedInstance
from skerry.services.site.nodes import Nodes

NODE, INSTANCE, ADDRESS = NodeId("lhr-1"), InstanceId("a" * 16), "127.0.1.11:4000"
SERVES = (Serving(instance=INSTANCE, address=ADDRESS),)


class Site:
    """A site's nodes, with one of them reporting."""

    def __init__(self) -> None:
        self.nodes = Nodes((NODE,), SystemClock(), self._nobody_answers)
        self._sequence = 0

    def hear(self, state: InstanceState, *, pid: int = 1) -> str:
        self._sequence += 1
        seen = ObservedInstance(
            id=INSTANCE,
            account=AccountId("b" * 32),
            app=AppName("app"),
            version=VersionId("v"),
            state=state,
            since_ms=0,
            pid=pid,
            address=ADDRESS,
        )
        node = Node(id=NODE, site=SiteId("lhr"), address="127.0.1.11", capacity=Resources(memory_mib=64))
        return self.nodes.hear(NodeReport(node=node, epoch="1", sequence=self._sequence, slice_generation=1, instances=(seen,)))

    async def _nobody_answers(self, address: str) -> bool:
        return False


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
    site.nodes.decided(())
    assert site.hear("running") == "decide"


def test_one_that_went_out_of_service_while_its_agent_was_silent_is_decided_on_when_it_is_ready() -> None:
    site = Site()
    site.hear("running")
    site.nodes.decided(SERVES)
    site.hear("starting")
    site.nodes.decided(())  # it was found not to accept meanwhile
    assert site.hear("running") == "decide"
