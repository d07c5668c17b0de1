"""Areas from the lines of their rings: even-odd over places, whatever roles, node ids and the order of ways say."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geometry.packed import changes, expand, ranks
from pipeline.formats.pbf.arrays import UNITS
from pipeline.formats.wire import Ints
from pipeline.osm.extracts.crossings import Corners, cut_at_corners, place_text
from pipeline.osm.extracts.polygons import Lines, polygons_of_faces, polygons_of_loops
from pipeline.osm.extracts.rings import is_large

Bools = NDArray[np.bool_]

#: Rings around each other up to which each is compared with all.
_DEEP = 64


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
    why.update(dict.fromkeys(np.unique(corners.area[sides[0]]).tolist(), "no area: its sides lie on each other"))
    sides = _odd(sides)
    loose = np.flatnonzero(np.bincount(sides.ravel(), minlength=len(corners.area)) % 2)
    ajar, first, ends = np.unique(corners.area[loose], return_index=True, return_counts=True)
    for area, corner, number in zip(ajar.tolist(), loose[first].tolist(), ends.tolist(), strict=True):
        why[area] = f"does not close: {number} loose ends, one at {place_text(corners.xy[corner])}"
    sides = sides[:, ~_among(corners.area[sides[0]], ajar, count)]
    doubtful = _build(built, corners, sides)
    if len(doubtful):
        sides, crossed = cut_at_corners(corners, sides[:, _among(corners.area[sides[0]], doubtful, count)])
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
    corner = ranks((ranks((places[:, 0] << 32) + places[:, 1]) << 32) + area)
    size = corner.max(initial=-1) + 1
    corners = Corners(np.empty(size, np.int64), np.empty((size, 2), np.int64))
    corners.area[corner], corners.xy[corner] = area, places
    start = np.flatnonzero((line[1:] == line[:-1]) & (corner[1:] != corner[:-1]))
    return corners, np.stack((corner[start], corner[start + 1]))


def _odd(sides: Ints) -> Ints:
    """One of each side that there is an odd number of times, whichever way it runs."""
    key = (np.minimum(*sides) << 32) + np.maximum(*sides)
    order = np.argsort(key)
    first = np.flatnonzero(changes(key[order]))
    times = np.diff(np.append(first, len(order)))
    return sides[:, np.sort(order[first[times % 2 == 1]])]


def _valid(shapes: NDArray[Any], deep: Bools) -> Bools:
    """Which shapes are valid, bool[N]. Where many rings lie in each other GEOS compares all of them; these are in their
    places and have no corner in common, so that it is enough that their sides, asked one by one, do not meet."""
    valid = np.zeros(len(shapes), bool)
    for i in np.flatnonzero(deep).tolist():
        xy, ring = shapely.get_coordinates(shapely.get_parts(shapely.boundary(shapes[i])), return_index=True)
        at = np.flatnonzero(ring[1:] == ring[:-1])
        sides = shapely.linestrings(np.stack((xy[at], xy[at + 1]), axis=1))
        valid[i] = shapely.is_simple(shapely.multilinestrings(sides))
    valid[~valid] = shapely.is_valid(shapes[~valid])
    return valid


def _build(built: NDArray[Any], corners: Corners, sides: Ints) -> Ints:
    """Put in place the areas whose closed sides meet in corners alone; the other areas that have sides."""
    sided = np.bincount(corners.area[sides[0]], minlength=len(built))
    degree = np.bincount(sides.ravel(), minlength=len(corners.area))
    lines = Lines.of(sides, corners.area, degree)
    touch = _among(lines.area, corners.area[degree > 2], len(built))
    loops, loop_area, depth = polygons_of_loops(lines.take(~touch), corners.xy)
    faces, face_area = polygons_of_faces(lines.take(touch), corners.xy)
    polygons, area = np.concatenate((loops, faces)), np.concatenate((loop_area, face_area))
    deep = _among(np.arange(len(built)), loop_area[depth > _DEEP], len(built))
    parts = np.bincount(area, minlength=len(built))
    several = (parts > 1)[area]
    shapes = np.full(len(built), None, object)
    shapes[area[~several]] = polygons[~several]
    order = np.argsort(area[several], kind="stable")
    shapely.multipolygons(polygons[several][order], indices=area[several][order], out=shapes)
    rings = np.bincount(area, shapely.get_num_interior_rings(polygons) + 1, len(built))
    found = np.flatnonzero(shapely.get_num_coordinates(shapes) - rings == sided)
    found = found[_valid(shapes[found], deep[found])]
    rounded = (rings[found] > 1) | is_large(shapes[found])
    lonlat = shapely.orient_polygons(shapely.transform(shapes[found], lambda xy: xy / UNITS))
    rounded[rounded] = ~_valid(lonlat[rounded], deep[found[rounded]])
    found, lonlat = found[~rounded], lonlat[~rounded]
    built[found] = lonlat
    sided[found] = 0
    return np.flatnonzero(sided)
