"""Decisions: evaluations, plans with their reasons, releases."""

from enum import StrEnum
from typing import Literal

from skerry.core.types.gate import CityMark
from skerry.core.types.ids import AccountId, AppName, DeploymentId, EvaluationId, PlanId, SiteId, VersionId
from skerry.core.types.resources import Resources
from skerry.kit.record import Record


class Reason(StrEnum):
    """Why a site or a node was not chosen. The text reaches the user."""

    SITE_DOWN = "site_down"
    SITE_DRAINING = "site_draining"
    SITE_CUT_OFF = "site_cut_off"
    NO_NODES = "no_nodes"
    NOT_ALLOWED = "not_allowed"
    DENIED = "denied"
    JURISDICTION = "jurisdiction"
    MISSING_FEATURE = "missing_feature"
    NO_CAPACITY = "no_capacity"
    TOO_LARGE = "too_large"
    MAX_TOTAL = "max_total"
    MAX_PER_SITE = "max_per_site"
    NOT_NEEDED = "not_needed"
    REFUSED_BY_SITE = "refused_by_site"
    NODE_DOWN = "node_down"
    NODE_DRAINING = "node_draining"
    OUTRANKED = "outranked"
    APART = "apart"


REASON_TEXT: dict[Reason, str] = {
    Reason.SITE_DOWN: "the site does not answer",
    Reason.SITE_DRAINING: "the site is being drained",
    Reason.SITE_CUT_OFF: "the site is cut off from control",
    Reason.NO_NODES: "the site has no node that is up",
    Reason.NOT_ALLOWED: "the app's allow list does not name this place",
    Reason.DENIED: "the app's deny list names this place",
    Reason.JURISDICTION: "the site is outside the app's jurisdiction",
    Reason.MISSING_FEATURE: "it lacks a feature that the app needs",
    Reason.NO_CAPACITY: "not enough free capacity",
    Reason.TOO_LARGE: "one instance is larger than any node",
    Reason.MAX_TOTAL: "the app's maximum number of instances is reached elsewhere",
    Reason.MAX_PER_SITE: "the app's maximum number of instances in one site is reached",
    Reason.NOT_NEEDED: "the app has all that it asks for in other sites",
    Reason.REFUSED_BY_SITE: "the site could not pack it",
    Reason.NODE_DOWN: "the node does not answer",
    Reason.NODE_DRAINING: "the node is being drained",
    Reason.OUTRANKED: "apps of a higher priority hold the room",
    Reason.APART: "as many instances of the app as may be together are there",
}


class Rejection(Record):
    """A site (or node) that was not chosen, the reason, and the numbers behind it in words.

    `free` is what a site that refused had free when it did: it is asked again when it has more. `staying`: so many instances
    go on there as they have no other place.
    """

    place: str
    reason: Reason
    detail: str = ""
    free: Resources | None = None
    staying: int = 0


class Placement(Record):
    """`count` instances of a version in a site."""

    site: SiteId
    version: VersionId
    count: int


EvaluationCause = Literal[
    "deploy", "delete", "scale", "drain", "undrain", "site_lost", "site_back", "capacity", "refused", "demand", "rebalance"
]


class Wanted(Record):
    """What a background pass wants of an app: from `had`, instances by site, to `has`. It holds only as long as the app runs
    just that, and all of it has room. `gain`: J that it saves, with all apps that move together."""

    had: dict[SiteId, int]
    has: dict[SiteId, int]
    gain: float


class Evaluation(Record):
    """A recorded reason to decide again about one app. Pending until a plan or a block answers it."""

    id: EvaluationId
    account: AccountId
    app: AppName
    cause: EvaluationCause
    created_ms: int
    detail: str = ""
    wanted: Wanted | None = None


class Blocked(Record):
    """What of an app could not be placed; new capacity wakes it."""

    account: AccountId
    app: AppName
    since_ms: int
    rejections: tuple[Rejection, ...]


class Plan(Record):
    """The complete decision for one app: where, how many, and why not elsewhere.

    `parent` is the plan it replaces (None for the first); it commits by compare-and-set on that.
    `generation` is the parent's plus one.
    """

    id: PlanId
    parent: PlanId | None
    generation: int
    account: AccountId
    app: AppName
    created_ms: int
    evaluation: EvaluationId
    deployment: DeploymentId | None
    placements: tuple[Placement, ...]
    cause: str = ""  # of the evaluation, which itself is gone once answered
    rejections: tuple[Rejection, ...] = ()
    report: tuple[str, ...] = ()  # one sentence per step
    asked: str = ""  # digest of the intent, the demand and the weights that it answers
    unserved_rps: float = 0.0  # demand that found no room
    gain: float = 0.0  # what a background pass saves by it, in the unit of what is minimised; 0: another cause

    def counts(self) -> dict[SiteId, int]:
        """Instances by site, of all versions."""
        found: dict[SiteId, int] = {}
        for entry in self.placements:
            found[entry.site] = found.get(entry.site, 0) + entry.count
        return found


ReleaseState = Literal["running", "done", "rolled_back"]


class Release(Record):
    """How far a plan has been released: sites in `released` execute `plan`, the others `previous`.

    A release belongs to an app; there is one at a time. `wave_since_ms` is when the last wave began,
    `ready_ms` since when all of its sites have been ready. `gated` False: the plan brings no new version, so that
    trouble in a site says nothing against the plan, and is no reason to go back. `wave` -1: no site yet (it was held when it
    was made). `paused`: an operator holds it; nothing moves until it is resumed. `marks`: the health gate's counters as they
    were at its beginning, of the cities that had any.
    """

    account: AccountId
    app: AppName
    plan: PlanId
    previous: PlanId | None
    state: ReleaseState
    waves: tuple[tuple[SiteId, ...], ...]
    wave: int  # index of the wave that is released
    wave_since_ms: int
    detail: str = ""
    ready_ms: int | None = None
    gated: bool = True
    paused: bool = False
    marks: tuple[CityMark, ...] = ()
