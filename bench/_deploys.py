"""How long from the answer to an upload until users in every city get the new version."""

import asyncio
import contextlib
import json
import time
from pathlib import Path

import httpx

from _measure import Report, median, percentile, spread
from _peers import DATE, project
from _platform import sites_of
from skerry.testing.backends import fetch
from skerry.testing.dialect import simple_form
from skerry.testing.platform import Platform

LIVE_S_MAX = 2.0  # after the answer, in all cities
ASK_EVERY_S = 0.005
GIVE_UP_S = 60.0


def code(text: str) -> str:
    return f"export default {{ fetch() {{ return new Response({json.dumps(text)}) }} }}\n"


class Uploads:
    """The Cloudflare dialect as wrangler speaks it, without wrangler."""

    def __init__(self, platform: Platform, account: str) -> None:
        self._url = f"http://127.0.0.1:{platform.api_port}/client/v4/accounts/{account}/workers/scripts"
        headers = {"authorization": f"Bearer {platform.token()}"}
        self._http = httpx.AsyncClient(timeout=60, headers=headers)

    async def __aenter__(self) -> "Uploads":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def put(self, name: str, text: str) -> float:
        """Returns at the answer: how many seconds it took."""
        began = time.perf_counter()
        form = simple_form(code(text).encode(), compatibility_date=DATE)
        answer = await self._http.put(f"{self._url}/{name}", files=form)
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - began


async def account_id(platform: Platform) -> str:
    status, out = await platform.command("env", "--json")
    assert status == 0, out
    return json.loads(out)["CLOUDFLARE_ACCOUNT_ID"]


async def live(platform: Platform, sites: list[str], app: str, text: str) -> float:
    """Returns when every city has answered with `text`: the seconds since the call."""
    began = time.perf_counter()

    async def in_city(site: str) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reply = await fetch(platform.base(site), f"{app}.default.localhost")
                if reply.status == 200 and reply.body == text.encode():
                    return
            await asyncio.sleep(ASK_EVERY_S)

    async with asyncio.timeout(GIVE_UP_S):
        await asyncio.gather(*(in_city(site) for site in sites))
    return time.perf_counter() - began


async def deploys(report: Report, platform: Platform, directory: Path, *, rounds: int, wrangler_rounds: int) -> None:
    rows: list[dict[str, object]] = []
    sites = await sites_of(platform)
    async with Uploads(platform, await account_id(platform)) as uploads:
        for what in ("first version", "next version"):
            answers, lives = [], []
            for number in range(rounds):
                text = f"{what} {number}"
                name = f"fresh-{number}" if what == "first version" else "fresh-0"
                answers.append(await uploads.put(name, text))
                lives.append(await live(platform, sites, name, text))
                await platform.settled(name, set(sites))
            rows.append(_row(f"{what}, by the API", answers, lives))
            report.claim(f"{what}: upload's answer to live in all cities, p50", median(lives), at_most=LIVE_S_MAX, unit="s")
            report.claim(f"{what}: the slowest of {rounds}", max(lives), at_most=LIVE_S_MAX, unit="s")
    commands, lives = [], []
    for number in range(wrangler_rounds):
        text = f"by wrangler {number}"
        began = time.perf_counter()
        await platform.deploy(project(directory / "wrangler", "by-wrangler", code(text)))
        commands.append(time.perf_counter() - began)
        lives.append(await live(platform, sites, "by-wrangler", text))
    rows.append(_row("`skerry wrangler deploy` as a whole", commands, lives))
    report.table("deploy to live, seconds", rows)


def _row(name: str, answers: list[float], lives: list[float]) -> dict[str, object]:
    return {
        "how": name,
        "runs": len(lives),
        "until the answer": f"{median(answers):.2f} ({spread(answers)})",
        "then live everywhere p50": median(lives),
        "p95": percentile(lives, 95),
        "max": max(lives),
    }
