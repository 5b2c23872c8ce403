"""The OCI runtime configuration of a sandbox: pure, from the spec to the document."""

from typing import Any

from skerry.adapters.sandbox.oci.seccomp import profile
from skerry.kit.record import Record
from skerry.ports.sandbox import ExecSpec, SandboxSpec

UIDS = 65_536
OPEN_FILES = (1024, 16_384)  # soft, hard; the hard one is below what an agent itself may have
SHM_BYTES = 64 << 20
# What an unprivileged root needs to set up and leave itself; on the instance's own files and processes alone.
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
)  # fmt: skip
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/selinux",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class Frame(Record):
    """What the engine has made around a sandbox. `groups`: (name in /sys/fs/cgroup, directory on the host)."""

    architecture: str
    uid_first: int
    cgroups_path: str
    system: str | None  # its own /sys; None where the runtime brings one
    groups: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # (on the host, inside)
    seccomp: bool = True


def configuration(spec: SandboxSpec, frame: Frame) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "process": process(spec),
        "root": {"path": spec.rootfs, "readonly": spec.read_only},
        "hostname": spec.hostname or "localhost",
        "mounts": [*_own_mounts(frame), *_given(spec, frame)],
        "linux": {
            "cgroupsPath": frame.cgroups_path,
            "resources": {"devices": [{"allow": False, "access": "rwm"}, *_devices()]},
            "namespaces": _namespaces(spec, frame),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
            **_mappings(frame),
            **({"seccomp": profile(frame.architecture)} if frame.seccomp else {}),
        },
    }


def process(spec: SandboxSpec, further: ExecSpec | None = None) -> dict[str, Any]:
    """Of the program, or of a further one beside it."""
    env = spec.env if further is None else {**spec.env, **further.env}
    if further is not None and further.terminal:
        env = {"TERM": "xterm", **env}
    terminal = further is not None and further.terminal
    size = {"consoleSize": {"height": further.rows, "width": further.columns}} if further is not None and terminal else {}
    return {
        "terminal": terminal,
        **size,
        "user": {"uid": spec.uid, "gid": spec.gid, **({"additionalGids": list(spec.groups)} if spec.groups else {})},
        "args": list(spec.argv if further is None else further.argv),
        "env": [f"{name}={value}" for name, value in sorted(env.items())],
        "cwd": (further.working_dir if further is not None else None) or spec.working_dir,
        "noNewPrivileges": True,
        "capabilities": _capabilities(spec),
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": OPEN_FILES[0], "hard": OPEN_FILES[1]},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
    }


def _capabilities(spec: SandboxSpec) -> dict[str, list[str]]:
    """Who is not root inside has none, and gets none."""
    held: list[str] = list(CAPABILITIES) if spec.uid == 0 else []
    return {"bounding": held, "effective": held, "permitted": held, "inheritable": [], "ambient": []}


def _namespaces(spec: SandboxSpec, frame: Frame) -> list[dict[str, str]]:
    kinds = ["pid", "ipc", "uts", "mount", "cgroup", *(["user"] if frame.uid_first else [])]
    network = {"type": "network", "path": spec.netns} if spec.netns else {"type": "network"}
    return [*({"type": kind} for kind in kinds), network]


def _mappings(frame: Frame) -> dict[str, Any]:
    if not frame.uid_first:
        return {}
    mapping = [{"containerID": 0, "hostID": frame.uid_first, "size": UIDS}]
    return {"uidMappings": mapping, "gidMappings": mapping}


def _devices() -> list[dict[str, Any]]:
    """null, zero, full, random, urandom, tty, and pseudo-terminals."""
    numbers = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None)]
    return [
        {"allow": True, "type": "c", "major": major, "access": "rw", **({} if minor is None else {"minor": minor})}
        for major, minor in numbers
    ]


def _own_mounts(frame: Frame) -> list[dict[str, Any]]:
    quiet = ["nosuid", "noexec", "nodev"]
    mounts = [
        _mount("/proc", "proc", "proc", quiet),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _mount("/dev/shm", "tmpfs", "shm", [*quiet, "mode=1777", f"size={SHM_BYTES}"]),  # noqa: S108 its own
        _mount("/dev/mqueue", "mqueue", "mqueue", quiet),
    ]
    if frame.system is None:
        return [*mounts, _mount("/sys", "sysfs", "sysfs", [*quiet, "ro"])]
    mounts.append(_mount("/sys", "bind", frame.system, ["rbind", "ro", *quiet]))
    if frame.groups:
        mounts.append(_mount("/sys/fs/cgroup", "tmpfs", "tmpfs", [*quiet, "mode=755", "size=64k"]))
        mounts += [
            _mount(f"/sys/fs/cgroup/{name}".rstrip("/"), "bind", path, ["bind", "ro", *quiet]) for name, path in frame.groups
        ]
    return mounts


def _given(spec: SandboxSpec, frame: Frame) -> list[dict[str, Any]]:
    files = [_mount(target, "bind", source, ["bind", "ro", "nosuid", "nodev", "noexec"]) for source, target in frame.files]
    return files + [
        _mount(mount.target, "bind", mount.source, ["rbind", "rw" if mount.writable else "ro", "nosuid", "nodev"])
        for mount in spec.mounts
    ]


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}
