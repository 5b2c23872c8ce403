"""`skerry maintenance`: something done on every node, without anybody noticing."""

import re
from typing import Annotated

import typer

from skerry.apps.cli_base import DataDirOption, JsonOption, connect, print_json

PERCENT = re.compile(r"([0-9]{1,3})\s*%?")


def add_to(app: typer.Typer) -> None:
    text = "Reboot or mend every node, a few at a time, without downtime."
    group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
    group.command(epilog="Example: skerry maintenance start --what reboot --max-unavailable 10% --region weur")(start)
    group.command(epilog="Example: watch skerry maintenance status")(status)
    for word in (pause, resume, abort):
        group.command(epilog=f"Example: skerry maintenance {word.__name__}")(word)
    app.add_typer(group, name="maintenance")


def start(
    *,
    what: Annotated[
        str, typer.Option("--what", metavar="TASK", help="reboot, or a name that `skerry up --hook` gave to a program.")
    ] = "reboot",
    max_unavailable: Annotated[
        str,
        typer.Option(metavar="PERCENT", help="Of a city's nodes, and of all, out of service at a time; one may always."),
    ] = "10%",
    cities: Annotated[str, typer.Option(metavar="CODE,…", help="Only these cities.")] = "",
    region: Annotated[str, typer.Option(metavar="REGION,…", help="Only cities of these regions (weur, apac, …).")] = "",
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Begin: each node is drained, has the task done, is waited for, and is taken back; one city goes first, alone."""
    found = PERCENT.fullmatch(max_unavailable.strip())
    if found is None:
        raise typer.BadParameter("a number of percent, as 10%", param_hint="--max-unavailable")
    with connect(data_dir) as client:
        view = client.start_maintenance(what, int(found.group(1)), _names(cities), _names(region))
    if json:
        return print_json(view)
    cities_said = "1 city" if len(view.sites) == 1 else f"{len(view.sites)} cities"
    return print(
        f"{view.task} of {len(view.nodes)} node(s) in {cities_said} begins with {view.canary}. "
        "`skerry maintenance status` shows how far it is; pause, resume and abort change its course."
    )


def status(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show how far it is, what each node is at, and what it waits for."""
    with connect(data_dir) as client:
        view = client.maintenance()
    if json:
        return print_json(view)
    from skerry.apps.tables_maintenance import print_maintenance

    return print_maintenance(view)


def pause(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Begin no further node; those under way are finished."""
    _say("pause", data_dir, json=json)


def resume(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Go on; nodes that failed are tried again."""
    _say("resume", data_dir, json=json)


def abort(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """End it; nodes whose task has begun are finished, all others are given back."""
    _say("abort", data_dir, json=json)


def _say(word: str, data_dir: DataDirOption, *, json: bool) -> None:
    with connect(data_dir) as client:
        view = client.change_maintenance(word)
    return print_json(view) if json else print(f"{view.task} is {view.state}: {view.done} of {len(view.nodes)} nodes are done")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))
