"""Events in virtual time: what happens to the world, what control does about it, and what users get meanwhile.

happening ─► truth (planes, roads, demand) ─► traffic ─► sums over time
                 │ heartbeats, demand                ▲
                 ▼                                    │ ready instances
belief, watch ─► method.decide ─► plan ─► slices ─► planes (core.packing)
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from msgspec.structs import replace as changed

from skerry.core.machines.failure import WITNESSES_MIN
from skerry.core.reconcile.observers import looked_at
from skerry.core.types.app import Version
from skerry.core.types.ids import AppName, SiteId
from skerry.core.types.problem import Demand, Floats, Problem, ProblemSite
from skerry.core.types.resources import Resources
from skerry.testing.builders import make_version
from skerry.testing.world.flows.belief import Belief
from skerry.testing.world.flows.hours import hourly
from skerry.testing.world.flows.measure import Point, Recovery, recovery
from skerry.testing.world.flows.methods import Decided, Ints, Method, Question, allowed, names, with_headroom
from skerry.testing.world.flows.plane import Plane, Wanted
from skerry.testing.world.flows.story import Happening, Pace, Story
from skerry.testing.world.flows.traffic import Sums, Traffic

FULL = 0.98  # of an app's capacity; above, it is decided again before the next round
REFUSED_TOO_MUCH = 0.001
SETTLED_MS = 2_000  # after new instances are ready, old ones go

Work = Callable[[], None]


@dataclass
class Run:
    """What a run left behind. `sums` are per second × milliseconds: divide by `duration_ms` for means."""

    method: str
    duration_ms: int
    sums: Sums
    points: list[Point]
    recoveries: list[Recovery]
    gaps: list[float]
    moves: int
    repacked: int  # instances that changed their node inside a site
    decisions: int
    refused_by_sites: int  # instances that found no node, at the end
    regions: tuple[str, ...]
    homes: Ints  # of all data, at the end


class FlowWorld:
    """One method in one story. `run` plays it; deterministic."""

    def __init__(self, problem: Problem, story: Story, method: Method) -> None:
        self.problem, self.story, self.method = problem, story, method
        self.pace: Pace = story.pace
        self.now_ms = 0
        self._queue: list[tuple[int, int, Work]] = []
        self._number = 0
        self.planes = [Plane(site, start_ms=self.pace.start_ms) for site in problem.sites]
        self.traffic = Traffic(problem, spill=self.pace.spill)
        self._index = {site.id: at for at, site in enumerate(problem.sites)}
        self._looking = self._who_looks()
        self._app_index = {app.app: at for at, app in enumerate(problem.apps)}
        self._versions = [_version(problem, at) for at in range(len(problem.apps))]
        self._allowed = allowed(problem)
        names_ = tuple(site.id for site in problem.sites)
        self.belief = Belief(
            names_,
            heartbeat_ms=self.pace.heartbeat_ms,
            denied_after_ms=self.pace.denied_after_ms,
            lost_after_ms=self.pace.lost_after_ms,
        )
        shape = (len(problem.apps), len(problem.sites))
        self.plan: Ints = np.zeros(shape, dtype=np.int64)
        self._asked: Ints = np.zeros(shape, dtype=np.int64)  # what control wants of each site now
        self._draining: set[int] = set()
        self._cut: set[int] = set()
        self._known_nodes = np.array([site.nodes for site in problem.sites])
        self._known_part = np.ones(len(problem.sites))
        self._part = np.ones(len(problem.sites))
        self._refusals: dict[int, dict[AppName, int]] = {}  # by site, as control heard them last
        self._tried: dict[int, float] = {}
        self._surges: dict[int, Happening] = {}
        self._roads: dict[int, Happening] = {}
        self._known_rtt = (problem.rtt_ms, problem.site_rtt_ms)
        self._hourly = hourly(problem, story.start_hour) if story.day else None
        self._touched: set[int] = set()
        self._first_demand: Floats | None = None
        self._sums = Sums(len(problem.metros), len(problem.sites), len(self.traffic.regions))
        self._points: list[Point] = []
        self._gaps: list[float] = []
        self._moves = self._decisions = 0

    def run(self, on_time: Callable[[int], None] = lambda ms: None) -> Run:
        """Play the whole story; `on_time` hears how far it is."""
        self._begin()
        while self._queue and self._queue[0][0] <= self.story.duration_ms:
            at_ms = self._queue[0][0]
            self._pass(at_ms)
            on_time(at_ms)
            while self._queue and self._queue[0][0] == at_ms:
                heapq.heappop(self._queue)[2]()
            self._settle()
        self._pass(self.story.duration_ms)
        on_time(self.story.duration_ms)
        return self._result()

    def at(self, at_ms: int, work: Work) -> None:
        self._number += 1
        heapq.heappush(self._queue, (max(at_ms, self.now_ms), self._number, work))

    def after(self, delay_ms: int, work: Work) -> None:
        self.at(self.now_ms + delay_ms, work)

    def _who_looks(self) -> list[list[int]]:
        """By site: those that look at it."""
        names_ = [SiteId(site.id) for site in self.problem.sites]
        found: list[list[int]] = [[] for _ in names_]
        for at, name in enumerate(names_):
            for other in looked_at(name, names_):
                found[self._index[other]].append(at)
        return found

    def places(self, wanted: tuple[str, ...]) -> list[int]:
        """Sites by index that any of the names means."""
        return [at for at, site in enumerate(self.problem.sites) if any(names(place, site) for place in wanted)]

    def apps(self, wanted: tuple[str, ...]) -> list[int]:
        return list(range(len(self.problem.apps))) if "*" in wanted else [self._app_index[name] for name in wanted]

    # Time.

    def _begin(self) -> None:
        """The platform has run for long when the story begins: everything is placed, packed and ready."""
        self._apply_hour()
        self._first_demand = self._dense_demand()
        decided = self.method.decide(self._question(None))
        self._note(decided, count_moves=False)
        self._asked = self.plan.copy()
        for at in range(len(self.planes)):
            self._pack(at, now_ms=-self.pace.start_ms)
        self._settle()
        self.at(self.pace.replan_ms, self._replan)
        self.at(self.pace.watch_ms, self._watch)
        if self._hourly is not None:
            self.at(self.story.demand_step_ms, self._next_hour)

    def _pass(self, until_ms: int) -> None:
        if until_ms > self.now_ms:
            self._sums.grow(self.traffic.now, float(until_ms - self.now_ms))
            self.now_ms = until_ms

    def _settle(self) -> None:
        for at in sorted(self._touched):
            self._read(at)
        self._touched = set()
        if self.traffic.settle() or not self._points:
            point = self._point()
            if self._points and self._points[-1].at_ms == point.at_ms:
                self._points.pop()
            self._points.append(point)

    # Control.

    def _replan(self) -> None:
        self.decide(None)
        self.after(self.pace.replan_ms, self._replan)

    def _watch(self) -> None:
        """Apps that lack capacity are decided before the round."""
        short: list[int] = []
        for app in range(len(self.problem.apps)):
            _, rps = self.traffic.demand(app)
            total = float(rps.sum())
            lacking = total > FULL * float(self.plan[app].sum()) * self.traffic.rates[app]
            lacking = lacking or self.traffic.refused_share(app) > REFUSED_TOO_MUCH
            if lacking and self._tried.get(app) != total:
                self._tried[app] = total
                short.append(app)
        if short:
            self.decide(tuple(short))
        self.after(self.pace.watch_ms, self._watch)

    def look(self) -> None:
        """At silence: who is lost, and who is back."""
        before = self.belief.lost
        next_ms = self.belief.look(self.now_ms)
        lost, back = self.belief.lost - before, before - self.belief.lost
        if lost:
            here = [self._index[name] for name in sorted(lost)]
            self.decide(tuple(int(app) for app in np.flatnonzero(self.plan[:, here].sum(axis=1))))
        if back:
            self.decide(None)
        if next_ms is not None:
            self.at(max(next_ms, self.now_ms + 1), self.look)

    def decide(self, apps: tuple[int, ...] | None) -> None:
        """Now, on what is known now; carried out as fast as the pace allows."""
        if apps is not None and not apps:
            return
        self._note(self.method.decide(self._question(apps)), count_moves=True)
        first = np.maximum(self._asked, self.plan)
        wanted = self.plan.copy()
        soon = self.pace.decide_ms + self.pace.push_ms
        changed_at = np.flatnonzero((first != self._asked).any(axis=0))
        self.after(soon, lambda: self._ask(first, changed_at, wanted))
        going = np.flatnonzero((wanted != first).any(axis=0))
        self.after(soon + self.pace.start_ms + SETTLED_MS, lambda: self._ask(wanted, going, wanted))

    def _ask(self, counts: Ints, sites: Ints, plan: Ints) -> None:
        """New slices; a later decision has overtaken what is not its own."""
        if not np.array_equal(plan, self.plan):
            return
        self._asked = counts.copy()
        self._pack_all(sites.tolist())

    def _question(self, apps: tuple[int, ...] | None) -> Question:
        sites = tuple(self._believed(at) for at in range(len(self.planes)))
        rtt, site_rtt = self._known_rtt
        known = replace(self.problem, sites=sites, demand=self._demand(), rtt_ms=rtt, site_rtt_ms=site_rtt)
        now = self.plan.copy()
        now[:, [site.state == "down" for site in sites]] = 0
        return Question(
            problem=with_headroom(known, self.pace.headroom),
            now=now,
            allowed=self._allowed,
            apps=apps,
            first_demand=None if self._first_demand is None else self._first_demand * self.pace.headroom,
        )

    def _believed(self, at: int) -> ProblemSite:
        site = self.problem.sites[at]
        part = self._known_part[at]
        node = self.planes[at].node_capacity(part)
        state = "down" if site.id in self.belief.lost else "draining" if at in self._draining else site.state
        return changed(site, state=state, nodes=int(self._known_nodes[at]), node=node)

    def _demand(self) -> Demand:
        base = self.problem.demand
        parts = [self.traffic.demand(app)[1] for app in range(len(self.problem.apps))]
        return replace(base, rps=np.concatenate([np.empty(0), *parts]))

    def _dense_demand(self) -> Floats:
        dense = np.zeros((len(self.problem.apps), len(self.problem.metros)))
        for app in range(len(self.problem.apps)):
            metro, rps = self.traffic.demand(app)
            dense[app, metro] = rps
        return dense

    def _note(self, decided: Decided, *, count_moves: bool) -> None:
        self._decisions += 1
        if count_moves:
            self._moves += int(np.abs(decided.counts - self.plan).sum())
        self.plan = decided.counts
        if decided.gap is not None:
            self._gaps.append(decided.gap)
        if decided.homes is not None:
            self.traffic.homes = decided.homes
            self.traffic.roads_changed()

    # Sites.

    def _reaches(self, at: int) -> bool:
        return bool(self.traffic.living[at]) and at not in self._cut

    def _pack(self, at: int, now_ms: int | None = None) -> None:
        counts = self._asked[:, at]
        wanted = {
            self.problem.apps[app].app: Wanted(
                version=self._versions[app], count=int(counts[app]), features=self.problem.apps[app].features
            )
            for app in np.flatnonzero(counts)
        }
        now = self.now_ms if now_ms is None else now_ms
        self.planes[at].pack(wanted, now)
        if self.planes[at].missing and now_ms is None:
            self._refused(at)
        self._touched.add(at)
        self.at(now + self.pace.start_ms, lambda: self._touched.add(at))

    def _refused(self, at: int) -> None:
        """Control hears what found no room, and decides these apps on what it knows of the city by then."""
        missing = dict(self.planes[at].missing)
        if self._reaches(at) and self._refusals.get(at) != missing:
            self._refusals[at] = missing
            apps = tuple(sorted(self._app_index[name] for name in missing))
            self.after(self.pace.push_ms, lambda: self.decide(apps))

    def _pack_all(self, sites: Iterable[int]) -> None:
        for at in sites:
            if self._reaches(at):
                self._pack(at)

    def repack(self, at: int) -> None:
        """Its nodes are others: what was asked is packed again."""
        if self.traffic.living[at]:
            self._pack(at)

    def heard(self, at: int) -> None:
        """Control sees the nodes that are there."""
        if self._reaches(at):
            self._known_nodes[at] = self.planes[at].up()
            self._known_part[at] = self._part[at]

    def _read(self, at: int) -> None:
        """What of the site serves now."""
        plane = self.planes[at]
        column = np.zeros(len(self.problem.apps))
        if self.traffic.living[at]:
            for name, count in plane.serving(self.now_ms).items():
                column[self._app_index[name]] = count
        different = np.flatnonzero(column != self.traffic.instances[:, at])
        self.traffic.instances[different, at] = column[different]
        self.traffic.touch(different)

    # What happens.

    def silent(self, sites: list[int]) -> None:
        for at in sites:
            denied = not self.traffic.living[at] and self._observers(at) >= WITNESSES_MIN
            self.belief.silent(self.problem.sites[at].id, self.now_ms, denied=denied)
        self.after(min(self.pace.denied_after_ms, self.pace.lost_after_ms), self.look)

    def _observers(self, at: int) -> int:
        """Cities that look at this one, and are heard."""
        return sum(bool(self.traffic.living[other]) and other not in self._cut for other in self._looking[at])

    def cut(self, sites: list[int]) -> None:
        self._cut.update(sites)
        self.silent(sites)

    def connect(self, sites: list[int]) -> None:
        """Control hears them again, and they get what is wanted of them now."""
        self._cut.difference_update(sites)
        for at in sites:
            if self.traffic.living[at]:
                self.belief.heard(self.problem.sites[at].id, self.now_ms)
                self.heard(at)
        self.after(self.pace.heartbeat_ms, self.look)
        self.after(self.pace.heartbeat_ms + self.pace.push_ms, lambda: self._pack_all(sites))

    def shrunk(self, at: int, part: float) -> None:
        self._part[at] = part
        self.planes[at].shrink(part)
        self.heard(at)
        self.repack(at)

    def surge(self, event: Happening, *, on: bool) -> None:
        self._surges.pop(id(event), None)
        if on:
            self._surges[id(event)] = event
        self._apply_hour()

    def road(self, event: Happening, *, on: bool) -> None:
        """Round trips change now; control's table knows when they have been measured."""
        self._roads.pop(id(event), None)
        if on:
            self._roads[id(event)] = event
        rtt, between = self.problem.rtt_ms.copy(), self.problem.site_rtt_ms.copy()
        nearest = np.argmin(self.problem.rtt_ms, axis=1)
        for slow in self._roads.values():
            here, there = (np.array(self.places(wanted), dtype=np.int64) for wanted in (slow.places, slow.others))
            for a, b in ((here, there), (there, here)):
                rows = np.flatnonzero(np.isin(nearest, a))
                rtt[rows[:, None], b] = rtt[rows[:, None], b] * slow.times + slow.add_ms
                between[a[:, None], b] = between[a[:, None], b] * slow.times + slow.add_ms
        np.fill_diagonal(between, 0.0)
        self.traffic.rtt_ms, self.traffic.site_rtt_ms = rtt, between
        self.traffic.roads_changed()
        self.after(self.pace.measured_ms, lambda: self._measured(rtt, between))

    def _measured(self, rtt: Floats, between: Floats) -> None:
        self._known_rtt = (rtt, between)
        self.decide(None)

    def drain(self, sites: list[int], *, on: bool) -> None:
        (self._draining.update if on else self._draining.difference_update)(sites)

    def touch(self, sites: list[int]) -> None:
        self._touched.update(sites)

    def _next_hour(self) -> None:
        self._apply_hour()
        self.after(self.story.demand_step_ms, self._next_hour)

    def _apply_hour(self) -> None:
        factor = np.ones_like(self.traffic.factor)
        if self._hourly is not None:
            factor *= self._hourly(self.now_ms)[None, :]
        nearest = np.argmin(self.problem.rtt_ms, axis=1)
        for event in self._surges.values():
            metros = np.flatnonzero(np.isin(nearest, self.places(event.places)))
            apps = np.array(self.apps(event.apps or ("*",)), dtype=np.int64)
            factor[apps[:, None], metros] *= event.times
        self.traffic.factor = factor
        self.traffic.touch()

    # What is known at the end.

    def _point(self) -> Point:
        sums = self.traffic.now
        capacity = sum((plane.capacity() for at, plane in enumerate(self.planes) if self.traffic.living[at]), start=_nothing())
        reserved = sum((plane.reserved() for at, plane in enumerate(self.planes) if self.traffic.living[at]), start=_nothing())
        able = float((self.traffic.instances * self.traffic.rates[:, None]).sum())
        return Point(
            at_ms=self.now_ms,
            offered_rps=round(sums.offered, 3),
            refused_rps=round(max(0.0, sums.refused), 3),
            latency=sums.histogram.latency(),
            instances=int(self.traffic.instances.sum()),
            serving_load=round(float(sums.site_rps.sum()) / able, 4) if able else 0.0,
            reserved_cpu=round(reserved.cpu_millicores / max(1, capacity.cpu_millicores), 4),
            reserved_memory=round(reserved.memory_mib / max(1, capacity.memory_mib), 4),
            moves=self._moves,
        )

    def _result(self) -> Run:
        events = sorted(self.story.events, key=lambda event: event.at_ms)
        ends = [*(event.at_ms for event in events[1:]), self.story.duration_ms]
        recoveries = [
            recovery(event.title(), event.at_ms, max(end, event.at_ms + 1), self._points)
            for event, end in zip(events, ends, strict=False)  # no event: nothing to end
        ]
        return Run(
            method=self.method.name,
            duration_ms=self.story.duration_ms,
            sums=self._sums,
            points=self._points,
            recoveries=recoveries,
            gaps=self._gaps,
            moves=self._moves,
            repacked=sum(plane.moved for plane in self.planes),
            decisions=self._decisions,
            refused_by_sites=sum(sum(plane.missing.values()) for plane in self.planes),
            regions=self.traffic.regions,
            homes=self.traffic.homes,
        )


def _nothing() -> Resources:
    return Resources()


def _version(problem: Problem, at: int) -> Version:
    app = problem.apps[at]
    version = make_version(app=app.app)
    return changed(version, limits=changed(version.limits, reserve=app.reserve))
