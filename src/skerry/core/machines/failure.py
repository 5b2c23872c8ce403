"""Who is still there: suspicion by silence, with time as a value (a monotonic clock's milliseconds).

    hear    a word came: the member is up, and its rhythm is known a little better
    look    silence against each member's own rhythm -> up, suspected, lost

The φ accrual failure detector (Hayashibara, Défago, Yared, Katayama, SRDS 2004): φ is the negated decimal logarithm of the
probability that a word still comes after a silence as long as this one, given the intervals between earlier words. On a link
that is slow or jitters the same silence is less suspicious. Beside it stand times: none is lost before `lost_ms` whatever φ says
(rhythms are learnt from few words), and none is waited for longer than `lost_ms_max`.

An observer that was itself stopped has heard nobody for a while, and must not blame them: a gap between two looks is taken off
everybody's silence. And where most members fall silent together it is rather the observer's own network: it holds its
judgement for `hold_ms`.

Others may have looked too (`denied`): who is not reached by anybody else either need not be waited for as long.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import erfc, log10, sqrt
from typing import Literal, final

from msgspec.structs import replace

from skerry.kit.record import Record

Health = Literal["up", "suspected", "lost"]

WEIGHT = 1 / 16  # of the newest interval in a rhythm: a link that changes is known after some ten words
PHI_MAX = 99.0  # more is no other news
WITNESSES_MIN = 2  # who say that it does not answer: one may have a trouble of its own


class Detection(Record):
    """How silence is judged. `heartbeat_ms`: a word is promised at least so often.

    Suspected: silent for `suspect_ms` and φ at least `phi_suspect`. Lost: silent for `lost_ms` and φ at least `phi_lost`, or
    silent for `lost_ms_max`. `unheard_ms` is for who has not been heard since the observer began; where at least half, and all
    others, have been heard by then, `late_ms`. A hold begins when more than `hold_share` of those that were not lost are silent,
    two at least. `denied_ms` takes the place of `lost_ms` for those whom nobody else reaches; None: nobody else looks.
    """

    heartbeat_ms: int
    suspect_ms: int
    lost_ms: int
    lost_ms_max: int
    unheard_ms: int
    late_ms: int
    denied_ms: int | None = None
    phi_suspect: float = 3.0
    phi_lost: float = 8.0
    step_ms_max: int = 1_500
    hold_share: float = 0.5
    hold_ms: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.suspect_ms <= self.lost_ms <= self.lost_ms_max:
            raise ValueError(f"0 < suspect_ms <= lost_ms <= lost_ms_max does not hold: {self}")
        if self.denied_ms is not None and not self.suspect_ms <= self.denied_ms <= self.lost_ms:
            raise ValueError(f"suspect_ms <= denied_ms <= lost_ms does not hold: {self}")
        if not 0 < self.late_ms <= self.unheard_ms:
            raise ValueError(f"0 < late_ms <= unheard_ms does not hold: {self}")


class Rhythm(Record):
    """When a member was last heard, and the mean and variance of its intervals. `words` 0: never heard yet."""

    heard_ms: int
    mean_ms: float
    variance: float = 0.0
    words: int = 0


class Opinion(Record):
    """What is thought of a member. `held`: it would be lost, but the observer rather doubts itself. `denied`: others do not reach
    it either."""

    state: Health
    phi: float = 0.0
    silent_ms: int = 0
    held: bool = False
    denied: bool = False


UP = Opinion(state="up")


def phi(silent_ms: float, mean_ms: float, deviation_ms: float) -> float:
    """−log₁₀ of the probability that an interval, normally distributed, is longer than this silence."""
    later = erfc((silent_ms - mean_ms) / (deviation_ms * sqrt(2))) / 2
    return min(PHI_MAX, -log10(later)) if later > 0 else PHI_MAX


def heard(rhythm: Rhythm | None, now_ms: int, settings: Detection) -> Rhythm:
    """A word came now.

    Words between heartbeats say nothing of the rhythm, and an outage is worth no more than the silence that ends in a loss.
    """
    if rhythm is None or rhythm.words == 0:
        return Rhythm(heard_ms=now_ms, mean_ms=float(settings.heartbeat_ms), words=1)
    interval_ms = min(max(now_ms - rhythm.heard_ms, settings.heartbeat_ms), settings.lost_ms)
    off_ms = interval_ms - rhythm.mean_ms
    return Rhythm(
        heard_ms=max(now_ms, rhythm.heard_ms),
        mean_ms=rhythm.mean_ms + WEIGHT * off_ms,
        variance=(1 - WEIGHT) * (rhythm.variance + WEIGHT * off_ms * off_ms),
        words=rhythm.words + 1,
    )


def suspicion(rhythm: Rhythm, now_ms: int, settings: Detection) -> float:
    """φ now. A rhythm is never trusted to be more exact than half a heartbeat."""
    deviation_ms = max(sqrt(rhythm.variance), settings.heartbeat_ms / 2)
    return round(phi(now_ms - rhythm.heard_ms, rhythm.mean_ms, deviation_ms), 2)


def denied(looks: Iterable[tuple[str, bool]]) -> frozenset[str]:
    """Of all (member, whether it answered) that others tell: whom several of them did not reach, and none did."""
    answered, silent = Counter[str](), Counter[str]()
    for member, answers in looks:
        (answered if answers else silent)[member] += 1
    return frozenset(member for member, count in silent.items() if count >= WITNESSES_MIN and not answered[member])


def silence_sentence(opinion: Opinion, observer: str) -> str:
    """For people: "control has not heard it for 4 s: suspected (φ 5.1)"."""
    word = f"{opinion.state}, were it not that most are silent together" if opinion.held else opinion.state
    others = ", and no city that looks at it reaches it" if opinion.denied else ""
    return f"{observer} has not heard it for {opinion.silent_ms / 1000:.0f} s{others}: {word} (φ {opinion.phi:.1f})"


@final
class Watch:
    """One observer of many members. `look` at least every `step_ms_max`; between two looks opinions stay as they are."""

    def __init__(self, settings: Detection, now_ms: int) -> None:
        self._settings = settings
        self._stepped_ms = now_ms
        self._rhythms: dict[str, Rhythm] = {}
        self._lost: set[str] = set()
        self._held_since_ms: int | None = None
        self._opinions: dict[str, Opinion] = {}
        self._denied: frozenset[str] = frozenset()

    def expect(self, member: str, now_ms: int, *, lost: bool = False) -> None:
        """Watch a member from now on, if it is not yet watched. `lost`: it was given up before, and has yet to be heard."""
        rhythm = self._rhythms.setdefault(member, Rhythm(heard_ms=now_ms, mean_ms=float(self._settings.heartbeat_ms)))
        if lost and rhythm.words == 0:
            self._lost.add(member)
            self._opinions[member] = Opinion(state="lost")

    def hear(self, member: str, now_ms: int, *, restarted: bool = False) -> None:
        """A word from a member, known or new. `restarted`: the pause before it was no interval."""
        known = None if restarted else self._rhythms.get(member)
        self._rhythms[member] = heard(known, now_ms, self._settings)
        self._lost.discard(member)
        self._opinions[member] = UP

    def opinion(self, member: str) -> Opinion:
        """Of the latest look; who is not watched is not suspected."""
        return self._opinions.get(member, UP)

    @property
    def doubts(self) -> bool:
        """Whether at the latest look somebody was silent who is not lost."""
        return any(opinion.state == "suspected" for opinion in self._opinions.values())

    def look(self, now_ms: int, *, denied: frozenset[str] = frozenset()) -> Mapping[str, Opinion]:
        """Judge everybody now. `denied`: as by the function of this name."""
        self._denied = denied | self._denied & self._lost  # of who is lost nobody asks again
        self._excuse(now_ms)
        late = self._others_are_heard()
        found = self._hold({name: self._judge(name, rhythm, now_ms, late=late) for name, rhythm in self._rhythms.items()}, now_ms)
        self._lost = {name for name, opinion in found.items() if opinion.state == "lost"}
        self._opinions = found
        return dict(found)

    def _excuse(self, now_ms: int) -> None:
        """A gap since the last look that is too long was the observer's own silence."""
        own_ms = now_ms - self._stepped_ms - self._settings.step_ms_max
        self._stepped_ms = now_ms
        if own_ms > 0:
            self._rhythms = {n: replace(r, heard_ms=min(now_ms, r.heard_ms + own_ms)) for n, r in self._rhythms.items()}

    def _others_are_heard(self) -> bool:
        """All that may still be there but some, and these are fewer than half."""
        unheard = sum(rhythm.words == 0 for name, rhythm in self._rhythms.items() if name not in self._lost)
        return 2 * unheard <= len(self._rhythms) - len(self._lost)

    def _judge(self, name: str, rhythm: Rhythm, now_ms: int, *, late: bool) -> Opinion:
        settings, silent_ms = self._settings, max(0, now_ms - rhythm.heard_ms)
        if rhythm.words == 0:
            over = silent_ms > (settings.late_ms if late else settings.unheard_ms)
            return Opinion(state="lost" if over else "up", silent_ms=silent_ms)
        much = suspicion(rhythm, now_ms, settings)
        denied = settings.denied_ms is not None and name in self._denied
        limit_ms = settings.denied_ms if denied and settings.denied_ms is not None else settings.lost_ms
        lost = silent_ms > limit_ms and much >= settings.phi_lost
        if lost or silent_ms > settings.lost_ms_max:
            return Opinion(state="lost", phi=much, silent_ms=silent_ms, denied=denied)
        if silent_ms > settings.suspect_ms and much >= settings.phi_suspect:
            return Opinion(state="suspected", phi=much, silent_ms=silent_ms, denied=denied)
        return Opinion(state="up", phi=much, silent_ms=silent_ms)

    def _hold(self, found: dict[str, Opinion], now_ms: int) -> dict[str, Opinion]:
        """Who was lost stays so; the others are not given up while most of them are silent together."""
        fresh = [name for name in found if name not in self._lost]
        silent = [name for name in fresh if found[name].state != "up"]
        if len(silent) < 2 or len(silent) <= self._settings.hold_share * len(fresh):
            self._held_since_ms = None
            return {name: replace(o, state="lost") if name in self._lost else o for name, o in found.items()}
        if self._held_since_ms is None:
            self._held_since_ms = now_ms
        over = now_ms - self._held_since_ms >= self._settings.hold_ms
        return {
            name: replace(opinion, state="lost")
            if name in self._lost
            else replace(opinion, state="suspected", held=True)
            if opinion.state == "lost" and not over
            else opinion
            for name, opinion in found.items()
        }
