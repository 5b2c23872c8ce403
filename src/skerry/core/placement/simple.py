"""The first, simple method of placement: every site that policy allows runs the app.

app, shares -> wanted instances, by share
world       -> sites in order: pinned, those that run it now, the rest by stable hash
each site   -> policy, state, nodes, size -> take capacity in rounds -> placements, or a reason
"""

from collections.abc import Sequence

import msgspec

from skerry.core.placement.world import SiteView, World
from skerry.core.policy.capacity import Room, has_features, nodes_rejection, nodes_up, site_free, size_rejection
from skerry.core.policy.places import place_rejection
from skerry.core.policy.state import site_state_rejection
from skerry.core.types.app import App, Version
from skerry.core.types.ids import PlanId, SiteId, VersionId
from skerry.core.types.plan import REASON_TEXT, Evaluation, Placement, Plan, Reason, Rejection
from skerry.kit.hashing import stable_hash, stable_id
from skerry.kit.record import Record, encode

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


class _Choice(Record):
    """What one site gets, and why it gets no more."""

    placements: tuple[Placement, ...] = ()
    rejection: Rejection | None = None


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
    choices = _choose(world, app, wanted, parent) if wanted else {}
    placements = tuple(placement for site in sorted(choices) for placement in choices[site].placements)
    rejections = tuple(choice.rejection for _, choice in sorted(choices.items()) if choice.rejection is not None)
    report += _outcome_sentences(choices, parent, placements)
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
    if app.deployment is None or not app.enabled or app.scale.min_per_site < 1:
        return ()
    ordered = sorted(shares, key=lambda share: (-share[1], share[0].id))
    return tuple(version for version, percent in ordered if percent > 0)


def _choose(world: World, app: App, wanted: tuple[Version, ...], parent: Plan | None) -> dict[SiteId, _Choice]:
    """One choice per site, made in an order that keeps what runs when `max_total` is short."""
    running = frozenset(placement.site for placement in parent.placements) if parent else frozenset[SiteId]()
    caps = _refusal_caps(world, app, wanted, parent)
    budget = app.scale.max_total
    choices: dict[SiteId, _Choice] = {}
    for view in _site_order(world, app, running):
        choice = _choose_site(view, app, wanted, runs_there=view.site.id in running, budget=budget, caps=caps)
        choices[view.site.id] = choice
        if budget is not None:
            budget -= sum(placement.count for placement in choice.placements)
    return choices


def _site_order(world: World, app: App, running: frozenset[SiteId]) -> list[SiteView]:
    """Pinned sites in the order of `pin`, then those that run the app, then the rest by stable hash."""
    pins = {site: index for index, site in enumerate(app.scale.pin)}

    def rank(view: SiteView) -> tuple[int, bool, int, str]:
        site = view.site.id
        return (pins.get(site, len(pins)), site not in running, stable_hash(app.account, app.name, site), site)

    return sorted(world.sites, key=rank)


def _choose_site(
    view: SiteView,
    app: App,
    wanted: tuple[Version, ...],
    *,
    runs_there: bool,
    budget: int | None,
    caps: dict[tuple[SiteId, VersionId], int],
) -> _Choice:
    rejection = _site_rejection(view, app, wanted, runs_there=runs_there)
    if rejection is not None:
        return _Choice(rejection=rejection)
    return _fill(view, app, wanted, budget=budget, caps=caps)


def _site_rejection(view: SiteView, app: App, wanted: tuple[Version, ...], *, runs_there: bool) -> Rejection | None:
    """What excludes the site altogether: first what the user wants, then how the site is, then what it has."""
    site, features = view.site, app.scale.features
    rejection = (
        place_rejection(site, app.scale)
        or site_state_rejection(site, runs_there=runs_there)
        or nodes_rejection(site, view.nodes, features)
    )
    if rejection is not None:
        return rejection
    usable = [node for node in nodes_up(view.nodes) if has_features(node, features)]
    too_large = [size_rejection(site, usable, version.limits.reserve) for version in wanted]
    return too_large[0] if all(too_large) else None


def _fill(
    view: SiteView, app: App, wanted: tuple[Version, ...], *, budget: int | None, caps: dict[tuple[SiteId, VersionId], int]
) -> _Choice:
    """Take capacity in rounds, one instance of each version a round: short room still serves every version."""
    site = view.site.id
    up = nodes_up(view.nodes)
    usable = [node for node in up if has_features(node, app.scale.features)]
    room = Room(up, usable, view.others)
    counts = {version.id: 0 for version in wanted}
    why: tuple[Reason, str] | None = None
    for ordinal in range(app.scale.min_per_site):
        for version in wanted:
            cap = caps.get((site, version.id))
            if budget is not None and sum(counts.values()) >= budget:
                why = why or (Reason.MAX_TOTAL, f"max_total is {app.scale.max_total}")
            elif cap is not None and ordinal >= cap:
                why = why or (Reason.REFUSED_BY_SITE, f"the site could pack {cap} of {app.scale.min_per_site}")
            elif room.take(version.limits.reserve):
                counts[version.id] += 1
            elif too_large := size_rejection(view.site, usable, version.limits.reserve):
                why = why or (too_large.reason, too_large.detail)
            else:
                why = why or (Reason.NO_CAPACITY, room.why_not(version.limits.reserve))
    total = app.scale.min_per_site * len(wanted)
    placements = tuple(Placement(site=site, version=name, count=counts[name]) for name in sorted(counts) if counts[name])
    if why is None:
        return _Choice(placements=placements)
    detail = f"{sum(counts.values())} of {total} instances placed; {why[1]}"
    free = site_free(view.nodes, view.others) if why[0] is Reason.REFUSED_BY_SITE else None
    return _Choice(placements=placements, rejection=Rejection(place=site, reason=why[0], detail=detail, free=free))


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
    limit = "" if app.scale.max_total is None else f", at most {app.scale.max_total} in all"
    numbers = ", ".join(str(version.number) for version in wanted)
    return f"Asked: {app.scale.min_per_site} instance(s) of version {numbers} in every site that policy allows{limit}."


def _why_nothing(app: App) -> str:
    if not app.enabled:
        return "it is disabled or deleted"
    return "it has no deployment" if app.deployment is None else "it asks for no instance"


def _outcome_sentences(choices: dict[SiteId, _Choice], parent: Plan | None, placements: tuple[Placement, ...]) -> list[str]:
    chosen = sorted({placement.site for placement in placements})
    before = {placement.site for placement in parent.placements} if parent else set[SiteId]()
    total = sum(placement.count for placement in placements)
    sentences = [f"Chosen: {len(chosen)} of {len(choices)} sites, {total} instance(s)."] if choices else []
    kept, gained, lost = (
        [site for site in chosen if site in before],
        [site for site in chosen if site not in before],
        sorted(before.difference(chosen)),
    )
    for verb, names in (("Kept", kept), ("Gained", gained), ("Given up", lost)):
        if names:
            sentences.append(f"{verb}: {', '.join(names)}.")
    for site, choice in sorted(choices.items()):
        if choice.rejection is not None:
            numbers = f" ({choice.rejection.detail})" if choice.rejection.detail else ""
            sentences.append(f"{site}: {REASON_TEXT[choice.rejection.reason]}{numbers}.")
    return sentences
