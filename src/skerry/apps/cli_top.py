"""`skerry top`: what instances use now, and what holds them back."""

from typing import TYPE_CHECKING, Annotated

import typer

from skerry.apps.cli_base import AccountOption, DataDirOption, JsonOption, chosen_account, connect, print_json

if TYPE_CHECKING:
    from skerry.apps.client import Client
    from skerry.core.types.view import InstanceView


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: skerry top hello\n\nEvery app, once: skerry top --once")(top)


def top(
    name: Annotated[
        str | None, typer.Argument(metavar="[APP]", help="The app; without it, every app.", show_default=False)
    ] = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Print it and end, instead of showing it until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.5, max=60, help="How often it is asked.")] = 2.0,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Show what each instance uses now of CPU and memory, what it may, and why it may not more. With --json: once."""
    import sys

    from skerry.apps.using import look, show_live
    from skerry.apps.using import print_usages as print_table

    with connect(data_dir) as client:
        if not (once or json or not sys.stdout.isatty()):
            return show_live(lambda: look(client.target, _instances(client, name, account)), every_s=every)
        found = look(client.target, _instances(client, name, account))
    if json:
        return print_json({"instances": found})
    return print_table(found)


def _instances(client: "Client", name: str | None, account: str | None) -> "tuple[InstanceView, ...]":
    if name is not None:
        return client.instances(chosen_account(client, client.whoami(), account).account, name)
    seen = client.status().instances
    if account is None:
        return seen
    chosen = chosen_account(client, client.whoami(), account).account
    return tuple(item for item in seen if item.account == chosen)
