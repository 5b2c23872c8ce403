"""`skerry demand`: what users ask of apps, and what runs for them."""

from typing import Annotated

import typer

from skerry.apps.cli_base import AccountOption, DataDirOption, JsonOption, chosen_account, connect, print_json


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: skerry demand hello\n\nEvery app: skerry demand")(demand)


def demand(
    name: Annotated[
        str | None, typer.Argument(metavar="[APP]", help="The app; without it, every app.", show_default=False)
    ] = None,
    *,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Show how much users ask of an app, city by city, and what runs for them there."""
    with connect(data_dir) as client:
        if name is None:
            found = client.demands()
            if json:
                return print_json({"demand": found})
            from skerry.apps.tables_demand import print_demands

            return print_demands(found)
        one = client.demand(chosen_account(client, client.whoami(), account).account, name)
    if json:
        return print_json(one)
    from skerry.apps.tables_demand import print_demand

    return print_demand(one)
