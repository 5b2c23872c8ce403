"""One app's demand in one city, from what its ingress counted. Time is a value.

    sample ─► surge? the sample itself : moving mean ─► smoothed
           └► three rises in a row ─► slope ─► where it will be when instances are ready
           └► mean of the hour ─► hour of the day ─► forecast

A sample above the smoothed demand by more than chance explains (a Poisson process of that rate) is no noise but a change:
it is believed at once. One that is below is believed slowly. A step has one rise, at most two where a sample cuts
it; so three in a row are growth, and only then the slope counts. Between samples, demand goes on as the last one says: a
site tells only what differs from that.
"""

import itertools
import math

from msgspec.structs import replace

from skerry.core.machines.pattern import HOUR_MS, UNKNOWN, hour_of_day, learned, most_rps, usual_rps
from skerry.core.types.demand import HOURS, SiteDemand
from skerry.core.types.ids import SiteId
from skerry.kit.record import Record

RISES = 3


class DemandSettings(Record):
    """`ready_ms`: from a request to an instance that is there for it; a report, a decision, a start."""

    smooth_ms: int = 10_000  # time constant of the moving mean, of a demand above `smooth_requests` in that time
    smooth_ms_max: int = 120_000
    smooth_requests: int = 300  # fewer than these tell the mean too badly
    surge_sigmas: float = 3.0
    surge_share: float = 0.1  # and at least so much above the mean
    ready_ms: int = 3_000
    slope_ms_max: int = 2_500  # growth that nobody confirms for so long is over
    forecast_ms: int = 300_000  # how far ahead of the day's pattern instances are made ready
    habit_factor: float = 2.0  # today may differ from the pattern by so much; farther off it says nothing
    forecast_rps_min: float = 1.0  # less than this is no habit
    hour_ms_min: int = HOUR_MS // 2  # an hour is learned when so much of it was seen


class Series(Record):
    """What is kept of one app in one city: a few numbers, and its day. `recent`: (ms, rps) of the last samples, newest last."""

    at_ms: int = 0  # of the last sample; 0: none yet
    age_ms: int = 0  # of what the mean is of: all since the first sample, or since the last surge
    recent: tuple[tuple[int, float], ...] = ()
    smoothed_rps: float = 0.0
    day: bytes = UNKNOWN
    hour: int = 0  # counted from 1970, of what follows
    requests: float = 0.0
    seen_ms: int = 0


def observe(series: Series, requests: int, interval_ms: int, *, now_ms: int, settings: DemandSettings) -> Series:
    """After a sample: so many requests in the `interval_ms` (above 0) before `now_ms` (wall clock)."""
    rps = requests * 1000 / interval_ms
    series = gone_on(series, now_ms - interval_ms, settings)
    surge = series.at_ms == 0 or _is_surge(series.smoothed_rps, rps, interval_ms, settings)
    age_ms = interval_ms if surge else series.age_ms + interval_ms
    return replace(
        _learning(series, requests, interval_ms, now_ms, settings),
        at_ms=now_ms,
        recent=(*series.recent, (interval_ms, rps))[-RISES - 1 :],
        age_ms=age_ms,
        smoothed_rps=rps if surge else _mean(series.smoothed_rps, rps, interval_ms, age_ms, settings),
    )


def gone_on(series: Series, now_ms: int, settings: DemandSettings) -> Series:
    """The series at `now_ms`, if demand is what it was last; the same one when there is nothing after its last sample."""
    elapsed_ms = now_ms - series.at_ms
    if series.at_ms == 0 or elapsed_ms <= 0:
        return series
    rps, age_ms = series.recent[-1][1], series.age_ms + elapsed_ms
    return replace(
        series, at_ms=now_ms, age_ms=age_ms, smoothed_rps=_mean(series.smoothed_rps, rps, elapsed_ms, age_ms, settings)
    )


def demand_of(site: SiteId, series: Series, *, now_ms: int, settings: DemandSettings) -> SiteDemand:
    """What to be ready for."""
    rps = series.recent[-1][1] if series.recent else 0.0
    slope = _slope(series.recent) if now_ms - series.at_ms <= settings.slope_ms_max else 0.0
    series = gone_on(series, now_ms, settings)
    growing = rps + slope * settings.ready_ms / 1000 if slope else 0.0
    forecast = forecast_rps(series, now_ms=now_ms, settings=settings)
    expected = max(series.smoothed_rps, growing, forecast or 0.0)
    seen_ms = max(1.0, min(2 * _smooth_ms(series.smoothed_rps, settings), series.age_ms))  # as many as a moving mean is of
    doubt = math.sqrt(series.smoothed_rps * 1000 / seen_ms)
    return SiteDemand(
        site=site,
        rps=rps,
        smoothed_rps=series.smoothed_rps,
        expected_rps=expected,
        most_rps=max(expected, series.smoothed_rps + settings.surge_sigmas * doubt),
        forecast_rps=forecast,
    )


def forecast_rps(series: Series, *, now_ms: int, settings: DemandSettings) -> float | None:
    """The pattern a little ahead, as today compares with it; None where there is no pattern, or today is another day."""
    usual, next_ = usual_rps(series.day, now_ms), usual_rps(series.day, now_ms + settings.forecast_ms)
    if usual is None or next_ is None or series.at_ms == 0:
        return None
    factor = settings.habit_factor
    if usual < settings.forecast_rps_min or not usual / factor <= series.smoothed_rps <= usual * factor:
        return None
    return next_ * series.smoothed_rps / usual


def is_habit(day: bytes, settings: DemandSettings) -> bool:
    """Whether some hour of the day brings enough to be forecast."""
    return most_rps(day) >= settings.forecast_rps_min


def _is_surge(mean: float, rps: float, interval_ms: int, settings: DemandSettings) -> bool:
    noise = math.sqrt(rps * 1000 / interval_ms)
    return rps - settings.surge_sigmas * noise > mean * (1 + settings.surge_share)


def _mean(mean: float, rps: float, interval_ms: int, age_ms: int, settings: DemandSettings) -> float:
    """Of all samples while they are few, then moving."""
    moving = 1 - math.exp(-interval_ms / _smooth_ms(mean, settings))
    return mean + max(moving, interval_ms / age_ms) * (rps - mean)


def _smooth_ms(rps: float, settings: DemandSettings) -> float:
    if rps * settings.smooth_ms_max <= settings.smooth_requests * 1000:
        return settings.smooth_ms_max
    return max(settings.smooth_ms, settings.smooth_requests * 1000 / rps)


def _slope(recent: tuple[tuple[int, float], ...]) -> float:
    """In rps per second: the least of the last rises, less what noise makes of it."""
    if len(recent) <= RISES:
        return 0.0
    rises: list[float] = []
    for (before_ms, before), (after_ms, after) in itertools.pairwise(recent):
        noise = math.sqrt(before * 1000 / before_ms + after * 1000 / after_ms)
        rises.append((after - before - noise) * 2000 / (before_ms + after_ms))
    return max(0.0, min(rises))


def _learning(series: Series, requests: int, interval_ms: int, now_ms: int, settings: DemandSettings) -> Series:
    """Adds to the hour; an hour that is over goes into the day, and so do those that nobody asked for anything in."""
    hour = now_ms // HOUR_MS
    if series.at_ms == 0 or hour < series.hour:
        return replace(series, hour=hour, requests=float(requests), seen_ms=interval_ms)
    if hour == series.hour:
        return replace(series, requests=series.requests + requests, seen_ms=series.seen_ms + interval_ms)
    day = series.day
    if series.seen_ms >= settings.hour_ms_min:
        day = learned(day, hour_of_day(series.hour * HOUR_MS), series.requests * 1000 / series.seen_ms)
    silent_until = (now_ms - interval_ms) // HOUR_MS  # a sample as long as that is of a city that was cut off
    for silent in range(series.hour + 1, min(silent_until, series.hour + HOURS)):
        day = learned(day, hour_of_day(silent * HOUR_MS), 0.0)
    return replace(series, day=day, hour=hour, requests=float(requests), seen_ms=interval_ms)
