"""What a run is judged by: served latency by region and over time, what was refused, what moved."""

from dataclasses import dataclass, field

import numpy as np

from skerry.core.types.problem import Floats
from skerry.kit.record import Record

BIN_MS = 1.0
BINS = 2_000  # later ones count in the last
PERCENTILES = (50.0, 95.0, 99.0)


class Latency(Record):
    """Of served requests, weighted by demand."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Point(Record):
    """The world from `at_ms` on, until the next point. Shares are of 1."""

    at_ms: int
    offered_rps: float
    refused_rps: float
    latency: Latency
    instances: int
    serving_load: float  # served rps over what all instances can serve
    reserved_cpu: float  # of what all living nodes have
    reserved_memory: float
    moves: int  # so far: instances that placement started or stopped


@dataclass
class Histogram:
    """rps by region and latency; `add` with a negative rps takes away again."""

    regions: int
    rps: Floats = field(init=False)
    weighted: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.rps = np.zeros((self.regions, BINS))
        self.weighted = np.zeros(self.regions)

    def add(self, region: np.ndarray, latency_ms: Floats, rps: Floats) -> None:
        bins = np.minimum(latency_ms / BIN_MS, BINS - 1).astype(np.int64)
        np.add.at(self.rps, (region, bins), rps)
        np.add.at(self.weighted, region, rps * latency_ms)

    def copy(self) -> "Histogram":
        other = Histogram(self.regions)
        other.rps, other.weighted = self.rps.copy(), self.weighted.copy()
        return other

    def grow(self, other: "Histogram", times: float) -> None:
        self.rps += other.rps * times
        self.weighted += other.weighted * times

    def latency(self, region: int | None = None) -> Latency:
        rows = self.rps.sum(axis=0) if region is None else self.rps[region]
        weighted = float(self.weighted.sum() if region is None else self.weighted[region])
        rows = np.maximum(rows, 0.0)
        total = float(rows.sum())
        if total <= 0.0:
            return Latency(mean_ms=0.0, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)
        edges = np.cumsum(rows)
        p50, p95, p99 = (float(np.searchsorted(edges, total * p / 100.0) + 0.5) * BIN_MS for p in PERCENTILES)
        return Latency(mean_ms=round(weighted / total, 3), p50_ms=p50, p95_ms=p95, p99_ms=p99)


class Recovery(Record):
    """How an event was borne. `refused_share_max` while it lasted; `recover_ms`: until no more was refused than before it;
    None: never, while it was watched. `mean_before_ms` and `mean_after_ms` are of served latency."""

    event: str
    at_ms: int
    refused_share_max: float
    recover_ms: int | None
    mean_before_ms: float
    mean_after_ms: float


REFUSED_MORE = 0.001  # share of requests; so much more than before an event is not recovered


def recovery(title: str, at_ms: int, until_ms: int, points: list[Point]) -> Recovery:
    """`points` cover the run in order; the event is watched from `at_ms` to `until_ms`."""
    before = [point for point in points if point.at_ms < at_ms][-1:] or points[:1]
    after = [point for point in points if at_ms <= point.at_ms < until_ms]
    last = [point for point in points if point.at_ms < until_ms][-1:] or before  # points are where something changed
    limit = _refused(before[0]) + REFUSED_MORE if before else REFUSED_MORE
    worst = max((_refused(point) for point in after), default=0.0)
    bad = [at for at, point in enumerate(after) if _refused(point) > limit]
    recover: int | None = 0
    if bad:
        recover = after[bad[-1] + 1].at_ms - at_ms if bad[-1] + 1 < len(after) else None
    return Recovery(
        event=title,
        at_ms=at_ms,
        refused_share_max=round(worst, 6),
        recover_ms=recover,
        mean_before_ms=before[0].latency.mean_ms if before else 0.0,
        mean_after_ms=last[0].latency.mean_ms if last else 0.0,
    )


def _refused(point: Point) -> float:
    return point.refused_rps / point.offered_rps if point.offered_rps > 0 else 0.0
