"""A developer at a stock client."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from skerry.testing.platform import Platform
from skerry.testing.wrangler import Outcome, Wrangler

CITIES = ("lhr", "cur", "sin")


@dataclass
class Author:
    """A developer with one project and one stock client, who was told where the API is and nothing else."""

    platform: Platform
    run: Wrangler
    project: Path
    app: str

    async def types(self, *arguments: str, stdin: str | None = None) -> str:
        """A wrangler command that has to succeed; what it printed."""
        outcome = await self.run(*arguments, cwd=self.project, stdin=stdin)
        assert outcome.code == 0, outcome.text
        return outcome.text

    async def fails(self, *arguments: str) -> str:
        outcome: Outcome = await self.run(*arguments, cwd=self.project)
        assert outcome.code != 0, outcome.text
        return outcome.text

    async def sees(self, site: str, path: str = "/api/all") -> dict[str, object]:
        answer = await self.platform.get(site, self.app, path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until_everywhere(self, holds: Callable[[httpx.Response], bool], path: str = "/api/all") -> None:
        async def city(site: str) -> None:
            async def once() -> bool:
                return holds(await self.platform.get(site, self.app, path))

            await self.platform.until(once, what=lambda: f"{path} in {site}")

        await asyncio.gather(*(city(site) for site in CITIES))

    async def until_label(self, label: str) -> None:
        await self.until_everywhere(lambda answer: answer.text == label, "/api/label")

    async def settled(self) -> None:
        await self.platform.settled(self.app, set(CITIES))
