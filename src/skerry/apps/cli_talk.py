"""`skerry exec`, `skerry logs`, `skerry cp`: talking with instances."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skerry.apps.cli_base import AccountOption, DataDirOption, JsonOption, chosen_account, connect

if TYPE_CHECKING:
    from skerry.apps.client import Client
    from skerry.apps.talking import Partner
    from skerry.core.types.view import InstanceView

InstanceOption = Annotated[
    str | None, typer.Option("--instance", metavar="ID", help="This one (its first digits are enough).", show_default=False)
]
SiteOption = Annotated[str | None, typer.Option("--city", metavar="CODE", help="In this city.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    app.command("exec", epilog="Example: skerry exec web -- sh -c 'ls /'\n\nWith a terminal: skerry exec -t web -- sh")(execute)
    app.command(epilog="Example: skerry logs web --follow")(logs)
    app.command(epilog="Example: skerry cp web:/var/log/app.log . && skerry cp index.html web:/srv")(cp)


def execute(
    name: Annotated[str, typer.Argument(metavar="APP")],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND…")],
    *,
    terminal: Annotated[bool | None, typer.Option("--terminal/--no-terminal", "-t/-T", help="Default: if this is one.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=value", help="A variable of the command.")] = None,
    directory: Annotated[str | None, typer.Option("--directory", "-C", metavar="PATH", help="Where it starts.")] = None,
    instance: InstanceOption = None,
    city: SiteOption = None,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Run a command inside an instance of an app. Its exit status is this command's."""
    import os
    import sys

    from skerry.apps.programs import words
    from skerry.apps.talking import COLUMNS, ROWS, run_command, window
    from skerry.ports.sandbox import ExecSpec

    with_terminal = (sys.stdin.isatty() and sys.stdout.isatty()) if terminal is None else terminal
    rows, columns = ROWS, COLUMNS
    if with_terminal and sys.stdout.isatty():
        rows, columns = window(sys.stdout.fileno())
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account).account
        seen = choose(client, chosen, name, instance=instance, city=city)
        spec = ExecSpec(
            argv=tuple(command),
            env=words.pairs(env or (), "--env", environment=os.environ),
            working_dir=directory,
            terminal=with_terminal and not json,
            rows=rows,
            columns=columns,
        )
        raise typer.Exit(run_command(_partner(client, seen), spec, json=json))


def logs(
    name: Annotated[str, typer.Argument(metavar="APP")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And what comes, until Ctrl-C.")] = False,
    tail: Annotated[str, typer.Option(metavar="SIZE", help="How much of the past: 64K, 1M.")] = "64K",
    instance: InstanceOption = None,
    city: SiteOption = None,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an app's instances wrote, each line with the instance in front where there are several."""
    from skerry.apps.talking import print_logs, tail_bytes

    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account).account
        seen = [choose(client, chosen, name, instance=instance, city=city)] if instance else _all(client, chosen, name, city)
        raise typer.Exit(print_logs(client.target, seen, tail_bytes=tail_bytes(tail), follow=follow, json=json))


def cp(
    source: Annotated[str, typer.Argument(metavar="FROM", help="APP:/path, or a file or directory here.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A directory here, or APP:/directory.")],
    *,
    instance: InstanceOption = None,
    city: SiteOption = None,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Copy a file or a directory out of an instance, or into one."""
    from skerry.apps.cli_base import print_json
    from skerry.apps.client import ClientError
    from skerry.apps.copying import copy_in, copy_out

    (app_from, path_from), (app_to, path_to) = _place(source), _place(target)
    if (app_from is None) == (app_to is None):
        raise ClientError("one of both is APP:/path, the other a file or directory here", hint="skerry cp web:/etc/hostname .")
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account).account
        name = app_from or app_to or ""
        seen = choose(client, chosen, name, instance=instance, city=city)
        if app_from is not None:
            done = copy_out(_partner(client, seen), path_from, Path(target))
        else:
            done = copy_in(_partner(client, seen), Path(source), path_to)
    if json:
        return print_json({"instance": seen.instance, "files": done.files, "bytes": done.size})
    return print(f"{done.files} file(s), {done.size:,} bytes")


def choose(client: "Client", account: str, app: str, *, instance: str | None, city: str | None) -> "InstanceView":
    """The instance that is meant: by its first digits, else the first that runs. Raises `ClientError`."""
    from skerry.apps.client import ClientError

    seen = _all(client, account, app, city)
    if instance:
        found = [item for item in seen if item.instance.startswith(instance)]
        if len(found) != 1:
            said = "no instance" if not found else f"{len(found)} instances"
            raise ClientError(f"{said} of {app} begin(s) with {instance[:16]!r}", hint=f"`skerry instances {app}` lists them")
        return found[0]
    running = [item for item in seen if item.state in ("running", "asleep")]
    if not running:
        raise ClientError(f"no instance of {app} runs: {', '.join(sorted({item.state for item in seen}))}")
    return running[0]


def _partner(client: "Client", seen: "InstanceView") -> "Partner":
    from skerry.apps.talking import Partner

    return Partner(target=client.target, account=seen.account, app=seen.app, instance=seen.instance)


def _all(client: "Client", account: str, app: str, city: str | None) -> "list[InstanceView]":
    from skerry.apps.client import ClientError

    seen = [item for item in client.instances(account, app) if city in (None, item.site)]
    if not seen:
        where = f" in {city}" if city else ""
        raise ClientError(f"{app} has no instance{where}", hint=f"`skerry explain {app}` says where it runs")
    return sorted(seen, key=lambda item: (item.site, item.node, item.instance))


def _place(text: str) -> tuple[str | None, str]:
    """(app, path inside), or (None, path here)."""
    name, colon, path = text.partition(":")
    if colon and path.startswith("/") and "/" not in name and name:
        return name, path
    return None, text
