"""What a site knows of its nodes: their latest reports, and what their silence means.

How long a silence is suspicious, and when it is final, says `core.machines.failure`. A killed agent leaves its instances running,
so silence alone loses nothing: a suspected node's instances are tried by a TCP connect. If none of them accepts, the node is
lost when its silence is final; as long as one does, only its agent is missing. It is given `agent_back_ms` to return; then
the node is cut off: what it runs serves until it is replaced on others. Where most nodes are silent together, one is given up
only when its machine refuses connections: then it is not this controller's own network that fails.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from msgspec.structs import replace

from skerry.core.machines.failure import Detection, Opinion, Watch
from skerry.core.reconcile.site_types import NodeHeard, SiteMemory
from skerry.core.types.ids import InstanceId, NodeId
from skerry.core.types.slices import GOOD_STATES, SERVING_STATES, NodeReport, ObservedInstance
from skerry.kit.record import Record
from skerry.ports.clock import Clock

Answer = Literal["accepts", "refuses", "silent"]
Probe = Callable[[str], Awaitable[Answer]]
"""What a TCP connect to host:port finds, within a fraction of a second. refuses: the machine is there, and nobody listens."""

NODES = Detection(heartbeat_ms=500, suspect_ms=1_500, lost_ms=4_000, lost_ms_max=15_000, unheard_ms=10_000, late_ms=10_000)

News = Literal["nothing", "report", "decide"]
"""`report`: control should hear of it soon. `decide`: that, and the site may have to do something."""


class NodeSettings(Record):
    """`agent_back_ms`: a node that is silent for so long, and whose instances accept, is cut off."""

    detection: Detection = NODES
    agent_back_ms: int = 30_000


class Nodes:
    def __init__(self, expected: tuple[NodeId, ...], clock: Clock, probe: Probe, settings: NodeSettings | None = None) -> None:
        self.expected = expected
        self._clock = clock
        self._probe = probe
        self._settings = settings or NodeSettings()
        self._watch = Watch(self._settings.detection, clock.monotonic_ms())
        self._heard: dict[NodeId, NodeHeard] = {}
        self._served: dict[InstanceId, str] = {}
        self._remembered: dict[InstanceId, NodeId] = {}
        self._silent_instances: dict[NodeId, frozenset[InstanceId]] = {}
        self.lost: frozenset[NodeId] = frozenset()
        self.cut_off: frozenset[NodeId] = frozenset()

    def hear(self, report: NodeReport) -> News:
        """Take a report in; what follows from it."""
        node = report.node.id
        last = self._heard.get(node)
        if last is not None and last.report.epoch == report.epoch and report.sequence <= last.report.sequence:
            return "nothing"
        now_ms = self._clock.monotonic_ms()
        self._heard[node] = NodeHeard(report=report, heard_ms=now_ms)
        self._watch.hear(node, now_ms, restarted=last is not None and last.report.epoch != report.epoch)
        was_silent = node in self.lost | self.cut_off or bool(self._silent_instances.pop(node, None))
        self.lost -= {node}
        self.cut_off -= {node}
        if was_silent or last is None or _decisive(last.report, self._served) != _decisive(report, self._served):
            return "decide"
        return "report" if _told(last.report) != _told(report) else "nothing"

    def decided(self, memory: SiteMemory) -> None:
        """What the latest decision keeps and found to serve, and where: by this the next reports are judged."""
        self._served = {entry.instance: entry.address for entry in memory.serving}
        self._remembered = {held.instance: held.node for held in memory.held}
        self._remembered |= {entry.held.instance: entry.held.node for entry in memory.retiring}

    def remembers(self, instance: InstanceId) -> bool:
        """Whether the latest decision keeps it."""
        return instance in self._remembered

    def heard(self, node: NodeId) -> bool:
        return node in self._heard

    def reports(self) -> tuple[NodeHeard, ...]:
        """The latest of each node; instances found dead while their agent is silent are shown so."""
        return tuple(self._shown(self._heard[node]) for node in sorted(self._heard))

    def opinions(self) -> dict[NodeId, Opinion]:
        """Of those that are not simply up, as of the latest look."""
        found = {node: self._opinion(node) for node in sorted({*self.expected, *self._heard})}
        return {node: opinion for node, opinion in found.items() if opinion.state != "up"}

    async def look(self) -> bool:
        """Try what silent nodes run, and give up what is lost; whether anything is different now."""
        before = (self.lost, self.cut_off, dict(self._silent_instances))
        now_ms = self._clock.monotonic_ms()
        for node in self.expected:
            self._watch.expect(node, now_ms)
        found = self._watch.look(now_ms)
        silent = [NodeId(name) for name in sorted(found) if found[name].state != "up" and name not in self.lost]
        await asyncio.gather(*(self._look_at(node, self._heard.get(node), found[node]) for node in silent))
        return before != (self.lost, self.cut_off, self._silent_instances)

    def _opinion(self, node: NodeId) -> Opinion:
        """What the tries found counts for more than silence."""
        opinion = self._watch.opinion(node)
        if node in self.lost:
            return replace(opinion, state="lost", held=False)
        return replace(opinion, state="suspected") if opinion.state == "lost" else opinion

    async def _look_at(self, node: NodeId, heard: NodeHeard | None, opinion: Opinion) -> None:
        """One that has not spoken since this controller began may have died before it did, or only its agent."""
        addresses = self._addresses(node, heard)
        found = await asyncio.gather(*map(self._probe, addresses.values()))
        if self._heard.get(node) is not heard:
            return  # it spoke while we were looking
        dead = frozenset(name for name, answer in zip(addresses, found, strict=True) if answer != "accepts")
        if heard is not None:
            self._silent_instances[node] = dead
        if len(dead) == len(addresses):
            if opinion.state == "lost" or (opinion.held and "refuses" in found):
                self.lost |= {node}
                self.cut_off -= {node}
        elif opinion.silent_ms > self._settings.agent_back_ms:
            self.cut_off |= {node}

    def _addresses(self, node: NodeId, heard: NodeHeard | None) -> dict[InstanceId, str]:
        """What it said that it serves; of one that said nothing yet, what the site remembers of it."""
        if heard is None:
            return {name: address for name, address in self._served.items() if self._remembered.get(name) == node}
        seen = heard.report.instances
        return {i.id: i.address for i in seen if i.address is not None and i.state in SERVING_STATES}

    def _shown(self, heard: NodeHeard) -> NodeHeard:
        dead = self._silent_instances.get(heard.report.node.id, frozenset())
        if not dead:
            return heard
        instances = tuple(
            replace(i, state="backoff", pid=None, detail="its agent is silent and it does not accept connections")
            if i.id in dead
            else i
            for i in heard.report.instances
        )
        return replace(heard, report=replace(heard.report, instances=instances))


def _decisive(report: NodeReport, served: Mapping[InstanceId, str]) -> tuple[object, ...]:
    """What a decision can depend on."""
    node = report.node
    instances = tuple((i.id, "serves" if _serves(i, served) else i.state, i.address) for i in report.instances)
    return (
        report.epoch,
        report.slice_generation,
        node.capacity,
        node.address,
        node.features,
        node.rack,
        node.overcommit,
        node.pid,
        instances,
    )


def _serves(seen: ObservedInstance, served: Mapping[InstanceId, str]) -> bool:
    """As decisions see it: one that sleeps, or that served and starts again at its address, is as good as one that runs."""
    if seen.address is None:
        return seen.state in GOOD_STATES
    return seen.state in SERVING_STATES or (seen.state == "starting" and served.get(seen.id) == seen.address)


def _told(report: NodeReport) -> tuple[object, ...]:
    """What people and control are told besides, without readings that change by themselves."""
    return (report.task, *((i.state, i.pid, i.restarts, i.detail, i.strains) for i in report.instances))
