"""What the state of a site or node lets happen there."""

from skerry.core.types.place import Node, Site
from skerry.core.types.plan import Reason, Rejection


def site_state_rejection(site: Site, *, runs_there: bool) -> Rejection | None:
    """A site that is down or draining takes nothing. One that is cut off keeps what it has and takes nothing new."""
    if site.state == "down":
        return Rejection(place=site.id, reason=Reason.SITE_DOWN)
    if site.state == "draining":
        return Rejection(place=site.id, reason=Reason.SITE_DRAINING)
    if site.state == "cut_off" and not runs_there:
        return Rejection(place=site.id, reason=Reason.SITE_CUT_OFF)
    return None


def node_state_rejection(node: Node) -> Rejection | None:
    """Only a node that is up takes instances."""
    if node.state == "up":
        return None
    if node.state == "draining":
        return Rejection(place=node.id, reason=Reason.NODE_DRAINING)
    return Rejection(place=node.id, reason=Reason.NODE_DOWN, detail="what it runs serves on" if node.state == "cut_off" else "")
