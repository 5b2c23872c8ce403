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
        self._since_ms: dict[Copy, int] = {}  # of each healthy copy that is wanted
        self._informed_ms: dict[str, int] = {}  # of each plane that lives and is connected: since when
        self._learnt: set[tuple[Copy, str]] = set()  # (copy, city): known when a plane between them went away
        self._sampled_ms = 0
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
        self._remember(informed)
        self._informed_ms = {plane: self._informed_ms.get(plane, now_ms) for plane in informed}
        healthy = [
            copy
            for copy in self._healthy(frozenset(tags))
            if copy.app not in changed and copy.instance not in replaced and copy.site in wanted.get(copy.app, ())
        ]
        self._since_ms = {copy: self._since_ms.get(copy, now_ms) for copy in healthy}
        self._learnt = {key for key in self._learnt if key[0] in self._since_ms}
        self._sampled_ms = now_ms
        pids = {city: ingress.pid for city, ingress in self._ground.ingresses.items() if ingress.pid}
        seen = self._up
        self._up = {city: seen[city] if city in seen and seen[city][0] == pid else (pid, now_ms) for city, pid in pids.items()}

    def forget(self, city: str) -> None:
        """Neither does it know of others' copies, nor of all of its own."""
        self._learnt = {key for key in self._learnt if city not in (key[0].site, key[1])}
        self._informed_ms.pop(city, None)

    def in_reach(self, app: str, city: str, *, since_ms: int) -> Copy | None:
        """A healthy copy that the city knows of, and has reached by ingresses that are up since then."""
        if not self._is_up(city, since_ms) or not self._network.reached_all(city, since_ms=since_ms):
            return None  # where to send its users is decided as if cities reached each other
        known = (copy for copy in self._healthy(frozenset((app,))) if self._knows(copy, city))
        return next((copy for copy in known if self._is_up(copy.site, since_ms)), None)

    def _knows(self, copy: Copy, city: str) -> bool:
        """At the last sample."""
        if copy not in self._since_ms:
            return False
        if (copy, city) in self._learnt:
            return True
        planes = [self._informed_ms.get(plane) for plane in (copy.site, copy.node, city)]
        if None in planes:
            return False
        told_ms = max(self._since_ms[copy], *(since for since in planes if since is not None))
        return self._sampled_ms - told_ms >= KNOWN_AFTER_MS

    def _remember(self, informed: frozenset[str]) -> None:
        """Before planes go out of sight: who knew of which copies by them."""
        gone = {plane for plane in self._informed_ms if plane not in informed}
        if not gone:
            return
        self._learnt |= {
            (copy, city)
            for copy in self._since_ms
            for city in self._ground.ingresses
            if not gone.isdisjoint((copy.site, copy.node, city)) and self._knows(copy, city)
        }

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
