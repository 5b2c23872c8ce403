"""Gentle refill: a share of what a place has, growing with time, and nobody is sent away for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.core.policy.refill import Ramp, held_back, open_capacity, open_percent
from skerry.core.types.ids import NodeId
from skerry.core.types.resources import Resources
from skerry.testing.builders import make_node

RAMP = Ramp(first_percent=10, step_percent=30, step_ms=5_000)
AMOUNTS = st.builds(Resources, cpu_millicores=st.integers(0, 99), memory_mib=st.integers(0, 99), disk_mib=st.integers(0, 99))


@pytest.mark.parametrize(
    ("after_ms", "percent"), [(0, 10), (4_999, 10), (5_000, 40), (10_000, 70), (15_000, 100), (900_000, 100), (-5, 10)]
)
def test_the_share_grows_step_by_step(after_ms: int, percent: int) -> None:
    assert open_percent(1_000, 1_000 + after_ms, RAMP) == percent


def test_only_nodes_that_came_back_are_held_back() -> None:
    nodes = (make_node("lhr-1", memory_mib=100), make_node("lhr-2", memory_mib=100))
    assert open_capacity(nodes, {NodeId("lhr-2"): 10}).memory_mib == 110


@given(others=AMOUNTS, own=AMOUNTS, full=AMOUNTS, percent=st.integers(1, 100))
def test_an_app_keeps_what_it_has_and_gets_no_more_than_is_open(
    others: Resources, own: Resources, full: Resources, percent: int
) -> None:
    opened = Resources(
        cpu_millicores=full.cpu_millicores * percent // 100,
        memory_mib=full.memory_mib * percent // 100,
        disk_mib=full.disk_mib * percent // 100,
    )
    room = full.less(held_back(others, own, full=full, opened=opened))
    assert room.fits_in(full.less(others)), "never more than without a ramp"
    assert own.or_less(full.less(others)).fits_in(room), "what it has, as far as it had it before"
    assert room.fits_in(opened.less(others).or_more(own)), "and beyond that only what is open"


def test_a_ramp_that_never_opens_is_refused() -> None:
    with pytest.raises(ValueError, match="grows"):
        Ramp(step_percent=0)
