"""MicroVMs in QEMU: how long until one answers HTTP, what an idle one costs, and what clones and merging save.

    python -m bench microvm [--rounds 8] [--json FILE]

A busybox web server on a network of its own; times run from `start` to the last byte of its first answer. "waited": a machine of
its kind was there, loaded and paused, as after an earlier start of the same image. Needs root.
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
from skerry.adapters.sandbox.microvm.monitor import private_bytes
from skerry.adapters.sandbox.microvm.settings import Settings
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
        await self.engine.settled()
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


async def measure_waiting(bench: Bench, rounds: int) -> list[dict[str, str]]:
    """Template and snapshot again, where a machine of the kind waits for each start."""
    await bench.end((await bench.series(1))[0])
    fresh, fresh_row = await bench.series(rounds)
    snapshot = bench.root / "snapshot-waiting"
    snapshot.mkdir()
    await fresh[0].snapshot(str(snapshot))
    fresh_private = private_mib(fresh)
    await bench.end(fresh)
    await bench.end((await bench.series(1, snapshot=str(snapshot)))[0])
    clones, clone_row = await bench.series(rounds, snapshot=str(snapshot))
    clone_private = private_mib(clones)
    await bench.end(clones)
    await bench.engine.settled()
    waiting = [private_bytes(pid) / MIB for name in bench.engine.waiting for pid in bench.engine.tree.open(name).pids()]
    bench.report.note(f"a machine that waits has {sum(waiting) / max(1, len(bench.engine.waiting)):.1f} MB of its own")
    return [
        {"start": "template, waited", **fresh_row, "private MB": f"{fresh_private:.1f}"},
        {"start": "snapshot, waited", **clone_row, "private MB": f"{clone_private:.1f}"},
    ]


def private_mib(sandboxes: list[Sandbox]) -> float:
    return statistics.mean(sandbox.stats().private_bytes for sandbox in sandboxes) / MIB


async def measure(bench: Bench, waiting: Bench, rounds: int) -> None:
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
        *await measure_waiting(waiting, rounds),
    ]
    bench.report.table("one after the other; private: what is free when it ends", rows)
    bench.report.note(f"a snapshot of a running machine took {took:.0f} ms")
    bench.report.note(f"a clone saves {boot_private - clone_private:.0f} MB of {boot_private:.0f} MB; {merged}")
    bench.report.claim("clone to first answer", float(rows[-1]["first answer ms"]), at_most=CLONE_MS_MAX, unit="ms")


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
        report = Report(options.json)
        engines = [
            QemuEngine(data=root / name / "data", run=root / name / "run", settings=Settings(warm_machines_max=count))
            for name, count in (("cold", 0), ("warm", 2))
        ]
        benches: list[Bench] = []
        try:
            for engine in engines:
                await engine.attach(frozenset())
                benches.append(Bench(engine.places.data.parent, engine, report))
            facts = engines[0].facts
            print(f"  {facts.name} {facts.version}; without: {dict(facts.missing)}")
            await measure(benches[0], benches[1], options.rounds)
        finally:
            for engine in engines:
                await engine.aclose()
                await engine.attach(frozenset())
                engine.tree.remove()
            for bench in benches:
                bench.close()
        return report.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
