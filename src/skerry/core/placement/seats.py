"""Where an app's instances go: one seat per site, filled within capacity, maximums and what the site refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import Self

from msgspec.structs import replace

from skerry.core.placement.world import SiteView
from skerry.core.policy.capacity import has_features, nodes_rejection, nodes_up, site_free, size_rejection
from skerry.core.policy.isolation import needed_features
from skerry.core.policy.places import place_rejection
from skerry.core.policy.scale import instances_min
from skerry.core.policy.shapes import NodeKind, Room, most_of
from skerry.core.policy.state import site_state_rejection
from skerry.core.types.app import Scale, Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.plan import Placement, Reason, Rejection
from skerry.core.types.resources import Resources

Caps = Mapping[tuple[SiteId, VersionId], int]
Counts = Mapping[VersionId, int]

FULL = frozenset((Reason.NO_CAPACITY, Reason.REFUSED_BY_SITE, Reason.MAX_PER_SITE, Reason.MAX_TOTAL, Reason.NOT_NEEDED))
"""Reasons of a site that may run the app, and does not, or not more of it."""

LEFT = frozenset((Reason.SITE_DRAINING, Reason.NO_NODES, Reason.MISSING_FEATURE, Reason.TOO_LARGE))
"""Why a place that is being drained, or whose nodes are, takes nothing new: none of it ends what runs there."""


class Budget:
    """What `max_total` leaves, over all sites; None: no such limit."""

    def __init__(self, max_total: int | None) -> None:
        self.max_total = max_total
        self.used = 0

    @property
    def spent(self) -> bool:
        return self.max_total is not None and self.used >= self.max_total


@dataclass(frozen=True)
class Wants:
    """What a decision asks of hundreds of seats, worked out once. `needs`: features of nodes, in all and by version.
    `anywhere`: no list and no jurisdiction keeps the app away from any site."""

    scale: Scale
    versions: tuple[Version, ...]
    needs_of: Mapping[VersionId, tuple[str, ...]]
    needs: tuple[str, ...]
    anywhere: bool

    @classmethod
    def of(cls, scale: Scale, versions: tuple[Version, ...]) -> Self:
        needs_of = {version.id: needed_features(scale.features, version) for version in versions}
        needs = tuple(sorted({name for needs in needs_of.values() for name in needs}))
        return cls(scale, versions, needs_of, needs, not (scale.deny or scale.allow or scale.jurisdiction))


NOTHING: Counter[VersionId] = Counter()
"""Of an app that does not run there; never written to."""


class Seat:
    """One site in one decision: what it gets, and why it gets no more. `before`: what of it to prefer, as it runs there."""

    def __init__(
        self,
        view: SiteView,
        wants: Wants,
        *,
        caps: Caps,
        budget: Budget,
        before: Counter[VersionId],
        planned: int,
    ) -> None:
        """`planned`: how many instances of the version that has the most here the parent plan has."""
        self.view, self.site, self.before, self.scale, self.planned = view, view.site, before, wants.scale, planned
        self.stayed = 0
        self.counts = dict.fromkeys(wants.needs_of, 0)
        self.missing: tuple[Reason, str] | None = None
        self.excluded = site_rejection(view, wants, runs_there=planned > 0)
        self._wants, self._wanted, self._caps, self._budget = wants, wants.versions, caps, budget
        self._room: Room | None = None
        self._most: int | None = None

    def most(self) -> int:
        """How many instances of all versions it can hold, as many of each."""
        if self.excluded is not None:
            return 0
        if len(self._wanted) == 1:
            room = self._room_for_one()
            return min(room, self._caps.get((self.site.id, self._wanted[0].id), MANY)) if self._caps else room
        together = Resources()
        for version in self._wanted:
            together += version.limits.reserve
        each = min((self._caps.get((self.site.id, version.id), MANY) for version in self._wanted), default=MANY)
        return min(self._room_for(together), each) * len(self._wanted)

    def fill(self, counts: Counts) -> None:
        """Up to `counts` in rounds, one instance of each version a round: short room still serves every version."""
        if self.excluded is not None or not counts:
            return
        if len(self._wanted) == 1:
            self._fill_one(self._wanted[0], counts.get(self._wanted[0].id, 0))
            return
        for number in range(min(self.counts.values(), default=0), max(counts.values(), default=0)):
            for version in self._wanted:
                if self.counts[version.id] <= number < counts.get(version.id, 0):
                    why = self.take(version)
                    self.missing = self.missing or why

    def _fill_one(self, version: Version, count: int) -> None:
        """As many as there are places for, all at once; the next one says why it finds none."""
        have = self.counts[version.id]
        most = min(count, self._room_for_one(), self._caps.get((self.site.id, version.id), MANY))
        if self.scale.max_per_site is not None:
            most = min(most, self.scale.max_per_site)
        if self._budget.max_total is not None:
            most = min(most, have + self._budget.max_total - self._budget.used)
        more = max(0, most - have)
        self.counts[version.id] += more
        self._budget.used += more
        if have + more < count:
            why = self.take(version)
            self.missing = self.missing or why

    def forgo(self) -> None:
        """More would have been better here, but all is served without it: where the app runs nothing is missing then."""
        if any(self.counts.values()) and all(count >= self.scale.min_per_site for count in self.counts.values()):
            self.missing = None

    def take(self, version: Version) -> tuple[Reason, str] | None:
        """One instance more; or why not."""
        why = self.why_not(version)
        if why is None:
            if len(self._wanted) > 1:
                self._shaped_room().take(version.limits.reserve, self._wants.needs_of[version.id])
            self.counts[version.id] += 1
            self._budget.used += 1
        return why

    def why_not(self, version: Version) -> tuple[Reason, str] | None:
        """Why it takes no more of this version; None: it would."""
        if self._budget.spent:
            return (Reason.MAX_TOTAL, f"max_total is {self._budget.max_total}")
        count, most = self.counts[version.id], self.scale.max_per_site
        if most is not None and count >= most:
            return (Reason.MAX_PER_SITE, f"max_per_site is {most}")
        cap = self._caps.get((self.site.id, version.id))
        if cap is not None and count >= cap:
            return (Reason.REFUSED_BY_SITE, f"the site could pack {cap}")
        if self._fits(version):
            return None
        never = _version_rejection(self.view, self._wants.needs_of[version.id], version)
        if never is not None:
            return (never.reason, never.detail)
        why = self._shaped_room().why_not(version.limits.reserve)
        return (Reason.NO_CAPACITY, f"{why}; it came back and is filled step by step" if self.view.opening else why)

    def is_left(self) -> bool:
        """Whether it, or a node of it, is being drained: what it runs goes as soon as that is elsewhere."""
        return is_being_left(self.view) and (self.excluded is None or self.excluded.reason in LEFT)

    def stay(self, version: Version) -> bool:
        """One instance more of those that run here goes on, as it has no other place; False: there is none more."""
        count, most = self.counts[version.id], self.scale.max_per_site
        if not self.is_left() or self._budget.spent or count >= (self.planned if most is None else min(self.planned, most)):
            return False
        held = count < self.before[version.id] and any(node.state == "draining" for node in self.view.nodes)
        room = self._shaped_room().take(version.limits.reserve, self._wants.needs_of[version.id])
        if not room and not held:  # held: it has its room, on a node that takes nothing new
            return False
        if not self._is_unsold(version):  # what it had may have been taken for another version
            return False
        self.counts[version.id] += 1
        self._budget.used += 1
        self.stayed += 1
        return True

    def _is_unsold(self, version: Version) -> bool:
        """Whether one more of it, beside all that is in the seat, is no more than the site has for this app."""
        asked = version.limits.reserve
        for wanted in self._wanted:
            asked += wanted.limits.reserve.times(self.counts[wanted.id])
        return self.view.unsold is None or asked.fits_in(self.view.unsold)

    def placements(self) -> tuple[Placement, ...]:
        """By version id."""
        if not any(self.counts.values()):
            return ()
        found = [(version, count) for version, count in self.counts.items() if count]
        return tuple(Placement(site=self.site.id, version=version, count=count) for version, count in sorted(found))

    def rejection(self) -> Rejection | None:
        """Why the site is not (fully) chosen; None: it has all that is asked of it."""
        stay = f"{self.stayed} instance(s) stay until there is room elsewhere" if self.stayed else ""
        if self.excluded is not None:
            return replace(self.excluded, detail=stay, staying=self.stayed) if stay else self.excluded
        placed = sum(self.counts.values())
        if self.missing is None:
            return None if placed else Rejection(place=self.site.id, reason=Reason.NOT_NEEDED)
        reason, detail = self.missing
        base = self.scale.min_per_site * len(self._wanted)
        numbers = f"{placed} of {base} instances placed" if placed < base else f"{placed} placed, more are asked for"
        free = site_free(self.view.nodes, self.view.others) if reason is Reason.REFUSED_BY_SITE else None
        said = "; ".join(part for part in (numbers, detail, stay) if part)
        return Rejection(place=self.site.id, reason=reason, detail=said, free=free, staying=self.stayed)

    def is_news(self, had: Counts | None, before: Rejection | None) -> bool:
        """Whether it may run the app and could not when the plan was made. `before`: what the plan says of it."""
        return self.excluded is None and not (had and any(had.values())) and (before is None or before.reason not in FULL)

    def keeps(self, had: Counts) -> bool:
        """Whether what the app has here may stay. Leaves the seat filled."""
        if self.excluded is not None:
            return not any(had.values())
        self.fill(had)
        return all(self.counts.get(version, 0) == count for version, count in had.items())

    def is_full(self, *, wanting: bool) -> bool:
        """Whether it has what it should have, or no place for it. `wanting`: the app has less than it asks for, anywhere."""
        if self.excluded is not None:
            return True
        short = [version for version in self._wanted if wanting or self.counts[version.id] < self.scale.min_per_site]
        return all(self.why_not(version) is not None for version in short)

    def _fits(self, version: Version) -> bool:
        """One more. Instances of one version fill nodes alike, so that a number says all; several need the nodes' shapes."""
        if len(self._wanted) == 1:
            return self.counts[version.id] < self._room_for_one()
        return self._shaped_room().fits(version.limits.reserve, self._wants.needs_of[version.id])

    def _room_for_one(self) -> int:
        if self._most is None:
            self._most = self._room_for(self._wanted[0].limits.reserve)
        return self._most

    def _room_for(self, reserve: Resources) -> int:
        return most_of(self.view.shaped(), self._wants.needs, self.view.others, reserve)

    def _shaped_room(self) -> Room:
        """With what is in the seat taken."""
        if self._room is None:
            self._room = Room(self.view.shaped(), self.scale.features, self.view.others)
            for version in self._wanted if len(self._wanted) == 1 else ():
                for _ in range(self.counts[version.id]):
                    self._room.take(version.limits.reserve, self._wants.needs_of[version.id])
        return self._room


MANY = 1_000_000  # as many as anybody may ask for


def reach_minimums(seats: Sequence[Seat], scale: Scale, wanted: tuple[Version, ...]) -> None:
    """One more at a time where a version has the fewest, until each has its minimum in each region, then in all."""
    for entry in sorted(scale.region_min, key=lambda entry: entry.region):
        _reach([seat for seat in seats if seat.site.region == entry.region], entry.count, wanted)
    _reach(seats, instances_min(scale), wanted)


def keep_what_is_left(seats: Sequence[Seat], scale: Scale, wanted: tuple[Version, ...]) -> None:
    """Make before break, for drains too: what has no place elsewhere stays where it runs, as far as minimums need it."""
    for entry in sorted(scale.region_min, key=lambda entry: entry.region):
        _stay([seat for seat in seats if seat.site.region == entry.region], entry.count, wanted)
    _stay(seats, instances_min(scale), wanted)


def _stay(seats: Sequence[Seat], least: int, wanted: tuple[Version, ...]) -> None:
    for version in wanted:
        missing = least - sum(seat.counts[version.id] for seat in seats)
        if missing <= 0:
            continue
        for seat in sorted(seats, key=lambda seat: (-seat.before[version.id], seat.site.id)):
            while missing > 0 and seat.stay(version):
                missing -= 1


def _reach(seats: Sequence[Seat], least: int, wanted: tuple[Version, ...]) -> None:
    """What is still missing at the end is every seat's matter: each says why it takes no more."""
    spreads = [_Spread(seats, version) for version in wanted if sum(seat.counts[version.id] for seat in seats) < least]
    short = list(spreads)
    while short:  # in rounds, so that a short budget still serves every version
        short = [spread for spread in short if spread.one_more() and spread.total < least]
    for spread in spreads:
        for seat in seats if spread.total < least else ():
            seat.missing = seat.missing or spread.full.get(seat.site.id)


class _Spread:
    """One version over some seats."""

    def __init__(self, seats: Sequence[Seat], version: Version) -> None:
        self.total = sum(seat.counts[version.id] for seat in seats)
        self.full: dict[SiteId, tuple[Reason, str]] = {}
        self._version, self._seats = version, seats
        self._heap = [
            (seat.counts[version.id], -seat.before[version.id], index)
            for index, seat in enumerate(seats)
            if seat.excluded is None
        ]
        heapify(self._heap)

    def one_more(self) -> bool:
        """Where it has the fewest, of equal ones where most of it runs now, else in the first; False: no seat takes it."""
        while self._heap:
            count, before, index = self._heap[0]
            why = self._seats[index].take(self._version)
            if why is None:
                heapreplace(self._heap, (count + 1, before, index))
                self.total += 1
                return True
            heappop(self._heap)
            self.full[self._seats[index].site.id] = why
        return False


def is_being_left(view: SiteView) -> bool:
    return view.site.state == "draining" or any(node.state == "draining" for node in view.nodes)


def site_rejection(view: SiteView, wants: Wants, *, runs_there: bool) -> Rejection | None:
    """What excludes the site altogether: first what the user wants, then how the site is, then what it has."""
    site, features, kinds = view.site, wants.scale.features, view.shaped().kinds
    rejection = None if wants.anywhere else place_rejection(site, wants.scale)
    if rejection is None and site.state != "up":
        rejection = site_state_rejection(site, runs_there=runs_there)
    if rejection is not None:
        return rejection
    if not kinds or (features and not any(kind.has(features) for kind in kinds)):
        return nodes_rejection(site, view.nodes, features)
    for version in wants.versions:
        if _has_a_node(kinds, wants.needs_of[version.id], version.limits.reserve):
            return None
    never = [_version_rejection(view, wants.needs_of[version.id], version) for version in wants.versions]
    return never[0] if never and all(never) else None


def _has_a_node(kinds: Sequence[NodeKind], needs: tuple[str, ...], reserve: Resources) -> bool:
    for kind in kinds:  # noqa: SIM110 - a generator costs more, and this is asked of every site in every decision
        if reserve.fits_in(kind.capacity) and (not needs or kind.has(needs)):
            return True
    return False


def _version_rejection(view: SiteView, needs: tuple[str, ...], version: Version) -> Rejection | None:
    """What keeps every node from running one instance of the version, however empty."""
    usable = [node for node in nodes_up(view.nodes) if has_features(node, needs)]
    return nodes_rejection(view.site, view.nodes, needs) or size_rejection(view.site, usable, version.limits.reserve)
