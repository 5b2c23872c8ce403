"""Fleet maintenance for people."""

from rich.text import Text

from skerry.apps.tables import console, make_table
from skerry.core.types.view import MaintenanceNodeView, MaintenanceSiteView, MaintenanceView

STYLES = {"running": "cyan", "paused": "yellow", "stopped": "bold red", "aborting": "yellow", "aborted": "red", "done": "green"}
BAR_CHARS = 30
SITES_SHOWN = 24
MARKS = {"done": "●", "waiting": "·", "skipped": "×", "failed": "✗"}


def print_maintenance(view: MaintenanceView) -> None:
    out = console()
    if view.id is None:
        return out.print(view.detail)
    out.print(
        Text.assemble(
            (f"{view.task}: ", "bold"),
            (view.state, STYLES.get(view.state, "")),
            f"  {_bar(view)} {view.done} of {len(view.nodes)} nodes",
            f"  {_time(view)}",
        )
    )
    out.print(
        f"at most {view.max_unavailable_percent}% of a city and of all at a time; {view.canary} first; begun by {view.author}",
        style="dim",
    )
    if view.detail:
        lead = "waiting: " if view.state == "running" else ""
        out.print(Text(f"{lead}{view.detail}", style="bold red" if view.state == "stopped" else "yellow"))
    _print_nodes(view)
    _print_sites(view)
    if view.state == "stopped":
        out.print("`skerry maintenance resume` tries again what failed; `skerry maintenance abort` gives it back as it is.")
    return None


def _print_nodes(view: MaintenanceView) -> None:
    """Those that something is done to, and those that something is wrong with."""
    shown = [node for node in view.nodes if node.phase not in ("waiting", "done") and (node.phase != "skipped" or node.detail)]
    if not shown:
        return
    rows = make_table("node", "phase", "for", "instances", "detail")
    for node in shown[:SITES_SHOWN]:
        rows.add_row(node.node, node.phase, _spoken(view.now_ms - node.since_ms), str(node.instances), node.detail)
    console().print(rows)


def _print_sites(view: MaintenanceView) -> None:
    rows = make_table("city", "nodes", "")
    shown = sorted(view.sites, key=lambda site: (not site.out_of_service, site.done == site.nodes, site.site))
    for site in shown[:SITES_SHOWN]:
        rows.add_row(site.site, f"{site.done}/{site.nodes}", _dots(view, site))
    console().print(rows)
    if len(shown) > SITES_SHOWN:
        done = sum(site.done == site.nodes for site in view.sites)
        console().print(f"and {len(shown) - SITES_SHOWN} further cities; {done} of {len(view.sites)} are done", style="dim")


def _dots(view: MaintenanceView, site: MaintenanceSiteView) -> str:
    return "".join(_mark(node) for node in view.nodes if node.site == site.site)


def _mark(node: MaintenanceNodeView) -> str:
    return MARKS.get(node.phase, "◐")


def _bar(view: MaintenanceView) -> str:
    full = BAR_CHARS * view.done // max(1, len(view.nodes))
    return "█" * full + "░" * (BAR_CHARS - full)


def _time(view: MaintenanceView) -> str:
    if view.left_ms is not None:
        return f"since {_spoken(view.now_ms - view.created_ms)}, about {_spoken(view.left_ms)} more"
    if view.state in ("done", "aborted"):
        return f"in {_spoken(view.changed_ms - view.created_ms)}"
    return f"since {_spoken(view.now_ms - view.created_ms)}"


def _spoken(ms: int) -> str:
    seconds = max(0, ms) // 1000
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
