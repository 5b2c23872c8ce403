"""A checker without an engine: the code says itself, in comments, what an engine would have said.

// simulated: fails Uncaught TypeError: x is not a function
// simulated: unavailable no engine on this machine
// simulated: starts in 12 ms
"""

import re
from typing import final

import anyio.lowlevel

from skerry.core.types.app import Version
from skerry.ports.blobs import Blobs
from skerry.ports.runtime import Checked, StartupError, Unavailable

MARK = re.compile(r"// simulated: (fails|unavailable|starts in) ([^\n]*)")
HANDLER = re.compile(r"\b(fetch|scheduled|queue|email|tail|alarm)\s*\(")
STARTUP_MS = 3


@final
class SimulatedChecker:
    """`skerry.ports.runtime.Checker`. `checked` counts the versions it was asked about."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.checked = 0

    async def check(self, version: Version) -> Checked:
        await anyio.lowlevel.checkpoint()
        self.checked += 1
        if version.worker is None:
            return Checked(startup_time_ms=0)
        main = next(module for module in version.worker.modules if module.name == version.worker.main_module)
        code = (await self._blobs.get(main.digest)).decode("utf-8", "replace")
        mark = MARK.search(code)
        if mark and mark[1] == "fails":
            raise StartupError(mark[2])
        if mark and mark[1] == "unavailable":
            raise Unavailable(mark[2])
        startup_ms = int(re.sub(r"\D", "", mark[2]) or STARTUP_MS) if mark else STARTUP_MS
        return Checked(startup_time_ms=startup_ms, handlers=tuple(sorted(set(HANDLER.findall(code)))), exports=("default",))
