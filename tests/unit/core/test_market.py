"""Who has its part of a node's CPU for certain, and who runs when nobody else wants to, moment by moment."""

from hypothesis import given
from hypothesis import strategies as st

from skerry.core.machines.market import Grant, Market, MarketSettings, Trader, trade

SECOND = 1000
CPUS = 2
SETTINGS = MarketSettings(capacity_millicores=CPUS * 1000)


class Node:
    """Runs the market over instances as a kernel would: who yields gets what the others leave, in equal parts.

    `outside` takes so many millicores of the node before anybody else.
    """

    def __init__(self, *, outside: int = 0, **wants: int) -> None:
        self.wants = wants  # millicores
        self.outside = outside
        self.market = Market()
        self.cpu_us = dict.fromkeys(wants, 0)
        self.waited = dict.fromkeys(wants, 0.0)
        self.grants: dict[str, Grant] = {}
        self.now_ms = SECOND

    def step(self, *, share: int = 100, most: int = 1000) -> dict[str, Grant]:
        left, worked_us = CPUS * 1000 - self.outside, sum(self.cpu_us.values())
        for yields in (False, True):
            names = [name for name in self.wants if (name in self.grants and self.grants[name].standing == "last") == yields]
            left -= self._run(names, left, most)
        self.now_ms += SECOND
        traders = [
            Trader(id=name, share_millicores=share, most_millicores=most, cpu_us=self.cpu_us[name], waited=self.waited[name])
            for name in self.wants
        ]
        free = CPUS * 1000 - self.outside - (sum(self.cpu_us.values()) - worked_us) // SECOND
        self.market, grants = trade(self.market, traders, now_ms=self.now_ms, settings=SETTINGS, free_millicores=free)
        self.grants = {grant.id: grant for grant in grants}
        return self.grants

    def _run(self, names: list[str], left: int, most: int) -> int:
        """Those who want least first, each at most its part of what is left."""
        before = left
        for at, name in enumerate(sorted(names, key=lambda name: self.wants[name])):
            wanted = min(self.wants[name], most)
            got = min(wanted, max(0, left) // (len(names) - at))
            self.cpu_us[name] += got * SECOND
            self.waited[name] = min(1.0, (wanted - got) / 1000)
            left -= got
        return before - left

    def idle(self) -> set[str]:
        return {name for name, grant in self.grants.items() if grant.standing == "last"}


def hogs(count: int) -> dict[str, int]:
    return {f"hog{number:02}": 1000 for number in range(count)}


def test_who_stays_within_its_part_never_yields() -> None:
    node = Node(one=550, two=500, small=10)  # a third of what is divided is 566
    for _ in range(100):
        grants = node.step(share=300)
    assert node.idle() == set()
    assert all((grant.millicores, grant.reason) == (1000, "") for grant in grants.values())


def test_who_uses_more_than_its_part_yields_from_the_next_look_on() -> None:
    node = Node(small=60, **hogs(16))
    node.step()
    node.step()
    assert node.idle() == set(hogs(16))
    assert node.grants["hog00"].millicores == 100  # a seventeenth of what is divided
    assert "more than its part of the node, 100 millicores" in node.grants["hog00"].reason
    for _ in range(300):
        node.step()
        assert "small" not in node.idle()


def test_yielding_leaves_nothing_unused() -> None:
    node = Node(small=60, **hogs(4))
    for _ in range(20):
        node.step()
    before_us = sum(node.cpu_us.values())
    node.step()
    assert sum(node.cpu_us.values()) - before_us >= (CPUS * 1000 - len(node.wants)) * SECOND


def test_alone_on_the_node_there_is_nobody_to_yield_to() -> None:
    node = Node(hog=2000)
    for _ in range(5):
        node.step(most=2000)
    assert node.idle() == set()


def test_who_turns_modest_is_as_any_other_again_after_a_while() -> None:
    node = Node(hog=1000, small=60, other=60)
    for _ in range(3):
        node.step()
    assert node.idle() == {"hog"}
    node.wants["hog"] = 50
    states = [bool(node.step() and node.idle()) for _ in range(5)]
    assert states == [True, True, False, False, False]


def test_around_its_part_nobody_is_switched_to_and_fro() -> None:
    node = Node(edge=600, a=60, b=60)
    node.step()
    changes, before = 0, node.idle()
    for second in range(100):
        node.wants["edge"] = 540 if second % 2 else 600  # its floor is 566
        node.step()
        changes += node.idle() != before
        before = node.idle()
    assert changes <= 1


def test_who_saved_something_may_spend_it_before_it_yields_but_few_at_once() -> None:
    node = Node(small=60, **dict.fromkeys(hogs(4), 0))
    for _ in range(120):
        node.step()
    assert {grant.credit_us for name, grant in node.grants.items() if name != "small"} == {100 * SETTINGS.burst_s * 1000}
    node.wants |= hogs(4)
    node.step()
    assert len(node.idle()) == 3  # one may have its turn: the node has two CPUs
    assert sorted(grant.standing for grant in node.grants.values()) == ["first", "last", "last", "last", "later"]
    turns = set[str]()
    for _ in range(200):
        node.step()
        turns |= set(hogs(4)) - node.idle()
    assert turns == set(hogs(4))
    assert node.idle() == set(hogs(4))  # all is spent


def test_nobody_starves_even_where_others_leave_too_little() -> None:
    """A neighbour outside of the market takes nearly all: who yields saves credits, and has its turn."""
    node = Node(outside=1700, small=60, **hogs(8))
    for _ in range(400):
        node.step()
    before = dict(node.cpu_us)
    for _ in range(400):
        node.step()
    got = {name: (us - before[name]) / (400 * SECOND) for name, us in node.cpu_us.items()}
    assert got["small"] == 60
    assert min(got.values()) > 20  # a part of 240 that eight share
    assert len(node.idle()) >= 7


def test_where_too_much_was_promised_who_takes_most_yields_though_it_is_within_its_share() -> None:
    node = Node(small=60, **hogs(9))
    for _ in range(3):
        node.step(share=300)
    assert len(node.idle()) == 9
    assert "small" not in node.idle()


def test_within_its_share_nobody_yields_while_there_is_room() -> None:
    node = Node(worker=280, **{f"light{number}": 20 for number in range(9)})  # by shares alone it would have 170
    for _ in range(20):
        node.step(share=300)
    assert node.idle() == set()


def test_who_stops_now_and_then_is_within_its_part_however_little_there_is() -> None:
    """What the others outside leave, divided by all, would be less than the small one uses."""
    node = Node(outside=1700, small=60, **hogs(16))
    for _ in range(200):
        node.step()
        assert "small" not in node.idle()
    assert node.grants["small"].used_millicores == 60


def test_credits_are_not_spent_while_it_yields_or_stays_within_its_part() -> None:
    node = Node(saver=0, small=60)
    for _ in range(30):
        node.step()
    saved = node.grants["saver"].credit_us
    node.wants["saver"] = 800  # its floor is 850
    for _ in range(30):
        node.step()
    assert node.grants["saver"].credit_us == saved


def test_work_in_the_background_always_yields() -> None:
    trader = Trader(id="a", share_millicores=100, most_millicores=1000, cpu_us=0, background=True)
    _, (grant,) = trade(Market(), [trader], now_ms=1, settings=SETTINGS)
    assert (grant.standing, grant.millicores) == ("last", 100)
    assert "background" in grant.reason


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


@given(rounds=st.lists(st.tuples(TRADERS, st.integers(0, 5000), st.none() | st.integers(0, 4000)), max_size=12))
def test_only_who_is_or_was_above_its_part_yields(
    rounds: list[tuple[list[Trader], int, int | None]],
) -> None:
    market, now_ms = Market(), 1
    for traders, elapsed_ms, free in rounds:
        now_ms += elapsed_ms
        before = market
        market, grants = trade(market, traders, now_ms=now_ms, settings=SETTINGS, free_millicores=free)
        by_id = {trader.id: trader for trader in traders}
        assert [grant.id for grant in grants] == sorted(by_id)
        assert sum(account.spends for account in market.accounts.values()) <= 1
        for grant in grants:
            trader = by_id[grant.id]
            assert 0 < grant.millicores <= max(trader.share_millicores, trader.most_millicores)
            assert 0 <= grant.credit_us <= trader.share_millicores * SETTINGS.burst_s * 1000
            assert (grant.standing == "last") == bool(grant.reason)
            yielded = trader.id in before.accounts and before.accounts[trader.id].yields
            if grant.standing == "last" and not trader.background and not yielded:
                assert grant.used_millicores > grant.millicores


@given(traders=TRADERS)
def test_the_order_of_instances_decides_nothing(traders: list[Trader]) -> None:
    one = trade(Market(at_ms=1), traders, now_ms=1001, settings=SETTINGS)
    other = trade(Market(at_ms=1), traders[::-1], now_ms=1001, settings=SETTINGS)
    assert one == other
