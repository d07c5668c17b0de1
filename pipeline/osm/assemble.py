"""Areas from the segments of their rings: even-odd, whatever the roles and the order of the ways say."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.osm.pbf import Ints

#: Relative difference between the length of an area's boundary and that of its segments that rounding explains.
_LENGTH = 1e-9


def assemble(count: int, owner: Ints, start: Ints, end: Ints, lonlat: NDArray[np.float64]) -> NDArray[Any]:
    """Polygons and multipolygons of ``count`` areas; None where the segments make none.

    A segment that an area has twice (two inner rings that share a side, a way named twice) bounds nothing and is left
    out. What remains must close (every node has an even number of segments), may touch itself in nodes but not cross,
    and must all be boundary: then inside is what an odd number of rings surrounds.

    Args:
        count: number of areas.
        owner: area of each segment, i64[S].
        start, end: node ids of each segment, i64[S].
        lonlat: f64[S,2,2] positions of both ends in degrees.
    """
    result = np.full(count, None, object)
    keep = start != end
    keep &= (lonlat[:, 0] != lonlat[:, 1]).any(axis=1)
    owner, start, end, lonlat = owner[keep], start[keep], end[keep], lonlat[keep]
    low, high = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((high, low, owner))
    owner, low, high, lonlat = owner[order], low[order], high[order], lonlat[order]
    first = np.ones(len(owner), bool)
    first[1:] = (np.diff(owner) != 0) | (np.diff(low) != 0) | (np.diff(high) != 0)
    run = np.cumsum(first) - 1
    odd = first & (np.bincount(run, minlength=1)[run] % 2 == 1) if len(owner) else first
    owner, low, high, lonlat = owner[odd], low[odd], high[odd], lonlat[odd]
    closed = _closed(count, owner, low, high)
    use = closed[owner]
    owner, lonlat = owner[use], lonlat[use]
    if not len(owner):
        return result
    lines = shapely.linestrings(lonlat)
    areas, where = np.unique(owner, return_inverse=True)
    where = where.reshape(-1)
    built = shapely.build_area(shapely.multilinestrings(lines, indices=where))
    length = np.bincount(where, shapely.length(lines))
    whole = np.abs(shapely.length(built) - length) <= _LENGTH * length
    good = whole & ~shapely.is_empty(built) & shapely.is_valid(built)
    result[areas[good]] = shapely.orient_polygons(built[good])
    return result


def _closed(count: int, owner: Ints, low: Ints, high: Ints) -> NDArray[np.bool_]:
    """Areas with segments in which every node has an even number of them, bool[count]."""
    area, node = np.concatenate((owner, owner)), np.concatenate((low, high))
    order = np.lexsort((node, area))
    area, node = area[order], node[order]
    first = np.ones(len(area), bool)
    first[1:] = (np.diff(area) != 0) | (np.diff(node) != 0)
    starts = np.flatnonzero(first)
    degree = np.diff(np.append(starts, len(area)))
    result = np.bincount(owner, minlength=count) > 0
    result[area[starts[degree % 2 == 1]]] = False
    return result
