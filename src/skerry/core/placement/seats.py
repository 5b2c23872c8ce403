"""Where the simple method puts instances: one seat per site, filled within capacity, maximums and what the site refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heapreplace

from msgspec.structs import replace

from skerry.core.placement.world import SiteView
from skerry.core.policy.capacity import Room, has_features, nodes_rejection, nodes_up, site_free, size_rejection
from skerry.core.policy.isolation import needed_features
from skerry.core.policy.places import place_rejection
from skerry.core.policy.scale import instances_min
from skerry.core.policy.state import site_state_rejection
from skerry.core.types.app import Scale, Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.plan import Placement, Reason, Rejection

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


class Seat:
    """One site in one decision: what it gets, and why it gets no more. `before`: what of it to prefer, as it runs there."""

    def __init__(
        self,
        view: SiteView,
        scale: Scale,
        wanted: tuple[Version, ...],
        *,
        caps: Mapping[tuple[SiteId, VersionId], int],
        budget: Budget,
        before: Counter[VersionId],
        planned: int,
    ) -> None:
        """`planned`: how many instances of any version the parent plan has here."""
        self.site, self.before, self.planned = view.site, before, planned
        self.stayed = 0
        self.counts = {version.id: 0 for version in wanted}
        self.missing: tuple[Reason, str] | None = None
        self.excluded = _site_rejection(view, scale, wanted, runs_there=planned > 0)
        self._view, self._scale, self._wanted, self._caps, self._budget = view, scale, wanted, caps, budget
        up = nodes_up(view.nodes)
        self._needs = {version.id: needed_features(scale.features, version) for version in wanted}
        self._room = Room(up, [node for node in up if has_features(node, scale.features)], view.others)

    def fill(self) -> None:
        """Up to `min_per_site` in rounds, one instance of each version a round: short room still serves every version."""
        if self.excluded is not None:
            return
        for _ in range(self._scale.min_per_site):
            for version in self._wanted:
                why = self.take(version)
                self.missing = self.missing or why

    def take(self, version: Version) -> tuple[Reason, str] | None:
        """One instance more; or why not."""
        if self._budget.spent:
            return (Reason.MAX_TOTAL, f"max_total is {self._budget.max_total}")
        count, most = self.counts[version.id], self._scale.max_per_site
        if most is not None and count >= most:
            return (Reason.MAX_PER_SITE, f"max_per_site is {most}")
        cap = self._caps.get((self.site.id, version.id))
        if cap is not None and count >= cap:
            return (Reason.REFUSED_BY_SITE, f"the site could pack {cap}")
        needs = self._needs[version.id]
        if self._room.take(version.limits.reserve, needs):
            self.counts[version.id] += 1
            self._budget.used += 1
            return None
        never = _version_rejection(self._view, needs, version)
        if never is not None:
            return (never.reason, never.detail)
        why = self._room.why_not(version.limits.reserve)
        return (Reason.NO_CAPACITY, f"{why}; it came back and is filled step by step" if self._view.opening else why)

    def is_left(self) -> bool:
        """Whether it, or a node of it, is being drained: what it runs goes as soon as that is elsewhere."""
        draining = self.site.state == "draining" or any(node.state == "draining" for node in self._view.nodes)
        return draining and (self.excluded is None or self.excluded.reason in LEFT)

    def stay(self, version: Version) -> bool:
        """One instance more of those that run here goes on, as it has no other place; False: there is none more."""
        count, most = self.counts[version.id], self._scale.max_per_site
        if not self.is_left() or self._budget.spent or count >= (self.planned if most is None else min(self.planned, most)):
            return False
        held = count < self.before[version.id] and any(node.state == "draining" for node in self._view.nodes)
        room = self._room.take(version.limits.reserve, self._needs[version.id])
        if not room and not held:  # held: it has its room, on a node that takes nothing new
            return False
        self.counts[version.id] += 1
        self._budget.used += 1
        self.stayed += 1
        return True

    def placements(self) -> tuple[Placement, ...]:
        """By version id."""
        found = sorted(self.counts.items())
        return tuple(Placement(site=self.site.id, version=version, count=count) for version, count in found if count)

    def rejection(self) -> Rejection | None:
        """Why the site is not (fully) chosen; None: it has all that is asked of it."""
        stay = f"{self.stayed} instance(s) stay until there is room elsewhere" if self.stayed else ""
        if self.excluded is not None:
            return replace(self.excluded, detail=stay) if stay else self.excluded
        placed = sum(self.counts.values())
        if self.missing is None:
            return None if placed else Rejection(place=self.site.id, reason=Reason.NOT_NEEDED)
        reason, detail = self.missing
        base = self._scale.min_per_site * len(self._wanted)
        numbers = f"{placed} of {base} instances placed" if placed < base else f"{placed} placed, more are asked for"
        free = site_free(self._view.nodes, self._view.others) if reason is Reason.REFUSED_BY_SITE else None
        said = "; ".join(part for part in (numbers, detail, stay) if part)
        return Rejection(place=self.site.id, reason=reason, detail=said, free=free)


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
        for seat in sorted(seats, key=lambda seat: (-seat.before[version.id], seat.site.id)):
            while missing > 0 and seat.stay(version):
                missing -= 1


def _reach(seats: Sequence[Seat], least: int, wanted: tuple[Version, ...]) -> None:
    """What is still missing at the end is every seat's matter: each says why it takes no more."""
    spreads = [_Spread(seats, version) for version in wanted]
    short = [spread for spread in spreads if spread.total < least]
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


def _site_rejection(view: SiteView, scale: Scale, wanted: tuple[Version, ...], *, runs_there: bool) -> Rejection | None:
    """What excludes the site altogether: first what the user wants, then how the site is, then what it has."""
    site, features = view.site, scale.features
    rejection = (
        place_rejection(site, scale)
        or site_state_rejection(site, runs_there=runs_there)
        or nodes_rejection(site, view.nodes, features)
    )
    if rejection is not None:
        return rejection
    never = [_version_rejection(view, needed_features(features, version), version) for version in wanted]
    return never[0] if all(never) else None


def _version_rejection(view: SiteView, features: tuple[str, ...], version: Version) -> Rejection | None:
    """What keeps every node from running one instance of the version, however empty."""
    usable = [node for node in nodes_up(view.nodes) if has_features(node, features)]
    return nodes_rejection(view.site, view.nodes, features) or size_rejection(view.site, usable, version.limits.reserve)
