"""Which healthy copies of apps there are, and which cities can know of them: whether a failed request had to fail."""

from typing import final

from skerry.core.types.app import App
from skerry.core.types.ids import AppName
from skerry.core.types.slices import SERVING_STATES
from skerry.kit.record import Record
from skerry.testing.world.ground import Ground
from skerry.testing.world.network import Network

KNOWN_AFTER_MS = 4_000
"""So long every plane between a new copy and a city has to live and to be connected; then the city knows of it, whatever
happens to the planes afterwards."""


class Copy(Record):
    """One process of one instance."""

    app: str
    site: str
    node: str
    instance: str
    process: int


@final
class Copies:
    """`sample` it often. A city that lost its disk has to be told again: `forget`."""

    def __init__(self, ground: Ground, network: Network) -> None:
        self._ground = ground
        self._network = network
        self._tags: dict[AppName, str] = {}  # of the apps that are wanted
        self._told_ms: dict[tuple[Copy, str], int] = {}  # (copy, city): since when it has been told without a break
        self._known: set[tuple[Copy, str]] = set()
        self._up: dict[str, tuple[int, int]] = {}  # of each ingress: its process, and when that was first seen

    def sample(
        self, apps: list[App], wanted: dict[str, frozenset[str]], informed: frozenset[str], replaced: frozenset[str]
    ) -> None:
        """`wanted`: at which sites each app is to run; it is not looked for elsewhere.

        `replaced`: instances that others have taken over from.
        `informed`: sites and nodes that live and are connected upwards, with a control that lives.
        """
        now_ms = self._ground.clock.monotonic_ms()
        tags = {app.name: app.tag for app in apps if app.enabled and app.deployment is not None}
        changed = {name for name in {*tags, *self._tags} if tags.get(name) != self._tags.get(name)}
        self._tags = tags
        told: dict[tuple[Copy, str], int] = {}
        known: set[tuple[Copy, str]] = set()
        for copy in self._healthy(frozenset(tags)):
            if copy.instance in replaced or copy.site not in wanted.get(copy.app, ()):
                continue
            for city in self._ground.ingresses:
                key = (copy, city)
                if copy.app in changed:
                    continue
                if {copy.site, copy.node, city} <= informed:
                    told[key] = self._told_ms.get(key, now_ms)
                if key in self._known or now_ms - told.get(key, now_ms) >= KNOWN_AFTER_MS:
                    known.add(key)
        self._told_ms, self._known = told, known
        pids = {city: ingress.pid for city, ingress in self._ground.ingresses.items() if ingress.pid}
        seen = self._up
        self._up = {city: seen[city] if city in seen and seen[city][0] == pid else (pid, now_ms) for city, pid in pids.items()}

    def forget(self, city: str) -> None:
        """Neither does it know of others' copies, nor of all of its own."""
        self._known = {key for key in self._known if city not in (key[0].site, key[1])}
        self._told_ms = {key: since for key, since in self._told_ms.items() if city not in (key[0].site, key[1])}

    def in_reach(self, app: str, city: str, *, since_ms: int) -> Copy | None:
        """A healthy copy that the city knows of, and has reached by ingresses that are up since then."""
        if not self._is_up(city, since_ms) or any(city in pair for pair in self._network.apart):
            return None  # where to send its users is decided as if cities reached each other
        known = (copy for copy in self._healthy(frozenset((app,))) if (copy, city) in self._known)
        return next((copy for copy in known if self._is_up(copy.site, since_ms)), None)

    def _is_up(self, city: str, since_ms: int) -> bool:
        pid, first_ms = self._up.get(city, (0, 0))
        return pid != 0 and pid == self._ground.ingresses[city].pid and first_ms <= since_ms

    def _healthy(self, apps: frozenset[str]) -> list[Copy]:
        return [
            Copy(app=cell.instance.version.app, site=host.site, node=host.id, instance=cell.instance.id, process=cell.process)
            for host in self._ground.hosts.values()
            for cell in host.machine.cells.values()
            if cell.instance.version.app in apps
            and cell.life.state in SERVING_STATES
            and cell.life.ready_ms
            and (cell.pid is not None or host.alive)
        ]
