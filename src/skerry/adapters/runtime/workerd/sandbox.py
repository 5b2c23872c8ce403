"""The sandbox around each workerd: what it sees, as whom it runs, what it may ask of the kernel.

Own pid, ipc, uts, net and control group namespaces; a read-only root with workerd, its libraries and nothing else (no
/proc, no /dev, no shell); no capabilities, no new privileges. As root it also has an own uid; as an ordinary user
it is in an own user namespace and shares the user's uid with the other instances. Its only way out are the
descriptors it inherits and the sockets in the directories bound for it.
"""

import os
from pathlib import Path

from skerry.adapters.process.detached import FIRST_FD, TAG_VARIABLE
from skerry.adapters.runtime.workerd.engine import Engine
from skerry.kit.record import Record

WORKERD = "/workerd"
SETPRIV = "/setpriv"
HEALTH_DIRECTORY = "/health"  # empty: what the health check lists
EGRESS_DIRECTORY = "/egress"
ASSETS_DIRECTORY = "/assets"
_CPU = "/sys/devices/system/cpu"
_SET_UID = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")  # what setpriv needs to give up the rest, and itself
_DNS_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/usr/share/ca-certificates")


class Sandbox(Record):
    """One process's view. `binds` are (host path, path inside), read-only.

    `network`: the host's, and `resolver`: what resolves names and checks certificates; never for a tenant's code.
    """

    uid: int
    tag: str
    binds: tuple[tuple[str, str], ...] = ()
    network: bool = False
    resolver: bool = False
    cpu_files: str | None = None
    experimental: bool = False  # only ever for processes without a tenant's code


def command(engine: Engine, box: Sandbox, sockets: tuple[str, ...], *, seccomp: bool) -> tuple[str, ...]:
    """The command line; `sockets` are named as in the config and inherited as descriptors from `FIRST_FD` on.

    `seccomp`: the descriptor after them is the filter (see `seccomp`).
    """
    as_root = os.geteuid() == 0
    filtered = ("--seccomp", str(FIRST_FD + len(sockets))) if seccomp else ()
    return (
        engine.bwrap,
        *_namespaces(box, as_root=as_root),
        *_root(engine, box),
        "--clearenv", "--setenv", TAG_VARIABLE, box.tag, "--chdir", "/",
        *filtered,
        *_privileges(engine, box, as_root=as_root),
        WORKERD, "serve", "--binary", "-",
        *(("--experimental",) if box.experimental else ()),
        *(part for index, name in enumerate(sockets) for part in ("--socket-fd", f"{name}={FIRST_FD + index}")),
    )  # fmt: skip


def _namespaces(box: Sandbox, *, as_root: bool) -> list[str]:
    names = ["pid", "ipc", "uts", "cgroup-try", *([] if box.network else ["net"]), *([] if as_root else ["user"])]
    return [*(f"--unshare-{name}" for name in names), "--as-pid-1", "--hostname", "localhost"]


def _root(engine: Engine, box: Sandbox) -> list[str]:
    binds = [(engine.workerd, WORKERD), *((path, path) for path in engine.libraries), *box.binds]
    if engine.setpriv:
        binds.append((engine.setpriv, SETPRIV))
    if box.cpu_files:
        binds.append((box.cpu_files, _CPU))
    if box.resolver:
        binds += [(path, path) for path in _DNS_FILES if Path(path).exists()]
    parents = {str(parent) for _, inside in binds for parent in Path(inside).parents} - {"/"}
    options = [part for path in sorted(parents) for part in ("--dir", path)]  # made by --bind they would be root's alone
    options += [part for source, inside in binds for part in ("--ro-bind", str(Path(source).resolve()), inside)]
    return [*options, "--dir", HEALTH_DIRECTORY, "--remount-ro", "/"]


def _privileges(engine: Engine, box: Sandbox, *, as_root: bool) -> list[str]:
    if not as_root or not engine.setpriv:
        return ["--cap-drop", "ALL"]
    return [
        "--cap-drop", "ALL", *(part for name in _SET_UID for part in ("--cap-add", name)),
        SETPRIV, "--reuid", str(box.uid), "--regid", str(box.uid), "--clear-groups",
        "--bounding-set", "-all", "--inh-caps", "-all", "--ambient-caps", "-all", "--no-new-privs",
    ]  # fmt: skip
