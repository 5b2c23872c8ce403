"""Whole plans in a process of their own, so that whoever asks for one goes on meanwhile.

The process has the lowest priority, reads one question from its standard input, and ends with its answer or with the process that
started it, however that ends.
"""

import asyncio
import contextlib
import os
import pickle
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skerry.adapters.process.parent import end_with

if TYPE_CHECKING:
    from skerry.core.placement.bundles import Budget, Bundle
    from skerry.core.placement.solve.columns import Instances
    from skerry.core.types.problem import Problem

NICE = 19
ANSWER_S_MAX = 600.0  # of 2,000 apps over 340 cities it takes some seconds of a processor


async def exchanges_beside(problem: "Problem", now: "Instances", budget: "Budget") -> "Sequence[Bundle]":
    """`core.placement.solve.background.exchanges`. Raises OSError or RuntimeError: no process, or none that answered."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "skerry.adapters.beside",
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            answer, _ = await child.communicate(pickle.dumps((problem, now, budget)))
    except TimeoutError:
        raise RuntimeError(f"no whole plan within {ANSWER_S_MAX:g} s") from None
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    if child.returncode != 0:
        raise RuntimeError(f"the process that makes whole plans ended with {child.returncode}")
    return pickle.loads(answer)  # noqa: S301 - of a child of this very program


def main() -> None:
    """`python -m skerry.adapters.beside PARENT`"""
    end_with(int(sys.argv[1]))
    os.nice(NICE)
    from skerry.core.placement.solve.background import exchanges

    problem, now, budget = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - of the process that started this one
    sys.stdout.buffer.write(pickle.dumps(exchanges(problem, now, budget)))


if __name__ == "__main__":
    main()
