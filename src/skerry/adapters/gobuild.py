"""Engines that come as Go modules: built once, of a pinned version, into the user's cache outside of every tree.

The pin is a small Go module of our own in `tools/<name>` (go.mod, and go.sum with the hashes of all that it needs).
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from skerry.adapters import tools

BUILD_S_MAX = 3600
GVISOR = "gvisor.dev/gvisor/runsc"
GVISOR_LABEL = "gvisor.dev/gvisor/runsc/version.version"
GO_REMEDY = "https://go.dev/dl (the version that tools/gvisor/go.mod asks for), on PATH or in /usr/local/go/bin"


class BuildFailed(Exception):
    """The text says what, and what to do."""


def get_gvisor(say: Callable[[str], object]) -> Path:
    """runsc of the pinned version; some minutes the first time (72 MB of downloads), nothing after that."""
    target = tools.cache() / f"runsc-{tools.GVISOR_VERSION}"
    if (target / "runsc").is_file():
        return target / "runsc"
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise BuildFailed(f"Go is needed to build gVisor: {GO_REMEDY}")
    say(f"building gVisor {tools.GVISOR_VERSION} (2 to 5 minutes, once for this user)")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another tree may be at it
        if not (target / "runsc").is_file():
            _build(go, tools.tree() / "tools/gvisor", target)
    return target / "runsc"


def _build(go: str, module: Path, target: Path) -> None:
    building = target.with_name(f".{target.name}.{os.getpid()}")
    flags = f"-s -w -X {GVISOR_LABEL}={tools.GVISOR_VERSION}"
    command = ["nice", "-n", "15", go, "build", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", f"{building}/", GVISOR]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(
            command, cwd=module, env=environment, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
        )
        if done.returncode != 0:
            raise BuildFailed(f"gVisor cannot be built: {done.stderr.strip()[-1000:]}")
        shutil.rmtree(target, ignore_errors=True)
        building.rename(target)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"gVisor cannot be built: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
