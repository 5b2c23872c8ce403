"""A site reduced to what matters to flows: its nodes, what the real packer puts on them, and since when that serves."""

from collections import Counter

from skerry.core.packing.pack import pack
from skerry.core.packing.types import Ask, Held
from skerry.core.types.app import Version
from skerry.core.types.ids import AppName, NodeId
from skerry.core.types.place import Node, PlaceState
from skerry.core.types.problem import ProblemSite
from skerry.core.types.resources import Resources
from skerry.kit.record import Record
from skerry.testing.builders import ACCOUNT, make_node

DRAIN_MS = 10_000  # a node that is drained still finishes requests


class Wanted(Record):
    """One app as placement sees it here."""

    version: Version
    count: int
    features: tuple[str, ...]


class Plane:
    """Times are virtual milliseconds. `missing`: of each app, what found no room."""

    def __init__(self, site: ProblemSite, *, start_ms: int) -> None:
        self.site = site
        self._start_ms = start_ms
        self._states: dict[str, PlaceState] = {f"{site.id}-{n}": "up" for n in range(1, site.nodes + 1)}
        self._dead: set[str] = set()  # in truth, whether the site knows or not
        self._part = 1.0
        self.held: tuple[Held, ...] = ()
        self._kept: tuple[Held, ...] = ()
        self._kept_since_ms: dict[str, int] = {}
        self._ready_ms: dict[str, int] = {}
        self.missing: Counter[AppName] = Counter()
        self.moved = 0  # instances that changed their node

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self._states)

    def up(self) -> int:
        """Nodes that the site believes to be up."""
        return sum(state == "up" for state in self._states.values())

    def capacity(self) -> Resources:
        """Of all nodes that live."""
        return self.node_capacity().times(len(self._states) - len(self._dead))

    def reserved(self) -> Resources:
        cpu = sum(held.reserve.cpu_millicores for held in self.held)
        memory = sum(held.reserve.memory_mib for held in self.held)
        return Resources(cpu_millicores=cpu, memory_mib=memory)

    def die(self, nodes: tuple[str, ...]) -> None:
        """Now; the site believes it later (`mark`)."""
        self._dead.update(nodes)

    def revive(self, nodes: tuple[str, ...]) -> None:
        """They boot with nothing on them."""
        self._dead.difference_update(nodes)
        gone = set(nodes)
        self.held = tuple(held for held in self.held if held.node not in gone or self._states[held.node] != "down")

    def mark(self, nodes: tuple[str, ...], state: PlaceState) -> None:
        for node in nodes:
            self._states[node] = state

    def shrink(self, part: float) -> None:
        """Each node has this part of what it had."""
        self._part = part

    def alive(self, nodes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(node for node in nodes if node not in self._dead)

    def pack(self, wanted: dict[str, Wanted], now_ms: int) -> None:
        """Make what runs here what is wanted, as far as it fits."""
        asks = tuple(
            Ask(account=ACCOUNT, app=AppName(app), version=ask.version, count=ask.count, plan_generation=1, features=ask.features)
            for app, ask in sorted(wanted.items())
            if ask.count > 0
        )
        before = {held.instance for held in self.held}
        counts = Counter(held.app for held in self.held)
        packing = pack(self._nodes(), asks, self.held)
        self.held = packing.held
        fresh = [held for held in self.held if held.instance not in before]
        after = Counter(held.app for held in self.held)
        self.moved += sum(max(0, len(group) - max(0, after[app] - counts[app])) for app, group in _by_app(fresh).items())
        for held in fresh:
            self._ready_ms[held.instance] = now_ms + self._start_ms
        self._ready_ms = {held.instance: self._ready_ms.get(held.instance, now_ms + self._start_ms) for held in self.held}
        self.missing = Counter({refused.app: refused.missing for refused in packing.refused})

    def serving(self, now_ms: int) -> Counter[AppName]:
        """Instances that answer, by app; at most as many as are wanted, while others still drain."""
        dead, ready = self._dead, self._ready_ms
        found = Counter(held.app for held in self.held if held.node not in dead and ready[held.instance] <= now_ms)
        if self._kept:
            wanted = Counter(held.app for held in self.held) + self.missing
            found += Counter(held.app for held in self._kept if held.node not in dead)
            found = Counter({app: min(count, wanted[app]) for app, count in found.items() if wanted[app]})
        return found

    def keep(self, nodes: tuple[str, ...], now_ms: int) -> None:
        """What serves on these nodes goes on until `release`, wherever it is packed to."""
        serving = (h for h in self.held if h.node in nodes and self._ready_ms[h.instance] <= now_ms)
        self._kept = (*self._kept, *serving)
        self._kept_since_ms |= dict.fromkeys(nodes, now_ms)

    def release(self, nodes: tuple[str, ...]) -> None:
        self._kept = tuple(held for held in self._kept if held.node not in nodes)

    def left_on(self, node: str, now_ms: int) -> int:
        """Of what is kept there: it goes when its app misses nothing here, all of that is ready, and requests are done."""
        waiting = Counter(held.app for held in self.held if self._ready_ms[held.instance] > now_ms) + self.missing
        kept = [held for held in self._kept if held.node == node]
        fresh = now_ms - self._kept_since_ms.get(node, 0) < DRAIN_MS
        return len(kept) if fresh else sum(waiting[held.app] > 0 for held in kept)

    def state(self, node: str) -> PlaceState:
        """As its site believes it."""
        return self._states[node]

    def restart(self, now_ms: int) -> None:
        """Everything that is held starts anew."""
        self._ready_ms = {held.instance: now_ms + self._start_ms for held in self.held}

    def _nodes(self) -> tuple[Node, ...]:
        return tuple(self._node(name, state) for name, state in self._states.items())

    def _node(self, name: str, state: PlaceState) -> Node:
        amount = self.node_capacity()
        return make_node(
            NodeId(name),
            cpu_millicores=amount.cpu_millicores,
            memory_mib=amount.memory_mib,
            disk_mib=amount.disk_mib,
            state=state,
            features=self.site.features,
        )

    def node_capacity(self, part: float | None = None) -> Resources:
        """Of one node, `part` of its full size (None: what it has now)."""
        node, share = self.site.node, self._part if part is None else part
        return Resources(
            cpu_millicores=int(node.cpu_millicores * share),
            memory_mib=int(node.memory_mib * share),
            disk_mib=int(node.disk_mib * share),
        )


def _by_app(items: list[Held]) -> dict[AppName, list[Held]]:
    found: dict[AppName, list[Held]] = {}
    for held in items:
        found.setdefault(held.app, []).append(held)
    return found
