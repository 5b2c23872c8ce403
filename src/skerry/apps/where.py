"""`skerry apps --where`: each app with the cities it runs in, and how."""

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from skerry.apps.tables import ID_CHARS_SHOWN, console, make_table
from skerry.core.types.ids import AppName, SiteId
from skerry.core.types.slices import SERVING_STATES
from skerry.core.types.strain import StrainOf
from skerry.core.types.view import InstanceView, Status, View


class AppCity(View):
    """`states`: instances by state. `strains`: limits that some of them have come to."""

    site: SiteId
    city: str
    instances: int
    serving: int
    states: dict[str, int]
    strains: tuple[StrainOf, ...] = ()


class AppCities(View):
    account: str
    app: AppName
    cities: tuple[AppCity, ...]


def where_of(status: Status) -> tuple[AppCities, ...]:
    """Of every app, also those that run nowhere; by account and name, cities by id."""
    names = {site.site: site.city for site in status.sites}
    found: dict[tuple[str, AppName], dict[SiteId, list[InstanceView]]] = {(app.account_name, app.app): {} for app in status.apps}
    for item in status.instances:
        found.setdefault((item.account_name, item.app), {}).setdefault(item.site, []).append(item)
    return tuple(
        AppCities(account=account, app=app, cities=tuple(_city(site, names, held) for site, held in sorted(sites.items())))
        for (account, app), sites in sorted(found.items())
    )


def _city(site: SiteId, names: dict[SiteId, str], held: Sequence[InstanceView]) -> AppCity:
    states = Counter(item.state for item in held)
    serving = sum(count for state, count in states.items() if state in SERVING_STATES)
    return AppCity(
        site=site,
        city=names.get(site, site),
        instances=len(held),
        serving=serving,
        states=dict(sorted(states.items())),
        strains=tuple(
            StrainOf(instance=item.instance, node=item.node, strain=strain) for item in held for strain in item.strains
        ),
    )


def print_where(apps: Sequence[AppCities]) -> None:
    shown = make_table("app", "site", "city", "serving", "instances")
    for app in apps:
        name = f"{app.account}/{app.app}"
        if not app.cities:
            shown.add_row(name, "", Text("nowhere", style="yellow"), "0", "")
        for city in app.cities:
            states = ", ".join(f"{count} {state}" for state, count in city.states.items())
            shown.add_row(name, city.site, city.city, str(city.serving), states)
            name = ""
    console().print(shown)
    for found in (found for app in apps for city in app.cities for found in city.strains):
        console().print(f"{found.instance[:ID_CHARS_SHOWN]} on {found.node}: {found.strain.text}", markup=False)
