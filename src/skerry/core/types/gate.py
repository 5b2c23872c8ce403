"""What a rollout's health gate counts and concludes."""

from typing import Literal

from skerry.core.types.ids import SiteId
from skerry.kit.record import Record


class VersionFacts(Record):
    """Requests that ingress led to one version in one city, counted since its site's counters began; they only grow.

    `errors`: answered with 5xx by the app, or not at all. `latency_ms2_sum`: of the squares; 0 where nobody adds them up.
    """

    requests: int = 0
    errors: int = 0
    latency_ms_sum: float = 0.0
    latency_ms2_sum: float = 0.0


class CityMark(Record):
    """The counters of a city when a release began: what is there of the old version, and of the new."""

    site: SiteId
    old: VersionFacts
    new: VersionFacts


Verdict = Literal["silent", "open", "good", "worse"]
"""silent: no request yet. open: neither is shown. good: shown not to be much worse. worse: shown to be worse."""


class GateNumbers(Record, omit_defaults=False):
    """Of the new version since its release, against the old one in the same cities. Evidences are natural logarithms."""

    verdict: Verdict = "silent"
    requests: int = 0
    errors: int = 0
    old_requests: int = 0
    old_errors: int = 0
    latency_ms_mean: float = 0.0
    old_latency_ms_mean: float = 0.0
    error_evidence: float = 0.0
    latency_evidence: float = 0.0
    evidence_needed: float = 0.0
    detail: str = ""
