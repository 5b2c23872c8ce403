"""Who gets how much of a node's CPU, moment by moment."""

from hypothesis import given
from hypothesis import strategies as st

from skerry.core.machines.market import Grant, Market, MarketSettings, Trader, trade

SETTINGS = MarketSettings()
SECOND = 1000


class Node:
    """Runs the market over instances that use what they want, as far as they may."""

    def __init__(self, **wants: int) -> None:
        self.wants = wants  # millicores
        self.market = Market()
        self.cpu_us = dict.fromkeys(wants, 0)
        self.grants: dict[str, Grant] = {}
        self.now_ms = SECOND

    def step(self, *, share: int = 200, most: int = 1000, waited: float = 0.0, victims: float | None = None) -> dict[str, Grant]:
        for name, wanted in self.wants.items():
            may = self.grants[name].millicores if name in self.grants else most
            self.cpu_us[name] += min(wanted, may) * SECOND
        self.now_ms += SECOND
        traders = [
            Trader(id=name, share_millicores=share, most_millicores=most, cpu_us=self.cpu_us[name], waited=victims)
            for name in self.wants
        ]
        self.market, grants = trade(self.market, traders, waited=waited, now_ms=self.now_ms, settings=SETTINGS)
        self.grants = {grant.id: grant for grant in grants}
        return self.grants


def test_without_anybody_waiting_everybody_may_use_what_is_free() -> None:
    node = Node(hog=1000, small=10)
    for _ in range(100):
        grants = node.step()
    assert [grant.millicores for grant in grants.values()] == [1000, 1000]
    assert all(grant.reason == "" for grant in grants.values())


def test_the_ones_above_their_share_are_slowed_to_it_and_the_modest_never() -> None:
    node = Node(hog=1000, small=100)
    node.step()
    levels = [node.step(waited=0.5)["hog"].millicores for _ in range(6)]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 200
    assert node.grants["small"].millicores >= 200
    assert "others wait" in node.grants["hog"].reason


def test_credits_are_saved_by_idling_and_delay_the_slowing() -> None:
    node = Node(saver=0, hog=1000)
    for _ in range(120):
        node.step()
    saved = node.grants["saver"].credit_us
    assert saved == 200 * SETTINGS.burst_s * 1000  # a minute of its share, and no more
    assert node.grants["hog"].credit_us == 0
    node.wants = {"saver": 1000, "hog": 1000}
    node.step(waited=0.2)
    grants = node.step(waited=0.2)
    assert grants["saver"].millicores > grants["hog"].millicores
    assert grants["saver"].credit_us < saved
    node.wants["saver"] = 5000
    for _ in range(3):
        grants = node.step(waited=0.9, most=4000)
    for _ in range(120):
        grants = node.step(waited=0.9)
    assert grants["saver"].millicores == 200


def test_credits_are_not_spent_while_nobody_waits() -> None:
    node = Node(saver=0)
    for _ in range(30):
        node.step()
    saved = node.grants["saver"].credit_us
    node.wants = {"saver": 1000}
    for _ in range(30):
        node.step()
    assert node.grants["saver"].credit_us == saved


def test_what_is_freed_is_given_back_slowly() -> None:
    node = Node(hog=1000, small=100)
    for _ in range(6):
        node.step(waited=0.5)
    rising = [node.step()["hog"].millicores for _ in range(30)]
    assert rising == sorted(rising)
    assert rising[0] < 400
    assert rising[-1] == 1000


def test_between_the_thresholds_nothing_changes() -> None:
    node = Node(hog=1000, small=100)
    for _ in range(3):
        node.step(waited=0.3)
    before = node.market.level
    for _ in range(10):
        node.step(waited=0.07)
    assert node.market.level == before > 0


def test_who_waits_by_his_own_fault_slows_nobody() -> None:
    hogs = Node(one=1000, two=1000)
    for _ in range(5):
        hogs.step(victims=0.9)
    assert hogs.market.level == 0.0
    modest = Node(one=100, two=100)  # the machine is slow; nobody of these is to blame
    for _ in range(5):
        modest.step(victims=0.9)
    assert modest.market.level == 0.0


def test_a_small_share_is_a_part_of_the_node_and_not_a_cage() -> None:
    settings = MarketSettings(capacity_millicores=2000)
    node = Node(victim=60, **{f"hog{number}": 1000 for number in range(16)})
    market, grants = Market(), ()
    for second in range(1, 10):
        for name, wanted in node.wants.items():
            node.cpu_us[name] += wanted * SECOND
        traders = [Trader(id=name, share_millicores=10, most_millicores=1000, cpu_us=node.cpu_us[name]) for name in node.wants]
        market, grants = trade(market, traders, waited=0.8, now_ms=second * SECOND, settings=settings)
    given = {grant.id: grant.millicores for grant in grants}
    assert given["hog0"] == 100  # a seventeenth of what is divided, ten times what it reserved
    assert given["victim"] >= 100
    assert sum(given[name] for name in given if name != "victim") < 2000 * settings.fill


def test_work_in_the_background_has_its_share_alone() -> None:
    trader = Trader(id="a", share_millicores=100, most_millicores=1000, cpu_us=0, background=True)
    _, (grant,) = trade(Market(), [trader], waited=0.0, now_ms=1, settings=SETTINGS)
    assert (grant.millicores, grant.weight) == (100, 2)


def test_a_new_process_owes_nothing_for_the_one_before() -> None:
    node = Node(hog=1000)
    for _ in range(3):
        node.step()
    node.cpu_us["hog"] = 0
    node.wants["hog"] = 0
    assert node.step()["hog"].used_millicores == 0


TRADERS = st.lists(
    st.builds(
        Trader,
        id=st.text("abcdef", min_size=1, max_size=4),
        share_millicores=st.integers(1, 4000),
        most_millicores=st.integers(1, 8000),
        cpu_us=st.integers(0, 10**9),
        waited=st.none() | st.floats(0, 1),
        background=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda trader: trader.id,
)


@given(rounds=st.lists(st.tuples(TRADERS, st.floats(0, 1), st.integers(0, 5000)), max_size=12))
def test_nobody_gets_less_than_its_share_or_more_than_its_limit(rounds: list[tuple[list[Trader], float, int]]) -> None:
    market, now_ms = Market(), 1
    for traders, waited, elapsed_ms in rounds:
        now_ms += elapsed_ms
        market, grants = trade(market, traders, waited=waited, now_ms=now_ms, settings=SETTINGS)
        assert 0.0 <= market.level <= 1.0
        by_id = {trader.id: trader for trader in traders}
        assert [grant.id for grant in grants] == sorted(by_id)
        for grant in grants:
            trader = by_id[grant.id]
            assert trader.share_millicores <= grant.millicores <= max(trader.share_millicores, trader.most_millicores)
            assert 0 <= grant.credit_us <= trader.share_millicores * SETTINGS.burst_s * 1000
            assert (grant.weight == 2) == trader.background


@given(traders=TRADERS, waited=st.floats(0, 1))
def test_the_order_of_instances_decides_nothing(traders: list[Trader], waited: float) -> None:
    one = trade(Market(at_ms=1), traders, waited=waited, now_ms=1001, settings=SETTINGS)
    other = trade(Market(at_ms=1), traders[::-1], waited=waited, now_ms=1001, settings=SETTINGS)
    assert one == other


def test_who_stays_below_its_floor_may_burst_even_while_others_are_held() -> None:
    """A quota would cut the short bursts by which a modest server answers, and win nothing for anybody."""
    node = Node(hog=1000, small=60)
    for _ in range(8):
        grants = node.step(waited=0.9)
    assert grants["hog"].millicores < 1000
    assert (grants["small"].millicores, grants["small"].reason) == (1000, "")
