"""`skerry settings`: what placement weighs, and how freely what runs may move."""

from typing import Annotated

import typer

from skerry.apps.cli_base import DataDirOption, JsonOption, connect, print_json


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog="Example: skerry settings --set move=50 --set rebalance_moves_max=20\n\nA measured way: --rtt lhr-sin=171"
    )(settings)


def settings(
    *,
    given: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a setting.")] = None,
    reset: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Take the default of a setting back.")] = None,
    rtt: Annotated[
        list[str] | None,
        typer.Option(metavar="A-B=MS", help="A measured round trip between two cities; without a number: as modelled again."),
    ] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show or change what placement weighs: latency, cost, moves, the background pass. Without options it shows."""
    changes: dict[str, float | int | None] = dict.fromkeys(reset or ())
    for word in given or ():
        name, _, number = word.partition("=")
        changes[name] = _number(number, word)
    rtts_ms: dict[str, dict[str, float | None]] = {}
    for word in rtt or ():
        pair, _, number = word.partition("=")
        here, dash, there = pair.partition("-")
        if not dash:
            raise typer.BadParameter(f"{word!r} is not A-B=MS", param_hint="--rtt")
        rtts_ms.setdefault(here, {})[there] = _number(number, word) if number else None
    with connect(data_dir) as client:
        found = client.change_settings(changes, rtts_ms) if changes or rtts_ms else client.settings()
    if json:
        return print_json(found)
    from skerry.apps.tables_settings import print_settings

    return print_settings(found, changed=tuple(changes))


def _number(text: str, word: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{word!r} has no number") from None
