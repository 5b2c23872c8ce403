"""Workers: speed beside bare workerd, first requests to apps that rest, deploy to live, memory, and many apps.

    python -m bench workers [PART …] [--rounds N] [--seconds S] [--apps N] [--cities lhr:3,cur:3,sin:2] [--json FILE]

Each part has a platform of its own (`skerry up` in a temporary directory), started and ended by it.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from _deploys import deploys
from _many import many
from _measure import Report
from _memory import memory
from _platform import open_platform
from _speed import speed
from _wakes import wakes
from skerry.adapters import tools

THREE_CITIES = "lhr:3,cur:3,sin:2"


async def run_speed(report: Report, options: argparse.Namespace, directory: Path) -> None:
    if not tools.find_wrk().usable:
        report.note(f"left out: wrk is not there; {tools.find_wrk().remedy}")
        return
    async with open_platform("lhr:1") as platform:
        await speed(report, platform, directory, rounds=options.rounds, seconds=options.seconds)


async def run_deploys(report: Report, options: argparse.Namespace, directory: Path) -> None:
    async with open_platform(options.cities) as platform:
        await deploys(report, platform, directory, rounds=options.deploys, wrangler_rounds=max(1, options.deploys // 4))


async def run_wakes(report: Report, options: argparse.Namespace, directory: Path) -> None:
    await wakes(report, apps=options.apps, wakes=options.wakes)


async def run_memory(report: Report, options: argparse.Namespace, directory: Path) -> None:
    await memory(report, apps=options.apps)


async def run_many(report: Report, options: argparse.Namespace, directory: Path) -> None:
    async with open_platform(options.cities) as platform:
        await many(report, platform, apps=options.many)


PARTS: dict[str, Callable[[Report, argparse.Namespace, Path], Awaitable[None]]] = {
    "speed": run_speed,
    "deploys": run_deploys,
    "wakes": run_wakes,
    "memory": run_memory,
    "many": run_many,
}


def machine() -> str:
    """What the numbers were measured on."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    engines = ", ".join(
        f"{tool.name} {tool.version}" for tool in (tools.find_workerd(), tools.find_haproxy(), tools.find_wrangler())
    )
    system = f"{os.cpu_count()} CPUs ({models[0] if models else '?'}), {memory_gib:.0f} GiB, Linux {os.uname().release}"
    return f"{system}; {engines}; load before: {os.getloadavg()[0]:.1f}"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="of the speed part")
    parser.add_argument("--seconds", type=float, default=3, help="of each of its runs")
    parser.add_argument("--deploys", type=int, default=20)
    parser.add_argument("--apps", type=int, default=20, help="of the parts wakes and memory")
    parser.add_argument("--many", type=int, default=300, help="apps of the part of that name")
    parser.add_argument("--wakes", type=int, default=200, help="of each kind")
    parser.add_argument("--cities", default=THREE_CITIES)
    parser.add_argument("--json", type=Path, help="where to write the results as well")
    options = parser.parse_args()
    unknown = set(options.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    report = Report(options.json)
    report.note(machine())
    for part in options.parts or PARTS:
        print(f"\n-- {part}", flush=True)
        with tempfile.TemporaryDirectory(prefix="skerry-bench-") as directory:
            await PARTS[part](report, options, Path(directory))
    return report.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
