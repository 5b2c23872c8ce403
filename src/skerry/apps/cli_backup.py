"""`skerry backup` and `skerry restore`: all that was ever acknowledged, in a directory."""

from pathlib import Path
from typing import Annotated

import typer

from skerry.apps.cli_base import DataDirOption, JsonOption, print_json, where


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: skerry backup /mnt/backup/skerry")(backup)
    app.command(epilog="Example: skerry down && skerry restore /mnt/backup/skerry --replace && skerry up")(restore)


DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The backup.")]


def backup(directory: DirectoryArgument, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Copy the platform's state while it runs, or bring an earlier copy up to date.

    Accounts, apps with all their versions and secrets, plans, settings. Not what instances wrote to their own disks.
    """
    import anyio

    from skerry.apps import backing
    from skerry.apps.programs.progress import Bar

    with Bar(quiet=json, doing="copying") as bar:
        made = anyio.run(backing.back_up, where(data_dir), directory.resolve(), bar.tell)
    if json:
        return print_json(made)
    return print(f"{directory}: {_shown(made.store_bytes)} of state, {made.blobs} blobs of {_shown(made.blob_bytes)}")


def restore(
    directory: DirectoryArgument,
    replace: Annotated[bool, typer.Option("--replace", help="Even if there is a state already, which is lost.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Put a backup's state in place, for the next `skerry up`."""
    from functools import partial

    import anyio

    from skerry.apps import backing
    from skerry.apps.programs.progress import Bar

    with Bar(quiet=json, doing="copying") as bar:
        made = anyio.run(partial(backing.restore, where(data_dir), directory.resolve(), bar.tell, replace=replace))
    if json:
        return print_json(made)
    return print(f"restored: {made.blobs} blobs of {_shown(made.blob_bytes)}; `skerry up` starts with it")


def _shown(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
