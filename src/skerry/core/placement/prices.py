"""Shadow prices of a site's room: a step up while more is held than leaves some free, a step down while less is.

Prices are what lets apps decide one by one and still give way to one another: where room is short, an instance there has to
be worth more than anywhere else. A step is a fraction of what a node costs, so that it means the same for any size of node.
"""

from skerry.core.policy.shapes import Shapes
from skerry.core.types.resources import Resources
from skerry.core.types.settings import Settings, SitePrices

STEP = 0.5  # of the price of a node's share, when everything is held
FACTOR_MAX = 100.0  # more says nothing new: whoever can go has gone
DIGITS = 4  # of a price: less is no reason to write anything
WAITING_STEP = 1.0  # where an app has asked in vain


def moved_prices(prices: SitePrices, shapes: Shapes, held: Resources, *, waiting: bool, settings: Settings) -> SitePrices:
    """After one look. `held`: by all apps, without what is about to leave. `waiting`: some app has found no room there."""
    total = shapes.total

    def moved(price: float, amount: int, capacity: int) -> float:
        base = settings.cost * 0.5 * shapes.count / capacity if capacity else 0.0
        if base <= 0.0:
            return 0.0
        over = (amount / capacity - settings.price_from) / (1.0 - settings.price_from)
        step = STEP * over + (WAITING_STEP if waiting and over > 0.0 else 0.0)
        factor = min(FACTOR_MAX, max(0.0, price / base + step))
        return _rounded(factor * base)

    return SitePrices(
        cpu_millicores=moved(prices.cpu_millicores, held.cpu_millicores, total.cpu_millicores),
        memory_mib=moved(prices.memory_mib, held.memory_mib, total.memory_mib),
        disk_mib=moved(prices.disk_mib, held.disk_mib, total.disk_mib),
    )


def _rounded(price: float) -> float:
    return float(f"{price:.{DIGITS}g}")
