"""Suspicion by silence."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from skerry.core.machines.failure import Detection, Opinion, Watch, denied, phi, silence_sentence

LIMITS = Detection(heartbeat_ms=500, suspect_ms=1_500, lost_ms=4_000, lost_ms_max=15_000, unheard_ms=10_000, late_ms=5_000)
MEMBERS = ("a", "b", "c", "d", "e")


class Observer:
    """Looks every 100 ms; who is not in `silent` speaks every 500 ms."""

    def __init__(self, members: tuple[str, ...] = MEMBERS, settings: Detection = LIMITS) -> None:
        self.now_ms = 0
        self.watch = Watch(settings, 0)
        self.members = members
        self.silent: set[str] = set()
        self.denied: frozenset[str] = frozenset()
        self.seen: Mapping[str, Opinion] = {}
        self.go(5_000)

    def go(self, ms: int) -> None:
        for now_ms in range(self.now_ms + 100, self.now_ms + ms + 1, 100):
            if now_ms % 500 == 0:
                for member in self.members:
                    if member not in self.silent:
                        self.watch.hear(member, now_ms)
            self.seen = self.watch.look(now_ms, denied=self.denied)
        self.now_ms += ms

    def states(self) -> dict[str, str]:
        return {name: opinion.state for name, opinion in self.seen.items()}

    def lost(self) -> set[str]:
        return {name for name, state in self.states().items() if state == "lost"}


@pytest.mark.parametrize(("silence_ms", "state"), [(1_400, "up"), (1_600, "suspected"), (4_000, "suspected"), (4_100, "lost")])
def test_silence_is_suspicious_and_then_final(silence_ms: int, state: str) -> None:
    observer = Observer()
    observer.silent = {"a"}
    observer.go(silence_ms)
    assert observer.states() == {"a": state, "b": "up", "c": "up", "d": "up", "e": "up"}


def test_a_word_brings_a_lost_member_back_at_once() -> None:
    observer = Observer()
    observer.silent = {"a"}
    observer.go(6_000)
    assert observer.lost() == {"a"}
    observer.watch.hear("a", observer.now_ms)
    assert observer.watch.opinion("a").state == "up"


def test_whom_nobody_else_reaches_is_not_waited_for_as_long_but_suspicion_comes_first() -> None:
    settings = replace(LIMITS, denied_ms=2_500)
    observer = Observer(settings=settings)
    observer.silent = {"a", "b"}
    observer.denied = frozenset({"a", "c"})
    observer.go(2_400)
    assert observer.lost() == set()
    observer.go(200)
    assert observer.lost() == {"a"}, "b is reached by others, and c is heard"
    assert "no city that looks at it reaches it: lost" in silence_sentence(observer.seen["a"], "control")
    observer.go(1_500)
    assert observer.lost() == {"a", "b"}
    unasked = Observer()
    unasked.silent, unasked.denied = {"a"}, frozenset({"a"})
    unasked.go(3_900)
    assert unasked.lost() == set(), "where nobody looks, their word is not waited for"


def test_two_at_least_have_to_say_that_it_does_not_answer_and_nobody_that_it_does() -> None:
    looks = [("a", False), ("a", False), ("b", False), ("c", False), ("c", False), ("c", True), ("d", True)]
    assert denied(looks) == {"a"}


def test_suspicion_grows_with_silence() -> None:
    observer = Observer()
    observer.silent = {"a"}
    grown: list[float] = []
    for _ in range(10):
        observer.go(200)
        grown.append(observer.seen["a"].phi)
    assert grown == sorted(grown)
    assert grown[-1] > 3 > grown[0]


def test_a_link_that_jitters_is_given_more_time_and_a_steady_one_is_not() -> None:
    dice = random.Random(7)
    watch, now_ms = Watch(LIMITS, 0), 0
    for _ in range(60):
        now_ms += dice.randint(500, 3_500)
        watch.hear("far", now_ms)
        watch.look(now_ms)
    seen = [watch.look(now_ms + silent_ms)["far"].state for silent_ms in range(0, 15_101, 100)]
    assert "lost" not in seen[:46], "its words come every 2 s, give or take 1.5"
    assert seen[-1] == "lost", "but nobody is waited for for ever"


def test_an_observer_that_was_stopped_blames_nobody() -> None:
    observer = Observer()
    observer.now_ms += 60_000
    seen = observer.watch.look(observer.now_ms)
    assert {opinion.state for opinion in seen.values()} == {"up"}
    observer.silent = {"a"}
    observer.go(6_000)
    assert observer.lost() == {"a"}, "who is still silent afterwards is judged as ever"


def test_where_most_are_silent_together_the_observer_doubts_itself_for_a_while() -> None:
    observer = Observer()
    observer.silent = {"a", "b", "c"}
    observer.go(10_000)
    assert observer.lost() == set()
    assert {name for name, opinion in observer.seen.items() if opinion.held} == {"a", "b", "c"}
    observer.go(LIMITS.hold_ms)
    assert observer.lost() == {"a", "b", "c"}, "a real loss of most of them is accepted in the end"


def test_a_hold_ends_when_most_are_heard_again() -> None:
    observer = Observer()
    observer.silent = {"a", "b", "c"}
    observer.go(8_000)
    observer.silent = {"a"}
    observer.go(500)
    assert observer.lost() == {"a"}


def test_few_that_are_silent_together_are_lost_together() -> None:
    observer = Observer()
    observer.silent = {"a", "b"}
    observer.go(4_200)
    assert observer.lost() == {"a", "b"}


def test_who_was_lost_stays_so_while_others_fall_silent() -> None:
    observer = Observer()
    observer.silent = {"a"}
    observer.go(5_000)
    observer.silent = {"a", "b", "c", "d"}
    observer.go(5_000)
    assert observer.lost() == {"a"}


@pytest.mark.parametrize(("heard", "lost_ms"), [(("b", "c", "d"), LIMITS.late_ms), (("b",), LIMITS.unheard_ms)])
def test_who_was_never_heard_is_waited_for_shorter_when_most_others_were(heard: tuple[str, ...], lost_ms: int) -> None:
    observer = Observer(members=heard, settings=LIMITS)
    for name in ("a", "x", "y") if len(heard) == 1 else ("a",):
        observer.watch.expect(name, observer.now_ms)
    observer.go(lost_ms)
    assert observer.states()["a"] == "up"
    observer.go(100 if len(heard) > 1 else LIMITS.hold_ms + 100)
    assert observer.states()["a"] == "lost"


def test_one_that_an_earlier_observer_gave_up_is_lost_until_it_speaks() -> None:
    observer = Observer()
    observer.watch.expect("gone", observer.now_ms)
    observer.watch.expect("gone", observer.now_ms, lost=True)
    observer.go(100)
    assert observer.lost() == {"gone"}
    observer.watch.expect("a", observer.now_ms, lost=True)
    assert observer.watch.opinion("a").state == "up", "who has been heard is there"


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="suspect_ms"):
        Detection(heartbeat_ms=1, suspect_ms=5_000, lost_ms=2_000, lost_ms_max=9_000, unheard_ms=1, late_ms=1)


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=60), st.floats(1, 5_000), st.floats(1, 5_000))
def test_phi_never_shrinks_with_silence(silences: list[int], mean_ms: float, deviation_ms: float) -> None:
    found = [phi(silence, mean_ms, deviation_ms) for silence in sorted(silences)]
    assert found == sorted(found)
    assert all(0 <= value <= 99 for value in found)


@given(st.lists(st.tuples(st.integers(0, 9_000), st.sampled_from(MEMBERS)), max_size=80))
def test_nobody_is_lost_sooner_than_its_time_whatever_comes_when(words: list[tuple[int, str]]) -> None:
    """Words in any rhythm, looks at any moment: a loss needs the silence that the settings name."""
    watch, now_ms, heard = Watch(LIMITS, 0), 0, dict[str, int]()
    for pause_ms, member in words:
        now_ms += pause_ms
        for name, opinion in watch.look(now_ms).items():
            assert opinion.state != "lost" or now_ms - heard[name] > LIMITS.lost_ms
        watch.hear(member, now_ms)
        heard[member] = now_ms
