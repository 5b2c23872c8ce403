"""Sentences of a plan's report: what was asked, by whom, and what requests call."""

from skerry.core.placement.world import World
from skerry.core.types.app import App, Scale, Version

SITES_SHOWN = 3  # in a sentence


def asked_sentence(app: App, wanted: tuple[Version, ...]) -> str:
    if not wanted:
        return f"{app.name} runs nowhere: {_why_nothing(app)}."
    scale = app.scale
    numbers = ", ".join(str(version.number) for version in wanted)
    first = f"{scale.min_per_site} instance(s) of version {numbers} in every site that policy allows"
    asked = [first if scale.min_per_site else f"version {numbers} where demand is"]
    asked += [f"at least {scale.min_total} in all"] if scale.min_total else []
    asked += [f"at least {entry.count} in {entry.region}" for entry in sorted(scale.region_min, key=lambda entry: entry.region)]
    asked += [f"in more than {scale.survive_sites} sites"] if scale.survive_sites else []
    asked += [] if scale.max_per_site is None else [f"at most {scale.max_per_site} in a site"]
    asked += [] if scale.max_total is None else [f"at most {scale.max_total} in all"]
    return f"Asked: {', '.join(asked)}."


def demand_sentence(world: World) -> str:
    """How much users ask, and who says so."""
    asked = {site: rps for site, rps in (world.demand or {}).items() if rps > 0.0}
    if not asked:
        rps = f"{world.settings.prior_rps:g} rps"
        return f"Demand: nobody has asked yet; {rps} in all are assumed, from where internet users are."
    most = sorted(asked, key=lambda site: (-asked[site], site))[:SITES_SHOWN]
    shown = ", ".join(f"{site} {asked[site]:.3g}" for site in most)
    more = f" and {len(asked) - len(most)} more" if len(asked) > len(most) else ""
    return f"Demand: {sum(asked.values()):.3g} rps, measured by the city whose users ask: {shown}{more}."


def calls_sentence(world: World, scale: Scale) -> str:
    """What each request calls, and where that counts as being."""
    called = [
        f"{entry.per_request:g} to {entry.data} "
        + (f"(as in {world.homes[entry.data]})" if entry.data in world.homes else "(nobody knows where that is)")
        for entry in scale.calls[:SITES_SHOWN]
    ]
    more = f" and {len(scale.calls) - len(called)} more" if len(scale.calls) > len(called) else ""
    return f"Called for each request: {', '.join(called)}{more}."


def _why_nothing(app: App) -> str:
    if not app.enabled:
        return "it is disabled or deleted"
    return "it has no deployment" if app.deployment is None else "no version of it has traffic"
