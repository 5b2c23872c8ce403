"""`skerry scale`: what an app asks for, shown and changed."""

from typing import Annotated, Any

import typer

from skerry.apps.cli_base import AccountOption, DataDirOption, JsonOption, chosen_account, connect, print_json

NAMES = "Site ids, country:GB, region:weur; replaces the list. May stand more than once, or with commas."
RESOURCES = ("cpu_millicores", "memory_mib")


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: skerry scale hello --min 2 --deny country:SG\n\nThen: skerry explain hello")(scale)


def scale(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app.")],
    *,
    min_total: Annotated[int | None, typer.Option("--min", help="At least so many instances of each version in all.")] = None,
    max_total: Annotated[int | None, typer.Option("--max", help="At most so many instances in all.")] = None,
    min_per_site: Annotated[int | None, typer.Option(help="Instances of each version in every city that is chosen.")] = None,
    max_per_site: Annotated[int | None, typer.Option(help="At most so many of each version in one city.")] = None,
    region_min: Annotated[list[str] | None, typer.Option(metavar="REGION=N", help="At least N in a region: weur=2.")] = None,
    allow: Annotated[list[str] | None, typer.Option(metavar="PLACE", help=f"Only here. {NAMES}")] = None,
    deny: Annotated[list[str] | None, typer.Option(metavar="PLACE", help="Never here; stronger than --allow.")] = None,
    pin: Annotated[list[str] | None, typer.Option(metavar="SITE", help="These cities come first.")] = None,
    jurisdiction: Annotated[str | None, typer.Option(help="Only cities inside it: eu, or a tag of the operator's.")] = None,
    feature: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only nodes that have it.")] = None,
    survive: Annotated[int | None, typer.Option(metavar="N", help="Cities that may be lost without the app being gone.")] = None,
    latency: Annotated[float | None, typer.Option(metavar="MS", help="What a user's request should take at most.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 100; 50 is neutral.")] = None,
    rps: Annotated[float | None, typer.Option(help="Requests per second that one instance serves.")] = None,
    calls: Annotated[list[str] | None, typer.Option(metavar="DATA=N", help="Calls for each request: aws:us-east-1=3.")] = None,
    sticky: Annotated[bool | None, typer.Option("--sticky/--no-sticky", help="Users stay with who answered first.")] = None,
    cpu: Annotated[int | None, typer.Option(metavar="MILLICORES", help="Reserved for one, from the next version on.")] = None,
    memory: Annotated[int | None, typer.Option(metavar="MIB", help="As --cpu.")] = None,
    reset: Annotated[list[str] | None, typer.Option(metavar="FIELD", help="Take the default of a field back.")] = None,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Show or change what an app asks for: how many instances, and where. Without options it shows."""
    plain: dict[str, Any] = {
        "min_total": min_total,
        "max_total": max_total,
        "min_per_site": min_per_site,
        "max_per_site": max_per_site,
        "region_min": _amounts(region_min, "--region-min", ("region", "count"), int),
        "allow": _names(allow),
        "deny": _names(deny),
        "pin": _names(pin),
        "jurisdiction": jurisdiction,
        "features": _names(feature),
        "survive_sites": survive,
        "latency_objective_ms": latency,
        "priority": priority,
        "rps_per_instance": rps,
        "calls": _amounts(calls, "--calls", ("data", "per_request"), float),
        "sticky": sticky,
    }
    changes = {field: value for field, value in plain.items() if value is not None}
    asked = {field: value for field, value in zip(RESOURCES, (cpu, memory), strict=True) if value is not None}
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account).account
        if asked:
            changes["resources"] = {**(client.scale(chosen, name).scale.get("resources") or {}), **asked}
        changes.update(dict.fromkeys(_names(reset) or ()))
        found = client.change_scale(chosen, name, changes) if changes else client.scale(chosen, name)
    if json:
        return print_json(found)
    from skerry.apps.tables import print_scale

    return print_scale(found, changed=tuple(changes))


def _names(given: list[str] | None) -> list[str] | None:
    """With commas or without; an empty word empties the list."""
    return None if given is None else [name for entry in given for name in entry.split(",") if name]


def _amounts(given: list[str] | None, option: str, fields: tuple[str, str], kind: type[int] | type[float]) -> list[object] | None:
    """NAME=NUMBER as the API has it."""
    words = _names(given)
    if words is None:
        return None
    found: list[object] = []
    for word in words:
        name, _, number = word.rpartition("=")
        try:
            found.append({fields[0]: name, fields[1]: kind(number)})
        except ValueError:
            raise typer.BadParameter(f"{word!r} is not NAME=NUMBER", param_hint=option) from None
    return found
