"""From what a whole plan would have to moves that pay and that can be made: which apps move together, and in which steps.

changes, what each would gain ─► the best first, with those that have to make room for it ─► steps that each find room
                              ─► bundles within the budget

Room is made before it is taken: within a step an app holds what it had and what it gets. Where apps wait for one another's room,
one of them waits in a third city for a step.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

BUNDLE_MAX = 8  # apps that move together
STEPS_MAX = 6  # of one bundle: each is a release of its own

Counts = Mapping[int, int]
"""Instances by site, all above 0."""
Room = Sequence[Sequence[float]]
"""[S][kind] units that nobody holds."""
Left = dict[int, list[float]]
"""By site."""


@dataclass(frozen=True)
class Budget:
    """What a background pass may do."""

    moves: int = 100  # instances started in all
    gain_min: float = 50.0  # J per start: a move has to bring so much more than w.move


@dataclass(frozen=True)
class Change:
    """What an app has and what it would have. `gain`: J without moves that it saves, below 0 where it gives way.
    `waits`: sites where it could be meanwhile, the best first. `homes`: of its own data, that goes along."""

    app: int
    had: Counts
    has: Counts
    reserve: tuple[float, ...]  # of one instance, by kind
    gain: float
    waits: tuple[int, ...] = ()
    homes: tuple[tuple[int, int], ...] = ()

    @property
    def starts(self) -> int:
        return sum(_added(self.had, self.has).values())

    @property
    def ends(self) -> int:
        return sum(_added(self.has, self.had).values())


@dataclass(frozen=True)
class Bundle:
    """Changes that pay together, as steps: each change of a step is made when the step before is done.

    `gain`: J that is saved, moves apart. `starts`: instances, those included that only wait somewhere.
    """

    gain: float
    starts: int
    ends: int
    steps: tuple[tuple[Change, ...], ...]

    def pays(self, gain: float, budget: Budget, move: float) -> bool:
        """Whether so much is enough for all that starts and ends."""
        return gain > budget.gain_min * max(1, self.starts) + move * (self.starts + self.ends)

    @property
    def apps(self) -> tuple[int, ...]:
        return tuple(sorted({change.app for step in self.steps for change in step}))


def bundles(changes: Sequence[Change], free: Room, budget: Budget, move: float) -> list[Bundle]:
    """The best that the budget allows; all of them can be under way at once. `move`: J per instance that starts or ends."""
    each = move + budget.gain_min
    left, taken, room = budget.moves, set[int](), {site: list(kinds) for site, kinds in enumerate(free)}
    found: list[Bundle] = []
    ranked = sorted(changes, key=lambda change: (each * change.starts - change.gain, change.app))
    leaving = [_leaving(ranked, better) for better in (_gains_most, _moves_least)]
    for change in ranked:
        if change.gain <= 0.0 or change.starts > left or change.app in taken:
            continue
        tried = (_bundle(_with_room([change], who, taken, room), room) for who in leaving)
        fits = (one for one in tried if one is not None and one.starts <= left and one.pays(one.gain, budget, move))
        bundle = next(fits, None)
        if bundle is None:
            continue
        found.append(bundle)
        left -= bundle.starts
        taken.update(bundle.apps)
        for made in (one for step in bundle.steps for one in step):
            _take(room, _added(made.had, made.has), made.reserve)
    return found


def _gains_most(change: Change) -> tuple[float, ...]:
    return (change.gain, -change.app)


def _moves_least(change: Change) -> tuple[float, ...]:
    return (-change.starts, change.gain, -change.app)


def _leaving(changes: Sequence[Change], better: Callable[[Change], tuple[float, ...]]) -> dict[int, list[Change]]:
    """By site: those with fewer instances there afterwards, the better first."""
    found: dict[int, list[Change]] = {}
    for change in sorted(changes, key=better, reverse=True):
        for site in _added(change.has, change.had):
            found.setdefault(site, []).append(change)
    return found


def _with_room(chosen: list[Change], leaving: Mapping[int, Sequence[Change]], taken: Set[int], free: Left) -> list[Change]:
    """And those that leave where it wants to be, and those that leave where they want to be; empty: it stays too little."""
    while True:
        after = {site: list(free[site]) for change in chosen for site in {*change.had, *change.has}}
        for change in chosen:
            _take(after, _added(change.has, change.had), change.reserve, -1.0)
            _take(after, _added(change.had, change.has), change.reserve)
        short = next((site for site, kinds in sorted(after.items()) if min(kinds) < 0.0), None)
        if short is None:
            return chosen
        apps = {change.app for change in chosen}
        more = next((one for one in leaving.get(short, ()) if one.app not in taken and one.app not in apps), None)
        if more is None or len(chosen) >= BUNDLE_MAX:
            return []
        chosen = [*chosen, more]


def _bundle(chosen: list[Change], free: Left) -> Bundle | None:
    """None: there is no way."""
    steps = _steps(chosen, free)
    made = [change for step in steps for change in step]
    starts, ends = sum(change.starts for change in made), sum(change.ends for change in made)
    return Bundle(sum(change.gain for change in chosen), starts, ends, tuple(steps)) if steps else None


def _steps(chosen: list[Change], free: Left) -> list[tuple[Change, ...]]:
    """Empty: there is no way."""
    touched = {site for change in chosen for site in (*change.had, *change.has, *change.waits)}
    room = {site: list(free[site]) for site in touched}
    steps, waiting = list[tuple[Change, ...]](), list(chosen)
    waited: set[int] = set()
    while waiting and len(steps) < STEPS_MAX:
        step: list[Change] = []
        for change in waiting:
            if _fits(room, _added(change.had, change.has), change.reserve):
                _take(room, _added(change.had, change.has), change.reserve)
                step.append(change)
        if step:
            waiting = [change for change in waiting if change not in step]
        else:
            found = _one_that_waits([change for change in waiting if change.app not in waited], room)
            if found is None:
                return []
            aside, rest = found
            _take(room, _added(aside.had, aside.has), aside.reserve)
            waited.add(aside.app)
            waiting = [rest if change.app == aside.app else change for change in waiting]
            step = [aside]
        for change in step:
            _take(room, _added(change.has, change.had), change.reserve, -1.0)
        steps.append(tuple(step))
    return [] if waiting else steps


def _one_that_waits(waiting: Sequence[Change], room: Left) -> tuple[Change, Change] | None:
    """The one with the fewest instances that can be elsewhere meanwhile: its way there, and from there to where it will be."""
    for change in sorted(waiting, key=lambda one: (one.starts, one.app)):
        gone = _added(change.has, change.had)
        stay = {site: count - gone.get(site, 0) for site, count in change.had.items() if count > gone.get(site, 0)}
        count = sum(gone.values())
        for site in change.waits:
            if gone and site not in gone and _fits(room, {site: count}, change.reserve):
                there = {**stay, site: stay.get(site, 0) + count}
                return replace(change, has=there, gain=0.0), replace(change, had=there)
    return None


def _added(before: Counts, after: Counts) -> dict[int, int]:
    return {site: count - before.get(site, 0) for site, count in after.items() if count > before.get(site, 0)}


def _fits(room: Left, counts: Counts, reserve: Sequence[float]) -> bool:
    return all(count * need <= have for site, count in counts.items() for need, have in zip(reserve, room[site], strict=True))


def _take(room: Left, counts: Counts, reserve: Sequence[float], sign: float = 1.0) -> None:
    for site, count in counts.items():
        room[site] = [have - sign * count * need for need, have in zip(reserve, room[site], strict=True)]
