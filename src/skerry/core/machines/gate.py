"""Whether a new version is worse than the old one in the same cities: sequential tests that may be looked at all the time.

    errors    requests that failed are Bernoulli trials. Null: in each city at most the old version's rate and a margin.
              A mixture of likelihood ratios over greater rates (Robbins 1970; Johari, Koomen, Pekelis and Walsh,
              "Always valid inference", 2022) is a supermartingale as long as that holds, so by Ville's inequality it ever
              reaches 1/alpha with probability alpha at most, however often somebody looks.
    latency   means are compared by the same authors' normal mixture, one-sided, over small and great changes alike; exact for
              many requests only, so it says nothing below `latency_requests_min`.
    enough    Wald's other boundary (SPRT, 1945): evidence of 1/beta that the rate is not `bad_factor` times what is allowed,
              and that the mean latency is not `bad_latency_factor` times what is allowed.

What the old version did is known from a sample as well: its rate is taken at the upper end of Wilson's interval, and as bad
as it is now in cities that still run it, so that trouble that strikes both versions blames neither.
"""

from collections.abc import Iterable
from math import erf, exp, inf, log, log1p, sqrt

from skerry.core.types.gate import GateNumbers, VersionFacts
from skerry.core.types.ids import SiteId
from skerry.kit.record import Record

ODDS = (1.5, 2.0, 4.0, 8.0, 16.0, 64.0)
"""The worse worlds that are mixed, as factors on the odds of an error: from hardly to wholly broken."""

CHANGES = (0.25, 1.0, 4.0, 16.0, 64.0)
"""The slower worlds that are mixed, as parts of the mean latency that is allowed: one scale alone is blind to the others."""

LOG_MAX = 600.0  # of an evidence, so that it stays a number


class GateSettings(Record):
    """`alpha`: how often, at most, a version as good as the old one is taken back; `beta`: a bad one is waved on early."""

    alpha: float = 0.01
    beta: float = 0.05
    error_margin: float = 0.002  # of requests: so much worse than the old version is still well
    latency_factor: float = 1.25  # the mean may grow so far
    latency_margin_ms: float = 5.0  # and by so much besides: what a machine's pauses make of a few requests blames nobody
    bad_factor: float = 4.0
    bad_latency_factor: float = 2.0
    base_requests_min: int = 200  # with fewer of its own, a city is judged by what the old version did everywhere
    latency_requests_min: int = 100
    base_z: float = 2.326  # one-sided 99 %
    variation: float = 2.0  # standard deviation of a latency over its mean, where squares are not counted


class CityFacts(Record):
    """One city: the old version before the release, and the new one since."""

    site: SiteId
    old: VersionFacts
    new: VersionFacts


def judge(cities: Iterable[CityFacts], elsewhere: VersionFacts, settings: GateSettings) -> GateNumbers:
    """The verdict over all released cities. `elsewhere`: the old version since then, in cities that still run it.

    Equal facts in any order give equal numbers. Without requests of the new version there is nothing to say: "silent".
    """
    facts = sorted((city for city in cities if city.new.requests > 0), key=lambda city: city.site)
    new, old = total(city.new for city in facts), total(city.old for city in facts)
    limits = [(city, _allowed(city.old, old, elsewhere, settings)) for city in facts]
    errors, latency = _error_evidence(limits), _latency_evidence(facts, settings)
    enough = min(_good_evidence(limits, settings), _fast_evidence(facts, settings))
    bound = log(2 / settings.alpha)  # each of both tests gets half
    said: list[str] = []
    if errors >= bound:
        said.append(f"{_percent(new.errors, new.requests)} of {new.requests} requests failed, before {_of(old)}")
    if latency >= bound:
        said.append(f"answers take {_mean(new):.0f} ms in the mean, before {_mean(old):.0f} ms")
    return GateNumbers(
        verdict="worse" if said else "good" if enough >= log(1 / settings.beta) else "open" if facts else "silent",
        requests=new.requests,
        errors=new.errors,
        old_requests=old.requests,
        old_errors=old.errors,
        latency_ms_mean=round(_mean(new), 3),
        old_latency_ms_mean=round(_mean(old), 3),
        error_evidence=round(errors, 4),
        latency_evidence=round(latency, 4),
        evidence_needed=round(bound, 4),
        detail="; ".join(said),
    )


def total(facts: Iterable[VersionFacts]) -> VersionFacts:
    """The sum."""
    requests = errors = 0
    latency = square = 0.0
    for item in facts:
        requests, errors = requests + item.requests, errors + item.errors
        latency, square = latency + item.latency_ms_sum, square + item.latency_ms2_sum
    return VersionFacts(requests=requests, errors=errors, latency_ms_sum=latency, latency_ms2_sum=square)


def since(now: VersionFacts, mark: VersionFacts) -> VersionFacts:
    """What was counted after `mark`. A counter that went back was begun anew."""
    if now.requests < mark.requests or now.errors < mark.errors:
        return now
    return VersionFacts(
        requests=now.requests - mark.requests,
        errors=now.errors - mark.errors,
        latency_ms_sum=max(0.0, now.latency_ms_sum - mark.latency_ms_sum),
        latency_ms2_sum=max(0.0, now.latency_ms2_sum - mark.latency_ms2_sum),
    )


def upper_rate(facts: VersionFacts, z: float) -> float:
    """The upper end of Wilson's score interval (1927) for the error rate; 1 for nothing counted."""
    n = facts.requests
    if n == 0:
        return 1.0
    rate, z2 = facts.errors / n, z * z
    return min(1.0, (rate + z2 / (2 * n) + z * sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n))


def _allowed(own: VersionFacts, pooled: VersionFacts, elsewhere: VersionFacts, settings: GateSettings) -> float:
    """The error rate that nobody is blamed for in a city; 1: not known, so anything."""
    base = own if own.requests >= settings.base_requests_min else total((pooled, elsewhere))
    now = upper_rate(elsewhere, settings.base_z) if elsewhere.requests >= settings.base_requests_min else 0.0
    return min(1.0, max(upper_rate(base, settings.base_z), now) + settings.error_margin)


def _error_evidence(limits: list[tuple[CityFacts, float]]) -> float:
    """Logarithm of the mixture of likelihood ratios against "no city is above its limit"."""
    logs: list[float] = []
    for odds in ODDS:
        found = 0.0
        for city, limit in limits:
            if limit < 1:
                worse = limit * odds / (1 - limit + limit * odds)
                failed, well = city.new.errors, city.new.requests - city.new.errors
                found += failed * log(worse / limit) + well * (log1p(-worse) - log1p(-limit))
        logs.append(found)
    return _log_mean(logs)


def _good_evidence(limits: list[tuple[CityFacts, float]], settings: GateSettings) -> float:
    """Logarithm of the likelihood ratio of "at the limit" over "so much above it"."""
    found = 0.0
    for city, limit in limits:
        if limit < 1:
            bad = min(0.5 + limit / 2, limit * settings.bad_factor)
            failed, well = city.new.errors, city.new.requests - city.new.errors
            found += failed * log(limit / bad) + well * (log1p(-limit) - log1p(-bad))
    return found


def _latency_evidence(facts: list[CityFacts], settings: GateSettings) -> float:
    """Logarithm of the one-sided normal mixture for "the mean is above what is allowed", over the cities that can say."""
    known = _comparable(facts, settings)
    if not known:
        return 0.0
    mean, allowed, spread = _means(known, settings)
    gain = mean - allowed
    if spread <= 0:
        return LOG_MAX if gain > 0 else -LOG_MAX
    return _log_mean([_normal_mixture(gain, spread, part * allowed) for part in CHANGES])


def _fast_evidence(facts: list[CityFacts], settings: GateSettings) -> float:
    """Logarithm of the likelihood ratio of "as slow as is allowed" over "so much slower". Nothing to compare with: all of it."""
    if not any(city.old.requests >= settings.latency_requests_min for city in facts):
        return LOG_MAX
    known = _comparable(facts, settings)
    if not known:
        return 0.0
    mean, allowed, spread = _means(known, settings)
    bad = allowed * settings.bad_latency_factor
    far = (mean - bad) ** 2 - (mean - allowed) ** 2
    return LOG_MAX if spread <= 0 and far > 0 else max(-LOG_MAX, min(LOG_MAX, far / (2 * max(spread, 1e-9))))


def _comparable(facts: list[CityFacts], settings: GateSettings) -> list[CityFacts]:
    """Cities with enough requests to both versions."""
    return [city for city in facts if min(city.new.requests, city.old.requests) >= settings.latency_requests_min]


def _means(known: list[CityFacts], settings: GateSettings) -> tuple[float, float, float]:
    """By the new version's requests: its mean latency, the allowed one, and the variance of their difference."""
    weight = sum(city.new.requests for city in known)
    mean = allowed = spread = 0.0
    for city in known:
        part, factor = city.new.requests / weight, settings.latency_factor
        mean += part * _mean(city.new)
        allowed += part * (factor * _mean(city.old) + settings.latency_margin_ms)
        spread += part**2 * (_error_of_mean(city.new, settings) + factor**2 * _error_of_mean(city.old, settings))
    return mean, allowed, spread


def _normal_mixture(gain: float, spread: float, change: float) -> float:
    """Logarithm of the likelihood ratio over means above 0, mixed with half a normal of the deviation `change`."""
    tau2 = change**2
    exponent = tau2 * gain * gain / (2 * spread * (spread + tau2))
    side = 1 + erf(change * gain / sqrt(2 * spread * (spread + tau2)))
    if side <= 0:
        return -LOG_MAX
    return max(-LOG_MAX, min(LOG_MAX, 0.5 * log(spread / (spread + tau2)) + exponent + log(side)))


def _error_of_mean(facts: VersionFacts, settings: GateSettings) -> float:
    """The variance of the mean latency."""
    mean = _mean(facts)
    variance = facts.latency_ms2_sum / facts.requests - mean * mean if facts.latency_ms2_sum else (settings.variation * mean) ** 2
    return max(0.0, variance) / facts.requests


def _log_mean(logs: list[float]) -> float:
    top = max(logs, default=-inf)
    if top <= -LOG_MAX:
        return -LOG_MAX
    return max(-LOG_MAX, min(LOG_MAX, top + log(sum(exp(value - top) for value in logs) / len(logs))))


def _mean(facts: VersionFacts) -> float:
    return facts.latency_ms_sum / facts.requests if facts.requests else 0.0


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "none"


def _of(facts: VersionFacts) -> str:
    return f"{_percent(facts.errors, facts.requests)} of {facts.requests}" if facts.requests else "nothing is known"
