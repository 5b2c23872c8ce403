"""Who is still there: suspicion by silence, with time as a value (a monotonic clock's milliseconds).

An observer that was itself stopped (a paused machine, a long collection) has heard nobody for a while; it must
not blame them. `step` has to be called at least every `step_max_ms`; when it was not, the gap is taken off
everybody's silence.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec.structs import replace

from skerry.kit.record import Record

Health = Literal["up", "suspected", "lost"]


class Thresholds(Record):
    """Silence of `suspect_ms` is suspicious, one of `lost_ms` is final until the next word. Heartbeats come every 500 ms."""

    suspect_ms: int = 2_000
    lost_ms: int = 5_000
    step_max_ms: int = 1_000

    def __post_init__(self) -> None:
        if not 0 < self.suspect_ms <= self.lost_ms:
            raise ValueError(f"suspect_ms must be above 0 and at most lost_ms: {self}")


class Heard(Record):
    """A member and when it was last heard."""

    member: str
    heard_ms: int


class Watch(Record):
    """What an observer remembers. `stepped_ms`: its own last sign of life."""

    stepped_ms: int
    members: tuple[Heard, ...] = ()  # by member


class Judgement(Record):
    """`states` by member; `next_ms`: when the first of them changes by silence alone (None: never)."""

    states: tuple[tuple[str, Health], ...]
    next_ms: int | None


def begin(members: Iterable[str], now_ms: int) -> Watch:
    """A watch that has just begun: everybody counts as heard now, so that a restarted observer moves nothing."""
    return Watch(stepped_ms=now_ms, members=tuple(Heard(member=name, heard_ms=now_ms) for name in sorted(set(members))))


def hear(watch: Watch, member: str, now_ms: int) -> Watch:
    """A word from a member, known or new. Words that arrive out of order do not turn time back."""
    heard = {entry.member: entry.heard_ms for entry in watch.members}
    heard[member] = max(now_ms, heard.get(member, now_ms))
    return replace(watch, members=_sorted(heard))


def forget(watch: Watch, member: str) -> Watch:
    """A member that was taken out of service is no longer watched."""
    return replace(watch, members=tuple(entry for entry in watch.members if entry.member != member))


def step(watch: Watch, now_ms: int, thresholds: Thresholds) -> tuple[Watch, Judgement]:
    """Judge everybody now. A gap since the last step that is too long was the observer's own silence."""
    gap_ms = now_ms - watch.stepped_ms
    own_ms = max(0, gap_ms - thresholds.step_max_ms)
    heard = {entry.member: min(now_ms, entry.heard_ms + own_ms) for entry in watch.members}
    states: tuple[tuple[str, Health], ...] = tuple((name, judge(heard[name], now_ms, thresholds)) for name in sorted(heard))
    changes = [due for name in heard if (due := _next_change(heard[name], now_ms, thresholds)) is not None]
    return Watch(stepped_ms=now_ms, members=_sorted(heard)), Judgement(states=states, next_ms=min(changes, default=None))


def judge(heard_ms: int, now_ms: int, thresholds: Thresholds) -> Health:
    """What silence since `heard_ms` means."""
    silent_ms = now_ms - heard_ms
    if silent_ms >= thresholds.lost_ms:
        return "lost"
    return "suspected" if silent_ms >= thresholds.suspect_ms else "up"


def _next_change(heard_ms: int, now_ms: int, thresholds: Thresholds) -> int | None:
    due = [heard_ms + after for after in (thresholds.suspect_ms, thresholds.lost_ms) if heard_ms + after > now_ms]
    return min(due, default=None)


def _sorted(heard: dict[str, int]) -> tuple[Heard, ...]:
    return tuple(Heard(member=name, heard_ms=heard[name]) for name in sorted(heard))
