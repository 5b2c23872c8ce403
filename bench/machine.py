"""Containers against their engines by hand: start, idle memory, churn. As root, with busybox-static.

    python -m bench machine [start] [idle] [churn] [soak] [--rounds N] [--seconds S] [--runtimes crun,runc,runsc]

start   from the request to the first byte of output: through the ports, against the same runtime called by hand with the same
        configuration, and against containerd's own client (ctr) with the same image and runtime
idle    private memory of a sandbox that sleeps, with all that runs for it, and how many fit into a GiB
churn   100 containers started, seen and removed: how long, and what is left
soak    the same until SECONDS are over
"""

import argparse
import asyncio
import contextlib
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _containerd import Containerd, missing, remove_groups
from _measure import Report, median, rotated, spread
from skerry.adapters.process import detached
from skerry.adapters.sandbox.oci import runtimes
from skerry.adapters.sandbox.oci.engine import OciEngine
from skerry.adapters.sandbox.oci.session import descendants
from skerry.kit.record import Record
from skerry.ports.sandbox import EngineUnavailable, SandboxLimits, SandboxSpec
from skerry.testing.contracts.sandbox import FOREVER, log_of
from skerry.testing.oci_node import OciNode, busybox

GOALS = {"crun": 1.3, "runsc": 1.2}
SLEEPERS = 8
CHURN = 100
AT_ONCE = 4
# As a group made by hand has it: the runtimes are measured, not a share of a busy machine.
ROOMY = SandboxLimits(memory_mib_max=128, cpu_millicores_max=2000, cpu_shares=1024)
BY_HAND = "skerry-bench-hand"  # control groups of those called by hand
PARTS = ("start", "idle", "churn", "soak")
MIB = 1 << 20


class Start(Record):
    """ms to the first output: through the ports without and with the mount of a root file system, by hand, by ctr."""

    ports: float
    whole: float
    hand: float
    ctr: float


class Bench:
    def __init__(self, root: Path, name: runtimes.Name) -> None:
        (root / name).mkdir()
        self.node = OciNode(root / name, runtimes.find(name))
        self.name = name
        self.engine: OciEngine | None = None

    async def open(self) -> "Bench":
        self.engine = await self.node.open()
        await self.node.open_images()
        return self

    @property
    def ready(self) -> OciEngine:
        assert self.engine is not None
        return self.engine

    async def through_ports(self) -> tuple[float, float]:
        """ms to the first output: (without the mount of its root file system, with it)."""
        images = await self.node.open_images()
        assert self.node.built is not None
        began = time.perf_counter()
        name = secrets.token_hex(8)
        rootfs = await images.mount(name, self.node.built.image, writable_mib=64)
        mounted = time.perf_counter()
        spec = self.spec(name, rootfs, "echo hi; " + FOREVER)
        starting = asyncio.ensure_future(self.ready.start(spec))
        while not log_of(spec):
            await asyncio.sleep(0.0005)
        seen = time.perf_counter()
        await starting
        await self.remove(name)
        return (seen - mounted) * 1000, (seen - began) * 1000

    async def by_hand(self) -> float:
        """ms to the first output of the same configuration, run as a person would."""
        images = await self.node.open_images()
        assert self.node.built is not None
        name = secrets.token_hex(8)
        rootfs = await images.mount(name, self.node.built.image, writable_mib=64)
        bundle = Path(tempfile.mkdtemp(dir=self.node.root))
        config = self.hand_configuration(rootfs)
        (bundle / "config.json").write_bytes(config)
        state = bundle / "state"
        command = self.node.runtime.command(state, None, "run", f"--bundle={bundle}", name)
        began = time.perf_counter()
        process = subprocess.Popen([*self.ready.launcher, *command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stdout.read(1)
        took = (time.perf_counter() - began) * 1000
        for pid in descendants(process.pid):
            with contextlib.suppress(AttributeError):
                detached.open_pid(pid).signal(9)  # type: ignore[union-attr]
        process.wait()
        subprocess.run([*self.ready.launcher, *self.node.runtime.command(state, None, "delete", "--force", name)], check=False,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        await images.unmount(name)
        return took

    def hand_configuration(self, rootfs: Path) -> bytes:
        from skerry.adapters.sandbox.oci.bundle import Frame, configuration
        from skerry.kit.record import encode

        frame = Frame(
            architecture="amd64", uid_first=rootfs.stat().st_uid, cgroups_path=f"/{BY_HAND}/{secrets.token_hex(4)}",
            system=None, seccomp=not self.node.runtime.is_gvisor,
        )  # fmt: skip
        return encode(configuration(self.spec("hand", rootfs, "echo hi; " + FOREVER), frame))

    def spec(self, name: str, rootfs: Path, script: str) -> SandboxSpec:
        return SandboxSpec(
            id=name, rootfs=str(rootfs), argv=("/bin/sh", "-c", script), env={"PATH": "/bin"}, limits=ROOMY, netns="",
            log=str(self.node.root / f"{name}.log"),
        )  # fmt: skip

    async def run(self, script: str) -> SandboxSpec:
        images = await self.node.open_images()
        assert self.node.built is not None
        name = secrets.token_hex(8)
        spec = self.spec(name, await images.mount(name, self.node.built.image, writable_mib=64), script)
        await self.ready.start(spec)
        return spec

    async def remove(self, name: str) -> None:
        await self.ready.remove(name)
        await (await self.node.open_images()).unmount(name)

    async def cycle(self) -> None:
        spec = await self.run("echo hi; " + FOREVER)
        while not log_of(spec):
            await asyncio.sleep(0.005)
        await self.remove(spec.id)
        Path(spec.log).unlink()


async def measure_start(benches: list[Bench], report: Report, rounds: int, place: Path) -> None:
    found: dict[str, list[Start]] = {bench.name: [] for bench in benches}
    by_name = {bench.name: bench for bench in benches}
    with peer(benches, report, place) as containerd:
        for number in range(rounds + 1):
            for name in rotated(list(by_name), number):
                start = await started(by_name[name], containerd)
                if number:  # the first one warms up
                    found[name].append(start)
    report.table("first output after", [start_row(name, starts) for name, starts in found.items()])
    for name, goal in GOALS.items():
        if name in by_name:
            ratio = median(one.ports for one in found[name]) / median(one.hand for one in found[name])
            report.claim(f"{name}: ports against by hand", ratio, at_most=goal)
    if containerd is not None and "crun" in by_name:
        against = median(one.whole for one in found["crun"]) / median(one.ctr for one in found["crun"])
        report.claim("crun: ports and root fs against ctr", against, at_most=1.0)


@contextlib.contextmanager
def peer(benches: list[Bench], report: Report, place: Path) -> Iterator[Containerd | None]:
    """None, with the reason in the report, where there is no containerd."""
    problem = missing()
    if problem or not benches:
        report.note(f"without ctr: {problem}")
        yield None
        return
    built = benches[0].node.built
    assert built is not None
    with Containerd(place).running(benches[0].ready.launcher, built) as containerd:
        yield containerd


async def started(bench: Bench, containerd: Containerd | None) -> Start:
    ports, whole = await bench.through_ports()
    hand = await bench.by_hand()
    runtime = (bench.node.runtime.path, *bench.node.runtime.options)
    ctr = await asyncio.to_thread(containerd.first_output, runtime) if containerd is not None else float("nan")
    return Start(ports=ports, whole=whole, hand=hand, ctr=ctr)


def start_row(name: str, starts: list[Start]) -> dict[str, object]:
    ports, hand = [one.ports for one in starts], [one.hand for one in starts]
    return {
        "runtime": name, "ports ms": median(ports), "with root fs ms": median(one.whole for one in starts),
        "by hand ms": median(hand), "ctr ms": median(one.ctr for one in starts), "least": min(ports), "least by hand": min(hand),
        "least ctr": min(one.ctr for one in starts), "spread": spread(ports), "ratio": median(ports) / median(hand),
    }  # fmt: skip


async def measure_idle(benches: list[Bench], report: Report) -> None:
    rows = []
    for bench in benches:
        specs = [await bench.run("echo hi; " + FOREVER) for _ in range(SLEEPERS)]
        for spec in specs:
            while not log_of(spec):
                await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        total = 0
        for spec in specs:
            outer = detached.attach(spec.id, records=bench.node.places.processes)
            assert outer is not None
            total += sum(private_bytes(pid) for pid in {outer.pid, *descendants(outer.pid)})
            outer.close()
        for spec in specs:
            await bench.remove(spec.id)
        each = total / SLEEPERS / MIB
        rows.append({"runtime": bench.name, "private MiB": each, "in a GiB": int(1024 / each)})
    report.table(f"asleep (`sleep`), each of {SLEEPERS}", rows)


def private_bytes(pid: int) -> int:
    """Proportional: what is shared is divided by who shares it."""
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(text.split("Pss:")[1].split()[0]) * 1024
    return 0


async def measure_churn(benches: list[Bench], report: Report, *, seconds: float | None) -> None:
    rows = []
    for bench in benches:
        began, done = time.perf_counter(), 0
        while done < CHURN if seconds is None else time.perf_counter() - began < seconds:
            await asyncio.gather(*(bench.cycle() for _ in range(AT_ONCE)))
            done += AT_ONCE
        took = time.perf_counter() - began
        left = await bench.node.leftovers()
        rows.append({"runtime": bench.name, "containers": done, "seconds": took, "a minute": done / took * 60, "left": len(left)})
        report.claim(f"{bench.name}: containers a minute", done / took * 60, at_least=100)
        report.claim(f"{bench.name}: what is left", len(left), at_most=0)
    report.table("started, seen and removed", rows)


async def main(arguments: argparse.Namespace) -> int:
    report = Report(arguments.json)
    root = Path(tempfile.mkdtemp(prefix="skerry-bench-"))
    benches: list[Bench] = []
    for name in arguments.runtimes.split(","):
        try:
            benches.append(await Bench(root, name).open())
        except EngineUnavailable as error:
            report.note(str(error))
    parts = arguments.parts or PARTS[:3]
    try:
        if "start" in parts:
            (root / "peer").mkdir()
            await measure_start(benches, report, arguments.rounds, root / "peer")
        if "idle" in parts:
            await measure_idle(benches, report)
        if "churn" in parts:
            await measure_churn(benches, report, seconds=None)
        if "soak" in parts:
            await measure_churn(benches, report, seconds=arguments.seconds)
    finally:
        for bench in benches:
            await bench.node.clean_up()
        remove_groups(BY_HAND)
        shutil.rmtree(root, ignore_errors=True)
    return report.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--runtimes", default="crun,runc,runsc")
    parser.add_argument("--json", type=Path)
    if busybox() is None:
        parser.exit(0, "skipped: no static busybox (sudo apt-get install busybox-static)\n")
    raise SystemExit(asyncio.run(main(parser.parse_args())))
