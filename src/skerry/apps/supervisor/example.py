"""The first deployment: the example in the tree, by the real wrangler, unless the very same is deployed already."""

import asyncio
import contextlib
import hashlib
import shutil
import sys
from pathlib import Path

import msgspec

from skerry.adapters import tools
from skerry.adapters.process.detached import Spawn, read_log_tail, spawn, write_private
from skerry.apps import wrangling
from skerry.apps.client import Target
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.layout import Layout
from skerry.apps.supervisor.orphans import Orphans
from skerry.apps.supervisor.planes import NO_FILE_LIMIT, passed_on
from skerry.core.types.view import Status
from skerry.kit.record import Record, decode, encode

NAME = "hello-edge"
DEPLOY_S_MAX = 120.0  # node, esbuild and wrangler from a cold disk
FILES_MAX = 2000
_LEFT_OUT = {"node_modules", ".wrangler", "__pycache__", "dist"}


class Remembered(Record):
    """`<data>/example.json`: what was deployed last."""

    digest: str


def example_dir() -> Path | None:
    """The example's project, if this installation has it."""
    place = tools.tree() / "examples" / NAME
    return place if place.is_dir() else None


def digest_of(project: Path) -> str:
    """Of names and contents of all its files."""
    hasher = hashlib.sha256()
    for path in _files(project):
        name, content = str(path.relative_to(project)).encode(), path.read_bytes()
        for part in (name, content):
            hasher.update(len(part).to_bytes(8, "big") + part)
    return hasher.hexdigest()


def is_deployed(layout: Layout, project: Path, status: Status) -> bool:
    """The same content is remembered, and the platform still has the app."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        remembered = decode((layout.data / "example.json").read_bytes(), Remembered)
        return remembered.digest == digest_of(project) and any(app.app == NAME for app in status.apps)
    return False


async def deploy(layout: Layout, project: Path, target: Target, account_id: str, orphans: Orphans) -> None:
    """Raises `UpError` with what wrangler said. Works on a copy: wrangler writes into its project."""
    copy = layout.data / "example"
    digest = digest_of(project)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    log = layout.logs / "example.log"
    log.unlink(missing_ok=True)
    shutil.rmtree(layout.logs / "wrangler", ignore_errors=True)  # it adds a file every time
    try:
        argv = wrangling.command(["deploy", "--cwd", str(copy)])
    except tools.ToolMissing as error:
        raise UpError(f"the example is not deployed: {error}", hint="--no-example starts without it") from error
    what = Spawn(
        name="wrangler",
        argv=tuple(argv),
        env=_env(layout, target, account_id),
        log=str(log),
        log_bytes_max=NO_FILE_LIMIT,
        tag=layout.tag,
    )
    status = await _ended(what, layout, orphans)
    if status != 0:
        said = "\n".join(read_log_tail(log).strip().splitlines()[-12:])
        how = f"ended with {status}" if status is not None else f"did not end within {DEPLOY_S_MAX:.0f} s"
        raise UpError(f"the example is not deployed: wrangler {how}:\n{said}", hint=f"its log: {log}")
    write_private(layout.data / "example.json", encode(Remembered(digest=digest)))


async def deploy_services(layout: Layout, orphans: Orphans) -> tuple[str, ...]:
    """Deploy the example's services, as far as this machine can run them; what there is to say of it."""
    log = layout.logs / "services.log"
    log.unlink(missing_ok=True)
    what = Spawn(
        name="services",
        argv=(sys.executable, "-m", "skerry.apps.supervisor.services", str(layout.data), *(site.id for site in layout.sites)),
        env=passed_on(),
        log=str(log),
        log_bytes_max=NO_FILE_LIMIT,
        tag=layout.tag,
    )
    status = await _ended(what, layout, orphans)
    if status != 0:
        return (f"the example's services are not deployed; the log: {log}",)
    return tuple(read_log_tail(log).strip().splitlines())


async def _ended(what: Spawn, layout: Layout, orphans: Orphans) -> int | None:
    """Its exit status; None: it did not end in time, and was ended."""
    process = spawn(what, records=layout.records)
    orphans.own(process.pid)
    try:
        return await asyncio.wait_for(process.wait(), DEPLOY_S_MAX)
    except TimeoutError:
        return None
    finally:
        await process.stop(grace_ms=0)
        orphans.disown(process.pid)


def _env(layout: Layout, target: Target, account_id: str) -> dict[str, str]:
    return {
        **passed_on(),
        **wrangling.wrangler_env(target.dialect_url, target.token, account_id),
        "CI": "1",  # no questions
        "NO_COLOR": "1",
        "XDG_CONFIG_HOME": str(layout.data / "wrangler"),
        "WRANGLER_LOG_PATH": str(layout.logs / "wrangler"),
    }


def _files(project: Path) -> list[Path]:
    found = [path for path in project.rglob("*") if path.is_file() and not _LEFT_OUT & set(path.relative_to(project).parts)]
    if len(found) > FILES_MAX:
        raise UpError(f"{project} has {len(found)} files; the example has at most {FILES_MAX}")
    return sorted(found)
