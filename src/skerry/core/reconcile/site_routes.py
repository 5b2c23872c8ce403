"""The routes of a site, from what it wants, what retires and what serves."""

from fractions import Fraction

from skerry.core.packing.types import Held
from skerry.core.reconcile.site_types import Retiring
from skerry.core.reconcile.warmth import Warmth
from skerry.core.types.ids import AccountId, AppName, InstanceId, SiteId, VersionId
from skerry.core.types.routes import Route, RouteTable, Target
from skerry.core.types.slices import Peer, SiteSlice, SliceApp

WEIGHT_MAX = 256  # HAProxy's greatest server weight
AppKey = tuple[AccountId, AppName]


def route_table(
    slice_: SiteSlice,
    wanted: tuple[Held, ...],
    retiring: tuple[Retiring, ...],
    serving: dict[InstanceId, str],
    warm: Warmth | None = None,
) -> RouteTable:
    """One route per app of the slice, and one without hosts for each app that only drains; by account and app.

    What serves nobody (no address) is in no route.
    """
    serving = {name: address for name, address in serving.items() if address}
    warm = warm or Warmth({}, 0)
    apps = {(app.account, app.app): app for app in slice_.apps}
    wanted_of = _by_app(wanted)
    retiring_of: dict[AppKey, list[Retiring]] = {}
    for entry in retiring:
        retiring_of.setdefault((entry.held.account, entry.held.app), []).append(entry)
    peers = {peer.site: peer for peer in slice_.peers}
    routes: list[Route] = []
    for account, name in sorted(apps.keys() | retiring_of.keys()):
        app = apps.get((account, name))
        targets = _targets(app, wanted_of.get((account, name), []), retiring_of.get((account, name), []), serving, warm)
        routes.append(
            Route(
                account=account,
                app=name,
                hosts=app.hosts if app else (),
                targets=targets,
                fallbacks=_fallbacks(app, peers) if app else (),
                sticky=app.sticky if app else False,
                public_port=app.public_port if app else None,
            )
        )
    return RouteTable(site=slice_.site, routes=tuple(routes))


def _fallbacks(app: SliceApp, peers: dict[SiteId, Peer]) -> tuple[tuple[SiteId, str], ...]:
    """Those that take what the app speaks."""
    reached = [(site, peers[site]) for site in app.fallbacks if site in peers]
    if app.public_port is None:
        return tuple((site, peer.address) for site, peer in reached)
    return tuple((site, peer.tcp_address) for site, peer in reached if peer.tcp_address)


def _by_app(instances: tuple[Held, ...]) -> dict[AppKey, list[Held]]:
    grouped: dict[AppKey, list[Held]] = {}
    for held in instances:
        grouped.setdefault((held.account, held.app), []).append(held)
    return grouped


def _targets(
    app: SliceApp | None, wanted: list[Held], retiring: list[Retiring], serving: dict[InstanceId, str], warm: Warmth
) -> tuple[Target, ...]:
    """All that serve, by instance id; draining ones with weight 0."""
    ready = [held for held in wanted if held.instance in serving]
    old = [entry.held for entry in retiring if entry.held.instance in serving and entry.drain_since_ms is None]
    done = [entry.held for entry in retiring if entry.held.instance in serving and entry.drain_since_ms is not None]
    if len(ready) == len(wanted) == 1 and not retiring and app is not None and len(app.versions) == 1:  # nearly every app
        only = ready[0].instance
        return (Target(instance=only, address=serving[only], weight=WEIGHT_MAX),)
    weights = _scaled(_shares(app, ready, old, warm, missing=len(wanted) - len(ready)))
    weights |= {held.instance: 0 for held in done}
    return tuple(Target(instance=name, address=serving[name], weight=weights[name]) for name in sorted(weights))


def _shares(
    app: SliceApp | None, ready: list[Held], old: list[Held], warm: Warmth, *, missing: int
) -> dict[InstanceId, Fraction]:
    """Each instance's part of the app's traffic.

    A version's weight is divided among its serving instances, as warm as they are. While wanted ones are missing, what still
    serves of the old takes their part of the whole, so that traffic moves over as fast as the new instances come.
    """
    weight_of = {entry.version.id: entry.weight for entry in app.versions} if app else {}
    serving_of: dict[VersionId, list[InstanceId]] = {}
    for held in ready:
        serving_of.setdefault(held.version, []).append(held.instance)
    total = sum(weight_of.get(version, 0) for version in serving_of) or 1
    new_part = Fraction(0) if not ready else Fraction(len(ready), len(ready) + missing) if old else Fraction(1)
    shares: dict[InstanceId, Fraction] = {}
    for version, instances in serving_of.items():
        shares |= warm.divided(new_part * Fraction(weight_of.get(version, 0), total), instances)
    shares |= {held.instance: (1 - new_part) / len(old) for held in old}
    return shares


def _scaled(shares: dict[InstanceId, Fraction]) -> dict[InstanceId, int]:
    """Whole weights in proportion: the greatest becomes 256, none above 0 becomes less than 1.

    Scaling to the maximum keeps proportions for many instances, and keeps a lone version's weights unchanged
    while instances come and go.
    """
    top = max(shares.values(), default=Fraction(0))
    return {name: max(1, round(share * WEIGHT_MAX / top)) if share > 0 else 0 for name, share in shares.items()}
