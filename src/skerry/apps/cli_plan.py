"""`skerry plan`: what a change would make of the apps, before it is made."""

from pathlib import Path
from typing import Annotated, Any

import typer

from skerry.apps.cli_base import AccountOption, DataDirOption, JsonOption, chosen_account, connect, print_json

FILE_BYTES_MAX = 64 << 10


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog='Example: skerry plan -f change.toml\n\nIn it: [sites.lhr] state = "draining", or '
        '[apps.hello.scale] deny = ["country:SG"]\n\nWhat a background pass would move now: skerry plan --rebalance'
    )(plan)


def plan(
    change: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="CHANGE", help="The change, as TOML or JSON.", show_default=False)
    ] = None,
    rebalance: Annotated[
        bool, typer.Option("--rebalance", help="No change: what a background pass would move now. For operators.")
    ] = False,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Show which cities apps would gain and lose, what would move and what users would notice. Nothing is changed."""
    if (change is None) != rebalance:
        raise typer.BadParameter("give a change with --file, or --rebalance; one of both")
    wanted: dict[str, Any] = read_change(change) if change is not None else {"rebalance": True}
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account).account
        found = client.plan(chosen, wanted)
    if json:
        return print_json(found)
    from skerry.apps.tables_plan import print_difference

    return print_difference(found, rebalance=rebalance)


def read_change(path: Path) -> dict[str, Any]:
    """As an object; its fields are the API's matter. Raises `ClientError` with file and line."""
    import tomllib

    import msgspec

    from skerry.apps.client import ClientError

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror or error}", hint="`skerry plan --help` shows what goes into it") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ClientError(f"{path}: more than {FILE_BYTES_MAX:,} bytes")
    try:
        if path.suffix == ".json":
            return msgspec.json.decode(raw, type=dict[str, Any])
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise ClientError(f"{path}: {error}", hint="a file that ends in .json is JSON, any other is TOML") from None
