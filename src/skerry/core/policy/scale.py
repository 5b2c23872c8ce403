"""Whether a `Scale` makes sense: what contradicts what, in sentences for its author.

Whoever takes a scale from outside refuses it for its faults; warnings are told, and the scale is taken.
"""

from collections.abc import Callable, Iterator, Sequence

from msgspec.structs import replace

from skerry.core.policy.jurisdiction import jurisdictions_of, of_country
from skerry.core.policy.places import allowed_sites, names_site, place_rejection
from skerry.core.policy.scale_fields import LIMITS, field_faults, places, quoted
from skerry.core.types.app import Limits, Scale
from skerry.core.types.place import Site
from skerry.core.types.program import IsolationClass
from skerry.core.types.resources import Resources

GVISOR_WORKER_MIB, GVISOR_WORKER_DISK_MIB = 96, 16  # of a Worker in gVisor, at rest (docs/howto/worker-runtime.md)
SHOWN_MAX = 5  # names in one sentence; the rest is counted

RttMs = Callable[[Site, Site], float]


def scale_faults(scale: Scale, sites: tuple[Site, ...] = (), *, before: Scale | None = None) -> tuple[str, ...]:
    """Everything wrong with it; empty: valid. With `sites`, also names that no site answers to and empty choices.

    `before`: what is in force. A name that it has already is no fault when its site is gone by now (`scale_warnings` tells).
    """
    alone = tuple(dict.fromkeys(field_faults(scale)))
    if alone:  # a sum of wrong numbers says nothing more
        return alone
    found = [*_numbers(scale), *_lists(scale)]
    if sites:
        found += _unknown(scale, sites, before)
        allowed = allowed_sites(sites, scale)
        if not allowed:
            found.append(_no_site(scale, sites))
        elif not found:  # else it would say the same in other words
            found += _unreachable(scale, sites, allowed)
    return tuple(dict.fromkeys(found))


def scale_warnings(scale: Scale, sites: tuple[Site, ...], rtt_ms: RttMs) -> tuple[str, ...]:
    """What will not come as its author may think, of a scale without faults. `rtt_ms`: the round trip between two sites."""
    return (*_without_sites(scale, sites), *_too_far(scale, sites, rtt_ms)) if sites else ()


def instances_min(scale: Scale) -> int:
    """The fewest instances of each version with traffic, over all sites: an app that is on runs somewhere.

    Losing `survive_sites` sites leaves one site more.
    """
    least = max(scale.min_total, sum(entry.count for entry in scale.region_min), scale.survive_sites + 1)
    return least if scale.max_total is None else min(least, scale.max_total)


def instance_limits(scale: Scale) -> Limits:
    """Of a version that is made under this scale: the platform's, with the reserve that the deployer asks for."""
    asked, own = scale.resources, LIMITS.reserve
    if asked is None:
        return LIMITS
    reserve = Resources(
        cpu_millicores=own.cpu_millicores if asked.cpu_millicores is None else asked.cpu_millicores,
        memory_mib=own.memory_mib if asked.memory_mib is None else asked.memory_mib,
        disk_mib=own.disk_mib,
    )
    return Limits(memory_mib_max=LIMITS.memory_mib_max, cpu_millicores_max=LIMITS.cpu_millicores_max, reserve=reserve)


def worker_limits(scale: Scale, isolation: IsolationClass) -> Limits:
    """Of a Worker's version. gVisor's wall and what it keeps in memory are reserved besides, and nothing sleeps in it."""
    limits = instance_limits(scale)
    if isolation == "sandbox":
        return limits
    wall = Resources(memory_mib=GVISOR_WORKER_MIB, disk_mib=GVISOR_WORKER_DISK_MIB)
    return replace(limits, reserve=limits.reserve + wall)


def _numbers(scale: Scale) -> Iterator[str]:
    """Numbers against one another."""
    if scale.max_per_site is not None and scale.max_per_site < scale.min_per_site:
        yield f"max_per_site ({scale.max_per_site}) is below min_per_site ({scale.min_per_site})"
    if scale.max_total is None:
        return
    if 0 < scale.max_total < scale.min_per_site:
        yield f"max_total ({scale.max_total}) is below min_per_site ({scale.min_per_site})"
    if scale.max_total < scale.min_total:
        yield f"max_total ({scale.max_total}) is below min_total ({scale.min_total})"
    regional = sum(entry.count for entry in scale.region_min)
    if scale.max_total < regional:
        yield f"region_min asks for {regional} instances together, more than max_total ({scale.max_total})"
    if scale.survive_sites and scale.max_total <= scale.survive_sites:
        yield (
            f"survive_sites ({scale.survive_sites}) needs instances in {scale.survive_sites + 1} sites, "
            f"more than max_total ({scale.max_total})"
        )
    if len(scale.pin) * max(1, scale.min_per_site) > scale.max_total:
        yield f"{len(scale.pin)} pinned sites need more than max_total ({scale.max_total}) instances"


def _lists(scale: Scale) -> Iterator[str]:
    """Names against one another, without a look at the sites there are."""
    denied = set(scale.deny)
    yield from (f"{quoted(name)} is both allowed and denied" for name in scale.allow if name in denied)
    yield from (f"pin names {quoted(name)}, which is denied" for name in scale.pin if name in denied)
    kinds = {name.partition(":")[0] if ":" in name else "site" for name in scale.allow}
    if kinds == {"site"}:
        yield from (f"pin names {quoted(name)}, which is not allowed" for name in scale.pin if name not in scale.allow)
        left = [name for name in scale.allow if name not in denied]
        if left and len(left) <= scale.survive_sites:
            yield _too_few_sites(scale, len(left))
    for entry in scale.region_min:
        if f"region:{entry.region}" in denied:
            yield f"region_min asks for {entry.count} in {entry.region}, which deny excludes (region:{entry.region})"
        elif kinds == {"region"} and f"region:{entry.region}" not in scale.allow:
            yield f"region_min asks for {entry.count} in {entry.region}, which allow does not name"
    if kinds == {"country"} and scale.jurisdiction is not None:
        countries = [name.removeprefix("country:") for name in scale.allow]
        if scale.jurisdiction == "eu" and not any(of_country(country) for country in countries):
            yield f"jurisdiction {scale.jurisdiction} excludes every country of allow ({_some(scale.allow)})"


def _unknown(scale: Scale, sites: tuple[Site, ...], before: Scale | None) -> Iterator[str]:
    """Names of sites that are not there. A country or a region may get its first site tomorrow."""
    known = {site.id for site in sites}
    held = {*before.allow, *before.deny, *before.pin} if before else set[str]()
    for field, name in places(scale):
        if ":" not in name and name not in known and name not in held:
            yield f"{quoted(name)} in {field} names no site"
    yield from (f"pin names {quoted(name)}, which is no site" for name in scale.pin if name not in known and name not in held)


def _unreachable(scale: Scale, sites: tuple[Site, ...], allowed: tuple[Site, ...]) -> Iterator[str]:
    """What the sites that are there cannot give, however much room they have."""
    for site in sites:
        rejection = place_rejection(site, scale)
        if site.id in scale.pin and rejection is not None:
            yield f"pin names {quoted(site.id)}, which is excluded ({rejection.detail})"
    if len(allowed) <= scale.survive_sites:
        yield _too_few_sites(scale, len(allowed))
    for entry in scale.region_min:
        within = sum(site.region == entry.region for site in allowed)
        if not within:
            yield f"region_min asks for {entry.count} in {entry.region}, where allow, deny and jurisdiction leave no site"
        elif scale.max_per_site is not None and within * scale.max_per_site < entry.count:
            yield (
                f"region_min asks for {entry.count} in {entry.region}, but max_per_site ({scale.max_per_site}) "
                f"allows {within * scale.max_per_site} in its {within} site(s)"
            )
    if scale.max_per_site is not None and len(allowed) * scale.max_per_site < scale.min_total:
        most = len(allowed) * scale.max_per_site
        yield (
            f"min_total ({scale.min_total}) is more than max_per_site ({scale.max_per_site}) "
            f"allows in {len(allowed)} site(s): {most}"
        )


def _no_site(scale: Scale, sites: tuple[Site, ...]) -> str:
    if scale.jurisdiction is None:
        return "allow and deny together leave no site"
    inside = [site.id for site in sites if scale.jurisdiction in jurisdictions_of(site)]
    if not inside:
        offered = sorted({name for site in sites for name in jurisdictions_of(site)})
        return f"no site is in jurisdiction {scale.jurisdiction}; the sites are in: {', '.join(offered) or 'none'}"
    return f"jurisdiction {scale.jurisdiction} ({_some(inside)}) and the sites that allow and deny leave have none in common"


def _too_few_sites(scale: Scale, allowed: int) -> str:
    needed = f"survive_sites ({scale.survive_sites}) needs {scale.survive_sites + 1} sites"
    return f"{needed}, but allow, deny and jurisdiction leave {allowed}"


def _without_sites(scale: Scale, sites: tuple[Site, ...]) -> Iterator[str]:
    for field, name in [*places(scale), *(("pin", name) for name in scale.pin)]:
        if not any(names_site(name, site) for site in sites):
            yield f"{quoted(name)} in {field} names no site now"


def _too_far(scale: Scale, sites: tuple[Site, ...], rtt_ms: RttMs) -> Iterator[str]:
    """Users come in at the site next to them: an objective that no allowed site meets from there stays a wish."""
    objective, allowed = scale.latency_objective_ms, allowed_sites(sites, scale)
    if objective is None or not allowed:
        return
    inside = {site.id for site in allowed}
    others = sorted((site for site in sites if site.id not in inside), key=lambda site: site.id)
    nearest = [(min(rtt_ms(site, other) for other in allowed), site.id) for site in others]
    late = [found for found in nearest if found[0] > objective]
    if late:
        worst = max(late)
        yield (
            f"latency_objective_ms ({objective:g}) cannot be met for users next to {_some([name for _, name in late])}: "
            f"from {worst[1]} the nearest allowed site is {worst[0]:.0f} ms away"
        )


def _some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN_MAX
    return ", ".join(names[:SHOWN_MAX]) + (f" and {rest} more" if rest > 0 else "")
