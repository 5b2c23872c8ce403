"""The fields of a `Scale`, each for itself: numbers within named limits, names that can mean something."""

import re
from collections.abc import Iterator
from math import isfinite

from skerry.core.policy.jurisdiction import JURISDICTION
from skerry.core.types.app import Limits, Scale
from skerry.core.types.outside import outside_fault

PER_SITE_MAX = 1000  # instances of one version in one city; more is a typing error
TOTAL_MAX = 100_000
NAMES_MAX = 1000  # entries of allow, deny, features and pin each
CALLS_MAX = 64  # databases, buckets and object classes that one app calls
CALLS_PER_REQUEST_MAX = 1000.0
LATENCY_OBJECTIVE_MS_MAX = 60_000.0
SURVIVE_SITES_MAX = 50
PRIORITY_MAX = 100
RPS_PER_INSTANCE_MAX = 1_000_000.0
REGIONS = ("weur", "eeur", "enam", "wnam", "sam", "afr", "apac", "me", "oc")
LIMITS = Limits()
"""The platform's own: what a deployer asks for one instance lies between its reserve and its maximum."""

SITE = re.compile(r"[a-z0-9]{2,16}")
_COUNTRY = re.compile(r"country:[A-Z]{2}")
_FEATURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_DATA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")
_SHOWN_CHARS_MAX = 64  # of a name that is quoted in a message


def field_faults(scale: Scale) -> Iterator[str]:
    """What is wrong with single fields, in sentences."""
    yield from _counts(scale)
    yield from _amounts(scale)
    yield from _lists(scale)
    yield from _regions(scale)
    yield from _calls(scale)
    yield from _resources(scale)


def places(scale: Scale) -> list[tuple[str, str]]:
    """(field, name) of allow and deny."""
    return [("allow", name) for name in scale.allow] + [("deny", name) for name in scale.deny]


def quoted(name: str) -> str:
    """A name in a message: never longer than a line."""
    return repr(name if len(name) <= _SHOWN_CHARS_MAX else name[:_SHOWN_CHARS_MAX] + "…")


def _counts(scale: Scale) -> Iterator[str]:
    for field, value, least, most in (
        ("min_per_site", scale.min_per_site, 0, PER_SITE_MAX),
        ("max_per_site", scale.max_per_site, 1, PER_SITE_MAX),
        ("min_total", scale.min_total, 0, TOTAL_MAX),
        ("max_total", scale.max_total, 0, TOTAL_MAX),
        ("survive_sites", scale.survive_sites, 0, SURVIVE_SITES_MAX),
        ("priority", scale.priority, 0, PRIORITY_MAX),
    ):
        if value is not None and not least <= value <= most:
            yield f"{field} is {value}; it must be {least} to {most}"


def _amounts(scale: Scale) -> Iterator[str]:
    for field, value, most in (
        ("latency_objective_ms", scale.latency_objective_ms, LATENCY_OBJECTIVE_MS_MAX),
        ("rps_per_instance", scale.rps_per_instance, RPS_PER_INSTANCE_MAX),
    ):
        if value is not None and not (isfinite(value) and 0 < value <= most):
            yield f"{field} is {value}; it must be a number above 0 and up to {most:g}"


def _lists(scale: Scale) -> Iterator[str]:
    for field, names in (("allow", scale.allow), ("deny", scale.deny), ("features", scale.features), ("pin", scale.pin)):
        yield from _list(field, names, NAMES_MAX)
    for field, name in places(scale):
        if not _is_place(name):
            yield f"{quoted(name)} in {field} is no site id, country:XX or region:name"
    yield from (f"{quoted(name)} in pin is no site id" for name in scale.pin if not SITE.fullmatch(name))
    yield from (f"{quoted(name)} in features is no feature name" for name in scale.features if not _FEATURE.fullmatch(name))
    if scale.jurisdiction is not None and not JURISDICTION.fullmatch(scale.jurisdiction):
        yield f"{quoted(scale.jurisdiction)} is no name of a jurisdiction (eu, fedramp, or one that sites are tagged with)"


def _list(field: str, names: tuple[str, ...], most: int) -> Iterator[str]:
    if len(names) > most:
        yield f"{field} has {len(names)} entries; at most {most}"
        return
    for name in sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else ():
        yield f"{field} names {quoted(name)} twice"


def _is_place(name: str) -> bool:
    if name.startswith("region:"):
        return name.removeprefix("region:") in REGIONS
    return bool(SITE.fullmatch(name) or _COUNTRY.fullmatch(name))


def _regions(scale: Scale) -> Iterator[str]:
    yield from _list("region_min", tuple(entry.region for entry in scale.region_min), len(REGIONS))
    for entry in scale.region_min:
        if entry.region not in REGIONS:
            yield f"{quoted(entry.region)} in region_min is no region; the regions are {', '.join(REGIONS)}"
        if not 1 <= entry.count <= TOTAL_MAX:
            yield f"region_min of {entry.region[:_SHOWN_CHARS_MAX]} is {entry.count}; it must be 1 to {TOTAL_MAX}"


def _calls(scale: Scale) -> Iterator[str]:
    yield from _list("calls", tuple(entry.data for entry in scale.calls), CALLS_MAX)
    for entry in scale.calls:
        if not _DATA.fullmatch(entry.data):
            yield f"{quoted(entry.data)} in calls is no name of a database, bucket, object class or place"
        elif fault := outside_fault(entry.data):
            yield f"calls: {fault}"
        if not (isfinite(entry.per_request) and 0 < entry.per_request <= CALLS_PER_REQUEST_MAX):
            yield (
                f"calls of {quoted(entry.data)} is {entry.per_request}; "
                f"it must be a number above 0 and up to {CALLS_PER_REQUEST_MAX:g}"
            )


def _resources(scale: Scale) -> Iterator[str]:
    asked = scale.resources
    if asked is None:
        return
    for field, value, least, most in (
        ("cpu_millicores", asked.cpu_millicores, LIMITS.reserve.cpu_millicores, LIMITS.cpu_millicores_max),
        ("memory_mib", asked.memory_mib, LIMITS.reserve.memory_mib, LIMITS.memory_mib_max),
    ):
        if value is not None and not least <= value <= most:
            yield f"resources.{field} is {value}; it must be {least} to {most}"
