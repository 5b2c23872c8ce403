"""What must hold of a plan before it commits. Written without the code that makes plans, so that it can judge it."""

from collections import Counter
from collections.abc import Iterator

from skerry.core.placement.world import SiteView, World
from skerry.core.types.app import App, Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.place import Node, Site
from skerry.core.types.plan import Plan, Reason, Rejection
from skerry.core.types.resources import Resources


def plan_violations(
    plan: Plan, world: World, app: App, shares: tuple[tuple[Version, float], ...], parent: Plan | None
) -> tuple[str, ...]:
    """Every promise the plan breaks, in words; empty: it may commit. Never raises on a wrong plan."""
    checker = _Checker(plan, world, app, shares, parent)
    return (*checker.lineage(), *checker.shape(), *checker.sites(), *checker.totals(), *checker.reasons())


class _Checker:
    def __init__(
        self, plan: Plan, world: World, app: App, shares: tuple[tuple[Version, float], ...], parent: Plan | None
    ) -> None:
        self.plan, self.app, self.parent = plan, app, parent
        self.views = {view.site.id: view for view in world.sites}
        self.wanted: dict[VersionId, Version] = {}
        if app.enabled and app.deployment is not None:
            self.wanted = {version.id: version for version, percent in shares if percent > 0}
        self.counts: Counter[tuple[SiteId, VersionId]] = Counter()
        for entry in plan.placements:
            self.counts[(entry.site, entry.version)] += entry.count
        self.rejected = {rejection.place: rejection for rejection in plan.rejections}
        self.before = {entry.site for entry in parent.placements} if parent else set[SiteId]()

    def lineage(self) -> Iterator[str]:
        expected = (self.parent.id, self.parent.generation + 1) if self.parent else (None, 1)
        if (self.plan.parent, self.plan.generation) != expected:
            found = (self.plan.parent, self.plan.generation)
            yield f"parent and generation are {found[0]}, {found[1]}; they must be {expected[0]}, {expected[1]}"
        if (self.plan.account, self.plan.app) != (self.app.account, self.app.name):
            yield "the plan is for another app"
        if self.plan.deployment != self.app.deployment:
            yield "the plan is for another deployment"

    def shape(self) -> Iterator[str]:
        keys = [(entry.site, entry.version) for entry in self.plan.placements]
        if len(set(keys)) != len(keys):
            yield "two placements of one version in one site"
        if len(self.rejected) != len(self.plan.rejections):
            yield "two rejections of one site"
        for entry in self.plan.placements:
            if entry.count < 1:
                yield f"{entry.site}: {entry.count} instances placed"
            if entry.site not in self.views:
                yield f"{entry.site}: no such site"
            if entry.version not in self.wanted:
                yield f"{entry.site}: version {entry.version} has no share"

    def sites(self) -> Iterator[str]:
        for site in sorted({entry.site for entry in self.plan.placements} & self.views.keys()):
            view = self.views[site]
            yield from self._policy(view.site)
            yield from self._state(view)
            yield from self._capacity(view)

    def _policy(self, site: Site) -> Iterator[str]:
        names = {site.id, f"country:{site.country}", f"region:{site.region}"}
        if names.intersection(self.app.scale.deny):
            yield f"{site.id}: denied"
        if self.app.scale.allow and not names.intersection(self.app.scale.allow):
            yield f"{site.id}: not allowed"

    def _state(self, view: SiteView) -> Iterator[str]:
        state, site = view.site.state, view.site.id
        if state in ("down", "draining") or (state == "cut_off" and site not in self.before):
            yield f"{site}: placed although the site is {state}"

    def _capacity(self, view: SiteView) -> Iterator[str]:
        site = view.site.id
        used = Resources()
        for version in self.wanted.values():
            count = self.counts[(site, version.id)]
            if count > 0:
                used += version.limits.reserve.times(count)
                if not any(version.limits.reserve.fits_in(node.capacity) for node in self._usable(view)):
                    yield f"{site}: no node can hold one instance of {version.id}"
        if not used.fits_in(_sum(_up(view)).less(view.others)):
            yield f"{site}: more is placed than the site has free"

    def totals(self) -> Iterator[str]:
        for (site, version), count in sorted(self.counts.items()):
            if count > self.app.scale.min_per_site:
                yield f"{site}: {count} instances of {version}, asked are {self.app.scale.min_per_site}"
        limit = self.app.scale.max_total
        total = sum(self.counts.values())
        if limit is not None and total > limit:
            yield f"{total} instances in all, more than max_total ({limit})"

    def reasons(self) -> Iterator[str]:
        """Every site has all it should have, or a reason why not that is true; never both."""
        for place in sorted(self.rejected.keys() - self.views.keys()):
            yield f"{place}: rejected, but no such site"
        for site, view in sorted(self.views.items()):
            complete = all(self.counts[(site, version)] >= self.app.scale.min_per_site for version in self.wanted)
            rejection = self.rejected.get(site)
            if complete and rejection is not None:
                yield f"{site}: rejected although nothing is missing"
            elif not complete and rejection is None:
                yield f"{site}: not (fully) chosen, without a reason"
            elif rejection is not None and not self._is_true(rejection, view):
                yield f"{site}: rejected for {rejection.reason}, which does not hold"

    def _is_true(self, rejection: Rejection, view: SiteView) -> bool:
        site, scale, nodes = view.site, self.app.scale, self._usable(view)
        names = {site.id, f"country:{site.country}", f"region:{site.region}"}
        facts: dict[Reason, bool] = {
            Reason.SITE_DOWN: site.state == "down",
            Reason.SITE_DRAINING: site.state == "draining",
            Reason.SITE_CUT_OFF: site.state == "cut_off" and site.id not in self.before,
            Reason.NO_NODES: not _up(view),
            Reason.NOT_ALLOWED: bool(scale.allow) and not names.intersection(scale.allow),
            Reason.DENIED: bool(names.intersection(scale.deny)),
            Reason.MISSING_FEATURE: not nodes,
            Reason.TOO_LARGE: any(not _fits_one(version, nodes) for version in self._missing(site.id)),
            Reason.NO_CAPACITY: self._is_full(view),
            Reason.MAX_TOTAL: scale.max_total is not None and sum(self.counts.values()) >= scale.max_total,
            Reason.REFUSED_BY_SITE: self._was_refused(view),
        }
        return facts.get(rejection.reason, False)

    def _missing(self, site: SiteId) -> list[Version]:
        return [version for version in self.wanted.values() if self.counts[(site, version.id)] < self.app.scale.min_per_site]

    def _is_full(self, view: SiteView) -> bool:
        """One more does not fit the sum; or some are there already, and the nodes' shapes leave no place for one more."""
        site = view.site.id
        used = Resources()
        for version in self.wanted.values():
            used += version.limits.reserve.times(self.counts[(site, version.id)])
        room = _sum(_up(view)).less(view.others + used)
        shaped = used != Resources()
        return any(shaped or not version.limits.reserve.fits_in(room) for version in self._missing(site))

    def _was_refused(self, view: SiteView) -> bool:
        earlier = self.parent.rejections if self.parent else ()
        return bool(view.refused) or any(
            rejection.place == view.site.id and rejection.reason is Reason.REFUSED_BY_SITE for rejection in earlier
        )

    def _usable(self, view: SiteView) -> list[Node]:
        return [node for node in _up(view) if set(self.app.scale.features) <= set(node.features)]


def _up(view: SiteView) -> list[Node]:
    return [node for node in view.nodes if node.state == "up"]


def _fits_one(version: Version, nodes: list[Node]) -> bool:
    return any(version.limits.reserve.fits_in(node.capacity) for node in nodes)


def _sum(nodes: list[Node]) -> Resources:
    total = Resources()
    for node in nodes:
        total += node.capacity
    return total
