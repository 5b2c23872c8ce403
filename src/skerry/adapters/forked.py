"""A map over parts in processes that are copies of this one: nothing but results is sent.

The answer is that of `map`, whatever the number of processes. For programs that run one thread: a copy has no other.
"""

import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


def processors() -> int:
    """Of this machine that this process may use."""
    return len(os.sched_getaffinity(0))


def forked(function: Callable[[Part], Result], parts: Sequence[Part], *, processes: int | None = None) -> Iterator[Result]:
    """Results in the order of the parts. Raises RuntimeError with what a process said before it ended without its result."""
    count = min(len(parts), processors() if processes is None else processes)
    if count <= 1:
        yield from map(function, parts)
        return
    context = multiprocessing.get_context("fork")
    pipes: list[Any] = []
    children: list[Any] = []
    try:
        for number in range(count):
            here, there = context.Pipe(duplex=False)
            child = context.Process(target=_work, args=(function, parts[number::count], there), daemon=True)
            child.start()
            there.close()
            pipes.append(here)
            children.append(child)
        for at in range(len(parts)):
            yield _received(pipes[at % count])
    finally:
        for child in children:
            child.terminate()
            child.join()
        for pipe in pipes:
            pipe.close()


def _received(pipe: Any) -> Any:
    try:
        fine, found = pipe.recv()
    except EOFError as error:
        raise RuntimeError("a process of this map ended without its result") from error
    if not fine:
        raise RuntimeError(found)
    return found


def _work(function: Callable[[Part], Result], parts: Sequence[Part], pipe: Any) -> None:
    gc.disable()
    try:
        for part in parts:
            pipe.send((True, function(part)))
    except Exception:
        pipe.send((False, traceback.format_exc()))
