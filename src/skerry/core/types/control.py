"""Small records that only control keeps."""

from skerry.core.types.ids import AccountId, AppName, EvaluationId, NodeId, PlanId, SiteId
from skerry.core.types.place import Site
from skerry.core.types.plan import Evaluation
from skerry.core.types.resources import Resources
from skerry.kit.record import Record


class PlanHead(Record):
    """The plan in force for an app; plans commit by compare-and-set on this key."""

    plan: PlanId
    generation: int


class Reservation(Record):
    """What an app's plan holds at a site. The sum over a site never exceeds what its nodes have.

    `leaving` is the part that only the plan before needs: given back when the release of the newer one is done.
    """

    site: SiteId
    account: AccountId
    app: AppName
    resources: Resources
    plan_generation: int
    leaving: Resources = Resources()


class SiteLedger(Record):
    """The sums of a site's reservations: commits check its revision, so capacity is never sold twice."""

    site: SiteId
    reserved: Resources = Resources()
    leaving: Resources = Resources()


class SiteRtts(Record):
    """Round trips from a site to others, in ms, as somebody measured them."""

    site: SiteId
    to: dict[SiteId, float]


class Rebalance(Record):
    """The last background pass: when, how many apps it looked at, which it wrote evaluations for, and what for."""

    at_ms: int
    looked_at: int
    apps: int = 0
    starts: int = 0  # instances
    gain: float = 0.0  # in J


class Course(Record):
    """Apps that move together in steps, as some of them have to make room: `step` is asked for, `rest` waits until it is done."""

    id: EvaluationId
    step: tuple[Evaluation, ...]
    rest: tuple[tuple[Evaluation, ...], ...]
    since_ms: int  # of the step


class Silence(Record):
    """A site that was given up as it does not answer, and when: so that a control that starts meanwhile knows it."""

    site: SiteId
    since_ms: int


class SiteIntent(Record):
    """A site as the operator wants it: `site.state` is "up" or "draining"."""

    site: Site
    draining_nodes: tuple[NodeId, ...] = ()
