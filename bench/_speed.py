"""Requests per second and latency of a hello worker: through a platform, on bare workerd, in miniflare, in wrangler dev."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import _peers
from _measure import Report, Wrk, median, rotated, spread, wrk
from _platform import sites_of
from skerry.testing.platform import Platform

CONNECTIONS = (1, 32)
BARE_MIN, MINIFLARE_MIN = 0.7, 3.0
ADDED_P50_MS_MAX, ADDED_P99_MS_MAX = 0.5, 2.0
APP = "hello"
Runs = dict[tuple[str, int], list[Wrk]]


async def speed(report: Report, platform: Platform, directory: Path, *, rounds: int, seconds: float) -> None:
    """Sides take turns in each round, beginning with another one each time; ratios are taken per round."""
    await platform.deploy(_peers.project(directory / "ours", APP))
    site, *_ = sites = await sites_of(platform)
    await platform.settled(APP, set(sites))
    async with contextlib.AsyncExitStack() as stack:
        sides = {
            "bare workerd": (await stack.enter_async_context(_peers.bare(directory / "bare")), "localhost"),
            "skerry": (platform.base(site), f"{APP}.default.localhost"),
            "miniflare": (await stack.enter_async_context(_peers.miniflare(directory / "miniflare")), "localhost"),
            "wrangler dev": (await stack.enter_async_context(_peers.wrangler_dev(directory / "dev")), "localhost"),
        }
        runs = await _rounds(sides, rounds=rounds, seconds=seconds)
    _show(report, list(sides), runs)
    _judge(report, runs)
    report.note(f"{rounds} rounds of {seconds:g} s each; medians, in brackets least and greatest")


async def _rounds(sides: Mapping[str, tuple[str, str]], *, rounds: int, seconds: float) -> Runs:
    for address, host in sides.values():
        await wrk(address, host, connections=8, seconds=1)
    runs: Runs = {(name, connections): [] for name in sides for connections in CONNECTIONS}
    for number in range(rounds):
        for connections in CONNECTIONS:
            for name in rotated(list(sides), number):
                address, host = sides[name]
                runs[name, connections].append(await wrk(address, host, connections=connections, seconds=seconds))
    return runs


def _show(report: Report, names: list[str], runs: Runs) -> None:
    rows = []
    for name in names:
        for connections in CONNECTIONS:
            mine = runs[name, connections]
            rates = [run.rate for run in mine]
            bare = [run.rate for run in runs["bare workerd", connections]]
            rows.append(
                {
                    "side": name,
                    "connections": connections,
                    "req/s": f"{median(rates):.0f} ({spread(rates)})",
                    "of bare": median(ours / theirs for ours, theirs in zip(rates, bare, strict=True)),
                    "p50 ms": f"{median(run.p50 for run in mine):.2f} ({spread([run.p50 for run in mine])})",
                    "p99 ms": f"{median(run.p99 for run in mine):.2f} ({spread([run.p99 for run in mine])})",
                    "failed": sum(run.failed for run in mine),
                }
            )
    report.table("a hello worker", rows)


def _judge(report: Report, runs: Runs) -> None:
    def ratio(other: str) -> float:
        pairs = zip(runs["skerry", 32], runs[other, 32], strict=True)
        return median(ours.rate / theirs.rate for ours, theirs in pairs)

    def added(what: str, connections: int) -> float:
        pairs = zip(runs["skerry", connections], runs["bare workerd", connections], strict=True)
        return median(getattr(ours, what) - getattr(bare, what) for ours, bare in pairs)

    report.claim("requests per second of bare workerd's, 32 connections", ratio("bare workerd"), at_least=BARE_MIN)
    report.claim("requests per second of miniflare's, 32 connections", ratio("miniflare"), at_least=MINIFLARE_MIN)
    report.claim("added at p50, 1 connection", added("p50", 1), at_most=ADDED_P50_MS_MAX, unit="ms")
    report.claim("added at p99, 1 connection", added("p99", 1), at_most=ADDED_P99_MS_MAX, unit="ms")
    report.note(f"added with 32 connections in a closed loop: p50 {added('p50', 32):.2f} ms, p99 {added('p99', 32):.2f} ms")
    failed = sum(run.failed for connections in CONNECTIONS for run in runs["skerry", connections])
    report.claim("failed requests of skerry's", failed, at_most=0)
