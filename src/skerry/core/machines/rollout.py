"""Rollouts: in which order sites get a plan, and when the next ones do. Time is a value.

waves   canary site -> growing shares -> all            (one wave when no version is new)
step    running: wave ready for settle_ms -> next wave … -> done
        running: a site failed, or the wave is late     -> rolled_back
"""

from collections.abc import Mapping

from msgspec.structs import replace

from skerry.core.placement.executed import released_sites
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.place import Site
from skerry.core.types.plan import Plan, Release
from skerry.kit.hashing import stable_hash
from skerry.kit.record import Record

ONE_WAVE_MAX = 8  # so few sites after the canary go together: more waves would cost more time than they save risk
GROWTH = (0.1, 0.3)  # shares of the rest that go in the second and third wave, when there are more


class RolloutSettings(Record):
    """`settle_ms`: a wave must be ready for so long. `wave_timeout_ms`: it must be ready so soon after its beginning."""

    settle_ms: int = 200
    wave_timeout_ms: int = 30_000


class SiteFacts(Record):
    """How a site does with the release's plan. `ready`: all it has to run serves. `failed`: it never will; `detail` says why."""

    site: SiteId
    ready: bool
    failed: bool
    detail: str = ""


def brings_new_version(plan: Plan, previous: Plan | None) -> bool:
    """Whether sites would run a version that the previous plan does not run anywhere."""
    return previous is not None and not _versions(plan) <= _versions(previous)


def waves(plan: Plan, previous: Plan | None, sites: tuple[Site, ...]) -> tuple[tuple[SiteId, ...], ...]:
    """All sites of both plans, each in one wave.

    The first deployment of an app, and a plan that brings no new version, go everywhere at once; but sites that lose the
    app follow those that have it then, when these are ready, so that it is never nowhere. A new version goes to one canary
    site, then to the rest in growing shares. The canary is a site that is up and ran the app before (there a
    difference shows), with the fewest instances. Sites that are not up, and those that only lose the app,
    go last. No site at all: no wave.
    """
    gaining = {placement.site for placement in plan.placements}
    losing = {placement.site for placement in previous.placements} - gaining if previous else set[SiteId]()
    everywhere = tuple(sorted(gaining | losing))
    if not everywhere:
        return ()
    if not gaining or not brings_new_version(plan, previous):
        return (tuple(sorted(gaining)), tuple(sorted(losing))) if gaining and losing else (everywhere,)
    canary, *rest = _cautious_order(plan, previous, sites)
    groups = [(canary,), *_growing(rest)]
    last = tuple(sorted(losing))
    if last and len(groups) > 1:
        groups[-1] = tuple(sorted((*groups[-1], *last)))
    elif last:
        groups.append(last)
    return tuple(groups)


def step(release: Release, facts: Mapping[SiteId, SiteFacts], *, now_ms: int, settings: RolloutSettings) -> Release:
    """Move a release on as far as the facts allow; the same release when nothing changes.

    A site without facts (down, cut off, or only losing the app) holds nothing up. A release that is not
    `gated` never goes back: it is done when its sites are ready, or late.
    """
    if release.state != "running":
        return release
    released = sorted(released_sites(release))
    known = [facts[site] for site in released if site in facts]
    failed = [fact for fact in known if fact.failed]
    late = now_ms - release.wave_since_ms >= settings.wave_timeout_ms
    waiting = [fact for fact in known if not fact.ready]
    if failed and release.gated:
        return _back(release, "; ".join(f"{fact.site}: {fact.detail or 'failed'}" for fact in failed))
    if waiting and late:
        return _late(release, waiting, settings)
    if waiting:
        return replace(release, ready_ms=None) if release.ready_ms is not None else release
    return _ready(release, now_ms, settings)


def _ready(release: Release, now_ms: int, settings: RolloutSettings) -> Release:
    """Every site is ready: note since when, and go on when that is long enough ago."""
    if not release.waves:
        return replace(release, state="done", ready_ms=now_ms)
    since_ms = now_ms if release.ready_ms is None else release.ready_ms
    if now_ms - since_ms < settings.settle_ms:
        return replace(release, ready_ms=since_ms)
    if release.wave + 1 >= len(release.waves):
        return replace(release, state="done", ready_ms=since_ms)
    return replace(release, wave=release.wave + 1, wave_since_ms=now_ms, ready_ms=None)


def _late(release: Release, waiting: list[SiteFacts], settings: RolloutSettings) -> Release:
    names = "; ".join(f"{fact.site}: {fact.detail or 'not ready'}" for fact in waiting)
    detail = f"not ready within {settings.wave_timeout_ms} ms: {names}"
    if release.gated:
        return _back(release, detail)
    return replace(release, state="done", wave=max(0, len(release.waves) - 1), detail=detail)


def _back(release: Release, detail: str) -> Release:
    return replace(release, state="rolled_back", detail=detail, ready_ms=None)


def _versions(plan: Plan) -> frozenset[VersionId]:
    return frozenset(placement.version for placement in plan.placements)


def _cautious_order(plan: Plan, previous: Plan | None, sites: tuple[Site, ...]) -> list[SiteId]:
    """The plan's sites, the best canary first."""
    counts: dict[SiteId, int] = {}
    for placement in plan.placements:
        counts[placement.site] = counts.get(placement.site, 0) + placement.count
    before = {placement.site for placement in previous.placements} if previous else set[SiteId]()
    up = {site.id for site in sites if site.state == "up"}

    def rank(site: SiteId) -> tuple[bool, bool, int, int, str]:
        return (site not in up, site not in before, counts[site], stable_hash(plan.account, plan.app, site), site)

    return sorted(counts, key=rank)


def _growing(rest: list[SiteId]) -> list[tuple[SiteId, ...]]:
    """The rest in one group, or in groups of 10 %, 30 % and 60 % when it is many."""
    if len(rest) <= ONE_WAVE_MAX:
        return [tuple(sorted(rest))] if rest else []
    groups: list[tuple[SiteId, ...]] = []
    start = 0
    for share in GROWTH:
        end = start + max(1, round(len(rest) * share))
        groups.append(tuple(sorted(rest[start:end])))
        start = end
    return [*groups, tuple(sorted(rest[start:]))]
