"""Areas from the lines of their rings: even-odd over places, whatever roles, node ids and the order of ways say."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import changes, expand
from pipeline.formats.pbf import UNITS
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.crossings import Corners, at_corners, place_text

Bools = NDArray[np.bool_]

_WORD = 32  # bits


def assemble(count: int, owner: Ints, places: Ints, offsets: Ints) -> tuple[NDArray[Any], dict[int, str]]:
    """Polygons and multipolygons of ``count`` areas, None where the lines make none; and why not, by area.

    Corners of rings are places: nodes at one place are one corner. A side that an area has twice (two inner rings that
    share it, a way on another) bounds nothing and is left out. What remains must close (an even number of sides meets
    in every corner) and may meet in corners, also in those of one ring on a side of another, but not cross elsewhere.
    Inside is what an odd number of rings surrounds.

    Args:
        count: number of areas.
        owner: area of each line, i64[L]; rises.
        places: i64[V,2] vertices of the lines in units of 1e-7 degree.
        offsets: i64[L+1] into the vertices.
    """
    corners, sides = _graph(owner, places, offsets)
    built, why = np.full(count, None, object), dict.fromkeys(range(count), "no ring")
    asked = np.flatnonzero(np.bincount(corners.area[sides[0]], minlength=count))
    sides = _odd(sides)
    why.update(dict.fromkeys(asked.tolist(), "no area: its sides lie on each other"))
    loose = np.flatnonzero(np.bincount(sides.ravel(), minlength=len(corners.area)) % 2)
    ajar, first, ends = np.unique(corners.area[loose], return_index=True, return_counts=True)
    for area, corner, number in zip(ajar.tolist(), loose[first].tolist(), ends.tolist(), strict=True):
        why[area] = f"does not close: {number} loose ends, one at {place_text(corners.xy[corner])}"
    sides = sides[:, ~_among(corners.area[sides[0]], ajar, count)]
    doubtful = _build(built, corners, sides)
    if len(doubtful):
        sides, crossed = at_corners(corners, sides[:, _among(corners.area[sides[0]], doubtful, count)])
        why.update((area, f"crosses itself at {place_text(place)}") for area, place in crossed.items())
        sides = _odd(sides[:, ~_among(corners.area[sides[0]], np.array(list(crossed), np.int64), count)])
        why.update(dict.fromkeys(_build(built, corners, sides).tolist(), "its sides are too near each other"))
    return built, {area: why[area] for area in range(count) if built[area] is None}


def _among(values: Ints, chosen: Ints, count: int) -> Bools:
    """Which of values below ``count`` are among the chosen."""
    mask = np.zeros(count, bool)
    mask[chosen] = True
    return mask[values]


def _graph(owner: Ints, places: Ints, offsets: Ints) -> tuple[Corners, Ints]:
    """Corners of the areas, and their sides i64[2,S] from corner to corner, in the order of the lines."""
    line, _ = expand(np.diff(offsets))
    area = owner[line]
    key = (places[:, 0] << _WORD) + places[:, 1]
    order = np.argsort(key, kind="stable")
    first = changes(key[order], area[order])
    corner = np.empty(len(order), np.int64)
    corner[order] = np.cumsum(first) - 1
    start = np.flatnonzero((line[1:] == line[:-1]) & (corner[1:] != corner[:-1]))
    return Corners(area[order[first]], places[order[first]]), np.stack((corner[start], corner[start + 1]))


def _odd(sides: Ints) -> Ints:
    """One of each side that there is an odd number of times, whichever way it runs."""
    key = (sides.min(axis=0) << _WORD) + sides.max(axis=0)
    rising = np.sort(key)
    if not (rising[1:] == rising[:-1]).any():
        return sides
    _, first, times = np.unique(key, return_index=True, return_counts=True)
    return sides[:, np.sort(first[times % 2 == 1])]


def _build(built: NDArray[Any], corners: Corners, sides: Ints) -> Ints:
    """Put in place the areas whose closed sides meet in corners alone; the other areas that have sides."""
    if not sides.size:
        return np.zeros(0, np.int64)
    lines, line_area = _lines(corners, sides)
    areas, where = np.unique(line_area, return_inverse=True)
    found = shapely.polygonize(shapely.multilinestrings(lines, indices=where)[:, None])
    faces, row = shapely.get_parts(found, return_index=True)
    inside = _inside(faces, row, len(areas))
    faces, row = faces[inside], row[inside]
    shapes = np.full(len(areas), None, object)
    shapely.multipolygons(faces, indices=row, out=shapes)
    single = (np.bincount(row, minlength=len(areas)) == 1)[row]
    shapes[row[single]] = faces[single]
    rings = np.bincount(row, shapely.get_num_interior_rings(faces) + 1, len(areas))
    sided = np.bincount(corners.area[sides[0]], minlength=len(built))[areas]
    good = (shapely.get_num_coordinates(shapes) - rings == sided) & shapely.is_valid(shapes)
    built[areas[good]] = shapely.orient_polygons(shapes[good])
    return np.asarray(areas[~good])


def _lines(corners: Corners, sides: Ints) -> tuple[NDArray[Any], Ints]:
    """Runs of sides as linestrings in degrees, cut where rings touch, and the area of each."""
    start, end = sides
    degree = np.bincount(sides.ravel())
    begin = np.ones(len(start), bool)
    begin[1:] = (start[1:] != end[:-1]) | (degree[start[1:]] != 2)
    line = np.cumsum(begin) - 1
    place = np.arange(len(start)) + line
    vertices = np.empty(len(start) + line[-1] + 1, np.int64)
    vertices[place + 1] = end
    vertices[place[begin]] = start[begin]
    index = np.repeat(np.arange(line[-1] + 1), np.bincount(line) + 1)
    return shapely.linestrings(corners.xy[vertices] / UNITS, indices=index), corners.area[start[begin]]


def _inside(faces: NDArray[Any], row: Ints, count: int) -> Bools:
    """Which faces of ``count`` areas are inside: those that border on the outside, and not the neighbours of such.

    Args:
        faces: polygons [F], all that the lines of an area enclose.
        row: area of each face, i64[F]; rises.
    """
    inside = np.ones(len(faces), bool)
    some = np.flatnonzero((np.bincount(row, minlength=count) > 1)[row])
    one, other, known = _neighbours(faces[some], row[some])
    while (step := known[one] != known[other]).any():
        from_one = known[one[step]]
        near, far = np.where(from_one, (one[step], other[step]), (other[step], one[step]))
        inside[some[far]] = ~inside[some[near]]
        known[far] = True
        one, other = one[~step], other[~step]
    return inside


def _neighbours(faces: NDArray[Any], row: Ints) -> tuple[Ints, Ints, Bools]:
    """Pairs of faces of an area that have a side in common, each once; and which faces have a side of their own."""
    rings, face = shapely.get_rings(faces, return_index=True)
    lonlat, ring = shapely.get_coordinates(rings, return_index=True)
    xy = np.rint(lonlat * UNITS).astype(np.int64)
    _, corner = np.unique((xy[:, 0] << _WORD) + xy[:, 1], return_inverse=True)
    start = np.flatnonzero(ring[1:] == ring[:-1])
    sides = np.stack((corner[start], corner[start + 1]))
    key, face = (sides.min(axis=0) << _WORD) + sides.max(axis=0), face[ring[start]]
    order = np.argsort(key, kind="stable")
    first = np.append(changes(key[order], row[face[order]]), True)
    face = face[order]
    border = np.zeros(len(faces), bool)
    border[face[first[:-1] & first[1:]]] = True
    second = np.flatnonzero(~first)
    pairs = np.unique((face[second - 1] << _WORD) + face[second])
    return pairs >> _WORD, pairs & ((1 << _WORD) - 1), border
