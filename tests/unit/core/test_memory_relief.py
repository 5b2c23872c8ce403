"""Who gives memory back when a node runs short, and in which order."""

from hypothesis import given
from hypothesis import strategies as st

from skerry.core.machines.memory import MIB, MemorySettings, Tenant, relieve

SETTINGS = MemorySettings()
TOTAL = 1000 * MIB


def tenant(name: str, *, private: int = 100, reserved: int = 100, idle_s: int = 0, **fields: object) -> Tenant:
    return Tenant(id=name, private_bytes=private * MIB, reserved_bytes=reserved * MIB, idle_ms=idle_s * 1000, **fields)  # type: ignore[arg-type]


def actions(*tenants: Tenant, available: int, waited: float = 0.0) -> list[tuple[str, str]]:
    found = relieve(tenants, available_bytes=available * MIB, total_bytes=TOTAL, waited=waited, settings=SETTINGS)
    return [(relief.action, relief.id) for relief in found]


def test_with_enough_nobody_is_touched() -> None:
    assert actions(tenant("a", idle_s=900, can_squeeze=True, can_drop=True), available=500) == []


def test_the_coldest_is_squeezed_first_and_the_busy_not_at_all() -> None:
    found = actions(
        tenant("busy", can_squeeze=True),
        tenant("cool", idle_s=40, can_squeeze=True),
        tenant("cold", idle_s=400, can_squeeze=True),
        available=30,
    )
    assert found == [("squeeze", "cold"), ("squeeze", "cool")]


def test_one_that_was_squeezed_just_now_is_ended_until_a_request_instead() -> None:
    one = tenant("a", idle_s=400, can_squeeze=True, can_drop=True, squeezed_ms=5_000)
    assert actions(one, available=100) == [("drop", "a")]


def test_who_uses_more_than_it_reserved_ends_only_when_it_is_critical() -> None:
    greedy = tenant("greedy", private=300, reserved=100)
    assert actions(greedy, tenant("modest"), available=100) == []
    assert actions(greedy, tenant("modest"), available=20) == [("end", "greedy")]


def test_the_lowest_priority_goes_first_then_the_largest_excess() -> None:
    found = actions(
        tenant("dear", private=500, reserved=100, priority=90),
        tenant("large", private=160, reserved=100),
        tenant("small", private=120, reserved=100),
        available=0,
    )
    assert found == [("end", "large")]
    assert actions(tenant("dear", private=130, priority=90), tenant("cheap", private=120, priority=10), available=0)[0] == (
        "end",
        "cheap",
    )


def test_within_its_reserve_nobody_is_ended_whatever_happens() -> None:
    assert actions(tenant("a"), tenant("b"), available=0, waited=1.0) == []


def test_waiting_for_memory_counts_as_short_although_some_is_free() -> None:
    assert actions(tenant("a", idle_s=400, can_squeeze=True), available=500, waited=0.5) == [("squeeze", "a")]


TENANTS = st.lists(
    st.builds(
        Tenant,
        id=st.text("abcdef", min_size=1, max_size=4),
        private_bytes=st.integers(0, TOTAL),
        reserved_bytes=st.integers(0, TOTAL),
        idle_ms=st.integers(0, 10**6),
        priority=st.integers(0, 100),
        squeezed_ms=st.none() | st.integers(0, 10**6),
        can_squeeze=st.booleans(),
        can_drop=st.booleans(),
    ),
    max_size=10,
    unique_by=lambda tenant: tenant.id,
)


@given(tenants=TENANTS, available=st.integers(0, TOTAL), waited=st.floats(0, 1))
def test_every_action_is_allowed_named_once_and_has_a_reason(tenants: list[Tenant], available: int, waited: float) -> None:
    found = relieve(tenants, available_bytes=available, total_bytes=TOTAL, waited=waited, settings=SETTINGS)
    assert found == relieve(tenants[::-1], available_bytes=available, total_bytes=TOTAL, waited=waited, settings=SETTINGS)
    by_id = {one.id: one for one in tenants}
    assert len({relief.id for relief in found}) == len(found) <= SETTINGS.at_once
    for relief in found:
        one = by_id[relief.id]
        assert relief.reason
        assert relief.action != "squeeze" or one.can_squeeze
        assert relief.action != "drop" or one.can_drop
        assert relief.action != "end" or one.private_bytes > one.reserved_bytes
