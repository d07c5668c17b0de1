"""Vertices that objects share, so that they still meet after a projection.

Objects that were clipped to one box run along its sides, each with vertices of its own. There they meet exactly; but a
side is bent in every other projection, where a vertex of one object comes to lie beside the segment of another: what
was covered by it would overlap it. With the vertices in both, whatever is done to vertices keeps the relation.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.osm.cells.cut import map_lines

Floats = NDArray[np.float64]
Geometries = NDArray[Any]  # object array of shapely geometries


def share_vertices(geometry: Geometries) -> Geometries:
    """Give each segment along an axis the vertices of other objects that lie on it.

    Only such segments are looked at: elsewhere a vertex lies on another's segment by chance alone, since objects that
    belong together share their nodes in OSM.

    Args:
        geometry: shapely objects of one footprint, in the coordinates in which they were clipped.
    """
    result = geometry.copy()
    for axis in (0, 1):
        xy, owner = shapely.get_coordinates(result, return_index=True)
        along = np.flatnonzero((xy[1:, axis] == xy[:-1, axis]) & (owner[1:] == owner[:-1]))
        places: dict[float, Floats] = {}
        for value in np.unique(xy[along, axis]).tolist():
            on = xy[:, axis] == value
            if (owner[on] != owner[on][0]).any():  # one object alone has all its vertices
                places[value] = np.unique(xy[on, 1 - axis])
        touched = np.isin(xy[along, axis], list(places))
        for i in np.unique(owner[along[touched]]).tolist():
            result[i] = map_lines(result[i], partial(_line_with_vertices, axis, places))
    return result


def _line_with_vertices(axis: int, places: dict[float, Floats], xy: Floats) -> Floats:
    """Coordinates f64[N,2] with what lies on its segments along ``axis`` put in, in their order."""
    rows: list[int] = []
    values: list[float] = []
    for i in np.flatnonzero(xy[1:, axis] == xy[:-1, axis]).tolist():
        there = places.get(float(xy[i, axis]))
        if there is None:
            continue
        a, b = xy[i, 1 - axis], xy[i + 1, 1 - axis]
        between = there[(there > min(a, b)) & (there < max(a, b))]
        rows += [i + 1] * len(between)
        values += (between if a < b else between[::-1]).tolist()
    if not rows:
        return xy
    new = np.empty((len(rows), 2))
    new[:, axis], new[:, 1 - axis] = xy[np.array(rows), axis], values
    return np.insert(xy, rows, new, axis=0)
