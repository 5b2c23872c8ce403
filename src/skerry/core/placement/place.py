"""Placement of one app: the one way in which the running platform decides.

app, shares -> wanted versions
each site   -> policy, state, nodes, size -> may run it, or a reason why not
still right -> what runs stays: nothing that was asked has changed, and no site that it concerns
else        -> the solver's choice by demand at the prices there are -> filled within room -> minimums -> placements, reasons
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from skerry.core.placement.said import asked_sentence, calls_sentence, demand_sentence
from skerry.core.placement.seats import NOTHING, Budget, Seat, Wants, is_being_left, keep_what_is_left, reach_minimums
from skerry.core.placement.world import World
from skerry.core.policy.capacity import site_free
from skerry.core.policy.places import place_rejection
from skerry.core.policy.scale import instances_min
from skerry.core.types.app import App, Version
from skerry.core.types.ids import PlanId, SiteId, VersionId
from skerry.core.types.plan import REASON_TEXT, Evaluation, Placement, Plan, Reason, Rejection
from skerry.kit.hashing import stable_hash, stable_id
from skerry.kit.record import encode

if TYPE_CHECKING:
    from skerry.core.placement.choose import Question

FULL = frozenset((Reason.NO_CAPACITY, Reason.REFUSED_BY_SITE))
CURABLE = frozenset(
    (
        Reason.NO_NODES,
        Reason.MISSING_FEATURE,
        Reason.NO_CAPACITY,
        Reason.TOO_LARGE,
        Reason.REFUSED_BY_SITE,
    )
)
"""Reasons that new capacity can cure. The others are somebody's wish (policy, a drain), or a site's absence: it is decided
again by itself when the site is back, and until then its users are served elsewhere."""

SETTLING_MAX = 8  # choices repeated on their own outcome

Shares = tuple[tuple[Version, float], ...]
Running = dict[SiteId, Counter[VersionId]]


@dataclass(frozen=True)
class Case:
    """One app's decision as its steps read it. `caps`: how many of a version a site can pack by its own word."""

    world: World
    app: App
    wanted: Shares
    parent: Plan | None
    asked: str
    caps: dict[tuple[SiteId, VersionId], int]
    there: Mapping[SiteId, int]

    @property
    def versions(self) -> tuple[Version, ...]:
        return tuple(version for version, _ in self.wanted)


@dataclass(frozen=True)
class Outcome:
    """Seats by site id, filled; and what found no room."""

    seats: tuple[Seat, ...]
    unserved_rps: float = 0.0
    gain: float = 0.0
    because: str = ""  # what a background pass says of it


def place(world: World, app: App, shares: Shares, *, evaluation: Evaluation, parent: Plan | None, now_ms: int) -> Plan:
    """Decide where `app` runs. Pure: equal arguments, sites and shares in any order, give an equal plan.

    `shares`: versions of the app's deployment with their percent of traffic; empty when there is none.
    A site that lacks room for all it should get runs what fits and has a rejection that says how many are missing.
    The evaluation's cause matters in one way: "rebalance" moves nothing without a gain above the least in the settings, or
    what the pass has found for all apps together (`Evaluation.wanted`), all of it or nothing.
    """
    case = make_case(world, app, shares, parent)
    report = [asked_sentence(app, case.versions)]
    found = _outcome(case, evaluation) if case.wanted else Outcome(())
    placements = tuple(placement for seat in found.seats for placement in seat.placements())
    rejections = tuple(rejection for seat in found.seats if (rejection := seat.rejection()) is not None)
    deployment = app.deployment
    kept = None if placements or not _has_a_curable(rejections) else _serving_instead(world, app, shares, parent)
    if kept is not None:
        deployment, placements = kept.deployment, kept.placements
    matters = world.demand is not None or app.scale.min_per_site == 0
    report += [demand_sentence(world)] if case.wanted and matters else []
    report += [calls_sentence(world, app.scale)] if case.wanted and app.scale.calls else []
    report += ["What ran before goes on: what is asked for now has no room anywhere."] if kept is not None else []
    report += _outcome_sentences(found, rejections, parent, placements)
    draft = Plan(
        id=PlanId(""),
        parent=parent.id if parent else None,
        generation=parent.generation + 1 if parent else 1,
        account=app.account,
        app=app.name,
        created_ms=now_ms,
        evaluation=evaluation.id,
        deployment=deployment,
        placements=placements,
        cause=evaluation.cause,
        rejections=rejections,
        report=tuple(report),
        asked=case.asked,
        unserved_rps=found.unserved_rps,
        gain=found.gain,
    )
    return msgspec.structs.replace(draft, id=PlanId(stable_id("plan", encode(draft).decode(), length=32)))


def _serving_instead(world: World, app: App, shares: Shares, parent: Plan | None) -> Plan | None:
    """The plan in force, where nothing of another deployment has room anywhere: make before break, for new versions too.

    None where there is none, where it is the app's deployment that it runs, and where nobody may be served by it any more.
    """
    if parent is None or parent.deployment == app.deployment or not _wanted(app, shares) or app.scale.max_total == 0:
        return None
    sites = {view.site.id: view.site for view in world.sites}
    stands = [sites.get(placement.site) for placement in parent.placements]
    allowed = all(site is not None and place_rejection(site, app.scale) is None for site in stands)
    return parent if allowed and any(site is not None and site.state != "down" for site in stands) else None


def same_decision(decided: Plan, before: Plan) -> bool:
    """Whether `before` still says it: equal deployment and placements, whatever the reasons are.

    But one that only stays somewhere for want of room elsewhere, or waits for room, and need not any more, is another: operators
    read of it.
    """
    same = decided.deployment == before.deployment and decided.placements == before.placements
    named = {rejection.place for rejection in decided.rejections}
    return same and _staying(before) <= _staying(decided) and _waiting(before) <= named


def _staying(plan: Plan) -> frozenset[str]:
    """Where some of it runs only as it has no other place."""
    return frozenset(rejection.place for rejection in plan.rejections if rejection.staying)


def _waiting(plan: Plan) -> frozenset[str]:
    """Where it waits for room."""
    return frozenset(rejection.place for rejection in plan.rejections if rejection.reason in FULL)


def blocking(plan: Plan) -> tuple[Rejection, ...]:
    """The rejections that new capacity can cure: what makes a plan's app blocked."""
    return tuple(rejection for rejection in plan.rejections if rejection.reason in CURABLE)


def _has_a_curable(rejections: Sequence[Rejection]) -> bool:
    return any(rejection.reason in CURABLE for rejection in rejections)


def still_right(world: World, app: App, shares: Shares, plan: Plan) -> bool:
    """Whether nothing about the sites of `world` asks for another decision; these may be some of all sites.

    What the app asks for (intent, demand) is not compared: who changes that says so. Far cheaper than to decide.
    """
    case = make_case(world, app, shares, plan)
    if not case.wanted:
        return not plan.placements
    rejections = {SiteId(rejection.place): rejection for rejection in plan.rejections}
    if any(view.site.id in _staying(plan) for view in world.sites):
        return False  # whether it has to is decided anew each time
    return _seats_hold(case, make_seats(case, _running(plan.placements)), _running(plan.placements), rejections, plan)


def still_holds(world: World, app: App, shares: Shares, plan: Plan) -> bool:
    """Whether the same is asked as when it was decided, and all of it may stay: another choice may be better by now, since a site
    has become able to run it that could not, but none is needed."""
    case = make_case(world, app, shares, plan)
    return bool(case.wanted) and case.asked == plan.asked and _kept(case, _running(plan.placements), news=False) is not None


def make_case(world: World, app: App, shares: Shares, parent: Plan | None) -> Case:
    wanted = _wanted(app, shares)
    return Case(
        world=world,
        app=app,
        wanted=wanted,
        parent=parent,
        asked=asked_digest(world, app, wanted),
        caps=_refusal_caps(world, app, wanted, parent),
        there=_most_of_one(_with_left(world, _running(parent.placements if parent else ()))),
    )


def make_seats(case: Case, running: Mapping[SiteId, Counter[VersionId]]) -> tuple[Seat, ...]:
    """One per site, by id, nothing in it yet."""
    budget, wants = Budget(case.app.scale.max_total), Wants.of(case.app.scale, case.versions)
    return tuple(
        Seat(
            view,
            wants,
            caps=case.caps,
            budget=budget,
            before=running.get(view.site.id, NOTHING),
            planned=case.there.get(view.site.id, 0),
        )
        for view in sorted(case.world.sites, key=lambda view: view.site.id)
    )


def asked_digest(world: World, app: App, wanted: Shares) -> str:
    """Of all that is asked: intent, demand, weights. Not of what the sites are."""
    demand = None if world.demand is None else sorted(world.demand.items())
    shares = [(version.id, percent) for version, percent in wanted]
    return stable_id("asked", encode((app.deployment, app.scale, shares, demand, world.settings)).decode(), length=16)


def _wanted(app: App, shares: Shares) -> Shares:
    """The versions to run, the greatest share first. None when the app is not deployed or not enabled."""
    if app.deployment is None or not app.enabled:
        return ()
    ordered = sorted(shares, key=lambda share: (-share[1], share[0].id))
    return tuple(share for share in ordered if share[1] > 0)


def _outcome(case: Case, evaluation: Evaluation) -> Outcome:
    """What runs, as long as that is right; else choices until one stays: decided again on its own outcome, it is the same.

    Where room is short, what runs decides who keeps it. So the choice is repeated on its own outcome until it is right, or
    comes back; the parent's own counts as one that came back. Nearly always that is the first.
    """
    had = _running(case.parent.placements) if case.parent else {}
    thorough = evaluation.cause == "rebalance"
    kept = _kept(case, had, news=not thorough)
    if kept is not None and thorough:
        return _as_wanted(case, had, kept, evaluation) if evaluation.wanted else _worthwhile(case, had, kept)
    if kept is not None and case.parent is not None and case.parent.asked == case.asked:
        return kept
    seen = [_with_left(case.world, had)]
    while True:
        found = _all_alike(case, seen[-1]) or _choose(case, seen[-1])[0]
        now = _running([placement for seat in found.seats for placement in seat.placements()])
        if now in seen or len(seen) > SETTLING_MAX or _right(case, found, now):
            return found
        seen.append(now)


def _kept(case: Case, had: Running, *, news: bool) -> Outcome | None:
    """The parent's placements once more, with today's reasons; None: they are not right any more.

    `news`: nor are they where a site may run it that could not when the plan was made.
    """
    if case.parent is None:
        return None
    seats = make_seats(case, had)
    rejections = {SiteId(rejection.place): rejection for rejection in case.parent.rejections} if news else None
    gone = had.keys() - {seat.site.id for seat in seats}
    if gone or not _seats_hold(case, seats, had, rejections, case.parent):
        return None
    return _finished(case, _order(case, seats), case.parent.unserved_rps)


def _right(case: Case, found: Outcome, now: Running) -> bool:
    """Whether a plan of this outcome would be kept: surely where nothing is missing anywhere."""
    if found.unserved_rps <= 0.0 and all(seat.missing is None for seat in found.seats):
        return True
    rejections = {seat.site.id: rejection for seat in found.seats if (rejection := seat.rejection()) is not None}
    trial = replace(case, there=_most_of_one(now))
    wanting = found.unserved_rps > 0.0
    return _all_hold(trial, make_seats(trial, now), now, rejections, wanting=wanting)


def _seats_hold(
    case: Case, seats: Sequence[Seat], had: Running, rejections: Mapping[SiteId, Rejection] | None, plan: Plan
) -> bool:
    names = {version.id for version in case.versions}
    if plan.deployment != case.app.deployment or any(placement.version not in names for placement in plan.placements):
        return False
    return _all_hold(case, seats, had, rejections, wanting=plan.unserved_rps > 0.0)


def _all_hold(
    case: Case, seats: Sequence[Seat], had: Running, rejections: Mapping[SiteId, Rejection] | None, *, wanting: bool
) -> bool:
    """Each seat with what is there, and the totals: what is missing must have no place anywhere. Leaves the seats filled.

    `rejections` None: that a site could not be looked at before does not matter.
    """
    totals: Counter[VersionId] = Counter()
    for counts in had.values():
        totals.update(counts)
    scale = case.app.scale
    if scale.max_total is not None and totals.total() > scale.max_total:
        return False
    if rejections is not None and any(seat.is_news(had.get(seat.site.id), rejections.get(seat.site.id)) for seat in seats):
        return False
    if not all(seat.keeps(had.get(seat.site.id, Counter())) for seat in seats):
        return False
    few = any(totals[version.id] < instances_min(scale) for version in case.versions)
    regions = _short_regions(case, seats)
    return all(seat.is_full(wanting=wanting or few or seat.site.region in regions) for seat in seats)


def _short_regions(case: Case, seats: Sequence[Seat]) -> frozenset[str]:
    """Regions with less than their minimum."""
    short: set[str] = set()
    for entry in case.app.scale.region_min:
        inside = [seat.counts for seat in seats if seat.site.region == entry.region]
        if any(sum(counts[version.id] for counts in inside) < entry.count for version in case.versions):
            short.add(entry.region)
    return frozenset(short)


def _as_wanted(case: Case, had: Running, kept: Outcome, evaluation: Evaluation) -> Outcome:
    """Just what a background pass has found for it, if it runs what it ran then and there is room for all; else what runs."""
    wanted = evaluation.wanted
    if wanted is None or len(case.versions) != 1 or {site: counts.total() for site, counts in had.items()} != wanted.had:
        return kept
    version, seats = case.versions[0], make_seats(case, had)
    ordered = _order(case, seats)
    for seat in ordered:
        seat.fill({version.id: wanted.has.get(seat.site.id, 0)})
    found = _finished(case, ordered, 0.0)
    if {seat.site.id: count for seat in found.seats if (count := sum(seat.counts.values()))} != wanted.has:
        return kept
    asked = sum((case.world.demand or {}).values())
    unserved = min(kept.unserved_rps, max(0.0, asked - case.app.scale.rps_per_instance * sum(wanted.has.values())))
    return replace(found, unserved_rps=unserved, gain=wanted.gain, because=evaluation.detail)


def _worthwhile(case: Case, had: Running, kept: Outcome) -> Outcome:
    """Another choice where it gains enough for each instance that has to start; else what runs."""
    from skerry.core.placement.choose import units_of, value

    settings = case.world.settings
    found, question = _choose(case, had)
    before, after = question.ask.now, units_of(found.seats)
    starts = int((after - before).clip(min=0).sum())
    gain = value(question, before) - value(question, after)
    least = (settings.move + settings.rebalance_gain_min) * max(1, starts)
    return replace(found, gain=round(gain, 3)) if gain > least else kept


def _all_alike(case: Case, had: Running) -> Outcome | None:
    """Where every site has to run it, and its own users ask for no more than that, nothing is left to choose."""
    scale, versions = case.app.scale, len(case.wanted)
    if scale.min_per_site == 0 or scale.calls:
        return None
    seats = make_seats(case, had)
    largest = max(percent for _, percent in case.wanted) / sum(percent for _, percent in case.wanted)
    carried = scale.min_per_site * scale.rps_per_instance / largest
    open_seats = [seat for seat in seats if seat.excluded is None]
    demand = dict(case.world.demand or {})
    if any(demand.pop(seat.site.id, 0.0) > carried for seat in open_seats):
        return None
    if any(demand.get(seat.site.id, 0.0) > 0.0 for seat in seats):
        return None
    each = scale.min_per_site * versions
    if scale.max_total is not None and each * len(open_seats) > scale.max_total:
        return None
    ordered = _order(case, seats)
    found = _finished(case, ordered, 0.0)
    enough = all(min(seat.counts.values()) >= scale.min_per_site for seat in open_seats)
    return found if enough or not case.world.demand else None


def _choose(case: Case, had: Running) -> "tuple[Outcome, Question]":
    """The solver's choice, filled in an order that keeps what runs when `max_total` is short."""
    from skerry.core.placement.choose import wish  # NumPy is slow to import, and what stays needs none

    seats = make_seats(case, had)
    ordered = _order(case, seats)
    wished = wish(case.world, case.app.scale, case.wanted, seats, had)
    for seat in ordered:
        seat.fill(wished.counts.get(seat.site.id, NOTHING))
    unserved = max(wished.unserved_rps, _uncarried(case, seats, wished.load_rps)) if wished.question.known else 0.0
    for seat in ordered if unserved <= 0.0 else ():
        seat.forgo()
    return _finished(case, ordered, unserved), wished.question


def _finished(case: Case, ordered: Sequence[Seat], unserved_rps: float) -> Outcome:
    """Minimums, as far as there is room; and for each seat that has less than it should, why."""
    least = case.app.scale.min_per_site
    for seat in ordered if least else ():
        seat.fill(dict.fromkeys(seat.counts, least))
    reach_minimums(ordered, case.app.scale, case.versions)
    keep_what_is_left(ordered, case.app.scale, case.versions)
    if unserved_rps > 0.0:
        for seat in ordered:
            why = None if seat.excluded or seat.missing else seat.why_not(case.versions[0])
            seat.missing = seat.missing or why
    return Outcome(seats=tuple(sorted(ordered, key=lambda seat: seat.site.id)), unserved_rps=unserved_rps)


def _uncarried(case: Case, seats: Sequence[Seat], load: float) -> float:
    """What the instances that found room cannot carry of what was meant for them."""
    whole = sum(percent for _, percent in case.wanted)
    missing = 0.0
    for version, percent in case.wanted:
        carried = case.app.scale.rps_per_instance * sum(seat.counts[version.id] for seat in seats)
        missing += max(0.0, load * percent / whole * (1 - 1e-9) - carried)
    return missing


def _running(placements: Sequence[Placement]) -> Running:
    running: Running = {}
    for placement in placements:
        running.setdefault(placement.site, Counter())[placement.version] += placement.count
    return running


def _most_of_one(running: Running) -> dict[SiteId, int]:
    """By site, the version with the most instances: so many of each stay where they have no other place."""
    return {site: max(counts.values(), default=0) for site, counts in running.items()}


def _with_left(world: World, running: Running) -> Running:
    """And what goes on where something is being drained: it may have to stay, should where it went be lost meanwhile."""
    left = {view.site.id for view in world.sites if is_being_left(view)} if world.going_on else set[SiteId]()
    beside = _running([placement for placement in world.going_on if placement.site in left and placement.site not in running])
    return running | beside


def _order(case: Case, seats: Sequence[Seat]) -> list[Seat]:
    """Pinned sites in the order of `pin`, then those that run the app, the most first, then the rest by stable hash.

    As they are, where none is better served by being first.
    """
    app = case.app
    if app.scale.max_total is None and not app.scale.region_min and instances_min(app.scale) <= 1:
        return list(seats)
    pins = {site: index for index, site in enumerate(app.scale.pin)}

    def rank(seat: Seat) -> tuple[int, int, int, str]:
        site = seat.site.id
        return (pins.get(site, len(pins)), -seat.before.total(), stable_hash(app.account, app.name, site), site)

    return sorted(seats, key=rank)


def _refusal_caps(world: World, app: App, wanted: Shares, parent: Plan | None) -> dict[tuple[SiteId, VersionId], int]:
    """How many of a version a site can pack by its own word.

    What it refused of the parent plan counts now; what it refused before counts until it has more free than it had then
    (or another deployment is asked), so that a refused site is not asked the same thing for ever.
    """
    if parent is None:
        return {}
    had = {(placement.site, placement.version): placement.count for placement in parent.placements}
    noted = {rejection.place: rejection.free for rejection in parent.rejections if rejection.reason is Reason.REFUSED_BY_SITE}
    caps: dict[tuple[SiteId, VersionId], int] = {}
    for view in world.sites:
        site = view.site.id
        free = noted.get(site)
        if free is not None and parent.deployment == app.deployment and site_free(view.nodes, view.others).fits_in(free):
            caps |= {(site, version.id): had.get((site, version.id), 0) for version, _ in wanted}
        for refused in view.refused:
            if refused.plan_generation == parent.generation:
                key = (site, refused.version)
                caps[key] = max(0, had.get(key, 0) - refused.missing)
    return caps


def _outcome_sentences(
    found: Outcome, rejections: tuple[Rejection, ...], parent: Plan | None, placements: tuple[Placement, ...]
) -> list[str]:
    chosen = sorted({placement.site for placement in placements})
    before = {placement.site for placement in parent.placements} if parent else set[SiteId]()
    total = sum(placement.count for placement in placements)
    sentences = [f"Chosen: {len(chosen)} of {len(found.seats)} sites, {total} instance(s)."] if found.seats else []
    kept, gained, lost = (
        [site for site in chosen if site in before],
        [site for site in chosen if site not in before],
        sorted(before.difference(chosen)),
    )
    for verb, names in (("Kept", kept), ("Gained", gained), ("Given up", lost)):
        if names:
            sentences.append(f"{verb}: {', '.join(names)}.")
    if found.because:
        sentences.append(found.because)
    elif found.gain > 0.0:
        sentences.append(f"Moved for its gain alone: what is minimised falls by {found.gain:.0f}.")
    if found.unserved_rps > 0.0:
        sentences.append(f"No room was found for {found.unserved_rps:.3g} rps.")
    for rejection in rejections:
        numbers = f" ({rejection.detail})" if rejection.detail else ""
        sentences.append(f"{rejection.place}: {REASON_TEXT[rejection.reason]}{numbers}.")
    return sentences
