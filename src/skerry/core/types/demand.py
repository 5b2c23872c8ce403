"""Demand: what users ask of apps, city by city."""

from skerry.core.types.ids import AccountId, AppName, SiteId, VersionId
from skerry.kit.record import Record

HOURS = 24


class VersionTraffic(Record):
    """Requests that one version's instances in a site took, of its users and of other sites alike.

    `errors`: answers with a 5xx status, and what an instance broke off or refused so that a user got an error.
    `latency_ms_sum`: from the request to the beginning of the answer, waking included, added up.
    """

    version: VersionId
    requests: int = 0
    errors: int = 0
    latency_ms_sum: int = 0


class AppTraffic(Record):
    """Requests of users who came in at the site, each counted once wherever it was answered; a WebSocket is one.

    `new` of them came from `since_ms` to `at_ms` (the site's monotonic clock), `requests` in all since the site's counters
    began, `errors` of these ended in a 5xx for the user.
    """

    account: AccountId
    app: AppName
    since_ms: int
    at_ms: int
    new: int = 0
    requests: int = 0
    errors: int = 0
    versions: tuple[VersionTraffic, ...] = ()


class SiteTraffic(Record):
    """What a site has counted up to `at_ms`. Sums only grow, as long as the report's epoch is the same.

    Only apps of which control does not know already are there: the demand of the others goes on as it was told last. An app
    is told again until its report has arrived, with the same `since_ms`.
    """

    at_ms: int
    apps: tuple[AppTraffic, ...] = ()


class SiteDemand(Record):
    """Demand of one app from the users of one site, in requests per second.

    `rps` as last measured, `smoothed_rps` without its noise, `expected_rps` what to be ready for: the smoothed, where it
    is growing to, or what this time of the day brings (`forecast_rps`; None: not known), whichever is the most.
    `most_rps`: as much as it may be, for all that chance hides; who gives something up looks at this. `asked_rps` is what
    placement plans for: it rises at once and falls slowly (`skerry.core.machines.asked`).
    """

    site: SiteId
    rps: float
    smoothed_rps: float
    expected_rps: float
    most_rps: float
    forecast_rps: float | None = None
    asked_rps: float = 0.0


class DecidedDemand(Record):
    """What the app's plan in force was decided on: requests per second to plan for, by the site that users come in at.

    It is kept so that a control that has just started, and has heard of no user yet, finds every plan as good as it was.
    """

    account: AccountId
    app: AppName
    rps: dict[SiteId, float]


class DailyDemand(Record):
    """What each hour of the day usually brings the app, by the site that users come in at: one byte an hour, as
    `skerry.core.machines.pattern` has it, the first of the hour after midnight UTC.

    It is kept so that a control that has just started need not learn it again for days. Cities that no hour brings anything
    worth a forecast are not there.
    """

    account: AccountId
    app: AppName
    days: dict[SiteId, bytes]

    def __post_init__(self) -> None:
        wrong = sorted(site for site, day in self.days.items() if len(day) != HOURS)
        if wrong:
            raise ValueError(f"the day of {self.app} in {', '.join(wrong)} has not {HOURS} hours")
