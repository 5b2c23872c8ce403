"""Typed names for the few array operations that everything here is made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.core.placement.solve.ask import Ints
from skerry.core.types.problem import Floats


def sums(index: Ints, weight: Floats, size: int) -> Floats:
    """Σ weight by index, in the order of the rows (so that equal input gives equal bits)."""
    if not len(index):  # bincount of nothing counts in whole numbers
        return np.zeros(size, dtype=np.float64)
    return np.asarray(np.bincount(index, weight, size), dtype=np.float64)


def floats(values: NDArray[Any]) -> Floats:
    """As float64; no copy where it is that already."""
    return np.asarray(values, dtype=np.float64)


def upto(size: int) -> Ints:
    """0, 1, … size − 1."""
    return np.arange(size, dtype=np.int64)


def ranked(keys: NDArray[Any], count: int | None = None) -> Ints:
    """Positions by ascending key (of the flattened array), equal keys in order; with `count`, only the first so many."""
    keys = keys.ravel()
    if count is None or count >= len(keys):
        return np.asarray(np.argsort(keys, kind="stable"), dtype=np.int64)[:count]
    limit = np.partition(keys, count)[count]
    some = np.flatnonzero(keys <= limit)
    return np.asarray(some[np.argsort(keys[some], kind="stable")][:count], dtype=np.int64)


def ordered(*keys: Ints) -> Ints:
    """Positions by the first key, then by the next; none is below 0. Rows that are nearly in order take little time."""
    key = keys[0]
    for then in keys[1:]:
        key = key * (int(then.max(initial=0)) + 1) + then
    return np.asarray(np.argsort(key, kind="stable"), dtype=np.int64)


def joined(parts: Sequence[Ints]) -> Ints:
    """One after the other; of none, none."""
    return np.concatenate([upto(0), *parts])
