"""Packing inside a site: placements per second, and nodes used on a public trace.

    python -m bench packing [--rounds 5] [--data DIR] [--json FILE]

The grids are those of Kubernetes' scheduler_perf (SchedulingBasic, SchedulingWithMixedChurn: nodes of 4 CPUs and 32 GiB, pods of
100 millicores and 500 MiB) and of Nomad's scheduler benchmark (one service spread over racks), put in this packer's
words; both of those measure a whole scheduler with its store, this the decision alone, so the numbers are not compared. The
peer in the same run is the readable packer, which decides the same. Everything is asked at once, from nothing, unless said.

`--data DIR` names the openb trace (alibaba/clusterdata, cluster-trace-gpu-v2023: `openb_node_list_all_node.csv` and
`openb_pod_list_*.csv`), which is not shipped. CPU and memory are packed, as one pod after the other in best-fit-decreasing,
the peer; the bound is linear: the fewest nodes whose capacity adds up to what is asked, resource by resource.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from _measure import Report, median
from skerry.core.packing.pack import pack
from skerry.core.packing.readable import pack_readably
from skerry.core.packing.types import Ask, Packing, PackingSettings
from skerry.core.types.app import Limits
from skerry.core.types.ids import AppName
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.testing.builders import ACCOUNT, make_node, make_version

RATE_MIN = 10_000  # placements per second at 5,000 nodes
NODES_MAX = 1.03  # times the bound
TIGHT = PackingSettings(fit="fullest", spread_nodes=False, spread_racks=False)


def sites(count: int, *, racks: int = 0) -> tuple[Node, ...]:
    plain = (make_node(f"lhr-{number}", cpu_millicores=4000, memory_mib=32768, disk_mib=110) for number in range(count))
    return tuple(replace(node, rack=f"rack-{number % racks}" if racks else "") for number, node in enumerate(plain))


def ask(app: str, count: int, *, cpu: int = 100, memory: int = 500) -> Ask:
    version = make_version(1, app=app, memory_mib=memory, cpu_millicores=cpu)
    return Ask(account=ACCOUNT, app=AppName(app), version=version, count=count, plan_generation=1)


def timed(rounds: int, decide: Callable[[], Packing], *, new: int) -> float:
    """New placements per second, the median of the rounds."""
    rates: list[float] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        packing = decide()
        rates.append(new / (time.perf_counter() - begin))
        assert not packing.refused
    return median(rates)


def basic(report: Report, rounds: int) -> None:
    """SchedulingBasic: some apps run already, many more of one instance each come."""
    rows: list[dict[str, object]] = []
    for nodes, there, coming in ((500, 500, 1000), (1000, 1000, 2000), (5000, 1000, 10_000)):
        site = sites(nodes)
        before = pack(site, tuple(ask(f"old-{number}", 1) for number in range(there)), ())
        asks = tuple(ask(f"old-{n}", 1) for n in range(there)) + tuple(ask(f"new-{n}", 1) for n in range(coming))
        rate = timed(rounds, lambda site=site, asks=asks, held=before.held: pack(site, asks, held), new=coming)
        rows.append({"nodes": nodes, "there": there, "placed": coming, "placements/s": rate})
    report.table("SchedulingBasic, all that comes at once", rows)
    report.claim("placements per second at 5,000 nodes", float(str(rows[-1]["placements/s"])), at_least=RATE_MIN)


def churn(report: Report, rounds: int) -> None:
    """MixedChurn: batches of ten, and between them a node comes, one goes, and something that fits nowhere is asked."""
    rows: list[dict[str, object]] = []
    for nodes, batches in ((1000, 30), (5000, 30)):
        spent: list[float] = []
        for _ in range(rounds):
            site, asks = list(sites(nodes)), [ask("monster", 1, cpu=9000)]
            held = pack(tuple(site), tuple(asks), ()).held
            for batch in range(batches):
                site = [*site[1:], make_node(f"lhr-new-{batch}", cpu_millicores=4000, memory_mib=32768, disk_mib=110)]
                asks += [ask(f"a-{batch}-{number}", 1) for number in range(10)]
                begin = time.perf_counter()
                held = pack(tuple(site), tuple(asks), held).held
                spent.append(time.perf_counter() - begin)
        rows.append({"nodes": nodes, "batches": batches, "one batch of ten (ms)": 1000 * median(spent)})
    report.table("MixedChurn, ten at a time while nodes come and go", rows)


def racks(report: Report, rounds: int) -> None:
    """Nomad's: one service of 300 to 1,200 allocations, spread over racks."""
    rows: list[dict[str, object]] = []
    for nodes in (1000, 5000, 10_000):
        row: dict[str, object] = {"nodes": nodes}
        for count in (10, 25, 50, 75):
            site = sites(nodes, racks=count)
            for allocations in (300, 1200):
                rate = timed(rounds, lambda site=site, want=allocations: pack(site, (ask("one", want),), ()), new=allocations)
                row[f"{count} racks, {allocations}"] = rate
        rows.append(row)
    report.table("one service spread over racks: placements per second", rows)


def against_readable(report: Report, rounds: int) -> None:
    site, asks = sites(200), tuple(ask(f"a-{number}", 3) for number in range(100))
    assert pack(site, asks, ()) == pack_readably(site, asks, ())
    fast = timed(rounds, lambda: pack(site, asks, ()), new=300)
    readable = timed(1, lambda: pack_readably(site, asks, ()), new=300)
    report.table("200 nodes, 100 apps of three", [{"readable": readable, "fast": fast, "ratio": fast / readable}])


def trace(report: Report, directory: Path) -> None:
    nodes = [(int(row["cpu_milli"]), int(row["memory_mib"])) for row in read(directory / "openb_node_list_all_node.csv")]
    site = tuple(
        make_node(f"hgh-{number}", cpu_millicores=cpu, memory_mib=memory, disk_mib=0)
        for number, (cpu, memory) in enumerate(nodes)
    )
    rows: list[dict[str, object]] = []
    for variant in ("default", "cpu050", "cpu250"):
        pods = [(int(row["cpu_milli"]), int(row["memory_mib"])) for row in read(directory / f"openb_pod_list_{variant}.csv")]
        begin = time.perf_counter()
        packing = pack(site, tuple(pod(f"pod-{n}", *need) for n, need in enumerate(pods)), (), TIGHT)
        seconds = time.perf_counter() - begin
        used, bound = len({held.node for held in packing.held}), linear_bound(nodes, pods)
        peer, unplaced = best_fit_decreasing(nodes, pods)
        rows.append({
            "pods": f"{variant} ({len(pods)})", "bound": bound, "nodes used": used, "ratio": used / bound,
            "refused": len(packing.refused), "best-fit-decreasing": peer, "it refused": unplaced, "seconds": seconds,
        })  # fmt: skip
    report.table("openb: nodes used", rows)
    report.claim("nodes used on openb's default pods", float(str(rows[0]["ratio"])), at_most=NODES_MAX, unit="x the bound")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pod(name: str, cpu: int, memory: int) -> Ask:
    version = replace(make_version(1, app=name), limits=Limits(reserve=Resources(cpu_millicores=cpu, memory_mib=memory)))
    return Ask(account=ACCOUNT, app=AppName(name), version=version, count=1, plan_generation=1)


def linear_bound(nodes: list[tuple[int, int]], pods: list[tuple[int, int]]) -> int:
    fewest = 0
    for part in (0, 1):
        capacity = np.cumsum(sorted((node[part] for node in nodes), reverse=True))
        fewest = max(fewest, int(np.searchsorted(capacity, sum(need[part] for need in pods))) + 1)
    return fewest


def best_fit_decreasing(nodes: list[tuple[int, int]], pods: list[tuple[int, int]]) -> tuple[int, int]:
    """Nodes used, and pods without a place. Sizes are sums over resources, in units of the whole site.

    The fullest node in use that has room, else the largest that is not in use.
    """
    room, used, unplaced = np.array(nodes, float), np.zeros(len(nodes), bool), 0
    scale = 1 / room.sum(axis=0)
    for need in sorted(np.array(pods, float), key=lambda need: -float((need * scale).sum())):
        size = (room * scale).sum(axis=1)
        left = np.where((room >= need).all(axis=1), np.where(used, size, 1 - size), np.inf)
        at = int(np.argmin(left))
        if left[at] == np.inf:
            unplaced += 1
            continue
        room[at] -= need
        used[at] = True
    return int(used.sum()), unplaced


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="directory of the openb trace")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.data is not None and not (options.data / "openb_node_list_all_node.csv").is_file():
        parser.error(f"{options.data} has no openb_node_list_all_node.csv; it is in alibaba/clusterdata, cluster-trace-gpu-v2023")
    report = Report(options.json)
    basic(report, options.rounds)
    churn(report, options.rounds)
    racks(report, options.rounds)
    against_readable(report, options.rounds)
    if options.data is None:
        report.note("nodes used on the openb trace: not measured, as --data names no directory with it")
    else:
        trace(report, options.data)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
