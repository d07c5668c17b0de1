"""Which tiles become samples, in which order, in which shard: pure functions on small tables."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.hilbert import hilbert
from schemas.errors import ConfigError, InputError
from schemas.footprint import lonlat_to_tile, tile_to_lonlat

Ints = NDArray[np.int64]
Box = tuple[float, float, float, float]  # west, south, east, north in degrees


def extent_tiles(extents: list[Box], zoom: int, max_tiles: int) -> Ints:
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


def cut_extents(extents: list[Box], area: Any) -> list[Box]:
    """Extents cut to the bounds of an area (lon/lat polygon); those that do not meet it go."""
    west, south, east, north = area.bounds
    cut = [(max(w, west), max(s, south), min(e, east), min(n, north)) for w, s, e, n in extents]
    return [(w, s, e, n) for w, s, e, n in cut if w <= e and s <= n]


def meeting(tiles: Ints, zoom: int, area: Any) -> NDArray[np.bool_]:
    """Which tiles meet an area (lon/lat polygon) with more than their border, bool[T]."""
    boxes = tile_boxes(tiles, zoom)
    shapely.prepare(area)
    return np.asarray(shapely.intersects(area, boxes) & ~shapely.touches(area, boxes))


def tile_boxes(tiles: Ints, zoom: int) -> NDArray[Any]:
    """Tiles i64[T,2] as shapely boxes in lon/lat."""
    west, north = tile_to_lonlat(tiles.astype(np.float64), zoom).T
    east, south = tile_to_lonlat(tiles.astype(np.float64) + 1.0, zoom).T
    return shapely.box(west, south, east, north)


def covered_by(tiles: Ints, zoom: int, areas: list[Any]) -> NDArray[np.bool_]:
    """Which tiles lie wholly inside one of ``areas`` (lon/lat polygons), bool[T].

    Tiles are taken smaller by 1e-6 of a side: an image cut along tile edges covers them, although its outline rounds.
    """
    west, north = tile_to_lonlat(tiles.astype(np.float64) + 1e-6, zoom).T
    east, south = tile_to_lonlat(tiles.astype(np.float64) + (1.0 - 1e-6), zoom).T
    boxes = shapely.box(west, south, east, north)
    result = np.zeros(len(tiles), bool)
    for area in areas:
        shapely.prepare(area)
        result |= shapely.covers(area, boxes)
    return result


def occupied(tiles: Ints, zoom: int, geometry: NDArray[Any]) -> NDArray[np.int64]:
    """Features (lon/lat shapely objects) that meet each tile, i64[T]; touching counts."""
    if not len(tiles) or not len(geometry):
        return np.zeros(len(tiles), np.int64)
    hit, _ = shapely.STRtree(geometry).query(tile_boxes(tiles, zoom), predicate="intersects")
    return np.bincount(hit, minlength=len(tiles))


def order_tiles(tiles: Ints, zoom: int) -> Ints:
    """Tiles along the Hilbert curve."""
    return tiles[np.argsort(hilbert(tiles[:, 0], tiles[:, 1], zoom), kind="stable")]


def cut_shards(tiles: Ints, zoom: int, tiles_per_shard: int) -> list[Ints]:
    """Runs of planned tiles i64[T,2] along the Hilbert curve, cut where quads of the tile pyramid end.

    A shard is a run of sibling quads that together hold at most ``tiles_per_shard`` tiles. So a tile that an update
    adds or takes away changes the shards of its own quad, and shifts no other's border.

    Raises:
        InputError: there is no tile.
    """
    if not len(tiles):
        raise InputError("no tile is left to build: the imagery does not cover the region, or no object meets a tile")
    distance = hilbert(tiles[:, 0], tiles[:, 1], zoom)
    edges = [*_runs(distance, 0, zoom, tiles_per_shard), len(tiles)]
    return [tiles[a:b] for a, b in pairwise(edges)]


def _runs(distance: Ints, start: int, level: int, most: int) -> list[int]:
    """Where each run of a quad begins: ``distance`` [N] are its tiles, the first of them number ``start``.

    The quad has 4^level places.
    """
    if len(distance) <= most or level == 0:
        return [start] if len(distance) else []
    quarter = distance >> (2 * (level - 1))
    edges = [*np.searchsorted(quarter, np.unique(quarter)).tolist(), len(distance)]
    runs: list[int] = []
    held = most + 1  # tiles of the run that may still grow; more than allowed: none may
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
