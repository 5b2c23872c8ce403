"""The parts of the live view, as rich renderables."""

from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from skerry.apps.supervisor.layout import Layout
from skerry.apps.supervisor.planes import PlaneState
from skerry.apps.supervisor.words import env_line, urls_of
from skerry.core.types.view import AppView, NodeView, Status

STYLES = {
    "up": "green",
    "done": "green",
    "running": "cyan",
    "pending": "yellow",
    "paused": "yellow",
    "draining": "yellow",
    "blocked": "yellow",
    "down": "bold red",
    "cut_off": "red",
    "rolled_back": "red",
}
APPS_SHOWN = 12
SYMBOLS = {"up": "●", "draining": "◐", "down": "○", "cut_off": "◌"}


def header(layout: Layout, states: tuple[PlaneState, ...], seconds: float | None) -> RenderableType:
    up = sum(state.ready for state in states)
    text = Text.assemble(("Skerry", "bold"), f"  {len(layout.sites)} cities, {len(layout.nodes)} nodes  ")
    if seconds is None:
        return text + Text(f"starting: {up} of {len(states) or '…'} processes serve", style="yellow")
    if up < len(states):
        return text + Text(f"{up} of {len(states)} processes serve", style="yellow")
    return text + Text(f"ready after {seconds:.1f} s", style="green")


def ending(states: tuple[PlaneState, ...]) -> RenderableType:
    left = sum(state.pid is not None for state in states)
    return Text.assemble(("Skerry", "bold"), f"  ending: {left} processes still run" if left else "  ended")


def starting(states: tuple[PlaneState, ...]) -> RenderableType:
    parts = [(f"{state.name} ", "green" if state.ready else "dim") for state in states]
    return Text.assemble(*parts)


def cities(layout: Layout, status: Status) -> RenderableType:
    """One line per city: its nodes as dots, what runs there, how full it is."""
    table = Table("city", "", "state", "address", "nodes", "instances", "reserved", box=SIMPLE_HEAD, pad_edge=False)
    for site in status.sites:
        nodes = [node for node in status.nodes if node.site == site.site]
        held = Counter(item.state for item in status.instances if item.site == site.site)
        running = ", ".join(f"{count} {state}" for state, count in sorted(held.items())) or "none"
        table.add_row(
            Text(site.site, style="bold"),
            site.city,
            Text(site.state, style=STYLES.get(site.state, "")),
            site.address,
            _dots(nodes),
            running,
            _reserved(nodes),
        )
    return table


def apps(layout: Layout, status: Status) -> RenderableType:
    if not status.apps:
        return Text("No app yet: deploy one with `skerry wrangler deploy` in a Worker project.\n", style="dim")
    table = Table("app", "rollout", "serving", "URL", box=SIMPLE_HEAD, pad_edge=False)
    for app in status.apps[:APPS_SHOWN]:
        rollout = Text(app.rollout.state, style=STYLES.get(app.rollout.state, ""))
        table.add_row(f"{app.account_name}/{app.app}", rollout, f"{app.serving}/{app.instances}", app.url)
        for code, how in _in_cities(layout, app):
            serves = code in app.sites
            table.add_row("", "", Text(code, style="green" if serves else "dim"), Text(how, style="dim"))
    if len(status.apps) > APPS_SHOWN:
        table.add_row(f"and {len(status.apps) - APPS_SHOWN} more", "", "", "skerry apps")
    return table


def footer(layout: Layout) -> RenderableType:
    return Text.assemble(
        ("API  ", "bold"), layout.api_url, "    ", ("data  ", "bold"), str(layout.data), "    Ctrl-C ends it\n",
        ("Point wrangler at it:  ", "bold"), (env_line(layout), "cyan"),
    )  # fmt: skip


def _in_cities(layout: Layout, app: AppView) -> list[tuple[str, str]]:
    """Each city's own way in, for the few apps and cities that a screen has room for."""
    return urls_of(layout, app) if len(layout.sites) <= 6 else []


def _dots(nodes: list[NodeView]) -> Text:
    return Text.assemble(*[(SYMBOLS.get(node.state, "?"), STYLES.get(node.state, "")) for node in nodes])


def _reserved(nodes: list[NodeView]) -> str:
    has = sum(node.capacity.memory_mib for node in nodes)
    held = sum(node.reserved.memory_mib for node in nodes)
    return f"{held} of {has} MiB" if has else ""
