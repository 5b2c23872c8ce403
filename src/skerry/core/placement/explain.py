"""Why an app runs where it does, and what would have to change for it to run elsewhere."""

from collections.abc import Mapping, Sequence

from skerry.core.placement.world import SiteView, World
from skerry.core.policy.capacity import has_features, nodes_rejection, site_free
from skerry.core.policy.isolation import needed_features
from skerry.core.policy.state import node_state_rejection, site_state_rejection
from skerry.core.types.app import App, Version
from skerry.core.types.ids import SiteId
from skerry.core.types.place import Node
from skerry.core.types.plan import REASON_TEXT, Plan, Reason, Rejection
from skerry.core.types.view import Explanation, NodeVerdict, PlacementView, SiteVerdict
from skerry.core.types.view_placing import SiteTerms

CHANGE_TEXT: dict[Reason, str] = {
    Reason.SITE_DOWN: "it is chosen again by itself when the site reports",
    Reason.SITE_DRAINING: "end the drain (`skerry undrain`)",
    Reason.SITE_CUT_OFF: "it is chosen by itself when the site reaches control again",
    Reason.NO_NODES: "bring up a node there",
    Reason.NOT_ALLOWED: "add the site, its country or its region to the app's allow list",
    Reason.DENIED: "take it off the app's deny list",
    Reason.JURISDICTION: "choose another jurisdiction, or let the site's operator vouch for this one",
    Reason.MISSING_FEATURE: "add a node with the feature, or do without it",
    Reason.NO_CAPACITY: "add a node there, drain something else away, or reserve less per instance",
    Reason.TOO_LARGE: "add a larger node, or reserve less per instance",
    Reason.MAX_TOTAL: "raise max_total, or pin the site",
    Reason.MAX_PER_SITE: "raise max_per_site, or allow more sites",
    Reason.NOT_NEEDED: "raise min_per_site, min_total or the region's minimum",
    Reason.REFUSED_BY_SITE: "it is tried again when the site has more free capacity",
    Reason.NODE_DOWN: "bring the node back",
    Reason.NODE_DRAINING: "end the drain (`skerry undrain`)",
    Reason.OUTRANKED: "add a node there, or raise the app's priority",
    Reason.APART: "add a node or rack there, or let more of one app share one",
}


def explain(
    app: App,
    plan: Plan | None,
    world: World,
    site: SiteId | None = None,
    terms: Mapping[SiteId, SiteTerms] | None = None,
    *,
    versions: Sequence[Version] = (),
) -> Explanation:
    """The plan in force in words; with `site`, that site alone and its nodes. Sites and nodes in id order.

    `terms`: what it costs at each site (`core.placement.terms`), for who wants to see that too. `versions`: those with traffic;
    what their isolation asks of nodes is judged besides what the app asks.

    `plan` None: nothing was decided yet. A site that joined after the plan has a verdict that says so.
    """
    views = sorted((view for view in world.sites if site in (None, view.site.id)), key=lambda view: view.site.id)
    needs = _needs(app, versions)
    placements = [entry for entry in plan.placements if site in (None, entry.site)] if plan else []
    rejections = [rejection for rejection in plan.rejections if site in (None, rejection.place)] if plan else []
    return Explanation(
        account=app.account,
        app=app.name,
        plan=plan.id if plan else None,
        generation=plan.generation if plan else 0,
        decided_ms=plan.created_ms if plan else None,
        cause=plan.cause if plan else "",
        placements=tuple(PlacementView(site=entry.site, version=entry.version, count=entry.count) for entry in placements),
        verdicts=tuple(_verdict(app, plan, view, needs, (terms or {}).get(view.site.id)) for view in views),
        nodes=tuple(_node_verdict(node, needs) for view in views for node in sorted(view.nodes, key=lambda n: n.id))
        if site
        else (),
        rejections=tuple(rejections),
        report=plan.report if plan else ("Nothing was decided yet.",),
    )


def reason_sentence(rejection: Rejection) -> str:
    """The reason, its numbers, and what would have to change."""
    numbers = f" ({rejection.detail})" if rejection.detail else ""
    return f"{REASON_TEXT[rejection.reason]}{numbers}; to change that: {CHANGE_TEXT[rejection.reason]}"


def _needs(app: App, versions: Sequence[Version]) -> tuple[tuple[str, ...], ...]:
    """What nodes have to offer, each once: of versions that differ, one set each."""
    found = {needed_features(app.scale.features, version) for version in versions}
    return tuple(sorted(found)) or (app.scale.features,)


def _verdict(
    app: App, plan: Plan | None, view: SiteView, needs: tuple[tuple[str, ...], ...], terms: SiteTerms | None
) -> SiteVerdict:
    site = view.site.id
    count = sum(entry.count for entry in plan.placements if entry.site == site) if plan else 0
    reasons: list[str] = []
    if count:
        reasons.append(f"{count} instance(s): the app's policy allows the site, and it had room (now {_room(view)})")
        since = site_state_rejection(view.site, runs_there=True) or _no_nodes(view, needs)
        said = {rejection.reason for rejection in plan.rejections if rejection.place == site} if plan else set[Reason]()
        reasons += [f"since then: {reason_sentence(since)}"] if since and since.reason not in said else []
        if view.site.state == "draining":
            reasons.append("what runs there serves until there is room elsewhere for what the app needs")
        if view.site.state == "cut_off":
            reasons.append("the site is cut off from control and goes on with what it has")
    reasons += [reason_sentence(rejection) for rejection in plan.rejections if rejection.place == site] if plan else []
    reasons = reasons or [_unmentioned(app, plan)]
    reasons += _terms_sentences(terms, chosen=count > 0) if terms else []
    return SiteVerdict(site=site, chosen=count > 0, reasons=tuple(reasons), terms=terms)


def _terms_sentences(terms: SiteTerms, *, chosen: bool) -> list[str]:
    """What the numbers say: who is served from there and for what, or what it would take for an instance to pay."""
    said: list[str] = []
    if chosen:
        parts = [("latency", terms.latency), ("late", terms.late), ("cost", terms.cost), ("shadow price", terms.shadow)]
        shown = ", ".join(f"{name} {value:.3g}" for name, value in parts if value > 0.0 or name == "cost")
        said.append(f"it serves {terms.served_rps:.3g} rps; {shown}")
    elif terms.may_run:
        more = terms.costs / terms.saves if terms.saves > 0.0 else 0.0
        change = f"; it pays at {more:.2g} times as many requests from around there" if more > 1.0 else ""
        said.append(f"an instance there would save {terms.saves:.3g} and cost {terms.costs:.3g}{change}")
    if terms.asked_rps > 0.0 and terms.nearest is not None and terms.rtt_ms is not None:
        who = f"{terms.asked_rps:.3g} rps of users here" if terms.known else "users here (assumed: nobody has asked yet)"
        how = "measured" if terms.measured else "modelled"
        way = "on the spot" if terms.rtt_ms == 0.0 else f"from {terms.nearest}, {terms.rtt_ms:.0f} ms away ({how})"
        said.append(f"{who} are served {way}")
    return said


def _unmentioned(app: App, plan: Plan | None) -> str:
    if plan is None:
        return "nothing was decided yet"
    if not plan.placements and not plan.rejections:
        return plan.report[0] if plan.report else f"{app.name} runs nowhere"
    return "the site joined after this plan; the next decision looks at it"


def _room(view: SiteView) -> str:
    free = site_free(view.nodes, view.others)
    return f"{free.cpu_millicores} millicores, {free.memory_mib} MiB memory, {free.disk_mib} MiB disk not held by other apps"


def _no_nodes(view: SiteView, needs: tuple[tuple[str, ...], ...]) -> Rejection | None:
    """Why none of the site's nodes takes any version."""
    found = [nodes_rejection(view.site, view.nodes, each) for each in needs]
    return found[0] if all(found) else None


def _node_verdict(node: Node, needs: tuple[tuple[str, ...], ...]) -> NodeVerdict:
    rejection = node_state_rejection(node) or _lacks(node, needs)
    free = node.capacity.less(node.reserved)
    room = f"free: {free.cpu_millicores} millicores, {free.memory_mib} MiB memory, {free.disk_mib} MiB disk"
    return NodeVerdict(node=node.id, reasons=(room, reason_sentence(rejection)) if rejection else (room,))


def _lacks(node: Node, needs: tuple[tuple[str, ...], ...]) -> Rejection | None:
    """What some version needs and the node does not offer."""
    lacking = [each for each in needs if not has_features(node, each)]
    if not lacking:
        return None
    missing = sorted({feature for each in lacking for feature in each} - set(node.features))
    some = "" if len(lacking) == len(needs) else "a version "
    detail = f"{some}needs {', '.join(lacking[0])}; lacks {', '.join(missing)}"
    return Rejection(place=node.id, reason=Reason.MISSING_FEATURE, detail=detail)
