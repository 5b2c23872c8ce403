"""`skerry settings` for people."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.text import Text

from skerry.apps.tables import console, make_table
from skerry.core.types.view_placing import SettingsView

MEANING = {
    "latency": "per request/s and ms of its way",
    "late": "per request/s and ms above an app's latency objective",
    "unserved": "per request/s that nobody serves",
    "cost": "per node that instances fill",
    "move": "per instance that starts or ends",
    "home": "per GiB of data that changes its home",
    "prior_rps": "assumed of an app that nobody has asked yet, requests/s in all",
    "keep_share": "of what a new instance must save, what one that runs must",
    "price_from": "of a city's room: above, room there gets a price",
    "rebalance_every_s": "seconds between background passes; 0: never",
    "rebalance_moves_max": "instances that a pass may start",
    "rebalance_gain_min": "what each of them must save above a move",
    "rebalance_apps_max": "apps that a pass looks at",
}


def print_settings(found: SettingsView, *, changed: Sequence[str] = ()) -> None:
    table = make_table("setting", "value", "", "meaning")
    for field, value in found.settings.items():
        style = "" if field in found.set_fields else "dim"
        note = "changed" if field in changed else "" if field in found.set_fields else "default"
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        table.add_row(Text(field, style=style), Text(shown, style=style), Text(note, style=style), MEANING.get(field, ""))
    out = console()
    out.print(table)
    if found.prices:
        out.print(f"Room has a price in: {', '.join(sorted(found.prices))}")
    if found.measured_rtts:
        out.print(f"{found.measured_rtts} round trip(s) between cities are measured; all others are modelled.")
    if found.rebalanced_ms is not None:
        at = datetime.fromtimestamp(found.rebalanced_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        out.print(
            f"Last background pass: {at}, {found.rebalanced_apps} app(s) moved, {found.rebalanced_starts} instance(s) started."
        )
