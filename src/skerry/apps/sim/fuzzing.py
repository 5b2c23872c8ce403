"""Many seeds of `testing.world.fuzz`, over processes, with what they broke."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count, islice

from skerry.adapters.process.parent import end_with
from skerry.kit.record import Record
from skerry.testing.world.promises import title

JOBS_MAX = 64
AHEAD = 2  # seeds waiting for each process: none idles, and little is thrown away at the end
BROKEN_SHOWN = 10


class Found(Record):
    """A broken promise. `promise` 0: a plane failed."""

    promise: int
    title: str
    at_ms: int
    what: str


class Played(Record):
    """One seed. `digest` is of its whole trace; equal seeds have equal digests. `found`, `trace`: of one that broke some."""

    seed: int
    digest: str = ""
    virtual_ms: int = 0
    found: tuple[Found, ...] = ()
    trace: tuple[str, ...] = ()
    again: str = ""


class FuzzReport(Record):
    """`digest` is of all seeds' digests in order, when every seed of the range was played."""

    first: int
    played: int
    virtual_s: float
    seconds: float
    seeds_per_second: float
    broken: tuple[Played, ...]
    digest: str


def play_one(seed: int, trace_lines: int) -> Played:
    """In this process. What no seed should raise is a finding too."""
    from skerry.testing.world.fuzz import Broken, again, play
    from skerry.testing.world.world import run_world

    try:
        world = run_world(play(seed, trace_lines=trace_lines))
    except Broken as broken:
        found = tuple(Found(promise=v.promise, title=title(v.promise), at_ms=v.at_ms, what=v.what) for v in broken.violations)
        return Played(seed=seed, found=found, trace=broken.trace, again=again(seed))
    except Exception as error:  # a bug of the simulator is reported as the rest is
        found = (Found(promise=0, title="the simulation failed", at_ms=0, what=repr(error)),)
        return Played(seed=seed, found=found, again=again(seed))
    return Played(seed=seed, digest=world.trace.digest(), virtual_ms=world.ended_ms)


def play_many(
    first: int, seeds: int, *, jobs: int, minutes: float | None, trace_lines: int, on_played: Callable[[Played], None]
) -> FuzzReport:
    """`seeds` of them from `first`, or as many as begin within `minutes`."""
    begun = time.monotonic()
    end = None if minutes is None else begun + 60 * minutes
    results: dict[int, Played] = {}
    wanted = _until(end, islice(count(first), seeds))
    source = _here(wanted, trace_lines) if jobs == 1 else _spread(wanted, jobs, trace_lines)
    for played in source:
        results[played.seed] = played
        on_played(played)
    seconds = time.monotonic() - begun
    ordered = [results[seed] for seed in sorted(results)]
    return FuzzReport(
        first=first,
        played=len(ordered),
        virtual_s=sum(played.virtual_ms for played in ordered) / 1000,
        seconds=seconds,
        seeds_per_second=len(ordered) / max(seconds, 1e-9),
        broken=tuple(played for played in ordered if played.found),
        digest=_digest(ordered),
    )


def jobs_default() -> int:
    """Of the CPUs that this process may use."""
    return min(len(os.sched_getaffinity(0)), JOBS_MAX)


def _until(end: float | None, seeds: Iterator[int]) -> Iterator[int]:
    for seed in seeds:
        if end is not None and time.monotonic() >= end:
            return
        yield seed


def _here(seeds: Iterator[int], trace_lines: int) -> Iterator[Played]:
    for seed in seeds:
        yield play_one(seed, trace_lines)


def _spread(seeds: Iterator[int], jobs: int, trace_lines: int) -> Iterator[Played]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_leave_interrupts, initargs=(os.getpid(),)) as pool:
        running: set[Future[Played]] = set()
        try:
            for seed in seeds:
                running.add(pool.submit(play_one, seed, trace_lines))
                if len(running) >= jobs * AHEAD:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts(parent: int) -> None:
    """Ctrl-C is for the parent, which ends the pool; when it is killed, the pool ends too."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _digest(ordered: list[Played]) -> str:
    from skerry.kit.hashing import stable_id

    return stable_id(*(f"{played.seed} {played.digest}" for played in ordered), length=32)
