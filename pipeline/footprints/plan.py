"""Which tiles there are, in which order footprints lie, in which shard: pure functions on small tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.hilbert import hilbert
from geometry.tiles import lonlat_to_tile, tile_bounds, tile_ranges, tiles_between
from pipeline.footprints.quads import cells_on
from schemas.errors import ConfigError

Ints = NDArray[np.int64]
Box = tuple[float, float, float, float]  # west, south, east, north in degrees

#: Zoom of the Hilbert curve along which footprints are ordered: cells of 2.4 m at the equator.
_ORDER = 24


def extent_tiles(extents: Sequence[Box], zoom: int, max_tiles: int) -> Ints:
    """Tiles (x, y) that meet any of the extents, i64[T,2], each once.

    Raises:
        ConfigError: more than ``max_tiles``.
    """
    first, last = tile_ranges(np.array(extents, np.float64).reshape(-1, 4), zoom)
    counts = (last - first + 1).prod(axis=1)
    for i in np.flatnonzero(counts > max_tiles).tolist():
        west, south, east, north = extents[i]
        raise ConfigError(
            f"the extent {west:.3f},{south:.3f},{east:.3f},{north:.3f} holds {counts[i]:,} tiles at zoom {zoom}, over "
            f"plan.max_tiles={max_tiles:,}; lower the zoom or raise plan.max_tiles"
        )
    return np.unique(tiles_between(first, last)[1], axis=0)


def cut_extents(extents: Sequence[Box], area: Any) -> list[Box]:
    """Extents cut to the bounds of an area (lon/lat polygon; None: the world); those that do not meet it go."""
    west, south, east, north = (-180.0, -90.0, 180.0, 90.0) if area is None else area.bounds
    cut = [(max(w, west), max(s, south), min(e, east), min(n, north)) for w, s, e, n in extents]
    return [(w, s, e, n) for w, s, e, n in cut if w <= e and s <= n]


def area_tiles(extents: Sequence[Box], area: Any, zoom: int, max_tiles: int) -> Ints:
    """Tiles (x, y) that share ground with an area (lon/lat polygon) inside the extents, i64[T,2], each once.

    Raises:
        ConfigError: more than ``max_tiles``.
    """
    ground = shapely.intersection(shapely.make_valid(area), shapely.union_all([shapely.box(*e) for e in extents]))
    refusal = (
        f"the region holds over plan.max_tiles={max_tiles:,} tiles at zoom {zoom}; lower the zoom or raise "
        "plan.max_tiles"
    )
    return cells_on(ground, lambda quads, level: _inner(quads, level, zoom), zoom, max_tiles, refusal)


def _inner(quads: Ints, level: int, zoom: int) -> NDArray[Any]:
    """Quads as lon/lat boxes, smaller by a billionth of a tile of ``zoom``: what only touches shares no ground."""
    return np.asarray(shapely.box(*tile_bounds(quads, level, -1e-9 / (1 << (zoom - level))).T))


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
