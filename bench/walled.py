"""A Worker in gVisor beside the same one in the usual sandbox: first answer, requests, memory at rest and asleep.

    python -m bench walled [--rounds 6] [--json FILE]

Straight to the node, without an ingress. Times run from the start of an instance to its first answer; each round starts one of
either kind. Needs root and runsc; where the kernel has zram, swap on it is made for as long as this runs.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from msgspec.structs import replace

from _measure import Report, median, rotated, wrk
from skerry.adapters import zram
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import Runtime
from skerry.ports.sandbox import EngineUnavailable
from skerry.testing.contracts.runtime import becomes
from skerry.testing.walled_node import WalledNode, walled
from skerry.testing.workerd_node import TEST_SETTINGS

REST_S = 2.0
SLEEP_AFTER_MS = 4_000
SWAP_BYTES = 1 << 30
REQUESTS_S = 2.0
MIB = 1 << 20
KINDS = ("sandbox", "gvisor")


def wanted(node: WalledNode, kind: str, number: int) -> NodeInstance:
    plain = node.workers.good(f"{kind}{number}")
    return walled(plain) if kind == "gvisor" else plain


async def measure(node: WalledNode, runtime: Runtime, kind: str, number: int) -> dict[str, float]:
    instance = wanted(node, kind, number)
    began = time.perf_counter()
    seen = await runtime.start(instance)
    assert seen.address is not None
    assert await node.request(seen.address) == 200
    first_ms = (time.perf_counter() - began) * 1000
    await becomes(runtime, instance.id, "running")
    await asyncio.sleep(REST_S)
    rest = runtime.stats(instance.id).memory_bytes / MIB
    one = await wrk(seen.address, "app.test", connections=1, seconds=REQUESTS_S)
    many = await wrk(seen.address, "app.test", connections=16, seconds=REQUESTS_S)
    loaded = runtime.stats(instance.id).memory_bytes / MIB
    slept = await sleep(node, runtime, instance, seen.address) if runtime.capabilities.sleep else {}
    await runtime.stop(instance.id, grace_ms=0)
    return {"first": first_ms, "rest": rest, "p50": one.p50, "rate": many.rate, "loaded": loaded, **slept}


async def sleep(node: WalledNode, runtime: Runtime, instance: NodeInstance, address: str) -> dict[str, float]:
    await becomes(runtime, instance.id, "asleep")
    asleep = runtime.stats(instance.id).memory_bytes / MIB
    began = time.perf_counter()
    assert await node.request(address) == 200
    return {"asleep": asleep, "woken": (time.perf_counter() - began) * 1000}


async def run(rounds: int, report: Report) -> None:
    try:
        node = WalledNode(replace(TEST_SETTINGS, sleep_after_ms=SLEEP_AFTER_MS))
    except EngineUnavailable as error:
        report.note(f"skipped: {error}")
        return
    try:
        runtime = await node.open()
        await measure(node, runtime, "gvisor", 0)  # unpacks the engine's image
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for number in range(1, rounds + 1):
            for kind in rotated(KINDS, number):
                found[kind].append(await measure(node, runtime, kind, number))
        report.table(f"medians of {rounds}", [row(kind, found[kind]) for kind in KINDS])
        await runtime.aclose(stop_instances=True)
    finally:
        await node.clean_up()


def row(kind: str, runs: list[dict[str, float]]) -> dict[str, object]:
    def of(name: str) -> float:
        return median(one[name] for one in runs)

    return {
        "isolation": kind, "first answer ms": of("first"), "least ms": min(one["first"] for one in runs),
        "p50 ms, 1 connection": of("p50"), "requests/s, 16": of("rate"),
        "MiB at rest": of("rest"), "MiB after load": of("loaded"),
        **({"MiB asleep": of("asleep"), "ms to wake": of("woken")} if "asleep" in runs[0] else {}),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report(options.json)
    if os.geteuid() != 0:
        report.note("skipped: programs need root")
        return report.close()
    record = Path(tempfile.mkdtemp(prefix="skz")) / "zram.json"
    try:
        with contextlib.suppress(zram.ZramError):
            zram.make_swap(record, size_bytes=SWAP_BYTES)
        asyncio.run(run(options.rounds, report))
    finally:
        zram.remove_swap(record)
        record.parent.rmdir()
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
