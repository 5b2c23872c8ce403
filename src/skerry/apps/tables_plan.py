"""What a change would mean, for people."""

from rich.text import Text

from skerry.apps.tables import console
from skerry.core.types.plan import REASON_TEXT
from skerry.core.types.view import AppDifference, PlanDifference, RegionWay

SAME_MS = 0.5  # nobody notices less
APPS_SHOWN_MAX = 50
BY = {"demand": ", by its users' demand", "users": ", by internet users", "cities": ""}


def print_difference(found: PlanDifference, *, rebalance: bool = False) -> None:
    out = console()
    for remark in found.remarks:
        out.print(Text(remark, style="yellow"))
    if not found.apps:
        why = "no move pays now" if rebalance else "each as it is"
        out.print(f"Nothing would change: {found.looked_at} app(s) were decided again, {why}.")
    for app in found.apps[:APPS_SHOWN_MAX]:
        out.print(_app(app))
    if len(found.apps) > APPS_SHOWN_MAX:
        out.print(f"… and {len(found.apps) - APPS_SHOWN_MAX} more apps; `--json` has them all")
    if found.left_out:
        out.print(Text(f"{found.left_out} apps were not looked at: too many for one answer", style="yellow"))
    if found.apps:
        started, ended = sum(app.started for app in found.apps), sum(app.ended for app in found.apps)
        out.print(f"In all: {len(found.apps)} app(s) change, {started} instance(s) start, {ended} end. Nothing was changed.")


def _app(app: AppDifference) -> Text:
    before, after = app.reserved_before, app.reserved_after
    text = Text(app.app, style="bold")
    text.append(f"  {app.instances_before} → {app.instances_after} instance(s)", style="")
    text.append(f", {before.cpu_millicores} → {after.cpu_millicores} millicores", style="")
    text.append(f", {before.memory_mib} → {after.memory_mib} MiB reserved", style="")
    text.append(f", {app.cost_before:.3g} → {app.cost_after:.3g} nodes' worth", style="")
    text.append(f"\n  {app.started} start, {app.ended} end", style="")
    for sign, style, sites in (("+", "green", app.gained), ("-", "red", app.lost)):
        for site in sites:
            text.append(f"\n  {sign} {site}", style=style)
    for way in app.ways:
        if _differs(way):
            said = f"{way.region}: {_ms(way.before_ms)} → {_ms(way.after_ms)} from its {way.cities} city(ies)"
            text.append(f"\n  {said}{BY[app.weighed_by]}", style="")
    for rejection in app.rejections:
        detail = f" ({rejection.detail})" if rejection.detail else ""
        text.append(f"\n  {rejection.place}: {REASON_TEXT[rejection.reason]}{detail}", style="dim")
    return text


def _differs(way: RegionWay) -> bool:
    if way.before_ms is None or way.after_ms is None:
        return way.before_ms != way.after_ms
    return abs(way.before_ms - way.after_ms) >= SAME_MS


def _ms(value: float | None) -> str:
    return "nowhere" if value is None else f"{value:.0f} ms"
