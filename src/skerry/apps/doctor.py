"""`skerry doctor`: what this machine has, what it lacks, what that disables, and how to get it.

Everything is tried, not looked up: engines are run, a sandbox is made, groups are made and removed. Exit status 0
means that Skerry can run workers here; what only limits it is listed and does not count.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from skerry.adapters import fineturns, machine, tools
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.network.linux.probe import probe
from skerry.adapters.sandbox.microvm import build, kvm
from skerry.adapters.sandbox.oci.runtimes import has_systrap
from skerry.apps.microvm_engine import find_choice
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.layout import default_data_dir
from skerry.apps.supervisor.lock import open_supervisor, read_platform
from skerry.apps.supervisor.ports import Wanted, refuse_if_taken
from skerry.kit.record import Record

OPEN_FILES_MIN = 4096  # 14 per instance, and HAProxy's two per connection
MEMORY_MIB_MIN = 1024  # for control, three sites and eight nodes, with an app in each
PORTS = (
    Wanted(host="127.0.0.1", port=8080, use="users of any city", option="--port"),
    Wanted(host="127.0.1.1", port=8080, use="users of the first city", option="--port"),
    Wanted(host="127.0.0.1", port=8787, use="the API", option="--api-port"),
)

NO_WORKER = "no worker runs: the code of others is never started without a sandbox"
NO_MICROVM = "apps in microVMs"
NO_CLIENT = "`skerry wrangler` and deploying the example"
NO_CONTAINER = "containers (the isolation class container) by crun; runc does as well where it is named as the engine"
ENGINES: tuple[tuple[Callable[[], tools.Tool], str, bool], ...] = (
    (tools.find_workerd, "no worker runs", True),
    (tools.find_bwrap, NO_WORKER, True),
    (tools.find_haproxy, "no site has an ingress", True),
    (tools.find_node, NO_CLIENT, False),
    (tools.find_wrangler, NO_CLIENT, False),
    (tools.find_crun, NO_CONTAINER, False),
    (tools.find_runsc, "the isolation class gvisor", False),
)


class Finding(Record):
    """One thing that was tried. `limited`: Skerry runs, without what `disables` names; `missing`: no worker runs."""

    name: str
    state: Literal["ok", "limited", "missing"]
    found: str
    path: str = ""
    disables: str = ""
    remedy: str = ""


def examine() -> tuple[Finding, ...]:
    """Try everything, in the order in which it matters."""
    probes = (
        _engines,
        _sandbox,
        _rights,
        _groups,
        _turns,
        _containers,
        _networks,
        _certificates,
        _sleep,
        _clock,
        _files,
        _memory,
        _ports,
        _microvms,
    )
    return tuple(finding for probe in probes for finding in probe())


def doctor(*, json: bool = False, required: bool = False) -> int:
    """Print the findings as a table, as JSON, or (`required`) only what keeps workers from running.

    Returns the exit status: 1 if something is missing without which no worker runs.
    """
    findings = examine()
    missing = [finding for finding in findings if finding.state == "missing"]
    if json:
        rows = [msgspec.structs.asdict(finding) for finding in findings]
        print(msgspec.json.encode({"usable": not missing, "findings": rows}).decode())
    elif required:
        for finding in missing:
            print(f"{finding.name}: {finding.found}\n  {finding.disables}\n  get it: {finding.remedy}")
    else:
        _print_table(findings)
    return 1 if missing else 0


def _judge(name: str, found: str, *, good: bool, disables: str, remedy: str, required: bool = False, path: str = "") -> Finding:
    if good:
        return Finding(name=name, state="ok", found=found, path=path)
    return Finding(name=name, state="missing" if required else "limited", found=found, disables=disables, remedy=remedy)


def _engines() -> Iterator[Finding]:
    for find, disables, required in ENGINES:
        tool = find()
        found = tool.version or tool.problem
        yield _judge(tool.name, found, good=tool.usable, disables=disables, remedy=tool.remedy, required=required, path=tool.path)


def _sandbox() -> Iterator[Finding]:
    bwrap = tools.find_bwrap()
    if not bwrap.usable:
        return
    refused = machine.try_sandbox(bwrap.path)
    yield _judge(
        "sandbox",
        refused.said if refused else "own pid, ipc, uts and network namespaces",
        good=refused is None,
        disables=NO_WORKER,
        remedy=refused.remedy if refused else "",
        required=True,
    )


def _rights() -> Iterator[Finding]:
    root = os.geteuid() == 0
    yield _judge(
        "root",
        "yes" if root else "no, an ordinary user",
        good=root,
        disables="a user id for each app, memory and CPU limits, putting idle apps to sleep",
        remedy="run as root: sudo make run",
    )


def _groups() -> Iterator[Finding]:
    groups = machine.try_groups()
    yield _judge(
        "limits",
        groups.problem or "cgroups with memory, CPU and process limits",
        good=groups.limits,
        disables="memory and CPU limits of apps",
        remedy="run as root, on a kernel with control groups",
    )
    yield _judge(
        "cgroup.kill",
        "yes" if groups.kill else "not for this user",
        good=groups.kill,
        disables="ending a sandbox in one step (its processes are ended one by one)",
        remedy="run as root, on Linux 5.14 or newer with the unified hierarchy mounted",
    )


def _turns() -> Iterator[Finding]:
    tree, _ = find_tree("skerry")
    if tree is None:
        return  # "limits" says why
    good, found = (True, "those who yield are one group") if tree.gathers else fineturns.find()
    yield _judge(
        "turns on the CPU",
        found,
        good=good,
        disables="quick answers beside many busy neighbours: whoever wakes up may wait for some ticks",
        remedy="as root, with a kernel that has HRTICK: mount -t debugfs none /sys/kernel/debug",
    )


def _networks() -> Iterator[Finding]:
    found = probe()
    yield _judge(
        "networks",
        found.rules or "namespaces, veth, nftables with nat",
        good=found.usable,
        disables="containers and microVMs: no program runs without a network of its own",
        remedy="run as root, and: sudo apt-get install libnftables1",
    )
    if not found.usable:
        return
    yield _judge(
        "bandwidth",
        found.shaping or "tbf",
        good=not found.shaping,
        disables="limits of programs' bandwidth",
        remedy="a kernel with sch_tbf: sudo modprobe sch_tbf",
    )
    yield _judge(
        "tap",
        found.tap or "/dev/net/tun",
        good=not found.tap,
        disables="the network of microVMs",
        remedy="sudo modprobe tun",
    )


def _containers() -> Iterator[Finding]:
    """What root file systems of containers need of the kernel; mounting is tried when the node starts."""
    lacking = machine.missing_for_containers()
    yield _judge(
        "container images",
        "overlayfs, loop devices, mke2fs" if not lacking else f"without {', '.join(name for name, _ in lacking)}",
        good=not lacking and os.geteuid() == 0,
        disables="containers, gVisor and microVMs",
        remedy="; ".join(remedy for _, remedy in lacking) or "run as root: sudo make run",
    )
    runsc = tools.find_runsc()
    if runsc.usable:
        fast = has_systrap(runsc.version)
        yield _judge(
            "gVisor platform",
            "systrap" if fast else f"ptrace: runsc {runsc.version} is of before 2023",
            good=fast,
            disables="snapshots and clones of gVisor's sandboxes, and its own network",
            remedy="skerry doctor --get gvisor",
        )


def get(what: str) -> int:
    """Bring what is not part of set-up: an engine that no package has, what guests boot; the exit status."""
    from skerry.adapters.gobuild import BuildFailed, get_gvisor

    try:
        print(get_gvisor(print) if what == "gvisor" else build.get().kernel)
    except (BuildFailed, build.BuildError) as error:
        print(f"{what}: {error}", file=sys.stderr)
        return 1
    return 0


def _certificates() -> Iterator[Finding]:
    count = machine.certificates()
    yield _judge(
        "certificates",
        f"{count} in {machine.CERTIFICATES}" if count else f"none in {machine.CERTIFICATES}",
        good=count > 0,
        disables="calls of apps to the outside (the egress cannot tell who answers)",
        remedy="sudo apt-get install ca-certificates",
    )


def _sleep() -> Iterator[Finding]:
    active, available = machine.zram_swap()
    yield _judge(
        "zram",
        "swap on zram is on" if active else "in this kernel, no swap on it" if available else "not in this kernel",
        good=active or (available and os.geteuid() == 0),
        disables="putting idle apps to sleep in compressed memory",
        remedy="sudo modprobe zram, and run as root",
    )


def _clock() -> Iterator[Finding]:
    khz = machine.tsc_khz()
    yield _judge(
        "clock frequency",
        f"{khz / 1000:.0f} MHz" if khz else "the kernel does not tell",
        good=khz > 0,
        disables="4 ms of each start of a worker (spent on measuring it)",
        remedy="run as root, on a kernel whose log still has its beginning",
    )


def _files() -> Iterator[Finding]:
    limit = machine.open_files_max()
    yield _judge(
        "open files",
        f"{limit} for a process",
        good=limit >= OPEN_FILES_MIN,
        disables="many apps and many connections",
        remedy=f"ulimit -Hn {OPEN_FILES_MIN} as root, or nofile in /etc/security/limits.conf, or LimitNOFILE= of a service",
    )


def _memory() -> Iterator[Finding]:
    free_mib = machine.memory_available_mib()
    yield _judge(
        "memory",
        f"{free_mib} MiB free",
        good=free_mib >= MEMORY_MIB_MIN,
        disables="three cities at once",
        remedy="fewer cities and nodes: skerry up --cities lhr:1",
    )


def _ports() -> Iterator[Finding]:
    running = _running_pid()
    for wanted in PORTS:
        problem = ""
        try:
            refuse_if_taken((wanted,))
        except UpError as error:
            problem = str(error)
        yield _judge(
            f"{wanted.host}:{wanted.port}",
            f"in use; Skerry runs (pid {running})" if problem and running else problem or "free",
            good=not problem or running is not None,
            disables="starting with the usual ports",
            remedy=f"skerry up {wanted.option} N",
        )


def _running_pid() -> int | None:
    """The supervisor of this user's platform, if one runs: then it is that which has the ports."""
    platform = read_platform(default_data_dir())
    process = open_supervisor(platform) if platform else None
    if platform is None or process is None:
        return None
    process.close()
    return platform.pid


def _microvms() -> Iterator[Finding]:
    for find, disables in (
        (tools.find_qemu, NO_MICROVM),
        (tools.find_firecracker, "microVMs in Firecracker (QEMU runs them)"),
        (tools.find_jailer, "microVMs in Firecracker (QEMU runs them)"),
    ):
        tool = find()
        found = tool.version or tool.problem
        yield _judge(tool.name, found, good=tool.usable, disables=disables, remedy=tool.remedy, path=tool.path)
    guest = build.find()
    yield _judge(
        "guest kernel",
        guest.release if guest else "not made yet",
        good=guest is not None,
        disables=NO_MICROVM,
        remedy=build.GET,
        path=guest.kernel if guest else "",
    )
    virtual = kvm.probe()
    yield _judge(
        "kvm",
        virtual.reason or "runs a guest's kernel",
        good=virtual.usable,
        disables="speed of microVMs (their instructions are emulated), and Firecracker",
        remedy="a machine with hardware virtualization, or nested virtualization switched on for this one",
    )
    choice = find_choice("auto")
    yield Finding(name="microVM engine", state="ok", found=f"{choice.engine}: {choice.why}")


def _print_table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {"ok": "[green]✓[/]", "limited": "[yellow]–[/]", "missing": "[red]✗[/]"}
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        text = escape(finding.found) + (f"  [dim]{escape(_shortened(finding.path))}[/]" if finding.path else "")
        if finding.state != "ok":
            text += f"\n[dim]without it:[/] {escape(finding.disables)}\n[dim]get it:[/]     {escape(finding.remedy)}"
        table.add_row(marks[finding.state], f"[bold]{finding.name}[/]", text)
    Console().print(table)
    Console().print(f"\n{_verdict(findings)}")


def _shortened(path: str) -> str:
    return path.removeprefix(f"{tools.tree()}/")


def _verdict(findings: Sequence[Finding]) -> str:
    if any(finding.state == "missing" for finding in findings):
        return "[red]Workers cannot run here yet.[/]"
    limited = ", ".join(finding.name for finding in findings if finding.state == "limited")
    return "[green]Workers can run here[/]" + (f"; limited by: {limited}." if limited else ".")


if __name__ == "__main__":
    if "--get" in sys.argv:
        sys.exit(get(sys.argv[-1]))
    sys.exit(doctor(json="--json" in sys.argv, required="--required" in sys.argv))
