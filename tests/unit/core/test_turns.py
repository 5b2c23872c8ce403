"""Whose turn it is on the CPUs, of those who yield."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.core.machines.turns import Turns, TurnSettings, seat, turn, turn_ms

TURN_MS = 100
SETTINGS = TurnSettings(cpus=2)
FULL_US = TURN_MS * 1000


def hogs(count: int) -> list[str]:
    return [f"hog{number:02}" for number in range(count)]


def after(turns: Turns, *, idle_us: int = 0, settings: TurnSettings = SETTINGS, **used_us: int) -> Turns:
    """The end of a turn that everybody has used, but for those who are named."""
    used = dict.fromkeys(turns.running, FULL_US) | used_us
    return turn(turns, used, elapsed_ms=TURN_MS, idle_us=idle_us, settings=settings)


def test_nobody_is_held_while_there_is_a_cpu_for_each() -> None:
    turns = seat(Turns(), hogs(2), SETTINGS)
    assert (set(turns.running), turns.held, turn_ms(turns, SETTINGS)) == (set(hogs(2)), (), None)
    assert turns.starved == frozenset()


def test_each_waits_for_all_others_once() -> None:
    turns, had = seat(Turns(), hogs(5), SETTINGS), Counter[str]()
    for _ in range(50):
        assert len(turns.running) == 2
        had.update(turns.running)
        turns = after(turns)
    assert set(had.values()) == {20}


@pytest.mark.parametrize(("count", "cpus", "expected_ms"), [(3, 2, 250), (16, 2, 187), (60, 2, 50), (600, 2, 50), (100, 64, 250)])
def test_all_have_a_turn_in_one_cycle_without_too_many_words(count: int, cpus: int, expected_ms: int) -> None:
    settings = TurnSettings(cpus=cpus)
    turns = seat(Turns(), hogs(count), settings)
    assert turn_ms(turns, settings) == expected_ms
    assert count * expected_ms <= settings.cycle_ms * turns.places or expected_ms == settings.turn_ms_most


def test_who_sleeps_takes_no_place_and_is_not_held() -> None:
    turns = after(seat(Turns(), hogs(4), SETTINGS), hog00=1000)
    assert "hog00" not in (*turns.running, *turns.held)
    assert turns.running == ("hog02", "hog03")


def test_who_needs_less_than_its_turn_is_not_taken_to_want_more() -> None:
    turns = seat(Turns(), hogs(4), SETTINGS)
    assert turns.starved == set(hogs(4))
    turns = after(turns, hog00=FULL_US // 2)
    assert turns.starved == set(hogs(4)) - {"hog00"}
    turns = after(after(turns))
    assert turns.starved == set(hogs(4))


def test_while_cpus_rest_more_run_and_fewer_again_when_none_does() -> None:
    turns = seat(Turns(), hogs(8), SETTINGS)
    turns = after(turns, idle_us=2 * FULL_US)
    assert len(turns.running) == 4
    for _ in range(5):
        turns = after(turns, idle_us=FULL_US // 2)
    assert turns.held == ()
    assert turn_ms(turns, SETTINGS) is None
    turns = seat(turns, hogs(8), SETTINGS, rest_millicores=500)
    assert turns.held == ()
    turns = seat(turns, hogs(8), SETTINGS, rest_millicores=0)
    assert len(turns.running) == 2


def test_who_wants_no_more_than_its_part_is_let_go_at_the_next_look() -> None:
    turns = seat(Turns(), hogs(4), SETTINGS)
    let_go = turns.held[0]
    turns = seat(turns, [name for name in hogs(4) if name != let_go], SETTINGS)
    assert let_go not in (*turns.running, *turns.held)


@given(
    steps=st.lists(
        st.tuples(
            st.sets(st.sampled_from(hogs(12))), st.lists(st.integers(0, 100), min_size=12, max_size=12), st.integers(0, 200)
        ),
        max_size=20,
    ),
    cpus=st.integers(1, 4),
)
def test_the_cpus_are_never_left_to_nobody_and_nobody_waits_longer_than_for_all_others(
    steps: list[tuple[set[str], list[int], int]], cpus: int
) -> None:
    settings, turns, waits = TurnSettings(cpus=cpus), Turns(), Counter[str]()
    for wanting, used, idle in steps:
        turns = seat(turns, wanting, settings)
        assert {*turns.running, *turns.held} == wanting
        used_us = {name: percent * TURN_MS * 10 for name, percent in zip(hogs(12), used, strict=True)}
        before = turns
        turns = turn(turns, used_us, elapsed_ms=TURN_MS, idle_us=idle * 1000, settings=settings)
        for now in (before, turns):
            assert not set(now.running) & set(now.held)
            assert len(now.running) >= min(cpus, len(now.running) + len(now.held))
            assert now.eased <= {*now.running, *now.held}
        assert set(before.held) <= {*turns.running, *turns.held}
        for name in hogs(12):
            waits[name] = waits[name] + 1 if name in turns.held else 0
            assert waits[name] <= 12
