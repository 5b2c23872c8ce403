"""What must hold of a plan before it commits. Written without the code that makes plans, so that it can judge it."""

from collections import Counter
from collections.abc import Iterator
from math import inf

from skerry.core.placement.world import SiteView, World
from skerry.core.policy.isolation import needed_features
from skerry.core.policy.jurisdiction import EU_COUNTRIES
from skerry.core.types.app import App, Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.place import Node, Site
from skerry.core.types.plan import Plan, Reason, Rejection
from skerry.core.types.resources import Resources

ASKED_MIN_RPS = 1e-6  # less is nobody
SLACK = 1 - 1e-6  # rounding


def plan_violations(
    plan: Plan, world: World, app: App, shares: tuple[tuple[Version, float], ...], parent: Plan | None
) -> tuple[str, ...]:
    """Every promise the plan breaks, in words; empty: it may commit. Never raises on a wrong plan."""
    checker = _Checker(plan, world, app, shares, parent)
    if checker.waits():
        return (*checker.lineage(), *checker.places())
    return (*checker.lineage(), *checker.shape(), *checker.sites(), *checker.totals(), *checker.reasons())


class _Checker:
    def __init__(
        self, plan: Plan, world: World, app: App, shares: tuple[tuple[Version, float], ...], parent: Plan | None
    ) -> None:
        self.plan, self.app, self.parent = plan, app, parent
        self.world = world
        self.views = {view.site.id: view for view in world.sites}
        self.percents = {version.id: percent for version, percent in shares if percent > 0}
        self.wanted: dict[VersionId, Version] = {}
        if app.enabled and app.deployment is not None:
            self.wanted = {version.id: version for version, percent in shares if percent > 0}
        self.counts: Counter[tuple[SiteId, VersionId]] = Counter()
        self.in_all: Counter[VersionId] = Counter()
        self.in_region: Counter[tuple[VersionId, str]] = Counter()
        self.region_least = {entry.region: entry.count for entry in app.scale.region_min}
        for entry in plan.placements:
            self.counts[(entry.site, entry.version)] += entry.count
            self.in_all[entry.version] += entry.count
            if entry.site in self.views:
                self.in_region[(entry.version, self.views[entry.site].site.region)] += entry.count
        self.rejected = {rejection.place: rejection for rejection in plan.rejections}
        self.before = {entry.site for entry in parent.placements} if parent else set[SiteId]()
        self.ran: Counter[tuple[SiteId, VersionId]] = Counter()
        for entry in parent.placements if parent else ():
            self.ran[(entry.site, entry.version)] += entry.count
        for entry in world.going_on:
            if entry.site not in self.before:
                self.ran[(entry.site, entry.version)] += entry.count
        self.before |= {entry.site for entry in world.going_on}

    def lineage(self) -> Iterator[str]:
        expected = (self.parent.id, self.parent.generation + 1) if self.parent else (None, 1)
        if (self.plan.parent, self.plan.generation) != expected:
            found = (self.plan.parent, self.plan.generation)
            yield f"parent and generation are {found[0]}, {found[1]}; they must be {expected[0]}, {expected[1]}"
        if (self.plan.account, self.plan.app) != (self.app.account, self.app.name):
            yield "the plan is for another app"
        if self.plan.deployment != self.app.deployment and not self.waits():
            yield "the plan is for another deployment"

    def waits(self) -> bool:
        """Whether it is the plan in force once more, as no node that is up has all of one instance of what is asked for now."""
        parent, placements = self.parent, self.plan.placements
        if parent is None or not placements or not self.wanted or self.plan.deployment == self.app.deployment:
            return False
        same = (self.plan.deployment, placements) == (parent.deployment, parent.placements)
        return same and not any(self._has_room(view) for view in self.views.values())

    def _has_room(self, view: SiteView) -> bool:
        """For one instance of any version that is asked for."""
        if view.site.state != "up" or any(self._policy(view.site)) or view.refused or view.site.id in self._noted():
            return False
        free = _sum(_up(view)).less(view.others)
        return any(v.limits.reserve.fits_in(free) and _fits_one(v, self._usable(view, v)) for v in self.wanted.values())

    def _noted(self) -> set[str]:
        """Sites that refused before: whether they have more free by now is not this check's matter."""
        return {entry.place for entry in self.plan.rejections if entry.reason is Reason.REFUSED_BY_SITE}

    def places(self) -> Iterator[str]:
        """Of what goes on: that it may be where it is."""
        for site in sorted({entry.site for entry in self.plan.placements}):
            yield from self._policy(self.views[site].site) if site in self.views else (f"{site}: no such site",)

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
        if self._is_foreign(site):
            yield f"{site.id}: outside jurisdiction {self.app.scale.jurisdiction}"

    def _state(self, view: SiteView) -> Iterator[str]:
        state, site = view.site.state, view.site.id
        there = [version for version in self.wanted if self.counts[(site, version)]]
        if state == "draining" and site in self.before and all(self._is_the_last_place(site, version) for version in there):
            return
        if state in ("down", "draining") or (state == "cut_off" and site not in self.before):
            yield f"{site}: placed although the site is {state}"

    def _is_the_last_place(self, site: SiteId, version: VersionId) -> bool:
        """Without what is there the app, or its region, has fewer of this version than its minimum."""
        region = self.views[site].site.region
        in_region = self.in_region[(version, region)] <= self.region_least.get(region, 0)
        return self.in_all[version] <= self._least() or in_region

    def _holds_its_room(self, view: SiteView, version: VersionId) -> bool:
        """It ran there already, a node of the site is being drained, and it has no other place: it goes on where it is."""
        site = view.site.id
        draining = any(node.state == "draining" for node in view.nodes)
        ran = 0 < self.counts[(site, version)] <= self.ran[(site, version)]
        return draining and ran and self._is_the_last_place(site, version)

    def _capacity(self, view: SiteView) -> Iterator[str]:
        site = view.site.id
        used = Resources()
        for version in self.wanted.values():
            count = self.counts[(site, version.id)]
            if count > 0 and not self._holds_its_room(view, version.id):
                used += version.limits.reserve.times(count)
                if not _fits_one(version, self._usable(view, version)):
                    yield f"{site}: no node can hold one instance of {version.id}"
        if not used.fits_in(_sum(_up(view)).less(view.others)):
            yield f"{site}: more is placed than the site has free"

    def totals(self) -> Iterator[str]:
        scale = self.app.scale
        beyond: Counter[VersionId] = Counter()
        for (site, version), count in sorted(self.counts.items()):
            least = max(1, scale.min_per_site)
            if scale.max_per_site is not None and count > scale.max_per_site:
                yield f"{site}: {count} instances of {version}, more than max_per_site ({scale.max_per_site})"
            elif count > least and not self._is_for_a_minimum(site, version):
                beyond[version] += count - least
        for version, more in sorted(beyond.items()):
            if version in self.wanted and more > self._for_demand(self._part(version)):
                yield f"{more} instances of {version} more than minimums and demand ask for"
        total = sum(self.counts.values())
        if scale.max_total is not None and total > scale.max_total:
            yield f"{total} instances in all, more than max_total ({scale.max_total})"
        yield from self._demand()

    def _for_demand(self, part: float) -> float:
        """Instances beyond the first of each site that this part of the demand can fill; no limit where losses count too."""
        if self.app.scale.survive_sites:
            return inf
        most = sum((self.world.demand or {}).values()) or self.world.settings.prior_rps
        return most * part / self.app.scale.rps_per_instance

    def _demand(self) -> Iterator[str]:
        """All that is asked is carried, or the plan says how much is not."""
        asked = sum(rps for site, rps in (self.world.demand or {}).items() if site in self.views)
        for version in sorted(self.wanted):
            carried = self.in_all[version] * self.app.scale.rps_per_instance
            if asked > ASKED_MIN_RPS and carried < asked * self._part(version) * SLACK and self.plan.unserved_rps <= 0.0:
                yield f"{version}: less is carried than is asked, and the plan does not say so"

    def _part(self, version: VersionId) -> float:
        """Of the traffic."""
        return self.percents[version] / sum(self.percents.values())

    def _is_for_a_minimum(self, site: SiteId, version: VersionId) -> bool:
        """More than `min_per_site` is right only as long as the whole, or the site's region, has not more than its minimum."""
        if self.in_all[version] <= self._least():
            return True
        region = self.views[site].site.region if site in self.views else ""
        return self.in_region[(version, region)] <= self.region_least.get(region, 0)

    def _least(self) -> int:
        """Of each version: what is asked for in all, one site more than may be lost, and never nothing."""
        scale = self.app.scale
        least = max(1, scale.min_total, sum(self.region_least.values()), scale.survive_sites + 1)
        return least if scale.max_total is None else min(least, scale.max_total)

    def reasons(self) -> Iterator[str]:
        """Every site has all it should have, or a reason why not that is true; never both."""
        for place in sorted(self.rejected.keys() - self.views.keys()):
            yield f"{place}: rejected, but no such site"
        for site, view in sorted(self.views.items()):
            here = not self.wanted or any(self.counts[(site, version)] for version in self.wanted)
            complete = here and not self._missing(view.site)
            rejection = self.rejected.get(site)
            lasting = _is_left(view) or self._missing(view.site, lasting=True)
            if complete and rejection is not None and not lasting and self.plan.unserved_rps <= 0.0:
                yield f"{site}: rejected although nothing is missing"
            elif not complete and rejection is None:
                yield f"{site}: not (fully) chosen, without a reason"
            elif rejection is not None and not self._is_true(rejection, view):
                yield f"{site}: rejected for {rejection.reason}, which does not hold"

    def _is_foreign(self, site: Site) -> bool:
        asked = self.app.scale.jurisdiction
        return asked is not None and asked not in site.jurisdictions and not (asked == "eu" and site.country in EU_COUNTRIES)

    def _is_true(self, rejection: Rejection, view: SiteView) -> bool:
        site, scale = view.site, self.app.scale
        names = {site.id, f"country:{site.country}", f"region:{site.region}"}
        asked = self._missing(site, lasting=True) or tuple(self.wanted.values())
        facts: dict[Reason, bool] = {
            Reason.SITE_DOWN: site.state == "down",
            Reason.SITE_DRAINING: site.state == "draining",
            Reason.SITE_CUT_OFF: site.state == "cut_off" and site.id not in self.before,
            Reason.NO_NODES: not _up(view),
            Reason.NOT_ALLOWED: bool(scale.allow) and not names.intersection(scale.allow),
            Reason.DENIED: bool(names.intersection(scale.deny)),
            Reason.JURISDICTION: self._is_foreign(site),
            Reason.MISSING_FEATURE: any(not self._usable(view, version) for version in asked),
            Reason.TOO_LARGE: any(not _fits_one(version, self._usable(view, version)) for version in asked),
            Reason.NO_CAPACITY: self._is_full(view),
            Reason.MAX_TOTAL: scale.max_total is not None and sum(self.counts.values()) >= scale.max_total,
            Reason.MAX_PER_SITE: self._is_at_most(site.id),
            Reason.NOT_NEEDED: not self._missing(site) and not any(self.counts[(site.id, version)] for version in self.wanted),
            Reason.REFUSED_BY_SITE: self._was_refused(view),
        }
        return facts.get(rejection.reason, False)

    def _missing(self, site: Site, *, lasting: bool = False) -> list[Version]:
        """Versions of which the site should have more: too few in it, in its region or in all.

        `lasting`: what is where it is being drained does not count; it is there for want of another place.
        """
        in_region, in_all = (self._lasting_in, self._lasting) if lasting else (self._found_in, self._found)
        return [
            version
            for name, version in self.wanted.items()
            if self.counts[(site.id, name)] < self.app.scale.min_per_site
            or in_region(name, site.region) < self.region_least.get(site.region, 0)
            or in_all(name) < self._least()
        ]

    def _found(self, version: VersionId) -> int:
        return self.in_all[version]

    def _found_in(self, version: VersionId, region: str) -> int:
        return self.in_region[(version, region)]

    def _lasting(self, version: VersionId) -> int:
        return sum(self._lasting_in(version, region) for region in {view.site.region for view in self.views.values()})

    def _lasting_in(self, version: VersionId, region: str) -> int:
        places = (view for view in self.views.values() if view.site.region == region and not _is_left(view))
        return sum(self.counts[(view.site.id, version)] for view in places)

    def _is_at_most(self, site: SiteId) -> bool:
        most = self.app.scale.max_per_site
        return most is not None and any(self.counts[(site, version)] >= most for version in self.wanted)

    def _is_full(self, view: SiteView) -> bool:
        """One more does not fit the sum; or some are there already, and the nodes' shapes leave no place for one more."""
        site = view.site.id
        used = Resources()
        for version in self.wanted.values():
            used += version.limits.reserve.times(self.counts[(site, version.id)])
        room = _sum(_up(view)).less(view.others + used)
        shaped = used != Resources()
        short = self._missing(view.site, lasting=True) or (self.wanted.values() if self.plan.unserved_rps > 0.0 else ())
        return any(shaped or not version.limits.reserve.fits_in(room) for version in short)

    def _was_refused(self, view: SiteView) -> bool:
        earlier = self.parent.rejections if self.parent else ()
        return bool(view.refused) or any(
            rejection.place == view.site.id and rejection.reason is Reason.REFUSED_BY_SITE for rejection in earlier
        )

    def _usable(self, view: SiteView, version: Version) -> list[Node]:
        needed = set(needed_features(self.app.scale.features, version))
        return [node for node in _up(view) if needed <= set(node.features)]


def _is_left(view: SiteView) -> bool:
    return view.site.state == "draining" or any(node.state == "draining" for node in view.nodes)


def _up(view: SiteView) -> list[Node]:
    return [node for node in view.nodes if node.state == "up"]


def _fits_one(version: Version, nodes: list[Node]) -> bool:
    return any(version.limits.reserve.fits_in(node.capacity) for node in nodes)


def _sum(nodes: list[Node]) -> Resources:
    total = Resources()
    for node in nodes:
        total += node.capacity
    return total
