"""What every command of `skerry` shares: common options, and the way to the platform."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skerry.kit.record import encode

if TYPE_CHECKING:
    from skerry.apps.client import Client
    from skerry.core.types.view import AccountView, WhoView

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Where the platform keeps its state (or SKERRY_DATA_DIR).", show_default=False
    ),
]
MicrovmEngineOption = Annotated[
    Literal["auto", "firecracker", "qemu"],
    typer.Option(help="Of microVMs; auto: Firecracker where it is installed and KVM runs guests, else QEMU."),
]
WarmMicrovmsOption = Annotated[
    int, typer.Option(metavar="N", min=0, max=64, help="MicroVMs of each node that wait, paused, for the next start (QEMU).")
]
AddressPoolOption = Annotated[
    str, typer.Option(metavar="CIDR", help="Private addresses of programs, which no network of yours uses; all nodes share them.")
]
ImagesMaxOption = Annotated[
    int, typer.Option(metavar="MIB", min=0, help="Images that each node keeps on its disk besides those in use.")
]
DiskLimitsOption = Annotated[
    str,
    typer.Option(
        metavar="READ,WRITE,READS,WRITES", help="Of each container on its node's disk: MiB and operations a second; or `none`."
    ),
]
HookOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PROGRAM", help="A program that `skerry maintenance` may run on each node, by this name."),
]
OvercommitCpuOption = Annotated[
    float | None,
    typer.Option(metavar="RATIO", help="Promise so many times the CPU of a node (default: 8; 1 of what --node-cpu gives)."),
]
AccountOption = Annotated[
    str | None, typer.Option("--account", help="Name or id of the account (or SKERRY_ACCOUNT).", show_default=False)
]


class Before:
    """Options in front of the command, which hold for all; those behind it come first."""

    data_dir: Path | None = None


def where(given: Path | None) -> Path:
    from skerry.apps.supervisor.layout import default_data_dir

    given = given or Before.data_dir
    return given.resolve() if given is not None else default_data_dir()


def connect(data_dir: Path | None) -> "Client":
    from skerry.apps.client import Client, find_local, find_target

    named = data_dir is not None or Before.data_dir is not None
    return Client((find_local if named else find_target)(where(data_dir)))


def chosen_account(client: "Client", who: "WhoView", asked: str | None) -> "AccountView":
    """The account that is meant: named, the token's only one, or the platform's first."""
    from skerry.apps.client import ClientError

    asked = asked or os.environ.get("SKERRY_ACCOUNT") or None
    wanted = asked or client.target.default_account
    found = next((account for account in who.accounts if wanted in (account.name, account.account)), None)
    if found is None and asked is None and len(who.accounts) == 1:
        found = who.accounts[0]
    if found is None:
        raise ClientError(f"there is no account {wanted!r}", hint="`skerry account list` shows them; name one with --account")
    return found


def print_json(value: object) -> None:
    print(encode(value).decode(), flush=True)
