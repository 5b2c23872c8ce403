"""Where an app may run: allow and deny lists, jurisdictions."""

from collections.abc import Iterable

from skerry.core.policy.jurisdiction import in_jurisdiction, jurisdictions_of
from skerry.core.types.app import Scale
from skerry.core.types.place import Site
from skerry.core.types.plan import Reason, Rejection


def names_site(name: str, site: Site) -> bool:
    """Whether an entry of an allow or deny list (a site id, `country:GB` or `region:weur`) means this site."""
    kind, colon, value = name.partition(":")
    if not colon:
        return name == site.id
    return (kind == "country" and value == site.country) or (kind == "region" and value == site.region)


def place_rejection(site: Site, scale: Scale) -> Rejection | None:
    """Deny wins over allow; an empty allow list allows every site; a jurisdiction excludes what is not in it."""
    denied_by = [name for name in scale.deny if names_site(name, site)]
    if denied_by:
        return Rejection(place=site.id, reason=Reason.DENIED, detail=f"deny: {', '.join(denied_by)}")
    if scale.allow and not any(names_site(name, site) for name in scale.allow):
        return Rejection(place=site.id, reason=Reason.NOT_ALLOWED, detail=f"allow: {', '.join(scale.allow)}")
    if not in_jurisdiction(site, scale.jurisdiction):
        offered = ", ".join(jurisdictions_of(site)) or "none"
        return Rejection(
            place=site.id, reason=Reason.JURISDICTION, detail=f"needs {scale.jurisdiction}; the site is in: {offered}"
        )
    return None


def allowed_sites(sites: Iterable[Site], scale: Scale) -> tuple[Site, ...]:
    """Those that lists and jurisdiction leave, in id order."""
    return tuple(sorted((site for site in sites if place_rejection(site, scale) is None), key=lambda site: site.id))
