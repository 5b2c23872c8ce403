"""Suspicion by silence."""

import pytest

from skerry.core.machines.failure import Thresholds, begin, forget, hear, step

LIMITS = Thresholds(suspect_ms=2000, lost_ms=5000, step_max_ms=1000)


def states_after(silence_ms: int) -> dict[str, str]:
    """Of two members, one heard all the time, by an observer that looks every 500 ms."""
    watch = begin(["a", "b"], 0)
    judgement = None
    for now_ms in range(0, silence_ms + 1, 500):
        watch, judgement = step(hear(watch, "b", now_ms), now_ms, LIMITS)
    assert judgement is not None
    return dict(judgement.states)


@pytest.mark.parametrize(
    ("silence_ms", "state"), [(0, "up"), (1500, "up"), (2000, "suspected"), (4500, "suspected"), (5000, "lost")]
)
def test_silence_is_suspicious_and_then_final(silence_ms: int, state: str) -> None:
    assert states_after(silence_ms) == {"a": state, "b": "up"}


def test_a_word_brings_a_lost_member_back() -> None:
    watch = begin(["a"], 0)
    for now_ms in range(0, 6001, 1000):
        watch, judgement = step(watch, now_ms, LIMITS)
    assert dict(judgement.states) == {"a": "lost"}
    _, judgement = step(hear(watch, "a", 6100), 6100, LIMITS)
    assert dict(judgement.states) == {"a": "up"}


def test_an_observer_that_was_stopped_blames_nobody() -> None:
    watch, _ = step(begin(["a", "b"], 0), 0, LIMITS)
    watch, judgement = step(watch, 60_000, LIMITS)
    assert dict(judgement.states) == {"a": "up", "b": "up"}
    assert judgement.next_ms == 61_000
    for now_ms in range(60_500, 65_001, 500):
        watch, judgement = step(hear(watch, "b", now_ms), now_ms, LIMITS)
    assert dict(judgement.states) == {"a": "lost", "b": "up"}


def test_it_says_when_to_look_again() -> None:
    _, judgement = step(hear(begin(["a"], 0), "b", 700), 700, LIMITS)
    assert judgement.next_ms == 2000


def test_who_is_forgotten_is_not_missed() -> None:
    _, judgement = step(forget(begin(["a"], 0), "a"), 900, LIMITS)
    assert judgement.states == ()
    assert judgement.next_ms is None


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="suspect_ms"):
        Thresholds(suspect_ms=5000, lost_ms=2000)
