"""The real supervisor over stand-in planes: `supervise.py OPTIONS_JSON NAME=BEHAVIOUR …`."""

import asyncio
import sys
from pathlib import Path

from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.layout import Layout, Options
from skerry.apps.supervisor.planes import PlaneSpec
from skerry.apps.supervisor.run import Supervisor, plan
from skerry.apps.supervisor.screen import PlainScreen
from skerry.kit.record import decode, encode

PROGRAM = Path(__file__).with_name("stand_in_plane.py")


def specs_of(layout: Layout, wanted: list[str]) -> tuple[PlaneSpec, ...]:
    found: list[PlaneSpec] = []
    for name, _, behaviour in (part.partition("=") for part in wanted):
        config = layout.configs / f"{name}.json"
        config.write_bytes(encode({"behaviour": behaviour, "child_file": str(layout.data / f"{name}.child")}))
        found.append(PlaneSpec(name=name, argv=(sys.executable, str(PROGRAM), "--config", str(config))))
    return tuple(found)


async def run() -> int:
    layout = plan(decode(sys.argv[1].encode(), Options))
    return await Supervisor(layout, PlainScreen(layout), specs=lambda: specs_of(layout, sys.argv[2:])).run()


try:
    status = asyncio.run(run())
except UpError as error:
    print(f"error: {error} ({error.hint})", flush=True)
    status = error.code
raise SystemExit(status)
