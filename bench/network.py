"""Programs' networks: what the way into an instance costs, and what a thousand instances cost each other.

Claims: through the published address, which the kernel translates, at least 0.7 of the requests that the instance answers when it
is called directly; the platform's rules cost other connections of the machine at most a fifth; with 1,000 instances a further one
is made in at most three times the time of the first, and requests are as fast.

Everything runs on a machine in a network namespace of its own. The server is HAProxy (one thread), the client wrk.
"""

import argparse
import asyncio
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from _measure import Report, Wrk, median, rotated, wrk
from skerry.adapters import tools
from skerry.adapters.network.linux.network import LinuxNetwork
from skerry.core.types.ids import AccountId
from skerry.ports.network import NetworkWant
from skerry.testing.network_node import NetworkNode
from skerry.testing.waiting import eventually

ROUNDS, SECONDS, CONNECTIONS = 7, 1, 32
PUBLISHED_MIN, OTHERS_MIN = 0.7, 0.8
INSTANCES = 1000
SLOWER_MAX, REQUESTS_MIN = 3.0, 0.8
PORT = 8000
CONFIG = """global
  maxconn 2000
  nbthread 1
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 1s
frontend bare
  bind 0.0.0.0:{port}
  http-request return status 200 content-type text/plain string "hello"
"""


def serve(directory: Path, netns: str | None, port: int) -> subprocess.Popen[bytes]:
    config = directory / f"haproxy-{port}-{os.path.basename(os.path.dirname(netns or ''))}.cfg"
    config.write_text(CONFIG.format(port=port))

    def enter() -> None:
        if netns is not None:
            descriptor = os.open(netns, os.O_RDONLY)
            assert ctypes.CDLL(None).setns(descriptor, 0x40000000) == 0
            os.close(descriptor)

    return subprocess.Popen([tools.find_haproxy().path, "-q", "-f", str(config)], preexec_fn=enter)  # noqa: PLW1509 - it enters a namespace


def want(number: int) -> NetworkWant:
    return NetworkWant(instance=f"{number:016x}", account=AccountId("0" * 32))


async def answers(address: str) -> None:
    async def try_once() -> bool:
        try:
            _, writer = await asyncio.open_connection(*address.split(":"))
        except OSError:
            return False
        writer.close()
        return True

    for _ in range(500):
        if await try_once():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(address)


async def by_hand(network: LinuxNetwork, address: str, instance: str) -> Wrk:
    """Connections that came before the program was ready: the agent passes them on."""
    await network.hold(instance)
    running = asyncio.create_task(wrk(address, "bench", connections=CONNECTIONS, seconds=SECONDS))
    async for _ in network.rings():
        break
    door = network._doors[instance]
    await eventually(lambda: door.connections >= CONNECTIONS)
    await network.open(instance)
    return await running


async def measure_ways(report: Report, node: NetworkNode, directory: Path, rounds: int) -> None:
    own = serve(directory, None, PORT + 1)
    await answers(f"127.0.0.1:{PORT + 1}")

    async def plain() -> Wrk:
        return await wrk(f"127.0.0.1:{PORT + 1}", "bench", connections=CONNECTIONS, seconds=SECONDS)

    before = [await plain() for _ in range(rounds)]
    network = await node.open()
    made = await network.create(want(1))
    server = serve(directory, made.netns, PORT)
    address = await network.publish(want(1).instance, port=PORT, protocol="http")
    await answers(f"{made.address}:{PORT}")
    await network.open(want(1).instance)
    ways: dict[str, Callable[[], Awaitable[Wrk]]] = {
        "another server of the machine, loopback": plain,
        "the instance's own address": lambda: wrk(f"{made.address}:{PORT}", "b", connections=CONNECTIONS, seconds=SECONDS),
        "its published address": lambda: wrk(address, "b", connections=CONNECTIONS, seconds=SECONDS),
        "passed on by the agent": lambda: by_hand(network, address, want(1).instance),
    }
    runs: dict[str, list[Wrk]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in rotated(list(ways), number):
            runs[name].append(await ways[name]())
    runs = {"the same before there were rules": before, **runs}
    report.table(
        f"requests per second, {CONNECTIONS} connections (medians of {rounds})",
        [
            {"way": name, "req/s": round(median(run.rate for run in all_of)), "p50 ms": median(run.p50 for run in all_of)}
            for name, all_of in runs.items()
        ],
    )
    loopback, direct, published = (median(run.rate for run in runs[name]) for name in list(ways)[:3])
    report.claim("published address against the instance's own", round(published / direct, 2), at_least=PUBLISHED_MIN)
    report.claim(
        "loopback with rules against without", round(loopback / median(run.rate for run in before), 2), at_least=OTHERS_MIN
    )
    report.claim("failed requests", sum(run.failed for all_of in runs.values() for run in all_of), at_most=0)
    server.kill()
    own.kill()
    await network.aclose(remove_all=True)


async def measure_many(report: Report, node: NetworkNode, directory: Path, rounds: int, count: int) -> None:
    network = await node.open()
    first: list[float] = []
    last: list[float] = []
    for number in range(1, count + 1):
        began = time.perf_counter()
        made = await network.create(want(number))
        (first if number <= 50 else last if number > count - 50 else []).append((time.perf_counter() - began) * 1000)
    server = serve(directory, made.netns, PORT)
    address = await network.publish(want(count).instance, port=PORT, protocol="http")
    await answers(f"{made.address}:{PORT}")
    await network.open(want(count).instance)
    many = [await wrk(address, "bench", connections=CONNECTIONS, seconds=SECONDS) for _ in range(rounds)]
    await network.aclose(remove_all=False)
    began = time.perf_counter()
    network = await node.open(*(want(number).instance for number in range(1, count + 1)))
    attached_s = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(2, 52):
        await network.remove(want(number).instance)
    removed_ms = (time.perf_counter() - began) * 1000 / 50
    for number in range(52, count):
        await network.remove(want(number).instance)
    few = [await wrk(address, "bench", connections=CONNECTIONS, seconds=SECONDS) for _ in range(rounds)]
    server.kill()
    report.table(
        f"with {count} instances",
        [
            {"what": "made, the first 50 (ms, median)", "value": round(median(first), 1)},
            {"what": "made, the last 50 (ms, median)", "value": round(median(last), 1)},
            {"what": "removed (ms, mean of 50)", "value": round(removed_ms, 1)},
            {"what": "an agent takes over all (s)", "value": round(attached_s, 2)},
            {"what": "requests per second with all", "value": round(median(run.rate for run in many))},
            {"what": "requests per second with two", "value": round(median(run.rate for run in few))},
        ],
    )
    report.claim("making the last against the first", round(median(last) / median(first), 2), at_most=SLOWER_MAX)
    report.claim(
        "requests with all against two",
        round(median(r.rate for r in many) / median(r.rate for r in few), 2),
        at_least=REQUESTS_MIN,
    )
    await network.aclose(remove_all=True)


async def main(options: argparse.Namespace) -> int:
    report = Report(options.json)
    for part, measure in (
        ("ways", lambda node, at: measure_ways(report, node, at, options.rounds)),
        ("many", lambda node, at: measure_many(report, node, at, options.rounds, options.instances)),
    ):
        if options.parts and part not in options.parts:
            continue
        with tempfile.TemporaryDirectory() as directory:
            node = NetworkNode(Path(directory))
            try:
                await measure(node, Path(directory))
            finally:
                await node.clean_up()
    return report.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["ways", "many", []], help="all without a name")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--json", type=Path)
    sys.exit(asyncio.run(main(parser.parse_args())))
