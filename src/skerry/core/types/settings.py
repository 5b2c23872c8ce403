"""What operators weigh, and how freely what runs may move. Kept in the store, changeable at run time."""

from skerry.kit.record import Record


class Weights(Record):
    """What one unit of each term of J costs."""

    latency: float = 1.0  # per rps·ms
    late: float = 5.0  # per rps·ms above the objective
    unserved: float = 10_000.0  # per rps
    cost: float = 100.0  # per price unit
    move: float = 20.0  # per instance started or stopped
    home: float = 200.0  # per GiB of a moved home


class Settings(Record):
    """The weights of J by their names, then the rest; J is what placement minimises.

    `prior_rps` is what an app is taken to be asked in all, as long as nobody knows. `keep_share`: what runs beyond the
    minimums stays while it saves at least this part of what a new instance would have to. `price_from` is the share of a
    site's room above which room there gets a price. A background pass every `rebalance_every_s` (0: never) looks at
    `rebalance_apps_max` apps and starts at most `rebalance_moves_max` instances, each for a gain of at least
    `rebalance_gain_min` in J above what a move costs anyway.
    """

    latency: float = 1.0
    late: float = 5.0
    unserved: float = 10_000.0
    cost: float = 100.0
    move: float = 20.0
    home: float = 200.0
    prior_rps: float = 0.1
    keep_share: float = 0.5
    price_from: float = 0.8
    rebalance_every_s: int = 300
    rebalance_moves_max: int = 100
    rebalance_gain_min: float = 50.0
    rebalance_apps_max: int = 500

    @property
    def weights(self) -> Weights:
        return Weights(
            latency=self.latency, late=self.late, unserved=self.unserved, cost=self.cost, move=self.move, home=self.home
        )


class SitePrices(Record):
    """Shadow prices of one site's room: J per unit, 0 as long as nobody has to wait for it."""

    cpu_millicores: float = 0.0
    memory_mib: float = 0.0
    disk_mib: float = 0.0


NO_PRICES = SitePrices()
