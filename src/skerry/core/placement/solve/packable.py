"""Whether what is placed at a site can be packed on its nodes: first fit, the largest shapes first, equal shapes together."""

import numpy as np
from numpy.typing import NDArray

from skerry.core.placement.solve.arrays import ranked, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.columns import KINDS, Columns
from skerry.core.types.problem import Floats

Counts = NDArray[np.int32]


def unpacked(columns: Columns, counts: Counts, sites: Ints | None = None) -> Floats:
    """[S, KINDS]: what of the instances finds no node, though the sums may say so. `sites`: only of these."""
    left = np.zeros((columns.sites, KINDS))
    if not columns.apps:
        return left
    order = np.argsort(columns.shape_of, kind="stable")
    start = np.searchsorted(columns.shape_of[order], upto(len(columns.shapes)))
    rows = counts[order] if sites is None else counts[np.ix_(order, sites)]
    by_shape = np.add.reduceat(rows, start, axis=0, dtype=np.int64)
    for at, site in enumerate(range(columns.sites) if sites is None else sites.tolist()):
        there = np.flatnonzero(by_shape[:, at])
        if len(there) and not _surely_fits(columns, site, there, by_shape[there, at]):
            left[site] = _first_fit(columns, site, there, by_shape[there, at])
    return left


def _surely_fits(columns: Columns, site: int, shapes: Ints, counts: Ints) -> bool:
    """Any fit succeeds: it fails only when every node is full in some kind, up to the largest instance; this is less."""
    node, nodes = columns.node[site], int(columns.node_counts[site])
    share = columns.shapes[shapes] / np.maximum(node, 1e-300)
    largest = share.max(axis=0)
    if (largest >= 1.0).any():
        return False
    return float(((counts @ share) / (1.0 - largest)).sum()) < nodes


def _first_fit(columns: Columns, site: int, shapes: Ints, counts: Ints) -> Floats:
    """What is left over, in the units of each kind."""
    node, nodes = columns.node[site], int(columns.node_counts[site])
    free = np.tile(node, (nodes, 1))
    share = (columns.shapes[shapes] / np.maximum(node, 1e-300)).max(axis=1)
    left = np.zeros(KINDS)
    for at in ranked(-share):
        reserve, count = columns.shapes[shapes[at]], int(counts[at])
        fits = np.full(nodes, count, dtype=np.int64)
        for kind in range(KINDS):
            if reserve[kind] > 0.0:
                fits = np.minimum(fits, np.floor(free[:, kind] / reserve[kind] + 1e-9).astype(np.int64))
        taken = np.clip(count - (np.cumsum(fits) - fits), 0, fits)
        free -= taken[:, None] * reserve
        left += (count - int(taken.sum())) * reserve
    return left
