"""Rollouts: in which order sites get a plan, and when the next ones do. Time is a value.

waves   canary site -> growing shares of demand -> all            (one wave when no version is new)
step    running: wave ready for settle_ms, and the gate content -> next wave … -> done
        running: a site failed, the wave is late, the new version is worse -> rolled_back
pause   nothing moves, neither on nor back, until resume or abort
"""

from collections.abc import Mapping

from msgspec.structs import replace

from skerry.core.machines.gate import CityFacts, GateSettings, judge, since, total
from skerry.core.placement.executed import released_sites
from skerry.core.types.gate import CityMark, GateNumbers, VersionFacts
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan, Release
from skerry.kit.hashing import stable_hash
from skerry.kit.record import Record

ONE_WAVE_MAX = 8  # so few sites after the canary go together: more waves would cost more time than they save risk
GROWTH = (0.1, 0.3)  # shares of the rest's demand that go in the second and third wave, when there are more sites
MANY_SITES = 100  # with more of them, a wave of its own comes before: a tenth of hundreds of cities is many users
GROWTH_MANY = (0.03, 0.1, 0.3)
CANARY_SHARE_MAX = 0.05  # the canary is the busiest city below: evidence comes soon, and few users pay for it

Demand = Mapping[SiteId, float]
NOTHING = VersionFacts()


class RolloutSettings(Record):
    """`settle_ms`: a wave must be ready for so long. `wave_timeout_ms`: it must be ready so soon after its beginning.

    `bake_ms`: so long a wave with traffic waits for the gate to find the new version good, in worlds of more sites than go
    in one wave; then what is not shown to be worse goes on. With fewer sites it waits `bake_few_ms`, if its users ask for
    `bake_requests_min` in that time: fewer would show nothing. Where they ask for enough to compare latencies, but too few were
    counted by then (a busy machine, a version so slow that its users wait), it waits on, `bake_ms` at most.
    """

    settle_ms: int = 200
    wave_timeout_ms: int = 30_000
    bake_ms: int = 30_000
    bake_few_ms: int = 5_000
    bake_requests_min: int = 10
    gate: GateSettings = GateSettings()


class SiteFacts(Record):
    """How a site does with the release's plan. `ready`: all it has to run serves. `failed`: it never will; `detail` says why.

    `old` and `new` count requests to the versions that the plan replaces and brings; `rps` is what users ask for there now.
    """

    site: SiteId
    ready: bool
    failed: bool
    detail: str = ""
    old: VersionFacts = NOTHING
    new: VersionFacts = NOTHING
    rps: float = 0.0


def brings_new_version(plan: Plan, previous: Plan | None) -> bool:
    """Whether sites would run a version that the previous plan does not run anywhere."""
    return previous is not None and not versions_of(plan) <= versions_of(previous)


def waves(
    plan: Plan, previous: Plan | None, sites: tuple[Site, ...], demand: Demand | None = None
) -> tuple[tuple[SiteId, ...], ...]:
    """All sites of both plans, each in one wave.

    The first deployment of an app, and a plan that brings no new version, go everywhere at once; but sites that lose the
    app follow those that have it then, when these are ready, so that it is never nowhere. A new version goes to one canary
    site, then to the rest in growing shares of `demand` (any unit, by site; equal parts when it is empty).
    The canary is a site that is up, ran the app before and has users (there a difference shows). Sites that are not up, and those
    that only lose the app, go last. No site at all: no wave.
    """
    gaining = {placement.site for placement in plan.placements}
    losing = {placement.site for placement in previous.placements} - gaining if previous else set[SiteId]()
    everywhere = tuple(sorted(gaining | losing))
    if not everywhere:
        return ()
    if not gaining or not brings_new_version(plan, previous):
        return (tuple(sorted(gaining)), tuple(sorted(losing))) if gaining and losing else (everywhere,)
    shares = demand_shares(gaining, demand)
    canary, *rest = _cautious_order(plan, previous, sites, shares)
    groups = [(canary,), *_growing(rest, shares)]
    last = tuple(sorted(losing))
    if last and len(groups) > 1:
        groups[-1] = tuple(sorted((*groups[-1], *last)))
    elif last:
        groups.append(last)
    return tuple(groups)


def planned_demand(plan: Plan) -> dict[SiteId, float]:
    """Where no user was counted yet: the placer puts instances where demand is, so they stand for a site's part of it."""
    counts: dict[SiteId, float] = {}
    for placement in plan.placements:
        counts[placement.site] = counts.get(placement.site, 0.0) + placement.count
    return counts


def demand_shares(sites: set[SiteId] | frozenset[SiteId], demand: Demand | None) -> dict[SiteId, float]:
    """Each site's part of the demand of all `sites`; equal parts when nothing is known of any."""
    known = {site: max(0.0, (demand or {}).get(site, 0.0)) for site in sorted(sites)}
    whole = sum(known.values())
    return {site: value / whole if whole > 0 else 1 / len(known) for site, value in known.items()}


def step(
    release: Release, facts: Mapping[SiteId, SiteFacts], *, now_ms: int, settings: RolloutSettings, looking_since_ms: int = 0
) -> Release:
    """Move a release on as far as the facts allow; the same release when nothing changes.

    A site without facts (down, or only losing the app) holds nothing up. A release that is not `gated` never goes back: it
    is done when its sites are ready, or late. `looking_since_ms`: time in which nobody looked makes no wave late.
    """
    if release.state != "running" or release.paused:
        return release
    if release.gated and not release.marks and any(_counted(fact) for fact in facts.values()):
        marks = tuple(CityMark(site=s, old=facts[s].old, new=facts[s].new) for s in sorted(facts) if _counted(facts[s]))
        return replace(release, marks=marks)
    known = [facts[site] for site in sorted(released_sites(release)) if site in facts]
    numbers = gate_numbers(release, facts, settings)
    wrong = _wrong(release, known, numbers)
    if wrong:
        return _back(release, wrong)
    waiting = [fact for fact in known if not fact.ready]
    stuck = _would_be_nowhere(release, known)
    late = now_ms - max(release.wave_since_ms, looking_since_ms) >= settings.wave_timeout_ms
    if waiting and late and not stuck:
        return _late(release, waiting, settings)
    if waiting or stuck:
        return replace(release, ready_ms=None)
    return _ready(release, now_ms, max(settings.settle_ms, _patience_ms(release, known, numbers, settings)))


def gate_numbers(release: Release, facts: Mapping[SiteId, SiteFacts], settings: RolloutSettings) -> GateNumbers:
    """What the health gate says now of the sites that are released."""
    if not release.gated or release.previous is None:
        return GateNumbers()
    marks = {mark.site: mark for mark in release.marks}
    released = released_sites(release)
    cities: list[CityFacts] = []
    elsewhere: list[VersionFacts] = []
    for site, fact in facts.items():
        mark = marks.get(site, CityMark(site=site, old=NOTHING, new=NOTHING))
        if site in released:
            old = fact.old if fact.old.requests >= mark.old.requests else mark.old
            cities.append(CityFacts(site=site, old=old, new=since(fact.new, mark.new)))
        else:
            elsewhere.append(since(fact.old, mark.old))
    return judge(cities, total(elsewhere), settings.gate)


def pause(release: Release) -> Release:
    """Hold it where it is."""
    return replace(release, paused=True) if release.state == "running" else release


def resume(release: Release, now_ms: int) -> Release:
    """Go on; the time it was held counts for nothing."""
    return replace(release, paused=False, wave_since_ms=now_ms, ready_ms=None) if release.paused else release


def abort(release: Release, why: str) -> Release:
    """Back to the version before, by an operator's word. Only a gated release has somewhere to go back to."""
    if release.state != "running" or not release.gated or release.previous is None:
        return release
    return replace(_back(release, why), paused=False)


def versions_of(plan: Plan) -> frozenset[VersionId]:
    return frozenset(placement.version for placement in plan.placements)


def _wrong(release: Release, known: list[SiteFacts], numbers: GateNumbers) -> str:
    """Why a gated release has to go back; empty: it need not."""
    failed = [fact for fact in known if fact.failed]
    if failed and release.gated:
        return "; ".join(f"{fact.site}: {fact.detail or 'failed'}" for fact in failed)
    return f"the new version is worse: {numbers.detail}" if numbers.verdict == "worse" else ""


def _would_be_nowhere(release: Release, known: list[SiteFacts]) -> bool:
    """Cities that lose the app wait, without end, while none of those that gain it serves and none of these has failed."""
    losing_next = not release.gated and release.previous is not None and 0 <= release.wave < len(release.waves) - 1
    return losing_next and not any(fact.ready or fact.failed for fact in known)


def _counted(fact: SiteFacts) -> bool:
    return fact.old.requests > 0 or fact.new.requests > 0


def _patience_ms(release: Release, known: list[SiteFacts], numbers: GateNumbers, settings: RolloutSettings) -> int:
    """How long to wait for the gate, where there are users who could show a difference, and nothing is shown yet."""
    if release.wave < 0 or numbers.verdict == "good" or not release.gated or release.previous is None:
        return 0
    if sum(len(wave) for wave in release.waves) > ONE_WAVE_MAX + 1:
        return settings.bake_ms if any(_counted(fact) for fact in known) else 0
    expected = sum(fact.rps for fact in known) * settings.bake_few_ms / 1000
    if numbers.requests < settings.gate.latency_requests_min <= expected:
        return settings.bake_ms
    return settings.bake_few_ms if expected >= settings.bake_requests_min else 0


def _ready(release: Release, now_ms: int, settle_ms: int) -> Release:
    """Every site is ready: note since when, and go on when that is long enough ago."""
    if not release.waves:
        return replace(release, state="done", ready_ms=now_ms)
    since_ms = now_ms if release.ready_ms is None else release.ready_ms
    if now_ms - since_ms < settle_ms:
        return replace(release, ready_ms=since_ms)
    if release.wave + 1 >= len(release.waves):
        return replace(release, state="done", ready_ms=since_ms, marks=())
    return replace(release, wave=release.wave + 1, wave_since_ms=now_ms, ready_ms=None)


def _late(release: Release, waiting: list[SiteFacts], settings: RolloutSettings) -> Release:
    names = "; ".join(f"{fact.site}: {fact.detail or 'not ready'}" for fact in waiting)
    detail = f"not ready within {settings.wave_timeout_ms} ms: {names}"
    if release.gated:
        return _back(release, detail)
    return replace(release, state="done", wave=max(0, len(release.waves) - 1), detail=detail)


def _back(release: Release, detail: str) -> Release:
    return replace(release, state="rolled_back", detail=detail, ready_ms=None)


def _cautious_order(plan: Plan, previous: Plan | None, sites: tuple[Site, ...], shares: dict[SiteId, float]) -> list[SiteId]:
    """The plan's sites: the best canary, then the others with few instances first."""
    counts: dict[SiteId, int] = {}
    for placement in plan.placements:
        counts[placement.site] = counts.get(placement.site, 0) + placement.count
    before = {placement.site for placement in previous.placements} if previous else set[SiteId]()
    up = {site.id for site in sites if site.state == "up"}

    def rank(site: SiteId) -> tuple[bool, bool, int, int, str]:
        return (site not in up, site not in before, counts[site], stable_hash(plan.account, plan.app, site), site)

    def canary_rank(site: SiteId) -> tuple[bool, bool, bool, bool, float, int, int, str]:
        share, (absent, new, count, chance, name) = shares[site], rank(site)
        large = share > CANARY_SHARE_MAX
        return (absent, new, share == 0, large, share if large else -share, count, chance, name)

    canary = min(counts, key=canary_rank)
    return [canary, *sorted(counts.keys() - {canary}, key=rank)]


def _growing(rest: list[SiteId], shares: dict[SiteId, float]) -> list[tuple[SiteId, ...]]:
    """The rest in one group, or in groups by growing shares of its demand when it is many."""
    if len(rest) <= ONE_WAVE_MAX:
        return [tuple(sorted(rest))] if rest else []
    whole = sum(shares[site] for site in rest)
    groups: list[tuple[SiteId, ...]] = []
    left = rest
    for share in GROWTH_MANY if len(rest) > MANY_SITES else GROWTH:
        taken = _fitting(left, shares, share * whole)
        groups.append(tuple(sorted(taken)))
        left = [site for site in left if site not in taken]
        if not left:
            return groups
    return [*groups, tuple(sorted(left))]


def _fitting(left: list[SiteId], shares: dict[SiteId, float], budget: float) -> set[SiteId]:
    """The first ones that fit in the budget together; the smallest alone when none does."""
    taken: set[SiteId] = set()
    used = 0.0
    for site in left:
        if used + shares[site] <= budget + 1e-9:
            taken.add(site)
            used += shares[site]
    return taken or {min(left, key=lambda site: (shares[site], left.index(site)))}
