"""The first request to an app that rests: asleep (memory squeezed), or dead (no process; held until there is one)."""

import asyncio
import socket
import time

from _deploys import Uploads, account_id
from _measure import Report, percentile
from _platform import open_platform, sites_of, until_state
from skerry.testing.platform import Platform

GOALS_MS = {"dead": (30.0, 60.0), "asleep": (6.0, 15.0)}  # p50, p99
OPTIONS = {"dead": ("--dead-after", "0.4"), "asleep": ("--sleep-after", "0.3")}
STATE_S_MAX = 60.0
ANSWER_S_MAX = 30.0


async def wakes(report: Report, *, apps: int, wakes: int) -> None:
    rows = []
    for state, options in OPTIONS.items():
        async with open_platform("lhr:1", *options) as platform:
            first, second = await _wake_all(report, platform, state, apps=apps, rounds=-(-wakes // apps))
        if not first:
            continue
        for name, times in ((state, first), ("the request after it", second)):
            row = {"app": name, "wakes": len(times)}
            row |= {f"{what} ms": value for what, value in (("p50", percentile(times, 50)), ("p90", percentile(times, 90)))}
            rows.append(row | {"p99 ms": percentile(times, 99), "max ms": max(times)})
        for percent, goal in zip((50, 99), GOALS_MS[state], strict=True):
            report.claim(
                f"first request to an app that is {state}, p{percent}", percentile(first, percent), at_most=goal, unit="ms"
            )
    if rows:
        report.table("first request through the ingress, on a new connection", rows)


async def _wake_all(report: Report, platform: Platform, state: str, *, apps: int, rounds: int) -> tuple[list[float], list[float]]:
    """Times in ms of the first request to each app, and of one right after it."""
    (site,) = await sites_of(platform)
    names = [f"rest-{number}" for number in range(apps)]
    async with Uploads(platform, await account_id(platform)) as uploads:
        for name in names:
            await uploads.put(name, name)
    await platform.settled(names[-1], {site})
    first: list[float] = []
    second: list[float] = []
    asked_ms = 0
    for _ in range(rounds):
        if not await until_state(platform, state, apps, limit_s=STATE_S_MAX, after_ms=asked_ms):
            report.note(f"left out: apps do not get {state} here")
            break
        for name in names:
            for times in (first, second):
                times.append(await asyncio.to_thread(ask_ms, platform.base(site), name))
        asked_ms = time.time_ns() // 1_000_000
    return first, second


def ask_ms(address: str, app: str) -> float:
    """From the connect to the end of the answer; blocking, so that nothing of an event loop is in it."""
    host, _, port = address.rpartition(":")
    request = f"GET / HTTP/1.1\r\nHost: {app}.default.localhost\r\nConnection: close\r\n\r\n".encode()
    began = time.perf_counter()
    with socket.create_connection((host, int(port)), timeout=ANSWER_S_MAX) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    took_ms = (time.perf_counter() - began) * 1000
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(app.encode()), answer[:300]
    return took_ms
