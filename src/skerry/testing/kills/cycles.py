"""The driver: one life after another, each killed somewhere, and after each a look at what is left."""

import asyncio
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import msgspec

from skerry.adapters import kernel
from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.cgroup.v1 import ALL
from skerry.core.machines.instance import Backoff
from skerry.kit.record import Record, decode
from skerry.services.node.programs.settings import ProgramSettings
from skerry.testing.kills import life, traces
from skerry.testing.kills.copies import Copies, Told
from skerry.testing.kills.points import Plan
from skerry.testing.programs_node import Kind, ProgramsNode

CLEAN_UP_S_MAX = 60.0
SETTLE_S_MAX = 10.0
LOOK_S = 0.02
DELAYED, TIMED, ENGINES_TOO, TWICE = 0.2, 0.1, 0.3, 0.15  # shares of the cycles
DELAY_MS_MAX = 80
STOP_GRACE_MS = 50  # the program does not hear its stop signal
SETTINGS = ProgramSettings(backoff=Backoff(first_ms=50, healthy_after_ms=60_000), look_every_ms=100, images_mib_max=0)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18


class Tally(Record):
    """Of all cycles of one kind. `missed`: lives that ended without coming by their point. `left`: names by kind."""

    kind: Kind
    seed: str
    cycles: int = 0
    killed: int = 0
    missed: int = 0
    engines_killed: int = 0
    known: int = 0
    hit: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    left: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict[str, tuple[str, ...]])
    problems: tuple[str, ...] = ()


def apart() -> None:
    """This process: in a network and mount namespace of its own, and the parent of orphans below it. For good."""
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET), libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)):
        if done != 0:
            raise OSError(ctypes.get_errno(), "namespaces of one's own need root")
    kernel.mount("none", "/", "", flags=_MS_REC | _MS_PRIVATE)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Kills:
    """`with Kills(kind, …) as kills: kills.cycle()`. Call `apart` before, in a process without threads."""

    def __init__(self, kind: Kind, busybox: bytes, seed: str) -> None:
        self._kind: Kind = kind
        self._busybox = busybox
        self._place = Path(tempfile.mkdtemp(prefix="skk", dir="/run"))
        self._place.chmod(0o711)
        self._root = self._place / "node"
        self._root.mkdir()
        self._copies = Copies(self._place / "log")
        self._draws = random.Random(seed)  # noqa: S311 - the same cycles again
        self._points: Counter[str] = Counter()  # by name, how often a life comes by
        self._before: traces.Traces = {}
        self._foreign = traces.mount_ids()
        self._life_ms = 0
        self._tag = self._node().tag
        self.tally = Tally(kind=kind, seed=seed)

    def __enter__(self) -> "Kills":
        """Two lives that are not killed: what the first one leaves for good (templates) is there before the comparison."""
        try:
            self._live_undisturbed()
        except BaseException:  # told to end, too
            self.__exit__()
            raise
        self.tally = msgspec.structs.replace(self.tally, known=len(self._points))
        return self

    def __exit__(self, *_: object) -> None:
        """Also after an error: whatever is there of it goes."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in traces.descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        tree, _problem = find_tree(f"skerry-{self._tag}", controllers=ALL)
        for name in tree.names() if tree is not None else ():
            assert tree is not None
            _reap()
            asyncio.run(end_group(tree, name))
        if tree is not None:
            tree.remove()
        for path in kernel.mounts_below(self._place):
            kernel.unmount(path)
        shutil.rmtree(self._place, ignore_errors=True)

    def cycle(self) -> None:
        plan, engines = self._plan(), self._draws.random() < ENGINES_TOO
        self._copies.forget_said()
        lived = self._copies.run(plan, self._live)
        engines_killed = self._kill_some() if engines else 0
        if self._draws.random() < TWICE:
            self._copies.run(self._plan(), self._live)
        found = self._copies.run(Plan(), self._recover)
        problems = ("the next agent did not come to its end",) if found is None else found.problems
        problems += () if lived is None else lived.problems
        self._count(plan, lived, engines_killed, self._look(), problems)

    # Inside.

    def _live_undisturbed(self) -> None:
        for _ in range(2):
            lived = self._copies.run(Plan(), self._live)
            done = self._copies.run(Plan(), self._recover)
            if lived is None or done is None or lived.problems or done.problems:
                raise RuntimeError(f"a life that nobody disturbs does not end well: {lived} {done}\n{self._copies.said()}")
            self._points, self._life_ms = Counter(lived.seen), lived.ms
            self._settled()
            self._before = traces.take(self._root, self._tag, self._foreign)

    def _count(
        self, plan: Plan, lived: Told | None, engines_killed: int, left: dict[str, list[str]], problems: tuple[str, ...]
    ) -> None:
        tally = self.tally
        hit = tally.hit if lived is not None else {**tally.hit, plan.point: tally.hit.get(plan.point, 0) + 1}
        told = f"cycle {tally.cycles}, killed at {plan}"
        new = {kind: tuple(f"{name} ({told})" for name in names) for kind, names in left.items()}
        if problems or left:
            told += f"; what it said:\n{self._copies.said()}"
        self.tally = msgspec.structs.replace(
            tally,
            cycles=tally.cycles + 1,
            killed=tally.killed + (lived is None),
            missed=tally.missed + (lived is not None),
            engines_killed=tally.engines_killed + engines_killed,
            hit=hit,
            left={kind: tally.left.get(kind, ()) + new.get(kind, ()) for kind in tally.left.keys() | new.keys()},
            problems=(*tally.problems, *(f"{problem} ({told})" for problem in problems)),
        )

    def _plan(self) -> Plan:
        """One of the points at which the fewest were killed; or a moment."""
        draws = self._draws
        if draws.random() < TIMED:
            return Plan(at_ms=draws.randint(1, max(2, self._life_ms)))
        least = min(self.tally.hit.get(point, 0) for point in self._points)
        point = draws.choice(sorted(point for point in self._points if self.tally.hit.get(point, 0) == least))
        delay_ms = draws.randint(1, DELAY_MS_MAX) if draws.random() < DELAYED else 0
        return Plan(point=point, turn=draws.randint(1, self._points[point]), delay_ms=delay_ms)

    def _kill_some(self) -> int:
        """Of what a killed agent left: runtimes, monitors, programs, helpers."""
        there = traces.descendants(os.getpid())
        chosen = self._draws.sample(there, self._draws.randint(0, len(there)))
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(chosen)

    def _look(self) -> dict[str, list[str]]:
        """What is left, and removed from the next comparison: it counts once."""
        found = self._settled()
        now = traces.take(self._root, self._tag, self._foreign)
        self._before = {kind: names | self._before[kind] for kind, names in now.items()}
        return found

    def _settled(self) -> dict[str, list[str]]:
        """Until nothing is left, or long enough: a killed process takes a moment to end."""
        deadline = time.monotonic() + SETTLE_S_MAX
        while True:
            _reap()
            now = traces.take(self._root, self._tag, self._foreign)
            found = traces.left(self._before, now) if self._before else {"process": sorted(now["process"])}
            if not any(found.values()) or time.monotonic() > deadline:
                return {kind: names for kind, names in found.items() if names}
            time.sleep(LOOK_S)

    def _node(self) -> ProgramsNode:
        return ProgramsNode(self._kind, self._busybox, SETTINGS, root=self._root)

    def _live(self) -> list[str]:
        node = self._node()
        wanted = (node.instance("a", stop_grace_ms=STOP_GRACE_MS), node.instance("b", stop_grace_ms=STOP_GRACE_MS))
        return asyncio.run(life.live(node, wanted))

    def _recover(self) -> list[str]:
        return asyncio.run(life.recover(self._node()))


def drive(kind: Kind, cycles: int, *, seed: str, seconds: float, out: Path) -> Tally:
    """By a process of its own. Whoever is interrupted here leaves it the time to remove what it made."""
    argv = [sys.executable, "-m", "skerry.testing.kills.cycles", kind, str(cycles), seed, str(seconds), str(out)]
    with subprocess.Popen(argv) as driver:
        try:
            status = driver.wait()
        except BaseException:
            driver.terminate()
            driver.wait(CLEAN_UP_S_MAX)
            raise
    tally = decode(out.read_bytes(), Tally) if out.exists() else Tally(kind=kind, seed=seed)
    if status != 0:
        return msgspec.structs.replace(tally, problems=(*tally.problems, f"the driver ended with status {status}"))
    return tally


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """`KIND CYCLES SEED SECONDS OUT`: writes a `Tally` as JSON after each cycle. A process of its own, for its namespaces."""
    from skerry.testing.oci_node import busybox

    kind, cycles, seed, seconds, out = arguments
    program = busybox()
    assert program is not None
    signal.signal(signal.SIGTERM, _end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # whoever drives is gone: nobody else would clean up
    apart()
    deadline = time.monotonic() + float(seconds)
    with Kills(kind, program.read_bytes(), seed) as kills:  # type: ignore[arg-type]
        for _ in range(int(cycles)):
            kills.cycle()
            Path(out).write_text(json.dumps(msgspec.to_builtins(kills.tally)))
            if time.monotonic() > deadline:
                break
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
