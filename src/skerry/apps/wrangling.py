"""Pointing the stock wrangler client at a platform."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from skerry.adapters import tools
from skerry.kit.record import Record

if TYPE_CHECKING:
    from skerry.apps.client import Client
    from skerry.core.types.view import AccountView

OUTPUT_BYTES_MAX = 1 << 20
SERVED_S_MAX = 60.0
SIGNALLED = 128  # a shell's exit status for a child that a signal ended: this plus the signal


class Deployed(Record, forbid_unknown_fields=False):
    """A line of wrangler's machine-readable output."""

    type: str = ""
    worker_name: str | None = None
    version_id: str | None = None


def wrangler_env(dialect_url: str, token: str, account_id: str) -> dict[str, str]:
    """The variables that redirect wrangler, and those that keep it from calling anybody else."""
    return {
        "CLOUDFLARE_API_BASE_URL": dialect_url,
        "CLOUDFLARE_API_TOKEN": token,
        "CLOUDFLARE_ACCOUNT_ID": account_id,
        "WRANGLER_SEND_METRICS": "false",
        "WRANGLER_SEND_ERROR_REPORTS": "false",
        "WRANGLER_HIDE_BANNER": "true",  # the banner asks npm's registry for a newer wrangler
        "NO_PROXY": _no_proxy(os.environ, dialect_url),
    }


def command(arguments: Sequence[str]) -> list[str]:
    """node, wrangler's script, the arguments. Raises `tools.ToolMissing`."""
    return [str(tools.find_node().require()), str(tools.find_wrangler().require()), *arguments]


def read_deployed(path: Path) -> tuple[Deployed, ...]:
    """What wrangler says it deployed; lines that are not understood are left out."""
    found: list[Deployed] = []
    with contextlib.suppress(OSError), path.open("rb") as file:
        for line in file.read(OUTPUT_BYTES_MAX).splitlines():
            with contextlib.suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=Deployed))
    return tuple(entry for entry in found if entry.type in ("deploy", "version-deploy") and entry.worker_name)


def wait_until_served(client: "Client", account: str, deployed: Sequence[Deployed]) -> None:
    """Wrangler ends when a version is accepted; it answers a moment later. Raises `ClientError` if it does not start."""
    from skerry.apps.programs import progress

    for name, version in dict.fromkeys((entry.worker_name, entry.version_id) for entry in deployed):
        if name and version:
            progress.wait_until_served(client, account, name, version, seconds=SERVED_S_MAX, quiet=False)


def run_in_foreground(command: list[str], environment: dict[str, str]) -> int:
    """Its exit status as a shell gives it. Ctrl-C is the child's."""
    child = subprocess.Popen(command, env=environment)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = child.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else SIGNALLED - status


def print_urls(client: "Client", account: "AccountView", names: tuple[str, ...]) -> None:
    """Where the apps really answer: wrangler prints a workers.dev address, which is not here."""
    from skerry.apps.client import ClientError

    try:
        found = client.status()
    except ClientError:
        return
    for item in found.apps:
        if item.account == account.account and item.app in names:
            print(f"\nOn this platform {item.app} answers at {item.url}")
            for site in found.sites:
                print(f"  {site.site}  {site.city:<16} curl --connect-to ::{site.address} {item.url}/")


@contextlib.contextmanager
def output_file():
    """A place for wrangler's machine-readable output, removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="skerry-wrangler-"))
    try:
        yield directory / "output.ndjson"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _no_proxy(environment: Mapping[str, str], dialect_url: str) -> str:
    """The environment's exceptions and the platform: a proxy for the internet cannot reach it."""
    import urllib.parse

    host = urllib.parse.urlsplit(dialect_url).hostname or "127.0.0.1"
    given = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    return ",".join(dict.fromkeys([*names, host, "localhost"]))
