"""`skerry demand` for people."""

from collections.abc import Sequence

from skerry.apps.tables import console, make_table
from skerry.core.types.view import CityDemand, DemandView


def print_demands(found: Sequence[DemandView]) -> None:
    if not found:
        console().print("no apps yet: deploy one with `skerry wrangler deploy` in a Worker project")
        return
    rows = make_table("app", "requests/s", "expected", "planned for", "instances")
    for app in sorted(found, key=lambda app: (-app.rps, app.account_name, app.app)):
        rows.add_row(
            f"{app.account_name}/{app.app}", _rps(app.rps), _rps(app.expected_rps), _rps(app.asked_rps), str(app.instances)
        )
    console().print(rows)


def print_demand(found: DemandView) -> None:
    if not found.cities:
        console().print(f"{found.app}: nobody has asked for it, and it runs nowhere")
        return
    rows = make_table("city", "requests/s", "smoothed", "expected", "planned for", "failed", "instances")
    for city in found.cities:
        rates = (city.rps, city.smoothed_rps, city.expected_rps, city.asked_rps)
        rows.add_row(city.site, *map(_rps, rates), _failed(city), _instances(city))
    rows.add_section()
    rows.add_row("all", _rps(found.rps), "", _rps(found.expected_rps), _rps(found.asked_rps), "", str(found.instances))
    console().print(rows)
    console().print("Users count where they come in, wherever they are answered.", style="dim")


def _rps(rps: float) -> str:
    return f"{rps:,.0f}" if rps >= 100 else f"{rps:.3g}"


def _failed(city: CityDemand) -> str:
    return f"{city.errors / city.requests:.2%}" if city.requests else ""


def _instances(city: CityDemand) -> str:
    return ", ".join(f"{count} {state}" for state, count in city.states.items()) or "none"
