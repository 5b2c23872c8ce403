"""What a run found: numbers of the platform's method and of the baselines in the same world, and whether they are as expected."""

import math
from hashlib import blake2b
from typing import NamedTuple

from skerry.apps.sim.scenario import Expectation, Scenario
from skerry.core.types.problem import Problem
from skerry.kit.record import Record, encode
from skerry.testing.world.flows.engine import Run
from skerry.testing.world.flows.measure import Latency, Point, Recovery
from skerry.testing.world.flows.releases import Outcome

POINTS_MAX = 2_000  # in a report
REFUSED_FAIR = 0.005  # share of requests; a baseline that refuses so much more is no rival in latency


class Played(NamedTuple):
    """What one method left behind."""

    run: Run
    outcomes: list[Outcome]


class RegionReport(Record):
    region: str
    served_rps: float
    latency: Latency


class MethodReport(Record):
    """One method over the whole run. Means are over time; shares are of 1."""

    method: str
    latency: Latency
    refused_share: float
    offered_rps: float
    moves: int
    repacked: int
    decisions: int
    refused_by_sites: int
    utilisation_cpu: float
    utilisation_memory: float
    serving_load: float
    gap: float | None
    regions: tuple[RegionReport, ...]
    recoveries: tuple[Recovery, ...]
    outcomes: tuple[Outcome, ...]
    points: tuple[Point, ...]


class PlaceReport(Record):
    """A metro over the whole run, for the map."""

    metro: str
    lat: float
    lon: float
    offered_rps: float
    mean_ms: float
    refused_share: float


class Verdict(Record):
    """`value` None: it could not be measured (no such event, no baseline in this run)."""

    what: str
    value: float | None
    met: bool | None
    wanted: str


class SimReport(Record):
    """Everything. `assumptions` are what the model takes for granted beyond the platform's own code."""

    scenario: str
    about: str
    sites: int
    nodes: int
    apps: int
    duration_s: float
    speed: str
    seed: int
    methods: tuple[MethodReport, ...]
    ratios: dict[str, dict[str, float]]
    places: tuple[PlaceReport, ...]
    verdicts: tuple[Verdict, ...]
    assumptions: tuple[str, ...]
    digest: str  # of all that happened: equal for equal runs

    @property
    def failed(self) -> bool:
        return any(verdict.met is False for verdict in self.verdicts)


def make_report(scenario: Scenario, problem: Problem, runs: list[Played]) -> SimReport:
    """`runs`: the platform's first."""
    methods = tuple(_method(run) for run in runs)
    return SimReport(
        scenario=scenario.name,
        about=scenario.about,
        sites=len(problem.sites),
        nodes=sum(site.nodes for site in problem.sites),
        apps=len(problem.apps),
        duration_s=scenario.story.duration_ms / 1000,
        speed="flows",
        seed=scenario.story.seed,
        methods=methods,
        ratios={other.method: _ratios(methods[0], other) for other in methods[1:]},
        places=_places(problem, runs[0].run),
        verdicts=tuple(_verdict(item, methods) for item in scenario.expect),
        assumptions=_assumptions(scenario),
        digest=blake2b(encode(methods), digest_size=8).hexdigest(),
    )


def _method(played: Played) -> MethodReport:
    run = played.run
    sums, length = run.sums, float(run.duration_ms)
    weights = _durations(run.points, run.duration_ms)
    whole = max(1.0, sum(weights))

    def mean(name: str) -> float:
        return round(sum(getattr(p, name) * w for p, w in zip(run.points, weights, strict=True)) / whole, 4)

    by_region = sums.histogram.rps.sum(axis=1)
    return MethodReport(
        method=run.method,
        latency=sums.histogram.latency(),
        refused_share=round(max(0.0, sums.refused) / sums.offered, 6) if sums.offered else 0.0,
        offered_rps=round(sums.offered / length, 3),
        moves=run.moves,
        repacked=run.repacked,
        decisions=run.decisions,
        refused_by_sites=run.refused_by_sites,
        utilisation_cpu=mean("reserved_cpu"),
        utilisation_memory=mean("reserved_memory"),
        serving_load=mean("serving_load"),
        gap=round(max(run.gaps), 6) if run.gaps else None,
        regions=tuple(
            RegionReport(region=name, served_rps=round(float(by_region[at]) / length, 3), latency=sums.histogram.latency(at))
            for at, name in enumerate(run.regions)
        ),
        recoveries=tuple(run.recoveries),
        outcomes=tuple(played.outcomes),
        points=tuple(run.points[:: max(1, math.ceil(len(run.points) / POINTS_MAX))]),
    )


def _durations(points: list[Point], end_ms: int) -> list[float]:
    ends = [*(point.at_ms for point in points[1:]), end_ms]
    return [float(end - point.at_ms) for point, end in zip(points, ends, strict=True)]


def _ratios(own: MethodReport, other: MethodReport) -> dict[str, float]:
    """The platform's number over the baseline's, where that is not 0."""
    pairs = {
        "mean_ms": (own.latency.mean_ms, other.latency.mean_ms),
        "p95_ms": (own.latency.p95_ms, other.latency.p95_ms),
        "p99_ms": (own.latency.p99_ms, other.latency.p99_ms),
        "refused_share": (own.refused_share, other.refused_share),
        "moves": (float(own.moves), float(other.moves)),
    }
    return {name: round(mine / theirs, 4) for name, (mine, theirs) in pairs.items() if theirs}


def _places(problem: Problem, run: Run) -> tuple[PlaceReport, ...]:
    sums, length = run.sums, float(run.duration_ms)
    places: list[PlaceReport] = []
    for at, metro in enumerate(problem.metros):
        served, lost = float(sums.metro_rps[at]), max(0.0, float(sums.metro_refused[at]))
        offered = served + lost
        places.append(
            PlaceReport(
                metro=metro.id,
                lat=metro.lat,
                lon=metro.lon,
                offered_rps=round(offered / length, 3),
                mean_ms=round(float(sums.metro_weighted[at]) / served, 2) if served > 0 else 0.0,
                refused_share=round(lost / offered, 6) if offered > 0 else 0.0,
            )
        )
    return tuple(places)


def value_of(what: str, method: MethodReport) -> float | None:
    """A measure by the name that scenarios use; None: there is none in this run."""
    recoveries = [item.recover_ms for item in method.recoveries]
    outcomes = method.outcomes
    found: dict[str, float | None] = {
        "refused_share": method.refused_share,
        "mean_ms": method.latency.mean_ms,
        "p50_ms": method.latency.p50_ms,
        "p95_ms": method.latency.p95_ms,
        "p99_ms": method.latency.p99_ms,
        "moves": float(method.moves),
        "gap": method.gap,
        "recover_s": max((math.inf if ms is None else ms / 1000 for ms in recoveries), default=None),
        "refused_share_max": max((item.refused_share_max for item in method.recoveries), default=None),
        "rolled_back": float(sum(item.state == "rolled_back" for item in outcomes)),
        "released": float(sum(item.state == "done" for item in outcomes)),
        "demand_reached": max((item.demand_reached for item in outcomes if item.state == "rolled_back"), default=None),
    }
    return found[what]


def _verdict(item: Expectation, methods: tuple[MethodReport, ...]) -> Verdict:
    value = value_of(item.what, methods[0])
    if item.against:
        value = _against(item, value, methods)
    wanted = " and ".join(
        part
        for part in (
            f"at most {item.at_most:g}" if item.at_most is not None else "",
            f"at least {item.at_least:g}" if item.at_least is not None else "",
        )
        if part
    )
    wanted += f" (give or take {item.tolerance:.0%})" if item.tolerance else ""
    what = f"{item.what} over {item.against} baseline's" if item.against else item.what
    if value is None:
        return Verdict(what=what, value=None, met=None if item.against or item.what == "gap" else False, wanted=wanted)
    most = math.inf if item.at_most is None else item.at_most + abs(item.at_most) * item.tolerance
    least = -math.inf if item.at_least is None else item.at_least - abs(item.at_least) * item.tolerance
    shown = None if math.isinf(value) else round(value, 6)
    return Verdict(what=what, value=shown, met=least <= value <= most, wanted=wanted)


def _against(item: Expectation, value: float | None, methods: tuple[MethodReport, ...]) -> float | None:
    """The ratio. "best" is the least among the baselines that refuse about as little (who serves fewer users serves the near
    ones), or among all where none does."""
    own, others = methods[0], methods[1:]
    named = [other for other in others if item.against in ("best", other.method)]
    if item.against == "best" and item.what != "refused_share":
        fair = [other for other in named if other.refused_share <= own.refused_share + REFUSED_FAIR]
        named = fair or named
    known = [number for number in (value_of(item.what, other) for other in named) if number]
    return value / min(known) if value is not None and known else None


def _assumptions(scenario: Scenario) -> tuple[str, ...]:
    pace = scenario.story.pace
    return (
        "site controllers and agents are planes of a few lines: the real packer, heartbeats, start times; no processes",
        "control decides by the platform's own functions and commits to no store",
        "users arrive at the living city of least round trip; "
        + (
            "an ingress whose instances are full sends on to the next city (HAProxy as it is configured today queues instead)"
            if pace.spill
            else "an ingress whose instances are full refuses"
        ),
        f"an instance serves its declared rate and starts in {pace.start_ms} ms; a lost city's users arrive elsewhere after "
        f"{pace.anycast_ms} ms",
        "latency is the round trip of the request and of its calls to data; what code computes is not in it",
    )
