"""MicroVMs in QEMU: how long until one answers HTTP, what an idle one costs, and what clones and merging save.

    python -m bench microvm [--rounds 8] [--json FILE]

A busybox web server on a network of its own; times run from `start` to the last byte of its first answer. Needs root.
"""

import argparse
import asyncio
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _measure import Report
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.sandbox.qemu.engine import QemuEngine, find_host
from skerry.ports.sandbox import EngineUnavailable, Sandbox, SandboxLimits, SandboxSpec
from skerry.testing.microvm import GuestWire, busybox_disk

CLONE_MS_MAX = 200
KSM = Path("/sys/kernel/mm/ksm")
MERGE_S = 20
LIMITS = SandboxLimits(memory_mib_max=64, cpu_millicores_max=1000, cpu_shares=1024)
MIB = 1 << 20


class Bench:
    def __init__(self, root: Path, engine: QemuEngine, report: Report) -> None:
        self.engine, self.report = engine, report
        self.root = root
        self._disk = busybox_disk(root, files={"www/index.html": "hello\n"})
        self._wires: list[GuestWire] = []

    def spec(self, *, merge: bool = False) -> tuple[SandboxSpec, GuestWire]:
        wire = GuestWire(f"bench-{secrets.token_hex(4)}")
        wire.make()
        self._wires.append(wire)
        spec = SandboxSpec(
            id=secrets.token_hex(8), rootfs="/", argv=("/bin/httpd", "-f", "-p", "80", "-h", "/www"), env={}, limits=LIMITS,
            netns=wire.path, network=wire.guest, disk=str(self._disk), log=str(self.root / "log"), merge_memory=merge,
        )  # fmt: skip
        return spec, wire

    async def answer(self, *, merge: bool = False, snapshot: str | None = None) -> tuple[Sandbox, float, float]:
        """(the machine, ms until it was started, ms until it had answered)."""
        spec, wire = self.spec(merge=merge)
        began = time.perf_counter()
        sandbox = await self.engine.start(spec, snapshot=snapshot)
        started = time.perf_counter()
        await wire.get()
        return sandbox, (started - began) * 1000, (time.perf_counter() - began) * 1000

    async def series(
        self, rounds: int, *, merge: bool = False, snapshot: str | None = None
    ) -> tuple[list[Sandbox], dict[str, str]]:
        """`rounds` machines, one after the other; they stay."""
        found = [await self.answer(merge=merge, snapshot=snapshot) for _ in range(rounds)]
        starts, answers = [each[1] for each in found], [each[2] for each in found]
        cpu = statistics.median(each[0].stats().cpu_us / 1000 for each in found)
        row = {
            "started ms": f"{statistics.median(starts):.0f}",
            "first answer ms": f"{statistics.median(answers):.0f}",
            "from": f"{min(answers):.0f}",
            "to": f"{max(answers):.0f}",
            "CPU ms": f"{cpu:.0f}",
        }
        return [each[0] for each in found], row

    async def end(self, sandboxes: list[Sandbox]) -> None:
        for sandbox in sandboxes:
            await self.engine.remove(sandbox.id)

    def close(self) -> None:
        for wire in self._wires:
            wire.remove()


def private_mib(sandboxes: list[Sandbox]) -> float:
    return statistics.mean(sandbox.stats().private_bytes for sandbox in sandboxes) / MIB


async def measure(bench: Bench, rounds: int) -> None:
    booted, boot_row = await bench.series(3, merge=True)
    boot_private = private_mib(booted)
    merged = await merge(booted)
    await bench.end(booted)
    await bench.end((await bench.series(1))[0])  # makes the template
    fresh, fresh_row = await bench.series(rounds)
    fresh_private = private_mib(fresh)
    snapshot = bench.root / "snapshot"
    snapshot.mkdir()
    began = time.perf_counter()
    await fresh[0].snapshot(str(snapshot))
    took = (time.perf_counter() - began) * 1000
    await bench.end(fresh)
    await bench.end((await bench.series(1, snapshot=str(snapshot)))[0])  # brings the snapshot into memory
    clones, clone_row = await bench.series(rounds, snapshot=str(snapshot))
    clone_private = private_mib(clones)
    await bench.end(clones)
    rows = [
        {"start": "boot", **boot_row, "private MB": f"{boot_private:.1f}"},
        {"start": "template of a booted guest", **fresh_row, "private MB": f"{fresh_private:.1f}"},
        {"start": "snapshot of a running program", **clone_row, "private MB": f"{clone_private:.1f}"},
    ]
    bench.report.table("one after the other; private: what is free when it ends", rows)
    bench.report.note(f"a snapshot of a running machine took {took:.0f} ms")
    bench.report.note(f"a clone saves {boot_private - clone_private:.0f} MB of {boot_private:.0f} MB; {merged}")
    bench.report.claim("clone to first answer", float(clone_row["first answer ms"]), at_most=CLONE_MS_MAX, unit="ms")


async def merge(sandboxes: list[Sandbox]) -> str:
    """What merging of equal pages saves for machines that allow it."""
    if not (KSM / "run").exists():
        return "this kernel merges no pages"
    before = {name: (KSM / name).read_text() for name in ("run", "pages_to_scan", "sleep_millisecs")}
    private = private_mib(sandboxes)
    try:
        for name, value in (("pages_to_scan", "20000"), ("sleep_millisecs", "20"), ("run", "1")):
            (KSM / name).write_text(value)
        await asyncio.sleep(MERGE_S)
        shared = int((KSM / "pages_sharing").read_text()) * 4096 / MIB
        return (
            f"merging saves {shared:.0f} MB for {len(sandboxes)} booted ones in {MERGE_S} s"
            f" ({private:.0f} -> {private_mib(sandboxes):.0f} MB each)"
        )
    finally:
        for name, value in before.items():
            (KSM / name).write_text(value)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        find_host()
    except EngineUnavailable as error:
        print(f"  skipped: {error}")
        return 0
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as name:
        root = Path(name)
        engine = QemuEngine(data=root / "data", run=root / "run")
        await engine.attach(frozenset())
        report = Report(options.json)
        print(f"  {engine.facts.name} {engine.facts.version}; without: {dict(engine.facts.missing)}")
        bench = Bench(root, engine, report)
        try:
            await measure(bench, options.rounds)
        finally:
            await engine.attach(frozenset())
            await engine.aclose()
            bench.close()
            tree, _ = find_tree(f"skerry-{engine.places.tag}")
            if tree is not None:
                tree.remove()
        return report.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
