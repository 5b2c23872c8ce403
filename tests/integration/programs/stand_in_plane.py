"""A plane with nothing in it but its supervision: `--config FILE` names what it does.

serve: ready, then waits. stubborn: ready, and never ends by itself. broken: says why and exits.
parent: serve, and leaves a detached child behind whose pid goes to `child_file`.
"""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from skerry.apps.plane import Plane, run_plane
from skerry.kit.record import Record


class StandIn(Record):
    behaviour: str
    child_file: str = ""


def leave_a_child(file: Path) -> None:
    if file.exists():
        return
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    partial = file.with_name(file.name + ".new")
    partial.write_text(str(child.pid))
    partial.rename(file)


async def serve(config: StandIn, plane: Plane) -> None:
    if config.behaviour == "broken":
        print("the flux capacitor is missing", file=sys.stderr)
        raise SystemExit(3)
    if config.behaviour == "parent":
        leave_a_child(Path(config.child_file))
    if config.behaviour == "stubborn":
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    plane.ready()
    if config.behaviour == "stubborn":
        await asyncio.Event().wait()
    await plane.ended()


run_plane(StandIn, serve)
