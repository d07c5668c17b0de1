"""Areas from the segments of their rings: even-odd, whatever the roles and the order of the ways say."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import changes
from pipeline.formats.wire import Ints

#: Relative difference between the length of an area's boundary and that of its segments that rounding explains.
_LENGTH = 1e-9


def assemble(count: int, owner: Ints, start: Ints, end: Ints, lonlat: NDArray[np.float64]) -> NDArray[Any]:
    """Polygons and multipolygons of ``count`` areas; None where the segments make none.

    A segment that an area has twice (two inner rings that share a side, a way named twice) bounds nothing and is left
    out. What remains must close (every node has an even number of segments), may touch itself in nodes but not cross,
    and must all be boundary: then inside is what an odd number of rings surrounds.

    Args:
        count: number of areas.
        owner: area of each segment, i64[S]; rises, segments of a way follow each other.
        start, end: node ids of each segment, i64[S].
        lonlat: f64[S,2,2] positions of both ends in degrees.
    """
    result = np.full(count, None, object)
    keep = (start != end) & (lonlat[:, 0] != lonlat[:, 1]).any(axis=1)
    keep[keep] = _odd(owner[keep], start[keep], end[keep])
    owner, start, end, lonlat = owner[keep], start[keep], end[keep], lonlat[keep]
    degree = _degrees(owner, start, end)
    open_area = np.zeros(count, bool)
    open_area[owner[degree % 2 == 1]] = True
    use = ~open_area[owner]
    if not use.any():
        return result
    lines, line_owner = _lines(owner[use], start[use], end[use], lonlat[use], degree[use])
    areas, where = np.unique(line_owner, return_inverse=True)
    where = where.reshape(-1)
    built = shapely.build_area(shapely.multilinestrings(lines, indices=where))
    length = np.bincount(where, shapely.length(lines))
    whole = np.abs(shapely.length(built) - length) <= _LENGTH * length
    good = whole & ~shapely.is_empty(built) & shapely.is_valid(built)
    result[areas[good]] = shapely.orient_polygons(built[good])
    return result


def _odd(owner: Ints, start: Ints, end: Ints) -> NDArray[np.bool_]:
    """One of each segment that its area has an odd number of times, whichever way it runs, bool[S]."""
    low, high = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((high, low, owner))
    first = changes(owner[order], low[order], high[order])
    times = np.diff(np.append(np.flatnonzero(first), len(order)))
    result = np.zeros(len(order), bool)
    result[order[first]] = times % 2 == 1
    return result


def _degrees(owner: Ints, start: Ints, end: Ints) -> Ints:
    """Segments of its area that meet at each segment's start, i64[S]; at its end, where that number is odd."""
    size = len(owner)
    area, node = np.concatenate((owner, owner)), np.concatenate((start, end))
    order = np.lexsort((node, area))
    first = changes(area[order], node[order])
    times = np.diff(np.append(np.flatnonzero(first), len(order)))
    degree = np.empty(2 * size, np.int64)
    degree[order] = np.repeat(times, times)
    at_start, at_end = degree[:size], degree[size:]
    return np.where(at_end % 2 == 1, at_end, at_start)


def _lines(owner: Ints, start: Ints, end: Ints, lonlat: NDArray[np.float64], degree: Ints) -> tuple[NDArray[Any], Ints]:
    """Runs of segments as linestrings, cut where rings touch (degree over 2), and the area of each."""
    begin = np.ones(len(owner), bool)
    begin[1:] = (np.diff(owner) != 0) | (start[1:] != end[:-1]) | (degree[1:] != 2)
    line = np.cumsum(begin) - 1
    place = np.arange(len(owner)) + line
    vertices = np.empty((len(owner) + line[-1] + 1, 2))
    vertices[place + 1] = lonlat[:, 1]
    vertices[place[begin]] = lonlat[begin, 0]
    index = np.repeat(np.arange(line[-1] + 1), np.bincount(line) + 1)
    return shapely.linestrings(vertices, indices=index), owner[begin]
