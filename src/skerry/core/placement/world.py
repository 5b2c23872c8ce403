"""The snapshot that a placement is decided on."""

from skerry.core.types.place import Node, Site
from skerry.core.types.resources import Resources
from skerry.core.types.slices import Refused
from skerry.kit.record import Record


class SiteView(Record):
    """One site as control knows it. States of the site and its nodes already tell lost and draining.

    `others`: what the reservations of all OTHER apps hold in the site's ledger.
    `opening`: a part of it came back a short while ago, and is filled step by step; what is not open yet is in `others`.
    `refused`: what the site says it could not pack of THIS app; leave it empty when nothing is refused now.
    """

    site: Site
    nodes: tuple[Node, ...]
    others: Resources
    refused: tuple[Refused, ...] = ()
    opening: bool = False


class World(Record):
    """All sites; their order does not matter."""

    sites: tuple[SiteView, ...]
