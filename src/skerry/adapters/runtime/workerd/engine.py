"""The programs and files of this machine that a sandbox is made of, found once."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

from skerry.adapters import machine, tools
from skerry.kit.record import Record
from skerry.ports.runtime import Unavailable

_LIBRARY = re.compile(r"(/\S+)(?= \(0x)")
_CPU_FILES = ("possible", "online", "cpu0/cache/index3/shared_cpu_list")
_TSC_FILE = Path("/sys/devices/system/cpu/cpu0/tsc_freq_khz")


class Engine(Record):
    """Absolute paths. `libraries` are what workerd and setpriv load, the loader among them."""

    workerd: str
    schema: str  # workerd's own config schema, of the same package
    bwrap: str
    setpriv: str | None
    libraries: tuple[str, ...]
    version: str


def find_engine(*, workerd: str | None = None, bwrap: str | None = None) -> Engine:
    """Raises `Unavailable` with what is missing and how to get it."""
    try:
        found = tools.find_workerd()
        workerd_path = Path(workerd) if workerd else found.require()
        bwrap_path = Path(bwrap) if bwrap else tools.find_bwrap().require()
    except tools.ToolMissing as error:
        raise Unavailable(str(error)) from error
    setpriv = shutil.which("setpriv")
    return Engine(
        workerd=str(workerd_path),
        schema=str(_schema(workerd_path)),
        bwrap=str(bwrap_path),
        setpriv=setpriv,
        libraries=_libraries(str(workerd_path), *([setpriv] if setpriv else [])),
        version=found.version,
    )


def describe_cpu(directory: Path) -> Path | None:
    """Files that spare workerd 4 ms of measuring the time stamp counter at each start; None: not known here, or not needed.

    They stand for /sys/devices/system/cpu in the sandbox. A wrong frequency would skew its clock: only the kernel's own
    word counts.
    """
    khz = machine.tsc_khz()
    if not khz or platform.machine() != "x86_64":
        return None
    for name in _CPU_FILES:
        source, target = Path("/sys/devices/system/cpu") / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.exists():
            target.write_bytes(source.read_bytes())
    (directory / "cpu0/tsc_freq_khz").write_text(f"{khz}\n")
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the next run writes them again
    return directory


def _schema(workerd: Path) -> Path:
    for place in (workerd.parents[3] / "workerd/workerd.capnp", workerd.parent / "workerd.capnp"):
        if place.is_file():
            return place
    raise Unavailable(f"no workerd.capnp beside {workerd}; get it by: {tools.SETUP}")


def _libraries(*programs: str) -> tuple[str, ...]:
    found: set[str] = set()
    for program in programs:
        done = subprocess.run(["/usr/bin/ldd", program], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"{program} cannot be loaded: {(done.stderr or done.stdout).strip()[:200]}")
        found.update(_LIBRARY.findall(done.stdout))
    return tuple(sorted(found))
