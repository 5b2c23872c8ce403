"""How QEMU is started: which machine, in which sandbox. Its descriptors are numbered in the order of `Descriptors`.

It sees its own program and libraries, and nothing that belongs to a tenant but what it inherits: the tap (in a namespace
that it is not in), the disk, the memory of its template, the log, and the two sockets over which it is asked. It has no
network, an own uid, no capability, and QEMU's own system call filter.
"""

import functools
import shutil
from pathlib import Path

from skerry.adapters import tools
from skerry.adapters.process.detached import FIRST_FD
from skerry.adapters.sandbox.microvm.build import GuestFiles
from skerry.kit.record import Record
from skerry.ports.sandbox import EngineUnavailable

MAC = "02:00:00:00:00:01"  # of the device while it boots; a guest takes its own with its identity
AGENT_PORT = "skerry.agent"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_SET_UID = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
_DATA = ("/usr/share/qemu", "/usr/share/seabios")
FDS = ("tap", "log", "memory", "disk", "qmp", "agent", "console")


class Machine(Record):
    """What has to be equal for a snapshot of one to be loaded into another."""

    memory_mib: int
    vcpus: int
    accelerator: str  # tcg or kvm
    tsc_khz: int
    translated_code_mib: int = 0
    network: bool = True
    merge: bool = False  # its memory may be merged with that of others (KSM)


class Programs(Record):
    """Absolute paths. `binds`: what QEMU has to see of the host to run at all."""

    qemu: str
    version: str
    bwrap: str
    setpriv: str
    binds: tuple[str, ...]


@functools.cache
def programs(qemu: str, version: str, bwrap: str) -> Programs:
    """Raises `EngineUnavailable`."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EngineUnavailable("setpriv is not on this machine: sudo apt-get install util-linux")
    libraries = tools.libraries_of(qemu, setpriv)
    modules = {str(path.parent) for path in Path("/usr/lib").glob("*/qemu/accel-tcg-*.so")}
    return Programs(
        qemu=str(Path(qemu).resolve()), version=version, bwrap=bwrap, setpriv=setpriv,
        binds=tuple(sorted({*libraries, *modules, *(path for path in _DATA if Path(path).is_dir())})),
    )  # fmt: skip


def sandboxed(found: Programs, *, uid: int, guest: GuestFiles | None, kvm: bool, tag: tuple[str, str]) -> tuple[str, ...]:
    """The part of the command line before QEMU's own. `guest`: the files that a boot needs."""
    binds = [found.qemu, found.setpriv, *found.binds, *([guest.kernel, guest.initramfs] if guest else [])]
    parents = {str(parent) for path in binds for parent in Path(path).parents} - {"/"}
    return (
        found.bwrap,
        *(f"--unshare-{name}" for name in ("pid", "ipc", "uts", "net", "cgroup-try")), "--as-pid-1", "--hostname", "localhost",
        *(part for path in sorted(parents) for part in ("--dir", path)),
        *(part for path in binds for part in ("--ro-bind", path, path)),
        "--proc", "/proc", "--dev", "/dev", *(("--dev-bind", "/dev/kvm", "/dev/kvm") if kvm else ()),
        "--remount-ro", "/", "--clearenv", "--setenv", *tag, "--chdir", "/",
        "--cap-drop", "ALL", *(part for name in _SET_UID for part in ("--cap-add", name)),
        found.setpriv, "--reuid", str(uid), "--regid", str(uid), "--clear-groups",
        "--bounding-set", "-all", "--inh-caps", "-all", "--ambient-caps", "-all", "--no-new-privs",
    )  # fmt: skip


def arguments(
    found: Programs, machine: Machine, guest: GuestFiles, *, incoming: bool, waits: bool, shared: bool, anonymous: bool
) -> tuple[str, ...]:
    """QEMU's own. `incoming`: it waits for a snapshot; `waits`: and then until it is told to go on; `shared`: what it writes to
    its memory stays in the file (a template is being made); `anonymous`: no file, the memory is its own."""
    fd = {name: FIRST_FD + number for number, name in enumerate(FDS)}
    sets = tuple(part for name in ("log", "disk", "console") for part in ("-add-fd", f"fd={fd[name]},set={fd[name]}"))
    backend = f"memory-backend-file,mem-path=/proc/self/fd/{fd['memory']},share={'on' if shared else 'off'}"
    if anonymous:
        backend = f"memory-backend-ram,merge={'on' if machine.merge else 'off'}"
    return (
        found.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", SANDBOX,
        "-M", "microvm,acpi=on,memory-backend=mem,pcie=off,usb=off", *_accelerator(machine),
        "-object", f"{backend},id=mem,size={machine.memory_mib}M", "-smp", str(machine.vcpus), "-m", f"{machine.memory_mib}M",
        "-global", "virtio-mmio.force-legacy=false", *sets,
        "-chardev", f"socket,id=qmp,fd={fd['qmp']},server=on,wait=off", "-mon", "chardev=qmp,mode=control",
        "-chardev", f"file,id=console,path=/dev/fdset/{fd['console']},append=on", "-serial", "chardev:console",
        "-drive", f"if=none,id=disk,file=/dev/fdset/{fd['disk']},format=raw,readonly=on,cache=writeback,aio=threads",
        "-device", "virtio-blk-device,drive=disk",
        "-chardev", f"file,id=log,path=/dev/fdset/{fd['log']},append=on",
        "-device", "virtio-serial-device", "-device", "virtconsole,chardev=log,nr=0",
        "-chardev", f"socket,id=agent,fd={fd['agent']},server=on,wait=off",
        "-device", f"virtserialport,chardev=agent,nr=1,name={AGENT_PORT}",
        "-netdev", f"tap,id=net,fd={fd['tap']},vhost=off",
        "-device", f"virtio-net-device,netdev=net,mac={MAC}",
        *(("-device", "virtio-balloon-device,deflate-on-oom=on,free-page-reporting=on") if anonymous else ()),
        *(("-incoming", "defer") if incoming else _kernel(machine, guest)), *(("-S",) if waits else ()),
    )  # fmt: skip


def _accelerator(machine: Machine) -> tuple[str, ...]:
    if machine.accelerator == "kvm":
        return ("-accel", "kvm", "-cpu", "host")
    # Not "single", not even for one CPU: that thread may start the guest's timers again after `stop`. Their clock stands still,
    # so QEMU wakes for ever after what was left of the next one, be it microseconds.
    return ("-accel", f"tcg,thread=multi,tb-size={machine.translated_code_mib}", "-cpu", "max")


def _kernel(machine: Machine, guest: GuestFiles) -> tuple[str, ...]:
    words = ["quiet", "console=ttyS0", "reboot=t", "panic=-1", "cryptomgr.notests"]
    if machine.accelerator == "tcg":
        # Without it the guest measures its clock against an emulated timer, and some hang there. It is exact: both are ours.
        words += [f"tsc_early_khz={machine.tsc_khz}", "tsc=reliable", "mitigations=off"]
    return ("-kernel", guest.kernel, "-initrd", guest.initramfs, "-append", " ".join((*words, "--", "port")))
