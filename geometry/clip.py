"""Clipping packed geometry to the unit square, many objects of many footprints at once.

Polygons by Sutherland and Hodgman (1974), side by side: what a cut leaves may hang together along the border by edges
of no width, which change neither area, cover nor even-odd fill. Lines segment by segment; points by the half-open
square.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geometry.packed import Floats, Ints, PackedGeometry, ranges

#: Sides of the square: axis, bound, and whether what lies below the bound stays.
_SIDES = ((0, 0.0, False), (0, 1.0, True), (1, 0.0, False), (1, 1.0, True))


def clip_to_unit(geometry: PackedGeometry, noise: float = 0.0) -> tuple[PackedGeometry, NDArray[np.bool_]]:
    """Geometry cut to 0 <= x, y <= 1, and which objects still belong to the square, bool[N].

    An object belongs if it keeps more than ``noise`` of area (polygons) or of length (lines), is a point in the
    half-open square, or lay in the square as a whole, however small. A line along the right or lower side belongs to
    the neighbour. Those that do not belong keep their place in the result, without rings.
    """
    low, high = _bounds(geometry)
    near = ~((low > 1) | (high < 0)).any(axis=1)
    polygons, lines, points = (np.flatnonzero((geometry.kind == kind) & near) for kind in (2, 1, 0))
    parts = [_polygons(geometry.take(polygons)), _lines(geometry.take(lines)), geometry.take(points)]
    order = np.concatenate((polygons, lines, points))
    clipped = _in_order(parts, order, geometry.kind)
    belongs = _belongs(clipped, noise) | ((low >= 0) & (low < 1) & (high <= 1)).all(axis=1)
    return _without(clipped, ~belongs), belongs


def signed_area(geometry: PackedGeometry) -> Floats:
    """Area of each polygon, outer rings less holes, f64[N]; 0 for others."""
    start, end, owner = geometry.edges(closed=True)
    # Counter-clockwise seen with y up is clockwise in coordinates whose y points down.
    twice = end[:, 0] * start[:, 1] - start[:, 0] * end[:, 1]
    area = np.bincount(owner, twice, len(geometry)) / 2
    return np.where(geometry.kind == 2, area, 0.0)


def line_length(geometry: PackedGeometry) -> Floats:
    """Length of each line, f64[N]; 0 for others."""
    start, end, owner = geometry.edges(closed=False)
    length = np.bincount(owner, np.hypot(*(end - start).T), len(geometry))
    return np.where(geometry.kind == 1, length, 0.0)


def _bounds(geometry: PackedGeometry) -> tuple[Floats, Floats]:
    """Lower and upper corner of each object, f64[N,2]; infinite for an object without a vertex."""
    first = geometry.ring_offsets[geometry.object_ring_offsets]
    low, high = np.full((2, len(geometry), 2), np.inf)
    high = -high
    some = np.flatnonzero(np.diff(first) > 0)
    if len(some):
        low[some] = np.minimum.reduceat(geometry.vertices, first[some])
        high[some] = np.maximum.reduceat(geometry.vertices, first[some])
    return low, high


def _belongs(geometry: PackedGeometry, noise: float) -> NDArray[np.bool_]:
    low, _ = _bounds(geometry)
    with np.errstate(invalid="ignore"):
        point = (geometry.kind == 0) & (low >= 0).all(axis=1) & (low < 1).all(axis=1)
    line = (geometry.kind == 1) & (line_length(geometry) > noise) & (low < 1 - noise).all(axis=1)
    polygon = (geometry.kind == 2) & (signed_area(geometry) > noise)
    return point | line | polygon


def _in_order(parts: list[PackedGeometry], order: Ints, kind: NDArray[np.uint8]) -> PackedGeometry:
    """Parts that follow each other as ``order`` says, at their own places among all objects."""
    counts = np.concatenate([np.diff(part.object_ring_offsets) for part in parts])
    rings = np.concatenate([np.diff(part.ring_offsets) for part in parts])
    vertices = np.concatenate([part.vertices for part in parts])
    some = PackedGeometry(kind[order], vertices, _offsets(rings), _offsets(counts)).take(np.argsort(order))
    per_object = np.zeros(len(kind), np.int64)
    per_object[order] = counts
    return PackedGeometry(kind, some.vertices, some.ring_offsets, _offsets(per_object))


def _without(geometry: PackedGeometry, gone: NDArray[np.bool_]) -> PackedGeometry:
    counts = np.where(gone, 0, np.diff(geometry.object_ring_offsets))
    left = geometry.take(np.flatnonzero(~gone))
    return PackedGeometry(geometry.kind, left.vertices, left.ring_offsets, _offsets(counts))


def _offsets(counts: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _polygons(geometry: PackedGeometry) -> PackedGeometry:
    vertices, offsets = geometry.vertices, geometry.ring_offsets
    for axis, bound, below in _SIDES:
        vertices, offsets = _cut_rings(vertices, offsets, axis, bound, below)
    counts = np.diff(offsets)
    there = counts > np.where(np.diff(geometry.ring_offsets) > 2, 2, 0)  # a ring snapped to a point stays one
    owner = geometry.ring_object
    rings = np.bincount(owner[there], minlength=len(geometry))
    at, kept = ranges(offsets, np.flatnonzero(there))
    return PackedGeometry(geometry.kind, vertices[at], kept, _offsets(rings))


def _cut_rings(vertices: Floats, offsets: Ints, axis: int, bound: float, below: bool) -> tuple[Floats, Ints]:
    """Every ring on one side of a line; rings may become empty, and none is added."""
    value = vertices[:, axis]
    inside = value <= bound if below else value >= bound
    if inside.all():
        return vertices, offsets
    sizes = np.diff(offsets)
    before = np.arange(len(vertices)) - 1
    some = sizes > 0
    before[offsets[:-1][some]] = offsets[1:][some] - 1
    crossing = inside != inside[before]
    out = inside.astype(np.int64) + crossing
    place = np.cumsum(out) - out
    result = np.empty((int(out.sum()), 2))
    cut = np.flatnonzero(crossing)
    result[place[cut]] = _meet(vertices[before[cut]], vertices[cut], axis, bound)
    kept = np.flatnonzero(inside)
    result[place[kept] + crossing[kept]] = vertices[kept]
    total = np.concatenate(([0], np.cumsum(out)))
    return result, total[offsets]


def _meet(a: Floats, b: Floats, axis: int, bound: float) -> Floats:
    """Where segments cross a line. Reckoned from the lower end, so that neighbours which share one get one point."""
    swap = a[:, axis] > b[:, axis]
    low, high = np.where(swap[:, None], b, a), np.where(swap[:, None], a, b)
    t = (bound - low[:, axis]) / (high[:, axis] - low[:, axis])
    points = low + (high - low) * t[:, None]
    points[:, axis] = bound
    return points


def _lines(geometry: PackedGeometry) -> PackedGeometry:
    """Each segment's share of the square; shares that follow on each other are one part."""
    start, end, owner = geometry.edges(closed=False)
    delta = end - start
    first, last = np.zeros(len(start)), np.ones(len(start))
    with np.errstate(divide="ignore", invalid="ignore"):
        for axis in (0, 1):
            at = np.stack(((0.0 - start[:, axis]) / delta[:, axis], (1.0 - start[:, axis]) / delta[:, axis]))
            flat = delta[:, axis] == 0
            out = flat & ((start[:, axis] < 0) | (start[:, axis] > 1))
            first = np.maximum(first, np.where(flat, 0.0, at.min(axis=0)))
            last = np.where(out, -1.0, np.minimum(last, np.where(flat, 1.0, at.max(axis=0))))
    kept = np.flatnonzero(last > first)
    ring = geometry.vertex_ring[geometry.segments(closed=False)[0][kept]]
    opens = np.ones(len(kept), bool)
    opens[1:] = (
        (np.diff(kept) != 1) | (ring[1:] != ring[:-1]) | (last[kept[:-1]] < 1.0) | (first[kept[1:]] > 0.0)
    )  # fmt: skip
    a = np.where((first[kept] > 0)[:, None], start[kept] + first[kept, None] * delta[kept], start[kept])
    b = np.where((last[kept] < 1)[:, None], start[kept] + last[kept, None] * delta[kept], end[kept])
    place = np.cumsum(1 + opens) - 1
    vertices = np.empty((int(place[-1]) + 1 if len(place) else 0, 2))
    vertices[place] = np.clip(b, 0.0, 1.0)
    vertices[place[opens] - 1] = np.clip(a[opens], 0.0, 1.0)
    part = np.cumsum(opens) - 1
    counts = np.bincount(part, minlength=int(part[-1]) + 1 if len(part) else 0) + 1 if len(part) else part
    return PackedGeometry(
        geometry.kind, vertices, _offsets(counts), _offsets(np.bincount(owner[kept][opens], minlength=len(geometry)))
    )
