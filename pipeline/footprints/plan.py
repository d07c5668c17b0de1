"""Which tiles there are, in which order footprints lie, in which shard: pure functions on small tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.hilbert import hilbert
from schemas.errors import ConfigError, InputError
from schemas.footprint import WEB_MERCATOR_MAX_LATITUDE, lonlat_to_tile, tile_to_lonlat

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]  # west, south, east, north in degrees

#: Zoom of the Hilbert curve along which footprints are ordered: cells of 2.4 m at the equator.
_ORDER = 24


def extent_tiles(extents: Sequence[Box], zoom: int, max_tiles: int) -> Ints:
    """Tiles (x, y) that meet any of the extents, i64[T,2], each once.

    Raises:
        ConfigError: more than ``max_tiles``.
    """
    side = 1 << zoom
    found: list[Ints] = []
    for west, south, east, north in extents:
        x0, y0 = np.clip(np.floor(lonlat_to_tile(np.array([west, north]), zoom)), 0, side - 1).astype(np.int64)
        x1, y1 = np.clip(np.floor(lonlat_to_tile(np.array([east, south]), zoom)), 0, side - 1).astype(np.int64)
        count = (x1 - x0 + 1) * (y1 - y0 + 1)
        if count > max_tiles:
            raise ConfigError(
                f"the extent {west:.3f},{south:.3f},{east:.3f},{north:.3f} holds {count:,} tiles at zoom {zoom}, over "
                f"plan.max_tiles={max_tiles:,}; lower the zoom or raise plan.max_tiles"
            )
        x, y = np.meshgrid(np.arange(x0, x1 + 1), np.arange(y0, y1 + 1))
        found.append(np.stack((x.ravel(), y.ravel()), axis=1))
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)


def cut_extents(extents: Sequence[Box], area: Any) -> list[Box]:
    """Extents cut to the bounds of an area (lon/lat polygon; None: the world); those that do not meet it go."""
    west, south, east, north = (-180.0, -90.0, 180.0, 90.0) if area is None else area.bounds
    cut = [(max(w, west), max(s, south), min(e, east), min(n, north)) for w, s, e, n in extents]
    return [(w, s, e, n) for w, s, e, n in cut if w <= e and s <= n]


def area_tiles(extents: Sequence[Box], area: Any, zoom: int, max_tiles: int) -> Ints:
    """Tiles (x, y) that share ground with an area (lon/lat polygon) inside the extents, i64[T,2], each once.

    Quads of the tile pyramid that lie wholly inside are not looked into, so that a continent takes seconds.

    Raises:
        ConfigError: more than ``max_tiles``.
    """
    ground = shapely.intersection(shapely.make_valid(area), shapely.union_all([shapely.box(*e) for e in extents]))
    shapely.prepare(ground)
    edge = np.zeros((1, 2), np.int64)
    whole: list[tuple[int, Ints]] = []  # level, and tiles of that level
    count = 0
    for level in range(zoom + 1):
        boxes = tile_boxes(edge, level)
        meets = shapely.intersects(ground, boxes) & ~shapely.touches(ground, boxes)
        inside = meets & shapely.contains_properly(ground, boxes)
        whole.append((level, edge[inside]))
        count += int(inside.sum()) * 4 ** (zoom - level)
        edge = edge[meets & ~inside]
        if count + len(edge) > max_tiles:
            raise ConfigError(
                f"the region holds over plan.max_tiles={max_tiles:,} tiles at zoom {zoom}; lower the zoom or raise "
                "plan.max_tiles"
            )
        if level < zoom:
            edge = _children(edge, 1)
    found = [edge, *(_children(tiles, zoom - level) for level, tiles in whole if len(tiles))]
    tiles = np.concatenate(found)  # quads of different levels hold different tiles
    return tiles[np.lexsort((tiles[:, 1], tiles[:, 0]))]


def _children(tiles: Ints, levels: int) -> Ints:
    """All tiles so many levels below, i64[T * 4^levels, 2]."""
    side = np.arange(1 << levels, dtype=np.int64)
    steps = np.stack(np.meshgrid(side, side), axis=-1).reshape(1, -1, 2)
    return ((tiles[:, None, :] << levels) + steps).reshape(-1, 2)


def tile_boxes(tiles: Ints, zoom: int) -> NDArray[Any]:
    """Tiles i64[T,2] as shapely boxes in lon/lat."""
    west, north = tile_to_lonlat(tiles.astype(np.float64), zoom).T
    east, south = tile_to_lonlat(tiles.astype(np.float64) + 1.0, zoom).T
    return shapely.box(west, south, east, north)


def along_curve(centre: NDArray[np.float64]) -> Ints:
    """Place of each centre f64[N,2] (lon, lat) along the Hilbert curve of zoom 24, i64[N]: of a tile, all places begin
    with those of the tiles that hold it."""
    lonlat = centre.copy()
    lonlat[:, 1] = np.clip(lonlat[:, 1], -WEB_MERCATOR_MAX_LATITUDE, WEB_MERCATOR_MAX_LATITUDE)
    tiles = np.clip(np.floor(lonlat_to_tile(lonlat, _ORDER)), 0, (1 << _ORDER) - 1).astype(np.int64)
    return hilbert(tiles[:, 0], tiles[:, 1], _ORDER)


def cut_shards(distance: Ints, per_shard: int) -> list[slice]:
    """Runs of footprints that lie along the Hilbert curve at ``distance`` i64[N], which rises, cut where quads of the
    tile pyramid end.

    A shard is a run of sibling quads that together hold at most ``per_shard`` footprints. So one that an update adds or
    takes away changes the shards of its own quad, and shifts no other's border.

    Raises:
        InputError: there is no footprint.
    """
    if not len(distance):
        raise InputError(
            "no footprint is left to build: the imagery does not cover the region, or no object meets one of them"
        )
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
