"""The world as a decision about one app sees it: sites with their room, prices, round trips, and the app's demand."""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from skerry.core.placement.world import SiteView, World
from skerry.core.policy.capacity import nodes_up, total_capacity
from skerry.core.policy.refill import held_back, open_capacity
from skerry.core.policy.shapes import Shapes, shapes_of
from skerry.core.types.app import Scale
from skerry.core.types.control import Reservation, SiteIntent, SiteLedger, SiteRtts
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.place import Node, PlaceState, Site
from skerry.core.types.resources import Resources
from skerry.core.types.settings import Settings, SitePrices
from skerry.core.types.slices import Refused
from skerry.services.control import keys
from skerry.services.control.drains import Drains
from skerry.services.control.ledger import others_of
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed

AppKey = tuple[AccountId, AppName]
Users = Callable[[Sequence[Site]], Mapping[SiteId, float]]
"""Who stands for an app's demand by site as long as nobody knows it, in any unit."""
Homes = Callable[[Sequence[str], Sequence[Site]], Mapping[str, SiteId]]
"""The sites nearest to what an app calls outside the platform, by the names that `Scale.calls` has for it."""
Ledgers = Mapping[SiteId, SiteLedger]
"""Those that are about to be written; all others are the store's."""
Refusals = Callable[[SiteId], tuple[Refused, ...]]


class Worlds:
    """`refusals`: what a site could not pack, once that is its last word."""

    def __init__(self, mirror: Mirror, observed: Observed, *, users: Users, homes: Homes, refusals: Refusals) -> None:
        self._mirror = mirror
        self._observed = observed
        self._users = users
        self._homes = homes
        self._refusals = refusals
        self._drains = Drains(mirror)
        self._nodes: dict[SiteId, tuple[tuple[Node, ...], object, tuple[Node, ...], Shapes]] = {}
        self._there: dict[SiteId, tuple[tuple[Node, ...], Resources]] = {}
        self._user_counts: tuple[tuple[Site, ...], dict[SiteId, float]] = ((), {})
        self._seen: tuple[int, int, dict[SiteId, SitePrices], dict[SiteId, dict[SiteId, float]]] = (-1, -1, {}, {})

    def settings(self) -> Settings:
        return self._mirror.get(keys.PLACEMENT_SETTINGS, Settings) or Settings()

    def of(
        self,
        key: AppKey,
        scale: Scale,
        *,
        generation: int,
        ledgers: Ledgers | None = None,
        sites: frozenset[SiteId] | None = None,
    ) -> World:
        """`generation`: of the plan in force, whose refusals count. `sites`: only these; None: all."""
        intents = [i for i in self._mirror.select(keys.SITES, SiteIntent) if sites is None or i.site.id in sites]
        demand = self._observed.asked(*key)
        prices, rtts_ms = self._priced()
        return World(
            sites=tuple(self.view(intent, key, generation, ledgers or {}) for intent in intents),
            demand=demand or None,
            users=self._users_of(intents) if not demand and sites is None and _chooses(scale) else {},
            prices=prices,
            rtts_ms=rtts_ms,
            homes=self._homes_of(scale, intents),
            settings=self.settings(),
        )

    def rtts_ms(self) -> Mapping[SiteId, Mapping[SiteId, float]]:
        """Those that somebody measured."""
        return self._priced()[1]

    def homes(self, names: Sequence[str]) -> Mapping[str, SiteId]:
        """Where what apps call is, as far as that is known."""
        return self._homes(names, [intent.site for intent in self._mirror.select(keys.SITES, SiteIntent)]) if names else {}

    def site(self, intent: SiteIntent) -> Site:
        """With the state that it is in."""
        state = self.state(intent)
        return intent.site if state == intent.site.state else replace(intent.site, state=state)

    def is_opening(self, site: SiteId) -> bool:
        """Whether a part of it came back a short while ago, and is filled step by step."""
        return bool(self._observed.opening(site))

    def state(self, intent: SiteIntent) -> PlaceState:
        return self._observed.site_state(intent)

    def nodes(self, intent: SiteIntent) -> tuple[tuple[Node, ...], Shapes]:
        """The site's nodes with what operators drain, and what they add up to."""
        told = self._observed.nodes(intent.site.id)
        draining = self._drains.of(intent)
        held = self._nodes.get(intent.site.id)
        if held is None or held[0] is not told or held[1] != draining:
            nodes = tuple(
                replace(node, state="draining") if node.id in draining and node.state == "up" else node for node in told
            )
            held = self._nodes[intent.site.id] = (told, draining, nodes, shapes_of(nodes))
        return held[2], held[3]

    def _all_there(self, site: SiteId, nodes: tuple[Node, ...]) -> Resources:
        """What all nodes have that are not down. Kept as long as they are the same: there may be thousands."""
        held = self._there.get(site)
        if held is None or held[0] is not nodes:
            held = self._there[site] = (nodes, total_capacity(node for node in nodes if node.state != "down"))
        return held[1]

    def view(self, intent: SiteIntent, key: AppKey, generation: int, ledgers: Ledgers) -> SiteView:
        site_id = intent.site.id
        ledger = ledgers.get(site_id) or self._mirror.get(keys.ledger(site_id), SiteLedger) or SiteLedger(site=site_id)
        own = self._mirror.get(keys.reservation(site_id, *key), Reservation)
        nodes, shapes = self.nodes(intent)
        making_room = site_id in ledgers and ledgers[site_id].leaving != Resources()  # then its refusals are not its last word
        told = () if making_room else self._refusals(site_id)
        refused = (r for r in told if (r.account, r.app) == key and r.plan_generation == generation)
        others = others_of(ledger, own, shapes.total)
        mine = own.resources if own else Resources()
        unsold = self._all_there(site_id, nodes).less(ledger.reserved.less(mine)).or_more(mine)
        opening = self._observed.opening(site_id)
        if opening:
            others = held_back(others, mine, full=shapes.total, opened=open_capacity(nodes_up(nodes), opening))
        return SiteView(
            site=self.site(intent),
            nodes=nodes,
            others=others,
            opening=bool(opening),
            refused=tuple(refused),
            shapes=shapes,
            unsold=unsold,
        )

    def _priced(self) -> tuple[dict[SiteId, SitePrices], dict[SiteId, dict[SiteId, float]]]:
        """Prices and measured round trips by site, read again when they changed."""
        prices_at, rtts_at = self._mirror.changed(keys.PRICES), self._mirror.changed(keys.RTTS)
        if self._seen[:2] != (prices_at, rtts_at):
            prices: dict[SiteId, SitePrices] = {}
            for intent in self._mirror.select(keys.SITES, SiteIntent):
                found = self._mirror.get(keys.prices(intent.site.id), SitePrices)
                if found is not None:
                    prices[intent.site.id] = found
            rtts_ms = {row.site: row.to for row in self._mirror.select(keys.RTTS, SiteRtts)}
            self._seen = (prices_at, rtts_at, prices, rtts_ms)
        return self._seen[2:]

    def _homes_of(self, scale: Scale, intents: Sequence[SiteIntent]) -> dict[str, SiteId]:
        called = [entry.data for entry in scale.calls]
        return dict(self._homes(called, [intent.site for intent in intents])) if called else {}

    def _users_of(self, intents: Sequence[SiteIntent]) -> dict[SiteId, float]:
        """Made once for the same sites: the tables behind it are slow to read."""
        sites = tuple(replace(intent.site, state="up") for intent in intents)
        if self._user_counts[0] != sites:
            self._user_counts = (sites, dict(self._users(sites)))
        return self._user_counts[1]


def _chooses(scale: Scale) -> bool:
    """Whether where users are may matter before any has asked."""
    return scale.min_per_site == 0 or scale.max_total is not None


def unknown(names: Sequence[str], sites: Sequence[Site]) -> Mapping[str, SiteId]:
    """Nobody knows where anything outside is."""
    return {}


def anywhere(sites: Sequence[Site]) -> Mapping[SiteId, float]:
    """As many users in one place as in another."""
    return {}
