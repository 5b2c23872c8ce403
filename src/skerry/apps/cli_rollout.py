"""`skerry rollout`: how far a new version is, and holding it, going on, going back."""

from enum import StrEnum
from typing import Annotated

import typer

from skerry.apps.cli_base import AccountOption, DataDirOption, JsonOption, chosen_account, connect, print_json


class Word(StrEnum):
    """pause: hold it where it is. resume: go on. abort: back to the version before."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog="Example: skerry rollout hello\n\nHold it, and go back: skerry rollout hello pause; skerry rollout hello abort"
    )(rollout)


def rollout(
    name: Annotated[str | None, typer.Argument(metavar="APP", help="The app; without it, how far each app is.")] = None,
    word: Annotated[
        Word | None,
        typer.Argument(metavar="pause|resume|abort", help="Hold it where it is, go on, or go back to the version before."),
    ] = None,
    *,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Show how far a new version is, wave by wave, with what its health gate has counted; or change its course."""
    if name is None:
        return _all(data_dir, json=json)
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account)
        found = client.change_rollout(chosen.account, name, word) if word else client.rollout(chosen.account, name)
    if json:
        return print_json(found)
    from skerry.apps.tables_rollout import print_rollout

    return print_rollout(found)


def _all(data_dir: DataDirOption, *, json: bool) -> None:
    with connect(data_dir) as client:
        apps = client.apps()
    if json:
        return print_json({"rollouts": [{"account": a.account, "app": a.app, "rollout": a.rollout} for a in apps]})
    from skerry.apps.tables_rollout import print_rollouts

    return print_rollouts(apps)
