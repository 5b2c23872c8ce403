"""What this machine allows, found out by trying.

Nothing is left behind: the groups that are made here are removed at once. Texts are for people and empty where
there is nothing to complain about.
"""

import contextlib
import os
import re
import resource
import socket
import subprocess
from pathlib import Path

from skerry.kit.record import Record

SANDBOX_TIMEOUT_S = 10
LIMITS = ("cpu", "memory", "pids")  # the controllers that bound an app
# The namespaces and locks that instances get, around a program that every machine has.
SANDBOX_OPTIONS = (
    "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--die-with-parent", "--new-session",
    "--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev",
)  # fmt: skip

_PROC = Path("/proc")
_SYSCTL = Path("/proc/sys")


class Refused(Record):
    """A sandbox could not be made: what it said, and what to do about it."""

    said: str
    remedy: str


class Cgroups(Record):
    """Where groups can be made. Empty `limits`: none of the controllers is ours to use."""

    version: str  # "v1", "v2", "v1 and v2", "none"
    limits: tuple[str, ...] = ()  # of cpu, memory, pids
    kill: bool = False  # a group can be ended as a whole, atomically


def try_sandbox(bwrap: str) -> Refused | None:
    """Run /bin/true in the namespaces that instances get; None if it ran."""
    try:
        done = subprocess.run(
            [bwrap, *SANDBOX_OPTIONS, "/bin/true"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=SANDBOX_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Refused(said=str(error), remedy="sudo apt-get install --reinstall bubblewrap")
    if done.returncode == 0:
        return None
    return Refused(said=(done.stderr.strip() or f"exit status {done.returncode}")[:300], remedy=_sandbox_remedy())


def _sandbox_remedy() -> str:
    """What keeps an ordinary user from having namespaces, by what the kernel says of itself."""
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "AppArmor keeps ordinary users from making namespaces here (Ubuntu 23.10 and newer)."
            " Run Skerry as root, or allow them: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "run Skerry as root, or allow namespaces: sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _sysctl("user/max_user_namespaces") == "0":
        return "run Skerry as root, or allow namespaces: sudo sysctl -w user.max_user_namespaces=10000"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "this is a container that may not make namespaces: start it with --privileged, or run Skerry outside of it"
    return "run Skerry as root, or let this user make namespaces"


def try_cgroups() -> Cgroups:
    """Make a group in each hierarchy and remove it again."""
    v1, v2 = _cgroup_mounts()
    limits = {name for name in LIMITS if name in v1 and _can_make_group(v1[name])}
    if v2 is not None:
        limits |= _usable_controllers_v2(v2) & set(LIMITS)
    versions = [name for name, there in (("v1", bool(v1)), ("v2", v2 is not None)) if there]
    kill = v2 is not None and _can_make_group(v2, wanted="cgroup.kill")
    return Cgroups(version=" and ".join(versions) or "none", limits=tuple(sorted(limits)), kill=kill)


def _cgroup_mounts() -> tuple[dict[str, Path], Path | None]:
    """(controller -> mount point of v1, mount point of v2)."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in _read(_PROC / "mounts").splitlines():
        _, where, kind, options, *_ = line.split(" ")
        if kind == "cgroup":
            v1 |= dict.fromkeys(options.split(","), Path(where))
        elif kind == "cgroup2":
            v2 = Path(where)
    return v1, v2


def _usable_controllers_v2(mount: Path) -> set[str]:
    return set(_read(mount / "cgroup.controllers").split()) if _can_make_group(mount) else set()


def _can_make_group(parent: Path, *, wanted: str = "cgroup.procs") -> bool:
    group = parent / f"skerry-probe-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return False
    try:
        return os.access(group / wanted, os.W_OK)
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def zram_swap() -> tuple[bool, bool]:
    """(swap on a zram device is on, this kernel has zram). Reads nothing that makes a device."""
    active = any(line.startswith("/dev/zram") for line in _read(_PROC / "swaps").splitlines())
    return active, active or Path("/sys/class/zram-control").exists()


def tsc_khz() -> int:
    """Frequency of the time stamp counter as the kernel measured it; 0 if it does not tell."""
    text = _read(Path("/sys/devices/system/cpu/cpu0/tsc_freq_khz")).strip()
    if text.isdigit():
        return int(text)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        log = subprocess.run(
            ["dmesg"], capture_output=True, text=True, errors="replace", timeout=SANDBOX_TIMEOUT_S, check=False
        ).stdout
        if found := re.search(r"tsc: (?:Detected|Refined TSC clocksource calibration:) ([\d.]+) MHz", log):
            return round(float(found.group(1)) * 1000)
    return 0


def open_files_max() -> int:
    """How many descriptors a process may have once it raises its own limit as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def memory_available_mib() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(_PROC / "meminfo"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0


def taken(address: str, port: int) -> str:
    """Why nobody can listen there now; empty if one can."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen()
        except OSError as error:
            return os.strerror(error.errno or 0)
    return ""


def _sysctl(name: str) -> str:
    return _read(_SYSCTL / name).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
