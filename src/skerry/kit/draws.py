"""Numbers that look random and are the same everywhere: a function of seed, name and index, without a state.

Each draw is splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of a stream that the seed and the name choose: asking for
one more draw of one name changes nothing of another name.
"""

import numpy as np
from numpy.typing import NDArray

from skerry.kit.hashing import stable_hash

Floats = NDArray[np.float64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_BITS_KEPT = np.uint64(11)  # of 64: the 53 that a float holds


class Draws:
    """Named streams of one seed."""

    def __init__(self, seed: int, *scope: str) -> None:
        self._scope = (str(seed), *scope)

    def uniform(self, name: str, count: int, start: int = 0) -> Floats:
        """`count` numbers of (0, 1), those from index `start` of the stream."""
        index = np.arange(start + 1, start + count + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            mixed = np.uint64(stable_hash(*self._scope, name)) + index * _STEP
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
            mixed ^= mixed >> np.uint64(31)
        return ((mixed >> _BITS_KEPT).astype(np.float64) + 0.5) / 2.0**53

    def normal(self, name: str, count: int, start: int = 0) -> Floats:
        """Standard normal numbers (Box and Muller), from two streams."""
        radius = np.sqrt(-2.0 * np.log(self.uniform(f"{name}/radius", count, start)))
        return radius * np.cos(2.0 * np.pi * self.uniform(f"{name}/angle", count, start))

    def integers(self, name: str, count: int, below: int) -> NDArray[np.int64]:
        """Whole numbers of 0 … below − 1."""
        return np.minimum(np.floor(self.uniform(name, count) * below).astype(np.int64), below - 1)
