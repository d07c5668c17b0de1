"""In which order footprints lie, and in which shard: pure functions on small tables."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from geometry.hilbert import hilbert
from geometry.tiles import lonlat_to_tile

Ints = NDArray[np.int64]

#: Zoom of the Hilbert curve along which footprints are ordered: cells of 2.4 m at the equator.
_ORDER = 24


def along_curve(centre: NDArray[np.float64]) -> Ints:
    """Place of each centre f64[N,2] (lon, lat) along the Hilbert curve of zoom 24, i64[N]: of a tile, all places begin
    with those of the tiles that hold it."""
    tiles = np.clip(np.floor(lonlat_to_tile(centre, _ORDER)), 0, (1 << _ORDER) - 1).astype(np.int64)
    return hilbert(tiles[:, 0], tiles[:, 1], _ORDER)


def cut_shards(distance: Ints, per_shard: int) -> list[slice]:
    """Runs of footprints that lie along the Hilbert curve at ``distance`` i64[N], which rises, cut where quads of the
    tile pyramid end.

    A shard is a run of sibling quads that together hold at most ``per_shard`` footprints. So one that an update adds or
    takes away changes the shards of its own quad, and shifts no other's border.
    """
    edges = [*_runs(distance, 0, _ORDER, per_shard), len(distance)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _runs(distance: Ints, start: int, level: int, most: int) -> list[int]:
    """Where each run of a quad begins: ``distance`` [N] are its footprints, the first of them number ``start``.

    The quad has 4^level places.
    """
    if len(distance) <= most or level == 0:
        return [start] if len(distance) else []
    quarter = distance >> (2 * (level - 1))
    edges = [*np.searchsorted(quarter, np.unique(quarter)).tolist(), len(distance)]
    runs: list[int] = []
    held = most + 1  # footprints of the run that may still grow; more than allowed: none may
    for a, b in pairwise(edges):
        if b - a > most:
            runs += _runs(distance[a:b], start + a, level - 1, most)
            held = most + 1
        elif held + b - a > most:
            runs.append(start + a)
            held = b - a
        else:
            held += b - a
    return runs
