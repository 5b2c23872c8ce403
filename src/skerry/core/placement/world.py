"""The snapshot that a placement is decided on."""

from msgspec import field

from skerry.core.policy.shapes import Shapes, shapes_of
from skerry.core.types.ids import SiteId
from skerry.core.types.place import Node, Site
from skerry.core.types.plan import Placement
from skerry.core.types.resources import Resources
from skerry.core.types.settings import Settings, SitePrices
from skerry.core.types.slices import Refused
from skerry.kit.record import Record


class SiteView(Record):
    """One site as control knows it. States of the site and its nodes already tell lost and draining.

    `others`: what the reservations of all OTHER apps hold in the site's ledger.
    `opening`: a part of it came back a short while ago, and is filled step by step; what is not open yet is in `others`.
    `refused`: what the site says it could not pack of THIS app; leave it empty when nothing is refused now.
    `shapes`: what its nodes add up to, for who has it at hand.
    `unsold`: what nobody else holds of all nodes that are there, draining ones too; at least what this app holds. None: unknown.
    """

    site: Site
    nodes: tuple[Node, ...]
    others: Resources
    refused: tuple[Refused, ...] = ()
    opening: bool = False
    shapes: Shapes | None = None
    unsold: Resources | None = None

    def shaped(self) -> Shapes:
        return shapes_of(self.nodes) if self.shapes is None else self.shapes


class World(Record):
    """All sites; their order does not matter.

    `demand` of THIS app in requests per second, by the site whose users ask (what to plan for: it rises at once and falls
    slowly); None: nobody knows, and `users` (any unit) stand for it. `rtts_ms` are
    round trips that were measured, by both sites; all others are modelled. `homes`: where data that apps call is.
    `going_on`: what the plan in force gives up and some site still runs, as its release has not come so far.
    """

    sites: tuple[SiteView, ...]
    demand: dict[SiteId, float] | None = None
    users: dict[SiteId, float] = field(default_factory=dict[SiteId, float])
    prices: dict[SiteId, SitePrices] = field(default_factory=dict[SiteId, SitePrices])
    rtts_ms: dict[SiteId, dict[SiteId, float]] = field(default_factory=dict[SiteId, dict[SiteId, float]])
    homes: dict[str, SiteId] = field(default_factory=dict[str, SiteId])
    going_on: tuple[Placement, ...] = ()
    settings: Settings = Settings()
