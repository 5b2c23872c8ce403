"""Which healthy copies of apps there were, and since when: whether a failed request had to fail."""

from typing import final

from skerry.core.types.slices import SERVING_STATES
from skerry.testing.world.ground import Ground
from skerry.testing.world.network import Network

Copy = tuple[str, str, str, int]
"""(app, site, instance, process): one process of one instance."""


@final
class Copies:
    """Sampled often. `since` tells how long each copy has been healthy, and each site's ingress up."""

    def __init__(self, ground: Ground, network: Network) -> None:
        self._ground = ground
        self._network = network
        self._healthy: dict[Copy, int] = {}
        self._ingress: dict[str, int] = {}

    def sample(self) -> None:
        now_ms = self._ground.clock.monotonic_ms()
        healthy = {
            (cell.instance.version.app, node.site, cell.instance.id, cell.process)
            for node in self._ground.hosts.values()
            for cell in node.machine.cells.values()
            if cell.life.state in SERVING_STATES and cell.life.ready_ms and (cell.pid is not None or node.alive)
        }
        self._healthy = {copy: self._healthy.get(copy, now_ms) for copy in sorted(healthy)}
        up = [name for name, ingress in self._ground.ingresses.items() if ingress.pid]
        self._ingress = {name: self._ingress.get(name, now_ms) for name in up}

    def reachable_since(self, app: str, asked: str) -> int | None:
        """Since when (ms) some copy has been healthy and in reach of `asked`'s ingress; None: there is none."""
        if asked not in self._ingress:
            return None
        since = [
            max(begun_ms, self._ingress[asked], self._ingress.get(site, 1 << 60))
            for (name, site, _, _), begun_ms in self._healthy.items()
            if name == app and self._network.connected(asked, site)
        ]
        return min((ms for ms in since if ms < 1 << 60), default=None)
