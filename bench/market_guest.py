"""A node's market in the unified hierarchy (cgroup v2): what a modest instance's user notices of greedy neighbours.

    python -m bench market_guest [--hogs 1,4,16] [--rounds N] [--seconds S] [--kernel FILE | --package NAME] [--json FILE]

In guests of QEMU with a kernel of the distribution, since this machine may have the old hierarchies. The platform's own groups,
market and switch of the kernel there divide the CPU among plain processes: a victim that computes for 1 ms when it is asked, 50
times a second, and hogs of which every other one rests for 1 ms after each 30. The market looks before each measurement, not
during one: for an emulated CPU a look is ten times the work or more. What it costs is printed by itself. Two guests:

    exact   one CPU; its time is counted in instructions, so that whatever else this machine does makes no difference
    2 CPUs  emulated side by side, in this machine's time: what others do here is felt, and switching from one process
            to another takes much longer than on a real machine. CPUs never sleep, so that "alone" is felt alike; the
            switch is set all the time

p99 of the answers, median of the rounds, against the p99 alone in the same guest. "bound": the victim and its user in the
kernel's real-time class.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from _measure import Report, median, spread
from skerry.adapters import tools
from skerry.adapters.sandbox.microvm import build
from skerry.testing import groups_guest

GOAL = 1.5  # times the victim's p99 alone
LEFT_PERCENT = 85  # of what the others leave, what hogs have to get
KEEPER_PERCENT = 1.0  # of a CPU
INSTANCES = 200
RATE, WORK_MS = 50, 1.0
MEMORY_MIB, WITHIN_S = 512, 200
WORDS = ("idle=poll", "maxcpus=1")  # the second CPU is set going when the kernel has changed its own code
ELF = b"\x7fELF"


def plan_of(options: argparse.Namespace, hogs: list[int], *, exact: bool) -> dict[str, Any]:
    ways = [(count, way) for count in hogs for way in ("off", "on")] + [(max(hogs), "bound")]
    return {
        "hogs": hogs, "ways": ways, "rounds": 1 if exact else options.rounds, "seconds": options.seconds,
        "rate": RATE, "work_ms": WORK_MS, "instances": INSTANCES if exact else 0, "exact": exact,
    }  # fmt: skip


async def run(files: build.GuestFiles, kernel: str, plan: dict[str, Any], *, exact: bool) -> str:
    guest = groups_guest.Guest(
        inside="_market_inside", arguments=(json.dumps(plan, separators=(",", ":")),), kernel=kernel, modules=(),
        cpus=1 if exact else 2, memory_mib=MEMORY_MIB, exact=exact, words=() if exact else WORDS, within_s=WITHIN_S,
    )  # fmt: skip
    return await groups_guest.run(tools.find_qemu().path, files, guest)


def tell(report: Report, name: str, said: str, hogs: list[int], *, exact: bool) -> None:
    found: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    told = {word: json.loads(rest) for word, _, rest in (line.partition(" ") for line in said.splitlines()) if word in TOLD}
    for line in said.splitlines():
        if line.startswith("seen "):
            count, way, seen = json.loads(line.removeprefix("seen "))
            found[count, way].append(seen)
    if groups_guest.DONE not in said.splitlines() or not found:
        sys.exit(f"the guest did not come to its end:\n{said}")
    base = median(seen["p99"] for seen in found[0, ""])
    rows = [row(count, way, seen, base) for (count, way), seen in found.items()]
    report.table(f"{name}, Linux {told['kernel']}: a victim's p99, median of {len(found[0, ''])} rounds", rows)
    for count in hogs:
        on = found[count, "on"]
        report.claim(f"{name}, beside {count} hostile, throttled: times alone", median(s["p99"] for s in on) / base, at_most=GOAL)
        if count > 1:
            report.claim(f"{name}, {count} hogs' part of what is left", median(map(part, on)), at_least=LEFT_PERCENT, unit="%")
    if "keeper" in told:
        emulated = f"{name}: a look each second at {INSTANCES} instances, of an emulated CPU"
        report.note(f"{emulated}: {told['keeper'] / 10:.1f} %")


TOLD = ("kernel", "keeper")


def part(seen: dict[str, float]) -> float:
    """In percent, what hogs got of what there was for them."""
    return 100 * seen["hogs"] / (seen["hogs"] + seen["idle"])


def row(count: int, way: str, found: list[dict[str, float]], base: float) -> dict[str, object]:
    p99 = [seen["p99"] for seen in found]
    return {
        "neighbours": f"{count} hostile" if count else "none", "throttling": way, "p50 ms": median(s["p50"] for s in found),
        "p99 ms": median(p99), "least-greatest": spread(p99), "worst ms": max(s["worst"] for s in found),
        "times alone": median(p99) / base, "held": max(int(s.get("held", 0)) for s in found) if way == "on" else "",
        "hogs' CPUs": median(s["hogs"] for s in found), "agent's": median(s["agent"] for s in found),
        "nobody's": median(s["idle"] for s in found),
    }  # fmt: skip


def kernel_of(options: argparse.Namespace, scratch: Path) -> str:
    """A file that QEMU loads; empty: the guests' own kernel."""
    image: Path | None = options.kernel
    if options.package:
        subprocess.run(
            ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", options.package],
            cwd=scratch,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(["dpkg", "-x", str(next(scratch.glob("*.deb"))), str(scratch / "root")], check=True)
        image = next((scratch / "root/boot").glob("vmlinuz-*"))
    if image is None:
        return ""
    data = image.read_bytes()
    if data.startswith(ELF):
        return str(image)
    unpacked = scratch / "vmlinux"
    unpacked.write_bytes(build.unpack(data))
    return str(unpacked)


async def main(options: argparse.Namespace) -> int:
    report = Report(options.json)
    hogs, files, qemu = [int(word) for word in options.hogs.split(",")], build.find(), tools.find_qemu()
    if files is None or not qemu.usable:
        report.note(f"skipped: {qemu.problem or f'no kernel for guests: {build.GET}'}")
        return report.close()
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as scratch:
        kernel = await asyncio.to_thread(kernel_of, options, Path(scratch))
        for name, exact in (("exact", True), ("2 CPUs", False)):
            said = await run(files, kernel, plan_of(options, hogs, exact=exact), exact=exact)
            tell(report, name, said, hogs, exact=exact)
    return report.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hogs", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=2, help="of the guest with 2 CPUs; the exact one needs one")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--kernel", type=Path, help="another kernel, as the distribution packs it or as vmlinux")
    parser.add_argument("--package", help="another kernel of the distribution, by the name of its package")
    parser.add_argument("--json", type=Path)
    raise SystemExit(asyncio.run(main(parser.parse_args())))
