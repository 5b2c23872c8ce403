"""The first, simple method of placement: every site that policy allows runs the app.

app, shares -> wanted instances, by share
world       -> sites in order: pinned, those that run it now, the rest by stable hash
each site   -> policy, state, nodes, size -> take capacity in rounds -> placements, or a reason
short       -> one more where there are fewest, until regions and total have their minimums
still short -> what runs where it is being drained stays there, until there is room elsewhere
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from skerry.core.placement.seats import Budget, Seat, keep_what_is_left, reach_minimums
from skerry.core.placement.world import SiteView, World
from skerry.core.policy.capacity import site_free
from skerry.core.policy.scale import instances_min
from skerry.core.types.app import App, Scale, Version
from skerry.core.types.ids import PlanId, SiteId, VersionId
from skerry.core.types.plan import REASON_TEXT, Evaluation, Placement, Plan, Reason, Rejection
from skerry.kit.hashing import stable_hash, stable_id
from skerry.kit.record import encode

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


def place(
    world: World,
    app: App,
    shares: tuple[tuple[Version, float], ...],
    *,
    evaluation: Evaluation,
    parent: Plan | None,
    now_ms: int,
) -> Plan:
    """Decide where `app` runs. Pure: equal arguments, sites and shares in any order, give an equal plan.

    `shares`: versions of the app's deployment with their percent of traffic; empty when there is none.
    A site that lacks room for all it should get runs what fits and has a rejection that says how many are missing.
    """
    wanted = _wanted(app, shares)
    report = [_asked_sentence(app, wanted)]
    seats = _settled(world, app, wanted, parent) if wanted else []
    placements = tuple(placement for seat in seats for placement in seat.placements())
    rejections = tuple(rejection for seat in seats if (rejection := seat.rejection()) is not None)
    report += _outcome_sentences(seats, rejections, parent, placements)
    draft = Plan(
        id=PlanId(""),
        parent=parent.id if parent else None,
        generation=parent.generation + 1 if parent else 1,
        account=app.account,
        app=app.name,
        created_ms=now_ms,
        evaluation=evaluation.id,
        deployment=app.deployment,
        placements=placements,
        cause=evaluation.cause,
        rejections=rejections,
        report=tuple(report),
    )
    return msgspec.structs.replace(draft, id=PlanId(stable_id("plan", encode(draft).decode(), length=32)))


def same_decision(a: Plan, b: Plan) -> bool:
    """Whether executing either does the same: equal deployment and placements, whatever their reasons say."""
    return a.deployment == b.deployment and a.placements == b.placements


def blocking(plan: Plan) -> tuple[Rejection, ...]:
    """The rejections that new capacity can cure: what makes a plan's app blocked."""
    return tuple(rejection for rejection in plan.rejections if rejection.reason in CURABLE)


def _wanted(app: App, shares: Sequence[tuple[Version, float]]) -> tuple[Version, ...]:
    """The versions to run, the greatest share first. None when the app is not deployed or not enabled."""
    if app.deployment is None or not app.enabled:
        return ()
    ordered = sorted(shares, key=lambda share: (-share[1], share[0].id))
    return tuple(version for version, percent in ordered if percent > 0)


def _settled(world: World, app: App, wanted: tuple[Version, ...], parent: Plan | None) -> list[Seat]:
    """Choices that stay: decided again on what they make run, they come out the same.

    Where room is short, the order of sites matters, and the order prefers what runs. So the choice is repeated on its own
    outcome until one comes back; the parent's own counts as one that came back. Nearly always that is the first.
    """
    caps = _refusal_caps(world, app, wanted, parent)
    placements = parent.placements if parent else ()
    there = {site: versions.total() for site, versions in _running(placements).items()}
    seen = [_running(placements)]
    while True:
        seats = _choose(world, app, wanted, caps=caps, there=there, running=seen[-1])
        found = _running(tuple(placement for seat in seats for placement in seat.placements()))
        if not _order_matters(app.scale) or found in seen or len(seen) > SETTLING_MAX:
            return seats
        seen.append(found)


def _order_matters(scale: Scale) -> bool:
    """Nearly no app: with a minimum per site alone, what one site gets is no matter of another."""
    return scale.max_total is not None or scale.min_per_site == 0 or instances_min(scale) > 1


def _running(placements: tuple[Placement, ...]) -> dict[SiteId, Counter[VersionId]]:
    running: dict[SiteId, Counter[VersionId]] = {}
    for placement in placements:
        running.setdefault(placement.site, Counter())[placement.version] += placement.count
    return running


def _choose(
    world: World,
    app: App,
    wanted: tuple[Version, ...],
    *,
    caps: dict[tuple[SiteId, VersionId], int],
    there: Mapping[SiteId, int],
    running: dict[SiteId, Counter[VersionId]],
) -> list[Seat]:
    """One seat per site, by site id, filled in an order that keeps what runs when `max_total` is short."""
    budget = Budget(app.scale.max_total)
    seats = [
        Seat(
            view,
            app.scale,
            wanted,
            caps=caps,
            budget=budget,
            before=running.get(view.site.id, Counter()),
            planned=there.get(view.site.id, 0),
        )
        for view in _order(world, app, running)
    ]
    for seat in seats:
        seat.fill()
    reach_minimums(seats, app.scale, wanted)
    keep_what_is_left(seats, app.scale, wanted)
    return sorted(seats, key=lambda seat: seat.site.id)


def _order(world: World, app: App, running: Mapping[SiteId, Counter[VersionId]]) -> list[SiteView]:
    """Pinned sites in the order of `pin`, then those that run the app, the most first, then the rest by stable hash."""
    pins = {site: index for index, site in enumerate(app.scale.pin)}

    def rank(view: SiteView) -> tuple[int, int, int, str]:
        site = view.site.id
        count = running[site].total() if site in running else 0
        return (pins.get(site, len(pins)), -count, stable_hash(app.account, app.name, site), site)

    return sorted(world.sites, key=rank)


def _refusal_caps(
    world: World, app: App, wanted: tuple[Version, ...], parent: Plan | None
) -> dict[tuple[SiteId, VersionId], int]:
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
            caps |= {(site, version.id): had.get((site, version.id), 0) for version in wanted}
        for refused in view.refused:
            if refused.plan_generation == parent.generation:
                key = (site, refused.version)
                caps[key] = max(0, had.get(key, 0) - refused.missing)
    return caps


def _asked_sentence(app: App, wanted: tuple[Version, ...]) -> str:
    if not wanted:
        return f"{app.name} runs nowhere: {_why_nothing(app)}."
    scale = app.scale
    numbers = ", ".join(str(version.number) for version in wanted)
    asked = [f"{scale.min_per_site} instance(s) of version {numbers} in every site that policy allows"]
    asked += [f"at least {scale.min_total} in all"] if scale.min_total else []
    asked += [f"at least {entry.count} in {entry.region}" for entry in sorted(scale.region_min, key=lambda entry: entry.region)]
    asked += [f"in more than {scale.survive_sites} sites"] if scale.survive_sites else []
    asked += [] if scale.max_per_site is None else [f"at most {scale.max_per_site} in a site"]
    asked += [] if scale.max_total is None else [f"at most {scale.max_total} in all"]
    return f"Asked: {', '.join(asked)}."


def _why_nothing(app: App) -> str:
    if not app.enabled:
        return "it is disabled or deleted"
    return "it has no deployment" if app.deployment is None else "no version of it has traffic"


def _outcome_sentences(
    seats: list[Seat], rejections: tuple[Rejection, ...], parent: Plan | None, placements: tuple[Placement, ...]
) -> list[str]:
    chosen = sorted({placement.site for placement in placements})
    before = {placement.site for placement in parent.placements} if parent else set[str]()
    total = sum(placement.count for placement in placements)
    sentences = [f"Chosen: {len(chosen)} of {len(seats)} sites, {total} instance(s)."] if seats else []
    kept, gained, lost = (
        [site for site in chosen if site in before],
        [site for site in chosen if site not in before],
        sorted(before.difference(chosen)),
    )
    for verb, names in (("Kept", kept), ("Gained", gained), ("Given up", lost)):
        if names:
            sentences.append(f"{verb}: {', '.join(names)}.")
    for rejection in rejections:
        numbers = f" ({rejection.detail})" if rejection.detail else ""
        sentences.append(f"{rejection.place}: {REASON_TEXT[rejection.reason]}{numbers}.")
    return sentences
