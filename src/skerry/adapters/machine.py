"""What this machine allows, found out by trying.

Nothing is left behind: the groups that are made here are removed at once. Texts are for people and empty where
there is nothing to complain about.
"""

import contextlib
import functools
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

from skerry.adapters.cgroup.base import CgroupError, Limits
from skerry.adapters.cgroup.probe import find_tree
from skerry.kit.record import Record

SANDBOX_TIMEOUT_S = 10
PROBE_LIMITS = Limits(memory_bytes=64 << 20, cpu_millicores=100, pids=64)
# The namespaces and locks that instances get, around a program that every machine has.
SANDBOX_OPTIONS = (
    "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try", "--die-with-parent",
    "--cap-drop", "ALL", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev",
)  # fmt: skip

CERTIFICATES = Path("/etc/ssl/certs")  # what egress sees of the machine

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_SYSCTL = Path("/proc/sys")


class Refused(Record):
    """A sandbox could not be made: what it said, and what to do about it."""

    said: str
    remedy: str


class Groups(Record):
    """What control groups this user may make; `problem` says why not all."""

    limits: bool = False
    kill: bool = False  # a group can be ended as a whole, in one step
    problem: str = ""


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


def try_groups() -> Groups:
    """Make a group with limits, as instances get one, and remove it again."""
    remove_groups_of_the_dead("skerry-probe")
    tree, reason = find_tree(f"skerry-probe-{os.getpid()}")
    if tree is None:
        return Groups(problem=reason)
    try:
        group = tree.create("probe")
        group.limit(PROBE_LIMITS)
        kill = any((Path(file).parent / "cgroup.kill").exists() for file in group.join)
        return Groups(limits=tree.limits, kill=kill, problem="" if tree.limits else "no memory and CPU controllers")
    except CgroupError as error:
        return Groups(problem=str(error))
    finally:
        tree.open("probe").remove()
        tree.remove()


def remove_groups_of_the_dead(prefix: str) -> None:
    """Remove groups `<prefix>-<pid>.<name>` whose process was killed before it could; what still holds processes stays."""
    for group in [*_GROUPS.glob(f"{prefix}-*"), *_GROUPS.glob(f"*/{prefix}-*")]:
        pid = re.split("[.~]", group.name.removeprefix(f"{prefix}-"))[0]
        if not (_PROC / pid).exists():
            with contextlib.suppress(OSError):
                group.rmdir()


def missing_for_containers() -> tuple[tuple[str, str], ...]:
    """(what, remedy) of each thing that root file systems of containers are made with and that is not here."""
    lacking: list[tuple[str, str]] = []
    if "\toverlay\n" not in _read(_PROC / "filesystems"):
        lacking.append(("overlayfs", "sudo modprobe overlay"))
    if not Path("/dev/loop-control").exists():
        lacking.append(("loop devices", "sudo modprobe loop"))
    if shutil.which("mke2fs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
        lacking.append(("mke2fs", "sudo apt-get install e2fsprogs"))
    return tuple(lacking)


def certificates() -> int:
    """How many files of authorities this machine trusts."""
    return sum(path.suffix in {".pem", ".crt", ".0"} for path in CERTIFICATES.glob("*"))


def zram_swap() -> tuple[bool, bool]:
    """(swap on a zram device is on, this kernel has zram). Reads nothing that makes a device."""
    active = any(line.startswith("/dev/zram") for line in _read(_PROC / "swaps").splitlines())
    return active, active or Path("/sys/class/zram-control").exists()


@functools.cache
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
    return _khz_of_cpuinfo(_read(_PROC / "cpuinfo"))


def _khz_of_cpuinfo(text: str) -> int:
    """What the kernel detected at boot, for when its log is full: without counters and a driver "cpu MHz" is that."""
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    found = {found.group(1) for found in re.finditer(r"^cpu MHz\s*: ([\d.]+)$", text, re.MULTILINE)}
    if flags is None or len(found) != 1 or Path("/sys/devices/system/cpu/cpu0/cpufreq").exists():
        return 0
    names = flags.group(1).split()
    return round(float(found.pop()) * 1000) if "constant_tsc" in names and "aperfmperf" not in names else 0


def open_files_max() -> int:
    """How many descriptors a process may have once it raises its own limit as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def memory_available_mib() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(_PROC / "meminfo"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0


def _sysctl(name: str) -> str:
    return _read(_SYSCTL / name).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
