"""The settings of placement and the prices of room."""

import pytest

from skerry.core.placement.prices import moved_prices
from skerry.core.policy.settings import FIELDS, LIMITS, changed_settings, set_fields
from skerry.core.policy.shapes import shapes_of
from skerry.core.types.resources import Resources
from skerry.core.types.settings import NO_PRICES, Settings, SitePrices
from skerry.testing.builders import make_node

NODES = shapes_of([make_node(f"lhr-{number}", memory_mib=1000, cpu_millicores=1000) for number in (1, 2)])


def test_a_change_names_fields_and_null_takes_the_default_back() -> None:
    changed = changed_settings(Settings(), {"move": 50, "rebalance_every_s": 0})
    assert (changed.move, changed.rebalance_every_s) == (50.0, 0)
    assert set_fields(changed) == ("move", "rebalance_every_s")
    assert changed_settings(changed, {"move": None, "rebalance_every_s": None}) == Settings()
    assert set(LIMITS) == set(FIELDS)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"mvoe": 1}, "'mvoe' is no setting"),
        ({"move": -1}, "move is -1"),
        ({"move": float("nan")}, "move is nan"),
        ({"keep_share": 1.5}, "keep_share is 1.5"),
        ({"move": "much"}, "move"),
        ({"rebalance_moves_max": 1.5}, "rebalance_moves_max"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        changed_settings(Settings(), changes)


def stepped(held_mib: int, *, steps: int, prices: SitePrices = NO_PRICES, waiting: bool = False) -> SitePrices:
    for _ in range(steps):
        prices = moved_prices(prices, NODES, Resources(memory_mib=held_mib), waiting=waiting, settings=Settings())
    return prices


def test_room_has_a_price_where_it_is_short_and_none_where_it_is_not() -> None:
    assert stepped(1_500, steps=10) == NO_PRICES
    short = stepped(1_900, steps=10)
    assert short.memory_mib > 0 and short.cpu_millicores == 0
    assert stepped(1_900, steps=10, waiting=True).memory_mib > short.memory_mib
    assert stepped(1_900, steps=100_000).memory_mib == stepped(1_900, steps=100_001).memory_mib, "it has an end"
    assert stepped(100, steps=200, prices=short) == NO_PRICES
