"""Whether a `Scale` makes sense: what contradicts what, in sentences for its author."""

import re

from skerry.core.policy.places import names_site, place_rejection
from skerry.core.types.app import Scale
from skerry.core.types.place import Site

MIN_PER_SITE_MAX = 1000  # instances of one version in one city; more is a typing error
MAX_TOTAL_MAX = 100_000
NAMES_MAX = 1000  # entries of allow, deny, features and pin each
REGIONS = ("weur", "eeur", "enam", "wnam", "sam", "afr", "apac", "me", "oc")

_SITE = re.compile(r"[a-z0-9]{2,16}")
_COUNTRY = re.compile(r"country:[A-Z]{2}")
_FEATURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")


def scale_faults(scale: Scale, sites: tuple[Site, ...] = ()) -> tuple[str, ...]:
    """Everything wrong with it; empty: valid. With `sites`, also names that no site answers to and empty choices."""
    return (*_number_faults(scale), *_name_faults(scale), *_contradictions(scale), *_unknown(scale, sites))


def _number_faults(scale: Scale) -> list[str]:
    faults: list[str] = []
    if not 0 <= scale.min_per_site <= MIN_PER_SITE_MAX:
        faults.append(f"min_per_site is {scale.min_per_site}; it must be 0 to {MIN_PER_SITE_MAX}")
    if scale.max_total is not None and not 0 <= scale.max_total <= MAX_TOTAL_MAX:
        faults.append(f"max_total is {scale.max_total}; it must be 0 to {MAX_TOTAL_MAX}")
    if scale.max_total is not None and 0 < scale.max_total < scale.min_per_site:
        faults.append(f"max_total ({scale.max_total}) is below min_per_site ({scale.min_per_site})")
    return faults


def _name_faults(scale: Scale) -> list[str]:
    faults: list[str] = []
    for field, names in (("allow", scale.allow), ("deny", scale.deny), ("features", scale.features), ("pin", scale.pin)):
        if len(names) > NAMES_MAX:
            faults.append(f"{field} has {len(names)} entries; at most {NAMES_MAX}")
        repeated = sorted({name for name in names if names.count(name) > 1}) if len(names) <= NAMES_MAX else []
        faults += [f"{field} names {name!r} twice" for name in repeated]
    faults += [
        f"{name!r} in {field} is no site id, country:XX or region:name" for field, name in _places(scale) if not _is_place(name)
    ]
    faults += [f"{name!r} in pin is no site id" for name in scale.pin if not _SITE.fullmatch(name)]
    faults += [f"{name!r} in features is no feature name" for name in scale.features if not _FEATURE.fullmatch(name)]
    return faults


def _places(scale: Scale) -> list[tuple[str, str]]:
    return [("allow", name) for name in scale.allow] + [("deny", name) for name in scale.deny]


def _is_place(name: str) -> bool:
    if name.startswith("region:"):
        return name.removeprefix("region:") in REGIONS
    return bool(_SITE.fullmatch(name) or _COUNTRY.fullmatch(name))


def _contradictions(scale: Scale) -> list[str]:
    denied = set(scale.deny)
    faults = [f"{name!r} is both allowed and denied" for name in scale.allow if name in denied]
    faults += [f"pin names {name!r}, which is denied" for name in scale.pin if name in denied]
    only_sites = bool(scale.allow) and not any(":" in name for name in scale.allow)
    faults += [f"pin names {name!r}, which is not allowed" for name in scale.pin if only_sites and name not in scale.allow]
    if scale.max_total is not None and len(scale.pin) * max(1, scale.min_per_site) > scale.max_total:
        faults.append(f"{len(scale.pin)} pinned sites need more than max_total ({scale.max_total}) instances")
    return faults


def _unknown(scale: Scale, sites: tuple[Site, ...]) -> list[str]:
    if not sites:
        return []
    faults = [
        f"{name!r} in {field} names no site" for field, name in _places(scale) if not any(names_site(name, s) for s in sites)
    ]
    known = {site.id: site for site in sites}
    faults += [f"pin names {name!r}, which is no site" for name in scale.pin if name not in known]
    for name in scale.pin:
        rejection = place_rejection(known[name], scale) if name in known else None
        if rejection is not None and name not in scale.deny:
            faults.append(f"pin names {name!r}, which is excluded ({rejection.detail})")
    if all(place_rejection(site, scale) for site in sites):
        faults.append("allow and deny together leave no site")
    return faults
