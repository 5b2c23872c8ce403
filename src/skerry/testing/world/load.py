"""Users: constant requests, and what became of each."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import final

from skerry.core.types.ids import VersionId
from skerry.kit.record import Record
from skerry.testing.world.ground import Ground

EVERY_MS = 25
GIVE_UP_MS = 15_000  # no client waits longer


class Served(Record):
    """The answer to a user. `site`, `node` and `version` of the instance that gave it; empty if none did."""

    status: int
    site: str = ""
    node: str = ""
    version: VersionId = VersionId("")
    refused: bool = False  # the instance cannot start, and said so itself
    broke: bool = False  # it was handed on to one more city, and broke off there


@dataclass
class Failure:
    at_ms: int
    site: str
    app: str
    what: str

    def __str__(self) -> str:
        return f"at {self.at_ms} ms in {self.site}: {self.app} {self.what}"


@dataclass
class Tally:
    """`answered` counts by (site that was asked, site that answered, version)."""

    answered: Counter[tuple[str, str, VersionId]] = field(default_factory=Counter[tuple[str, str, VersionId]])
    failed: list[Failure] = field(default_factory=list[Failure])

    @property
    def versions(self) -> set[VersionId]:
        return {version for _, _, version in self.answered}


@final
class Load:
    """As a context manager: asks for one app in each of `sites`, each `every_ms`, one after the other in each site.

    `ask(site, app)` raises `ConnectionRefusedError` when the site's ingress is down; `judge` hears of failures.
    """

    def __init__(
        self,
        ground: Ground,
        app: str,
        *,
        sites: tuple[str, ...],
        ask: Callable[[str, str], Awaitable[Served]],
        judge: Callable[[Failure], None],
        every_ms: int = EVERY_MS,
    ) -> None:
        self._ground = ground
        self._app = app
        self._sites = sites
        self._ask_for = ask
        self._judge = judge
        self._every_ms = every_ms
        self._tasks: list[asyncio.Task[None]] = []
        self.tally = Tally()

    async def __aenter__(self) -> Tally:
        self._tasks = [asyncio.ensure_future(self._users_of(site)) for site in self._sites]
        return self.tally

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _users_of(self, site: str) -> None:
        while True:
            await self._ground.clock.sleep_ms(self._every_ms)
            await self._ask(site)

    async def _ask(self, site: str) -> None:
        begun_ms = self._ground.clock.monotonic_ms()
        try:
            async with asyncio.timeout(GIVE_UP_MS / 1000):
                served = await self._ask_for(site, self._app)
        except ConnectionRefusedError:
            self._fail(begun_ms, site, "refused: the ingress is down")
        except TimeoutError:
            self._fail(begun_ms, site, f"no answer in {GIVE_UP_MS} ms")
        else:
            if served.status == 200:
                self.tally.answered[(site, served.site, served.version)] += 1
            else:
                whose = " by the instance" if served.refused else " after it broke off in another city" if served.broke else ""
                self._fail(begun_ms, site, f"status {served.status}{whose}")

    def _fail(self, begun_ms: int, site: str, what: str) -> None:
        failure = Failure(begun_ms, site, self._app, what)
        self.tally.failed.append(failure)
        if not self.tally.failed[-2:-1] or self.tally.failed[-2].what != what:  # one line for a row of equal ones
            self._ground.note(f"failed {failure}")
        self._judge(failure)
