"""Anchors: the few places by which an object meets the image patches.

Point: itself. Line: the midpoint along it, its first and its last vertex. Polygon: a representative interior point,
then three seeded interior samples. Every polygon anchor lies on a horizontal chord inside the polygon, found by
scanline, so none falls into a hole or outside a concave shape.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geometry.mix import uniform
from geometry.packed import Floats, Ints, PackedGeometry, expand

_SAMPLES = 3
#: Running sums over a batch are kept in whole 2^-32 of a unit: unlike float sums they do not round, so an object's
#: anchors do not depend on what stands before it.
_FIXED = 2.0**32


def anchors(geometry: PackedGeometry, seed: NDArray[np.uint64]) -> Floats:
    """Anchors f64[N,4,2] in the unit of the vertices; unused ones are NaN.

    Args:
        geometry: objects, clipped to their footprint.
        seed: u64[N], one stream of random numbers an object; equal seeds and shapes give equal samples.
    """
    result = np.full((len(geometry), 1 + _SAMPLES, 2), np.nan)
    points = np.flatnonzero(geometry.kind == 0)
    result[points, 0] = geometry.vertices[geometry.ring_offsets[geometry.object_ring_offsets[points]]]
    lines = np.flatnonzero(geometry.kind == 1)
    if len(lines):
        result[lines, :3] = _line_anchors(geometry.take(lines))
    polygons = np.flatnonzero(geometry.kind == 2)
    if len(polygons):
        result[polygons] = _polygon_anchors(geometry.take(polygons), seed[polygons])
    return result


def _line_anchors(geometry: PackedGeometry) -> Floats:
    """Midpoint by length over all parts, first vertex of the first part, last vertex of the last: f64[N,3,2]."""
    start, end, owner = geometry.edges(closed=False)
    count = len(geometry)
    length = np.rint(np.hypot(*(end - start).T) * _FIXED).astype(np.int64)
    before = np.concatenate(([0], np.cumsum(length)))
    first_edge = np.searchsorted(owner, np.arange(count))
    last_edge = np.searchsorted(owner, np.arange(count), side="right") - 1
    target = (before[first_edge] + before[last_edge + 1]) // 2
    edge = np.clip(np.searchsorted(before, target, side="right") - 1, first_edge, last_edge)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.nan_to_num((target - before[edge]) / length[edge])
    middle = start[edge] + np.clip(t, 0, 1)[:, None] * (end[edge] - start[edge])
    return np.stack((middle, start[first_edge], end[last_edge]), axis=1)


def _polygon_anchors(geometry: PackedGeometry, seed: NDArray[np.uint64]) -> Floats:
    """Representative point and samples, f64[N,4,2]."""
    count = len(geometry)
    y_mid = _largest_ring_middle(geometry)
    starts = geometry.ring_offsets[geometry.object_ring_offsets[:-1]]
    y = geometry.vertices[:, 1]
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    draw = uniform(seed, 2 * _SAMPLES).reshape(count, _SAMPLES, 2)
    levels = np.concatenate((y_mid[:, None], low[:, None] + draw[:, :, 0] * (high - low)[:, None]), axis=1)
    pick = np.concatenate((np.full((count, 1), np.nan), draw[:, :, 1]), axis=1)
    x = _on_chords(geometry, levels, pick)
    result = np.stack((x, levels), axis=2)
    # A scanline misses only a shape thinner than float64 or a gap between parts: stand on the representative point,
    # and where that too is missing, on the first vertex.
    result[:, 0] = np.where(np.isnan(x[:, :1]), geometry.vertices[starts], result[:, 0])
    return np.where(np.isnan(result[:, :, :1]), result[:, :1], result)


def _largest_ring_middle(geometry: PackedGeometry) -> Floats:
    """Middle height of each object's tallest ring, f64[N]."""
    y = geometry.vertices[:, 1]
    starts = geometry.ring_offsets[:-1]
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    owner = geometry.ring_object
    order = np.lexsort((-(high - low), owner))
    tallest = order[np.searchsorted(owner[order], np.arange(len(geometry)))]
    return (low[tallest] + high[tallest]) / 2


def _on_chords(geometry: PackedGeometry, levels: Floats, pick: Floats) -> Floats:
    """x on the chords of each object at each level f64[N,L].

    ``pick`` in [0, 1) chooses the place along the summed chords; NaN chooses the middle of the widest one. Where a
    level meets nothing the result is NaN.
    """
    count, per_object = levels.shape
    start, end, owner = geometry.edges(closed=True)
    edge, level = expand(np.full(len(owner), per_object))
    y = levels[owner[edge], level]
    ya, yb = start[edge, 1], end[edge, 1]
    hit = np.flatnonzero((ya <= y) != (yb <= y))
    edge, level, y = edge[hit], level[hit], y[hit]
    t = (y - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + t * (end[edge, 0] - start[edge, 0])
    line = owner[edge] * per_object + level
    order = np.lexsort((x, line))
    x, line = x[order], line[order]
    left, right, line = x[0::2], x[1::2], line[0::2]  # closed rings cross a level an even number of times
    width = np.rint((right - left) * _FIXED).astype(np.int64)
    total = np.bincount(line, width, count * per_object)
    result = np.full(count * per_object, np.nan)
    if not len(line):
        return result.reshape(count, per_object)
    widest = np.lexsort((-width, line))
    lines, at = np.unique(line[widest], return_index=True)
    result[lines] = (left + right)[widest[at]] / 2
    wanted = np.floor(np.nan_to_num(pick.reshape(-1)[line], nan=-1.0) * total[line]).astype(np.int64)
    before = np.cumsum(width) - width
    first = np.concatenate(([True], line[1:] != line[:-1]))
    before -= np.maximum.accumulate(np.where(first, before, 0))
    chosen = (wanted >= before) & (wanted < before + width)
    result[line[chosen]] = (left + (wanted - before) / _FIXED)[chosen]
    return result.reshape(count, per_object)


def object_seed(
    osm_type: NDArray[np.uint8], osm_id: Ints, salt: NDArray[np.uint64], part: Ints | int = 0
) -> NDArray[np.uint64]:
    """One seed an object from its identity, its footprint's salt and its place among its feature's parts, u64[N]."""
    with np.errstate(over="ignore"):
        mixed = osm_id.astype(np.uint64) * np.uint64(4) + osm_type.astype(np.uint64)
        own = np.asarray(part, np.uint64) * np.uint64(0xA0761D6478BD642F)
        return (mixed * np.uint64(0xD6E8FEB86659FD93)) ^ salt ^ own
