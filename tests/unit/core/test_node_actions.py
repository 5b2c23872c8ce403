"""A node's actions."""

import pytest

from skerry.core.reconcile.node import reconcile_node
from skerry.core.types.ids import InstanceId, NodeId
from skerry.core.types.slices import NodeInstance, NodeSlice
from skerry.testing.builders import make_observed, make_version

V1 = make_version(1)


def wanted(*names: str) -> NodeSlice:
    return NodeSlice(
        node=NodeId("lhr-1"), generation=1, instances=tuple(NodeInstance(id=InstanceId(name), version=V1) for name in names)
    )


@pytest.mark.parametrize("state", ["starting", "running", "asleep", "dead", "backoff", "failed", "stopping"])
def test_what_is_wanted_and_there_is_left_alone_in_every_state(state: str) -> None:
    actions = reconcile_node(wanted("a"), (make_observed("a", V1, state),))  # type: ignore[arg-type]
    assert (actions.start, actions.stop) == ((), ())


def test_what_is_missing_is_started_and_what_is_extra_is_stopped_once() -> None:
    seen = (make_observed("z", V1), make_observed("y", V1, "failed"), make_observed("x", V1, "stopping"))
    actions = reconcile_node(wanted("b", "a"), seen)
    assert [instance.id for instance in actions.start] == ["a", "b"]
    assert actions.stop == ("y", "z")
