"""Under whose law a site is: `eu` follows from its country, everything else is the word of its operator.

The names are those of Cloudflare's jurisdictions where they mean the same: `eu` (member states of the European Union) and
`fedramp` (data centers that are authorised so, which no country tells). Operators may vouch for names of their own.
"""

import re

from skerry.core.types.place import Site

EU = "eu"
FEDRAMP = "fedramp"
EU_COUNTRIES = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()  # noqa: SIM905 - reads as the list it is
)
"""The 27 member states. Territories with a code of their own (Réunion RE, Curaçao CW) are not counted; an operator may vouch."""

JURISDICTION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def of_country(country: str) -> tuple[str, ...]:
    """Those that follow from an ISO 3166 alpha-2 code alone."""
    return (EU,) if country in EU_COUNTRIES else ()


def jurisdictions_of(site: Site) -> tuple[str, ...]:
    """By name: what follows from the country, and what the operator vouches for."""
    return tuple(sorted({*of_country(site.country), *site.jurisdictions}))


def in_jurisdiction(site: Site, jurisdiction: str | None) -> bool:
    """None asks for none: every site is in it."""
    return jurisdiction is None or jurisdiction in site.jurisdictions or jurisdiction in of_country(site.country)
